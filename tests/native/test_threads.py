"""The threads of the CPU device: their number changes no bit, callers share them, and there may be none."""

import os
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from process import environment, python
from setting import ROOT

import jax_mps as mps

pytestmark = pytest.mark.skipif(mps.device() != "cpu", reason="the CPU device's threads")

# Values and gradients of everything that threads share, as one hash a line.
_WORK = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
import jax_mps as mps

rng = np.random.default_rng(0)
def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(rng.standard_normal(shape), dtype)

def show(name, f, *args):
    y, pullback = jax.vjp(jax.jit(f), *args)
    results = jax.tree.leaves((y, pullback(jax.tree.map(jnp.cos, y))))
    print(name, hashlib.sha256(b"".join(np.asarray(r).tobytes() for r in results)).hexdigest(), flush=True)

def conv(name, x, w, dtype=jnp.float32, **options):
    show(name, lambda x, w: mps.conv(x, w, **options), normal(*x, dtype=dtype), normal(*w, dtype=dtype))

conv("filtering", (5, 30, 29, 32), (3, 3, 32, 48))
conv("pixels", (7, 28, 28, 64), (1, 1, 64, 96))
conv("strided pixels", (6, 28, 27, 64), (1, 1, 64, 32), strides=2)
conv("strided", (6, 33, 31, 16), (3, 3, 16, 40), strides=2)
conv("one image", (1, 61, 40, 16), (1, 7, 16, 64))
conv("one image, dilated", (1, 61, 40, 16), (3, 3, 16, 32), dilation=2)
conv("small images", (8, 5, 5, 128), (3, 3, 128, 160), strides=2)
conv("groups", (6, 30, 30, 32), (3, 3, 4, 32), groups=8)
conv("bfloat16", (6, 30, 30, 32), (3, 3, 32, 32), jnp.bfloat16, strides=2)
conv("one dimension", (9, 300, 24), (5, 24, 32))
for shape in ((300, 200, 260), (8, 600, 900), (70, 5000, 50), (3000, 64, 64)):
    show(f"dense {shape}", mps.dense, normal(*shape[:2]), normal(*shape[1:]))
show("products", mps.graph(lambda a, b: jnp.einsum("bij,bkj->bik", a, b)), normal(6, 120, 90), normal(6, 130, 90))
for batch, hidden in ((4, 160), (40, 64)):
    for cell, gates in (("lstm", 4), ("gru", 3)):
        show(f"{cell} {batch}", lambda x, w, r, b: getattr(mps, cell)(x, w, r, b)[0], normal(batch, 9, 40),
             normal(40, gates * hidden), normal(hidden, gates * hidden), normal(gates * hidden))
show("batch norm", lambda x, g, b: mps.batch_norm(x, g, b, epsilon=1e-3)[0], normal(9, 40, 40, 24), normal(24),
     normal(24))
show("max pool", lambda x: mps.max_pool(x, 3, strides=2), normal(9, 41, 40, 24))
show("softmax", mps.softmax, normal(900, 300))
show("chain", mps.graph(lambda x: jnp.sum(jnp.tanh(x) * jnp.exp(-x * x), axis=0)), normal(2000, 90))
"""


def _run(source, **environment):
    return python("-c", source, **environment).stdout.splitlines()


def test_no_bit_depends_on_the_number_of_threads():
    one = _run(_WORK, JAX_MPS_THREADS="1")
    assert len(one) > 20
    for threads in ("2", "3", "8"):
        assert _run(_WORK, JAX_MPS_THREADS=threads) == one


def test_callers_at_once_get_what_one_gets():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 24, 24, 32), np.float32)
    w = rng.standard_normal((3, 3, 32, 32), np.float32)
    r = rng.standard_normal((600, 700), np.float32)

    @jax.jit
    def f(x, w, r):
        return mps.conv(x, w, strides=2), mps.dense(r, r.T), mps.softmax(r)

    alone = jax.tree.map(np.asarray, f(x, w, r))
    wrong = []

    def call():
        for _ in range(20):
            if not all(np.array_equal(a, b) for a, b in zip(alone, f(x, w, r), strict=True)):
                wrong.append(threading.get_ident())

    callers = [threading.Thread(target=call) for _ in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize(("name", "number"), [("JAX_MPS_THREADS", 3), ("OMP_NUM_THREADS", 5), ("JAX_MPS_THREADS", 0)])
def test_the_environment_says_how_many(name, number):
    shown = _run(
        "import os; from jax_mps import ffi; print(ffi.native().versions()); print(len(os.sched_getaffinity(0)))",
        **{"JAX_MPS_THREADS": "", "OMP_NUM_THREADS": "", name: str(number)},
    )
    assert f"{number or shown[1]} threads" in shown[0]


_NO_THREADS = """
import resource
import jax, numpy as np
import jax_mps as mps
x = np.random.default_rng(0).standard_normal((500, 400), np.float32)
f = jax.jit(lambda x: mps.dense(x, x.T)).lower(x).compile()
jax.block_until_ready(jax.jit(lambda x: x + 1)(x))
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, size + 2**29))
print(np.allclose(f(x), x @ x.T, atol=1e-3))
"""


def test_no_thread_to_be_had():
    """Threads whose stacks do not fit into what the process may take are done without."""
    source = f"ulimit -s 1048576; exec '{sys.executable}' -P -c '{_NO_THREADS}'"
    done = subprocess.run(
        ["bash", "-c", source], capture_output=True, text=True, env=environment(JAX_MPS_THREADS="4"), timeout=300
    )
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "True", done.stderr[-2000:]


@pytest.fixture(scope="module")
def callers(tmp_path_factory):
    """threads.cc under ThreadSanitizer."""
    compiler = shutil.which("c++") or shutil.which("g++")
    program = tmp_path_factory.mktemp("threads") / "threads"
    sources = [ROOT / "tests/native/threads.cc", ROOT / "cc/cpu/threads.cc"]
    command = [compiler, "-std=c++20", "-O1", "-g", "-pthread", "-fsanitize=thread", f"-I{ROOT / 'cc'}", *sources]
    if not compiler or subprocess.run([*command, "-o", program], capture_output=True).returncode:
        pytest.skip("needs a C++ compiler with ThreadSanitizer")
    return program


@pytest.mark.parametrize("threads", ["1", "2", "3", "8"])
def test_many_callers_under_thread_sanitizer(callers, threads):
    environment = os.environ | {"JAX_MPS_THREADS": threads}
    done = subprocess.run([callers], env=environment, capture_output=True, text=True, timeout=300)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not bear this system's address layout")
    assert (done.returncode, done.stdout) == (0, "0 wrong\n"), done.stderr[-3000:]
