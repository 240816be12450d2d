"""Programs of one node from Python values, run through the custom call."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from jax_mps import ffi
from jax_mps._device import device

_DTYPES = {
    "float32": "f32",
    "bfloat16": "bf16",
    "float16": "f16",
    "int32": "s32",
    "uint32": "u32",
    "uint8": "u8",
    "bool": "pred",
}

INF, NAN = np.inf, np.nan
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, INF, -INF, NAN, 3e38, -3e38, 1e-30, -1e-30,
                    0.49999997, 8388609.0, -8388609.5, 88.5, -88.5, 100.0, -100.0, 1e-8, 1e10, -1e10, 4.3e9,
                    0.99999994], np.float32)  # fmt: skip
INTS = np.array([0, 1, -1, 2, -2, 7, -7, 31, 32, 33, 100, 2**31 - 1, -(2**31), 12345, -99999], np.int32)


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def type_text(x):
    return f"{_DTYPES[str(x.dtype)]}[{','.join(map(str, x.shape))}]"


def row_major(shape):
    return [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]


def program(op, operands, results, **attributes):
    """The text of a program with one node; operands and results have shape and dtype."""
    n = len(operands)
    named = [f"%{i}: {type_text(x)}" for i, x in enumerate([*operands, *results])]
    words = ", ".join(f"{name}={json.dumps(value)}" for name, value in attributes.items())
    return (
        f"input {', '.join(named[:n])}\n"
        f"{', '.join(named[n:])} = {op}({', '.join(f'%{i}' for i in range(n))}) {{{words}}}\n"
        f"return {', '.join(f'%{n + i}' for i in range(len(results)))}\n"
    )


def run(op, operands, results, **attributes):
    """The results of one node as numpy arrays; `results` are pairs (shape, dtype)."""
    operands = [jnp.asarray(x) for x in operands]
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    text = ffi.text_for("metal" if device() == "metal" else "cpu", program(op, operands, types, **attributes))
    out = ffi.call(text, operands, types)
    return [np.asarray(x) for x in out]


def chain(shape, operands, code, outputs, dtypes, *, strides=None, offsets=None):
    """Runs a chain; operands are read contiguously unless strides say otherwise, dtypes are the results'."""
    strides = strides or [row_major(shape) for _ in operands]
    kept = [[d for axis, d in enumerate(shape) if axis not in (o[2] if o[2:] else [])] for o in outputs]
    results = list(zip(map(tuple, kept), dtypes, strict=True))
    return run(
        "chain",
        operands,
        results,
        shape=list(shape),
        strides=strides,
        offsets=offsets or [0] * len(operands),
        code=code,
        outputs=outputs,
    )
