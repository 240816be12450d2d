"""Equinox's recurrent cells run as this library's ops, however they are scanned."""

from __future__ import annotations

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from graph_common import normal
from jax import lax
from recurrent_common import BATCH, INPUTS, TIME, UNITS, check, loss_of, stays, text


def run(cell, xs, state, **options):
    """A cell of Equinox over a sequence: the last state and all h."""

    def body(state, x):
        state = cell(x, state)
        return state, jax.tree.leaves(state)[0]

    return lax.scan(body, state, xs, **options)


def batched(cell, xs, state):
    return jax.vmap(functools.partial(run, cell))(xs, state)


def over_axis_1(cell, xs, state):
    return jax.vmap(functools.partial(run, cell), (1, 0), 1)(jnp.swapaxes(xs, 0, 1), state)


def twice_batched(cell, xs, state):
    return jax.vmap(functools.partial(batched, cell))(
        jnp.stack([xs, -xs]), jax.tree.map(lambda a: a[None] + ONES, state)
    )


def single(cell, xs, state):
    return run(cell, xs[0], jax.tree.map(lambda a: a[0], state))


def one_row(cell, xs, state):
    return batched(cell, xs[:1], jax.tree.map(lambda a: a[:1], state))


def shared_state(cell, xs, state):
    return jax.vmap(lambda xs: run(cell, xs, jax.tree.map(lambda a: a[0], state)))(xs)


def batched_cell(cell, xs, state):
    return run(jax.vmap(cell), jnp.swapaxes(xs, 0, 1), state, reverse=True)


def unrolled(cell, xs, state):
    return run(jax.vmap(cell), jnp.swapaxes(xs, 0, 1), state, unroll=3)


def one_step(cell, xs, state):
    return run(jax.vmap(cell), xs[None, :, 0], state)


def checkpointed_step(cell, xs, state):
    return run(jax.checkpoint(lambda x, state: jax.vmap(cell)(x, state)), jnp.swapaxes(xs, 0, 1), state)


def checkpointed(cell, xs, state):
    return jax.checkpoint(lambda cell, xs, state: run(jax.vmap(cell), jnp.swapaxes(xs, 0, 1), state))(cell, xs, state)


def half_of_squares(cell, xs, state):
    """The cotangent of y is y."""
    return jnp.arcsin(jnp.tanh(jnp.sum(run(jax.vmap(cell), jnp.swapaxes(xs, 0, 1), state)[1] ** 2) / 2))


def results_twice(cell, xs, state):
    last, ys = batched(cell, xs, state)
    return last, ys, ys * 2.0, jnp.sum(ys, 1)


ONES = jnp.asarray([0.0, 1.0])[:, None, None]
FORMS = [
    batched,
    over_axis_1,
    twice_batched,
    single,
    one_row,
    shared_state,
    batched_cell,
    unrolled,
    one_step,
    checkpointed_step,
    checkpointed,
    half_of_squares,
    results_twice,
]


class TestEquinox:
    @pytest.mark.parametrize(
        "kind, form",
        [*itertools.product(["lstm", "gru"], FORMS), ("gru without bias", batched), ("gru without bias", single)],
        ids=lambda v: v if isinstance(v, str) else v.__name__,
    )
    def test_forms(self, native, kind, form):
        make = eqx.nn.LSTMCell if kind == "lstm" else eqx.nn.GRUCell
        cell = make(INPUTS, UNITS, use_bias="without" not in kind, key=jax.random.key(0))
        params, rest = eqx.partition(cell, eqx.is_array)
        h = normal(BATCH, UNITS)
        state = (h, h + 1.0) if kind == "lstm" else h
        f = lambda params, xs, state: form(eqx.combine(params, rest), xs, state)  # noqa: E731
        check(kind[:4].strip(), f, params, normal(BATCH, TIME, INPUTS), state)

    def test_checkpoints_keep_less(self, native):
        cell = eqx.nn.LSTMCell(INPUTS, UNITS, key=jax.random.key(0))
        h = normal(BATCH, UNITS)
        gradient = lambda form: jax.grad(lambda xs: loss_of(form)(cell, xs, (h, h)))  # noqa: E731
        recompute = [
            "recompute=true" in text(gradient(f), normal(BATCH, TIME, INPUTS))
            for f in (checkpointed_step, batched_cell)
        ]
        assert recompute == [True, False]

    def test_ensembles_stay_loops(self, native):
        cells = eqx.filter_vmap(lambda key: eqx.nn.GRUCell(INPUTS, UNITS, key=key))(
            jax.random.split(jax.random.key(0), 2)
        )
        params, rest = eqx.partition(cells, eqx.is_array)

        def f(params, xs, h):
            return eqx.filter_vmap(lambda cell: batched(cell, xs, h))(eqx.combine(params, rest))

        stays(f, params, normal(BATCH, TIME, INPUTS), normal(BATCH, UNITS), words="gates are sums of products")
