"""Chains next to each other that run in one parallel region: each computes what it does alone, to the bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from graph_common import everything_natively, normal  # noqa: F401

import jax_mps as mps

SHAPES = [(64,), (3, 3, 64, 64), (128,), (), (1,), (700, 256), (10,), (512,), (3, 3, 8, 16)]


@pytest.fixture(autouse=True)
def _types_are_mixed():
    """By optax."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def leaves(shapes, dtype=jnp.float32):
    return [jnp.asarray(normal(*shape, seed=i), dtype) for i, shape in enumerate(shapes)]


def assert_equal(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def adamw(moments=None):
    rule = optax.adamw(1e-3, mu_dtype=moments)

    def step(state, gradients):
        params, moments = state
        updates, moments = rule.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments

    return rule, step


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("moments", [None, jnp.bfloat16])
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:3] * 60], ids=["few", "many"])
def test_an_update_is_that_of_each_leaf_alone(native, shapes, moments, dtype):
    rule, step = adamw(moments)
    params, gradients = leaves(shapes, dtype), leaves(shapes[::-1], dtype)[::-1]
    together = jax.jit(mps.graph(step), donate_argnums=0)
    alone = jax.jit(mps.graph(step))
    state = jax.tree.map(jnp.copy, (params, rule.init(params)))
    for _ in range(3):
        state = together(state, gradients)
    assert state[1][0].count == 3
    mu, nu = state[1][0].mu, state[1][0].nu
    for i in range(min(len(shapes), 9)):
        one = [params[i]], rule.init([params[i]])
        for _ in range(3):
            one = alone(one, [gradients[i]])
        assert_equal((state[0][i], mu[i], nu[i]), (one[0][0], one[1][0].mu[0], one[1][0].nu[0]))


def test_empty_leaves(native):
    rule, step = adamw()
    params = leaves([(64,), (0, 3), (64,)])
    state = params, rule.init(params)
    got, wanted = jax.jit(mps.graph(step))(state, params), jax.jit(step)(state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, wanted)


def test_neighbours_that_wait_for_one_another(native):
    """Each writes what the next reads, or, donated, what another has read."""

    def f(x, ys):
        cube = x.reshape(4, -1)[::-1].reshape(-1)  # read where it lies, before x is overwritten
        sums = [y + cube for y in ys]
        return x * 2.0, [s.reshape(-1, 4).T.reshape(-1) * y for s, y in zip(sums, ys[::-1], strict=True)]

    args = jnp.asarray(normal(1 << 16)), leaves([(1 << 16,)] * 6)
    wanted = jax.jit(f)(*args)
    step = jax.jit(mps.graph(f), donate_argnums=(0, 1))
    for _ in range(5):
        assert_equal(step(*jax.tree.map(jnp.copy, args)), wanted)


def test_in_a_loop(native):
    rule, step = adamw()
    params = leaves(SHAPES)
    state = params, rule.init(params)
    xs = jax.tree.map(lambda p: jnp.stack([p, 2 * p, 3 * p]), params)

    def steps(state, xs):
        return jax.lax.scan(lambda state, x: (step(state, x), None), state, xs)[0]

    wanted = state
    one = jax.jit(mps.graph(step))
    for i in range(3):
        wanted = one(wanted, jax.tree.map(lambda x, i=i: x[i], xs))
    assert_equal(jax.jit(mps.graph(steps))(state, xs), wanted)
