"""The dense (fully connected) layer and its two gradients."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import lax
from jax.typing import ArrayLike

from jax_mps._types import Neuron
from jax_mps.ops import _check
from jax_mps.ops._number import along_last, wide
from jax_mps.ops.neuron import Spec, fused_forward, neuron_gradient_op, neuron_meaning, spec
from jax_mps.ops.reduce import bias_gradient_op
from jax_mps.primitive import op


def _product(x: Any, y: Any, contract: tuple[int, int]) -> Any:
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(x, y, dims, preferred_element_type=wide(x.dtype))


@op("dense", batch=[0], vmap="merge")
def dense_op(x: Any, w: Any, *b: Any, neuron: Spec | None) -> Any:
    """neuron(x w + b) of rows x."""
    y = _product(x, w, (1, 0))
    y = y + along_last(b[0].astype(y.dtype), 2) if b else y
    return (y if neuron is None else neuron_meaning(y, neuron)).astype(x.dtype)


@op("dense_data_gradient", batch=[0], vmap="merge")
def dense_data_gradient_op(dy: Any, w: Any) -> Any:
    """The transpose of the product in x: dy w^T."""
    return _product(dy, w, (1, 1)).astype(dy.dtype)


@op("dense_weight_gradient")
def dense_weight_gradient_op(x: Any, dy: Any) -> Any:
    """The transpose of the product in w: x^T dy."""
    return _product(x, dy, (0, 0)).astype(x.dtype)


@dense_op.forward
def _(x: Any, w: Any, *b: Any, neuron: Spec | None) -> Any:
    y, mask = fused_forward(lambda neuron: dense_op(x, w, *b, neuron=neuron), neuron)
    return y, (x, w, b, mask)


@dense_op.gradient
def _(residuals: Any, cotangents: Any, *, neuron: Spec | None) -> Any:
    x, w, b, mask = residuals
    dy = cotangents[0] if neuron is None else neuron_gradient_op(cotangents[0], mask, neuron=neuron)
    dx, dw = dense_data_gradient_op(dy, w), dense_weight_gradient_op(x, dy)
    return (dx, dw, bias_gradient_op(dy)) if b else (dx, dw)


@dense_data_gradient_op.gradient
def _(residuals: Any, cotangents: Any) -> Any:
    (dy, w), _ = residuals
    return dense_op(cotangents[0], w, neuron=None), dense_weight_gradient_op(cotangents[0], dy)


@dense_weight_gradient_op.gradient
def _(residuals: Any, cotangents: Any) -> Any:
    (x, dy), _ = residuals
    return dense_data_gradient_op(dy, cotangents[0]), dense_op(x, cotangents[0], neuron=None)


def dense(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, *, neuron: Neuron = None) -> jax.Array:
    """Multiplies the last axis by a matrix, adds a bias and applies a neuron: y = f(x w + b).

    Equivalent to::

        y = f(jnp.dot(x, w, preferred_element_type=jnp.float32) + b).astype(x.dtype)

    Args:
        x: [..., in]; float32, float16 or bfloat16 (others run on XLA).
        w: [in, out], of x's dtype.
        b: None or [out], of x's dtype.
        neuron: None, a name such as "relu", or a name with its parameters; see `neuron`.

    Returns:
        [..., out].

    Raises:
        ValueError, TypeError: for shapes, dtypes or names that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.dense(jnp.ones((2, 3)), jnp.ones((3, 4)), neuron="relu").shape
        (2, 4)

    Reference: MPSMatrixFullyConnected, MPSCNNFullyConnected.
    """
    x = _check.floating("dense", "x", x)
    w = _check.same_dtype("dense", "w", w, x)
    if x.ndim < 1:
        _check.fail("dense", "x must have shape (..., in)", x.shape, "Reshape x.")
    if w.ndim != 2 or w.shape[0] != x.shape[-1]:
        _check.fail(
            "dense", f"w must have shape (in, out) with in = {x.shape[-1]}", w.shape, "Check the last axis of x."
        )
    operands = [x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), w]
    if b is not None:
        b = _check.same_dtype("dense", "b", b, x)
        _check.shape("dense", "b", b, w.shape[1:], "Pass one bias for each column of w.")
        operands.append(b)
    return dense_op(*operands, neuron=spec("dense", neuron)).reshape(*x.shape[:-1], w.shape[1])
