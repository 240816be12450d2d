"""Dropout's mask, bit for bit the one of jax.random.bernoulli."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mps as mps


def wanted_mask(key, keep, shape):
    return np.asarray(jax.random.bernoulli(key, keep, shape))


def mask_of(key, keep, shape, dtype=jnp.float32, **options):
    y = np.asarray(mps.dropout(jnp.ones(shape, dtype), key, keep_probability=keep, **options))
    assert np.all((y == 0) | (y == (1 / np.float32(keep)).astype(dtype)))
    return y != 0


@pytest.mark.parametrize("keep", [1e-6, 0.1, 1 / 3, 0.5, 0.9, 0.999, 1 - 2**-24, np.nextafter(np.float32(0.5), 1)])
@pytest.mark.parametrize("shape", [(), (1,), (17,), (3, 5), (8192,), (8193,), (100_003,), (4, 33, 517)])
def test_mask_is_bernoullis(native, shape, keep):
    key = jax.random.key(hash((shape, float(keep))) % 2**32)
    np.testing.assert_array_equal(mask_of(key, float(keep), shape), wanted_mask(key, float(keep), shape))


def test_many_keys(native):
    for seed in range(50):
        key = jax.random.fold_in(jax.random.key(seed), seed)
        np.testing.assert_array_equal(mask_of(key, 0.8, (777,)), wanted_mask(key, 0.8, (777,)))


@pytest.mark.parametrize(
    ("axes", "mask_shape"),
    [
        ((0,), (1, 6, 5, 7)),
        ((1, 2), (4, 1, 1, 7)),
        (-1, (4, 6, 5, 1)),
        ((0, 2), (1, 6, 1, 7)),
        ((0, 1, 2, 3), (1,) * 4),
    ],
)
def test_broadcast_mask(native, axes, mask_shape):
    key = jax.random.key(3)
    wanted = np.broadcast_to(wanted_mask(key, 0.6, mask_shape), (4, 6, 5, 7))
    np.testing.assert_array_equal(mask_of(key, 0.6, (4, 6, 5, 7), broadcast_axes=axes), wanted)


def test_raw_keys_and_dtypes_share_the_mask(native):
    raw = jax.random.PRNGKey(11)
    wanted = wanted_mask(raw, 0.7, (999,))
    for key in (raw, jax.random.wrap_key_data(raw), np.asarray(raw)):
        for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
            np.testing.assert_array_equal(mask_of(key, 0.7, (999,), dtype), wanted)
    with jax.enable_x64(True):
        y = mps.dropout(jnp.ones(999, jnp.float64), raw, keep_probability=0.7)
    np.testing.assert_array_equal(np.asarray(y) != 0, wanted)


def test_equals_flax(native):
    linen = pytest.importorskip("flax.linen")
    key = jax.random.key(5)
    x = jax.random.normal(key, (32, 40))
    wanted = linen.Dropout(0.25, deterministic=False).apply({}, x, rng=key)
    y = mps.dropout(x, key, keep_probability=0.75)
    np.testing.assert_array_equal(y == 0, wanted == 0)
    np.testing.assert_allclose(y, wanted, rtol=2e-7)  # XLA multiplies by the inverse


def test_vmap_draws_as_a_loop(native):
    x = jax.random.normal(jax.random.key(0), (3, 40, 5))
    keys = jax.random.split(jax.random.key(1), 3)
    for axes in (None, 0):
        key = keys if axes == 0 else keys[0]
        f = lambda x, key: mps.dropout(x, key, keep_probability=0.5)  # noqa: E731
        wanted = np.stack([f(x[i], keys[i] if axes == 0 else key) for i in range(3)])
        np.testing.assert_array_equal(jax.vmap(f, (0, axes))(x, key), wanted)
        twice = jax.vmap(jax.vmap(f, (0, None)), (0, axes))(x, key)
        np.testing.assert_array_equal(
            twice, np.stack([[f(r, key[i] if axes == 0 else key) for r in x[i]] for i in range(3)])
        )
    np.testing.assert_array_equal(jax.vmap(f, (None, 0))(x[0], keys), np.stack([f(x[0], k) for k in keys]))


def test_gradient_has_the_same_mask_and_nonfinite_numbers_are_dropped(native):
    key = jax.random.key(2)
    x = jnp.full(1000, jnp.nan)
    mask = wanted_mask(key, 0.5, (1000,))
    y, pull = jax.vjp(lambda x: mps.dropout(x, key, keep_probability=0.5), x)
    np.testing.assert_array_equal(np.isnan(y), mask)
    np.testing.assert_array_equal(y[~mask], 0)
    np.testing.assert_array_equal(pull(jnp.ones(1000))[0], np.where(mask, 2.0, 0.0))


def test_keep_one_is_the_identity(native):
    x = jnp.arange(5.0)
    assert mps.dropout(x, jax.random.key(0), keep_probability=1) is x


def test_other_generators_run_on_xla(native):
    for key, partitionable in [(jax.random.key(4, impl="rbg"), True), (jax.random.key(4), False)]:
        with jax.threefry_partitionable(partitionable):
            table = mps.explain(lambda x, key=key: mps.dropout(x, key, keep_probability=0.5), jnp.ones(100))
            (row,) = [row for row in table if row.op == "dropout"]
            assert row.device == "xla" and "threefry" in row.implementation
            np.testing.assert_array_equal(mask_of(key, 0.5, (100,)), wanted_mask(key, 0.5, (100,)))


def test_repeats_bit_for_bit(native):
    f = jax.jit(lambda x: mps.dropout(x, jax.random.key(9), keep_probability=0.3))
    x = jax.random.normal(jax.random.key(8), (300_000,))
    first = f(x)
    for _ in range(20):
        np.testing.assert_array_equal(f(x), first)
