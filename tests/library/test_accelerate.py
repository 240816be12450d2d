"""accelerate: functions that were jitted without a thought of jax_mps, with it on and off."""

from __future__ import annotations

import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from accelerate_common import LABELS, PARAMS, X, _off, bits, conv, is_native, is_native_text, loss, on, step, wide64  # noqa: F401
from graph_common import normal
from jax import jit, lax

import jax_mps as mps
from jax_mps import _accelerate, _compat


class TestOnAndOff:
    def test_a_function_that_was_jitted_before(self):
        jitted = jit(step)  # of `from jax import jit`
        plain = bits(jitted(PARAMS, X))
        graphed = bits(jax.jit(mps.graph(step))(PARAMS, X))
        assert plain != graphed  # sums in another order
        mps.accelerate()
        assert bits(jitted(PARAMS, X)) == graphed
        mps.accelerate(False)
        assert bits(jitted(PARAMS, X)) == plain
        with mps.accelerate():
            assert bits(jitted(PARAMS, X)) == graphed and jitted._cache_size() == 2  # neither is compiled twice
        assert bits(jitted(PARAMS, X)) == plain

    def test_values(self):
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (PARAMS, X))
            expected, value = jax.jit(step)(*wide)
        with mps.accelerate():
            found, found_value = jax.jit(step)(PARAMS, X)
        np.testing.assert_allclose(found_value, value, rtol=1e-6)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_blocks_end_with_what_was_before(self):
        with mps.accelerate() as outer:
            assert on() and repr(outer) == "accelerate(True)"
            with mps.accelerate(False):
                assert not on()
                with mps.accelerate():
                    assert on()
                assert not on()
            assert on()
            mps.accelerate(False)  # to the end of the block
            assert not on()
            with mps.accelerate(), pytest.raises(ZeroDivisionError), mps.accelerate(False):
                raise ZeroDivisionError
            assert not on()
        assert not on()
        mps.accelerate()
        with mps.accelerate(False), mps.accelerate(False):
            assert not on()
        assert on()
        mps.accelerate(False)
        with outer:  # once more
            assert on()
        assert not on()

    def test_a_switch_is_for_all_threads_and_a_block_for_one(self):
        def elsewhere(work):
            found = []
            thread = threading.Thread(target=lambda: found.append(work()))
            thread.start()
            thread.join(60)
            return found[0]

        mps.accelerate()
        assert elsewhere(on)
        with mps.accelerate(False):
            assert elsewhere(on)
        elsewhere(lambda: mps.accelerate(False))
        assert not on()
        with mps.accelerate():
            assert not elsewhere(on) and on()

    def test_blocks_of_many_threads(self):
        wrong, start, before = [], threading.Barrier(8), list(_accelerate._switches)

        def work():
            start.wait(60)
            for _ in range(300):
                with mps.accelerate():
                    if not on():
                        wrong.append("off in a block")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and not _accelerate._on.get_global() and _accelerate._switches == before

    def test_errors(self, monkeypatch):
        with pytest.raises(TypeError, match=r"accelerate: on must be True or False, but got .*mps.graph\(f\) does"):
            mps.accelerate(step)
        monkeypatch.delattr(_compat.pjit, _compat._COMPILES)
        with pytest.raises(RuntimeError, match=rf"but JAX {jax.__version__} has no such function. Use mps.graph"):
            mps.accelerate()
        monkeypatch.setattr(_compat.pjit, _compat._COMPILES, lambda *args, jaxpr: None, raising=False)
        with pytest.raises(RuntimeError, match="must take ctx_mesh, in_shardings, jaxpr, name, out_shardings"):
            mps.accelerate()
        mps.accelerate(False)


class TestWhatItTakes:
    """The results are those of jit(graph(f)), bit for bit."""

    @staticmethod
    def check(function, *args, graphed=None):
        expected = jax.jit(mps.graph(graphed or function))(*args)
        jitted = function if hasattr(function, "lower") else jax.jit(function)
        with mps.accelerate():
            found = jitted(*args)
            again = jitted(*args)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        assert bits(found) == bits(again) == bits(expected)

        def types(tree):
            return [(x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]

        assert types(found) == types(expected)
        assert is_native_text(jitted, args)

    def test_nested_jits_and_results_that_are_arguments(self):
        inner = jax.jit(conv)
        self.check(
            lambda x, w: {"y": jax.jit(lambda x: inner(x, w))(x).sum(), "x": x, "one": 1.0, "n": 3}, X, PARAMS[0]
        )

    def test_loops(self):
        def train(params, xs):
            return lax.scan(lambda p, x: step(p, x), params, xs)

        self.check(train, PARAMS, jnp.stack([X, X + 1]))

        def repeat(x, w):
            return lax.fori_loop(0, 3, lambda i, x: jax.nn.relu(conv(x, w)), x)

        self.check(repeat, normal(2, 16, 16, 8), normal(3, 3, 8, 8))

        def branch(flag, x, w):
            return lax.cond(flag, lambda x: conv(x, w), lambda x: x[..., :1] * jnp.ones((1, 1, 1, 16)), x)

        self.check(branch, jnp.array(True), X, PARAMS[0])

    def test_a_recurrent_loop(self):
        def cell(state, x):
            h, c = state
            i, f, g, o = jnp.split(x @ W + h @ R, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        W, R = normal(8, 64) / 4, normal(16, 64) / 4

        def run(x):
            return lax.scan(cell, (jnp.zeros((4, 16)), jnp.zeros((4, 16))), x)[1]

        self.check(run, normal(12, 4, 8))
        self.check(jax.grad(lambda x: run(x).sum()), normal(12, 4, 8))

    def test_gradients_and_vmap_around_a_jit(self):
        jitted = jax.jit(loss)
        expected = jax.grad(lambda *wide: loss(*wide))(*wide64(PARAMS, X))
        with mps.accelerate():
            assert is_native(jax.grad(jitted), PARAMS, X)
            found = jax.grad(jitted)(PARAMS, X)
            mapped = jax.vmap(jitted, (None, 0))(PARAMS, jnp.stack([X, 2 * X]))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)
        np.testing.assert_allclose(mapped, [loss(PARAMS, X), loss(PARAMS, 2 * X)], rtol=1e-5)

    def test_donation(self):
        donated = jax.jit(step, donate_argnums=0)
        graphed = jax.jit(mps.graph(step))(PARAMS, X)
        params = jax.tree.map(jnp.copy, PARAMS)
        with mps.accelerate():
            found = donated(params, X)
        assert all(p.is_deleted() for p in params) and bits(found) == bits(graphed)

    def test_static_arguments_names_and_placement(self):
        @partial(
            jax.jit,
            static_argnames="strides",
            in_shardings=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
            keep_unused=True,
        )
        def convolve(x, w, unused, strides):
            return conv(x, w, strides)

        plain = convolve(X, PARAMS[0], 1.0, 2)
        with mps.accelerate():
            np.testing.assert_allclose(convolve(X, PARAMS[0], 1.0, 2), plain, atol=1e-5)
            assert convolve(X, PARAMS[0], 1.0, 1).shape[1] == 16

    def test_effects(self, capsys):
        @jax.jit
        def convolve(x, w):
            y = conv(x, w)
            jax.debug.print("sum {}", y.size)
            z = jax.pure_callback(lambda y: np.asarray(y) + 1, jax.ShapeDtypeStruct(y.shape, y.dtype), y)
            return z, jax.jit(jnp.sum)(conv(x, w))

        expected = convolve(X, PARAMS[0])
        with mps.accelerate():
            assert is_native(convolve, X, PARAMS[0])
            found = convolve(X, PARAMS[0])
        jax.effects_barrier()
        np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
        assert capsys.readouterr().out.count(f"sum {8 * 16 * 16 * 16}") == 3

    def test_references(self):
        @jax.jit
        def count(ref, x, w):
            ref[...] += conv(x, w).sum()

        plain, ref = jax.new_ref(jnp.zeros(())), jax.new_ref(jnp.zeros(()))
        count(plain, X, PARAMS[0])
        with mps.accelerate():
            count(ref, X, PARAMS[0])
        np.testing.assert_allclose(ref[...], plain[...], rtol=1e-4)

    def test_x64(self):
        with jax.enable_x64(True):

            def mixed(x, w, n):
                return (conv(x, w), n * 2.0)

            self.check(mixed, X, PARAMS[0], jnp.arange(3, dtype=jnp.float64))

    def test_leaks_and_nans(self):
        jitted = jax.jit(lambda x, w: jnp.log(conv(x, w)).sum())
        with mps.accelerate():
            with jax.checking_leaks():
                jax.jit(step)(PARAMS, X)
            with jax.debug_nans(True), pytest.raises(FloatingPointError, match="invalid value"):
                jitted(X, -jnp.abs(PARAMS[0]))
            with jax.disable_jit():
                assert bits(jax.jit(conv)(X, PARAMS[0])) == bits(conv(X, PARAMS[0]))

    def test_own_ops(self):
        self.check(lambda x, w: mps.relu(mps.conv(x, w)).sum(), X, PARAMS[0])

    def test_flax(self):
        linen, nnx = pytest.importorskip("flax.linen"), pytest.importorskip("flax.nnx")

        class Network(linen.Module):
            @linen.compact
            def __call__(self, x):
                x = linen.relu(linen.Conv(8, (3, 3))(x))
                return linen.Dense(5)(linen.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1))

        network, rule = Network(), optax.sgd(1e-3, momentum=0.9)
        params = network.init(jax.random.key(0), X)

        def linen_step(params, state, x):
            def loss(p):
                return optax.softmax_cross_entropy_with_integer_labels(network.apply(p, x), LABELS).mean()

            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = rule.update(gradients, state)
            return optax.apply_updates(params, updates), state, value

        self.check(linen_step, params, rule.init(params), X)

        class Model(nnx.Module):
            def __init__(self, rngs):
                self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
                self.dense = nnx.Linear(8, 5, rngs=rngs)

            def __call__(self, x):
                return self.dense(nnx.relu(self.conv(x)).mean((1, 2)))

        def nnx_step(model, x):
            def loss(m):
                return optax.softmax_cross_entropy_with_integer_labels(m(x), LABELS).mean()

            value, gradients = nnx.value_and_grad(loss)(model)
            nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(model, nnx.Param), gradients))
            return value

        one, other = Model(nnx.Rngs(0)), Model(nnx.Rngs(0))
        for _ in range(2):
            expected = nnx.jit(mps.graph(nnx_step))(one, X)
            with mps.accelerate():
                assert bits(nnx.jit(nnx_step)(other, X)) == bits(expected)
        assert bits(nnx.state(one)) == bits(nnx.state(other))

    def test_equinox(self):
        equinox = pytest.importorskip("equinox")
        model = equinox.nn.Conv2d(3, 8, 3, key=jax.random.key(0))
        images = jnp.moveaxis(X, -1, 1)

        def gradient(model, x):
            return equinox.filter_grad(lambda m: jnp.square(jax.vmap(m)(x)).mean())(model)

        expected = equinox.filter_jit(mps.graph(gradient))(model, images)
        with mps.accelerate():
            found = equinox.filter_jit(gradient)(model, images)
        assert bits(found) == bits(expected)
