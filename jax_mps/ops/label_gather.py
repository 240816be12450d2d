"""One element of each row, by index."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from jax_mps.primitive import op


@op("pick", batch=[0, 1], vmap="prepend")
def pick_op(x: Any, index: Any) -> Any:
    """x[..., index[...]] along the last axis; NaN where the index is out of range."""
    index = jnp.where(index < 0, x.shape[-1], index)[..., None]
    return jnp.take_along_axis(x, index, -1, mode="fill", fill_value=jnp.nan)[..., 0]


@op("pick_gradient", batch=[0, 1], vmap="prepend")
def pick_gradient_op(dy: Any, index: Any, *, classes: int) -> Any:
    """dy at the index, 0 elsewhere: the transpose of `pick` in x, whose last axis has `classes`."""
    place = lax.broadcasted_iota(index.dtype, (*index.shape, classes), index.ndim)
    return jnp.where(place == index[..., None], dy[..., None], jnp.zeros((), dy.dtype))


@pick_op.gradient
def _(residuals: Any, cotangents: Any) -> Any:
    (x, index), _ = residuals
    return pick_gradient_op(cotangents[0], index, classes=x.shape[-1]), None


@pick_gradient_op.gradient
def _(residuals: Any, cotangents: Any, *, classes: int) -> Any:
    (_, index), _ = residuals
    return pick_op(cotangents[0], index), None
