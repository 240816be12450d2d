"""LSTMs written by hand with scan run as this library's; what only looks like one stays a loop."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import assert_same, normal
from jax import lax
from recurrent_common import BATCH, INPUTS, TIME, UNITS, check, loss_of, stays, text

import jax_mps as mps

sigmoid = jax.nn.sigmoid
PARAMS = {"w": normal(INPUTS, 4 * UNITS) * 0.5, "r": normal(UNITS, 4 * UNITS) * 0.4, "b": normal(4 * UNITS)}
STATE = (normal(BATCH, UNITS), normal(BATCH, UNITS, seed=1))
XS = normal(TIME, BATCH, INPUTS)


def scanned(body, **options):
    return lambda params, state, xs: lax.scan(functools.partial(body, params), state, xs, **options)


def lstm(gates, carry, *, s=sigmoid, t=jnp.tanh):
    (h, c), (i, f, g, o) = carry, gates
    c = s(f) * c + s(i) * t(g)
    h = s(o) * t(c)
    return (h, c), h


def sums(p, carry, x):
    return x @ p["w"] + carry[0] @ p["r"] + p["b"][None]


def with_step(step):
    return lambda p, carry, x: step(jnp.split(sums(p, carry, x), 4, -1), carry)


def concatenated(p, carry, x):
    z = jnp.concatenate([carry[0], x], -1) @ jnp.concatenate([p["r"], p["w"]]) + p["b"][None]
    return lstm(jnp.split(z, 4, -1), carry)


def joined_sigmoids(p, carry, x):
    z = sums(p, carry, x)
    i, f, o = jnp.split(sigmoid(z[:, : 3 * UNITS]), 3, -1)
    c = f * carry[1] + i * jnp.tanh(z[:, 3 * UNITS :])
    return ((h := o * jnp.tanh(c)), c), h


def in_another_shape(p, carry, x):
    z = sums(p, carry, x).reshape(BATCH, 4, UNITS)
    return lstm([z[:, k] for k in (2, 0, 1, 3)], carry)


def transposed(p, carry, x):
    z = p["w"].T @ x.T + p["r"].T @ carry[0].T + p["b"][:, None]
    return lstm([a.T for a in jnp.split(z, 4, 0)], carry)


def exchanged_carry(p, carry, x):
    (h, c), y = lstm(jnp.split(sums(p, carry[::-1], x), 4, -1), carry[::-1])
    return (c, h), y


SAME = {
    "gates i, f, g, o": with_step(lstm),
    "gates o, g, i, f": with_step(lambda z, carry: lstm([z[k] for k in (2, 3, 1, 0)], carry)),
    "a bias of the forget gate": with_step(lambda z, carry: lstm((z[0], z[1] + 1.0, z[2], z[3]), carry)),
    "1 / (1 + exp(-x))": with_step(functools.partial(lstm, s=lambda x: 1 / (1 + jnp.exp(-x)))),
    "exp(x) / (1 + exp(x))": with_step(functools.partial(lstm, s=lambda x: jnp.exp(x) / (1 + jnp.exp(x)))),
    "(1 + tanh(x / 2)) / 2": with_step(functools.partial(lstm, s=lambda x: 0.5 * (1 + jnp.tanh(0.5 * x)))),
    "one product": concatenated,
    "one sigmoid": joined_sigmoids,
    "in another shape": in_another_shape,
    "transposed": transposed,
    "the carry as (c, h)": exchanged_carry,
}


def without_forgetting(gates, carry):
    (h, c), (i, _, g, o) = carry, gates
    c = c + sigmoid(i) * jnp.tanh(g)
    return ((h := sigmoid(o) * jnp.tanh(c)), c), h


def coupled_step(gates, carry):
    (h, c), (_, f, g, o) = carry, gates
    c = sigmoid(f) * c + (1 - sigmoid(f)) * jnp.tanh(g)
    return ((h := sigmoid(o) * jnp.tanh(c)), c), h


def clipped(gates, carry):
    (h, c), (i, f, g, o) = carry, gates
    c = jnp.clip(sigmoid(f) * c + sigmoid(i) * jnp.tanh(g), -50.0, 50.0)
    return ((h := sigmoid(o) * jnp.tanh(c)), c), h


def peephole(gates, carry):
    i, f, g, o = gates
    return lstm((i, f + 0.5 * carry[1], g, o), carry)


def almost(gates, carry):
    (h, c), y = lstm(gates, carry)
    return (h, c * (1 - 2.0**-23)), y


def masked(gates, carry):
    (h, c), y = lstm(gates, carry)
    return (h * np.float32([[1, 1, 1, 1, 1, 0]]), c), y


def normalised(gates, carry):
    centred = [z - jnp.mean(z, -1, keepdims=True) for z in gates]
    return lstm([z * lax.rsqrt(jnp.mean(z * z, -1, keepdims=True) + 1e-6) for z in centred], carry)


def other_result(gates, carry):
    (h, c), y = lstm(gates, carry)
    return (h, c), y + 1e-9 * c


def swapped_states(gates, carry):
    (h, c), y = lstm(gates, carry)
    return (c, h), y


NEAR = {
    "no forgetting": (without_forgetting, "3 of its gates are sums of products"),
    "coupled gates": (coupled_step, "3 of its gates are sums of products"),
    "clipped": (clipped, "its new cell is not sigmoid(f) c + sigmoid(i) tanh(g)"),
    "relu": (functools.partial(lstm, t=jax.nn.relu), "3 of its gates are sums of products"),
    "hard sigmoid": (functools.partial(lstm, s=jax.nn.hard_sigmoid), "of its gates are sums of products"),
    "a peephole": (peephole, "3 of its gates are sums of products"),
    "a factor beside one": (almost, "its new "),
    "a mask": (masked, "its new state is not sigmoid(o) tanh(c)"),
    "layer norm": (normalised, "0 of its gates are sums of products"),
    "another result": (other_result, "results of its body other than the states are read"),
    "the states exchanged": (swapped_states, "its new cell is not sigmoid(f) c + sigmoid(i) tanh(g)"),
}


class TestByHand:
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("form", SAME)
    def test_the_same_cell(self, native, form, reverse):
        state = STATE[::-1] if "(c, h)" in form else STATE
        check("lstm", scanned(SAME[form], reverse=reverse), PARAMS, state, XS)

    @pytest.mark.parametrize("form", NEAR)
    def test_near_misses(self, native, form):
        step, words = NEAR[form]
        stays(scanned(with_step(step)), PARAMS, STATE, XS, words=words)

    def test_both_states_of_all_steps(self, native):
        f = scanned(with_step(lambda z, carry: ((new := lstm(z, carry)[0]), new)))
        assert_same(jax.jit(mps.graph(f))(PARAMS, STATE, XS), jax.jit(f)(PARAMS, STATE, XS))
        assert " = lstm_training(" in text(f, PARAMS, STATE, XS)
        only_h = lambda *args: f(*args)[1][0]  # noqa: E731  # no gradient flows into c
        check("lstm", only_h, PARAMS, STATE, XS)
        both = jax.grad(loss_of(f))
        assert_same(jax.jit(mps.graph(both))(PARAMS, STATE, XS), both(PARAMS, STATE, XS))

    @pytest.mark.parametrize(
        "length, dtype, words", [(0, "float32", "it is empty"), (3, "float16", "not all of float32")]
    )
    def test_other_sequences_stay(self, native, length, dtype, words):
        params, state, xs = jax.tree.map(lambda a: a.astype(dtype), (PARAMS, STATE, normal(length, BATCH, INPUTS)))
        rows = mps.explain(mps.graph(scanned(with_step(lstm))), params, state, xs)
        assert any(words in f"{row.implementation} {row.made_of}" for row in rows)

    def test_projections_made_before_the_loop_stay_there(self, native):
        def f(p, state, xs):
            return lax.scan(lambda carry, z: lstm(jnp.split(z + carry[0] @ p["r"], 4, -1), carry), state, xs @ p["w"])

        stays(f, PARAMS, STATE, XS, words="an input or a state enters it without a product")

    def test_half_a_gradient_tells_why_it_is_a_loop(self, native):
        f = scanned(with_step(lstm))
        half = mps.graph(lambda *args: jax.vjp(f, *args))
        (got, pull), (wanted, pull_back) = half(PARAMS, STATE, XS), jax.vjp(f, PARAMS, STATE, XS)
        assert_same((got, pull(got)), (wanted, pull_back(wanted)))
        rows = mps.explain(half, PARAMS, STATE, XS)
        assert any("graph it together with its gradient" in f"{row.implementation} {row.made_of}" for row in rows)

    def test_second_derivatives_have_the_values_of_jax(self, native):
        f = lambda h: loss_of(scanned(with_step(lstm)))(PARAMS, (h, STATE[1]), XS)  # noqa: E731
        twice = jax.grad(lambda h: jnp.sum(jax.grad(f)(h) ** 2))
        assert_same(jax.jit(mps.graph(twice))(STATE[0]), jax.jit(twice)(STATE[0]))

    def test_without_a_kernel_the_loop_stays(self, native, monkeypatch):
        from jax_mps.primitive import Op

        placement = Op.placement

        def refuse(self, *args):
            return ("", "no such kernel") if self.name.startswith("lstm") else placement(self, *args)

        monkeypatch.setattr(Op, "placement", refuse)
        stays(scanned(with_step(lstm)), PARAMS, STATE, XS, words="no such kernel")
