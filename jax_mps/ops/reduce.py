"""Sums that are gradients of broadcasts."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jax_mps.ops._number import wide
from jax_mps.primitive import op


@op("bias_gradient")
def bias_gradient_op(dy: Any) -> Any:
    """The sum over all axes but the last."""
    return jnp.sum(dy, tuple(range(dy.ndim - 1)), dtype=wide(dy.dtype)).astype(dy.dtype)
