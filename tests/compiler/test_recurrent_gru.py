"""GRUs written by hand with scan, the reset gate before or after the product, run as this library's."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import normal
from jax import lax
from recurrent_common import BATCH, INPUTS, TIME, UNITS, check, stays, text, trains

sigmoid = jax.nn.sigmoid
PARAMS = {"w": normal(INPUTS, 3 * UNITS) * 0.5, "r": normal(UNITS, 3 * UNITS) * 0.4, "b": normal(3 * UNITS)}
H = normal(BATCH, UNITS)
XS = normal(TIME, BATCH, INPUTS)


def scanned(cell, **options):
    def body(params, h, x):
        h = cell(params, h, x)
        return h, h

    return lambda params, h, xs: lax.scan(functools.partial(body, params), h, xs, **options)


def sums(p, h, x):
    """The inputs' share of the candidate and what the gates are of, and the state's matrix of the candidate."""
    w = x @ p["w"] + p["b"][None]
    return w[:, 2 * UNITS :], w[:, : 2 * UNITS] + h @ p["r"][:, : 2 * UNITS], p["r"][:, 2 * UNITS :]


def with_gates(step):
    """A cell of z, r, the candidate's share of the inputs, its matrix, and h."""

    def cell(p, h, x):
        new, gates, inner = sums(p, h, x)
        return step(*jnp.split(sigmoid(gates), 2, -1), new, inner, h)

    return cell


def before(z, r, new, inner, h):
    n = jnp.tanh(new + (r * h) @ inner)
    return n - z * (n - h)


def before_flipped(z, r, new, inner, h):
    return z * jnp.tanh(new + (h * r) @ inner) + (1 - z) * h


def after(z, r, new, inner, h):
    n = jnp.tanh(new + r * (h @ inner + 0.5))
    return n - z * (n - h)


def after_flipped(z, r, new, inner, h):
    return z * jnp.tanh(new + r * (h @ inner + 0.5)) + (1 - z) * h


def joined(p, h, x):
    """One product with [h, x] for both gates, one with [r h, x] for the candidate."""
    k = jnp.concatenate([p["r"], p["w"]])
    z, r = jnp.split(sigmoid(jnp.concatenate([h, x], 1) @ k[:, : 2 * UNITS] + p["b"][None, : 2 * UNITS]), 2, 1)
    n = jnp.tanh(jnp.concatenate([r * h, x], 1) @ k[:, 2 * UNITS :] + p["b"][None, 2 * UNITS :])
    return (1 - z) * n + z * h


def separate(p, h, x):
    """Every gate with matrices of its own, r before z."""
    (wz, wr, wn), (rz, rr, rn), (bz, br, bn) = (jnp.split(p[k], 3, -1) for k in ("w", "r", "b"))
    r = 1 / (1 + jnp.exp(-(x @ wr + h @ rr + br[None])))
    n = jnp.tanh((h * r) @ rn + bn[None] + x @ wn)
    z = sigmoid(x @ wz + bz[None] + h @ rz)
    return h + (1 - z) * (n - h)


def in_a_batch(cell):
    """The cell of one row, over all by vmap."""

    def batched(p, h, x):
        return jax.vmap(lambda h, x: cell(p, h[None], x[None])[0])(h, x)

    return batched


SAME = {
    "before": (with_gates(before), "before", False),
    "before, flipped": (with_gates(before_flipped), "before", True),
    "after": (with_gates(after), "after", False),
    "after, flipped": (with_gates(after_flipped), "after", True),
    "joined": (joined, "before", False),
    "separate": (separate, "before", False),
    "in a batch": (in_a_batch(with_gates(before)), "before", False),
}


def of_sum(total, neuron=jnp.tanh):
    """A step by what the neuron of the candidate takes: total(r, m, h), beside the inputs' share."""
    return lambda z, r, new, m, h: (1 - z) * neuron(new + total(r, m, h)) + z * h


def of_gates(change):
    """A step with other z, r and h: change(z, r, h)."""

    def step(z, r, new, inner, h):
        z, r, h = change(z, r, h)
        return before(z, r, new, inner, h)

    return step


MORE = "it does more than the cell"
NEITHER = "a gate has a product with neither the input nor the state"
RESETS = "0 of its gates have a reset gate in them"
STATE = "its new state is not (1 - sigmoid(z)) tanh(n) + sigmoid(z) h"
NEAR = {
    "no reset": (RESETS, of_sum(lambda r, m, h: h @ m)),
    "the update gate resets": (MORE, of_gates(lambda z, r, h: (z + 0 * r, z, h))),
    "the reset gate updates": (MORE, of_gates(lambda z, r, h: (r + 0 * z, r, h))),
    "reset twice": (MORE, of_gates(lambda z, r, h: (z, r * r, h))),
    "reset before and after": (NEITHER, of_sum(lambda r, m, h: r * ((r * h) @ m))),
    "a factor beside one": (MORE, of_gates(lambda z, r, h: (z, r * (1 - 2.0**-23), h))),
    "a little more of h": (NEITHER, of_sum(lambda r, m, h: (r * h + 1e-9 * h) @ m)),
    "another product of h": (MORE, of_sum(lambda r, m, h: (r * h) @ m + h @ m)),
    "a mask": (MORE, of_gates(lambda z, r, h: (z, r * np.float32([[1, 1, 1, 1, 1, 0]]), h))),
    "r + h": (NEITHER, of_sum(lambda r, m, h: (r + h) @ m)),
    "relu": (RESETS, of_sum(lambda r, m, h: (r * h) @ m, jax.nn.relu)),
    "twice the candidate": (STATE, of_sum(lambda r, m, h: (r * h) @ m, lambda x: jnp.tanh(jnp.tanh(x)))),
    "the units turned": ("1 of its gates are sums of products", of_gates(lambda z, r, h: (z, r[:, ::-1], h))),
    "another unit's state": (NEITHER, of_sum(lambda r, m, h: (r * h[:, ::-1]) @ m)),
    "coupled to another unit": (STATE, of_gates(lambda z, r, h: (z, r, h[:, ::-1]))),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", SAME)
def test_the_same_cell(native, form, reverse):
    cell, reset, flip = SAME[form]
    f = scanned(cell, reverse=reverse)
    check("gru", f, PARAMS, H, XS)
    found = text(f, PARAMS, H, XS)
    assert f'reset="{reset}"' in found and f"flip={str(flip).lower()}" in found


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(native, form):
    words, step = NEAR[form]
    stays(scanned(with_gates(step)), PARAMS, H, XS, words=words, gradient="beside one" in form)


def test_sizes_that_could_be_confused(native):
    """As many inputs as units, of one row, and in one step."""
    params = {**PARAMS, "w": normal(UNITS, 3 * UNITS)}
    check("gru", scanned(with_gates(before)), params, H, normal(TIME, BATCH, UNITS))
    check("gru", scanned(with_gates(before)), params, H[:1], normal(1, 1, UNITS))

    def of_the_input(p, h, x):
        new, gates, inner = sums(p, h, x)
        z, r = jnp.split(sigmoid(gates), 2, -1)
        return before(z, r, new, inner, x) + z * (h - x)

    stays(scanned(of_the_input), params, H, normal(TIME, BATCH, UNITS), words="no mps.lstm or mps.gru: ")


@pytest.mark.usefixtures("native")
@jax.numpy_dtype_promotion("standard")
def test_ten_steps_of_training():
    """Two layers with the reset gate before the product."""
    target, layer = normal(TIME, BATCH, UNITS), scanned(with_gates(before))

    def loss(params):
        y = XS
        for p in params:
            _, y = layer(p, jnp.zeros((BATCH, UNITS)), y)
        return jnp.mean((y - target) ** 2)

    trains(loss, (PARAMS, {**PARAMS, "w": normal(UNITS, 3 * UNITS) * 0.5}), "gru", 2)
