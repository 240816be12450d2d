"""JAX's transformations over the ops, beyond what test_ops.py does for every case."""

from __future__ import annotations

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jax_mps as mps

MESH_SIZE = 2


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), jnp.float32)


def network(params, x):
    """A small convolutional network: conv, conv, dense."""
    w1, b1, w2, w3 = params
    x = mps.conv(x, w1, b1, strides=2, neuron="relu")
    x = mps.conv(x, w2, neuron="gelu")
    return mps.dense(x.reshape(x.shape[0], -1), w3)


def parameters():
    return normal(3, 3, 2, 4) * 0.4, normal(4), normal(3, 3, 4, 4) * 0.3, normal(36, 5) * 0.2


def loss(params, x):
    return jnp.mean(jnp.square(network(params, x)))


def assert_close(got, wanted, tolerance=1e-5):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def sgd(params, x):
    value, gradients = jax.value_and_grad(loss)(params, x)
    return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients), value


class TestTransformations:
    def test_jit_equals_eager_and_reference(self, native):
        params, x = parameters(), normal(4, 6, 6, 2)
        eager, compiled = jax.grad(loss)(params, x), jax.jit(jax.grad(loss))(params, x)
        with jax.disable_jit():
            interpreted = jax.grad(loss)(params, x)
        with mps.set_device("reference"):
            wanted = jax.grad(loss)(params, x)
        for got in (eager, compiled, interpreted):
            assert_close(got, wanted)

    def test_scan_of_training_steps_equals_a_loop(self, native):
        params, batches = parameters(), normal(5, 4, 6, 6, 2)
        scanned, values = jax.jit(lambda p, xs: jax.lax.scan(sgd, p, xs))(params, batches)
        looped, wanted = params, []
        for x in batches:
            looped, value = jax.jit(sgd)(looped, x)
            wanted.append(value)
        assert_close((scanned, values), (looped, jnp.stack(wanted)))
        assert values[-1] < values[0]

    def test_remat(self, native):
        params, x = parameters(), normal(4, 6, 6, 2)
        saved = jax.jit(jax.grad(lambda p: jnp.sum(jax.checkpoint(network)(p, x) ** 2)))(params)
        assert_close(saved, jax.grad(lambda p: jnp.sum(network(p, x) ** 2))(params))

    def test_gradients_of_each_example(self, native):
        params, x = parameters(), normal(3, 6, 6, 2)
        got = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, x[:, None])
        wanted = [jax.grad(loss)(params, x[i : i + 1]) for i in range(3)]
        assert_close(got, jax.tree.map(lambda *g: jnp.stack(g), *wanted))

    def test_vmap_folds_into_one_call(self, native):
        w = normal(3, 3, 2, 4)
        table = mps.explain(jax.vmap(lambda x: mps.conv(x, w)), normal(5, 3, 6, 6, 2))
        assert [row.types.split(",")[0] for row in table if row.op == "conv"] == ["f32[15"]

    def test_vmap_along_other_axes_and_nested(self, native):
        x, w = normal(2, 6, 6, 3, 4), normal(3, 3, 3, 2)
        got = jax.vmap(lambda x: mps.conv(x, w), in_axes=4, out_axes=1)(x)
        assert_close(got[:, 1], mps.conv(x[..., 1], w))
        nested = jax.vmap(jax.vmap(mps.dense, (0, None)), (0, 0))(normal(2, 3, 4, 5), normal(2, 5, 6))
        assert nested.shape == (2, 3, 4, 6)

    def test_third_order_of_a_convolution(self, native):
        with jax.enable_x64(True):
            x, w = (jnp.asarray(normal(*s), jnp.float64) for s in ((1, 4, 4, 2), (3, 3, 2, 2)))
            check_grads(functools.partial(mps.conv, strides=2), (x, w), order=3, modes=["rev"])

    def test_hessian_vector_product(self, native):
        params, x = parameters(), normal(2, 6, 6, 2)

        def product(params):
            gradients = jax.grad(loss)(params, x)
            return sum(jnp.vdot(g, p) for g, p in zip(gradients, params, strict=True))

        got = jax.jit(jax.grad(product))(params)
        with mps.set_device("reference"):
            assert_close(got, jax.jit(jax.grad(product))(params), 1e-4)

    def test_donated_state(self, native):
        x = normal(4, 6, 6, 2)
        params = jax.tree.map(jnp.copy, parameters())
        step = jax.jit(sgd, donate_argnums=0)
        wanted, _ = jax.jit(sgd)(parameters(), x)
        got, _ = step(params, x)
        assert all(p.is_deleted() for p in params)
        assert_close(got, wanted)

    def test_ahead_of_time(self, native):
        params, x = parameters(), normal(4, 6, 6, 2)
        lowered = jax.jit(jax.value_and_grad(loss)).lower(params, x)
        assert "jax_mps" in lowered.as_text()
        assert_close(lowered.compile()(params, x), jax.value_and_grad(loss)(params, x))

    def test_cond_and_while(self, native):
        params, x = parameters(), normal(2, 6, 6, 2)
        branch = jax.jit(lambda flag: jax.lax.cond(flag, lambda: network(params, x), lambda: jnp.ones((2, 5))))
        assert_close(branch(True), network(params, x))
        w = normal(3, 3, 2, 2) * 0.2
        looped = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: mps.conv(x, w), x))(x)
        assert_close(looped, mps.conv(mps.conv(mps.conv(x, w), w), w))

    def test_batch_size_change(self, native):
        """A peer's stale cache gave wrong gradients here."""
        params = parameters()
        for n in (4, 7, 4, 1):
            x = normal(n, 6, 6, 2)
            with mps.set_device("reference"):
                wanted = jax.grad(loss)(params, x)
            assert_close(jax.grad(loss)(params, x), wanted)

    def test_strict_promotion_is_kept(self, native):
        assert jax.config.jax_numpy_dtype_promotion == "strict"
        with pytest.raises(TypeError, match="w must have the dtype of x"):
            mps.conv(normal(1, 4, 4, 2), normal(3, 3, 2, 2).astype(jnp.bfloat16))

    @pytest.mark.parametrize("neuron", ["relu", ("leaky_relu", 0.1), "relun", "gelu"])
    def test_nan_and_infinity_survive_a_fused_neuron(self, native, neuron):
        """A relu that turns NaN into 0 hides a training that diverged."""
        x = np.array(normal(2, 8, 8, 3))
        x[0, 3, 3, 0], x[1, 2, 2, 1] = np.nan, -np.inf
        w = normal(3, 3, 3, 16)
        name, *numbers = (neuron,) if isinstance(neuron, str) else neuron
        got, wanted = mps.conv(x, w, neuron=neuron), mps.neuron(mps.conv(x, w), name, *numbers)
        assert np.isnan(wanted).sum() >= 9 * 16 and np.array_equal(np.isnan(got), np.isnan(wanted))
        rows = mps.dense(x.reshape(128, 3), w[0, 0], neuron=neuron)
        assert np.isnan(rows).sum() >= 16
        with mps.set_device("reference"):
            np.testing.assert_array_equal(np.isnan(mps.conv(x, w, neuron=neuron)), np.isnan(got))

    def test_weights_of_batch_above_16_bits(self, native):
        """A peer's weight gradient wraps a 16-bit batch counter."""
        n = 2**16 + 3
        x, w = jnp.ones((n, 1, 1, 1)), jnp.ones((1, 1, 1, 2))
        assert_close(jax.grad(lambda w: jnp.sum(mps.conv(x, w)))(w), jnp.full((1, 1, 1, 2), float(n)))

    def test_more_than_65536_channels_in_one_dimension(self, native):
        x, w = normal(1, 4, 3), normal(2, 3, 65540)
        with mps.set_device("reference"):
            wanted = mps.conv(x, w)
        assert_close(mps.conv(x, w), wanted, 1e-4)

    def test_window_of_182(self, native):
        x, w = normal(1, 184, 184, 1), normal(182, 182, 1, 2) * 0.01
        with mps.set_device("reference"):
            wanted = mps.conv(x, w, padding="VALID")
        assert_close(mps.conv(x, w, padding="VALID"), wanted, 1e-4)


@pytest.mark.parametrize("check", [True, False], ids=["check_vma", "unchecked"])
class TestShardMap:
    def mesh(self):
        if jax.device_count() < MESH_SIZE:
            pytest.fail(f"the tests run with {MESH_SIZE} CPU devices; see conftest.py")
        return jax.make_mesh((MESH_SIZE,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def test_forward_and_gradient_inside(self, native, check):
        params, x = parameters(), normal(4, 6, 6, 2)

        def local(params, x):
            if check:  # the replicated parameters' gradient comes summed
                return jax.grad(loss)(params, x)
            return jax.lax.psum(jax.grad(loss)(params, x), "data")

        sharded = jax.shard_map(local, mesh=self.mesh(), in_specs=(P(), P("data")), out_specs=P(), check_vma=check)
        got = jax.tree.map(lambda g: g / MESH_SIZE, jax.jit(sharded)(params, x))
        assert_close(got, jax.grad(loss)(params, x))

    def test_gradient_outside(self, native, check):
        params, x = parameters(), normal(4, 6, 6, 2)
        forward = jax.shard_map(
            network, mesh=self.mesh(), in_specs=(P(), P("data")), out_specs=P("data"), check_vma=check
        )
        got = jax.jit(jax.grad(lambda p: jnp.mean(jnp.square(forward(p, x)))))(params)
        assert_close(got, jax.grad(loss)(params, x))


class TestThreads:
    def test_many_threads_call_the_same_and_different_functions(self, native):
        steps = {n: jax.jit(jax.value_and_grad(loss)) for n in (1, 2, 3, 4)}
        params = parameters()
        inputs = {n: normal(n, 6, 6, 2) for n in steps}
        wanted = {n: steps[n](params, inputs[n]) for n in steps}
        failures = []

        def work(worker):
            try:
                for i in range(25):
                    n = 1 + (worker + i) % 4
                    got = jax.value_and_grad(loss)(params, inputs[n]) if i % 10 == 9 else steps[n](params, inputs[n])
                    assert_close(got, wanted[n])
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_compiling_while_others_run_and_the_cache_is_small(self, native):
        limit = mps.cache_info().limit
        mps.set_cache_limit(2)
        try:
            self.test_many_threads_call_the_same_and_different_functions(native)
            assert mps.cache_info().count <= 2
        finally:
            mps.set_cache_limit(limit)

    def test_a_thousand_repetitions_are_bitwise_equal(self, native):
        params, x = parameters(), normal(8, 6, 6, 2)
        step = jax.jit(jax.value_and_grad(loss))
        wanted = jax.tree.map(np.asarray, step(params, x))
        for _ in range(1000):
            for got, want in zip(jax.tree.leaves(step(params, x)), jax.tree.leaves(wanted), strict=True):
                assert np.array_equal(got, want)


def test_persistent_compilation_cache(native, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
        params, x = parameters(), normal(4, 6, 6, 2)
        first = jax.jit(lambda p, x: network(p, x))(params, x)
        assert list(tmp_path.iterdir())
        jax.clear_caches()
        assert_close(jax.jit(lambda p, x: network(p, x))(params, x), first, 0)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


class TestDevice:
    def test_set_device_reaches_compiled_functions(self, native):
        f = jax.jit(lambda x: mps.relu(x))
        x = normal(8)
        assert "jax_mps" in f.lower(x).as_text()
        with mps.set_device("reference"):
            assert mps.device() == "reference"
            assert "jax_mps" not in f.lower(x).as_text()
            assert mps.explain(f, x)[0][:5] == ("neuron", "f32[8] -> f32[8]", 1, "xla", "the device is 'reference'")
        assert mps.device() == native

    def test_explain_names_the_nodes_of_a_graph(self, native):
        def f(x, w):
            y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jnp.tanh(y) * 2

        rows = {row.op: row for row in mps.explain(mps.graph(f), normal(1, 8, 8, 2), normal(3, 3, 2, 4))}
        assert rows["conv"].device == native and "oneDNN" in rows["conv"].implementation
        assert "instructions" in rows["chain"].implementation

    def test_explain_says_why_an_op_stays_on_xla(self, native):
        table = mps.explain(lambda x: mps.relu(x), jnp.zeros((0, 3)))
        assert "empty array" in table[0].implementation and table[0].device == "xla"
        with jax.enable_x64(True):
            table = mps.explain(lambda x: mps.relu(x), jnp.zeros(3, jnp.float64))
        assert "float64" in table[0].implementation
        assert "neuron" in str(table)
