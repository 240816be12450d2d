"""The self-test behind `python -m jax_mps doctor`: what this machine runs, and whether every op computes its meaning.

Each check is a small function. Its value and gradient are traced, and run equation by equation on the device; the
results of every op of jax_mps on the way are compared with its meaning in float64 on the same operands. The gradient
of the whole is compared with that in float64. So an op is covered when some check's value or gradient uses it.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_mps as mps
from jax_mps import ffi
from jax_mps._compat import Literal, jaxprs_in_params
from jax_mps.compiler.equations.flatten import CALLS
from jax_mps.doctor import kernels, training
from jax_mps.ops.label_gather import pick_op
from jax_mps.ops.random import random_bits_op
from jax_mps.primitive import OPS

TOLERANCE = 1e-4  # relative to the largest element, or to 1
HALF_TOLERANCES = {"float16": 1e-2, "bfloat16": 6e-2}


class Check(NamedTuple):
    """A function and the shapes of its operands (normal numbers)."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]


def _check(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Check:
    return Check(function, shapes)


def _step(optimizer: Any) -> Callable[..., Any]:
    """One step of an optimizer from its initial state, as a function of the gradient and the parameters."""
    return lambda gradient, params: mps.optim.step(optimizer, gradient, optimizer.init(params), params)[0]


def _bits(shape: tuple[int, ...]) -> Any:
    key = jax.random.key_data(jax.random.key(0))
    return random_bits_op(key, shape=shape, generator="threefry2x32", partitionable=True)


CHECKS = (
    _check(lambda x, w, b: mps.conv(x, w, b, neuron="relu"), (2, 9, 8, 3), (3, 3, 3, 16), (16,)),
    _check(lambda x, w: mps.conv(x, w, strides=2, groups=2), (2, 9, 8, 4), (3, 3, 2, 6)),
    _check(lambda x, w, b: mps.conv(x, w, b, strides=5, neuron="tanh"), (2, 40, 6), (5, 6, 16), (16,)),
    _check(lambda x, w: mps.conv_transpose(x, w, strides=2), (2, 4, 5, 3), (3, 3, 3, 4)),
    _check(lambda x, w, b: mps.dense(x, w, b, neuron="relu"), (6, 30), (30, 20), (20,)),
    _check(lambda x: mps.max_pool(x, 3, strides=2, padding="SAME"), (2, 7, 8, 20)),
    _check(lambda x: jax.grad(lambda x: jnp.sum(mps.max_pool(x, 2) ** 2))(x), (2, 6, 6, 3)),
    _check(lambda x: mps.avg_pool(x, 3, strides=2, padding="SAME"), (2, 7, 8, 20)),
    _check(lambda x: mps.l2_pool(x, 2), (2, 6, 8, 20)),
    _check(lambda x, g, b: mps.batch_norm(x, g, b, epsilon=1e-3, neuron="relu"), (4, 5, 6, 20), (20,), (20,)),
    _check(
        lambda x, m, v, g, b: mps.batch_norm_inference(x, m, v**2, g, b, epsilon=1e-3, neuron="relu"),
        *((4, 5, 6, 20), (20,), (20,), (20,), (20,)),
    ),
    _check(mps.softmax, (5, 40)),
    _check(mps.log_softmax, (5, 40)),
    _check(lambda x: mps.losses.softmax_cross_entropy(x, jnp.arange(5, dtype=jnp.int32)), (5, 40)),
    _check(lambda x: pick_op(x, jnp.arange(5, dtype=jnp.int32)), (5, 40)),
    _check(lambda x: mps.dropout(x, jax.random.key(0), keep_probability=0.7), (6, 50)),
    _check(lambda x: x * (_bits(x.shape) >> 8).astype(x.dtype) * 2.0**-24, (6, 50)),
    _check(_step(mps.optim.sgd(0.1, momentum=0.9)), (300,), (300,)),
    _check(_step(mps.optim.rmsprop(0.1)), (300,), (300,)),
    _check(_step(mps.optim.adam(0.1)), (300,), (300,)),
    _check(mps.prelu, (3, 5, 40), (40,)),
    _check(lambda x, w, r, b: mps.lstm(x, 0.2 * w, 0.2 * r, b), (3, 6, 5), (5, 64), (16, 64), (64,)),
    _check(
        lambda x, w, r, b: mps.lstm(x, 0.2 * w, 0.2 * r, b, gate_neuron="hard_sigmoid", output_neuron="elu"),
        *((3, 6, 5), (5, 64), (16, 64), (64,)),
    ),
    _check(lambda x, w, r, b: mps.gru(x, 0.2 * w, 0.2 * r, b), (3, 6, 5), (5, 48), (16, 48), (48,)),
    _check(lambda x, w, r: mps.gru(x, 0.2 * w, 0.2 * r, reset="after"), (3, 6, 5), (5, 48), (16, 48)),
    _check(lambda x, w, r, b: mps.mgu(x, 0.2 * w, 0.2 * r, b), (3, 6, 5), (5, 32), (16, 32), (32,)),
    _check(lambda x, w, r, b: mps.rnn(x, 0.2 * w, 0.2 * r, b, neuron="relu"), (3, 6, 5), (5, 16), (16, 16), (16,)),
    *(
        _check(lambda x, name=name: mps.neuron(x, name), (3, 5, 41))
        for name in ("relu", "sigmoid", "tanh", "softplus", "elu", "gelu")
    ),
)


class Finding(NamedTuple):
    """What one op did in one check."""

    op: str
    implementation: str
    error: float  # of its results
    gradient_error: float | None  # of the check's gradient, where its function calls the op
    native: bool  # whether a kernel ran, or the meaning


class Line(NamedTuple):
    """One op over all checks."""

    op: str
    error: float
    gradient_error: float | None
    implementation: str
    ok: bool


def examine(dtype: str = "float32") -> list[Line]:
    """Runs every check, and tells of every op the largest errors and the implementations."""
    tolerance = HALF_TOLERANCES.get(dtype, TOLERANCE)
    rng = np.random.default_rng(0)
    found: list[Finding] = []
    for check in CHECKS:
        operands = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in check.shapes]
        found.extend(findings(check.function, operands))
    names = sorted(op.name for op in OPS.values())
    return [_line(op, [f for f in found if f.op == op], tolerance) for op in names]


def main(quick: bool = False) -> int:
    """Prints the report; gives 1 if anything fails, else 0.

    On Metal, half precision, a training and a table of all kernels belong to it; `quick` trains for a few small steps,
    in float32 alone. A kernel that the GPU does not compile, or gets wrong, is left out and no failure: another serves,
    or XLA.
    """
    for name, value in about().items():
        print(f"{name:22} {value}")
    failed = _print_ops("float32")
    if mps.device() == "metal":
        for dtype in () if quick else HALF_TOLERANCES:
            failed += _print_ops(dtype)
        failed += training.main(quick)
        kernels.main()
        print(f"\n{'FAILED: ' + ', '.join(failed) if failed else 'everything passes'}")
    return 1 if failed else 0


def _print_ops(dtype: str) -> list[str]:
    lines = examine(dtype)
    width = max(len(line.op) for line in lines)
    if dtype != "float32":
        print(f"\nin {dtype}")
    print(f"\n{'op':{width}}  error    gradient  implementation")
    for line in lines:
        gradient = "" if line.gradient_error is None else f"{line.gradient_error:.1e}"
        mark = "" if line.ok else "  FAILED"
        words = kernels.first_line(line.implementation)
        print(f"{line.op:{width}}  {line.error:.1e}  {gradient:8}  {words}{mark}")
    failed = [line.op for line in lines if not line.ok]
    verdict = (
        f"{len(failed)} of {len(lines)} ops failed: {', '.join(failed)}" if failed else f"all {len(lines)} ops pass"
    )
    tolerance = HALF_TOLERANCES.get(dtype, TOLERANCE)
    print(f"\n{verdict}; errors are relative to the largest element, at most {tolerance:.0e} passes")
    return [f"{op} in {dtype}" for op in failed]


def about() -> dict[str, str]:
    """The device and the versions of all that has a say in results."""
    version = importlib.metadata.version
    return {
        "device": mps.device(),
        "native": ffi.native().versions(),
        **_metal(),
        "jax_mps": f"{ffi.build()}, FFI API {'.'.join(map(str, ffi.native().ffi_api))}",
        **{name: version(name) for name in ("jax", "jaxlib", "numpy", "optax")},
        "python": sys.version.split()[0],
        "platform": f"{platform.platform()}",
    }


def _metal() -> dict[str, str]:
    """What the Metal device tells of itself; empty on another device."""
    if mps.device() != "metal":
        return {}
    told = ffi.native().metal_information()
    shown = ("name", "arrays", "unified_memory", "max_buffer_bytes", "buffer_milliseconds")
    return {f"metal {name}": told[name] for name in shown}


def _line(op: str, found: list[Finding], tolerance: float) -> Line:
    if not found:
        return Line(op, np.nan, None, "no check runs it", False)
    error = float(np.max([f.error for f in found]))  # a NaN stays
    gradients = [f.gradient_error for f in found if f.gradient_error is not None]
    gradient_error = float(np.max(gradients)) if gradients else None
    ok = error <= tolerance and (gradient_error is None or gradient_error <= tolerance)
    return Line(op, error, gradient_error, " | ".join(dict.fromkeys(f.implementation for f in found)), ok)


def findings(function: Callable[..., Any], operands: Sequence[jax.Array]) -> Iterator[Finding]:
    """What each op did in a function's value and gradient."""
    argnums = tuple(i for i, x in enumerate(operands) if jnp.issubdtype(x.dtype, jnp.floating))

    def scalar(*operands: Any) -> Any:
        floating = (y for y in jax.tree.leaves(function(*operands)) if jnp.issubdtype(y.dtype, jnp.floating))
        wide = (y.astype(jnp.float64 if y.dtype == jnp.float64 else jnp.float32) for y in floating)
        return sum(jnp.sum(jnp.sin(y * 0.7 + 0.3)) for y in wide)

    def value_and_gradient(*operands: Any) -> Any:
        return function(*operands), jax.grad(scalar, argnums)(*operands)

    forward = {e.primitive.name for e in _equations(jax.make_jaxpr(function)(*operands).jaxpr)}
    closed = jax.make_jaxpr(value_and_gradient)(*operands)
    ops: list[Any] = []  # the equations that are ours

    @jax.jit
    def on_device(*operands: Any) -> Any:
        sites: list[Any] = []
        results = _evaluate(closed.jaxpr, closed.consts, operands, sites)
        ops[:] = [equation for equation, _, _ in sites]
        return results[-len(argnums) :], [arrays for _, *arrays in sites]

    @jax.jit
    def in_float64(operands: Any, inputs: Any) -> Any:
        meanings = []
        for equation, some in zip(ops, inputs, strict=True):
            wanted = OPS[equation.primitive.name].meaning(*map(_float64, some), **equation.params)
            meanings.append(wanted if isinstance(wanted, tuple) else (wanted,))
        return jax.grad(scalar, argnums)(*map(_float64, operands)), meanings

    gradients, arrays = on_device(*operands)
    with jax.enable_x64(True):
        true_gradients, meanings = in_float64(operands, [inputs for inputs, _ in arrays])
    gradient_error = _error(gradients, true_gradients)
    for equation, (_, outputs), wanted in zip(ops, arrays, meanings, strict=True):
        name, op = equation.primitive.name, OPS[equation.primitive.name]
        avals = [v.aval for v in equation.invars], [v.aval for v in equation.outvars]
        text, implementation = op.placement(*avals, equation.params)
        through = gradient_error if name in forward else None
        yield Finding(op.name, implementation, _error(outputs, wanted), through, bool(text))


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for body in jaxprs_in_params(equation.params):
            yield from _equations(body)


def _evaluate(jaxpr: Any, consts: Any, operands: Any, sites: list[Any]) -> list[Any]:
    """Runs a jaxpr, and appends (equation, inputs, outputs) of every op of jax_mps in it to `sites`."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *operands], strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else values[v]  # noqa: E731
    for equation in jaxpr.eqns:
        inputs = [read(v) for v in equation.invars]
        primitive = equation.primitive
        body = next((equation.params[k] for k in ("jaxpr", "call_jaxpr") if k in equation.params), None)
        if primitive.name in CALLS and body is not None:
            inner = body.jaxpr if hasattr(body, "consts") else body
            outputs = _evaluate(inner, getattr(body, "consts", []), inputs, sites)
        else:
            outputs = primitive.bind(*inputs, **equation.params)
            outputs = outputs if primitive.multiple_results else [outputs]
        if primitive.name in OPS:
            sites.append((equation, inputs, outputs))
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _float64(x: Any) -> Any:
    x = jnp.asarray(x)
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _error(got: Any, wanted: Any) -> float:
    """The largest difference of any two arrays, relative to the largest element or to 1; NaN where either has one."""
    errors = [0.0]
    for g, w in zip(got, wanted, strict=True):
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        errors.append(float(np.max(np.abs(g - w), initial=0) / max(1.0, np.max(np.abs(w), initial=0))))
    return float(np.max(errors))
