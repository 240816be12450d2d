"""What the tests of scanned recurrent cells share: sizes, and checks that a scan runs as an op or stays a loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from graph_common import assert_same

import jax_mps as mps

BATCH, TIME, INPUTS, UNITS = 3, 5, 4, 6


def text(function, *args):
    return mps.graph(function).program(*args).text()


def loss_of(function):
    """A scalar that depends on all results."""
    return lambda *args: sum((jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(function(*args))), start=jnp.float32(0.0))


def check(op, function, *args):
    """The values, and the gradients of all arguments; all by `op`, without a loop."""
    assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args))
    found = text(function, *args)
    assert (f" = {op}(" in found or f" = {op}_training(" in found) and " = loop(" not in found, found
    both = jax.value_and_grad(loss_of(function), tuple(range(len(args))))
    assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))
    found = text(both, *args)
    assert f" = {op}_training(" in found and f" = {op}_gradient(" in found and " = loop(" not in found, found
    assert "scan[" not in str(jax.make_jaxpr(mps.graph(both))(*args))


def trains(loss, params, op, count=1):
    """Ten steps of training, so many gradients by `op` in a program without a loop, as without graph."""
    rule = optax.adam(1e-2)

    def step(params, slots):
        value, gradients = jax.value_and_grad(loss)(params)
        updates, slots = rule.update(gradients, slots)
        return optax.apply_updates(params, updates), slots, value

    found = text(step, params, rule.init(params))
    assert found.count(f" = {op}_gradient(") == count and " = loop(" not in found
    assert "scan[" not in str(jax.make_jaxpr(mps.graph(step))(params, rule.init(params)))
    runs = []
    for f in (jax.jit(step), jax.jit(mps.graph(step))):
        state, values = (params, rule.init(params)), []
        for _ in range(10):
            *state, value = f(*state)
            values.append(value)
        runs.append((state[0], values))
    assert_same(runs[1], runs[0])
    assert runs[0][1][-1] < runs[0][1][0]


def stays(function, *args, words, gradient=True):
    """Neither it nor its gradient is a recurrent op, explain tells why, and the values are those of JAX."""
    both = jax.value_and_grad(loss_of(function), tuple(range(len(args))))
    for f in (function, both)[: 1 + gradient]:
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))
        rows = mps.explain(mps.graph(f), *args)
        assert not {"lstm", "gru", "lstm_training", "gru_training"} & {row.op for row in rows}
        told = [f"{row.implementation} {row.made_of}" for row in rows if row.op in ("scan", "loop")]
        assert any("no mps.lstm or mps.gru: " in t for t in told), rows
    assert any(words in t for t in told), told
