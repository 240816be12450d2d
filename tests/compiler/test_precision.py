"""graph honours lax.Precision.HIGHEST: the nodes say so, and the device sums plainly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import apart, in_float64, normal
from jax import lax

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


class TestAlgorithms:
    @pytest.mark.parametrize("algorithm", ["F32_F32_F32", "F64_F64_F64"])
    def test_product(self, native, algorithm):
        a, b = normal(256, 512), normal(512, 256)
        f = lambda a, b: mps.relu(lax.dot(a, b, precision=lax.DotAlgorithmPreset[algorithm]))  # noqa: E731
        wanted = np.maximum(np.asarray(a, np.float64) @ np.asarray(b, np.float64), 0.0)
        tolerance = 5e-6 if algorithm == "F64_F64_F64" else 1e-4
        np.testing.assert_allclose(jax.jit(mps.graph(f))(a, b), wanted, rtol=0, atol=tolerance)
        products = [n for region in mps.graph(f).program(a, b) for n in region.program.nodes if n.op == "dot"]
        assert len(products) == (algorithm == "F32_F32_F32")

    @pytest.mark.parametrize("algorithm", ["F32_F32_F32", "F64_F64_F64"])
    def test_in_an_lstm(self, native, algorithm):
        def f(x, w, r):
            def step(carry, x):
                h, c = carry
                gates = x @ w + lax.dot(h, r, precision=lax.DotAlgorithmPreset[algorithm])
                i, f, g, o = jnp.split(gates, 4, -1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zero = jnp.zeros((x.shape[1], r.shape[0]), jnp.float32)
            return lax.scan(step, (zero, zero), x)[1]

        args = normal(5, 3, 4), normal(4, 32), normal(8, 32)
        np.testing.assert_allclose(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args), rtol=2e-6, atol=1e-6)
        nodes = [n.op for region in mps.graph(f).program(*args) for n in region.program.nodes]
        assert ("lstm" in nodes) == (algorithm == "F32_F32_F32")
