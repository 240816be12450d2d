"""graph is a function like any other to JAX: its arguments and results, transformations, effects, caches."""

from __future__ import annotations

import functools
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import assert_same, normal
from jax import lax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import PartitionSpec as P

import jax_mps as mps

W = normal(3, 4)


def layer(x, w=W):
    return mps.relu(x @ w)


def runs_natively(function, *args):
    return len(mps.graph(function).program(*args)) > 0


class TestArguments:
    def test_trees_keywords_and_static_leaves(self, native):
        def f(tree, mode, other=None, *, scale=2.0):
            y = layer(tree["x"])
            return {"y": y * scale if mode == "double" else y, "none": None, "list": [tree["n"], (y,)]}

        tree, g = {"x": normal(2, 3), "n": 3}, mps.graph(f)
        for mode, scale in [("double", 2.0), ("double", 3), ("same", 2.0)]:
            assert_same(g(tree, mode, scale=scale), jax.jit(f, static_argnums=1)(tree, mode, scale=scale))

    def test_results_that_are_inputs_constants_and_each_other(self, native):
        def f(x):
            y = layer(x)
            return x, x.reshape(-1), y, y, y.reshape(-1), y.T, 3, 2.5, jnp.ones(2), np.arange(3, dtype=np.int32)

        assert_same(jax.jit(mps.graph(f))(normal(2, 3)), jax.jit(f)(normal(2, 3)))
        assert_same(mps.graph(f)(normal(2, 3)), jax.jit(f)(normal(2, 3)))

    def test_no_arguments(self, native):
        f = lambda: mps.relu(jnp.ones(4))  # noqa: E731
        assert_same(mps.graph(f)(), f())

    @pytest.mark.parametrize("size", [3, (2, 3), np.int32(3)])
    def test_all_arguments_static_in_jit(self, native, size):
        f = lambda size: jnp.full(size, 2.0)  # noqa: E731
        assert_same(jax.jit(mps.graph(f), static_argnums=0)(size), np.full(size, 2.0, np.float32))
        assert_same(jax.jit(lambda x: x * mps.graph(f)(size))(jnp.float32(1.0)), np.full(size, 2.0, np.float32))

    def test_name_of_a_partial_function(self, native):
        def scaled(scale, x):
            return mps.relu(x * scale)

        lowered = jax.jit(mps.graph(functools.partial(functools.partial(scaled, 2.0)))).lower(normal(3))
        assert "@jit_scaled" in lowered.as_text()

    def test_what_is_set_on_a_function_is_on_the_graphed_one(self, native):
        def f(x):
            return mps.relu(x)

        f.units, f.program = "metres", "f's own"
        for graphed in (mps.graph(f), mps.graph(jax.jit(f)), jax.jit(mps.graph(f))):
            assert graphed.units == "metres" and graphed.__name__ == "f"
        assert callable(mps.graph(f).program)
        assert not hasattr(mps.graph(functools.partial(f)), "units")

    def test_static_numbers_of_numpy_have_a_sign_at_zero(self, native):
        g = mps.graph(lambda sign, x: jnp.copysign(x, sign))
        with_sign = jax.jit(g, static_argnums=0)
        assert_same(with_sign(np.float32(0.0), jnp.ones(2)), jnp.ones(2))
        assert_same(jax.jit(lambda x: g(np.float32(-0.0), x))(jnp.ones(2)), -jnp.ones(2))

    def test_closure_over_arrays_and_outer_arguments(self, native):
        table = np.asarray(normal(3, 3))
        f = lambda x, w: mps.graph(lambda x: mps.relu(x @ w) @ W * table[:2, :1])(x)  # noqa: E731
        assert_same(jax.jit(f)(normal(2, 3), table), jnp.maximum(normal(2, 3) @ table, 0.0) @ W * table[:2, :1])
        assert len(mps.graph(lambda x: mps.relu(x @ table)).program(normal(2, 3))) == 1

    def test_empty_arrays(self, native):
        f = lambda x, y: (layer(x), y * 2.0, jnp.sum(y))  # noqa: E731
        assert_same(mps.graph(f)(normal(2, 3), jnp.zeros((0, 3))), f(normal(2, 3), jnp.zeros((0, 3))))

    def test_what_no_kernel_takes_stays_in_jax(self, native):
        f = lambda x: jnp.sin(mps.relu(x).reshape((1,) * 13 + x.shape)).sum(0)  # noqa: E731
        assert_same(jax.jit(mps.graph(f))(normal(2, 3)), f(normal(2, 3)))

    def test_weak_types_stay(self, native):
        f = lambda x, s: (mps.relu(x) * s, s * 2)  # noqa: E731
        for s in (2.0, 2, jnp.float32(2.0)):
            for g in (mps.graph(f), jax.jit(mps.graph(f))):
                got, wanted = g(normal(3), s), jax.jit(f)(normal(3), s)
                assert_same(got, wanted)
                assert [y.weak_type for y in got] == [y.weak_type for y in wanted]

    def test_integers_and_booleans(self, native):
        def f(a, u, x):
            b = jnp.where(a == 0, 1, a)
            integers = (
                a + b,
                a * b,
                a - 1,
                -a,
                abs(a),
                jnp.sign(a),
                a**2,
                a & b,
                a | 1,
                a ^ b,
                a << 1,
                a >> 1,
                a // b,
                a % b,
            )
            unsigned = u * u, u - jnp.uint32(3), u // jnp.uint32(3), u > 2, u.astype(jnp.float32), ~u
            mask = x > 0
            booleans = mask & (x > 1), mask | ~mask, mask ^ mask, mask.T, jnp.concatenate([mask, ~mask]), x.astype(bool)
            return integers, unsigned, booleans, mask.astype(jnp.int32), jnp.where(mask, x, 0.0), mps.relu(x)

        a, u = jnp.asarray([7, -7, 0, 2**31 - 1]), jnp.asarray([0, 1, 5, 2**32 - 1], jnp.uint32)
        assert_same(jax.jit(mps.graph(f))(a, u, normal(2, 3)), jax.jit(f)(a, u, normal(2, 3)))
        assert runs_natively(f, a, u, normal(2, 3))

    def test_float64_stays_in_jax(self, native):
        with jax.enable_x64(True):
            x = normal(2, 3).astype(jnp.float64)
            for f in (lambda x: jnp.sin(x) @ x.T, mps.relu, lambda x: mps.relu(x.astype(jnp.float32)).sum(0)):
                assert_same(mps.graph(f)(x), f(x))
            assert not runs_natively(mps.relu, x)
        assert_same(mps.graph(layer)(np.ones((2, 3))), layer(jnp.ones((2, 3))))

    @pytest.mark.parametrize("key", [jax.random.key(1), jax.random.PRNGKey(1)], ids=["typed", "raw"])
    def test_random_keys(self, native, key):
        f = lambda x, k: (mps.relu(x) * jax.random.bernoulli(k, 0.5, x.shape).astype(x.dtype), k)  # noqa: E731
        assert_same(mps.graph(f)(normal(4, 5), key), f(normal(4, 5), key))
        loss = lambda g: lambda x: jnp.sum(g(x, key)[0] ** 2)  # noqa: E731
        assert_same(jax.grad(loss(mps.graph(f)))(normal(4, 5)), jax.grad(loss(f))(normal(4, 5)))

    def test_errors(self):
        with pytest.raises(TypeError, match=r"graph: function must be callable, but got 3\. Pass the function"):
            mps.graph(3)


class TestMemory:
    @pytest.mark.parametrize(
        "fill", [jnp.ones, jnp.zeros, lambda shape: normal(*shape)], ids=["ones", "zeros", "random"]
    )
    @pytest.mark.parametrize("wrap", [mps.graph, lambda f: jax.jit(mps.graph(f))], ids=["eager", "jit"])
    def test_what_it_closes_over_goes_with_it(self, native, fill, wrap):
        big = fill((64, 64))
        kept = weakref.ref(big)
        f = wrap((lambda big: lambda x: jnp.tanh(mps.dense(x, big)) @ big)(big))
        loss = lambda x, f=f: f(x).sum()  # noqa: E731
        x = normal(8, 64)
        jax.block_until_ready((f(x), jax.grad(loss)(x)))
        del f, big, loss
        assert kept() is None  # at once: nothing waits for the garbage collector

    def test_arguments_that_are_not_read_are_left_out(self, native):
        f = mps.graph(lambda x, y, z: (mps.relu(x), z.sum() * 0 + y.shape[0])[0])
        x, y = normal(3), normal(4)
        assert jax.jit(f).lower(x, y, y).as_text().count("%arg") == jax.jit(mps.relu).lower(x).as_text().count("%arg")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # that donated buffers were not usable
            jax.jit(f, donate_argnums=1)(x, y, normal(5))
        assert_same(jax.grad(lambda y: f(x, y, y).sum())(y), jnp.zeros(4))

    def test_results_that_are_not_read_are_not_computed(self, native):
        f = mps.graph(lambda x, w: (mps.dense(x, w), mps.conv(x[None, None], w[None, None])))
        rows = mps.explain(lambda x, w: f(x, w)[0], normal(4, 3), normal(3, 2))
        jaxpr = jax.jit(lambda x, w: f(x, w)[0]).trace(normal(4, 3), normal(3, 2)).lower().as_text()
        assert {row.op for row in rows} == {"dense", "conv"} and "conv(" not in jaxpr


class TestTransformations:
    def test_jit_ahead_of_time_and_donation(self, native):
        f = lambda s, x: (jax.tree.map(lambda a: mps.relu(x @ W) + a, s), x.sum())  # noqa: E731
        state, x = {"a": normal(2, 4)}, normal(2, 3)
        wanted, jitted = f(state, x), jax.jit(mps.graph(f), donate_argnums=0)
        assert_same(jitted.lower(state, x).compile()(jax.tree.map(jnp.copy, state), x), wanted)
        assert_same(jitted(state, x), wanted)

    def test_first_and_second_derivatives(self, native):
        f = lambda x: jnp.sum(mps.sigmoid(x @ W) ** 2)  # noqa: E731
        twice = lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2))  # noqa: E731
        x = normal(2, 3)
        assert_same(jax.grad(mps.graph(f))(x), jax.grad(f)(x))
        assert_same(twice(mps.graph(f))(x), twice(f)(x))
        assert_same(mps.graph(twice(f))(x), twice(f)(x))

    def test_auxiliary_results(self, native):
        f = lambda x: (jnp.sum(layer(x)), (x.astype(jnp.int32), jnp.int32(3), {"x": x}))  # noqa: E731
        wanted = jax.value_and_grad(f, has_aux=True)(normal(2, 3))
        assert_same(jax.value_and_grad(mps.graph(f), has_aux=True)(normal(2, 3)), wanted)
        assert_same(jax.jit(jax.value_and_grad(mps.graph(f), has_aux=True))(normal(2, 3)), wanted)

    def test_vmap(self, native):
        xs = normal(5, 2, 3)
        assert_same(jax.vmap(mps.graph(layer), (0, None))(xs, W), jax.vmap(layer, (0, None))(xs, W))
        each = lambda f: jax.vmap(jax.grad(lambda x, w: jnp.sum(f(x, w) ** 2)), (0, None))  # noqa: E731
        assert_same(jax.jit(each(mps.graph(layer)))(xs, W), each(layer)(xs, W))
        centred = lambda x: mps.relu(x) - lax.pmean(x, "i") * lax.axis_size("i")  # noqa: E731
        g = mps.graph(centred)
        for n in (2, 3):  # one graph, other sizes of the axis
            assert_same(jax.vmap(g, axis_name="i")(normal(n, 4)), jax.vmap(centred, axis_name="i")(normal(n, 4)))

    def test_remat(self, native):
        f = lambda x: jnp.sum(jax.checkpoint(lambda x: mps.sigmoid(x @ W))(x) ** 2)  # noqa: E731
        wanted = jax.grad(f)(normal(2, 3))
        assert_same(jax.jit(mps.graph(jax.grad(f)))(normal(2, 3)), wanted)
        assert_same(jax.grad(jax.checkpoint(mps.graph(f)))(normal(2, 3)), wanted)

    def test_shard_map(self, native):
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

        def step(w, x):
            value, dw = jax.value_and_grad(lambda w: jnp.mean(layer(x, w) ** 2))(w)
            return w - 0.1 * lax.pmean(dw, "batch"), lax.pmean(value, "batch")

        def sharded(f):
            specs = {"in_specs": (P(), P("batch")), "out_specs": (P(), P())}
            return jax.jit(jax.shard_map(f, mesh=mesh, **specs))

        assert_same(sharded(mps.graph(step))(W, normal(4, 3)), sharded(step)(W, normal(4, 3)))


class TestLoops:
    def test_bodies_are_graphed(self, native):
        table = np.asarray(normal(3, 3))

        def f(x):
            def body(carry, t):
                return (carry[0] * 2.0, mps.relu(carry[1] @ table) * 0.5 + t), carry[0]

            carry, ys = lax.scan(body, (1.0, x), normal(4, 3, 3))
            y = lax.while_loop(lambda c: jnp.sum(mps.relu(c)) < 100.0, lambda c: mps.relu(c) * 1.5 + 0.1, carry[1])
            return carry, ys, lax.cond(y[0, 0] > 0.0, mps.relu, lambda y: mps.tanh(y @ y), y)

        assert_same(jax.jit(mps.graph(f))(normal(3, 3)), jax.jit(f)(normal(3, 3)))
        text = str(jax.make_jaxpr(mps.graph(f))(normal(3, 3)))
        assert "mps_neuron" not in text and text.count("mps_program") >= 5

    def test_loops_over_graphs(self, native):
        def loss(f, w):
            carry, _ = lax.scan(lambda c, x: (f(c, x), None), normal(2, 3), normal(4, 3, 3) * w)
            return jnp.sum(carry)

        assert_same(jax.grad(lambda w: loss(mps.graph(layer), w))(W[0, 0]), jax.grad(lambda w: loss(layer, w))(W[0, 0]))


class TestEffects:
    def test_callbacks_stay_in_their_order(self, native):
        seen = []

        def tell(name, x, ordered=True):
            jax.debug.callback(lambda x: seen.append((name, float(x))), x, ordered=ordered)

        def f(x):
            y = layer(x)
            tell("late", jnp.sum(y) * 0.0)
            tell("early", jnp.sum(x) * 0.0)
            return y

        mps.graph(f)(normal(2, 3))
        jax.jit(mps.graph(f))(normal(2, 3))
        jax.effects_barrier()
        assert seen == [("late", 0.0), ("early", 0.0)] * 2

    def test_prints_between_native_calls(self, native, capfd):
        def f(x):
            y = layer(x)
            jax.debug.print("first {}", jnp.sum(x) * 0.0, ordered=True)
            z = mps.relu(jnp.sort(y, 0))  # an island between two regions
            jax.debug.print("second {}", jnp.sum(z) * 0.0, ordered=True)
            return z

        assert len(mps.graph(f).program(normal(2, 3))) == 2
        assert_same(jax.jit(mps.graph(f))(normal(2, 3)), jnp.maximum(jnp.sort(layer(normal(2, 3)), 0), 0.0))
        jax.effects_barrier()
        assert capfd.readouterr().out.split()[::2] == ["first", "second"]

    def test_gradients_of_a_function_with_effects(self, native):
        """What changes derivatives is not lost where JAX looks into the function."""

        def f(x, w):
            jax.debug.callback(lambda v: None, jnp.sum(x))
            y = jax.nn.relu(x * 0.0) + mps.dense(lax.stop_gradient(x), w) * jnp.sum(x)
            return jnp.sum(jnp.tanh(y) ** 2)

        x, w = normal(3, 3), normal(3, 3)
        penalty = lambda f: lambda w: jnp.sum(jax.vmap(jax.grad(f), (0, None))(jnp.stack([x, 2 * x]), w) ** 2)  # noqa: E731
        for wrap in (lambda g: g, jax.jit):
            assert_same(wrap(jax.grad(mps.graph(f), (0, 1)))(x, w), jax.grad(f, (0, 1))(x, w))
            assert_same(wrap(jax.grad(penalty(mps.graph(f))))(w), jax.grad(penalty(f))(w))

    def test_callbacks_in_bodies_stay(self, native):
        seen = []

        def f(x):
            def body(carry, _):
                jax.debug.callback(lambda c: seen.append(float(c)), jnp.sum(mps.relu(carry)))
                return carry + 1.0, None

            lax.scan(body, jnp.zeros(3), length=3)
            lax.cond(jnp.sum(x) < 1e9, lambda: jax.debug.callback(lambda: seen.append(-1.0)), lambda: None)
            return mps.relu(x)

        jax.jit(mps.graph(f))(normal(2, 3))
        jax.effects_barrier()
        assert sorted(seen) == [-1.0, 0.0, 3.0, 6.0]

    def test_references_are_updated(self, native):
        total = jax.new_ref(jnp.zeros(4))

        def f(total, x):
            total[...] = total[...] + jnp.sum(layer(x), 0)
            return total[...]

        g = jax.jit(mps.graph(f))
        for i in (1.0, 2.0):
            assert_same(g(total, jnp.ones((2, 3))), i * jnp.sum(layer(jnp.ones((2, 3))), 0))


class TestCaches:
    def test_traced_once_a_shape_and_dropped_at_the_bound(self, native):
        traces = []

        def f(x):
            traces.append(x.shape)
            return mps.relu(x)

        g = mps.graph(f)
        for n in (2, 3, 2, 3):
            g(normal(n))
        assert traces == [(2,), (3,)]
        for n in range(1, 80):
            jax.eval_shape(g, jax.ShapeDtypeStruct((n,), jnp.float32))
        assert len(g._cache) == 64

    def test_configuration_is_part_of_the_trace(self, native):
        g = mps.graph(lambda x: jnp.zeros(3, float) + mps.relu(x).astype(float))
        assert g(normal(3)).dtype == jnp.float32
        with jax.enable_x64(True):
            assert g(normal(3)).dtype == jnp.float64

    def test_compiled_steps_are_kept_on_disk(self, native, tmp_path):
        options = {
            "jax_compilation_cache_dir": str(tmp_path),
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        before = {name: getattr(jax.config, name) for name in options}
        step, x = (lambda x: jax.lax.scan(lambda c, x: (layer(c[:, :3]) + x, c), x[0], x)), normal(5, 2, 4)
        try:
            for name, value in options.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            first = jax.jit(mps.graph(step))(x)
            kept = sorted(tmp_path.glob("*-cache"))
            assert kept
            jax.clear_caches()
            mps.clear_cache()
            assert_same(jax.jit(mps.graph(step))(x), first)
            assert sorted(tmp_path.glob("*-cache")) == kept
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()

    def test_the_reference_device_has_no_programs(self):
        with mps.set_device("reference"):
            g = mps.graph(layer)
            assert_same(g(normal(2, 3)), layer(normal(2, 3)))
            assert not g.program(normal(2, 3))

    def test_without_jit(self, native):
        with jax.disable_jit():
            assert_same(mps.graph(layer)(normal(2, 3)), layer(normal(2, 3)))

    def test_values_are_concrete_without_jit(self, native):
        seen = []

        def f(x):
            seen.append(float(x[0]))
            return mps.relu(x) * seen[-1]

        for g in (mps.graph(f), jax.jit(mps.graph(f))):
            with jax.disable_jit():
                assert_same(g(jnp.array([2.0, -1.0])), jnp.array([4.0, 0.0]))
                assert_same(g(jnp.array([3.0, -1.0])), jnp.array([9.0, 0.0]))
        assert seen == [2.0, 3.0] * 2


def test_the_same_function_graphed_anew_is_not_compiled_again():
    traced = []

    def f(x):
        traced.append(1)
        return jnp.sin(x) * 2

    class Model:
        def call(self, x):
            traced.append(2)
            return jnp.cos(x)

    x, model, other = jnp.ones(3), Model(), Model()
    kept = [jax.jit(mps.graph(g)) for g in (f, model.call)]
    for compiled in kept:
        compiled(x)
    first = list(traced)
    for g in (f, model.call):
        jax.jit(mps.graph(g))(x)
    assert traced == first
    assert mps.graph(f) == mps.graph(f) != mps.graph(f, fuse=False) and mps.graph(f) != f
    assert mps.graph(model.call) == mps.graph(model.call) != mps.graph(other.call)
    jax.jit(mps.graph(other.call))(x)
    assert traced == [*first, 2]
