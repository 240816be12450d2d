"""What users are told when they break a rule: the words are part of the contract."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

import jax_mps as mps

X = jnp.ones((1, 4, 4, 2))

# Pooling
POOL = [
    (
        "pool of integers",
        lambda: mps.max_pool(jnp.ones((1, 4, 4, 2), int), 2),
        TypeError,
        "max_pool: x must be floating",
    ),
    ("pool of a matrix", lambda: mps.avg_pool(jnp.ones((4, 4)), 2), ValueError, r"avg_pool: x must be \[batch, height"),
    ("pool of volumes", lambda: mps.l2_pool(X[None], 2), ValueError, r"l2_pool: x must be .* got \(1, 1, 4, 4, 2\)"),
    (
        "empty window",
        lambda: mps.max_pool(X, 0),
        ValueError,
        "max_pool: window must be an integer or 2 of them, each at",
    ),
    ("window of 3 axes", lambda: mps.avg_pool(X, (2, 2, 2)), ValueError, r"window must .* got \(2, 2, 2\)"),
    ("window of a fraction", lambda: mps.max_pool(X, 1.5), ValueError, "window must be an integer"),
    (
        "pool with stride 0",
        lambda: mps.max_pool(X, 2, strides=0),
        ValueError,
        "strides must be .* at least 1, but got 0",
    ),
    ("pool with dilation 0", lambda: mps.max_pool(X, 2, dilation=(1, 0)), ValueError, "max_pool: dilation must be"),
    ("padding misspelt", lambda: mps.avg_pool(X, 2, padding="SAMEE"), ValueError, 'padding must be "SAME", "VALID" or'),
    ("one padding for 2 axes", lambda: mps.l2_pool(X, 2, padding=[(1, 1)]), ValueError, "l2_pool: padding must be"),
    ("window above the image", lambda: mps.max_pool(X, 5), ValueError, "the window must fit .* Use a smaller window"),
    (
        "dilated window above the image",
        lambda: mps.max_pool(X, 3, dilation=2),
        ValueError,
        r"a window of \(5, 5\) over",
    ),
    (
        "max over padding alone",
        lambda: mps.max_pool(X, 2, padding=((2, 0), (0, 0))),
        ValueError,
        r"max_pool: every window must hold a pixel of x, but got .*\(4, 4\) .* Pad less than the window",
    ),
    (
        "dilated max over padding alone",
        lambda: mps.max_pool(X[:, :1, :1], 2, strides=1, dilation=2, padding=((1, 1), (1, 1))),
        ValueError,
        "max_pool: every window must hold a pixel of x",
    ),
    (
        "count_padding of a word",
        lambda: mps.avg_pool(X, 2, count_padding="yes"),
        ValueError,
        "count_padding must be one",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), [pytest.param(*row[1:], id=row[0]) for row in POOL])
def test_error(call, error, words):
    with pytest.raises(error, match=words):
        call()
