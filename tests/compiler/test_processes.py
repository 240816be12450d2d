"""graph among threads and processes: executables that many threads run, each in an arena of its own; kept on disk."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from graph_common import NHWC, normal
from jax import lax
from process import python

import jax_mps as mps


def conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


def loss(params, x):
    """A network with a concatenation, a slice, a loop and a softmax: of everything that lies in an arena."""
    kernel, pixel, dense = params
    y = jnp.concatenate([jax.nn.relu(conv(x, kernel)), jnp.tanh(conv(x, pixel))], -1)
    y = conv(y[..., :16], pixel.reshape(1, 1, 16, 16)) + y[..., 16:]
    carry, _ = lax.scan(lambda h, t: (jnp.tanh(h @ dense + t), None), y[:, 0, 0], y[:, 0].swapaxes(0, 1))
    labels = jnp.arange(x.shape[0]) % 16
    return optax.softmax_cross_entropy_with_integer_labels(carry + y.mean((1, 2)), labels).mean()


PARAMS = normal(3, 3, 16, 16) / 12, normal(1, 1, 16, 16) / 4, normal(16, 16) / 4
step = jax.value_and_grad(loss)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def in_threads(count, work):
    """Runs `work(i)` in so many threads at once; raises what one of them raises."""
    start = threading.Barrier(count)

    def begin(worker):
        start.wait(60)
        work(worker)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(begin, i) for i in range(count)]:
            future.result()


class TestThreads:
    def test_one_executable_in_many_threads(self, native):
        compiled = jax.jit(mps.graph(step))
        inputs = [normal(2, 8, 8, 16, seed=s) for s in range(4)]
        wanted = [bits(compiled(PARAMS, x)) for x in inputs]
        assert len({tuple(w) for w in wanted}) == 4 and len(mps.graph(step).program(PARAMS, inputs[0])) == 1

        def work(worker):
            for i in range(40):
                k = (worker + i) % 4
                assert bits(compiled(PARAMS, inputs[k])) == wanted[k]

        in_threads(8, work)

    def test_traces_of_one_graph_in_many_threads(self, native):
        g = mps.graph(lambda x: mps.relu(x) * 2.0)

        def work(worker):
            for n in range(1, 12):
                x = normal(n + worker % 3)
                np.testing.assert_array_equal(g(x), jnp.maximum(x, 0.0) * 2.0)

        in_threads(6, work)

    def test_a_thousand_repetitions_are_bitwise_equal(self, native):
        compiled, x = jax.jit(mps.graph(step)), normal(3, 8, 8, 16)
        wanted = bits(compiled(PARAMS, x))
        assert all(bits(compiled(PARAMS, x)) == wanted for _ in range(100 if native == "metal" else 1000))

    def test_arenas_are_pooled(self, native):
        if native == "metal":
            pytest.skip("Metal's executables own their heaps")
        compiled, x = jax.jit(mps.graph(step)), normal(2, 8, 8, 16)
        jax.block_until_ready(compiled(PARAMS, x))
        before = mps.cache_info().arena_bytes
        for _ in range(20):
            jax.block_until_ready(compiled(PARAMS, x))
        assert mps.cache_info().arena_bytes == before > 0


SCRIPT = """
import sys
import jax
import jax.numpy as jnp
from jax import monitoring
import jax_mps as mps
from jax_mps import ffi

mps.__version__ = sys.argv[2] or mps.__version__
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
seen = []
monitoring.register_event_listener(lambda name, **_: seen.append(name))
mps.set_device("cpu")
step = mps.graph(lambda x: jax.lax.scan(lambda c, t: (mps.relu(c @ c) + t, c), x, x[None] * jnp.ones((3, 1, 1))))
x = jnp.arange(16.0).reshape(4, 4) / 16.0
lowered = jax.jit(step).lower(x)
seen.clear()  # what the trace computes is XLA's alone
compiled = lowered.compile()
print(sum(name.endswith("cache_hits") for name in seen), float(jnp.sum(compiled(x)[0])), ffi.build())
"""


class TestKeptOnDisk:
    """What JAX's cache of compiled functions gives to a second process."""

    @pytest.fixture(autouse=True)
    def of_the_cpu(self, native):
        if native == "metal":
            pytest.skip("asked of the CPU device")

    def compiled(self, cache, version="", package=None):
        """The number of functions found on disk, the result and the build, of a process."""
        paths = [package] if package else []
        done = python("-c", SCRIPT, cache, version, paths=paths, cwd=cache, JAX_PLATFORMS="cpu")
        hits, result, build = done.stdout.splitlines()[-1].split()
        return int(hits), result, build

    def test_the_same_build_finds_what_it_compiled(self, tmp_path):
        first, second = self.compiled(tmp_path), self.compiled(tmp_path)
        assert first[0] == 0 and second[0] > 0
        assert first[1:] == second[1:]

    def test_another_build_does_not(self, tmp_path):
        """Another version, and another library of the same version, which is a byte longer."""
        version = self.compiled(tmp_path)[2].split("+")[0]
        package = tmp_path / "other" / "jax_mps"
        package.mkdir(parents=True)
        for path in Path(mps.__file__).parent.iterdir():
            if path.name.startswith("_ext"):
                (package / path.name).write_bytes(path.read_bytes() + b"\0")
            elif path.name != "__pycache__":
                (package / path.name).symlink_to(path)
        builds = set()
        for options in ({"version": "0.0.9"}, {"package": package.parent}):
            for again in (False, True):
                hits, _, build = self.compiled(tmp_path, **options)
                assert (hits > 0) == again
                builds.add(build)
        assert sorted(b.startswith(f"{version}+") for b in builds) == [False, True]
