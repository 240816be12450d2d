"""Gradients of what is shared by many rows are summed in float32 in half precision too."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mps as mps

ROWS = (6, 20, 20, 7)  # 2,400 of them: sums in bfloat16 would stop at 256
W, MATRIX, GROUPS = (3, 3, 7, 16), (7, 16), (3, 3, 1, 14)
OPS = {
    "conv": (mps.conv, [W, (16,)]),
    "conv, depthwise, relu": (functools.partial(mps.conv, groups=7, neuron="relu"), [GROUPS, (14,)]),
    "conv_transpose": (mps.conv_transpose, [W, (16,)]),
    "conv_transpose, strides, tanh": (functools.partial(mps.conv_transpose, strides=2, neuron="tanh"), [W, (16,)]),
    "dense": (mps.dense, [MATRIX, (16,)]),
    "prelu": (mps.prelu, [(7,)]),
    "batch_norm": (lambda *a: mps.batch_norm(*a, epsilon=1e-3)[0], [(7,), (7,)]),
    "batch_norm_inference": (functools.partial(mps.batch_norm_inference, epsilon=1e-3), [(7,)] * 4),
}
TOLERANCE = {jnp.float16: 3e-3, jnp.bfloat16: 2e-2}


def gradients(function):
    """Of all but x; the cotangent has a mean, so that the sums grow with the rows."""

    def run(dy, x, *parameters):
        y, pull = jax.vjp(lambda *p: function(x, *p), *parameters)
        return pull(dy.astype(y.dtype))

    return run


def drawn(function, shapes, dtype):
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(ROWS), *(rng.uniform(0.2, 0.6, s) for s in shapes)]
    operands = [jnp.asarray(v, dtype) for v in operands]
    shape = jax.eval_shape(function, *operands).shape
    return [jnp.asarray(rng.standard_normal(shape) + 0.5, dtype), *operands]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", OPS)
def test_sums_over_rows_are_float32(device, name, dtype):
    function, shapes = OPS[name]
    operands, step = drawn(function, shapes, dtype), gradients(function)
    with jax.enable_x64(True):
        wanted = jax.jit(step)(*(jnp.asarray(np.asarray(v), jnp.float64) for v in operands))
        wanted = [np.asarray(w) for w in wanted]
    for run in (step, mps.graph(step)):
        for got, exact in zip(jax.jit(run)(*operands), wanted, strict=True):
            assert got.dtype == dtype
            error = np.abs(np.asarray(got, np.float64) - exact).max()
            assert error <= TOLERANCE[dtype] * np.abs(exact).max()


@pytest.mark.parametrize("function", [mps.conv, mps.conv_transpose], ids=["conv", "conv_transpose"])
def test_sums_in_half_are_a_permission(device, function):
    """`accumulator="half"`: no device is as far off as sums of 11 bits may be; the CPU device sums in float32."""
    operands = drawn(function, [W, (16,)], jnp.float16)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(v), jnp.float64) for v in operands[1:]]
        y, pull = jax.vjp(function, *wide)
        wanted = [np.asarray(v) for v in (y, *pull(jnp.asarray(np.asarray(operands[0]), jnp.float64)))]
    y, pull = jax.vjp(functools.partial(function, accumulator="half"), *operands[1:])
    tolerance = 0.1 if device == "metal" else TOLERANCE[jnp.float16]
    for got, exact in zip((y, *pull(operands[0])), wanted, strict=True):
        assert got.dtype == jnp.float16
        assert np.abs(np.asarray(got, np.float64) - exact).max() <= tolerance * np.abs(exact).max()
