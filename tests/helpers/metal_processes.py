"""Programs on the simulated Metal, each in a process of its own, with what they report."""

import json

from process import python

PRELUDE = """
import ctypes, json, threading, time
import jax, jax.numpy as jnp, numpy as np
import jax_mps as mps
from jax_mps import ffi
told = lambda: ffi.native().metal_information()
def report(**values): print("REPORT " + json.dumps(values))
def error_of(function, *args):
    try:
        jax.block_until_ready(function(*args))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
def simulator():
    path = next(line.split()[-1] for line in open("/proc/self/maps") if "libmetal_sim" in line)
    library = ctypes.CDLL(path)
    library.metal_sim_live.restype = ctypes.c_long
    return library
x = jnp.linspace(-1, 1, 5000, dtype=jnp.float32)
"""


def process(code, **environment):
    """What the code reports, and its stderr; settings of this process that are None are taken away."""
    done = python("-c", PRELUDE + code, **environment)
    reports = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    return (reports[-1] if reports else {}), done.stderr


def processes(code, folder, **environment):
    """The same with files kept in `folder`."""
    return process(code, JAX_MPS_CACHE_DIR=str(folder), **environment)
