"""Dtypes and precision of sums, and axes of broadcasting, spelled out: nothing is promoted silently."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_mps._compat import matmul_precision


def wide(dtype: Any) -> np.dtype:
    """The dtype that sums are kept in: float32 for half precision, else the same."""
    return np.dtype(np.float32) if np.dtype(dtype).itemsize < 4 else np.dtype(dtype)


def widen(x: Any) -> Any:
    """`x` in the dtype that sums are kept in."""
    return x.astype(wide(x.dtype))


def along_last(x: Any, rank: int) -> Any:
    """`x` [channels] with leading axes of size 1, to broadcast against an array of `rank` axes."""
    return jnp.expand_dims(x, range(rank - 1))


def precision_attribute(precision: Any) -> dict[str, str]:
    """The attribute of a convolution whose lax `precision` asks for plain sums, which is HIGHEST; {} else."""
    asked = precision if isinstance(precision, tuple) else (precision,)
    return {"precision": "highest"} if lax.Precision.HIGHEST in asked else {}


def sums_in_float64(precision: Any) -> bool:
    """Whether a product's lax `precision`, an algorithm, asks for sums in float64."""
    sums = getattr(precision, "accumulation_type", None)
    return sums is not None and np.dtype(sums) == np.float64


def default_precision() -> Any:
    """The lax precision that `jax.default_matmul_precision` sets here."""
    return lax.Precision.HIGHEST if matmul_precision() in ("highest", "float32") else None
