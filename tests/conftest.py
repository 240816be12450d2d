"""The strict run: no silent promotion of dtypes or ranks, warnings are errors."""

import sys
from pathlib import Path

# `python -m pytest` puts the checkout before the installed package; without a native half in it that would not do.
ROOT = Path(__file__).resolve().parents[1]
if not list((ROOT / "jax_mps").glob("_ext*")):
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)  # for shard_map
jax.config.update("jax_disable_most_optimizations", True)  # XLA compiles faster; kernels are as they are

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")


NATIVE = ["cpu"]  # the devices with kernels of their own


def _on(name):
    import jax_mps as mps

    with mps.set_device(name):
        yield name


# Of module scope, so that pytest groups the tests by device: a change of device clears JAX's caches.
@pytest.fixture(scope="module", params=[*NATIVE, "reference"])
def device(request):
    """Every device in turn."""
    yield from _on(request.param)


@pytest.fixture(scope="module", params=NATIVE)
def native(request):
    """Every device with kernels of its own."""
    yield from _on(request.param)
