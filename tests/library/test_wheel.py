"""The installed library and the jaxlib beside it, which may be another than it was built with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from graph_common import normal
from process import python

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


def headers(folder, major, minor):
    """A folder of headers as a jaxlib with this FFI API has them."""
    file = folder / "xla/ffi/api/c_api.h"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"// Version\n#define XLA_FFI_API_MAJOR {major}\n\n#define XLA_FFI_API_MINOR {minor}\n")
    return str(folder)


def test_a_jaxlib_of_an_older_api_is_named_and_goes_on(tmp_path):
    major, minor = ffi.native().ffi_api
    done = python("-c", IMPORT, headers(tmp_path, major, minor - 1))
    assert done.stdout.splitlines() == [
        f"jax_mps: jaxlib must take calls of FFI API {major}.{minor}, for which jax_mps was built, but jaxlib "
        f"{jax.lib.__version__} has {major}.{minor - 1}. Install a later jaxlib, or build jax_mps again, with the "
        "headers that its pyproject.toml names, as pip install does.",
        "1.0",
    ]


def test_which_apis_are_taken(tmp_path, monkeypatch):
    """The same and later ones, and one that nothing is known of; none of another major version."""
    found = {}
    for major, minor in ((1, 3), (1, 12), (1, 2), (0, 9), (2, 3), (1, "(2 + 1)")):
        monkeypatch.setattr(jax.ffi, "include_dir", lambda major=major, minor=minor: headers(tmp_path, major, minor))
        try:
            ffi._require_api((1, 3))
            found[major, minor] = True
        except ImportError:
            found[major, minor] = False
    assert found == {(1, 3): True, (1, 12): True, (1, 2): False, (0, 9): False, (2, 3): False, (1, "(2 + 1)"): True}
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path / "none"))
    ffi._require_api((1, 3))


def test_kernels_run_and_not_what_they_mean(native):
    def loss(w, x):
        y = mps.max_pool(mps.conv(x, w, neuron="relu"), 2)
        return jnp.sum(mps.softmax(y.reshape(2, -1)) ** 2)

    own = {op.name for op in OPS.values()}
    rows = [row for row in mps.explain(jax.grad(loss), normal(3, 3, 4, 8), normal(2, 8, 8, 4)) if row.op in own]
    assert {"conv", "conv_weight_gradient", "max_pool_taps", "softmax"} <= {row.op for row in rows}
    assert {row.device for row in rows} == {native}
