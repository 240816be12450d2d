"""The complementary error function, which the exact gelu asks for, in what chains compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from jax_mps.compiler.equations.equation import Equation
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise.conv import Producers, Rewrite

# erfc(x) = exp(-x^2) / x * p(1 / x^2) for x from 1 to 2, and beyond: Cephes' polynomials, the highest power first.
_NEAR = [
    2.326819970068386e-2, -1.387039388740657e-1, 3.687424674597105e-1, -5.824733027278666e-1, 6.210004621745983e-1,
    -4.944515323274145e-1, 3.404879937665872e-1, -2.741127028184656e-1, 5.638259427386472e-1,
]  # fmt: skip
_FAR = [
    -1.047766399936249e1, 1.297719955372516e1, -7.495518717768503, 2.921019019210786, -1.015265279202700,
    4.218463358204948e-1, -2.820767439740514e-1, 5.641895067754075e-1,
]  # fmt: skip


def erfc(equation: Equation, producers: Producers) -> Rewrite:
    """erfc: 1 - erf near 0, where that loses no digits."""
    (x,) = equation.operands
    if x.aval.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise NotConvertible(f"erfc of {x.aval.dtype}")

    def polynomial(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
        return reduce(lambda sum_, c: sum_ * x + c, coefficients[1:], jnp.full_like(x, coefficients[0]))

    def run(given: jax.Array) -> jax.Array:
        x = given.astype(jnp.float32)
        size = jnp.maximum(jnp.abs(x), 1.0)
        inverse = 1.0 / size
        square = inverse * inverse
        tail = jnp.exp(-size * size) * inverse
        tail = tail * jnp.where(size < 2.0, polynomial(_NEAR, square), polynomial(_FAR, square))
        y = jnp.where(jnp.abs(x) < 1.0, 1.0 - lax.erf(x), jnp.where(x < 0.0, 2.0 - tail, tail))
        return y.astype(given.dtype)

    return run, [x]


RULES: dict[str, Callable[[Equation, Producers], Rewrite]] = {"erfc": erfc}
