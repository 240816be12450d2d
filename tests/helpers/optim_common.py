"""What the tests of the optimizers share: parameters, ten steps of training, one optimizer of each kind."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_mps as mps

optim = mps.optim
STEPS = 10
schedule = optax.cosine_decay_schedule(0.1, 7)
EACH = {
    "sgd": functools.partial(optim.sgd, learning_rate=0.1),
    "momentum": functools.partial(optim.sgd, learning_rate=0.1, momentum=0.9),
    "adam": functools.partial(optim.adam, learning_rate=0.1),
    "amsgrad": functools.partial(optim.adam, learning_rate=0.1, amsgrad=True),
    "rmsprop": functools.partial(optim.rmsprop, learning_rate=0.1),
    "rmsprop centered": functools.partial(optim.rmsprop, learning_rate=0.1, centered=True, momentum=0.9),
}
each = pytest.mark.parametrize("name", EACH)


def params_of(dtype=jnp.float32):
    """Leaves of several pieces, of one element, of none."""
    rng = np.random.default_rng(0)
    shapes = {"w": (70, 64), "b": [(3,), ()], "empty": (0, 4)}
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s), dtype), shapes, is_leaf=is_shape)


def gradients_of(params, k):
    rng = np.random.default_rng(100 + k)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape) * 2, x.dtype), params)


def by_update(optimizer, params, steps=STEPS):
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for k in range(steps):
        updates, state = update(gradients_of(params, k), state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_step(optimizer, params, steps=STEPS):
    step = jax.jit(functools.partial(optim.step, optimizer))
    state = optimizer.init(params)
    for k in range(steps):
        params, state = step(gradients_of(params, k), state, params)
    return params


def assert_trees_near(got, wanted, rtol=2e-5, atol=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=atol)
