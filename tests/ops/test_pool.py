"""Pooling where the table cannot say it: ties, NaN, infinities, agreement with JAX's own gradient."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_mps as mps

INF = jnp.inf
CHANNELS = [1, 3, 4, 8, 16, 21]  # each width of vector, and a last vector that overlaps


def reduce_window_max(x, window, strides, padding):
    padding = ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, -INF, lax.max, (1, *window, 1), (1, *strides, 1), padding)


def gradient(function, x, seed=0):
    def both(x):
        y, pull = jax.vjp(function, x)
        dy = jnp.asarray(np.random.default_rng(seed).standard_normal(y.shape), y.dtype)
        return y, pull(dy)[0]

    return jax.jit(both)(x)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("window", [(2, 2), (3, 3), (1, 4)], ids=str)
def test_ties_go_to_the_first_as_in_jax(device, channels, window):
    rng = np.random.default_rng(channels)
    x = jnp.asarray(rng.integers(0, 3, (2, 9, 8, channels)), jnp.float32)  # few values: nearly every window has a tie
    for strides, padding in itertools.product([(1, 1), (2, 2), (3, 1)], [((0, 0), (0, 0)), ((0, 0), (1, 1))]):
        if any(low >= k for k, (low, _) in zip(window, padding, strict=True)):
            continue
        own = gradient(lambda x: mps.max_pool(x, window, strides=strides, padding=padding), x)  # noqa: B023
        jaxs = gradient(lambda x: reduce_window_max(x, window, strides, padding), x)  # noqa: B023
        for got, wanted in zip(own, jaxs, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("channels", CHANNELS)
def test_max_of_nan_and_infinities(device, channels):
    row = jnp.array([1, jnp.nan, jnp.nan, 2, jnp.nan, jnp.nan, -INF, -INF, INF, INF, -INF, -3.0])
    x = jnp.tile(row[None, :, None], (1, 1, channels))
    y, pull = jax.vjp(lambda x: mps.max_pool(x, 2), x)
    np.testing.assert_array_equal(y[0, :, 0], [jnp.nan, jnp.nan, jnp.nan, -INF, INF, -3])
    dx = pull(jnp.ones_like(y))[0]
    first = [0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1]  # the first NaN, else the first maximum
    np.testing.assert_array_equal(dx, jnp.tile(jnp.array(first, jnp.float32)[None, :, None], (1, 1, channels)))


@pytest.mark.parametrize("channels", CHANNELS)
def test_padding_never_wins(device, channels):
    x = jnp.full((1, 3, 3, channels), -INF)
    y, pull = jax.vjp(lambda x: mps.max_pool(x, 3, strides=3, padding=((2, 1), (2, 1))), x)
    assert jnp.all(y == -INF)
    dx = pull(jnp.ones_like(y))[0]
    assert float(dx.sum()) == y.size and jnp.all(dx[:, [0, 0, 1, 1], [0, 1, 0, 1]] == 1)


@pytest.mark.parametrize("channels", CHANNELS)
def test_gradient_leaves_the_losers_alone(device, channels):
    x = jnp.tile(jnp.array([1.0, 2, 3, 4])[None, :, None], (1, 1, channels))
    y, pull = jax.vjp(lambda x: mps.max_pool(x, 2), x)
    dx = pull(jnp.full_like(y, jnp.nan))[0]
    np.testing.assert_array_equal(dx[0, :, 0], [0, jnp.nan, 0, jnp.nan])


def test_l2_of_zeros_has_gradient_zero(device):
    x = jnp.zeros((1, 4, 4, 5)).at[0, 3, 3].set(2)
    _, dx = gradient(lambda x: mps.l2_pool(x, 2), x)
    assert jnp.all(jnp.isfinite(dx)) and jnp.all(dx[0, :2] == 0) and jnp.all(dx[0, 3, 3] != 0)


@pytest.mark.parametrize("kind", ["max", "avg", "l2"])
def test_nan_and_infinity_as_in_the_meaning(native, kind):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 8, 9, 19))
    for value in (np.nan, np.inf, -np.inf):
        x[rng.random(x.shape) < 0.03] = value
    x = jnp.asarray(x, jnp.float32)
    pool = lambda x: getattr(mps, f"{kind}_pool")(x, 3, strides=2, padding="SAME")  # noqa: E731
    got = gradient(pool, x)
    with mps.set_device("reference"):
        wanted = gradient(pool, x)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["max", "avg", "l2"])
def test_derivatives_of_third_order(device, kind):
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 5, 5, 4)), jnp.float32)
    pool = getattr(mps, f"{kind}_pool")
    f = lambda t: jnp.sum(pool(jnp.sin(x * t), 3, strides=2, padding="SAME") ** 2)  # noqa: E731
    g = jax.grad(jax.grad(jax.grad(f)))
    with mps.set_device("reference"):
        wanted = g(0.7)
    np.testing.assert_allclose(g(0.7), wanted, rtol=1e-4)


def test_average_of_padding_alone_is_zero(device):
    y, dx = gradient(lambda x: mps.avg_pool(x, 2, padding=((2, 0), (0, 0))), jnp.ones((1, 2, 2, 3)))
    assert jnp.all(y[0, 0] == 0) and jnp.all(y[0, 1] == 1) and jnp.all(jnp.isfinite(dx))


def test_many_pieces_repeat_bit_for_bit(native):
    x = jnp.asarray(np.random.default_rng(2).standard_normal((8, 31, 33, 24)), jnp.float32)
    for kind in ("max", "avg", "l2"):
        step = jax.jit(lambda x, kind=kind: gradient(lambda x: getattr(mps, f"{kind}_pool")(x, 3, strides=2), x))
        first = step(x)
        with mps.set_device("reference"):
            wanted = gradient(lambda x, kind=kind: getattr(mps, f"{kind}_pool")(x, 3, strides=2), x)
        for g, w in zip(first, wanted, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)
        for _ in range(20):
            for g, w in zip(step(x), first, strict=True):
                np.testing.assert_array_equal(g, w)


def test_the_residual_is_the_taps_alone():
    x = jnp.ones((2, 8, 8, 4))
    _, pull = jax.vjp(lambda x: mps.max_pool(x, 2), x)
    assert [r.dtype for r in jax.tree.leaves(pull)] == [jnp.uint8]


def test_scan_and_checkpoint(native):
    x = jnp.asarray(np.random.default_rng(4).standard_normal((3, 2, 8, 8, 4)), jnp.float32)
    f = lambda x: jnp.sum(lax.scan(lambda c, v: (c, mps.max_pool(v, 2)), 0, x)[1] ** 2)  # noqa: E731
    wanted = jax.vmap(jax.grad(lambda v: jnp.sum(mps.max_pool(v, 2) ** 2)))(x)
    np.testing.assert_allclose(jax.grad(f)(x), wanted, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(jax.checkpoint(f)))(x), wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_average_of_equal_pixels_is_their_value(device, dtype):
    rng = np.random.default_rng(0)
    for _ in range(12):
        window, strides = (tuple(map(int, rng.integers(1, top, 2))) for top in (8, 4))
        padding = tuple((int(rng.integers(0, k)), int(rng.integers(0, k))) for k in window)
        counted = bool(rng.integers(2))
        shape = (2, *map(int, rng.integers(7, 13, 2)), int(rng.choice(CHANNELS)))
        pool = functools.partial(mps.avg_pool, window=window, strides=strides, padding=padding)
        inside = np.asarray(pool(jnp.ones(shape), count_padding=True)) == 1  # windows without padding
        y = np.asarray(jax.jit(lambda x: pool(x, count_padding=counted))(jnp.ones(shape, dtype)))  # noqa: B023
        assert ((y == 1) | (counted & ~inside)).all(), (window, strides, padding, counted, shape)


def test_average_and_its_gradient_in_float64(device):
    for window, strides, counted in (((5, 5), 1, False), ((7, 3), 2, False), ((3, 3), 1, True), ((2, 2), 2, False)):
        rng = np.random.default_rng(window[0])
        x = rng.standard_normal((2, 14, 13, 21))
        pool = functools.partial(mps.avg_pool, window=window, strides=strides, padding="SAME", count_padding=counted)
        y, dx = gradient(pool, jnp.asarray(x, jnp.float32))
        with jax.enable_x64(True):
            wanted_y, wanted_dx = gradient(pool, jnp.asarray(np.float32(x), jnp.float64))
        np.testing.assert_allclose(y, wanted_y, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(dx, wanted_dx, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sums_of_windows_under_graph(native, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(1, 9, (4, 28, 28, 32)), dtype)
    padding = ((0, 0), (2, 2), (3, 1), (0, 0))

    def sums(x):
        return lax.reduce_window(x, np.asarray(0, dtype), lax.add, (1, 5, 5, 1), (1, 1, 1, 1), padding)

    (program,) = mps.graph(sums).program(x)
    assert "avg_pool(" in program.text and "chain" not in program.text
    y, dx = gradient(mps.graph(sums), x)
    with jax.enable_x64(True):
        wanted, wanted_dx = (np.asarray(v) for v in gradient(sums_of_float64, jnp.asarray(x, jnp.float64)))
    np.testing.assert_array_equal(np.asarray(y, np.float32), wanted.astype(y.dtype).astype(np.float32))
    np.testing.assert_allclose(np.asarray(dx, np.float32), wanted_dx, atol=0.3 if dtype == "bfloat16" else 1e-5)


def sums_of_float64(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 5, 5, 1), (1, 1, 1, 1), ((0, 0), (2, 2), (3, 1), (0, 0)))
