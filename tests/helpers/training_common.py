"""What the tests of training steps share: ten steps with graph and without, compared."""

from __future__ import annotations

import jax
import optax
import pytest
from graph_common import assert_same

import jax_mps as mps

STEPS = 10


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def train(step, state, compiled, steps=STEPS):
    """The state and the losses of ten steps; `step(state)` -> (state, loss)."""
    run, losses = compiled(step), []
    for _ in range(steps):
        state, loss = run(state)
        losses.append(loss)
    return state, losses


def check(step, state, tolerance=1e-3):
    got, a = train(step, state, lambda f: jax.jit(mps.graph(f)))
    wanted, b = train(step, state, jax.jit)
    assert_same(a, b, tolerance)
    assert_same(got, wanted, tolerance)
    assert float(a[-1]) < float(a[0])
    assert "mps_program" in str(jax.make_jaxpr(mps.graph(step))(state))


def descending(loss, params, rule):
    """A training step of a loss of parameters and its first state."""

    def step(state):
        params, slots = state
        value, gradients = jax.value_and_grad(loss)(params)
        updates, slots = rule.update(gradients, slots, params)
        return (optax.apply_updates(params, updates), slots), value

    return step, (params, rule.init(params))
