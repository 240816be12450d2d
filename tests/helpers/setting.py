"""Where the checkout is, and which devices are tested."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The devices with kernels of their own. Metal, which may be simulated and slow, is tested where it is asked for.
METAL = os.environ.get("JAX_MPS_DEVICE") == "metal"
NATIVE = ["metal"] if METAL else ["cpu"]


def examples(count):
    """How many random programs are tried: on Metal each compiles kernels of its own."""
    return count // 20 if METAL else count
