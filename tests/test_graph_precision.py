"""graph honours lax.Precision.HIGHEST: the nodes say so, and the device sums plainly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from test_graph import normal
from test_graph_variance import apart, in_float64

import jax_mps as mps

X, W = (2, 16, 16, 32), (3, 3, 32, 32)


def gradients(precision):
    """The three convolutions of a layer."""

    def loss(x, w):
        y = lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
        )
        return jnp.sum(jnp.sin(y)), y

    def f(x, w):
        (_, y), pulled = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, w)
        return y, *pulled

    return f


def convolutions(function):
    """The nodes that are convolutions."""
    (region,) = mps.graph(function).program(normal(*X), normal(*W))
    return [node for node in region.program.nodes if node.op.startswith("conv")]


def implementations(function):
    """Of the convolutions, in graph."""
    rows = mps.explain(mps.graph(function), normal(*X), normal(*W))
    return [row.implementation for row in rows if row.op.startswith("conv")]


@pytest.mark.parametrize("precision", ["highest", lax.Precision.HIGHEST, ("default", "highest")])
def test_nodes_say_so(native, precision):
    found = convolutions(gradients(precision))
    assert len(found) == 3 and all(node.attributes["precision"] == "highest" for node in found)
    assert not any("winograd" in name for name in implementations(gradients(precision)))


@pytest.mark.parametrize("precision", [None, "default", "high"])
def test_nodes_say_nothing_else(native, precision):
    assert not any("precision" in node.attributes for node in convolutions(gradients(precision)))


def test_default_precision(native):
    def f(x, w):
        with jax.default_matmul_precision("float32"):
            return gradients(None)(x, w)

    assert all(node.attributes["precision"] == "highest" for node in convolutions(f))


def test_error_is_that_of_plain_sums(native):
    args = normal(*X), normal(*W) / 17
    plain, exact = gradients("highest"), in_float64(gradients(None), *args)
    for got, jitted, wanted in zip(
        jax.jit(mps.graph(plain))(*args), jax.jit(gradients(None))(*args), exact, strict=True
    ):
        assert apart(got, wanted) < max(2 * apart(jitted, wanted), 3e-7)
    assert np.isfinite(exact[0]).all()


SHORT = [  # x, w, strides, padding, dilation: every way of the loops
    ((4, 5, 5, 96), (1, 1, 96, 48), (1, 1), "VALID", (1, 1)),
    ((2, 9, 9, 32), (3, 3, 32, 48), (1, 1), ((3, 1), (0, 2)), (2, 2)),
    ((2, 11, 8, 16), (1, 7, 16, 16), (1, 1), "SAME", (1, 1)),
    ((2, 9, 9, 16), (3, 3, 16, 32), (2, 2), "SAME", (1, 1)),
    ((2, 9, 9, 3), (3, 3, 3, 16), (1, 1), ((5, 0), (0, 4)), (1, 1)),
]


@pytest.mark.parametrize("x, w, strides, padding, dilation", SHORT)
def test_short_sums(native, x, w, strides, padding, dilation):
    def f(x, w):
        y, pull = jax.vjp(lambda x: mps.conv(x, w, strides=strides, padding=padding, dilation=dilation), x)
        return y, *pull(y)

    args = normal(*x), normal(*w) / 8
    with jax.default_matmul_precision("highest"):
        got = jax.jit(f)(*args)
        found = {row.op: row.implementation for row in mps.explain(f, *args)}
    for one, exact in zip(got, in_float64(f, *args), strict=True):
        assert apart(one, exact) < 2.5e-7
    assert mps.device() != "cpu" or found["conv"].startswith("short sums")
