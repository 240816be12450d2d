"""Which convolutions run by minimal filtering, how exactly, and what they do with NaN."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CONV, FILTERING
from test_ops import cast, differentiable, operands_of, scalar

import jax_mps as mps

FAMILY = ("conv", "conv_data_gradient", "conv_weight_gradient")
SHAPES = [((2, 20, 20, 32), (3, 3, 32, 64)), ((2, 20, 20, 64), (5, 5, 64, 32))]


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def implementations(case):
    operands = cast(operands_of(case), jnp.float32)
    table = mps.explain(jax.value_and_grad(scalar(case.function), differentiable(operands)), *operands)
    return {row.op: row.implementation for row in table if row.op in FAMILY}


@pytest.mark.parametrize("case", FILTERING, ids=str)
def test_large_images_of_many_channels_are_filtered(case, native):
    found = implementations(case)
    assert set(found) == set(FAMILY) and all(name.startswith("winograd:F(") for name in found.values())


@pytest.mark.parametrize("case", CONV, ids=str)
def test_all_else_is_summed(case, native):
    assert not any("winograd" in name for name in implementations(case).values())


@pytest.mark.parametrize(("x", "w"), SHAPES, ids=["3x3", "5x5"])
def test_errors_are_small(native, x, w):
    """Against float64: below 1e-5 of the largest element, where plain sums stay below 1e-6; on average below 1e-6."""

    def all_three(x, w, dy):
        y, pull = jax.vjp(mps.conv, x, w)
        return y, *pull(dy)

    x, w, dy = normal(*x), normal(*w, seed=1), normal(*x[:3], w[-1], seed=2)
    with jax.enable_x64(True):
        wanted = [np.asarray(a) for a in all_three(*(jnp.asarray(a, jnp.float64) for a in (x, w, dy)))]
    for got, exact in zip(all_three(x, w, dy), wanted, strict=True):
        error = np.asarray(got) - exact
        assert np.abs(error).max() < 1e-5 * np.abs(exact).max()
        assert np.linalg.norm(error) < 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize(("x", "w"), SHAPES, ids=["3x3", "5x5"])
def test_the_highest_precision_is_plain_sums(native, x, w):
    x, w = normal(*x), normal(*w, seed=1)

    def all_three(x, w):
        return jax.value_and_grad(lambda x, w: jnp.sum(mps.conv(x, w) ** 2), (0, 1))(x, w)

    with jax.default_matmul_precision("highest"):
        rows = [row for row in mps.explain(all_three, x, w) if row.op in FAMILY]
        assert len(rows) == 3 and not any("winograd" in row.implementation for row in rows)
        got = mps.conv(x, w)
    with jax.enable_x64(True):
        exact = np.asarray(mps.conv(*(jnp.asarray(a, jnp.float64) for a in (x, w))))
    assert np.linalg.norm(np.asarray(got) - exact) < 8e-7 * np.linalg.norm(exact)
    with jax.default_matmul_precision("high"):  # minimal filtering is in float32
        rows = [row for row in mps.explain(all_three, x, w) if row.op in FAMILY]
    assert mps.device() != "cpu" or all("winograd" in row.implementation for row in rows)


@pytest.mark.parametrize(("x", "w"), SHAPES, ids=["3x3", "5x5"])
def test_repeats_bit_for_bit(native, x, w):
    x, w = normal(*x), normal(*w, seed=1)
    both = jax.jit(jax.value_and_grad(lambda x, w: jnp.sum(mps.conv(x, w) ** 2), (0, 1)))
    first = jax.tree.leaves(both(x, w))
    for _ in range(200):
        for a, b in zip(first, jax.tree.leaves(both(x, w)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [8, 16, 30])
def test_weight_gradients_of_strided_pixels(native, size):
    x, w = normal(8, size, size, 4), normal(1, 1, 4, 8, seed=1)
    loss = lambda x, w: jnp.sum(jnp.sin(mps.conv(x, w, strides=2, padding="VALID")))  # noqa: E731
    equal = lambda x, w: jnp.sum(jnp.sin(x[:, ::2, ::2] @ w[0, 0]))  # noqa: E731
    gradient, wanted = jax.jit(jax.grad(loss, (0, 1))), jax.grad(equal, (0, 1))(x, w)
    for _ in range(20):
        for a, b in zip(gradient(x, w), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_nan_reaches_all_that_reads_it(native):
    x, w = normal(1, 24, 24, 32).at[0, 10, 13, 5].set(jnp.nan), normal(3, 3, 32, 32, seed=1)
    y = np.asarray(mps.conv(x, w, neuron="relu"))
    assert np.isnan(y[0, 9:12, 12:15]).all()
    assert np.isfinite(y[0, :4]).all() and np.isfinite(y[0, :, :4]).all()  # and not much more


def test_can_be_turned_off(native):
    code = """
import jax.numpy as jnp, jax_mps as mps
print(mps.explain(mps.conv, jnp.ones((2, 20, 20, 32)), jnp.ones((3, 3, 32, 64))))
"""
    for value, filtered in (("0", False), ("1", True)):
        environment = os.environ | {"JAX_MPS_WINOGRAD": value}
        command = [sys.executable, "-P", "-c", code]  # the package under test, not the one in the current folder
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert ("winograd" in run.stdout) == filtered
