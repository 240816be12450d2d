"""Settings of the process, each tested in one of its own."""

from __future__ import annotations

import os
import platform

import pytest
from process import python

import jax_mps as mps

STEPS = """
import resource, sys
import numpy as np
import jax_mps as mps
def step():
    a = np.ones(10 << 20, np.float32)  # 40 MB: always a mapping of its own
    a.sum()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

IDLE = """
import os, time
import jax, jax.numpy as jnp
import jax_mps as mps
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
mps.config.keep_freed_memory(idle=1)
x = jnp.ones((16, 64, 64, 64))
step = jax.jit(mps.graph(lambda x: jnp.sum(mps.conv(jnp.sin(x), jnp.ones((3, 3, 64, 64))) ** 2)))
step(x).block_until_ready()
start = resident()
after = jax.jit(lambda x: (mps.max_pool(x, 2, strides=1), mps.softmax(x), mps.tanh(x)))
for _ in range(5):
    jax.block_until_ready(after(x))
    step(x).block_until_ready()
busy = resident()
time.sleep(2.5)
print(busy - resident(), mps.cache_info().arena_bytes)
step(x).block_until_ready()
again = resident()
mps.config.give_back_memory()
print(again - resident())
"""


def run(source, **environment):
    done = python("-c", source, NUMPY_MADVISE_HUGEPAGE="0", **environment)
    return [int(word) for word in done.stdout.split()]


glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")


@glibc_only
def test_freed_memory_is_kept():
    pages = 5 * (40 << 20) // os.sysconf("SC_PAGESIZE")
    [plain] = run(STEPS, JAX_MPS_KEEP_FREED_MEMORY="0")
    if plain < pages // 2:
        pytest.skip(f"only {plain} page faults without the setting: the system has large pages")
    assert run(STEPS)[0] < pages // 20
    assert run(STEPS, JAX_MPS_KEEP_FREED_MEMORY="1")[0] < pages // 20


@glibc_only
@pytest.mark.skipif(mps.device() != "cpu", reason="working memory of the CPU device")
def test_memory_goes_back_when_the_process_is_idle():
    idle, arena, at_once = run(IDLE)
    assert idle > 40 << 20 and arena == 0
    assert at_once > 16 << 20


def test_errors(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(
        RuntimeError, match=r"keep_freed_memory: the C library must be glibc, but is Darwin\. Go without"
    ):
        mps.config.keep_freed_memory()
    monkeypatch.setenv("JAX_MPS_KEEP_FREED_MEMORY", "1")
    with pytest.warns(RuntimeWarning, match="the C library must be glibc"):
        mps.config.from_environment()
    monkeypatch.setenv("JAX_MPS_KEEP_FREED_MEMORY", "")
    mps.config.from_environment()  # nobody asked
    monkeypatch.setenv("JAX_MPS_KEEP_FREED_MEMORY", "yes")
    with pytest.raises(ValueError, match=r"JAX_MPS_KEEP_FREED_MEMORY: must be 0 or 1, but is 'yes'\. Unset it\."):
        mps.config.from_environment()
    with pytest.raises(ValueError, match=r"limit must be between 0 and 2\^31-1 bytes, but is -1\. Check its unit\."):
        mps.config.keep_freed_memory(limit=-1)
    with pytest.raises(ValueError, match=r"idle must be above 0 seconds, but is 0\. Pass math\.inf for never\."):
        mps.config.keep_freed_memory(idle=0)
