"""Images as matrices with a row for each, and back."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_mps.ops import _check

_LAYOUTS = ("CHW", "HWC")


def image_to_matrix(x: ArrayLike, *, layout: Literal["CHW", "HWC"] = "CHW") -> jax.Array:
    """Copies images into a matrix, one row for each image.

    Equivalent to::

        y = x.reshape(n, -1)                               layout "HWC"
        y = jnp.moveaxis(x, -1, 1).reshape(n, -1)          layout "CHW"

    Args:
        x: [batch, height, width, channels] or [batch, width, channels]; any dtype.
        layout: the order in a row, slowest first: "CHW" (MPS's default) or "HWC". The second is no copy at all.

    Returns:
        [batch, height * width * channels], of x's dtype.

    Raises:
        ValueError: for another rank or layout.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> x = jnp.arange(4).reshape(1, 1, 2, 2)
        >>> mps.image_to_matrix(x).tolist(), mps.image_to_matrix(x, layout="HWC").tolist()
        ([[0, 2, 1, 3]], [[0, 1, 2, 3]])

    Reference: MPSImageCopyToMatrix.
    """
    x = _check.array("image_to_matrix", "x", x)
    _check.choice("image_to_matrix", "layout", layout, _LAYOUTS)
    if x.ndim not in (3, 4):
        rule = "x must be [batch, height, width, channels] or [batch, width, channels]"
        _check.fail("image_to_matrix", rule, x.shape, "Reshape x.")
    ordered = jnp.moveaxis(x, -1, 1) if layout == "CHW" else x
    return ordered.reshape(x.shape[0], math.prod(x.shape[1:]))


def matrix_to_image(x: ArrayLike, shape: tuple[int, ...], *, layout: Literal["CHW", "HWC"] = "CHW") -> jax.Array:
    """Copies the rows of a matrix into images: the inverse of `image_to_matrix`.

    Equivalent to::

        y = x.reshape(n, height, width, channels)                              layout "HWC"
        y = jnp.moveaxis(x.reshape(n, channels, height, width), 1, -1)         layout "CHW"

    Args:
        x: [batch, height * width * channels]; any dtype.
        shape: (height, width, channels) or (width, channels) of one image.
        layout: the order in a row, slowest first: "CHW" (MPS's default) or "HWC".

    Returns:
        [batch, *shape], of x's dtype.

    Raises:
        ValueError: for another layout, or where the rows do not hold such images.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.matrix_to_image(jnp.array([[0, 2, 1, 3]]), (1, 2, 2)).tolist()
        [[[[0, 1], [2, 3]]]]

    Reference: MPSMatrixCopyToImage.
    """
    x = _check.array("matrix_to_image", "x", x)
    _check.choice("matrix_to_image", "layout", layout, _LAYOUTS)
    shape = _check.sizes("matrix_to_image", "shape", shape)
    if len(shape) not in (2, 3):
        rule = "shape must be (height, width, channels) or (width, channels)"
        _check.fail("matrix_to_image", rule, shape, "Check shape.")
    size = math.prod(shape)
    if x.ndim != 2 or x.shape[1] != size:
        _check.fail("matrix_to_image", f"x must have shape (batch, {size})", x.shape, f"Check shape={shape}.")
    if layout == "HWC":
        return x.reshape(x.shape[0], *shape)
    return jnp.moveaxis(x.reshape(x.shape[0], shape[-1], *shape[:-1]), 1, -1)
