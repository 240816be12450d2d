"""The optimizers as ops: one call updates all leaves of a parameter tree.

Operands are a vector of hyperparameters and then streams of leaves, each as long as the tree: the gradients, the
parameters (where they are read), the states. Results are the updates or the new parameters, then the new states.

The variants of a formula differ in the hyperparameters alone, which the transformations of `jax_mps.optim` prepare.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax.numpy as jnp

from jax_mps.primitive import op

# What the vectors hold, in order. A `rest` is 1 - its neighbour, rounded once where that is known before tracing.
COMMON = ("clip_min", "clip_max", "gradient_rescale", "regularization_scale")
SGD = (*COMMON, "momentum", "step_in", "step_out")
RMSPROP = (*SGD, "decay", "rest", "correction", "eps_root", "eps")
ADAM = (*COMMON, "b1", "rest1", "b2", "rest2", "step_mu", "step_gradient", "correction", "eps_root", "eps")


def parameters_read(apply: bool, regularization: str) -> bool:
    """Whether the parameters are among the streams."""
    return apply or regularization != "none"


def _in_place(operands: int, *, apply: bool, regularization: str, states: int, **_: Any) -> list[tuple[int, int]]:
    """New parameters take the place of the old, new states that of the old.

    Updates take that of the gradients: in a training step these are temporaries, whose memory would have to be touched
    anew. Where they are arguments of the compiled function, XLA copies them first.
    """
    before = 1 + parameters_read(apply, regularization)
    leaves = (operands - 1) // (before + states)
    first = 1 + leaves if apply else 1
    parameters = [(first + i, i) for i in range(leaves)]
    return parameters + [(1 + before * leaves + i, leaves + i) for i in range(states * leaves)]


def _alone(*, apply: bool, **_: Any) -> str:
    """XLA computes updates and adds them to the parameters in one pass; between two calls they would lie in memory."""
    return "" if apply else "updates alone are XLA's, which fuses what applies them: mps.optim.step is one call"


def _over_leaves(
    rule: Callable, hyper: Any, leaves: Any, *, apply: bool, regularization: str, states: int, **flags: Any
) -> tuple[Any, ...]:
    """`rule(g, *state)` -> (update, *new state), leaf by leaf, on preprocessed gradients."""
    clip_min, clip_max, gradient_rescale, regularization_scale, *numbers = hyper
    read = parameters_read(apply, regularization)
    count = len(leaves) // (1 + read + states)
    columns = []
    for i in range(count):
        gradient, *rest = leaves[i::count]
        w, state = rest[:read], rest[read:]
        g = jnp.clip(gradient.astype(hyper.dtype), clip_min, clip_max) * gradient_rescale
        if regularization != "none":
            wide = w[0].astype(hyper.dtype)
            g = g + regularization_scale * (jnp.sign(wide) if regularization == "l1" else wide)
        u, *new = rule(numbers, g, *(s.astype(hyper.dtype) for s in state), **flags)
        if apply:
            first = (w[0].astype(hyper.dtype) + u).astype(w[0].dtype)
        else:
            first = u.astype(reduce(jnp.promote_types, [s.dtype for s in state], gradient.dtype))
        columns.append((first, *(n.astype(s.dtype) for n, s in zip(new, state, strict=True))))
    return tuple(column[k] for k in range(1 + states) for column in columns)


def _with_momentum(numbers: Any, d: Any, trace: Any, nesterov: bool) -> list[Any]:
    momentum, step_in, step_out = numbers
    d = step_in * d
    if not trace:
        return [step_out * d]
    new = momentum * trace[0] + d
    return [step_out * (momentum * new + d if nesterov else new), new]


def _sgd(numbers: Any, g: Any, *trace: Any, nesterov: bool) -> Any:
    return _with_momentum(numbers, g, trace, nesterov)


def _rmsprop(numbers: Any, g: Any, nu: Any, *rest: Any, centered: bool, nesterov: bool) -> Any:
    *momentum, decay, one_minus_decay, correction, eps_root, eps = numbers
    if centered:  # nu is the variance, which grows by squares alone: nothing cancels
        off = g - rest[0]
        nu = decay * nu + correction * (off * off)
        mu, spread = [rest[0] + one_minus_decay * off], nu
    else:
        nu = decay * nu + one_minus_decay * (g * g)
        mu, spread = [], correction * nu
    u, *trace = _with_momentum(momentum, g / (jnp.sqrt(spread + eps_root) + eps), rest[centered:], nesterov)
    return [u, nu, *mu, *trace]


def _adam(numbers: Any, g: Any, mu: Any, nu: Any, *nu_max: Any, nesterov: bool) -> Any:
    b1, one_minus_b1, b2, one_minus_b2, step_mu, step_gradient, correction, eps_root, eps = numbers
    mu = b1 * mu + one_minus_b1 * g
    nu = b2 * nu + one_minus_b2 * (g * g)
    maxima = [jnp.maximum(n, correction * nu) for n in nu_max]
    largest = maxima[0] if maxima else correction * nu
    step = step_mu * mu + step_gradient * g if nesterov else step_mu * mu  # g is not read once more for nothing
    return [step / (jnp.sqrt(largest + eps_root) + eps), mu, nu, *maxima]


@op("sgd", aliases=_in_place, alone=_alone)
def sgd_op(hyper: Any, *leaves: Any, **attributes: Any) -> Any:
    """States: the trace, if there is momentum."""
    return _over_leaves(_sgd, hyper, leaves, **attributes)


@op("rmsprop", aliases=_in_place, alone=_alone)
def rmsprop_op(hyper: Any, *leaves: Any, **attributes: Any) -> Any:
    """States: nu, then mu if centered, then the trace if there is momentum. Centred, nu is the variance."""
    return _over_leaves(_rmsprop, hyper, leaves, **attributes)


@op("adam", aliases=_in_place, alone=_alone)
def adam_op(hyper: Any, *leaves: Any, **attributes: Any) -> Any:
    """States: mu, nu, and nu_max for AMSGrad."""
    return _over_leaves(_adam, hyper, leaves, **attributes)
