"""Cumulative ops, reductions of integers and booleans, products, and JAX's newer elementwise primitives are native."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import native_only, normal
from jax import lax
from jax.errors import JaxRuntimeError
from native import run

import jax_mps as mps

X = np.random.default_rng(1).normal(size=(3, 70, 5)).astype(np.float32)
INTEGERS = np.random.default_rng(2).integers(-(2**31), 2**31, (6, 40)).astype(np.int32)
CUMULATIVE = {
    "sum": (lax.cumsum, np.add),
    "prod": (lax.cumprod, np.multiply),
    "max": (lax.cummax, np.maximum),
    "min": (lax.cummin, np.minimum),
}


def accumulated(function, x, axis, reverse):
    x = np.flip(x, axis) if reverse else x
    y = function.accumulate(x, axis=axis)
    return np.flip(y, axis) if reverse else y


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", CUMULATIVE)
def test_cumulative(native, kind, axis, reverse):
    function, numpy = CUMULATIVE[kind]
    y = native_only(lambda x: function(x, axis=axis, reverse=reverse), X)
    expected = accumulated(numpy, X.astype(np.float64), axis, reverse)
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
@pytest.mark.parametrize("kind", CUMULATIVE)
def test_cumulative_integers(native, kind, dtype):
    function, numpy = CUMULATIVE[kind]
    x = INTEGERS.astype(dtype)
    y = native_only(lambda x: function(x, axis=1), x)
    np.testing.assert_array_equal(y, numpy.accumulate(x, axis=1, dtype=dtype))


def test_long_sums_keep_their_digits(native):
    x = np.full(100_000, 0.1, np.float32)
    y = native_only(lambda x: lax.cumsum(x, 0), x)
    np.testing.assert_allclose(y, np.cumsum(x.astype(np.float64)), rtol=2e-7)


@pytest.mark.parametrize("kind", CUMULATIVE)
def test_cumulative_special_values(native, kind):
    x = np.array([[-0.0, -0.0, 1, np.inf, 2], [1, np.nan, 2, np.inf, -np.inf], [np.inf, 1, -np.inf, 0, 1]], np.float32)
    function, numpy = CUMULATIVE[kind]
    y = np.asarray(native_only(lambda x: function(x, axis=1), x))
    with np.errstate(invalid="ignore"):
        expected = numpy.accumulate(x, axis=1)
    np.testing.assert_array_equal(y, expected)
    if kind == "sum":
        assert np.signbit(y[0, :2]).all()


def test_cumulative_gradients(native):
    """A sum's is a sum from the other end."""
    w = normal(70)
    g = native_only(jax.grad(lambda x: jnp.sum(lax.cumsum(x, 1) * w[None, :, None])), X)
    np.testing.assert_allclose(g[0, :, 0], np.cumsum(np.float64(w)[::-1])[::-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_cumulative_half(native, dtype):
    x = jnp.asarray(X, dtype)
    y = native_only(lambda x: lax.cumsum(x, 1), x)
    assert y.dtype == dtype
    expected = np.cumsum(np.asarray(x, np.float64), 1)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axis": 2}, "'axis' is out of range"),
        ({"axis": -1}, "'axis' is out of range"),
        ({"kind": "mean"}, "unknown kind 'mean'"),
        ({"reverse": 1}, "attribute 'reverse'"),
        ({"kind": 3}, "attribute 'kind'"),
    ],
)
def test_bad_cumulative_nodes(native, change, words):
    attributes = {"axis": 1, "kind": "sum", "reverse": False} | change
    with pytest.raises(JaxRuntimeError, match=words):
        run("cumulative", [INTEGERS], [(INTEGERS.shape, np.int32)], **attributes)


@pytest.mark.parametrize("result", [((40, 6), np.int32), ((6, 40), np.uint32)])
def test_bad_cumulative_results(native, result):
    with pytest.raises(JaxRuntimeError, match=r"must have shape|must be s32"):
        run("cumulative", [INTEGERS], [result], axis=1, kind="sum", reverse=False)


REDUCTIONS = {
    "or": (lambda x: jnp.any(x > 1.5, 1), lambda x: np.any(x > 1.5, 1)),
    "and": (lambda x: jnp.all(x < 1.5, (0, 2)), lambda x: np.all(x < 1.5, (0, 2))),
    "any": (lambda x: jnp.any(jnp.isnan(x)), lambda x: np.any(np.isnan(x))),
    "prod": (lambda x: jnp.prod(x, 1), lambda x: np.prod(np.float64(x), 1)),
    "all prod": (lambda x: jnp.prod(1 + x / 100), lambda x: np.prod(1 + np.float64(x) / 100)),
    "count": (lambda x: jnp.sum(x > 0, 1), lambda x: np.sum(x > 0, 1)),
    "count all": (lambda x: jnp.sum((x > 0).astype(jnp.uint32)), lambda x: np.sum(x > 0)),
    "max": (lambda x: jnp.max((x * 9).astype(jnp.int32), (0, 2)), lambda x: np.max((x * 9).astype(np.int32), (0, 2))),
    "maxed": (lambda x: jnp.max(x > 2, 2), lambda x: np.max(x > 2, 2)),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(native, name):
    function, numpy = REDUCTIONS[name]
    y, expected = native_only(function, X), numpy(X)
    assert y.shape == expected.shape
    if y.dtype == np.float32:
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-30)
    else:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_integers_wrap_around(native, dtype):
    x = INTEGERS.astype(dtype)
    np.testing.assert_array_equal(native_only(lambda x: jnp.sum(x, 1), x), x.sum(1, dtype=dtype))
    np.testing.assert_array_equal(native_only(lambda x: jnp.prod(x, 0), x), x.prod(0, dtype=dtype))
    np.testing.assert_array_equal(native_only(lambda x: lax.integer_pow(x, 3), x), x * x * x)


def test_rounding(native):
    x = np.array([0.5, 1.5, 2.5, -0.5, -2.5, 0.49999997, 8388609.0, np.inf, np.nan, -0.0], np.float32)
    np.testing.assert_array_equal(native_only(jnp.round, x), np.round(x))
    away = np.array([1, 2, 3, -1, -3, 0, 8388609.0, np.inf, np.nan, -0.0], np.float32)
    np.testing.assert_array_equal(native_only(lax.round, x), away)


@pytest.mark.skipif(not hasattr(lax, "unstack"), reason="a primitive of JAX 0.12")
def test_unstack(native):
    for axis in range(3):
        parts = native_only(lambda x, axis=axis: [p * 2 for p in lax.unstack(x, axis=axis)], X)
        for part, expected in zip(parts, np.moveaxis(X, axis, 0), strict=True):
            np.testing.assert_array_equal(part, expected * 2)


@pytest.mark.skipif(not hasattr(lax, "polynomial"), reason="a primitive of JAX 0.12")
@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_polynomial(native, count):
    c = np.random.default_rng(count).normal(size=count).astype(np.float32)
    f = lambda x: lax.polynomial(x, [jnp.float32(v) for v in c])  # noqa: E731
    x = X / 4
    expected = np.polynomial.polynomial.polyval(x.astype(np.float64), c.astype(np.float64))
    np.testing.assert_allclose(native_only(f, x), expected, rtol=1e-5, atol=1e-5)
    slope = np.polynomial.polynomial.polyval(x.astype(np.float64), np.polynomial.polynomial.polyder(c.astype(float)))
    np.testing.assert_allclose(native_only(jax.grad(lambda x: jnp.sum(f(x))), x), slope, rtol=1e-4, atol=1e-4)


def test_gelu(native):
    """Of erf, which JAX 0.12 writes by polynomials in its derivative."""
    native_only(jax.grad(lambda x: jnp.sum(jax.nn.gelu(x, approximate=False))), X)


@pytest.mark.parametrize(
    ("op", "function", "words"),
    [
        (
            "cumsum",
            lambda x: lax.cumsum(x.astype(jnp.uint8), 0),
            "cumsum of u8. Convert its operand to int32 or float32",
        ),
        ("reduce_or", lambda x: lax.reduce_or(x, (0,)), "reduce_or of s32: only booleans are taken. Compare first."),
        ("select_n", lambda x: lax.select_n(x % 3, x, x, x), "Nest jnp.where for it."),
        ("bitcast_convert_type", lambda x: lax.bitcast_convert_type(x, jnp.uint8), "only 32-bit numbers are taken"),
    ],
)
def test_what_stays_tells_why(native, op, function, words):
    found = mps.explain(mps.graph(lambda x: (function(x), mps.relu(normal(4)))), INTEGERS[0])
    assert any(words in row.implementation for row in found if row.op == op)
