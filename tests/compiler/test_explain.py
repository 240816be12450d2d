"""explain tells of graphs what each node is made of, and why the rest stayed in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import NHWC, normal
from jax import lax

import jax_mps as mps


def rows(function, *args):
    return {row.op: row for row in mps.explain(function, *args)}


def test_nodes_tell_what_they_are_made_of(native):
    def f(x, w, b):
        y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
        return jnp.sum(jnp.tanh(y + b[None, None, None]) * y, (0, 1, 2)), x.reshape(2, -1).T @ b[:2, None].repeat(5, 1)

    found = mps.explain(mps.graph(f), normal(2, 6, 6, 3), normal(3, 3, 3, 4), normal(4))
    conv = next(row for row in found if row.op.startswith("conv"))
    assert "conv_general_dilated" in conv.made_of and conv.device == "cpu"
    every = " ".join(row.made_of for row in found)
    assert all(name in every for name in ("add", "tanh", "mul", "reduce_sum", "dot_general"))
    assert "made of" in str(found).splitlines()[0]
    assert "made of" not in str(mps.explain(mps.relu, normal(3)))


CASES = {
    "random_bits": (lambda x: jax.random.uniform(jax.random.key(0), x.shape), "a draw of few numbers"),
    "sort": (lambda x: jnp.sort(x), "an order of elements"),
    "while": (lambda x: lax.while_loop(lambda c: jnp.sum(c) < 9.0, lambda c: c + 1.0, x), "control flow is JAX's"),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (jnp.argmax(x[0]), 0), (1, 2)), "known only at run time"),
    "debug_callback": (lambda x: [jax.debug.callback(lambda x: None, x), x][1] * 2.0, "an effect: "),
    "conv_general_dilated": (
        lambda x: lax.conv_general_dilated(x.reshape(1, 1, 2, 3, 1), jnp.ones((1, 1, 1, 1, 1)), (1, 1, 1), "SAME"),
        "a convolution of 3 spatial axes",
    ),
    "convert_element_type": (lambda x: x.astype(jnp.complex64), "programs have no dtype complex64: they compute in f"),
    "gather": (lambda x: x[:, jnp.argsort(x[0])], "one element of each row"),
    "argmax": (lambda x: jnp.argmax(x, 1), "XLA sorts and searches"),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 0), "a running log-sum-exp: lax.cumsum, cumprod"),
    "reduce_precision": (lambda x: lax.reduce_precision(x, 5, 3), "astype(jnp.bfloat16) and astype back is one"),
    "reduce": (lambda x: lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (0,)), "sums, products, maxima"),
    "rev": (lambda x: jnp.flip(x, 0), "chains read forwards"),
    "nextafter": (lambda x: jnp.nextafter(x, x + 1.0), "mps.graph has no rule for this op: XLA runs it, between"),
    "dot_general": (lambda x: x.astype(jnp.int32) @ jnp.ones((3, 2), jnp.int32), "products take float32 and bfloat16"),
    "add": (
        lambda x: lax.while_loop(lambda c: c < 9, lambda c: c + 1, jnp.int32(x[0, 0])),
        "in a body of `while`, which has nothing to gain",
    ),
    "iota": (lambda x: jnp.sort(jnp.arange(9)), "feeds only what stays in JAX, and is small: a native call of its own"),
}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("op", CASES)
def test_what_stays_tells_why(native, op, wrap):
    function, words = CASES[op]
    g = wrap(mps.graph(lambda x: function(mps.relu(x))))
    for _ in range(2):  # the second time from JAX's caches
        row = rows(g, normal(2, 3))[op]
        assert row.device == "xla" and words in row.implementation
        g(normal(2, 3))


def test_regions_with_nothing_to_gain_tell_so(native):
    found = rows(jax.jit(mps.graph(lambda x: jnp.sum(jnp.sin(x)))), normal(4))
    assert "XLA is as fast" in found["sin"].implementation


@pytest.mark.parametrize("rows_, width, wanted", [(32, 32, 0), (128, 64, 0), (64, 1024, 1)])
def test_networks_of_small_products_are_left_to_xla(native, rows_, width, wanted):
    def loss(w, v, x):
        return jnp.mean(jax.nn.relu(x @ w) @ v)

    args = normal(16, width), normal(width, 16), normal(rows_, 16)
    step = jax.value_and_grad(loss, (0, 1))
    assert len(mps.graph(step).program(*args)) == wanted


def test_the_reference_device_tells_so():
    with mps.set_device("reference"):
        assert "the device is 'reference'" in rows(mps.graph(jnp.sin), normal(4))["sin"].implementation


def test_outside_of_graphs_nothing_changes():
    assert rows(jnp.sin, normal(4))["sin"].implementation == "not under mps.graph: XLA runs it"
