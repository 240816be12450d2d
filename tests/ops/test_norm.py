"""Batch normalisation where the table of cases cannot say it: large means, dtypes, NaN, running statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mps as mps


def parameters(channels, dtype=jnp.float32):
    return jnp.ones(channels, dtype), jnp.zeros(channels, dtype)


@pytest.mark.parametrize("shape", [(16, 20, 20, 8), (9000, 3), (40, 700), (70, 64)], ids=str)
def test_statistics_far_from_zero(native, shape):
    x = (1e4 + np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    y, mean, variance = mps.batch_norm(jnp.asarray(x), *parameters(shape[-1]), epsilon=0.0)
    wide, axes = x.astype(np.float64), tuple(range(len(shape) - 1))
    np.testing.assert_allclose(mean, wide.mean(axes), rtol=1e-7)
    np.testing.assert_allclose(variance, wide.var(axes), rtol=1e-5)
    np.testing.assert_allclose(y, (wide - wide.mean(axes)) / wide.std(axes), atol=2e-3)  # the mean rounds to 5e-4


def test_statistics_of_sorted_rows(native):
    """The mean moves from block to block by far more than a block's deviation."""
    x = np.linspace(-1e4, 1e4, 50_000, dtype=np.float32).reshape(-1, 2)
    _, mean, variance = mps.batch_norm(jnp.asarray(x), *parameters(2), epsilon=0.0)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), atol=1e-2)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(0), rtol=1e-6)


def test_constant_channel_has_no_variance(device):
    x = jnp.full((5000, 3), 12345.678)
    y, mean, variance = mps.batch_norm(x, *parameters(3), epsilon=1e-5)
    if device != "reference":
        np.testing.assert_array_equal(mean, x[0])
        np.testing.assert_array_equal(variance, np.zeros(3))
        np.testing.assert_array_equal(y, np.zeros_like(x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, 1e25])
def test_nan_and_infinity_as_in_the_meaning(native, bad):
    x = np.random.default_rng(0).standard_normal((900, 5)).astype(np.float32)
    x[417, 2] = bad

    def run(x):
        return jax.vjp(lambda *a: mps.batch_norm(*a, epsilon=1e-3, neuron="relu")[0], jnp.asarray(x), *parameters(5))

    def both():
        y, pull = run(x)
        return mps.batch_norm(jnp.asarray(x), *parameters(5), epsilon=1e-3), y, pull(jnp.ones_like(y))

    got = jax.tree.leaves(both())
    with mps.set_device("reference"):
        wanted = jax.tree.leaves(both())
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=["float16", "bfloat16"])
def test_half_with_float32_parameters(device, dtype):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((40, 6)), dtype)
    gamma, beta = parameters(6)
    y, mean, variance = mps.batch_norm(x, gamma, beta, epsilon=1e-3)
    assert (y.dtype, mean.dtype, variance.dtype) == (dtype, jnp.float32, jnp.float32)
    wide = mps.batch_norm(x.astype(jnp.float32), gamma, beta, epsilon=1e-3)
    np.testing.assert_allclose(mean, wide[1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(y.astype(jnp.float32), wide[0], atol=2e-2)
    same = mps.batch_norm_inference(x, mean, variance, gamma, beta, epsilon=1e-3)
    assert same.dtype == dtype
    np.testing.assert_allclose(same.astype(jnp.float32), y.astype(jnp.float32), atol=2e-2)

    def total(x, gamma, beta):
        return jnp.sum(jnp.sin(mps.batch_norm(x, gamma, beta, epsilon=1e-3)[0].astype(jnp.float32)))

    dx, dgamma, dbeta = jax.grad(total, (0, 1, 2))(x, gamma, beta)
    assert (dx.dtype, dgamma.dtype, dbeta.dtype) == (dtype, jnp.float32, jnp.float32)


def test_float64_statistics():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((40, 6)))
        assert [v.dtype for v in mps.batch_norm(x, *parameters(6), epsilon=1e-3)] == [jnp.float64] * 3


def test_repeats_bit_for_bit(native):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3000, 17)), jnp.float32)
    first, second = (mps.batch_norm(x, *parameters(17), epsilon=1e-3) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_running_statistics():
    old, new = (jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])), (jnp.array([5.0, 0.0]), jnp.array([1.0, 8.0]))
    mean, variance = mps.update_running_statistics(*old, *new)
    np.testing.assert_allclose(mean, [1.4, 1.8], rtol=1e-6)
    np.testing.assert_allclose(variance, [2.8, 4.4], rtol=1e-6)
    kept = mps.update_running_statistics(*old, *new, momentum=1.0)
    np.testing.assert_array_equal(kept[0], old[0])
    replaced = mps.update_running_statistics(*old, *new, momentum=0)
    np.testing.assert_array_equal(replaced[1], new[1])


def test_running_statistics_keep_their_dtype():
    half = jnp.ones(2, jnp.bfloat16)
    mean, variance = jax.jit(mps.update_running_statistics)(half, half, jnp.zeros(2), jnp.zeros(2))
    assert mean.dtype == variance.dtype == jnp.bfloat16
