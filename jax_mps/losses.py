"""Losses: numbers that training makes small."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_mps.ops import _check
from jax_mps.ops.softmax import cross_entropy_of_rows

__all__ = ["softmax_cross_entropy"]
REDUCTIONS = ("none", "sum", "mean", "sum_by_nonzero_weights")


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    reduction: Literal["none", "sum", "mean", "sum_by_nonzero_weights"] = "mean",
    weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Cross-entropy between labels and the softmax of logits.

    loss = -w * sum over classes of t' * log_softmax(logits), t' = t * (1 - s) + s / classes, for each example; then
    the reduction.

    Equivalent to::

        t = jax.nn.one_hot(labels, classes)  # for integer labels
        t = t * (1 - label_smoothing) + label_smoothing / classes
        loss = -weight * jnp.sum(t * jax.nn.log_softmax(logits), -1)
        loss = jnp.mean(loss)

    except that a class of label 0 adds nothing even if its logit is -inf. The gradient is the derivative of what is
    returned; MPS's does not depend on the reduction (its mean is not divided by the number of examples). For dense
    labels it is sum(t') * softmax(logits) - t', which is MPS's where labels add up to 1.

    Args:
        logits: [..., classes]; float32, float16 or bfloat16 (others run on XLA).
        labels: integers [...], or dense labels [..., classes] of logits' dtype or float32, which need not add up to
            1. An integer outside [0, classes) makes its example's loss and gradient NaN, even with weight 0:
            what is computed on a device cannot raise. Look at labels.min() and labels.max() where a loss is NaN.
        reduction: "none", "sum", "mean" (divided by the number of examples) or "sum_by_nonzero_weights" (divided by
            the number of weights that are not zero; 0 if there is none).
        weight: None for 1, one number, or an array [...] of one weight an example.
        label_smoothing: s, from 0 to 1.

    Returns:
        [...] for reduction "none", else a scalar; float32 (float64 for float64 logits). Differentiable in logits,
        dense labels and weight.

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> loss = mps.losses.softmax_cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))
        >>> round(float(loss), 4)
        1.3863

    Reference: MPSCNNLoss with MPSCNNLossTypeSoftMaxCrossEntropy.
    """
    name = "softmax_cross_entropy"
    _check.choice(name, "reduction", reduction, REDUCTIONS)
    loss = cross_entropy_of_rows(name, logits, labels, label_smoothing)
    return _reduced(name, loss, reduction, weight)


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)


def _reduced(name: str, loss: jax.Array, reduction: str, weight: Any) -> jax.Array:
    examples = math.prod(loss.shape)
    if weight is None:
        weighted, nonzero = loss, jnp.asarray(examples, loss.dtype)
    else:
        weight = _check.array(name, "weight", weight)
        if not any(jnp.issubdtype(weight.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            _check.fail(name, "weight must be real numbers", weight.dtype, "Convert it.", TypeError)
        if weight.ndim:
            _check.shape(name, "weight", weight, loss.shape, "Pass one number, or one for each example.")
        weight = jnp.broadcast_to(weight.astype(loss.dtype), loss.shape)
        weighted, nonzero = weight * loss, jnp.sum(weight != 0, dtype=loss.dtype)
    if reduction == "none":
        return weighted
    total = jnp.sum(weighted)
    if reduction == "sum":
        return total
    return total / (max(examples, 1) if reduction == "mean" else jnp.maximum(nonzero, jnp.ones_like(nonzero)))
