"""The strict run: no silent promotion of dtypes or ranks, warnings are errors."""

import importlib
import os
import sys
import zlib
from pathlib import Path

from setting import METAL, NATIVE, ROOT, quick_compilation

# `python -m pytest` puts the checkout before the installed package; without a native half in it that would not do.
if not list((ROOT / "jax_mps").glob("_ext*")):
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

# A test process runs on each core: PyTorch's threads, where a test compares with it, must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Programs are checked after every pass of the compiler.
os.environ.setdefault("JAX_MPS_VERIFY", "1")

# Before JAX starts.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick_compilation()}"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)  # for shard_map
jax.config.update("jax_disable_most_optimizations", True)  # XLA compiles faster; kernels are as they are
if jax.config.jax_compilation_cache_dir:  # whose files do not bear a second writer
    own = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    jax.config.update("jax_compilation_cache_dir", str(Path(jax.config.jax_compilation_cache_dir) / own))

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")


def pytest_collection_modifyitems(config, items):
    """JAX_MPS_SAMPLE=n runs one in n of the tests."""
    sample = int(os.environ.get("JAX_MPS_SAMPLE", "1"))
    kept = [item for item in items if zlib.crc32(item.name.encode()) % sample == 0]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _on(name):
    import jax_mps as mps

    with mps.set_device(name):
        yield name


@pytest.fixture(scope="module", autouse=True)
def _forgetting():
    """What a module compiled is freed after it."""
    yield
    jax.clear_caches()


# Of module scope, so that pytest groups the tests by device.
@pytest.fixture(scope="module", params=NATIVE if METAL else [*NATIVE, "reference"])
def device(request):
    """Every device in turn."""
    yield from _on(request.param)


@pytest.fixture(scope="module", params=NATIVE)
def native(request):
    """Every device with kernels of its own."""
    yield from _on(request.param)


@pytest.fixture
def activity(monkeypatch):
    """The example activity.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield importlib.import_module("activity")
    for name in ("activity", "activity_data"):
        sys.modules.pop(name, None)
