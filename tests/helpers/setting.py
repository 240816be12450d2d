"""Where the checkout is, and which devices are tested."""

import importlib.metadata
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The devices with kernels of their own. Metal, which may be simulated and slow, is tested where it is asked for.
METAL = os.environ.get("JAX_MPS_DEVICE") == "metal"
NATIVE = ["metal"] if METAL else ["cpu"]


def examples(count):
    """How many random programs are tried: on Metal each compiles kernels of its own."""
    return count // 20 if METAL else count


def quick_compilation():
    """Flags by which XLA compiles a test's functions in half the time; what they compute is the same."""
    flags = ["--xla_cpu_parallel_codegen_split_count=1"]  # a function is too small to be shared by threads
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not have the flag
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
