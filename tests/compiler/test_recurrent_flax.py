"""Flax's recurrent layers run as this library's ops."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from graph_common import assert_same, normal
from jax import lax
from recurrent_common import BATCH, INPUTS, TIME, UNITS, check, loss_of, text, trains

import jax_mps as mps

FLAX = {linen.LSTMCell: "lstm", linen.OptimizedLSTMCell: "lstm", linen.GRUCell: "gru"}


class TestFlax:
    @pytest.fixture(autouse=True)
    def promotion(self):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield

    def net(self, cell, **options):
        net, x = linen.RNN(cell(UNITS), **options), normal(BATCH, TIME, INPUTS)
        return net, net.init(jax.random.key(0), x), x

    @pytest.mark.parametrize("options", [{}, {"reverse": True, "keep_order": True}, {"return_carry": True}], ids=str)
    @pytest.mark.parametrize("cell", FLAX, ids=lambda c: c.__name__)
    def test_rnn(self, native, cell, options):
        net, params, x = self.net(cell, **options)
        check(FLAX[cell], net.apply, params, x)

    @pytest.mark.parametrize("cell", FLAX, ids=lambda c: c.__name__)
    def test_first_state_and_last_output(self, native, cell):
        net, params, x = self.net(cell)
        h = normal(BATCH, UNITS)
        first = h if cell is linen.GRUCell else (h + 1.0, h)
        last = lambda params, x, first: net.apply(params, x, initial_carry=first)[:, -1]  # noqa: E731
        check(FLAX[cell], last, params, x, first)

    def test_sequences_of_different_lengths(self, native):
        net, params, x = self.net(linen.LSTMCell)
        lengths = jnp.array([2, 5, 1])
        f = lambda params, x: net.apply(params, x, seq_lengths=lengths)  # noqa: E731
        check("lstm", f, params, x)

    def test_layers_in_both_directions(self, native):
        class Net(linen.Module):
            @linen.compact
            def __call__(self, x):
                x = linen.Bidirectional(linen.RNN(linen.LSTMCell(UNITS)), linen.RNN(linen.GRUCell(UNITS)))(x)
                return linen.RNN(linen.OptimizedLSTMCell(UNITS))(x)[:, -1]

        x = normal(BATCH, TIME, INPUTS)
        params = Net().init(jax.random.key(0), x)
        check("lstm", Net().apply, params, x)
        both = jax.grad(loss_of(Net().apply))
        assert [text(both, params, x).count(f" = {op}_gradient(") for op in ("lstm", "gru")] == [2, 1]

    @pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell], ids=lambda c: c.__name__)
    def test_nnx(self, native, cell):
        net = nnx.RNN(cell(INPUTS, UNITS, rngs=nnx.Rngs(0)))
        definition, params, rest = nnx.split(net, nnx.Param, ...)

        def f(params, x):
            return nnx.merge(definition, params, rest)(x, rngs=nnx.Rngs(0))

        check("gru" if cell is nnx.GRUCell else "lstm", f, params, normal(BATCH, TIME, INPUTS))

    @pytest.mark.parametrize("cell", FLAX, ids=lambda c: c.__name__)
    def test_ten_steps_of_training(self, native, cell):
        net, params, x = self.net(cell)
        target = normal(BATCH, TIME, UNITS)
        trains(lambda p: jnp.mean((net.apply(p, x) - target) ** 2), params, FLAX[cell])

    def test_steps_of_training_by_scan(self, native):
        net, params, _ = self.net(linen.OptimizedLSTMCell)

        def step(params, x):
            value, gradients = jax.value_and_grad(lambda p: jnp.mean(net.apply(p, x) ** 2))(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value

        f, xs = lambda params, xs: lax.scan(step, params, xs), normal(4, BATCH, TIME, INPUTS)
        assert_same(jax.jit(mps.graph(f))(params, xs), jax.jit(f)(params, xs))
        found = text(f, params, xs)
        assert found.count(" = loop(") == 1 and " = lstm_gradient(" in found
