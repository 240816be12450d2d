"""What the tests of graph share: arrays, comparisons of trees, and what a function's programs hold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_mps as mps
from jax_mps.compiler import pipeline
from jax_mps.ir.verify import overlaps

NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


@pytest.fixture(scope="module", autouse=True)
def everything_natively():
    """Regions that XLA runs as well are native too."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline, "gains", lambda program: True)
    yield
    patch.undo()


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), jnp.float32)


def assert_same(got, wanted, tolerance=1e-4):
    """Equal trees, shapes and dtypes, and values but for rounding."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (jnp.shape(g), g.dtype) == (jnp.shape(w), w.dtype)
        if jax.dtypes.issubdtype(g.dtype, jax.dtypes.prng_key):
            g, w = jax.random.key_data(g), jax.random.key_data(w)
        wide = np.complex128 if jnp.iscomplexobj(w) else np.float64
        g, w = (np.asarray(a, wide) for a in (g, w))
        scale = max(1.0, np.abs(w[np.isfinite(w)]).max(initial=0.0))
        np.testing.assert_allclose(g / scale, w / scale, rtol=tolerance, atol=tolerance)


def in_float64(function, *args):
    """What a function of arrays gives in float64."""
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in args]
        return jax.tree.map(np.asarray, jax.jit(function)(*wide))


def apart(got, exact):
    """||got - exact|| / ||exact|| over a tree."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True))
    error = sum(float(np.sum((np.asarray(g, np.float64) - e) ** 2)) for g, e in pairs)
    return (error / sum(float(np.sum(np.asarray(e) ** 2)) for _, e in pairs)) ** 0.5


def conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


def text(function, *args):
    return mps.graph(function).program(*args).text()


def ops(function, *args):
    """The ops of a function's native programs."""
    return [node.op for region in mps.graph(function).program(*args) for node in region.program.nodes]


def native_only(function, *args):
    """The results of a graphed function, all of whose ops are native."""

    def f(*args):  # something to gain
        return function(*args), mps.relu(normal(4))

    explained = mps.explain(mps.graph(f), *args)
    assert not [row for row in explained if row.device == "xla"], explained
    return jax.jit(mps.graph(f))(*args)[0]


def in_place(function, *args):
    """Which operands of each concatenation lie in its result."""
    programs = [region.program for region in mps.graph(function).program(*args)]
    assert all(overlaps(p) == [] for p in programs)
    return [n.attributes.get("in_place", ()) for p in programs for n in p.nodes if n.op == "concatenate"]
