"""RMSProp."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jax_mps._types import ArrayTree
from jax_mps.ops import _check
from jax_mps.ops.optim import rmsprop_op
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
)


class RmspropState(NamedTuple):
    """State of `rmsprop`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32: updates made
    nu: ArrayTree  # like the parameters: mean of the squared gradients; their variance if centered
    mu: ArrayTree  # like the parameters: mean of the gradients; None unless centered
    trace: ArrayTree  # like the parameters; None without momentum


def rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    regularization: Regularization = "none",
    regularization_scale: ArrayLike = 0.0,
    gradient_clip: tuple[ArrayLike, ArrayLike] | None = None,
    gradient_rescale: ArrayLike = 1.0,
    variant: Variant = "optax",
) -> FusedTransformation:
    """RMSProp; the whole parameter tree is one native call.

    The gradient g is first clipped, then rescaled, then regularized: "l2" adds regularization_scale * w, "l1" adds
    regularization_scale * sign(w), the derivative of the penalty (MPS's header prints it without the sign). Then

        nu = decay * nu + (1 - decay) * g**2;  mu = decay * mu + (1 - decay) * g if centered, else 0

    ==========  ==========================================================================================
    optax       u = -learning_rate * g / sqrt(nu - mu**2 + eps), or / (sqrt(nu - mu**2) + eps) unless eps_in_sqrt;
                with momentum m = momentum * m + u and m in place of u, for nesterov u + momentum * m;  w += u
    mps         w -= learning_rate * g / (sqrt(nu) + eps)
    tensorflow  m = momentum * m + learning_rate * g / sqrt(nu - mu**2 + eps);  w -= m
    ==========  ==========================================================================================

    where bias_correction divides nu and mu by 1 - decay**t, t counting from 1. The difference nu - mu**2 would lose its
    figures, and be negative at times, for gradients that are much alike; so of the state's fields nu is the variance
    itself if centered, and mu the corrected mean: with a = 1 - decay, divided by 1 - decay**t for bias_correction,

        nu = (1 - a) * (nu + a * (g - mu)**2);  mu = mu + a * (g - mu)

    Equivalent to `optax.rmsprop` in the variant "optax", and to `tf.raw_ops.ApplyRMSProp` in "tensorflow".

    Args:
        learning_rate: a number, a scalar array (traced or not), or a schedule: a function of the count of updates.
        decay: how much of nu is kept, in [0, 1).
        eps: what is added to the denominator.
        initial_scale: nu at the start.
        eps_in_sqrt: where eps is added; the other variants have a place of their own and do not look at it.
        centered: divide by the deviation from the mean. Not in "mps".
        momentum: None, or how much of the trace is kept, in [0, 1). Not in "mps".
        nesterov: Nesterov's momentum, in "optax" only.
        bias_correction: in "optax" only.
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
        >>> rmsprop = mps.optim.rmsprop(0.1, decay=0.75)
        >>> updates, state = rmsprop.update(jnp.array([1.0, -2.0]), rmsprop.init(jnp.zeros(2)))
        >>> [round(u, 3) for u in updates.tolist()]
        [-0.2, 0.2]

    Reference: MPSNNOptimizerRMSProp; Hinton, "Overview of mini-batch gradient descent", 2012; Graves, "Generating
    sequences with recurrent neural networks", 2013.
    """
    rate_at = rate("rmsprop", learning_rate)
    number("rmsprop", "decay", decay, least=0, below=1)
    number("rmsprop", "eps", eps, least=0)
    number("rmsprop", "initial_scale", initial_scale, least=0)
    _check.choice("rmsprop", "variant", variant, VARIANTS)
    given = {"centered": centered, "momentum": momentum, "nesterov": nesterov, "bias_correction": bias_correction}
    for name, value in (given | {"eps_in_sqrt": eps_in_sqrt}).items():
        if name != "momentum":
            _check.flag("rmsprop", name, value)
    if momentum is not None:
        number("rmsprop", "momentum", momentum, least=0, below=1)
    elif nesterov:
        _check.fail("rmsprop", "nesterov needs momentum", "momentum=None", "Pass momentum, 0.9 say.")
    absent = {
        "mps": ("centered", "momentum", "nesterov", "bias_correction"),
        "tensorflow": ("nesterov", "bias_correction"),
    }
    for name in absent.get(variant, ()):
        if given[name] is not None and given[name] is not False:
            got = f"{name}={given[name]!r}"
            _check.fail("rmsprop", f"the variant {variant!r} has no {name}", got, 'Use the variant "optax".')
    before = Preprocessing("rmsprop", regularization, regularization_scale, gradient_clip, gradient_rescale).checked()
    inside = variant == "tensorflow" or (variant == "optax" and eps_in_sqrt)

    def init(params: Any) -> RmspropState:
        def full(value: Any) -> Any:
            return jax.tree.map(lambda x: jnp.full_like(x, value), params)

        mu, trace = (full(0) if which else None for which in (centered, momentum is not None))
        return RmspropState(jnp.zeros([], jnp.int32), full(initial_scale), mu, trace)

    def advance(gradients: Any, state: RmspropState, params: Any, apply: bool) -> Any:
        count = optax.safe_increment(state.count)
        lr, keep = scalar(rate_at(state.count)), scalar(decay)
        rest, kept, correction = 1 - keep, keep, 1.0
        if bias_correction:
            correction = 1 / (1 - keep ** scalar(count))
        if centered:
            rest, kept, correction = _shares(keep, correction, count == 1)
        steps = (lr, -1.0) if variant == "tensorflow" else (-lr, 1.0)
        hyper = (
            *before.numbers(),
            0.0 if momentum is None else momentum,
            *steps,
            kept,
            rest,
            correction,
            *((eps, 0.0) if inside else (0.0, eps)),
        )
        states = {"nu": state.nu, **({"mu": state.mu} if centered else {})}
        states |= {} if momentum is None else {"trace": state.trace}
        flags = {"centered": centered, "nesterov": nesterov}

        def others() -> Rule:
            scale = optax.scale_by_stddev if centered else optax.scale_by_rms
            return chained(
                scale(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
                optax.scale_by_learning_rate(learning_rate),
                None if momentum is None else optax.trace(momentum, nesterov),
            )

        rule = others if variant == "optax" else None
        result, new = run(rmsprop_op, hyper, gradients, params, states, before, rule, state.count, apply=apply, **flags)
        return result, RmspropState(count, new["nu"], new.get("mu"), new.get("trace"))

    return FusedTransformation.of("rmsprop", init, advance, RmspropState)


def _shares(keep: Any, correction: Any, first: Any) -> tuple[Any, Any, Any]:
    """Of the mean and the variance of what came so far: a new number's share of the mean, what is kept of the variance,
    and the share of the square of its distance from the mean."""
    share = (1 - keep) * correction
    if isinstance(correction, float):  # without bias correction
        return share, keep, share * keep
    # The first number is the mean; and what the variance starts with counts decay / (1 - decay) times.
    share = jnp.where(first, 1, jnp.minimum(share, 1))
    return share, jnp.where(first, keep / (1 - keep), 1 - share), share * (1 - share)
