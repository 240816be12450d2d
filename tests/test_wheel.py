"""The installed library and the jaxlib beside it, which may be another than it was built with."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
from test_graph import normal

import jax_mps as mps
from jax_mps import ffi
from jax_mps.primitive import OPS

IMPORT = """
import sys
import jax
jax.ffi.include_dir = lambda: sys.argv[1]
try:
    import jax_mps
except ImportError as error:
    print(error)
print(jax.jit(lambda x: x + 1.0)(jax.numpy.zeros(())))
"""


def imported(folder, major, minor):
    """What a process says that imports jax_mps beside a jaxlib with this FFI API, and that JAX works."""
    (folder / "xla/ffi/api").mkdir(parents=True, exist_ok=True)
    (folder / "xla/ffi/api/c_api.h").write_text(
        f"// Version\n#define XLA_FFI_API_MAJOR {major}\n\n#define XLA_FFI_API_MINOR {minor}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-c", IMPORT, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    *said, result = done.stdout.splitlines()
    assert result == "1.0"
    return said


def test_a_jaxlib_of_an_older_api_is_named_and_goes_on(tmp_path):
    major, minor = ffi.native().ffi_api
    said = imported(tmp_path, major, minor - 1)
    assert said == [
        f"jax_mps: jaxlib must take calls of FFI API {major}.{minor}, for which jax_mps was built, but jaxlib "
        f"{jax.lib.__version__} has {major}.{minor - 1}. Install a later jaxlib, or build jax_mps again, with the "
        "headers that its pyproject.toml names, as pip install does."
    ]
    assert imported(tmp_path, major + 1, minor)[0].startswith("jax_mps: jaxlib must take")


def test_the_same_api_a_later_one_and_one_unknown_are_taken(tmp_path):
    major, minor = ffi.native().ffi_api
    assert imported(tmp_path / "same", major, minor) == []
    assert imported(tmp_path / "later", major, minor + 9) == []
    assert imported(tmp_path / "unknown", major, "(a + b)") == []


def test_kernels_run_and_not_what_they_mean(native):
    def loss(w, x):
        y = mps.max_pool(mps.conv(x, w, neuron="relu"), 2)
        return jnp.sum(mps.softmax(y.reshape(2, -1)) ** 2)

    own = {op.name for op in OPS.values()}
    rows = [row for row in mps.explain(jax.grad(loss), normal(3, 3, 4, 8), normal(2, 8, 8, 4)) if row.op in own]
    assert {"conv", "conv_weight_gradient", "max_pool", "softmax"} <= {row.op for row in rows}
    assert {row.device for row in rows} == {native}
