"""Recognises draws of random bits: of arrays, from one key of JAX's default generator."""

from __future__ import annotations

import math
from typing import Any

import jax

from jax_mps.compiler.equations.equation import Equation
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise.conv import Producers, Rewrite
from jax_mps.ops.random import random_bits_op

_SMALL = 4096  # draws below which a native region of its own costs more than XLA's


def random_bits(equation: Equation, producers: Producers) -> Rewrite:
    """random_bits of a single key."""
    (key,) = equation.operands
    shape = tuple(map(int, equation.params["shape"]))
    if key.aval.shape or equation.params["bit_width"] != 32 or math.prod(shape) < _SMALL:
        raise NotConvertible("a draw of few numbers, of several keys, or of another width")
    with equation.context.manager:
        partitionable = bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]

    def run(key: Any) -> Any:
        generator = str(jax.random.key_impl(key))
        return random_bits_op(jax.random.key_data(key), shape=shape, generator=generator, partitionable=partitionable)

    return run, [key]


RULES = {"random_bits": random_bits}
