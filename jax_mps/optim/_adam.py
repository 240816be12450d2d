"""Adam, AMSGrad and Nadam."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jax_mps._types import ArrayTree, DType
from jax_mps.ops import _check
from jax_mps.ops.optim import adam_op
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


class AdamState(NamedTuple):
    """State of `adam`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32: updates made
    mu: ArrayTree  # like the parameters, in mu_dtype or theirs: mean of the gradients
    nu: ArrayTree  # like the parameters: mean of their squares
    nu_max: ArrayTree  # like the parameters: the largest nu so far; None without amsgrad


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
    amsgrad: bool = False,
    regularization: Regularization = "none",
    regularization_scale: ArrayLike = 0.0,
    gradient_clip: tuple[ArrayLike, ArrayLike] | None = None,
    gradient_rescale: ArrayLike = 1.0,
    variant: Variant = "optax",
) -> FusedTransformation:
    """Adam; the whole parameter tree is one native call.

    The gradient g is first clipped, then rescaled, then regularized: "l2" adds regularization_scale * w, "l1" adds
    regularization_scale * sign(w), the derivative of the penalty (MPS's header prints it without the sign). Then, with
    t counting from 1, c1 = 1 - b1**t and c2 = 1 - b2**t,

        mu = b1 * mu + (1 - b1) * g;  nu = b2 * nu + (1 - b2) * g**2

    ===============  ====================================================================================
    optax            w -= learning_rate * (mu / c1) / (sqrt(nu / c2 + eps_root) + eps)
    mps, tensorflow  w -= learning_rate * sqrt(c2) / c1 * mu / (sqrt(nu + eps_root) + eps)
    ===============  ====================================================================================

    The second form is the one that Adam's paper ends section 2 with: its eps, "epsilon hat", is not corrected for t.
    AMSGrad puts the largest nu / c2 so far (in the second form: the largest nu) in place of it.

    Equivalent to `optax.adam`, `optax.nadam` (nesterov) or `optax.amsgrad` in the variant "optax", and to
    `tf.raw_ops.ApplyAdam` in "tensorflow".

    Args:
        learning_rate: a number, a scalar array (traced or not), or a schedule: a function of the count of updates.
        b1, b2: how much of mu and nu is kept, in [0, 1).
        eps, eps_root: what is added to the denominator, outside and inside its root.
        mu_dtype: the dtype of mu; None keeps the parameters'.
        nesterov: Nesterov's momentum, in the variant "optax" and without amsgrad only.
        amsgrad: AMSGrad.
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
        >>> adam = mps.optim.adam(0.1)
        >>> updates, state = adam.update(jnp.array([1.0, -2.0]), adam.init(jnp.zeros(2)))
        >>> [round(u, 3) for u in updates.tolist()]
        [-0.1, 0.1]

    Reference: MPSNNOptimizerAdam; Kingma and Ba, "Adam", 2015; Reddi et al., "On the convergence of Adam and beyond",
    2018; Dozat, "Incorporating Nesterov momentum into Adam", 2016.
    """
    rate_at = rate("adam", learning_rate)
    for name, value in (("b1", b1), ("b2", b2)):
        number("adam", name, value, least=0, below=1)
    for name, value in (("eps", eps), ("eps_root", eps_root)):
        number("adam", name, value, least=0)
    _check.choice("adam", "variant", variant, VARIANTS)
    nesterov, amsgrad = _check.flag("adam", "nesterov", nesterov), _check.flag("adam", "amsgrad", amsgrad)
    if nesterov and (amsgrad or variant != "optax"):
        got = "amsgrad=True" if amsgrad else f"variant={variant!r}"
        _check.fail("adam", 'nesterov goes with the variant "optax" without amsgrad', got, "Leave one of them out.")
    mu_dtype = storage("adam", "mu_dtype", mu_dtype)
    before = Preprocessing("adam", regularization, regularization_scale, gradient_clip, gradient_rescale).checked()

    def init(params: Any) -> AdamState:
        def zeros(dtype: Any) -> Any:
            return jax.tree.map(lambda x: jnp.zeros_like(x, dtype), params)

        return AdamState(jnp.zeros([], jnp.int32), zeros(mu_dtype), zeros(None), zeros(None) if amsgrad else None)

    def advance(gradients: Any, state: AdamState, params: Any, apply: bool) -> Any:
        count = optax.safe_increment(state.count)
        lr, k1, k2, t = map(scalar, (rate_at(state.count), b1, b2, count))
        c1, c2 = 1 - k1**t, 1 - k2**t
        if variant == "optax" and nesterov:
            steps = (-lr * k1 / (1 - k1 ** (t + 1)), -lr * (1 - k1) / c1, 1 / c2)
        elif variant == "optax":
            steps = (-lr / c1, 0.0, 1 / c2)
        else:
            steps = (-lr * jnp.sqrt(c2) / c1, 0.0, 1.0)
        hyper = (*before.numbers(), k1, 1 - k1, k2, 1 - k2, *steps, eps_root, eps)
        states = {"mu": state.mu, "nu": state.nu} | ({"nu_max": state.nu_max} if amsgrad else {})

        def others() -> Rule:
            scale = optax.scale_by_amsgrad if amsgrad else functools.partial(optax.scale_by_adam, nesterov=nesterov)
            return chained(scale(b1, b2, eps, eps_root, mu_dtype), optax.scale_by_learning_rate(learning_rate))

        rule = others if variant == "optax" else None
        flags = dict(apply=apply, nesterov=nesterov)
        result, new = run(adam_op, hyper, gradients, params, states, before, rule, state.count, **flags)
        return result, AdamState(count, new["mu"], new["nu"], new.get("nu_max"))

    return FusedTransformation.of("adam", init, advance, AdamState)
