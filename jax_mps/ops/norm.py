"""Batch normalisation in training and in inference, its gradients, and running statistics."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_mps._types import Neuron
from jax_mps.ops import _check
from jax_mps.ops._number import along_last, wide, widen
from jax_mps.ops.neuron import Spec, neuron_gradient_op, neuron_meaning, neuron_op, spec
from jax_mps.primitive import op


def _normalize(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float, neuron: Spec | None) -> Any:
    mean, scale, beta = (along_last(v, x.ndim) for v in (mean, gamma * lax.rsqrt(variance + epsilon), beta))
    y = (x - mean) * scale + beta
    return y if neuron is None else neuron_meaning(y, neuron)


def _training(x: Any, gamma: Any, beta: Any, epsilon: float, neuron: Spec | None) -> tuple[Any, Any, Any]:
    axes = tuple(range(x.ndim - 1))
    count = max(math.prod(x.shape[:-1]), 1)
    mean = jnp.sum(x, axes) / count
    variance = jnp.sum(jnp.square(x - along_last(mean, x.ndim)), axes) / count
    return _normalize(x, mean, variance, gamma, beta, epsilon, neuron), mean, variance


@op("batch_norm")
def batch_norm_op(x: Any, gamma: Any, beta: Any, *, epsilon: float, neuron: Spec | None) -> Any:
    """neuron((x - mean) * gamma / sqrt(variance + epsilon) + beta), mean, variance."""
    dtype = wide(x.dtype)
    y, mean, variance = _training(x.astype(dtype), gamma.astype(dtype), beta.astype(dtype), epsilon, neuron)
    return y.astype(x.dtype), mean, variance


@op("batch_norm_gradient")
def batch_norm_gradient_op(
    dy: Any,
    dmean: Any,
    dvariance: Any,
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    *,
    epsilon: float,
    neuron: Spec | None,
) -> Any:
    """The gradients of x, gamma and beta; mean and variance are known from x, and spare a kernel their sums."""
    dtype = wide(x.dtype)
    operands = [v.astype(dtype) for v in (x, gamma, beta)]
    _, pull = jax.vjp(functools.partial(_training, epsilon=epsilon, neuron=neuron), *operands)
    dx, dgamma, dbeta = pull((dy.astype(dtype), dmean, dvariance))
    return dx.astype(x.dtype), dgamma, dbeta


@batch_norm_op.forward
def _(x: Any, gamma: Any, beta: Any, *, epsilon: float, neuron: Spec | None) -> Any:
    # The gradient of relu is fused into the gradient kernel; any other neuron needs what went into it.
    fused = neuron is None or neuron[0] == "relu"
    y, mean, variance = batch_norm_op(x, gamma, beta, epsilon=epsilon, neuron=neuron if fused else None)
    result = y if fused else neuron_op(y, neuron=neuron)
    return (result, mean, variance), (x, gamma, beta, mean, variance, None if fused else y)


@batch_norm_op.gradient
def _(residuals: Any, cotangents: Any, *, epsilon: float, neuron: Spec | None) -> Any:
    x, gamma, beta, mean, variance, before = residuals
    dy, dmean, dvariance = cotangents
    if before is not None:
        dy, neuron = neuron_gradient_op(dy, before, neuron=neuron), None
    operands = (dy, dmean, dvariance, x, gamma, beta, mean, variance)
    dx, dgamma, dbeta = batch_norm_gradient_op(*operands, epsilon=epsilon, neuron=neuron)
    return dx, dgamma.astype(gamma.dtype), dbeta.astype(beta.dtype)


@op("batch_norm_inference", batch=[0], vmap="prepend")
def batch_norm_inference_op(
    x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, *, epsilon: float, neuron: Spec | None
) -> Any:
    """neuron((x - mean) * gamma / sqrt(variance + epsilon) + beta)."""
    dtype = wide(x.dtype)
    wide_x, mean, variance, gamma, beta = (v.astype(dtype) for v in (x, mean, variance, gamma, beta))
    return _normalize(wide_x, mean, variance, gamma, beta, epsilon, neuron).astype(x.dtype)


@op("batch_norm_inference_gradient")
def batch_norm_inference_gradient_op(
    dy: Any, x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, *, epsilon: float, neuron: Spec | None
) -> Any:
    """The gradients of x, gamma and beta."""
    dtype = wide(x.dtype)
    wide_x, mean, variance, gamma, beta = (v.astype(dtype) for v in (x, mean, variance, gamma, beta))

    def of_three(x: Any, gamma: Any, beta: Any) -> Any:
        return _normalize(x, mean, variance, gamma, beta, epsilon, neuron)

    dx, dgamma, dbeta = jax.vjp(of_three, wide_x, gamma, beta)[1](dy.astype(dtype))
    return dx.astype(x.dtype), dgamma, dbeta


@batch_norm_inference_op.forward
def _(x: Any, *channels: Any, epsilon: float, neuron: Spec | None) -> Any:
    if neuron is None or neuron[0] == "relu":
        return batch_norm_inference_op(x, *channels, epsilon=epsilon, neuron=neuron), (x, channels, None)
    y = batch_norm_inference_op(x, *channels, epsilon=epsilon, neuron=None)
    return neuron_op(y, neuron=neuron), (x, channels, y)


@batch_norm_inference_op.gradient
def _(residuals: Any, cotangents: Any, *, epsilon: float, neuron: Spec | None) -> Any:
    x, (mean, variance, gamma, beta), before = residuals
    dy = cotangents[0]
    if before is not None:
        dy, neuron = neuron_gradient_op(dy, before, neuron=neuron), None
    operands = (dy, x, mean, variance, gamma, beta)
    dx, dgamma, dbeta = batch_norm_inference_gradient_op(*operands, epsilon=epsilon, neuron=neuron)
    # x reaches the result as (x - mean) * gamma / sqrt(variance + epsilon): the sums for gamma and beta say all.
    inverse = lax.rsqrt(variance.astype(dgamma.dtype) + epsilon)
    scale = gamma.astype(dgamma.dtype) * inverse
    dmean, dvariance = -scale * dbeta, -0.5 * scale * inverse * dgamma
    gradients = zip((dmean, dvariance, dgamma, dbeta), (mean, variance, gamma, beta), strict=True)
    return dx, *(d.astype(v.dtype) for d, v in gradients)


def batch_norm(
    x: ArrayLike, gamma: ArrayLike, beta: ArrayLike, *, epsilon: float, neuron: Neuron = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by its mean and variance over the batch, scales, shifts and applies a neuron.

    y = f((x - mean[c]) * gamma[c] / sqrt(variance[c] + epsilon) + beta[c]), with the statistics over all axes but the
    last, and the population variance (divided by the number of elements, not by one less).

    Equivalent to::

        axes = tuple(range(x.ndim - 1))
        mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
        y = f((x - mean) * gamma * lax.rsqrt(variance + epsilon) + beta)

    The variance is taken from deviations, never from mean(x**2) - mean(x)**2, so channels far from zero keep it. All
    three results are differentiable.

    Args:
        x: [..., channels], at least two axes; float32, float16 or bfloat16 (others run on XLA).
        gamma, beta: [channels], of x's dtype or float32.
        epsilon: added to the variance, at least 0. Turi Create's layers use 1e-5, MPS by default 2 ** -126.
        neuron: None, a name such as "relu", or a name with its parameters such as ("leaky_relu", 0.1); see `neuron`.

    Returns:
        y like x; mean and variance, each [channels], in float32 (float64 for float64 x). For running averages of
        them see `update_running_statistics`. The statistics of an empty batch are 0.

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> y, mean, variance = mps.batch_norm(x, jnp.ones(2), jnp.zeros(2), epsilon=0.0)
        >>> y.tolist(), mean.tolist(), variance.tolist()
        ([[-1.0, -1.0], [1.0, 1.0]], [2.0, 20.0], [1.0, 100.0])

    Reference: MPSCNNBatchNormalization, MPSCNNBatchNormalizationStatistics; Ioffe and Szegedy, "Batch normalization",
    2015.
    """
    x, epsilon = _input("batch_norm", x, epsilon)
    parameters = (_channels("batch_norm", name, v, x) for name, v in (("gamma", gamma), ("beta", beta)))
    return batch_norm_op(x, *parameters, epsilon=epsilon, neuron=spec("batch_norm", neuron))


def batch_norm_inference(
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    gamma: ArrayLike,
    beta: ArrayLike,
    *,
    epsilon: float,
    neuron: Neuron = None,
) -> jax.Array:
    """Normalises each channel by a given mean and variance, scales, shifts and applies a neuron.

    y = f((x - mean[c]) * gamma[c] / sqrt(variance[c] + epsilon) + beta[c]).

    Equivalent to::

        y = f((x - mean) * gamma * lax.rsqrt(variance + epsilon) + beta)

    Args:
        x: [..., channels], at least two axes; float32, float16 or bfloat16 (others run on XLA).
        mean, variance: [channels], of x's dtype or float32: running averages from training.
        gamma, beta: [channels], of x's dtype or float32.
        epsilon: added to the variance, at least 0.
        neuron: as for `batch_norm`.

    Returns:
        An array like x, differentiable in every operand.

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> one = jnp.ones(1)
        >>> mps.batch_norm_inference(jnp.array([[5.0]]), one, 4 * one, 3 * one, one, epsilon=0.0).tolist()
        [[7.0]]

    Reference: MPSCNNBatchNormalization.
    """
    name = "batch_norm_inference"
    x, epsilon = _input(name, x, epsilon)
    given = {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    parameters = (_channels(name, n, v, x) for n, v in given.items())
    return batch_norm_inference_op(x, *parameters, epsilon=epsilon, neuron=spec(name, neuron))


def update_running_statistics(
    running_mean: ArrayLike, running_variance: ArrayLike, mean: ArrayLike, variance: ArrayLike, *, momentum: float = 0.9
) -> tuple[jax.Array, jax.Array]:
    """Moves running averages of mean and variance towards those of a batch.

    value = momentum * value + (1 - momentum) * statistic, for both alike. MPS leaves this to the caller; the rule is
    Turi Create's. PyTorch differs twice: its momentum is one minus this one, and it averages the unbiased variance,
    n / (n - 1) times the population variance of `batch_norm`.

    Args:
        running_mean, running_variance: [channels], floating; start with zeros and ones.
        mean, variance: [channels], as `batch_norm` returns them.
        momentum: the share that is kept, from 0 to 1.

    Returns:
        The new running_mean and running_variance, each of the dtype of the old one.

    Raises:
        ValueError, TypeError: for shapes, dtypes or a momentum that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> zero, one = jnp.zeros(1), jnp.ones(1)
        >>> new = mps.update_running_statistics(zero, one, 8 * one, 5 * one, momentum=0.75)
        >>> [value.tolist() for value in new]
        [[2.0], [2.0]]

    Reference: MPSCNNBatchNormalizationDataSource updateMeanAndVarianceWithBatchNormalizationState.
    """
    name = "update_running_statistics"
    momentum = _check.number(name, "momentum", momentum)
    if not 0 <= momentum <= 1:
        _check.fail(name, "momentum must be from 0 to 1", momentum, "It is the share of the old value.")

    def moved(word: str, old: Any, new: Any) -> jax.Array:
        old, new = _check.floating(name, f"running_{word}", old), _check.floating(name, word, new)
        _check.shape(name, word, new, old.shape, f"It must match running_{word}.")
        dtype = wide(old.dtype)
        return (momentum * widen(old) + (1 - momentum) * new.astype(dtype)).astype(old.dtype)

    return moved("mean", running_mean, mean), moved("variance", running_variance, variance)


def _input(name: str, x: Any, epsilon: Any) -> tuple[jax.Array, float]:
    x = _check.floating(name, "x", x)
    if x.ndim < 2:
        _check.fail(name, "x must be [..., channels] with at least two axes", x.shape, "Add the batch axis.")
    epsilon = _check.number(name, "epsilon", epsilon)
    if epsilon < 0:
        _check.fail(name, "epsilon must be at least 0", epsilon, "1e-5 is usual.")
    return x, epsilon


def _channels(name: str, word: str, value: Any, x: jax.Array) -> jax.Array:
    value = _check.array(name, word, value)
    if value.dtype not in (x.dtype, jnp.float32):
        rule = f"{word} must have the dtype of x, {x.dtype}, or float32"
        _check.fail(name, rule, value.dtype, f"Cast it: {word}.astype(x.dtype).", TypeError)
    _check.shape(name, word, value, x.shape[-1:], "Pass one number for each channel, the last axis of x.")
    return value
