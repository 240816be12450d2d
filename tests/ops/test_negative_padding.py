"""Negative padding cuts pixels away: values and gradients against float64 sums, in ops and under graph."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_mps as mps

PADDINGS = [(-1, 0), (0, -1), (-2, -1), (-1, 2), (2, -3), (-2, 3)]
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def taps(n, k, stride, dilation, pair):
    """For each output and tap along an axis: the pixel, or None outside of what padding leaves."""
    outputs = (n + sum(pair) - (k - 1) * dilation - 1) // stride + 1
    places = [[o * stride + t * dilation - pair[0] for t in range(k)] for o in range(outputs)]
    return [[i if 0 <= i < n else None for i in row] for row in places]


def windows(shape, window, strides, dilation, padding):
    """Every (output, tap, pixel) of a window over `shape`, as tuples of indices."""
    axes = [taps(*a) for a in zip(shape, window, strides, dilation, padding, strict=True)]
    for out in itertools.product(*(range(len(a)) for a in axes)):
        for tap in itertools.product(*map(range, window)):
            pixel = tuple(a[o][t] for a, o, t in zip(axes, out, tap, strict=True))
            if None not in pixel:
                yield out, tap, pixel


def outputs(shape, window, strides, dilation, padding):
    return tuple(len(taps(*a)) for a in zip(shape, window, strides, dilation, padding, strict=True))


def convolved(x, w, dy, geometry):
    """The convolution, and its gradients by dy, in float64."""
    shape, window = x.shape[1:-1], w.shape[:-2]
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    for o, t, i in windows(shape, window, *geometry):
        y[:, *o] += x[:, *i] @ w[t]
        dx[:, *i] += dy[:, *o] @ w[t].T
        dw[t] += x[:, *i].T @ dy[:, *o]
    return y, dx, dw


def cases(rank):
    rng = np.random.default_rng(rank)
    for _ in range(12):
        sizes = rng.integers(5, 9, rank)
        window, strides, dilation = (tuple(map(int, rng.integers(1, high, rank))) for high in (4, 4, 3))
        pairs = tuple(PADDINGS[i] for i in rng.integers(len(PADDINGS), size=rank))
        fits = all(
            n + low + high > (k - 1) * d for n, (low, high), k, d in zip(sizes, pairs, window, dilation, strict=True)
        )
        if fits:
            yield rng, tuple(map(int, sizes)), window, (strides, dilation, pairs)


def assert_near(found, expected):
    for y, wanted in zip(found, expected, strict=True):
        assert y.shape == wanted.shape
        np.testing.assert_allclose(np.asarray(y), wanted, rtol=2e-5, atol=2e-5)


def skip_graph_on_reference(device, form):
    if form.startswith("graph") and device == "reference":
        pytest.skip("there graph leaves the user's code to JAX, whose windows are not to be trusted with such padding")


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("form", ["op", "graph"])
def test_convolution(device, rank, form):
    skip_graph_on_reference(device, form)
    for rng, sizes, window, (strides, dilation, pairs) in cases(rank):
        x, w = rng.normal(size=(2, *sizes, 3)), rng.normal(size=(*window, 3, 4))
        dy = rng.normal(size=(2, *outputs(sizes, window, strides, dilation, pairs), 4))
        expected = convolved(x, w, dy, (strides, dilation, pairs))

        def op(x, w, how=(strides, pairs, dilation)):
            return mps.conv(x, w, strides=how[0], padding=how[1], dilation=how[2])

        def lax_conv(x, w, how=(strides, pairs, dilation)):
            numbers = LAYOUTS[rank]
            return lax.conv_general_dilated(x, w, *how[:2], rhs_dilation=how[2], dimension_numbers=numbers)

        def all_three(x, w, dy, f=op if form == "op" else lax_conv):
            y, pull = jax.vjp(f, x, w)
            return y, *pull(dy)

        run = jax.jit(all_three if form == "op" else mps.graph(all_three))
        assert_near(run(*(jnp.asarray(a, jnp.float32) for a in (x, w, dy))), expected)


def pooled(x, dy, kind, window, geometry, count_padding):
    """A pool, and its gradient by dy, in float64; the first maximum takes the gradient."""
    strides, dilation, pairs = geometry
    shape = x.shape[1:-1]
    seen = {}
    for o, _, i in windows(shape, window, strides, dilation, pairs):
        seen.setdefault(o, []).append(i)
    y, dx = np.zeros(dy.shape), np.zeros(x.shape)
    for o, pixels in seen.items():
        values = np.stack([x[:, *i] for i in pixels])
        if kind == "max":
            y[:, *o] = values.max(0)
            first = values.argmax(0)
            for n, i in enumerate(pixels):
                dx[:, *i] += np.where(first == n, dy[:, *o], 0)
        else:
            share = 1 if kind == "sum" else np.prod(window) if count_padding else len(pixels)
            y[:, *o] = values.sum(0) / share
            for i in pixels:
                dx[:, *i] += dy[:, *o] / share
    return y, dx


def reduced(kind, window, strides, pairs):
    whole = [(1, *v, 1) for v in (window, strides)]
    start, step = (-jnp.inf, lax.max) if kind == "max" else (0.0, lax.add)
    return lambda x: lax.reduce_window(x, start, step, *whole, ((0, 0), *pairs, (0, 0)))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("kind", ["max", "avg", "counted", "graph max", "graph sum"])
def test_pools(device, rank, kind):
    skip_graph_on_reference(device, kind)
    for rng, sizes, window, (strides, _, pairs) in cases(rank):
        ones = (1,) * rank
        if any(n + low + high < k for n, (low, high), k in zip(sizes, pairs, window, strict=True)):
            continue
        count = len({o for o, _, _ in windows(sizes, window, strides, ones, pairs)})
        shape = outputs(sizes, window, strides, ones, pairs)
        if count != np.prod(shape):
            continue  # a window of padding alone
        x, dy = rng.normal(size=(2, *sizes, 3)), rng.normal(size=(2, *shape, 3))
        name = kind.removeprefix("graph ")
        expected = pooled(
            x, dy, "avg" if name == "counted" else name, window, (strides, ones, pairs), name == "counted"
        )
        ops = {
            "max": lambda x, how=(window, strides, pairs): mps.max_pool(x, how[0], strides=how[1], padding=how[2]),
            "avg": lambda x, how=(window, strides, pairs): mps.avg_pool(x, how[0], strides=how[1], padding=how[2]),
            "counted": lambda x, how=(window, strides, pairs): mps.avg_pool(
                x, how[0], strides=how[1], padding=how[2], count_padding=True
            ),
        }
        f = reduced(name, window, strides, pairs) if kind.startswith("graph") else ops[kind]

        def both(x, dy, f=f):
            y, pull = jax.vjp(f, x)
            return y, *pull(dy)

        run = jax.jit(mps.graph(both) if kind.startswith("graph") else both)
        assert_near(run(jnp.asarray(x, jnp.float32), jnp.asarray(dy, jnp.float32)), expected)


def test_pad(native):
    """Of any sign, in a native region and out of one."""
    rng = np.random.default_rng(0)
    for low, high, inner in itertools.product((-2, 0, 3), (-3, 0, 1), (0, 2)):
        x = rng.normal(size=(4, 6)).astype(np.float32)
        f = lambda x, c=(low, high, inner): lax.pad(mps.relu(x), np.float32(7), ((1, -1, 0), c))  # noqa: E731
        wide = np.full((4, 6 + 5 * inner), 7, np.float32)
        wide[:, :: inner + 1] = np.maximum(x, 0)
        padded = np.pad(wide, ((1, 0), (max(low, 0), max(high, 0))), constant_values=7)[:-1]
        padded = padded[:, max(-low, 0) : padded.shape[1] - max(-high, 0)]
        np.testing.assert_array_equal(jax.jit(mps.graph(f))(x), padded)
        g = jax.jit(mps.graph(jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2) / 2)))(x)
        kept = np.zeros_like(wide)
        kept[:-1, max(-low, 0) : wide.shape[1] - max(-high, 0)] = 1
        np.testing.assert_allclose(g, np.maximum(x, 0) * kept[:, :: inner + 1], atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mps.conv(jnp.ones((1, 4, 2)), jnp.ones((1, 2, 3)), padding=((-4, 3),)),
        lambda: mps.max_pool(jnp.ones((1, 4, 2)), 1, padding=((-5, 4),)),
    ],
)
def test_nothing_left(call):
    with pytest.raises(ValueError, match=r"negative padding must leave a pixel of x, but got padding .* Pad less"):
        call()
