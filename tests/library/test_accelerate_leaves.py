"""accelerate: what it leaves as it was, with the reason, and JAX's caches, which keep both."""

from __future__ import annotations

import contextlib
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accelerate_common import PARAMS, X, _off, bits, conv, loss, on, step  # noqa: F401
from graph_common import normal
from jax import export
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jax_mps as mps
from jax_mps import _accelerate


class TestWhatItLeaves:
    def test_small_functions_and_single_ops(self, monkeypatch):
        monkeypatch.setattr(_accelerate, "graph", lambda function: pytest.fail("nothing to gain"))
        with mps.accelerate():
            jnp.add(X, 1.0), conv(X, PARAMS[0]), mps.conv(X, PARAMS[0]), jax.random.normal(jax.random.key(0), (99999,))
            jax.jit(lambda x: jnp.tanh(x).sum())(X)
            jax.jit(conv)(X[:1, :4, :4], PARAMS[0])
            jax.jit(lambda x: x @ x.T)(normal(64, 64))
            jax.jit(mps.graph(step))(PARAMS, X)
            jax.jit(lambda x: mps.graph(step)(PARAMS, x)[1] + 1)(X)
            jax.jit(lambda x, w: jnp.stack([mps.graph(conv)(x, w)] * 2))(X, PARAMS[0])

    def test_the_reason_is_told(self):
        def tell(f, *args):
            return {row.implementation for row in mps.explain(f, *args)}

        small = jax.jit(lambda x: jnp.tanh(x))
        assert tell(small, X) == {"not under mps.graph: XLA runs it"}
        with mps.accelerate():
            assert "no convolution, pool, recurrent loop or large product outside of mps.graph" in str(tell(small, X))

            def places(x, w):
                return conv(jax.device_put(x, jax.devices()[0]), w)

            assert "it says on which devices something is" in str(tell(jax.jit(places), X, PARAMS[0]))
            assert "found nothing in it" in str(tell(jax.jit(lambda x: (x @ x).sum()), jnp.ones((200, 200), jnp.int32)))
            both = jax.device_put(X, NamedSharding(Mesh(jax.devices()[:2], "d"), PartitionSpec("d")))
            assert "on several devices" in str(tell(jax.jit(conv), both, PARAMS[0]))
            assert [row.op for row in mps.explain(mps.relu, X)] == ["neuron"]  # as it runs outside of jit
            rows = jax.ShapeDtypeStruct(export.symbolic_shape("n, 16, 16, 3"), jnp.float32)
            assert "programs have no symbolic shape" in str(tell(jax.jit(conv), rows, PARAMS[0]))
            with mps.set_device("reference"):
                assert "the device is 'reference'" in str(tell(jax.jit(conv), X, PARAMS[0]))

    def test_what_graph_fails_at_runs_in_jax(self, monkeypatch):
        def failing(function):
            raise RuntimeError("no such luck")

        monkeypatch.setattr(_accelerate, "graph", failing)
        jitted = jax.jit(lambda x, w: conv(x, w) * 3)
        plain = bits(jitted(X, PARAMS[0]))
        with mps.accelerate(), pytest.warns(RuntimeWarning, match="accelerate: a function stays in JAX: no such luck"):
            assert bits(jitted(X, PARAMS[0])) == plain
        jax.clear_caches()

    def test_what_it_made_lives_as_long_as_the_function(self):
        jitted = jax.jit(lambda x, w: conv(x, w) * 5)
        with mps.accelerate():
            jitted(X, PARAMS[0])
            alive = weakref.ref(jitted.trace(X, PARAMS[0]).jaxpr)
            assert _accelerate._graphed(alive())[0] is not None
            del jitted
            jax.clear_caches()
            gc.collect()
        assert alive() is None

    def test_several_devices(self):
        mesh = Mesh(np.array(jax.devices()[:2]), "d")
        both = jax.device_put(X, NamedSharding(mesh, PartitionSpec("d")))
        functions = [
            (jax.jit(loss), PARAMS, both),
            (jax.jit(loss, in_shardings=(None, NamedSharding(mesh, PartitionSpec("d")))), PARAMS, X),
            (jax.pmap(conv, in_axes=(0, None)), jnp.stack([X, X]), PARAMS[0]),
            (jax.jit(sharded(mesh)), X, PARAMS[0]),
            (sharded(mesh), X, PARAMS[0]),
        ]
        for function, *args in functions:
            plain = function(*args)
            with mps.accelerate():
                before = mps.cache_info().misses
                found = function(*args)
            assert bits(found) == bits(plain) and mps.cache_info().misses == before
            assert found.sharding == plain.sharding

    def test_ahead_of_time_and_export(self):
        jitted = jax.jit(step)

        def exported():
            return export.export(jitted)(PARAMS, X).mlir_module()

        text, written = jitted.lower(PARAMS, X).as_text(), exported()
        plain = bits(jitted(PARAMS, X))
        with mps.accelerate():
            jitted(PARAMS, X)
            lowered = jitted.lower(PARAMS, X)
            assert lowered.as_text() == text and "jax_mps" not in text
            assert exported().partition("module @")[2].count("\n") == written.partition("module @")[2].count("\n")
            assert bits(lowered.compile()(PARAMS, X)) == plain
            assert str(jitted.trace(PARAMS, X).jaxpr) == str(jax.make_jaxpr(jitted)(PARAMS, X).eqns[0].params["jaxpr"])


def sharded(mesh):
    specs = (PartitionSpec("d"), PartitionSpec())
    return jax.shard_map(conv, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("d"))


@contextlib.contextmanager
def cache_on_disk(path):
    settings = {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_the_cache_on_disk_keeps_both(tmp_path):
    jitted = jax.jit(lambda params, x: step(params, x)[0])

    def entries():
        return {
            path.name
            for path in tmp_path.iterdir()
            if path.name.startswith("jit__lambda") and path.name.endswith("-cache")
        }

    with cache_on_disk(tmp_path):
        with mps.accelerate():
            native = bits(jitted(PARAMS, X))
        first = entries()
        plain = bits(jitted(PARAMS, X))
        second = entries()
        assert first and len(second) > len(first) and native != plain
        jax.clear_caches()
        assert bits(jitted(PARAMS, X)) == plain
        with mps.accelerate():
            assert bits(jitted(PARAMS, X)) == native
        assert entries() == second
