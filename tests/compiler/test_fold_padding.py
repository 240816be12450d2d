"""graph's padding pass: padding before a convolution or a pool is part of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import NCHW, NHWC, assert_same, normal
from jax import lax

import jax_mps as mps


def conv(x, w, order=NHWC, stride=1):
    return lax.conv_general_dilated(x, w, (stride,) * 2, ((0, 1), (1, 0)), dimension_numbers=order)


def pad(x, value=0.0):
    return jnp.pad(x, ((0, 0), (1, 2), (3, 0), (0, 0)), constant_values=value)


def nodes(function, *args):
    return [n for region in mps.graph(function).program(*args) for n in region.program.nodes]


def paddings(function, *args):
    """The padding of every node that has one; no other node pads or crops."""
    found = nodes(function, *args)
    assert not any(n.op == "pad" for n in found)
    return {n.op: n.attributes["padding"] for n in found if "padding" in n.attributes}


def test_golden(native):
    assert (
        mps.graph(lambda x, w: conv(pad(x), w)).program(normal(1, 4, 4, 2), normal(3, 3, 2, 4)).text()
        == """\
input %0: f32[1,4,4,2], %1: f32[3,3,2,4]
%4: f32[1,6,6,4] = conv(%0, %1) {accumulator="float", dilation=[1,1], groups=1, padding=[[1,3],[4,0]], strides=[1,1]}
return %4"""
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_and_gradients(native, stride):
    def loss(x, w):
        return jnp.sum(jnp.sin(conv(pad(jnp.tanh(x)), w, stride=stride)))

    args = normal(2, 6, 5, 3), normal(3, 3, 3, 4)
    both = jax.value_and_grad(loss, (0, 1))
    assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))
    found = paddings(both, *args)
    assert set(found) == {"conv", "conv_data_gradient", "conv_weight_gradient"}
    assert {(rows[0], cols[0]) for rows, cols in found.values()} == {(1, 4)}


def test_channels_first(native):
    def loss(x, w):
        x = jnp.pad(jnp.tanh(x), ((0, 0), (0, 0), (2, 2), (1, 1)))
        return jnp.sum(jnp.sin(conv(x, w, NCHW)))

    args = normal(2, 3, 6, 5), normal(4, 3, 3, 3)
    assert paddings(loss, *args) == {"conv": ((2, 3), (2, 1))}
    both = jax.value_and_grad(loss, (0, 1))
    assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))


def window(x, kind):
    start, function = (-jnp.inf, lax.max) if kind == "max" else (0.0, lax.add)
    return lax.reduce_window(x, start, function, (1, 2, 3, 1), (1, 2, 2, 1), "VALID")


@pytest.mark.parametrize("kind, value", [("max", -jnp.inf), ("sum", 0.0)])
def test_pools(native, kind, value):
    def loss(x):
        y = window(pad(x, value), kind)
        return jnp.sum(y * normal(*y.shape))

    both = jax.value_and_grad(loss)
    assert ((1, 2), (3, 0)) in paddings(both, normal(2, 5, 6, 3)).values()
    assert_same(jax.jit(mps.graph(both))(normal(2, 5, 6, 3)), jax.jit(both)(normal(2, 5, 6, 3)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: conv(pad(x, 1.0), w),  # another value
        lambda x, w: conv(jnp.pad(x, ((0, 1), (0, 0), (0, 0), (0, 0))), w),  # the batch
        lambda x, w: conv(lax.pad(x, 0.0, ((0, 0, 0), (1, 1, 1), (0, 0, 0), (0, 0, 0))), w),  # between pixels
        lambda x, w: conv(lax.pad(x, 0.0, ((0, 0, 0), (-1, 1, 0), (0, 0, 0), (0, 0, 0))), w),  # more than the padding
        lambda x, w: window(pad(x), "max"),
    ],
)
def test_other_paddings_stay(native, function):
    args = normal(2, 6, 6, 2), normal(3, 3, 2, 4)
    assert "pad" in [n.op for n in nodes(function, *args)]
    assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args))
