"""Ten training steps of other libraries' own models: graph changes nothing but the time."""

from __future__ import annotations

from itertools import pairwise

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from graph_common import assert_same, normal
from jax import lax
from training_common import as_users_have_it, check, descending, train  # noqa: F401

import jax_mps as mps


def test_multilayer_perceptron_by_hand(native):
    x, y = normal(32, 16), jnp.sin(normal(32, 4))

    def loss(params):
        h = x
        for w, b in params[:-1]:
            h = jax.nn.gelu(h @ w + b)
        w, b = params[-1]
        return jnp.mean((h @ w + b - y) ** 2)

    sizes = [16, 256, 256, 4]
    params = [(normal(i, o) / np.sqrt(i), jnp.zeros(o)) for i, o in pairwise(sizes)]
    check(*descending(loss, params, optax.sgd(1e-2, momentum=0.9)))


@pytest.mark.parametrize("rule", [optax.adamw(1e-2), optax.chain(optax.clip_by_global_norm(0.5), optax.lion(1e-3))])
def test_flax_convolutions(native, rule):
    x, labels = normal(8, 10, 10, 3), jnp.arange(8) % 5

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.max_pool(linen.relu(linen.Conv(8, (3, 3))(x)), (2, 2), (2, 2))
            x = linen.LayerNorm()(linen.Conv(8, (3, 3), strides=2)(x))
            return linen.Dense(5)(linen.silu(x).mean((1, 2)))

    net = Net()

    def loss(params):
        logits = net.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    check(*descending(loss, net.init(jax.random.key(0), x), rule))


def test_flax_lstm_by_scan(native):
    net, x, y = linen.RNN(linen.OptimizedLSTMCell(128)), normal(16, 7, 32), jnp.sin(normal(16, 7, 128))
    loss = lambda params: jnp.mean((net.apply(params, x) - y) ** 2)  # noqa: E731
    check(*descending(loss, net.init(jax.random.key(0), x), optax.adam(1e-2)))


def test_equinox_residual_stack_with_its_state(native):
    eqx = pytest.importorskip("equinox")

    class Block(eqx.Module):
        convs: list
        norms: list
        shortcut: eqx.nn.Conv2d | None
        activation: object
        dropout: eqx.nn.Dropout

        def __init__(self, channels, out, key):
            keys = jax.random.split(key, 3)
            stride = 1 if channels == out else 2
            self.convs = [
                eqx.nn.Conv2d(channels, out, 3, stride, padding=1, use_bias=False, key=keys[0]),
                eqx.nn.Conv2d(out, out, 3, padding=1, use_bias=False, key=keys[1]),
            ]
            self.norms = [eqx.nn.BatchNorm(out, "batch", mode="batch") for _ in range(2)]
            self.shortcut = None if stride == 1 else eqx.nn.Conv2d(channels, out, 1, 2, use_bias=False, key=keys[2])
            self.activation, self.dropout = jax.nn.relu, eqx.nn.Dropout(0.5, inference=True)

        def __call__(self, x, state):
            y, state = self.norms[0](self.convs[0](x), state)
            y, state = self.norms[1](self.convs[1](self.activation(y)), state)
            return self.dropout(self.activation(y + (x if self.shortcut is None else self.shortcut(x)))), state

    class Stack(eqx.Module):
        blocks: list
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.blocks = [Block(4, 4, keys[0]), Block(4, 8, keys[1])]
            self.head = eqx.nn.Linear(8, 5, key=keys[2])

        def __call__(self, x, state):
            for block in self.blocks:
                x, state = block(x, state)
            return self.head(x.mean((1, 2))), state

    model, norms = eqx.nn.make_with_state(Stack)(jax.random.key(0))
    rule, x, labels = optax.adam(1e-2), normal(8, 4, 8, 8), jnp.arange(8) % 5

    def loss(model, norms):
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, norms = batched(x, norms)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), norms

    def step(state):
        model, norms, slots = state
        (value, norms), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(model, norms)
        updates, slots = rule.update(gradients, slots, eqx.filter(model, eqx.is_inexact_array))
        return (eqx.apply_updates(model, updates), norms, slots), value

    state = model, norms, rule.init(eqx.filter(model, eqx.is_inexact_array))
    (got, *_), a = train(step, state, lambda f: eqx.filter_jit(mps.graph(f)))
    (wanted, *_), b = train(step, state, eqx.filter_jit)
    assert_same(a, b, 1e-3)
    assert_same(*(eqx.filter(m, eqx.is_array) for m in (got, wanted)), 1e-3)
    assert got.blocks[0].activation is jax.nn.relu and got.blocks[0].norms[0].inference is False
    assert len(mps.graph(step).program(state)) == 1


def test_sums_over_axes_that_vmap_maps(native):
    f = lambda x: mps.relu(x) - lax.pmean(mps.sigmoid(x), "i") + lax.pmax(x, "i")  # noqa: E731
    g = lambda x: jax.vmap(f, axis_name="i")(x)  # noqa: E731
    assert_same(jax.jit(mps.graph(g))(normal(4, 3)), jax.jit(g)(normal(4, 3)))
    assert len(mps.graph(g).program(normal(4, 3))) == 1


class TestStatic:
    def test_numbers_inside_of_jit_stay_numbers(self, native):
        seen = []

        def f(x, p, flag, n):
            seen.append((type(p), flag, type(n)))
            return mps.relu(x) * p if flag else x, p, flag, n

        g = mps.graph(f)
        result = jax.jit(lambda x: [g(x, 2.0, True, -0.0), g(x, 2.0, True, 0.0), g(x, 2.0, False, 0.0)])(normal(3))
        assert seen == [(float, True, float), (float, True, float), (float, False, float)]
        assert_same(result[0], jax.jit(lambda x: f(x, 2.0, True, -0.0))(normal(3)))
        assert str(result[0][3]) == "-0.0"

    def test_numbers_outside_are_traced(self, native):
        seen = []

        def f(x, p):
            seen.append(p)
            return mps.relu(x) * p, p, True

        g = mps.graph(f)
        for p in (2.0, 3.0):
            got = g(normal(3), p)
            assert_same(got, jax.jit(f)(normal(3), p))
        assert len([p for p in seen if isinstance(p, jax.core.Tracer)]) == 2
