"""graph's variance pass: the mean of squares less the square of the mean loses no digits, forward and in gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import (
    apart,
    assert_same,
    everything_natively,  # noqa: F401
    in_float64,
    normal,
    ops,
)
from jax import lax

import jax_mps as mps


def one_pass(x, axes, square=jnp.square, keepdims=False):
    """(mean, variance), as Flax and older Keras write them."""
    mean = jnp.mean(x, axes, keepdims=keepdims)
    return mean, jnp.maximum(0.0, jnp.mean(square(x), axes, keepdims=keepdims) - square(mean))


def shifted(*shape, mean=300.0, seed=0):
    """Values of deviation 1 around a mean of each last axis, as large as `mean`."""
    return normal(*shape, seed=seed) + mean * normal(*(1,) * (len(shape) - 1), shape[-1], seed=seed + 1)


def test_golden_of_few_numbers(native):
    """Their shift is the mean."""
    assert (
        mps.graph(lambda x: one_pass(x, 0)[1]).program(normal(32, 4)).text()
        == """\
input %0: f32[32,4]
%1: f32[4] @0 = chain(%0) {code=[], offsets=[0], outputs=[["sum",0,[0]]], shape=[32,4], strides=[[4,1]]}
%4: f32[4] @0 = chain(%1) {code=["const 32.0","div 0 1"], offsets=[0], outputs=[["store",2]], shape=[4], strides=[[1]]}
%20: f32[4] @64 = chain(%0, %4) {code=["sub 0 1","square 2"], offsets=[0,0], outputs=[["sum",3,[0]]], shape=[32,4], \
strides=[[4,1],[0,1]]}
%14: f32[4] = chain(%20) {code=["const 0.0","const 32.0","div 0 2","max 1 3"], offsets=[0], outputs=[["store",4]], \
shape=[4], strides=[[1]]}
return %14"""
    )


def test_of_many_numbers_a_part_is_read_before(native):
    """A sixteenth of each image, over all of its rows; then all sums in one chain."""
    (region,) = mps.graph(lambda x: one_pass(x, (0, 1, 2))).program(normal(4, 12, 20, 8))
    chains = [n for n in region.program.nodes if n.op == "chain"]
    assert chains[0].attributes["shape"] == (4, 12, 2, 8)
    assert chains[0].attributes["strides"] == ((1920, 160, 128, 1),)
    assert [o[0] for o in chains[2].attributes["outputs"]] == ["sum"] * 3


@pytest.mark.parametrize(
    "shape, axes", [((4, 12, 20, 8), (0, 1, 2)), ((6, 5), 0), ((7, 640), 1), ((2, 9, 9, 4), (1, 2))]
)
@pytest.mark.parametrize("square", [jnp.square, lambda x: x * x, lambda x: x**2])
@pytest.mark.parametrize("keepdims", [False, True])
def test_values(native, shape, axes, square, keepdims):
    x = normal(*shape, seed=3) + 1000.0

    def f(x):
        return one_pass(x, axes, square, keepdims)

    mean, variance = jax.jit(mps.graph(f))(x)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, wide.mean(axes, keepdims=keepdims), rtol=1e-6)
    np.testing.assert_allclose(variance, wide.var(axes, keepdims=keepdims), rtol=1e-5)
    assert apart(jax.jit(f)(x)[1], wide.var(axes, keepdims=keepdims)) > 1e-3


def test_means_by_a_factor(native):
    def f(x):
        mean = jnp.sum(x, 0) * (1 / 48)
        return jnp.sum(x * x, 0) * (1 / 48) - mean * mean

    x = shifted(48, 16)
    np.testing.assert_allclose(jax.jit(mps.graph(f))(x), np.asarray(x, np.float64).var(0), rtol=2e-3)


def test_of_other_values_than_the_typical(native):
    """The part that the shift is the mean of may be far from all else."""
    x = np.array(normal(16, 16, 16, 4), np.float32)
    x[:, :, 0] = 1000.0
    exact = x.astype(np.float64).var((0, 1, 2))
    np.testing.assert_allclose(jax.jit(mps.graph(lambda x: one_pass(x, (0, 1, 2))[1]))(x), exact, rtol=1e-5)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("place", [(0, 0), (70, 1)])
def test_nan_and_infinity(native, value, place):
    x = normal(512, 3).at[place].set(value)
    assert_same(*(f(x) for f in (jax.jit(mps.graph(lambda x: one_pass(x, 0))), lambda x: one_pass(x, 0))))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.mean(x * x, 0) - jnp.mean(x, 1) ** 2,  # other axes
        lambda x: jnp.mean(x * x, 0) - jnp.mean(jnp.sin(x), 0) ** 2,  # of another array
        lambda x: jnp.sum(x * x, 0) / 7 - (jnp.sum(x, 0) / 8) ** 2,  # not the mean
        lambda x: jnp.mean(x, 0) ** 2 - jnp.mean(x * x, 0),  # less than 0
        lambda x: jnp.mean(x * x * x, 0) - jnp.mean(x, 0) ** 2,
        lambda x: jnp.mean(x * x, 0) - jnp.mean(x, 0) ** 3,
        lambda x: jnp.max(x * x, 0) - jnp.mean(x, 0) ** 2,
    ],
)
def test_what_is_none_stays(native, function):
    x = shifted(8, 8, mean=1.0)
    assert_same(jax.jit(mps.graph(function))(x), jax.jit(function)(x), 1e-5)


def network(normalise):
    """The gradients of a network of two normalised convolutions."""

    def loss(x, w, v, gamma, beta, bias):
        y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        y = jnp.tanh(normalise(y, gamma, beta))
        y = lax.conv_general_dilated(y, v, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        return jnp.sum(jnp.sin(normalise(y, gamma, beta)))

    return jax.grad(loss, range(6))


@pytest.mark.parametrize("axes", [(0, 1, 2), (3,)])
@pytest.mark.parametrize("mean", [3.0, 100.0])
def test_gradients_of_a_network(native, axes, mean):
    """At most 1.5 times as far from float64 as jax.jit's."""

    def normalise(y, gamma, beta):
        m, variance = one_pass(y, axes, keepdims=True)
        return (y - m) * (lax.rsqrt(variance + 1e-5) * gamma) + beta

    args = (normal(4, 12, 12, 8), normal(3, 3, 8, 16) / 8, normal(1, 1, 16, 16) / 4)
    args += (1 + normal(16) / 8, normal(16), mean * normal(16, seed=1))
    with jax.numpy_rank_promotion("allow"):
        f = network(normalise)
        exact = in_float64(f, *args)
        assert apart(jax.jit(mps.graph(f))(*args), exact) < 1.5 * apart(jax.jit(f)(*args), exact)
        assert "chain" in ops(f, *args)
