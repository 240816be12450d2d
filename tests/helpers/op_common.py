"""What the tests of single ops share: a case's operands, and a scalar of all results."""

from __future__ import annotations

import zlib

import jax.numpy as jnp
import numpy as np
from cases import Case


def operands_of(case: Case) -> list[np.ndarray]:
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    return [rng.standard_normal(o) if isinstance(o, tuple) else np.asarray(o(rng)) for o in case.operands]


def cast(operands, dtype):
    return [jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else x.dtype) for x in operands]


def differentiable(operands) -> tuple[int, ...]:
    return tuple(i for i, x in enumerate(operands) if np.issubdtype(x.dtype, np.floating))


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def scalar(function):
    """A smooth scalar of all results, so that every cotangent is a different number."""

    def total(*operands):
        floating = (
            y.astype(jnp.float64 if y.dtype == jnp.float64 else jnp.float32) for y in as_tuple(function(*operands))
        )
        return sum(jnp.sum(jnp.sin(y * 0.7 + 0.3)) for y in floating)

    return total
