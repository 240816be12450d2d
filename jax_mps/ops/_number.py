"""Dtypes of accumulation, and axes of broadcasting, spelled out: nothing is promoted silently."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def wide(dtype: Any) -> np.dtype:
    """The dtype that sums are kept in: float32 for half precision, else the same."""
    return np.dtype(np.float32) if np.dtype(dtype).itemsize < 4 else np.dtype(dtype)


def widen(x: Any) -> Any:
    """`x` in the dtype that sums are kept in."""
    return x.astype(wide(x.dtype))


def along_last(x: Any, rank: int) -> Any:
    """`x` [channels] with leading axes of size 1, to broadcast against an array of `rank` axes."""
    return jnp.expand_dims(x, range(rank - 1))
