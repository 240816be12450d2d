"""Exported functions: written by one process, run by another that has imported jax_mps and nothing else of it."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import NHWC, assert_same, normal
from jax import export, lax
from process import python

import jax_mps as mps
from jax_mps import ffi

pytest.importorskip("flatbuffers")

X, W = normal(2, 6, 6, 3), normal(3, 3, 3, 4)
ALLOWED = [export.DisabledSafetyCheck.custom_call("jax_mps")]

LOADER = """
import sys
import numpy as np
import jax
from jax import export
import jax_mps
from jax._src import xla_bridge
assert not xla_bridge._backends  # the import starts no backend
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        exported = export.deserialize(bytearray(file.read()))
    x = np.load(path + ".npy")
    results = [exported.call(x), jax.jit(exported.call)(x)]
    if exported.has_vjp():
        results.append(jax.grad(lambda x: exported.call(x).sum())(x))
    np.savez(path + ".npz", *map(np.asarray, results))
"""


def conv(x):
    return lax.conv_general_dilated(x, W, (1, 1), "SAME", dimension_numbers=NHWC)


def net(x):
    return jnp.tanh(mps.relu(conv(x)) * 2.0).sum((1, 2))


def looped(x):
    return lax.scan(lambda c, t: (mps.relu(c * t), jnp.sum(c)), x, jnp.arange(1.0, 3.0))[0] + mps.sigmoid(x)


FUNCTIONS = {"op": lambda x: mps.conv(x, W, neuron="relu"), "graph": mps.graph(net), "loop": mps.graph(looped)}


def written(function, path, vjp_order=0, **options):
    exported = export.export(jax.jit(function), **options)(jax.ShapeDtypeStruct(X.shape, X.dtype))
    path.write_bytes(exported.serialize(vjp_order=vjp_order))
    np.save(f"{path}.npy", X)
    return exported


def test_another_process_runs_what_this_one_exports(native, tmp_path):
    """By `import jax_mps` alone, the gradient too."""
    paths = [tmp_path / name for name in FUNCTIONS]
    for path in paths:
        exported = written(FUNCTIONS[path.name], path, vjp_order=1, disabled_checks=ALLOWED)
        assert "@jax_mps" in exported.mlir_module()
    python("-c", LOADER, *paths)
    for path in paths:
        f = FUNCTIONS[path.name]
        with np.load(f"{path}.npz") as found:
            results = [found[name] for name in found.files]
        assert_same(results, [f(X), f(X), jax.grad(lambda x, f=f: jnp.sum(f(x)))(X)])


@pytest.mark.parametrize(
    "others",
    [{}, {"build": "0.0.1+000000000000"}, {"build": "9.0.0+ffffffffffff", "of_a_later_version": "yes"}],
    ids=["before builds had names", "earlier", "later"],
)
def test_what_another_version_exported_runs(native, others, tmp_path, monkeypatch):
    """The build stands in the file for people to read; no build refuses another's."""
    with monkeypatch.context() as other:
        other.setattr(ffi, "_attributes", lambda text: {"program": text, **others})
        for name, f in FUNCTIONS.items():
            jax.clear_caches()
            module = written(f, tmp_path / name, disabled_checks=ALLOWED).mlir_module()
            assert ffi.build() not in module and all(value in module for value in others.values())
    for name, f in FUNCTIONS.items():
        found = export.deserialize(bytearray((tmp_path / name).read_bytes()))
        assert_same([found.call(X), jax.jit(found.call)(X)], [f(X), f(X)])


EXPORTED = os.environ.get("JAX_MPS_EXPORTED")


@pytest.mark.skipif(
    not EXPORTED, reason="JAX_MPS_EXPORTED is the folder where runs under several JAX leave their files"
)
def test_what_earlier_versions_of_jax_exported_runs(native):
    """A run under each JAX, the earliest first: it reads what those before have left, and leaves its own."""
    own = Path(EXPORTED) / jax.__version__
    own.mkdir(parents=True, exist_ok=True)
    for name, f in FUNCTIONS.items():
        written(f, own / name, vjp_order=1, disabled_checks=ALLOWED)
        for path in sorted(Path(EXPORTED).glob(f"*/{name}")):
            found = export.deserialize(bytearray(path.read_bytes()))
            gradient = jax.grad(lambda x, g=found.call: jnp.sum(g(x)))
            assert_same([found.call(X), gradient(X)], [f(X), jax.grad(lambda x, f=f: jnp.sum(f(x)))(X)])


def test_a_call_without_a_program_is_an_error(native):
    call = jax.ffi.ffi_call("jax_mps", jax.ShapeDtypeStruct(X.shape, X.dtype))
    for attributes in ({}, {"program": np.int64(1)}):
        with pytest.raises(jax.errors.JaxRuntimeError, match="jax_mps: the call has no string named program"):
            jax.block_until_ready(jax.jit(lambda x, a=attributes: call(x, **a))(X))


def test_the_reference_device_exports_without_the_custom_call(native, tmp_path):
    for name, f in FUNCTIONS.items():
        with mps.set_device("reference"):
            exported = written(f, tmp_path / name)
        assert "@jax_mps" not in exported.mlir_module()
        assert_same(export.deserialize(bytearray((tmp_path / name).read_bytes())).call(X), f(X))


def test_without_either_jax_names_the_target(native):
    with pytest.raises(ValueError, match="jax_mps"):
        export.export(jax.jit(mps.graph(net)))(X)


def test_symbolic_shapes_stay_in_jax(native):
    """A program has sizes: of a batch that is not known, XLA runs the ops."""
    (batch,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(mps.graph(net)), disabled_checks=ALLOWED)(
        jax.ShapeDtypeStruct((batch, *X.shape[1:]), X.dtype)
    )
    for x in (X, jnp.concatenate([X, X])):
        assert_same(exported.call(x), net(x))
