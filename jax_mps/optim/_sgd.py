"""Stochastic gradient descent, with and without momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jax_mps._types import ArrayTree, DType
from jax_mps.ops import _check
from jax_mps.ops.optim import sgd_op
from jax_mps.optim._others import Rule, chained
from jax_mps.optim._transform import (
    VARIANTS,
    FusedTransformation,
    Preprocessing,
    Regularization,
    Variant,
    number,
    rate,
    run,
    scalar,
    storage,
)


class SgdState(NamedTuple):
    """State of `sgd`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32: updates made, what a schedule is called with
    trace: ArrayTree  # like the parameters, in accumulator_dtype or theirs; None without momentum


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: DType | None = None,
    *,
    regularization: Regularization = "none",
    regularization_scale: ArrayLike = 0.0,
    gradient_clip: tuple[ArrayLike, ArrayLike] | None = None,
    gradient_rescale: ArrayLike = 1.0,
    variant: Variant = "optax",
) -> FusedTransformation:
    """Stochastic gradient descent; the whole parameter tree is one native call.

    The gradient g is first clipped, then rescaled, then regularized: "l2" adds regularization_scale * w, "l1" adds
    regularization_scale * sign(w), the derivative of the penalty (MPS's header prints it without the sign). Then

    ==================  ============================================================================
    without momentum    w -= learning_rate * g
    optax, tensorflow   m = momentum * m + g;  w -= learning_rate * m
    mps                 m = momentum * m + learning_rate * g;  w -= m
    nesterov            m = momentum * m + g;  w -= learning_rate * (g + momentum * m), in every variant
    ==================  ============================================================================

    so that in "mps" a change of the learning rate acts on new gradients alone.

    Equivalent to `optax.sgd` in the variant "optax", and to `tf.raw_ops.ApplyMomentum` in "tensorflow".

    Args:
        learning_rate: a number, a scalar array (traced or not), or a schedule: a function of the count of updates.
        momentum: None, or how much of the trace is kept, in [0, 1).
        nesterov: Nesterov's momentum.
        accumulator_dtype: the trace's dtype; None keeps the parameters'.
        regularization: "none", "l1" or "l2"; the latter two need `update(gradients, state, params)`.
        regularization_scale: the weight of the penalty.
        gradient_clip: None, or the (min, max) of each number of the gradient.
        gradient_rescale: multiplies the gradient.
        variant: "optax", "mps" or "tensorflow".

    Returns:
        An optax transformation, for `optax.chain` and its like or, faster alone, for `step`.

    Raises:
        ValueError, TypeError: for hyperparameters out of range; traced ones are not looked at.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> sgd = mps.optim.sgd(0.1, momentum=0.9)
        >>> updates, state = sgd.update(jnp.array([1.0, -2.0]), sgd.init(jnp.zeros(2)))
        >>> [round(u, 3) for u in updates.tolist()]
        [-0.1, 0.2]

    Reference: MPSNNOptimizerStochasticGradientDescent; Sutskever et al., "On the importance of initialization and
    momentum in deep learning", 2013.
    """
    rate_at = rate("sgd", learning_rate)
    _check.choice("sgd", "variant", variant, VARIANTS)
    nesterov = _check.flag("sgd", "nesterov", nesterov)
    if momentum is not None:
        number("sgd", "momentum", momentum, least=0, below=1)
    elif nesterov:
        _check.fail("sgd", "nesterov needs momentum", "momentum=None", "Pass momentum, 0.9 say.")
    accumulator_dtype = storage("sgd", "accumulator_dtype", accumulator_dtype)
    before = Preprocessing("sgd", regularization, regularization_scale, gradient_clip, gradient_rescale).checked()

    def init(params: Any) -> SgdState:
        zeros = lambda x: jnp.zeros_like(x, accumulator_dtype)  # noqa: E731
        return SgdState(jnp.zeros([], jnp.int32), None if momentum is None else jax.tree.map(zeros, params))

    def advance(gradients: Any, state: SgdState, params: Any, apply: bool) -> Any:
        lr = scalar(rate_at(state.count))
        folded = variant == "mps" and momentum is not None and not nesterov
        steps = (lr, -1.0) if folded else (1.0, -lr)
        hyper = (*before.numbers(), 0.0 if momentum is None else momentum, *steps)
        states = {} if momentum is None else {"trace": state.trace}

        def others() -> Rule:
            trace = None if momentum is None else optax.trace(momentum, nesterov, accumulator_dtype)
            return chained(trace, optax.scale_by_learning_rate(learning_rate))

        rule = others if variant == "optax" else None
        result, new = run(
            sgd_op, hyper, gradients, params, states, before, rule, state.count, apply=apply, nesterov=nesterov
        )
        return result, SgdState(optax.safe_increment(state.count), new.get("trace"))

    return FusedTransformation.of("sgd", init, advance, SgdState)
