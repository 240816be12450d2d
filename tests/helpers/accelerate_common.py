"""What the tests of accelerate share: a step that knows nothing of jax_mps, and whether a call runs natively."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from graph_common import NHWC, normal
from jax import lax

import jax_mps as mps
from jax_mps import _accelerate

X, LABELS = normal(8, 16, 16, 3), jnp.arange(8) % 5
PARAMS = [
    normal(3, 3, 3, 16) / 5,
    normal(1, 1, 1, 16),
    normal(3, 3, 16, 16) / 12,
    normal(1, 1, 1, 16),
    normal(16, 5) / 4,
]


def conv(x, w, strides=1):
    return lax.conv_general_dilated(x, w, (strides, strides), "SAME", dimension_numbers=NHWC)


def loss(params, x):
    w1, b1, w2, b2, w3 = params
    x = jax.nn.relu(conv(x, w1) + b1)
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(conv(x, w2, 2) + b2)
    return optax.softmax_cross_entropy_with_integer_labels(x.mean((1, 2)) @ w3, LABELS).mean()


def step(params, x):
    value, gradients = jax.value_and_grad(loss)(params, x)
    return [p - 0.1 * g for p, g in zip(params, gradients, strict=True)], value


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def is_native(function, *args):
    """Whether a call runs natively: programs are compiled for it, or found."""
    before = mps.cache_info()
    jax.block_until_ready(function(*args))
    after = mps.cache_info()
    return after.hits + after.misses > before.hits + before.misses


def on():
    return bool(_accelerate._on.value)


@pytest.fixture(autouse=True)
def _off(native):
    yield
    assert not on() and not _accelerate._blocks()


def wide64(*trees):
    return jax.tree.map(np.float64, trees)


def is_native_text(jitted, args):
    """Whether explain tells of a native node."""
    with mps.accelerate():
        return any(row.device != "xla" for row in mps.explain(jitted, *args))
