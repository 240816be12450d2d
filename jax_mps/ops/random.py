"""Random bits of a key, as jax.random draws them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jax_mps.primitive import op


@op("random_bits")
def random_bits_op(key_data: Any, *, shape: tuple[int, ...], generator: str, partitionable: bool) -> Any:
    """jax.random.bits of the key, 32 for each element of `shape`."""
    key = jax.random.wrap_key_data(key_data, impl=generator)
    with jax.threefry_partitionable(partitionable):
        return jax.random.bits(key, shape, jnp.uint32)
