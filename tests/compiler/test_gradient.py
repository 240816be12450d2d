"""Gradients of graphed functions: of what they close over, and without tracing again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import assert_same, normal
from jax import lax

import jax_mps as mps

X, W = normal(2, 3), normal(3, 4)


def closing(wrap):
    """A function of w that wraps a function which closes over w, over a constant, and over a function of w."""

    def f(w):
        scale = 0.1 * jnp.sum(w * w)
        inner = wrap(lambda x: mps.relu(x @ w + 0.5) * scale @ W.T)
        return jnp.sum(jnp.tanh(0.01 * inner(X * scale)))

    return f


class TestClosedOver:
    @pytest.mark.parametrize("around", [lambda f: f, jax.jit, lambda f: jax.jit(mps.graph(f))])
    def test_gradients(self, native, around):
        assert_same(around(jax.value_and_grad(closing(mps.graph)))(W), jax.value_and_grad(closing(lambda f: f))(W))

    def test_second_derivatives(self, native):
        twice = lambda f: jax.grad(lambda w: jnp.sum(jax.grad(f)(w) ** 2))(W)  # noqa: E731
        assert_same(twice(closing(mps.graph)), twice(closing(lambda f: f)), 1e-3)

    def test_vmap_and_scan(self, native):
        ws = normal(5, 3, 4)
        assert_same(jax.vmap(closing(mps.graph))(ws), jax.vmap(closing(lambda f: f))(ws))
        each = lambda f: lax.scan(lambda c, w: (c + jax.grad(f)(w), f(w)), jnp.zeros_like(W), ws)  # noqa: E731
        assert_same(each(closing(mps.graph)), each(closing(lambda f: f)))

    def test_integers_and_references(self, native):
        labels, total = jnp.asarray([1, 0]), jax.new_ref(jnp.zeros(()))

        def f(w, labels, wrap):
            def loss(x):
                total[...] += jnp.sum(x)
                return -jnp.mean(jnp.take_along_axis(mps.log_softmax(x @ w), labels[:, None], 1))

            return wrap(loss)(X)

        assert_same(
            jax.jit(lambda w, l: f(w, l, mps.graph))(W, labels), jax.jit(lambda w, l: f(w, l, lambda g: g))(W, labels)
        )
        assert_same(total[...], 2 * jnp.sum(X))


class TestCustomRules:
    @staticmethod
    def once(function):
        """A function whose rules triple what calculus says, so that another's rule would show."""
        custom = jax.custom_vjp(function)
        custom.defvjp(lambda x: (function(x), x), lambda x, dy: (3.0 * dy * jnp.cos(x),))
        return custom

    @staticmethod
    def forward(function):
        custom = jax.custom_jvp(function)
        custom.defjvp(lambda xs, ts: (function(*xs), 3.0 * ts[0] * jnp.cos(xs[0])))
        return custom

    @pytest.mark.parametrize("rule", ["once", "forward"])
    def test_rules_are_kept_and_inlined(self, native, rule):
        sine = getattr(self, rule)(lambda x: jnp.sin(x))
        loss = lambda x: jnp.sum(jax.checkpoint(lambda x: sine(mps.relu(x @ W)))(x) ** 2)  # noqa: E731
        wanted = jax.value_and_grad(loss)(X)
        assert_same(jax.jit(mps.graph(jax.value_and_grad(loss)))(X), wanted)
        assert_same(jax.value_and_grad(mps.graph(loss))(X), wanted)
        assert len(mps.graph(jax.value_and_grad(loss)).program(X)) == 1


class TestTraces:
    def test_eager_gradients_trace_once(self, native):
        traces = []

        def f(x, n):
            traces.append(x.shape)
            return jnp.sum(mps.sigmoid(x @ W)) * n

        g = mps.graph(f)
        for _ in range(3):
            assert_same(jax.grad(g)(X, 2.0), jax.grad(lambda x: jnp.sum(mps.sigmoid(x @ W)) * 2.0)(X))
        jax.grad(lambda x: jnp.sum(jax.grad(g)(x, 2.0)))(X)
        assert len(traces) == 1

    def test_what_is_closed_over_is_not_kept(self, native):
        g = mps.graph(lambda x: x * held[0])
        for w in (2.0, 3.0):
            held = [None]

            def f(w):
                held[0] = w  # noqa: B023
                return g(X)

            assert_same(jax.jit(f)(jnp.float32(w)), X * w)
