"""Gradients of recurrent layers of which only some are read."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from cells import CELLS, assert_near, normal, weights

import jax_mps as mps
from jax_mps import ffi

EXTRAS = [(cell, "") for cell in CELLS]
EXTRAS += [("lstm", "peephole"), ("lstm", "peephole matrices"), ("gru", "recurrent_bias"), ("gru before", "memory")]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell, extra", EXTRAS)
def test_unread_gradients_are_left_out(native, cell, extra, recompute):
    gates, run = CELLS[cell]
    state = ["h0", "c0"] if cell == "lstm" else ["h0"]
    arrays = {"x": normal(3, 4, 2), **{n: normal(3, 5, seed=1) for n in state}}
    arrays |= zip("wrb", weights(gates, 2, 5), strict=True)
    if extra:
        shapes = {"peephole": (3, 5), "peephole matrices": (3, 5, 5), "recurrent_bias": (5,), "memory": (5, 5)}
        arrays[extra.split()[0]] = normal(*shapes[extra])

    def loss(some):
        return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(run(**{**arrays, **some}, recompute=recompute)))

    every = jax.grad(loss)(arrays)
    for name in arrays:
        of_one = jax.grad(lambda value, name=name: loss({name: value}))
        assert_near(of_one(arrays[name]), every[name])
        for function in (of_one, mps.graph(of_one)):
            text = jax.jit(function).lower(arrays[name]).as_text()
            flags = re.findall(r"wanted=\[([a-z,]*)\]", text)
            assert [f.count("true") for f in flags] == [1], text
            assert_near(jax.jit(function)(arrays[name]), every[name])


@pytest.mark.parametrize(
    "flags, words",
    [
        ("[true]", "attribute 'wanted' must have 6 items"),
        ("[1,0,0,0,0,0]", "attribute 'wanted' must be a list of true or false"),
        ("[true,true,false,false,false,false]", "gives 2 results, but has 1"),
        ("7", "attribute 'wanted' must be a list"),
    ],
)
def test_wrong_flags_of_wanted_results(native, flags, words):
    x, (w, r, b) = normal(2, 3, 4), weights(4, 4, 5)
    program = mps.graph(jax.grad(lambda w: jnp.sum(mps.lstm(x, w, r, b)[0] ** 2))).program(w)
    text = re.sub(r"wanted=\[[a-z,]*\]", f"wanted={flags}", program.text())
    with pytest.raises(ValueError, match=words):
        ffi.implementations(ffi.text_for(native, text))
