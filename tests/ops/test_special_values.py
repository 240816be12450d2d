"""Zeros of both signs, subnormals, infinities and NaN, in everything that is elementwise: as NumPy in float64 has them.

Instructions of chains on every instruction set, under graph, the neurons and what they are fused into.
"""

from __future__ import annotations

import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import special_values as special
from jax import lax
from process import python
from setting import METAL, ROOT
from special_values import SPECIAL, TINY, differing, rounded

import jax_mps as mps


def test_instructions(native):
    assert special.instruction_faults() == []


def test_constants(native):
    assert special.constant_faults() == []


def test_reductions(native):
    assert special.reduction_faults() == []


@pytest.mark.skipif(METAL or platform.machine() != "x86_64", reason="the other instruction sets of x86")
@pytest.mark.parametrize("isa", ["baseline", "v3"])
def test_instruction_sets(isa):
    python(ROOT / "tests/helpers/special_values.py", JAX_MPS_ISA=isa, JAX_MPS_DEVICE="cpu")


# lax's functions of the names of instructions, where they differ.
LAX = {"round_half_away": lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO),
       "round_half_even": lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)}  # fmt: skip


def of_lax(name):
    op, *power = name.split()
    return (lambda x: lax.integer_pow(x, int(power[0]))) if power else LAX.get(name) or getattr(lax, op)


def test_graph(native):
    x, (a, b) = SPECIAL, special.pairs()
    one, two = list(special.UNARY), list(special.BINARY)
    functions = [of_lax(name) for name in one], [of_lax(name) for name in two]

    @jax.jit
    @mps.graph
    def f(x, a, b, w):  # with a product, which makes it worth a native call
        return [g(x) for g in functions[0]], [g(a, b) for g in functions[1]], jnp.clip(x, -1.0, 0.0), w @ w

    single, double, clipped, _ = f(x, a, b, jnp.ones((512, 512)))
    faults = [w for name, y in zip(one, single, strict=True) for w in differing(name, special.UNARY[name], (x,), y)]
    faults += [w for name, y in zip(two, double, strict=True) for w in differing(name, special.BINARY[name], (a, b), y)]
    faults += differing("max", lambda x: special.least(special.greatest(x, -1), np.zeros_like(x)), (x,), clipped)
    assert faults == []


def test_relu_is_max_with_zero(device):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        x = jnp.asarray(SPECIAL).astype(dtype)
        for f in (jax.nn.relu, mps.relu, mps.graph(lambda x: lax.max(x, jnp.zeros_like(x)))):
            y = np.asarray(jax.jit(f)(x), np.float32)
            assert (
                differing("max", lambda x: special.greatest(x, np.zeros_like(x)), (np.asarray(x, np.float32),), y) == []
            )


def leaky(x, a):
    return np.where(x <= 0, a * x if a else 0, x)


def slope_of_unit(a, b):
    return lambda x: np.where((a * x + b < 0) | (a * x + b > 1), 0, a)


# Name and parameters -> value and derivative in float64, at kinks as the docstring of mps.neuron has them.
NEURONS = {
    ("relu",): (lambda x: leaky(x, 0), lambda x: np.where(x <= 0, 0, 1.0)),
    ("relu", 0.25): (lambda x: leaky(x, 0.25), lambda x: np.where(x <= 0, 0.25, 1.0)),
    ("linear", 2.0, -0.5): (lambda x: 2 * x - 0.5, lambda x: np.full_like(x, 2)),
    ("absolute",): (np.abs, np.sign),
    ("elu", 2.0): (
        lambda x: np.where(x > 0, x, 2 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, 2 * np.exp(np.minimum(x, 0))),
    ),
    ("relun", 0.25, 2.0): (
        lambda x: np.where(x >= 2, 2, leaky(x, 0.25)),
        lambda x: np.where(x >= 2, 0, np.where(x <= 0, 0.25, 1)),
    ),
    ("relun",): (lambda x: np.where(x >= 6, 6, leaky(x, 0)), lambda x: np.where((x >= 6) | (x <= 0), 0, 1.0)),
    ("hard_sigmoid", 0.25, 0.5): (
        lambda x: np.clip(0.25 * x + 0.5, 0, 1),
        slope_of_unit(0.25, 0.5),
    ),
    ("hard_sigmoid", 1.0, 0.0): (lambda x: np.clip(x, 0, 1) + 0.0, slope_of_unit(1.0, 0.0)),
    ("sigmoid",): (special.UNARY["logistic"], lambda x: np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2),
    ("tanh",): (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    ("softplus",): (lambda x: np.logaddexp(0, x), special.UNARY["logistic"]),
    ("softsign",): (lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2),
    ("power", 1.0, 0.0, 3.0): (lambda x: (x + 0.0) ** 3.0, lambda x: 3 * x**2.0),
    ("power", 1.0, 0.0, 0.0): (np.ones_like, np.zeros_like),
    ("exponential",): (np.exp, np.exp),
    ("logarithm", 1.0, 0.0, 2.0): (lambda x: np.log2(x + 0.0), lambda x: 1 / (x + 0.0) / np.log(2)),
}
KINKS = np.array([-4, -2, -1, 0, 1, 2, 4, 6], np.float32)
SIDES = [KINKS, *(KINKS * np.float32(f) for f in (1 - 1e-6, 1 + 1e-6))]
AROUND = np.unique(np.concatenate([SPECIAL, *SIDES]).view(np.uint32)).view(np.float32)
AROUND = AROUND[(AROUND == 0) | ~(np.abs(AROUND) < TINY)]  # a subnormal may count as a zero, on either side of a kink
FLAT = ("relu", "relun", "hard_sigmoid")


@pytest.mark.parametrize("spec", NEURONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_neurons(device, spec, dtype):
    value, derivative = NEURONS[spec]
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(AROUND, dtype)
        function = lambda x: mps.neuron(x, *spec)  # noqa: E731
        for f in (function, mps.graph(function)):
            with np.errstate(over="ignore"):
                y = np.asarray(jax.jit(f)(x)).astype(np.float32)
                pull = jax.jit(lambda x, dy: jax.vjp(f, x)[1](dy)[0])  # noqa: B023
                dx = {dy: np.asarray(pull(x, jnp.full_like(x, dy))).astype(np.float32) for dy in (1.0, -2.0, np.inf)}
            assert differing(spec[0], value, (AROUND,), y, 1e-5) == []
            slope = rounded(derivative, AROUND)
            for dy in (1.0, -2.0):
                wanted = np.float32(dy) * slope
                near = np.isclose(dx[dy], wanted, rtol=1e-4, atol=2e-6, equal_nan=True)
                assert near.all(), (dy, AROUND[~near], dx[dy][~near], wanted[~near])
            if spec[0] in FLAT:
                np.testing.assert_array_equal(dx[np.inf][slope == 0], 0)


# Rows of pixels; the largest has its relu inside of the product's library.
@pytest.mark.parametrize("rows, channels", [(32, 1), (4096, 16), (65536, 64)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_relu_after_products_and_norms(device, rows, channels, dtype):
    few = np.array([0, -0.0, 1, -1, 2, -3, np.nan, np.inf, -np.inf], np.float32)
    wanted = np.repeat(np.resize(few, rows)[:, None], channels, 1)
    x = np.zeros((rows, channels), np.float32)
    x[:, 0] = wanted[:, 0]
    w = np.zeros((channels, channels), np.float32)
    w[0] = 1
    plain = lambda x, w: jax.nn.relu(x @ w)  # noqa: E731
    one = lambda x, w: mps.conv(x.reshape(1, -1, 8, channels), w[None, None], neuron="relu")  # noqa: E731
    functions = [lambda x, w: mps.dense(x, w, neuron="relu"), one, mps.graph(plain)]
    if dtype == "float32":
        ones, zeros = jnp.ones(channels), jnp.zeros(channels)
        norm = lambda x, w: mps.batch_norm_inference(x, zeros, ones, ones, zeros, epsilon=0, neuron="relu")  # noqa: E731
        functions.append(lambda x, w: norm(jnp.repeat(x[:, :1], channels, 1), w))
    for f in functions:
        y = np.asarray(jax.jit(f)(jnp.asarray(x, dtype), jnp.asarray(w, dtype)), np.float32).reshape(wanted.shape)
        assert differing("max", lambda x: special.greatest(x, np.zeros_like(x)), (wanted.ravel(),), y.ravel()) == []


def test_relu_after_minimal_filtering(native):
    x = -np.random.default_rng(0).random((2, 21, 18, 16)).astype(np.float32)
    w, b = np.full((3, 3, 16, 48), 0.1, np.float32), np.zeros(48, np.float32)
    b[0] = -np.inf
    y = np.asarray(jax.jit(lambda *a: mps.conv(*a, neuron="relu"))(x, w, b))
    assert (y == 0).all() and not np.signbit(y).any()
