"""Settings of the process, each tested in one of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

import jax_mps as mps

STEPS = """
import resource, sys
import numpy as np
import jax_mps as mps
if sys.argv[1] == "call":
    mps.config.keep_freed_memory()
def step():
    a = np.ones(10 << 20, np.float32)  # 40 MB: always a mapping of its own
    a.sum()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, **environment):
    path = os.pathsep.join(filter(None, [os.path.dirname(os.path.dirname(mps.__file__)), os.environ.get("PYTHONPATH")]))
    full = {**os.environ, "PYTHONPATH": path, "NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    done = subprocess.run([sys.executable, "-c", STEPS, how], env=full, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept():
    pages = 5 * (40 << 20) // os.sysconf("SC_PAGESIZE")
    plain = faults("not")
    if plain < pages // 2:
        pytest.skip(f"only {plain} page faults without the setting: the system has large pages")
    assert faults("call") < pages // 20
    assert faults("not", JAX_MPS_KEEP_FREED_MEMORY="1") < pages // 20


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
    monkeypatch.setenv("JAX_MPS_KEEP_FREED_MEMORY", "yes")
    with pytest.raises(ValueError, match=r"JAX_MPS_KEEP_FREED_MEMORY: must be 0 or 1, but is 'yes'\. Unset it\."):
        mps.config.from_environment()
