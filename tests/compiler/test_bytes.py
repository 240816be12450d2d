"""uint8 in graph: arithmetic that wraps around, conversions, constants; other narrow integers stay, with a reason."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import native_only, normal, ops
from jax import lax

import jax_mps as mps

A = np.arange(256, dtype=np.uint8)
B = np.random.default_rng(0).permutation(A)
SMALL = (B % 12).astype(np.uint8)


def by_zero(f, other):
    return np.where(B % 7 == 0, other, f(A, np.maximum(B % 7, 1)))


UNARY = {
    "square": (lax.square, A * A),
    "not": (lax.bitwise_not, ~A),
    "neg": (lax.neg, (-A.astype(int)) % 256),
    "sign": (lax.sign, A > 0),
    "cube": (lambda p: lax.integer_pow(p, 3), A.astype(int) ** 3 % 256),
    "constants": (lambda p: 255 - (p * 2 + jnp.uint8(7)), (255 - (A.astype(int) * 2 + 7)) % 256),
    "clamp": (lambda p: lax.clamp(jnp.uint8(3), p, jnp.uint8(200)), np.clip(A, 3, 200)),
    "where": (lambda p: jnp.where(p > 128, p, jnp.uint8(9)), np.where(A > 128, A, 9)),
    "pad": (lambda p: jnp.pad(p, 2, constant_values=5), np.pad(A, 2, constant_values=5)),
    "concatenate": (lambda p: jnp.concatenate([p, jnp.zeros(3, jnp.uint8)]), np.concatenate([A, np.zeros(3)])),
    "reversed": (lambda p: p.reshape(16, 16).T.reshape(-1), A.reshape(16, 16).T.reshape(-1)),
    "iota": (lambda p: p + jnp.arange(256, dtype=jnp.uint8), A * 2),
}
BINARY = {
    "add": (lax.add, A + B),
    "sub": (lax.sub, A - B),
    "mul": (lax.mul, A * B),
    "max": (lax.max, np.maximum(A, B)),
    "min": (lax.min, np.minimum(A, B)),
    "and": (lax.bitwise_and, A & B),
    "xor": (lax.bitwise_xor, A ^ B),
    "lt": (lax.lt, A < B),
    "eq": (lax.eq, A == B),
    "div": (lambda p, q: lax.div(p, q % 7), by_zero(np.floor_divide, 255)),
    "rem": (lambda p, q: lax.rem(p, q % 7), by_zero(np.remainder, A)),
    "shift_left": (lambda p, q: lax.shift_left(p, q % 12), (A.astype(int) << SMALL) % 256),
    "shift_right_logical": (lambda p, q: lax.shift_right_logical(p, q % 12), A >> SMALL),
    "shift_right_arithmetic": (
        lambda p, q: lax.shift_right_arithmetic(p, q % 12),
        (A.astype(np.int8).astype(int) >> SMALL) % 256,
    ),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(native, name):
    function, expected = UNARY[name]
    np.testing.assert_array_equal(native_only(function, A), expected)


@pytest.mark.parametrize("name", BINARY)
def test_binary(native, name):
    function, expected = BINARY[name]
    np.testing.assert_array_equal(native_only(function, A, B), expected)


FLOATS = np.array([-1.5, -0.5, -0.0, 3.7, 254.9, 255.9, 256, 300, 1e10, -1e10, np.nan, np.inf, -np.inf], np.float32)
BYTES = np.array([0, 0, 0, 3, 254, 255, 255, 255, 255, 0, 0, 255, 0], np.uint8)  # out of range is the nearest


def test_conversions(native):
    for dtype in (np.float32, np.int32, np.uint32, bool):
        y = native_only(lambda p, dtype=dtype: p.astype(dtype), A)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, A.astype(dtype))
    np.testing.assert_array_equal(native_only(lambda x: x.astype(jnp.uint8), FLOATS), BYTES)
    for dtype in (jnp.bfloat16, jnp.float16):  # every byte is one of their numbers
        np.testing.assert_array_equal(native_only(lambda p, d=dtype: p.astype(d).astype(jnp.uint8), A), A)
    words = np.array([-1, -256, 255, 256, 2**31 - 1, -(2**31)], np.int32)
    np.testing.assert_array_equal(native_only(lambda x: x.astype(jnp.uint8), words), words.astype(np.uint8))
    np.testing.assert_array_equal(native_only(lambda x: (x > 0).astype(jnp.uint8), words), words > 0)


def test_reductions(native):
    x = B.reshape(16, 16)
    for function, expected in ((jnp.max, x.max(1)), (jnp.min, x.min(1))):
        np.testing.assert_array_equal(native_only(lambda p, f=function: f(p, 1), x), expected)
    sums = native_only(lambda p: lax.reduce(p, np.uint8(0), lax.add, (0,)), x)
    np.testing.assert_array_equal(sums, x.sum(0, dtype=np.uint8))


def test_pixels(native):
    """Images as they are loaded: converted in the network."""
    images, w = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3), normal(3, 3, 3, 4)

    def f(images, w):
        return mps.conv(images.astype(jnp.float32) / 255 - 0.5, w, neuron="relu")

    np.testing.assert_allclose(
        jax.jit(mps.graph(f))(images, w), mps.conv(jnp.asarray(images, jnp.float32) / 255 - 0.5, w, neuron="relu"),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    assert {row.device for row in mps.explain(mps.graph(f), images, w)} == {native}


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16"])
def test_other_integers_stay(native, dtype):
    def f(p):
        q = p.astype(dtype)
        return mps.relu(normal(4)), jnp.where(q == 0, q + q, q - 3)

    (row,) = (r for r in mps.explain(mps.graph(f), A) if r.op == "sub")
    words = f"programs have no dtype {dtype}: they compute in float32, float16, bfloat16, int32, uint32, uint8 and bool"
    assert words in row.implementation
    q = A.astype(dtype)
    np.testing.assert_array_equal(jax.jit(mps.graph(f))(A)[1], np.where(q == 0, q + q, q - np.array(3, dtype)))


def test_ops_are_fused(native):
    """A chain reads bytes in place."""
    f = lambda p, x: jnp.tanh(x) * (p * 2 + 1).astype(jnp.float32) + mps.relu(x)  # noqa: E731
    assert ops(f, A, normal(256)).count("chain") == 1
