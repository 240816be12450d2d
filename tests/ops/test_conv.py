"""Which convolutions run by minimal filtering, how exactly, and what they do with NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CONV, FILTERING
from op_common import cast, differentiable, operands_of, scalar
from process import python
from random_convolutions import FORMS, Convolution, faults

import jax_mps as mps
from jax_mps import ffi

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


def test_filters_that_cost_more_than_the_image_are_not_transformed(native):
    rows = mps.explain(mps.conv, jnp.ones((8, 7, 7, 512)), jnp.ones((3, 3, 512, 512)))
    assert not any("winograd" in row.implementation for row in rows)


def test_few_pixels_of_few_weights_are_summed_in_short_runs(native):
    """As fast as oneDNN, and more exact."""
    x, w = jnp.maximum(normal(4, 11, 11, 192), 0), normal(1, 1, 192, 64, seed=1)
    rows = mps.explain(mps.conv, x, w)
    assert mps.device() != "cpu" or all(row.implementation.startswith("short sums") for row in rows)
    with jax.enable_x64(True):
        exact = np.asarray(mps.conv(*(jnp.asarray(a, jnp.float64) for a in (x, w))))
    assert mps.device() != "cpu" or np.linalg.norm(np.asarray(mps.conv(x, w)) - exact) < 1.5e-7 * np.linalg.norm(exact)


@pytest.mark.parametrize(("x", "w"), SHAPES, ids=["3x3", "5x5"])
def test_errors_are_small(native, x, w):
    """Against float64: below 1e-5 of the largest element, on average below 1e-6; on the CPU, y as by plain sums."""

    def all_three(x, w, dy):
        y, pull = jax.vjp(mps.conv, x, w)
        return y, *pull(dy)

    x, w, dy = normal(*x), normal(*w, seed=1), normal(*x[:3], w[-1], seed=2)
    with jax.enable_x64(True):
        wanted = [np.asarray(a) for a in all_three(*(jnp.asarray(a, jnp.float64) for a in (x, w, dy)))]
    least = (1e-6, 3e-7) if mps.device() == "cpu" else (1e-5, 1e-6)
    for got, exact, (largest, average) in zip(all_three(x, w, dy), wanted, [least, *[(1e-5, 1e-6)] * 2], strict=True):
        error = np.asarray(got) - exact
        assert np.abs(error).max() < largest * np.abs(exact).max()
        assert np.linalg.norm(error) < average * np.linalg.norm(exact)


@pytest.mark.parametrize(("x", "w"), SHAPES, ids=["3x3", "5x5"])
def test_results_are_as_exact_as_plain_sums(native, x, w):
    """Of what a relu leaves, whose mean is not 0."""
    x, w = jnp.maximum(normal(*x), 0), normal(*w, seed=1)
    with jax.enable_x64(True):
        exact = np.asarray(mps.conv(*(jnp.asarray(a, jnp.float64) for a in (x, w))))
    plain = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    error, of_plain = (np.linalg.norm(np.asarray(y) - exact) for y in (mps.conv(x, w), plain))
    assert mps.device() != "cpu" or error < 1.2 * of_plain


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


def convolution(x, window, fan_out, strides=1, dilation=1, padding=0, groups=1, dtype="bfloat16", form="op"):
    """One of random_convolutions.py; numbers stand for both axes."""
    both = lambda v: v if isinstance(v, tuple) else (v,) * len(window)  # noqa: E731
    pads = tuple(p if isinstance(p, tuple) else (p, p) for p in both(padding))
    sizes = x[0], x[1:-1], window, both(strides), both(dilation), pads
    return Convolution(*sizes, groups, x[-1] // groups, fan_out // groups, dtype, form)


# What kernels of oneDNN get wrong on one machine or another (docs/onednn.md).
DELICATE = [
    *(convolution((8, n, n, 4), (1, 1), 8, strides=2, dtype="float32") for n in (8, 16, 30)),
    *(convolution((8, 16, 4, c), (1, 1), 36, strides=2, dtype="float32") for c in (1, 7, 17, 300)),
    convolution((1, 10, 12, 2), (1, 1), 5, strides=(2, 1), dtype="float32"),
    convolution((3, 81, 7), (1,), 15, strides=3, dtype="float32"),
    convolution((3, 81, 7), (1,), 15, strides=3),
    convolution((2, 30, 22, 64), (1, 1), 188, strides=(4, 2), padding=((0, 1), (1, 0))),
    convolution((3, 10, 36, 48), (2, 4), 32, strides=2),
    convolution((1, 60, 1), (1,), 1),
    convolution((8, 12, 15, 1), (1, 1), 64),
    convolution((1, 26, 12, 56), (4, 2), 2, dilation=3, padding=((4, 2), (0, 3))),
    convolution((2, 1, 44, 42), (1, 4), 3, strides=(1, 5), padding=((0, 0), (4, 0))),
    convolution((5, 10, 3, 3), (1, 3), 16, strides=4, padding=((0, 0), (2, 2))),
    *(convolution((4, 32, 32, 64), (3, 3), 64, dilation=2, padding=2, groups=64, form=f) for f in sorted(set(FORMS))),
    convolution((2, 23, 31, 16), (4, 1), 48, dilation=2, groups=16),
]


@pytest.mark.parametrize("case", DELICATE, ids=lambda c: f"{c.dtype} {c.shapes[0]} {c.window} {c.form}")
def test_delicate_geometries(native, case):
    assert faults(case, 0) == []


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
        assert ("winograd" in python("-c", code, JAX_MPS_WINOGRAD=value).stdout) == filtered


@pytest.mark.parametrize(
    ("x", "w", "strides"),
    [
        ((8, 17, 17, 192), (1, 7, 192, 192), 1),
        ((8, 17, 17, 768), (1, 1, 768, 192), 1),
        ((8, 35, 35, 288), (3, 3, 288, 384), 2),
        ((1, 35, 35, 288), (3, 3, 288, 384), 2),
        ((3, 56, 56, 64), (1, 1, 64, 256), 1),
        ((4, 30, 30, 96), (3, 3, 12, 160), 2),
    ],
)
def test_large_ones_stay_on_the_device(x, w, strides):
    """Their weights are copied piece by piece, their work cut into parts: nothing of it may be refused."""
    if mps.device() != "cpu" or "without oneDNN" in ffi.native().versions():
        pytest.skip("the CPU device's oneDNN")

    def step(x, w):
        y, pull = jax.vjp(lambda x, w: mps.conv(x, w, strides=strides, groups=x.shape[-1] // w.shape[2]), x, w)
        return pull(y)

    rows = [row for row in mps.explain(step, jnp.zeros(x), jnp.zeros(w)) if row.op in FAMILY]
    assert {row.op for row in rows} == set(FAMILY)
    assert all(row.device == "cpu" for row in rows), [row.implementation for row in rows]
