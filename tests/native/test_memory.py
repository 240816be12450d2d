"""Working memory that the system does not give: an error with its size and what to do, and the process goes on."""

import sys

import pytest
from process import python

pytest.importorskip("resource")
if not sys.platform.startswith("linux"):
    pytest.skip("the limit of a process's memory is Linux's", allow_module_level=True)

PROGRAM = """
import os, resource
import jax, jax.numpy as jnp, numpy as np
import jax_mps as mps

os.environ.pop("JAX_MPS_DEVICE", None)
mps.set_device("cpu")
rng = np.random.default_rng(0)

def wide(a, b):  # of n rows it keeps n * n numbers between two products
    return jnp.sum(jax.nn.relu(a @ b.T) @ b)

def inputs(n):
    return [jnp.asarray(rng.standard_normal((n, 8)), jnp.float32) for _ in range(2)]

step = jax.jit(mps.graph(wide))
small, large = inputs(100), inputs(20_000)
before = float(step(*small))
compiled = step.lower(*large).compile()

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, hard))
try:
    jax.block_until_ready(compiled(*large))
except jax.errors.JaxRuntimeError as error:
    print(error)
else:
    raise SystemExit("no error")
assert float(step(*small)) == before
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
wanted = np.sum(np.maximum(np.float64(large[0][:500]) @ np.float64(large[1]).T, 0) @ np.float64(large[1]))
got = float(step(large[0][:500], large[1]))
assert abs(got - wanted) < 1e-3 * abs(wanted), (got, wanted)
print("goes on")
"""


def test_an_arena_that_does_not_fit():
    run = python("-c", PROGRAM)
    assert "RESOURCE_EXHAUSTED: jax_mps: program: the working memory of 1.6 GB does not fit" in run.stdout
    assert "Use a smaller batch, jax.checkpoint, or leave part of the function out of mps.graph." in run.stdout
    assert run.stdout.endswith("goes on\n")
