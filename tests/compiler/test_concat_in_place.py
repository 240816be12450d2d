"""graph's concatenations: operands are written where they lie in the result."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import NHWC, assert_same, conv, everything_natively, in_place, normal, overlaps, text  # noqa: F401
from jax import lax

import jax_mps as mps
from jax_mps.compiler.passes import concat_in_place


def test_rows_apart(native):
    def f(x, w):
        return jnp.sum(jnp.concatenate([conv(x, w), jnp.sin(x)], -1), (0, 1, 2))

    conv_attributes = 'accumulator="float", dilation=[1,1], groups=1, padding=[[0,0],[0,0]], strides=[1,1]'
    args = normal(2, 4, 4, 16), normal(1, 1, 16, 32)
    assert (
        text(f, *args)
        == f"""\
input %0: f32[2,4,4,16], %1: f32[1,1,16,32]
%2: f32[2,4,4,32|48] @0 = conv(%0, %1) {{{conv_attributes}}}
%3: f32[2,4,4,16|48] @128 = chain(%0) {{code=["sin 0"], offsets=[0], outputs=[["store",1]], shape=[2,4,4,16], \
strides=[[256,64,16,1]]}}
%4: f32[2,4,4,48] @0 = concatenate(%2, %3) {{axis=3, in_place=[0,1]}}
%5: f32[48] = chain(%4) {{code=[], offsets=[0], outputs=[["sum",0,[0,1,2]]], shape=[2,4,4,48], \
strides=[[768,192,48,1]]}}
return %5"""
    )
    assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))


def test_ranges(native):
    def f(x, y):
        return jnp.cumsum(mps.relu(jnp.concatenate([jnp.sin(x), y, jnp.cos(x)], 0)), 0)

    args = normal(4, 8), normal(2, 8)
    assert in_place(f, *args) == [(0, 2)]
    assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))


def dense_block(x, *ws):
    for w in ws:
        x = jnp.concatenate([x, conv(jax.nn.relu(x), w * 0.1)], -1)
    return x


DENSE = normal(2, 6, 6, 16), normal(3, 3, 16, 16), normal(1, 1, 32, 16), normal(3, 3, 48, 16)


def inception(x, a, b, c):
    towers = jax.nn.relu(conv(x, a)), jax.nn.relu(conv(jnp.tanh(x), b)), jax.nn.relu(conv(x, c))
    return jnp.concatenate(towers, -1)


INCEPTION = normal(2, 9, 7, 16), normal(1, 1, 16, 32), normal(3, 3, 16, 16), normal(1, 1, 16, 48)


def skips(x, w, v):
    y = jax.nn.relu(conv(x, w))
    small = jnp.tanh(y.reshape(2, 3, 2, 3, 2, 16).sum((2, 4)))
    large = jnp.broadcast_to(small[:, :, None, :, None], (2, 3, 2, 3, 2, 16)).reshape(y.shape)
    return conv(jnp.concatenate([jnp.sin(large), y], -1), v)


SKIPS = normal(2, 6, 6, 16), normal(3, 3, 16, 16), normal(1, 1, 32, 16)


@pytest.mark.parametrize("network, args", [(dense_block, DENSE), (inception, INCEPTION), (skips, SKIPS)])
def test_values_and_gradients(native, network, args):
    def loss(*args):
        y = network(*args)
        return jnp.sum(jnp.sin(y) * normal(*y.shape))

    for function in (loss, network, jax.value_and_grad(loss, tuple(range(len(args))))):
        assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args))
        assert in_place(function, *args)
    assert any(map(bool, in_place(loss, *args)))


def test_concatenations_within_one_another(native):
    def f(x):
        inner = jnp.concatenate([jnp.sin(x), jnp.cos(x)], -1)
        return jnp.sum(jnp.concatenate([jnp.concatenate([inner, jnp.tanh(x)], -1), jnp.exp(x)], -1), 0)

    assert in_place(f, normal(5, 16)) == [(0, 1), (0, 1), (0, 1)]
    assert_same(jax.jit(mps.graph(f))(normal(5, 16)), jax.jit(f)(normal(5, 16)))


@pytest.mark.parametrize(
    "f, wanted",
    [
        (lambda x: jnp.concatenate([jnp.sin(x), jnp.cos(x)], -1), ()),  # the caller's
        (lambda x: jnp.sum(jnp.concatenate([jnp.sin(x)] * 2, -1), 0), ()),  # at two places
        (lambda x: jnp.sum(jnp.concatenate([x, jnp.sin(x)], -1), 0), (1,)),  # an input is where it is
        (lambda x: jnp.sum(jnp.concatenate([jnp.sin(x)[:, :8], jnp.cos(x)], -1), 0), (0,)),  # unaligned
        (lambda x: jnp.sum(jnp.concatenate([(y := jnp.sin(x)), y @ y.T @ x], -1), 0), (0, 1)),  # products read, write
        (lambda x: jnp.sum(jnp.concatenate([(y := jnp.sin(x)), jnp.cumsum(y, 0)], -1), 0), ()),  # read by JAX
        (lambda x: jnp.sum(jnp.concatenate([(y := jnp.sin(x)), mps.softmax(y)], -1), 0), ()),  # and by a softmax
        (lambda x: jnp.sum(jnp.concatenate([x.astype(jnp.bfloat16) * 2] * 1 + [-x.astype(jnp.bfloat16)], -1), 0), ()),
        (lambda x: (lambda y: (y, jnp.sum(jnp.concatenate([y, x * 2], -1), 0)))(jnp.sin(x)), (1,)),  # returned
    ],
)
def test_only_where_it_may(native, f, wanted):
    (found,) = in_place(f, normal(6, 16))
    assert found == wanted
    assert_same(jax.jit(mps.graph(f))(normal(6, 16)), jax.jit(f)(normal(6, 16)), 1e-2)


def test_large_parts_that_are_read_again_are_copied(native, monkeypatch):
    def f(x):
        y = jnp.sin(x)
        return jnp.sum(jnp.concatenate([y, jnp.cos(x)], -1), 0), y.T * 2.0

    assert in_place(f, normal(6, 16)) == [(0, 1)]
    monkeypatch.setattr(concat_in_place, "_CACHED", 64)
    assert in_place(f, normal(6, 16)) == [(1,)]
    assert_same(jax.jit(mps.graph(f))(normal(6, 16)), jax.jit(f)(normal(6, 16)))


def test_within_loops(native):
    def f(x, w):
        def body(h, x):
            h = jnp.tanh(jnp.concatenate([jnp.sin(x), jnp.cos(h)], -1) @ w)
            return h, h

        return lax.scan(body, x[0], x)

    args = normal(3, 4, 16), normal(32, 16)
    both = jax.value_and_grad(lambda *args: jnp.sum(f(*args)[1]), (0, 1))
    assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))


@pytest.mark.parametrize(
    "line, words",
    [
        ("%1: f32[4,8|4] @0 = chain(%0)", "rows 4 apart are out of range"),
        ("%1: f32[4,8|x] @0 = chain(%0)", "expected an integer"),
        ("%1: f32[4,8|16] @0 = neuron(%0) {neuron=[\"relu\",0.0,0.0,0.0]}", "no kernel takes rows that are apart"),
        ("%1: f32[4,8|16] @0 = reshape(%0)", "a reshape keeps one operand's bytes"),
    ],
)  # fmt: skip
def test_texts(native, line, words):
    program = f"input %0: f32[4,8]\n{line}\n%2: f32[4,8] = concatenate(%1) {{axis=1}}\nreturn %2"
    with pytest.raises(ValueError, match=words):
        mps.ffi.implementations(program)


def test_results_are_not_apart(native):
    with pytest.raises(ValueError, match=r"an input or output of type f32\[4,8\|16\] has rows apart"):
        mps.ffi.implementations("input %0: f32[4,8|16]\nreturn %0")
