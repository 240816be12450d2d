"""graph draws the bits of jax.random natively, and the same ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import assert_same, normal, ops

import jax_mps as mps


@pytest.mark.parametrize("shape", [(4096,), (64, 1027), (2, 3, 5, 1000)])
def test_bits(native, shape):
    f = lambda seed: jax.random.bits(jax.random.fold_in(jax.random.key(0), seed), shape)  # noqa: E731
    assert ops(f, 7) == ["random_bits"]
    np.testing.assert_array_equal(jax.jit(mps.graph(f))(7), f(7))


def test_dropout_of_two_keys(native):
    def f(x, key):
        for k in jax.random.split(key):
            x = jnp.where(jax.random.bernoulli(k, 0.8, x.shape), x / 0.8, 0.0)
        return x

    args = normal(70, 80), jax.random.key(3)
    assert ops(f, *args).count("random_bits") == 2
    assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))


def test_other_draws_stay_in_jax(native):
    keys, rbg = jax.random.split(jax.random.key(0), 5000), jax.random.key(0, impl="rbg")
    few = lambda x, key: mps.relu(x) * jax.random.uniform(key, x.shape)  # noqa: E731
    of_keys = lambda x, keys: mps.relu(x) * jax.vmap(jax.random.uniform)(keys)  # noqa: E731
    for f, args in ((few, (normal(4), rbg)), (few, (normal(5000), rbg)), (of_keys, (normal(5000), keys))):
        assert "random_bits" not in ops(f, *args)
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))


def test_the_other_way_to_count(native):
    with jax.threefry_partitionable(False):
        f = lambda key: jax.random.bits(key, (5000,))  # noqa: E731
        np.testing.assert_array_equal(jax.jit(mps.graph(f))(jax.random.key(1)), f(jax.random.key(1)))
