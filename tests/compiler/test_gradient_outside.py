"""Gradients that are taken outside of graph: recurrent scans are ops in both halves, and all other gradients stay."""

from __future__ import annotations

import functools

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest
from graph_common import assert_same, normal
from jax import lax
from recurrent_common import BATCH, INPUTS, TIME, UNITS, loss_of

import jax_mps as mps

KEYS = jax.random.split(jax.random.key(0), 3)
XS = normal(TIME, BATCH, INPUTS)
H, C = normal(BATCH, UNITS), normal(BATCH, UNITS, seed=1)


def of_lstm(around=lambda cell: cell, seen=lambda state: state[0], **options):
    """A function of an LSTM's weights, sequences and first state."""
    cell = eqx.nn.LSTMCell(INPUTS, UNITS, key=KEYS[0])
    params, rest = eqx.partition(cell, eqx.is_array)

    def f(params, xs, state):
        step = around(jax.vmap(eqx.combine(params, rest)))

        def body(state, x):
            state = step(x, state)
            return state, seen(state)

        return lax.scan(body, state, xs, **options)

    return f, (params, XS, (H, C))


def gru_before(p, xs, h):
    """The reset gate before the product."""

    def step(h, x):
        z, r = jnp.split(jax.nn.sigmoid(x @ p["w"][:, : 2 * UNITS] + h @ p["r"][:, : 2 * UNITS]), 2, -1)
        h = (1 - z) * jnp.tanh(x @ p["w"][:, 2 * UNITS :] + (r * h) @ p["r"][:, 2 * UNITS :]) + z * h
        return h, h

    return lax.scan(step, h, xs)


def layers_of_flax():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Dense(UNITS)(x))
            return linen.Bidirectional(linen.RNN(linen.LSTMCell(UNITS)), linen.RNN(linen.GRUCell(UNITS)))(x)[:, -1]

    x = normal(BATCH, TIME, INPUTS)
    return Net().apply, (Net().init(KEYS[1], x), x)


GRU = {"w": normal(INPUTS, 3 * UNITS), "r": normal(UNITS, 3 * UNITS)}
FORMS = {
    "lstm": of_lstm,
    "lstm, reversed": functools.partial(of_lstm, reverse=True),
    "lstm, the last state": functools.partial(of_lstm, seen=lambda state: None),
    "gru": lambda: (gru_before, (GRU, XS, H)),
    "lstm and gru": layers_of_flax,
}


def text_of(function, args):
    """What runs for the value and the gradients with graph inside, which are as without graph."""
    with_graph, without = (
        jax.value_and_grad(loss_of(f), tuple(range(len(args)))) for f in (mps.graph(function), function)
    )
    assert_same(jax.jit(with_graph)(*args), jax.jit(without)(*args))
    return str(jax.make_jaxpr(with_graph)(*args))


def has(text, *ops):
    return all(f" = {op}(" in text for op in ops)


def has_loops(text):
    return "scan[" in text or " = loop(" in text


@pytest.fixture(autouse=True)
def promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("form", FORMS)
def test_both_halves_are_ops(native, form):
    f, args = FORMS[form]()
    found = text_of(f, args)
    kinds = [kind for kind in ("lstm", "gru") if kind in form]
    assert has(found, *(f"{kind}_{half}" for kind in kinds for half in ("training", "gradient")))
    assert not has_loops(found)


def test_checkpointed_steps_keep_no_gates(native):
    for around, recompute in ((jax.checkpoint, True), (lambda cell: cell, False)):
        f, args = of_lstm(around)
        found = text_of(f, args)
        assert has(found, "lstm_gradient") and not has_loops(found)
        assert ["recompute=true" in found, "recompute=false" in found] == [recompute, not recompute]


def test_what_is_no_op_keeps_its_loop(native):
    """The cells of every step are no result of the op."""
    f, args = of_lstm(seen=lambda state: state)
    assert not has(text_of(f, args), "lstm_gradient")


def test_a_checkpointed_sequence_is_run_again(native):
    """Its backward half has the whole gradient of the scan."""
    f, args = of_lstm()
    found = text_of(jax.checkpoint(f), args)
    assert has(found, "lstm", "lstm_training", "lstm_gradient") and not has_loops(found)


def test_without_a_kernel_the_loop_stays(native, monkeypatch):
    from jax_mps.primitive import Op

    placement = Op.placement

    def refuse(self, *args):
        return ("", "no such kernel") if self.name == "lstm_gradient" else placement(self, *args)

    monkeypatch.setattr(Op, "placement", refuse)
    f, args = of_lstm()
    found = text_of(f, args)
    assert not has(found, "lstm_training") and not has(found, "lstm_gradient")


@jax.custom_vjp
def clipped(x):
    """The identity, whose gradient is clipped."""
    return x


clipped.defvjp(lambda x: (x, None), lambda _, dy: (jnp.clip(dy, -0.01, 0.01),))


@jax.custom_jvp
def tripled(x):
    """The identity, whose derivative is 3."""
    return x


tripled.defjvp(lambda primals, tangents: (primals[0], 3.0 * tangents[0]))


def test_custom_gradients_beside_the_scan_stay(native):
    recurrent, args = of_lstm()

    def f(params, xs, state):
        (h, c), y = recurrent(params, jnp.sin(tripled(xs)), state)
        kept = jax.checkpoint(lambda y: jax.nn.relu(clipped(y)) + jax.jit(tripled)(y))(y)
        return kept, mps.relu(clipped(h)), lax.stop_gradient(c), jax.jit(jax.nn.silu)(c)

    found = text_of(f, args)
    assert has(found, "lstm_gradient") and not has_loops(found)


def test_transformations_around_it(native):
    f, (params, xs, state) = of_lstm()

    def of(graph):
        loss = loss_of(graph(f))
        gradient = lambda xs: jax.grad(lambda xs: loss(params, xs, state))(xs)  # noqa: E731
        twice = jax.jit(jax.grad(lambda xs: jnp.sum(gradient(xs) ** 2)))(xs)
        each = jax.jit(jax.vmap(gradient))(jnp.stack([xs, -xs]))
        over_params = lambda params: jnp.sum(graph(lambda xs: f(params, xs, state)[1])(xs) ** 2)  # noqa: E731
        return twice, each, jax.jit(jax.grad(over_params))(params)

    assert_same(of(mps.graph), of(lambda f: f))
