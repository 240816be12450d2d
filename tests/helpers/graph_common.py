"""What the tests of graph share: arrays, comparisons of trees, and what a function's programs hold."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_mps as mps
from jax_mps.compiler import pipeline
from jax_mps.compiler.passes.plan_memory import placed_operands

NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


@pytest.fixture(scope="module", autouse=True)
def everything_natively():
    """Regions that XLA runs as well are native too."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline, "_gains", lambda program: True)
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


def placed(program, value):
    """The concatenation's result that a value lies in, if it does."""
    found = placed_operands(program).get(id(value))
    return [] if found is None else [found[0]]


def overlaps(program):
    """Pairs of values alive at once whose memory overlaps, but for those that one node reads and writes in place."""
    written, read = {}, {}
    # What lies in a concatenation's result is alive as long as that, from the first part on.
    parts = {v: w for v in (r for n in program.nodes for r in n.results) for w in placed(program, v)}
    place = dict(parts)
    for i, node in enumerate(program.nodes):
        for o in node.operands:
            read[place.get(o, o)] = i
        for r in node.results:
            if node.op in ("reshape", "part"):
                place[r] = place.get(node.operands[0], node.operands[0])
            elif r.offset is not None:
                written.setdefault(parts.get(r, r), i)
    found = []
    for a, b in itertools.combinations(written, 2):
        last = {v: read.get(v, written[v]) for v in (a, b)}
        apart = a.offset + a.type.bytes <= b.offset or b.offset + b.type.bytes <= a.offset
        if apart or last[a] < written[b] or last[b] < written[a]:
            continue
        first, then = sorted((a, b), key=written.__getitem__)
        node = program.nodes[written[then]]
        in_place = last[first] == written[then] and node.op in ("chain", "loop")
        in_place = in_place and first in [place.get(o, o) for o in node.operands]
        if not (in_place and a.offset == b.offset):
            found.append((a, b))
    return found
