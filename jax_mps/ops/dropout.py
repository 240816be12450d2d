"""Dropout whose mask is a function of the key: forward and backward draw the same one, and nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jax_mps.ops import _check
from jax_mps.ops._number import widen
from jax_mps.primitive import op


# vmap over x alone puts an axis before it and leaves the mask's shape: every example gets the mask of a loop.
@op("dropout", batch=[0], vmap="prepend")
def dropout_op(
    x: Any, key_data: Any, *, keep_probability: float, mask_shape: tuple[int, ...], generator: Any, partitionable: bool
) -> Any:
    """x / keep_probability where the mask is set, else 0; the mask broadcasts against the last axes of x."""
    key = jax.random.wrap_key_data(key_data, impl=generator)
    with jax.threefry_partitionable(partitionable):
        mask = jax.random.bernoulli(key, np.float32(keep_probability), mask_shape)
    mask = jnp.broadcast_to(lax.expand_dims(mask, range(x.ndim - mask.ndim)), x.shape)
    wide = widen(x)
    keep = jnp.asarray(np.float32(keep_probability), wide.dtype)
    return jnp.where(mask, wide / keep, jnp.zeros_like(wide)).astype(x.dtype)


@dropout_op.forward
def _(x: Any, key_data: Any, **attributes: Any) -> Any:
    return dropout_op(x, key_data, **attributes), key_data


@dropout_op.gradient
def _(key_data: Any, cotangents: Any, **attributes: Any) -> Any:
    return dropout_op(cotangents[0], key_data, **attributes), None


def dropout(
    x: ArrayLike, key: ArrayLike, *, keep_probability: float, broadcast_axes: int | Sequence[int] = ()
) -> jax.Array:
    """Keeps each element with a probability and scales it by the inverse; zeroes the others.

    y = x / keep_probability where the mask is set, else 0. The mask is a function of the key, the same on every
    device, in forward and backward passes, in every dtype of x, and equal to the one of Flax's Dropout of that key.

    Equivalent to::

        mask = jax.random.bernoulli(key, jnp.float32(keep_probability), mask_shape)
        y = jnp.where(mask, x / keep_probability, 0)

    Args:
        x: an array of any shape; float32, float16 or bfloat16 (other floating dtypes run on XLA).
        key: a key of jax.random.key, or a raw one of jax.random.PRNGKey. Kernels draw threefry2x32 with
            jax_threefry_partitionable on, both JAX's defaults; XLA draws for any other.
        keep_probability: a number in (0, 1]; 1 gives x itself. MPS, too, counts what is kept, Flax's rate what is not.
        broadcast_axes: axes of x that share one mask, of size 1 in mask_shape.

    Returns:
        An array like x.

    Raises:
        ValueError: if keep_probability is outside (0, 1], the key is not a single one, or an axis is not x's.
        TypeError: if keep_probability is traced, x is not floating or key is not a key.

    Example:
        >>> import jax, jax.numpy as jnp, jax_mps as mps
        >>> mps.dropout(jnp.ones(6), jax.random.key(0), keep_probability=0.5).tolist()
        [0.0, 0.0, 2.0, 2.0, 0.0, 2.0]

    Reference: MPSCNNDropout; Srivastava et al., "Dropout", 2014.
    """
    x = _check.floating("dropout", "x", x)
    keep = _check.number("dropout", "keep_probability", keep_probability)
    if not 0 < np.float32(keep) <= 1:
        _check.fail(
            "dropout", "keep_probability must be in (0, 1]", keep, "It is the part that is kept: 1 - rate of Flax."
        )
    key = _check.key("dropout", key)
    axes = _axes(x, broadcast_axes)
    if keep == 1:
        return x
    return dropout_op(
        x,
        jax.random.key_data(key),
        keep_probability=keep,
        mask_shape=tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)),
        generator=jax.random.key_impl(key),
        partitionable=bool(jax.config.jax_threefry_partitionable),  # type: ignore[attr-defined]
    )


def _axes(x: jax.Array, axes: int | Sequence[int]) -> set[int]:
    given = (axes,) if isinstance(axes, int | np.integer) else axes
    if not isinstance(given, Sequence | set | np.ndarray) or not all(
        isinstance(axis, int | np.integer) and -x.ndim <= axis < x.ndim for axis in given
    ):
        rule = f"broadcast_axes must be axes of x, which has {x.ndim}"
        _check.fail("dropout", rule, _check.told(axes), _check.static_remedy(axes, "Check broadcast_axes."))
    return {int(axis) % x.ndim for axis in given}
