"""Every error of the public functions, by its words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import jax_mps as mps

X = jnp.ones((2, 3))
KEY = jax.random.key(0)

# Dropout
DROPOUT = [
    (
        "dropout: keep_probability 0",
        lambda: mps.dropout(X, KEY, keep_probability=0),
        ValueError,
        r"dropout: keep_probability must be in \(0, 1\], but got 0.0. It is the part that is kept",
    ),
    (
        "dropout: keep_probability above 1",
        lambda: mps.dropout(X, KEY, keep_probability=1.5),
        ValueError,
        r"dropout: keep_probability must be in \(0, 1\], but got 1.5",
    ),
    (
        "dropout: keep_probability traced",
        lambda: jax.jit(lambda p: mps.dropout(X, KEY, keep_probability=p))(0.5),
        TypeError,
        "dropout: keep_probability must be a number, but got .* Pass a Python float",
    ),
    (
        "dropout: keep_probability NaN",
        lambda: mps.dropout(X, KEY, keep_probability=float("nan")),
        ValueError,
        "dropout: keep_probability must be finite, but got nan",
    ),
    (
        "dropout: integers",
        lambda: mps.dropout(jnp.arange(3), KEY, keep_probability=0.5),
        TypeError,
        "dropout: x must be floating, but got int32",
    ),
    (
        "dropout: no key",
        lambda: mps.dropout(X, 7, keep_probability=0.5),
        TypeError,
        r"dropout: key must be a JAX key, but got int32. Make one: jax.random.key\(0\)",
    ),
    (
        "dropout: many keys",
        lambda: mps.dropout(X, jax.random.split(KEY, 4), keep_probability=0.5),
        ValueError,
        r"dropout: key must be a single key, but got keys of shape \(4,\). Split and pass one",
    ),
    (
        "dropout: a raw key of another size",
        lambda: mps.dropout(X, jnp.zeros(3, jnp.uint32), keep_probability=0.5),
        ValueError,
        r"dropout: key must be a single key, but got uint32\[3\]",
    ),
    (
        "dropout: axis out of range",
        lambda: mps.dropout(X, KEY, keep_probability=0.5, broadcast_axes=(0, 2)),
        ValueError,
        r"dropout: broadcast_axes must be axes of x, which has 2, but got \(0, 2\)",
    ),
]

ERRORS = [*DROPOUT]


@pytest.mark.parametrize(("function", "error", "words"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_error(function, error, words):
    with pytest.raises(error, match=words):
        function()
