"""Pooling over windows: maximum, average and L2 norm, each with its gradient."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jax_mps._types import Ints, Padding
from jax_mps.ops import _check, _crop
from jax_mps.ops._number import wide, widen
from jax_mps.primitive import op

Pair = tuple[int, int]
Sizes = tuple[int, ...]


def _reduce(x: Any, start: float, step: Any, window: Sizes, strides: Sizes, padding: Any, dilation: Sizes) -> Any:
    def inner(values: Any, outside: Any) -> Any:
        return (outside, *values, outside)

    return lax.reduce_window(
        x,
        np.asarray(start, x.dtype),
        step,
        inner(window, 1),
        inner(strides, 1),
        inner(padding, (0, 0)),
        window_dilation=inner(dilation, 1),
    )


def _sum(x: Any, *, window: Sizes, strides: Sizes, padding: Any) -> Any:
    return _reduce(x, 0, lax.add, window, strides, padding, (1,) * len(window))


def _spread(dy: Any, spatial: Sizes, **geometry: Any) -> Any:
    """The transpose of `_sum`: each number goes to every pixel of its window."""
    x = jax.ShapeDtypeStruct((dy.shape[0], *spatial, dy.shape[-1]), dy.dtype)
    return jax.linear_transpose(lambda x: _sum(x, **geometry), x)(dy)[0]


# Maximum. When differentiated, the forward pass also gives the tap (the number of the pixel in its window, in row-major
# order) of each maximum, so that the gradient need not read x again: a byte for each output in place of 4 windows.


@functools.lru_cache(maxsize=256)
def _pixels(
    spatial: Sizes, window: Sizes, strides: Sizes, padding: Any, dilation: Sizes
) -> tuple[np.ndarray, np.ndarray]:
    """For each output (row-major) and tap: the number of its pixel, and whether it is one and not padding."""
    pixel, valid = np.zeros((1, 1), np.int32), np.ones((1, 1), bool)
    for n, k, s, (low, high), d in zip(spatial, window, strides, padding, dilation, strict=True):
        outputs = (n + low + high - (k - 1) * d - 1) // s + 1
        along = np.arange(outputs)[:, None] * s + np.arange(k) * d - low
        here = (along >= 0) & (along < n)
        shape = (len(pixel) * outputs, pixel.shape[1] * k)
        pixel = (pixel[:, None, :, None] * n + np.clip(along, 0, max(n - 1, 0))[:, None]).reshape(shape)
        valid = (valid[:, None, :, None] & here[:, None]).reshape(shape)
    return pixel.astype(np.int32), valid


def _seen(x: Any, pixels: np.ndarray) -> Any:
    """What each window sees: [batch, outputs, taps, channels]."""
    flat = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    return flat.at[:, pixels].get(mode="promise_in_bounds")


@op("max_pool", batch=[0], vmap="merge")
def max_pool_op(x: Any, **geometry: Any) -> Any:
    """The maximum of each window; padding is -infinity."""
    return _reduce(x, -np.inf, lax.max, **geometry)


@op("max_pool_taps", batch=[0], vmap="merge")
def max_pool_taps_op(x: Any, **geometry: Any) -> tuple[Any, Any]:
    """The maximum of each window, and the tap of the first; the first NaN is the maximum."""
    y = max_pool_op.meaning(x, **geometry)
    pixels, valid = _pixels(x.shape[1:-1], **geometry)
    seen = _seen(x, pixels)
    maximal = (seen == y.reshape(seen.shape[0], len(pixels), 1, seen.shape[-1])) | jnp.isnan(seen)
    taps = jnp.argmax(maximal & jnp.asarray(valid)[None, :, :, None], axis=2)
    return y, taps.astype(np.uint8 if pixels.shape[1] <= 256 else np.int32).reshape(y.shape)


@op("max_pool_gradient", batch=[0, 1], vmap="merge")
def max_pool_gradient_op(dy: Any, taps: Any, *, spatial: Sizes, **geometry: Any) -> Any:
    """dy at the pixels of the taps, 0 elsewhere; `spatial` is x's."""
    dy_wide = widen(dy)
    x = jax.ShapeDtypeStruct((dy.shape[0], *spatial, dy.shape[-1]), dy_wide.dtype)
    pick = lambda x: max_pool_pick_op.meaning(x, taps, **geometry)  # noqa: E731
    return jax.linear_transpose(pick, x)(dy_wide)[0].astype(dy.dtype)


@op("max_pool_pick", batch=[0, 1], vmap="merge")
def max_pool_pick_op(x: Any, taps: Any, **geometry: Any) -> Any:
    """The pixels of the taps."""
    pixels, _ = _pixels(x.shape[1:-1], **geometry)
    index = taps.astype(np.int32).reshape(taps.shape[0], len(pixels), 1, taps.shape[-1])
    return jnp.take_along_axis(_seen(x, pixels), index, axis=2, mode="promise_in_bounds").reshape(taps.shape)


@jax.tree_util.register_static
class _Spatial(tuple):
    """x's spatial sizes, which stay static in residuals."""


@max_pool_op.forward
def _(x: Any, **geometry: Any) -> Any:
    y, taps = max_pool_taps_op(x, **geometry)
    return y, (taps, _Spatial(x.shape[1:-1]))


@max_pool_taps_op.forward
def _(x: Any, **geometry: Any) -> Any:
    y, taps = max_pool_taps_op(x, **geometry)
    return (y, taps), (taps, _Spatial(x.shape[1:-1]))


@max_pool_op.gradient
@max_pool_taps_op.gradient
def _(residuals: Any, cotangents: Any, **geometry: Any) -> Any:
    taps, spatial = residuals
    return (max_pool_gradient_op(cotangents[0], taps, spatial=tuple(spatial), **geometry),)


@max_pool_gradient_op.gradient
def _(residuals: Any, cotangents: Any, *, spatial: Sizes, **geometry: Any) -> Any:
    (_, taps), _ = residuals
    return max_pool_pick_op(cotangents[0], taps, **geometry), None


@max_pool_pick_op.gradient
def _(residuals: Any, cotangents: Any, **geometry: Any) -> Any:
    (x, taps), _ = residuals
    return max_pool_gradient_op(cotangents[0], taps, spatial=x.shape[1:-1], **geometry), None


# Average and L2 norm.


def _counts(spatial: Sizes, dtype: Any, count_padding: bool, total: bool, geometry: Any) -> np.ndarray:
    """What to divide each window's sum by; 1 where it holds padding alone, or the total is wanted."""
    if total:
        return np.ones((), dtype)
    _, valid = _pixels(spatial, **geometry, dilation=(1,) * len(spatial))
    outputs = [
        (n + low + high - k) // s + 1
        for n, k, s, (low, high) in zip(spatial, *(geometry[k] for k in ("window", "strides", "padding")), strict=True)
    ]
    counts = np.full(len(valid), math.prod(geometry["window"])) if count_padding else np.maximum(valid.sum(1), 1)
    return counts.reshape(1, *outputs, 1).astype(dtype)


@op("avg_pool", batch=[0], vmap="merge")
def avg_pool_op(x: Any, *, count_padding: bool, total: bool = False, **geometry: Any) -> Any:
    """The mean of each window, or its sum if the `total` is wanted."""
    y = _sum(widen(x), **geometry)
    return (y / _counts(x.shape[1:-1], y.dtype, count_padding, total, geometry)).astype(x.dtype)


@op("avg_pool_gradient", batch=[0], vmap="merge")
def avg_pool_gradient_op(dy: Any, *, spatial: Sizes, count_padding: bool, total: bool = False, **geometry: Any) -> Any:
    """The transpose of the mean, or of the sum; `spatial` is x's."""
    shares = widen(dy) / _counts(spatial, wide(dy.dtype), count_padding, total, geometry)
    return _spread(shares, spatial, **geometry).astype(dy.dtype)


@avg_pool_op.gradient
def _(residuals: Any, cotangents: Any, **attributes: Any) -> Any:
    (x,), _ = residuals
    return (avg_pool_gradient_op(cotangents[0], spatial=x.shape[1:-1], **attributes),)


@avg_pool_gradient_op.gradient
def _(residuals: Any, cotangents: Any, *, spatial: Sizes, **attributes: Any) -> Any:
    return (avg_pool_op(cotangents[0], **attributes),)


@op("l2_pool", batch=[0], vmap="merge")
def l2_pool_op(x: Any, **geometry: Any) -> Any:
    """The square root of each window's sum of squares."""
    return jnp.sqrt(_sum(jnp.square(widen(x)), **geometry)).astype(x.dtype)


@op("l2_pool_gradient", batch=[0, 1, 2], vmap="merge")
def l2_pool_gradient_op(dy: Any, x: Any, y: Any, **geometry: Any) -> Any:
    """x times the sum of dy / y over its windows; a window whose y is 0 gives nothing."""
    zero = y == 0
    shares = jnp.where(zero, 0, widen(dy) / jnp.where(zero, 1, widen(y)))
    return (widen(x) * _spread(shares, x.shape[1:-1], **geometry)).astype(x.dtype)


@l2_pool_op.gradient
def _(residuals: Any, cotangents: Any, **geometry: Any) -> Any:
    (x,), (y,) = residuals
    return (l2_pool_gradient_op(cotangents[0], x, y, **geometry),)


def max_pool(
    x: ArrayLike,
    window: Ints,
    *,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
) -> jax.Array:
    """The maximum of each window, channel by channel.

    y[n,i,j,c] = max over p, q of x[n, si*i + di*p - low_i, sj*j + dj*q - low_j, c]; padding never wins. NaN does. The
    gradient goes to the first maximum of the window in row-major order.

    Equivalent to::

        lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)),
                          window_dilation=(1, *dilation, 1))

    Args:
        x: [batch, height, width, channels] or [batch, width, channels]; float32, float16 or bfloat16 (others run on
            XLA).
        window: one integer, or one for each spatial axis, at least 1.
        strides: alike; as the window if None.
        padding: "SAME" (output = ceil(input / stride), odd pixel at the high end), "VALID", or a (low, high) pair for
            each spatial axis; a negative number cuts pixels of x away.
        dilation: the distance between the pixels of a window, one integer or one for each spatial axis.

    Returns:
        [batch, height', width', channels] or [batch, width', channels].

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules, and for padding that puts a window
            wholly outside x.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.max_pool(jnp.array([3.0, 1.0, 4.0, 1.0, 5.0]).reshape(1, 5, 1), 2).ravel().tolist()
        [3.0, 4.0]

    Reference: MPSCNNPoolingMax, MPSCNNDilatedPoolingMax, MPSCNNPoolingMaxGradient.
    """
    x, geometry = _geometry("max_pool", x, window, strides, padding, 1 if dilation is None else dilation)
    _, valid = _pixels(x.shape[1:-1], **geometry)
    if not valid.any(axis=1).all():
        _check.fail(
            "max_pool",
            "every window must hold a pixel of x",
            f"a window of {geometry['window']} over {x.shape[1:-1]} with padding {geometry['padding']}",
            "Pad less than the window.",
        )
    return max_pool_op(x, **geometry)


def avg_pool(
    x: ArrayLike,
    window: Ints,
    *,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    count_padding: bool = False,
) -> jax.Array:
    """The mean of each window, channel by channel.

    y[n,i,j,c] = sum over p, q of x[n, si*i + p - low_i, sj*j + q - low_j, c] / N, zeros outside x. N is the number of
    the window's pixels that lie in x, or the window's area with `count_padding`.

    Equivalent to::

        total = lambda x: lax.reduce_window(x, 0.0, lax.add, (1, *window, 1), (1, *strides, 1), padding)
        total(x) / total(jnp.ones_like(x))        # count_padding=False
        total(x) / math.prod(window)              # count_padding=True

    Args:
        x, window, strides, padding: as for `max_pool`.
        count_padding: whether padding counts in N. A window of padding alone gives 0.

    Returns:
        [batch, height', width', channels] or [batch, width', channels].

    Raises:
        ValueError, TypeError: as for `max_pool`.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.avg_pool(jnp.array([3.0, 1.0, 4.0]).reshape(1, 3, 1), 2, padding="SAME").ravel().tolist()
        [2.0, 4.0]

    Reference: MPSCNNPoolingAverage, MPSCNNPoolingAverageGradient.
    """
    x, geometry = _geometry("avg_pool", x, window, strides, padding)
    return avg_pool_op(x, count_padding=_check.flag("avg_pool", "count_padding", count_padding), **geometry)


def l2_pool(x: ArrayLike, window: Ints, *, strides: Ints | None = None, padding: Padding = "VALID") -> jax.Array:
    """The L2 norm of each window, channel by channel.

    y[n,i,j,c] = sqrt(sum over p, q of x[n, si*i + p - low_i, sj*j + q - low_j, c] ** 2), zeros outside x. The gradient
    of a window of zeros is 0.

    Equivalent to::

        jnp.sqrt(lax.reduce_window(x * x, 0.0, lax.add, (1, *window, 1), (1, *strides, 1), padding))

    Args:
        x, window, strides, padding: as for `max_pool`.

    Returns:
        [batch, height', width', channels] or [batch, width', channels].

    Raises:
        ValueError, TypeError: as for `max_pool`.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.l2_pool(jnp.array([3.0, 4.0, 2.0]).reshape(1, 3, 1), 2).ravel().tolist()
        [5.0]

    Reference: MPSCNNPoolingL2Norm, MPSCNNPoolingL2NormGradient.
    """
    x, geometry = _geometry("l2_pool", x, window, strides, padding)
    return l2_pool_op(x, **geometry)


def _geometry(
    name: str, x: Any, window: Any, strides: Any, padding: Any, dilation: Any = None
) -> tuple[jax.Array, dict[str, Any]]:
    x = _check.floating(name, "x", x)
    if x.ndim not in (3, 4):
        _check.fail(
            name, "x must be [batch, height, width, channels] or [batch, width, channels]", x.shape, "Add the axis."
        )
    rank, spatial = x.ndim - 2, x.shape[1:-1]
    window = _check.integers(name, "window", window, rank)
    strides = window if strides is None else _check.integers(name, "strides", strides, rank)
    gaps = (1,) * rank if dilation is None else _check.integers(name, "dilation", dilation, rank)
    reach = tuple((k - 1) * d + 1 for k, d in zip(window, gaps, strict=True))
    pairs = _check.padding(name, padding, spatial, reach, strides)
    _check.window_fits(name, spatial, reach, pairs)
    _crop.check(name, spatial, pairs)
    cut, pairs = _crop.parts(pairs)
    x = _crop.crop(x, cut)
    geometry = {"window": window, "strides": strides, "padding": pairs}
    return x, geometry if dilation is None else geometry | {"dilation": gaps}
