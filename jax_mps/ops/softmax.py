"""Softmax, its logarithm, and cross-entropy of softmax, with their gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jax_mps.ops import _check
from jax_mps.ops._number import wide, widen
from jax_mps.primitive import Op, op


@op("softmax", batch=[0], vmap="prepend")
def softmax_op(x: Any) -> Any:
    """exp(x) / sum of exp(x) over the last axis."""
    return jax.nn.softmax(widen(x)).astype(x.dtype)


@op("softmax_gradient", batch=[0, 1], vmap="prepend")
def softmax_gradient_op(dy: Any, y: Any) -> Any:
    """y * (dy - sum of dy * y), y the result."""
    wide_dy, wide_y = widen(dy), widen(y)
    return (wide_y * (wide_dy - jnp.sum(wide_dy * wide_y, -1, keepdims=True))).astype(dy.dtype)


@softmax_op.gradient
def _(residuals: Any, cotangents: Any) -> tuple[Any]:
    _, (y,) = residuals
    return (softmax_gradient_op(cotangents[0], y),)


@op("log_softmax", batch=[0], vmap="prepend")
def log_softmax_op(x: Any) -> Any:
    """x - log of the sum of exp(x) over the last axis."""
    return jax.nn.log_softmax(widen(x)).astype(x.dtype)


@op("log_softmax_gradient", batch=[0, 1], vmap="prepend")
def log_softmax_gradient_op(dy: Any, y: Any) -> Any:
    """dy - exp(y) * sum of dy, y the result."""
    wide_dy = widen(dy)
    return (wide_dy - jnp.exp(widen(y)) * jnp.sum(wide_dy, -1, keepdims=True)).astype(dy.dtype)


@log_softmax_op.gradient
def _(residuals: Any, cotangents: Any) -> tuple[Any]:
    _, (y,) = residuals
    return (log_softmax_gradient_op(cotangents[0], y),)


def _half_log_p(logits: Any, maximum: Any, log_sum: Any) -> Any:
    """Half of log_softmax(logits): two finite logits may differ by more than the largest number."""
    return (0.5 * logits - 0.5 * jnp.expand_dims(maximum, -1)) - 0.5 * jnp.expand_dims(log_sum, -1)


def _maximum_and_log_sum(logits: Any) -> tuple[Any, Any]:
    maximum = lax.stop_gradient(jnp.max(logits, -1))
    return maximum, jnp.log(jnp.sum(jnp.exp(logits - jnp.expand_dims(maximum, -1)), -1))


def _smoothed_loss(logits: Any, labels: Any, smoothing: float) -> Any:
    half_log_p = _half_log_p(logits, *_maximum_and_log_sum(logits))
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    t = labels.astype(logits.dtype) * (1 - smoothing) + smoothing / logits.shape[-1]
    return -jnp.sum(2 * t * _where_it_counts(half_log_p, t), -1)


def _nan_without_class(x: Any, labels: Any, classes: int) -> Any:
    """x of each row, or NaN where the row's integer label names no class."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return x
    valid = (labels >= 0) & (labels < classes)
    return jnp.where(jnp.expand_dims(valid, range(labels.ndim, x.ndim)), x, jnp.full_like(x, jnp.nan))


def _where_it_counts(log_p: Any, t: Any) -> Any:
    """0 for a class of label 0 and probability 0, so that masked logits of -inf do not make the loss NaN."""
    return jnp.where((t == 0) & (log_p == -jnp.inf), jnp.zeros_like(log_p), log_p)


@op("softmax_cross_entropy", batch=[0, 1], vmap="prepend")
def softmax_cross_entropy_op(logits: Any, labels: Any, *, smoothing: float) -> Any:
    """The loss of each row; and what its gradient needs again: the maximum, and log sum exp(logits - maximum)."""
    logits = widen(logits)
    loss = _smoothed_loss(logits, labels, smoothing)
    return _nan_without_class(loss, labels, logits.shape[-1]), *_maximum_and_log_sum(logits)


@op("softmax_cross_entropy_gradient", batch=[0, 1, 2, 3, 4], vmap="prepend")
def softmax_cross_entropy_gradient_op(
    dloss: Any, logits: Any, labels: Any, maximum: Any, log_sum: Any, *, smoothing: float
) -> Any:
    """The gradient of the logits; maximum and log_sum are known from them, and spare a kernel one reading."""
    _, pull = jax.vjp(lambda logits: _smoothed_loss(logits, labels, smoothing), widen(logits))
    return _nan_without_class(pull(dloss)[0].astype(logits.dtype), labels, logits.shape[-1])


@softmax_cross_entropy_op.gradient
def _(residuals: Any, cotangents: Any, *, smoothing: float) -> tuple[Any, Any]:
    # The cotangents of maximum and log_sum are zero: only the gradient op uses them, without a derivative.
    (logits, labels), (_, maximum, log_sum) = residuals
    dloss = cotangents[0]
    dlogits = softmax_cross_entropy_gradient_op(dloss, logits, labels, maximum, log_sum, smoothing=smoothing)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return dlogits, None
    if smoothing == 1:  # labels count for nothing, not even where a logit is -inf
        return dlogits, jnp.zeros_like(labels)
    half_log_p = _half_log_p(widen(logits), *_maximum_and_log_sum(widen(logits)))
    t = labels.astype(half_log_p.dtype) * (1 - smoothing) + smoothing / logits.shape[-1]
    dlabels = (2 * (smoothing - 1)) * jnp.expand_dims(dloss, -1) * _where_it_counts(half_log_p, t)
    return dlogits, dlabels.astype(labels.dtype)


def softmax(x: ArrayLike, *, axis: int = -1) -> jax.Array:
    """Probabilities from logits: positive numbers that add up to 1.

    y = exp(x - max x) / sum of exp(x - max x), over one axis.

    Equivalent to::

        jax.nn.softmax(x, axis)

    Args:
        x: at least one axis; float32, float16 or bfloat16 (others run on XLA).
        axis: the axis of the classes. The last is the fastest.

    Returns:
        An array like x. A row with NaN, with +inf, or with nothing but -inf is NaN.

    Raises:
        ValueError, TypeError: if x is not floating or has no such axis.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.softmax(jnp.array([1e4, 1e4])).tolist()
        [0.5, 0.5]

    Reference: MPSCNNSoftMax, MPSMatrixSoftMax.
    """
    return _over_axis("softmax", softmax_op, x, axis)


def log_softmax(x: ArrayLike, *, axis: int = -1) -> jax.Array:
    """The logarithms of `softmax`, computed without its underflow.

    y = x - max x - log(sum of exp(x - max x)), over one axis.

    Equivalent to::

        jax.nn.log_softmax(x, axis)

    Args:
        x: at least one axis; float32, float16 or bfloat16 (others run on XLA).
        axis: the axis of the classes. The last is the fastest.

    Returns:
        An array like x.

    Raises:
        ValueError, TypeError: if x is not floating or has no such axis.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.log_softmax(jnp.array([0.0, -1e4])).tolist()
        [0.0, -10000.0]

    Reference: MPSCNNLogSoftMax, MPSMatrixLogSoftMax.
    """
    return _over_axis("log_softmax", log_softmax_op, x, axis)


def _over_axis(name: str, run: Op, x: Any, axis: Any) -> jax.Array:
    x = _check.floating(name, "x", x)
    if not isinstance(axis, int | np.integer) or not -x.ndim <= axis < x.ndim:
        got, remedy = f"{_check.told(axis)} for shape {x.shape}", _check.static_remedy(axis, "Check axis.")
        _check.fail(name, f"axis must be one of x's {x.ndim} axes", got, remedy)
    axis = int(axis)
    if axis in (-1, x.ndim - 1):
        return run(x)
    return jnp.moveaxis(run(jnp.moveaxis(x, axis, -1)), -1, axis)


def cross_entropy_of_rows(name: str, logits: Any, labels: Any, smoothing: Any) -> jax.Array:
    """The checks of `losses.softmax_cross_entropy`, and the loss of each row."""
    logits, labels = _check.floating(name, "logits", logits), _check.array(name, "labels", labels)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        _check.fail(name, "logits must be [..., classes]", logits.shape, "Pass at least one class.")
    smoothing = _check.number(name, "label_smoothing", smoothing)
    if not 0 <= smoothing <= 1:
        _check.fail(name, "label_smoothing must be from 0 to 1", smoothing, "0.1 is usual.")
    if jnp.issubdtype(labels.dtype, jnp.integer):
        _check.shape(name, "integer labels", labels, logits.shape[:-1], "Pass one class for each row of logits.")
        labels = _as_int32(labels, logits.shape[-1])
    elif labels.dtype in (logits.dtype, wide(jnp.float16)):
        remedy = "Pass one number for each logit."
        if labels.ndim == logits.ndim - 1:
            remedy = "Classes must be integers: labels.astype(jnp.int32)."
        _check.shape(name, "dense labels", labels, logits.shape, remedy)
    else:
        rule = f"labels must be integers, or have the dtype of logits, {logits.dtype}, or float32"
        _check.fail(name, rule, labels.dtype, "Cast them with astype.", TypeError)
    return softmax_cross_entropy_op(logits, labels, smoothing=smoothing)[0]


def _as_int32(labels: jax.Array, classes: int) -> jax.Array:
    # Large integers are clipped first: wrapped around, they could name a class.
    if labels.dtype.itemsize > 4 or labels.dtype == jnp.uint32:
        labels = jnp.minimum(labels, jnp.asarray(classes, labels.dtype))
        labels = jnp.maximum(labels, jnp.asarray(-1, labels.dtype)) if labels.dtype == jnp.int64 else labels
    return labels.astype(jnp.int32)
