"""Random whole programs under graph against NumPy in float64, and the judge itself against JAX in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numpy_oracle import faults, samples
from random_check import failure
from random_whole import arguments, plan
from setting import examples

SEEDS = range(examples(40))


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("seed", SEEDS)
def test_programs(native, seed):
    steps, gradients = plan(seed)
    assert not failure(steps, gradients, arguments(seed))


X, Y = (np.random.default_rng(seed).standard_normal((2, 6, 6, 3)).astype(np.float32) for seed in (0, 1))
W = np.random.default_rng(2).standard_normal((3, 2, 3, 4)).astype(np.float32)
N = np.random.default_rng(3).integers(-9, 9, (2, 6, 6, 3)).astype(np.int32)
NHWC = ("NHWC", "HWIO", "NHWC")


def elementary(x, y, w, n):
    return [f(jnp.abs(x) + 0.125) for f in (jnp.log, jnp.sqrt, jnp.cbrt, lax.erf, jnp.tanh, lax.rsqrt, jnp.expm1)]


def arithmetic(x, y, w, n):
    return [x / y, lax.rem(x, y), jnp.arctan2(x, y), jnp.abs(x) ** y, lax.clamp(-y, x, y)]


def integers(x, y, w, n):
    return [n // 3, n % 4, lax.div(n, n * 2 + 1), lax.rem(n, n - 1), n << 2, n >> 1, ~n, -n]


def reductions(x, y, w, n):
    return [x.sum((0, 2)), x.max(1), jnp.argmin(x, 3), x.prod(3), (n > 0).any(1), n.sum(dtype=n.dtype)]


def convolutions(x, y, w, n):
    def strided(x, w):
        padding = ((1, 2), (0, 1))
        return lax.conv_general_dilated(x, w, (2, 1), padding, rhs_dilation=(1, 2), dimension_numbers=NHWC)

    def grouped(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=3)

    gradients = jax.vjp(strided, x, w)[1](jnp.ones((2, 4, 5, 4), x.dtype)), jax.vjp(grouped, x, w[:, :, :1, :3])[1](y)
    return strided(x, w), gradients


def pools(x, y, w, n):
    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 2, 1, 1), "SAME")

    sums = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (0, 2), (0, 0)))
    return pool(x), jax.grad(lambda x: jnp.sum(pool(x) ** 2))(x), sums


def gathers(x, y, w, n):
    along = [jnp.take_along_axis(x, n, 3, mode=mode) for mode in ("clip", "fill")]
    zero, two, index = jnp.int32(0), jnp.int32(2), n[:, 0, 0, 0]
    return (
        along,
        x[index % 2],
        jax.vmap(lambda a, i: a[i])(x, index),
        lax.dynamic_slice(x, (zero, index[0], two, zero), (1, 2, 2, 2)),
    )


def scatters(x, y, w, n):
    index = n[0, 0] % 6
    return x.at[n[:, 0, 0, 0] % 2].add(y), x.at[:, 1, index].set(0.0), jax.grad(lambda x: jnp.sum(x[0, index] ** 2))(x)


def moves(x, y, w, n):
    padded = lax.pad(x, x.dtype.type(3), ((-1, 1, 1),) * 4)
    parts = jnp.split(x, 3, 1), jnp.flip(x, (1, 2)), jnp.pad(x, 2)[1:, ::2], jnp.tile(n, 2), jnp.stack([x, y], 2)
    return padded, parts, jnp.sort(x, 1), jnp.cumsum(x, 2), lax.cummax(n, 1, reverse=True)


def loops(x, y, w, n):
    return [
        lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + i, x),
        lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 2, c[1] * y), (0, x)),
        lax.scan(lambda c, x: (c + x, c * x), x[0], x, reverse=True),
        lax.cond(n[0, 0, 0, 0] > 0, jnp.cos, jnp.sin, x),
    ]


def products(x, y, w, n):
    return [jnp.einsum("abcd,abed->ace", x, y), jnp.tensordot(x, w[0, 0], 1), n[0, 0] @ n[0, 0].T]


MEANINGS = [
    elementary,
    arithmetic,
    integers,
    reductions,
    convolutions,
    pools,
    gathers,
    scatters,
    moves,
    loops,
    products,
]


@pytest.mark.parametrize("meaning", MEANINGS)
def test_the_judge_agrees_with_jax_in_float64(meaning):
    flat = lambda *args: jax.tree.leaves(meaning(*args))  # noqa: E731
    (exact, *_), _ = samples(flat, (X, Y, W, N), count=0)
    with jax.enable_x64(True), jax.disable_jit(meaning is not loops):
        wanted = flat(*(jnp.asarray(a, jnp.float64) for a in (X, Y, W)), jnp.asarray(N))
    for found, expected in zip(exact, wanted, strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-12, atol=1e-12)


def test_the_judge_finds_faults():
    def f(x):
        return x * 3.3, x > 0, (x * 9).astype(jnp.int32), jnp.log(x), x * 0, (x / 3).astype(jnp.bfloat16)

    x = jnp.asarray([1.5, -0.7, 0.2, 3.0])
    runs, avals = samples(f, (x,))
    right = [np.asarray(y) for y in f(x)]
    assert faults(right, runs, avals) == []
    for i, change, words in (
        (0, lambda y: y * np.float32(1 + 1e-5), "not near"),
        (0, lambda y: np.where(y > 0, np.nan, y).astype(np.float32), "not a number"),
        (0, lambda y: np.where(y > 9, np.inf, y).astype(np.float32), "not finite"),
        (1, lambda y: ~y, "not exact"),
        (2, lambda y: y + 1, "not exact"),
        (2, lambda y: y.astype(np.int16), "int16(4,) instead of int32(4,)"),
        (3, lambda y: np.nan_to_num(y), "not NaN"),
        (4, lambda y: abs(y), "not -0"),
        (5, lambda y: y * jnp.bfloat16(1.1), "not near"),
    ):
        wrong = [change(y) if i == k else y for k, y in enumerate(right)]
        ((place, found),) = faults(wrong, runs, avals)
        assert place == i and words in found


def test_float32_decides_what_it_cannot_know():
    """A comparison of numbers that are equal but for rounding, and the order of a sum."""

    def f(x):
        return x / 3 * 3 == x, jnp.floor(x / 49 * 49), jnp.sum(x * 1e8) - jnp.sum(x[::-1] * 1e8)

    x = jnp.arange(1.0, 200)
    runs, avals = samples(f, (x,), 40)
    assert faults([np.asarray(y) for y in f(x)], runs, avals) == []
    assert any(not np.array_equal(run[0], runs[0][0]) for run in runs)
