"""graph's layout pass: between convolutions over channels first nothing is transposed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import NCHW, assert_same, normal
from jax import lax

import jax_mps as mps


def network(x, w, v, shift):
    conv = lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NCHW)  # noqa: E731
    y = jnp.maximum(conv(x, w) + shift[None, :, None, None], 0.0)
    mean = jnp.mean(y, (0, 2, 3))
    return conv((y - mean[None, :, None, None]) * 2.0, v), mean


ARGS = normal(2, 3, 7, 9), normal(4, 3, 3, 3), normal(5, 4, 3, 3), normal(4)


def chains(function, *args):
    return [n.attributes for n in mps.graph(function).program(*args)[0].program.nodes if n.op == "chain"]


def test_between_convolutions_channels_are_last(native):
    assert_same(jax.jit(mps.graph(network))(*ARGS), jax.jit(network)(*ARGS))
    inner = [c for c in chains(network, *ARGS) if len(c["shape"]) == 4 and c["shape"][0] == 2 and 4 in c["shape"]]
    assert inner and all(c["shape"] == (2, 7, 9, 4) for c in inner)


def test_gradients(native):
    loss = lambda *args: jnp.sum(jnp.sin(network(*args)[0]))  # noqa: E731
    both = jax.value_and_grad(loss, (0, 1, 2, 3))
    assert_same(jax.jit(mps.graph(both))(*ARGS), jax.jit(both)(*ARGS))


def test_convolutions_of_single_images_under_vmap(native):
    def one(x, w):
        y = lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=NCHW)[0]
        return jax.nn.relu(y)

    f = lambda x, w, v: jax.vmap(lambda x: one(one(x, w), v))(x)  # noqa: E731
    assert_same(jax.jit(mps.graph(f))(*ARGS[:3]), jax.jit(f)(*ARGS[:3]))
    assert not [c for c in chains(f, *ARGS[:3]) if c["shape"] == (2, 4, 7, 9)]


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 3), (0, 1, 2, 3), (2,)])
def test_reductions_of_transposed_values(native, axes):
    def f(x, w):
        y = jnp.tanh(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NCHW))
        return jnp.sum(y * y, axes), jnp.max(y.transpose(3, 1, 0, 2), axes), y.T

    assert_same(jax.jit(mps.graph(f))(*ARGS[:2]), jax.jit(f)(*ARGS[:2]))


def test_what_gains_nothing_stays(native):
    def f(x, w, m):  # an optimizer's moment and a gradient in another order
        y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NCHW)
        return m * 0.9 + y * 0.1

    (chain,) = (c for c in chains(f, *ARGS[:2], normal(2, 4, 7, 9)) if c["shape"] == (2, 4, 7, 9))
    assert len(chain["strides"]) == 2
