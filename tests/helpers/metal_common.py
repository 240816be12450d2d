"""What the tests of the Metal device share: its counts, those of the simulated Metal, and a small network."""

import ctypes
import functools
import os
from pathlib import Path

import pytest

from jax_mps import ffi, nn

pytestmark = pytest.mark.skipif(
    os.environ.get("JAX_MPS_DEVICE") != "metal", reason="JAX_MPS_DEVICE=metal asks for the Metal device"
)


def information():
    return dict(ffi.native().metal_information())


def counted(name, run):
    """What `run` adds to a count of the device."""
    before = int(information()[name])
    run()
    return int(information()[name]) - before


@functools.cache
def simulator():
    """The simulated Metal's own counts, or None on a Mac."""
    loaded = Path("/proc/self/maps")
    lines = loaded.read_text().splitlines() if loaded.exists() else []
    paths = {line.split()[-1] for line in lines if "libmetal_sim" in line}
    return ctypes.CDLL(paths.pop()) if paths else None


def network():
    return nn.Sequential(
        nn.Conv(4, 5, neuron="relu"),
        nn.MaxPool(2),
        nn.Conv(8, 3, neuron="relu"),
        nn.MaxPool(2),
        nn.Flatten(),
        nn.Dense(32, neuron="relu"),
        nn.Dropout(0.5),
        nn.Dense(10),
    )
