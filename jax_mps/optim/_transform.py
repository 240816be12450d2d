"""What the optimizers share: the transformation with a fused step, hyperparameters, and the way of a tree to one op."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_mps.ops import _check
from jax_mps.ops.optim import parameters_read
from jax_mps.optim._others import Rule, is_floating
from jax_mps.primitive import Op

VARIANTS = ("optax", "mps", "tensorflow")


class FusedTransformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An optax transformation that also knows how to update parameters and state together; see `step`."""

    fused_step: Callable[..., Any]

    @classmethod
    def of(cls, init: Callable, advance: Callable) -> FusedTransformation:
        """From `init(params)` and `advance(gradients, state, params, apply)` -> (updates or parameters, state)."""

        def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
            return advance(updates, state, params, False)

        self = cls(init, update)
        self.fused_step = lambda gradients, state, params: advance(gradients, state, params, True)
        return self


def step(optimizer: optax.GradientTransformation, gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """Updates parameters and optimizer state.

    For the optimizers of this module one native call does both: each number is read once and written once, where
    `update` and `optax.apply_updates` write the updates to memory and read them back. Carried by a loop or donated,
    params and state are updated in place; a function to be compiled with `donate_argnums` should take them in the order
    in which it returns them, because JAX pairs what is donated with results of the same type in order. Without either,
    XLA copies them first, and `update` is about as fast.

    Equivalent to::

        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)

    Args:
        optimizer: any optax transformation; this module's own ones run fused when they are not wrapped in another.
        gradients: the gradients of params, a tree like params.
        state: of `optimizer.init(params)` or the last step.
        params: the parameters.

    Returns:
        (params, state), with the shapes and dtypes that they had.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> sgd = mps.optim.sgd(0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> params, state = mps.optim.step(sgd, {"w": jnp.array([1.0, 2.0])}, sgd.init(params), params)
        >>> params["w"].tolist()
        [0.5, 0.0]
    """
    fused = getattr(optimizer, "fused_step", None)
    if fused is not None:
        return fused(gradients, state, params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


class Preprocessing(NamedTuple):
    """What happens to a gradient before any formula: clip, rescale, regularize, in this order."""

    op: str
    regularization: str
    regularization_scale: Any
    gradient_clip: tuple[Any, Any] | None
    gradient_rescale: Any

    def checked(self) -> Preprocessing:
        """Itself, if it breaks no rule."""
        _check.choice(self.op, "regularization", self.regularization, ("none", "l1", "l2"))
        number(self.op, "regularization_scale", self.regularization_scale, least=0)
        number(self.op, "gradient_rescale", self.gradient_rescale)
        clip = self.gradient_clip
        if clip is not None:
            if not isinstance(clip, tuple | list) or len(clip) != 2:
                _check.fail(self.op, "gradient_clip must be None or a (min, max) pair", clip, "Pass two numbers.")
            static = [float(bound) for bound in clip if _is_static(bound)]
            if any(map(math.isnan, static)) or (len(static) == 2 and static[0] > static[1]):
                _check.fail(self.op, "gradient_clip must be (min, max) with min <= max", clip, "Check their order.")
        return self

    def numbers(self) -> tuple[Any, ...]:
        """The first entries of every op's hyperparameters."""
        low, high = (-math.inf, math.inf) if self.gradient_clip is None else self.gradient_clip
        return low, high, self.gradient_rescale, self.regularization_scale

    def __call__(self, g: Any, w: Any) -> Any:
        """A gradient that no kernel takes, preprocessed; what is not asked for leaves its dtype alone."""
        if self.gradient_clip is not None:
            if jnp.iscomplexobj(g):
                _check.fail(self.op, "gradient_clip takes real gradients", g.dtype, "Clip before.", TypeError)
            g = jnp.clip(g, *self.gradient_clip)
        if not (_is_static(self.gradient_rescale) and self.gradient_rescale == 1):
            g = g * self.gradient_rescale
        if self.regularization != "none":
            g = g + self.regularization_scale * (jnp.sign(w) if self.regularization == "l1" else w)
        return g


def number(op: str, name: str, value: Any, least: float = -math.inf, below: float = math.inf) -> Any:
    """A hyperparameter: a number in [least, below), or a scalar array, which may be traced and is not looked at."""
    if _is_static(value):
        if not math.isfinite(value):
            _check.fail(op, f"{name} must be finite", value, f"Check how {name} is computed.")
        if not least <= value < below:
            rule = f"{name} must be at least {least:g}" + ("" if below == math.inf else f" and below {below:g}")
            _check.fail(op, rule, value, f"Check {name}.")
    elif not isinstance(value, jax.Array | np.ndarray) or value.shape:
        got = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
        _check.fail(op, f"{name} must be a number or a scalar array", got, f"Check {name}.", TypeError)
    return value


def _is_static(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def rate(op: str, learning_rate: Any) -> Callable[[Any], Any]:
    """The learning rate as a function of the count of updates made."""
    if callable(learning_rate):
        return learning_rate
    number(op, "learning_rate", learning_rate, least=0)
    return lambda count: learning_rate


def scalar(value: Any) -> Any:
    """A hyperparameter to compute with: arrays in the default floating dtype, Python's numbers in full precision."""
    return value if _is_static(value) else jnp.asarray(value).astype(jnp.result_type(float))


def storage(op: str, name: str, dtype: Any) -> Any:
    """A floating dtype or None."""
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        _check.fail(
            op, f"{name} must be a floating dtype or None", dtype, "Use jnp.float32 or jnp.bfloat16.", TypeError
        )
    return None if dtype is None else jax.dtypes.canonicalize_dtype(dtype)


def run(
    op: Op,
    hyper: Sequence[Any],
    gradients: Any,
    params: Any,
    states: dict[str, Any],
    before: Preprocessing,
    others: Callable[[], Rule] | None,
    count: Any,
    *,
    apply: bool,
    **flags: bool,
) -> tuple[Any, dict[str, Any]]:
    """Sends the leaves of the trees through the op: (updates or new parameters, new states by name).

    Leaves that are None, and what `optax.masked` puts in place of a leaf, are left as they are. Those that are not
    floating go through `others`, if there is such a rule.
    """
    regularization = before.regularization
    leaves, tree = jax.tree.flatten(gradients, is_leaf=lambda x: x is None)
    read = parameters_read(apply, regularization)
    if read and params is None and any(leaf is not None for leaf in leaves):
        what = "a step" if apply else f'regularization "{regularization}"'
        _check.fail(op.name, f"{what} needs params", None, "Call update(gradients, state, params).")
    trees = [("params", params)] * read + [("state", state) for state in states.values()]
    streams = [leaves, *(_leaves_like(op.name, tree, name, other) for name, other in trees)]
    # Nothing to do for what is missing or empty; and no kernel takes an empty array.
    full = [i for i, leaf in enumerate(leaves) if leaf is not None and np.size(leaf)]
    arrays = [{i: jnp.asarray(stream[i]) for i in full} for stream in streams]
    _check_shapes(op.name, arrays, [name for name, _ in trees])
    other = [i for i in full if not all(is_floating(stream[i]) for stream in arrays)]
    full = [i for i in full if i not in other]
    results = [list(stream) for stream in (streams[apply], *streams[1 + read :])]
    if other and others is None:
        _fail_floating(op.name, [[stream[i] for i in other] for stream in arrays], [name for name, _ in trees])
    if other and others is not None:
        old = [arrays[1][i] if read else None for i in other]
        fields = {name: [stream[i] for i in other] for name, stream in zip(states, arrays[1 + read :], strict=True)}
        g = [before(arrays[0][i], w) for i, w in zip(other, old, strict=True)]
        updates, fields = others()(g, {"count": count, **fields})
        first = optax.apply_updates(old, updates) if apply else updates
        for stream, new in zip(results, [first, *(fields[name] for name in states)], strict=True):
            for i, x in zip(other, new, strict=True):
                stream[i] = x
    if full:
        operands = [stream[i] for stream in arrays for i in full]
        wide = np.float64 if any(x.dtype == np.float64 for x in operands) else np.float32
        vector = jnp.stack([jnp.asarray(scalar(value)).astype(wide) for value in hyper])
        attributes = dict(apply=apply, regularization=regularization, states=len(states), **flags)
        new = op(vector, *operands, **attributes)
        new = new if isinstance(new, tuple) else (new,)
        for k, stream in enumerate(results):
            for i, x in zip(full, new[k * len(full) : (k + 1) * len(full)], strict=True):
                stream[i] = x
    result, *after = [jax.tree.unflatten(tree, stream) for stream in results]
    return result, dict(zip(states, after, strict=True))


def _leaves_like(op: str, tree: Any, name: str, other: Any) -> list[Any]:
    try:
        return tree.flatten_up_to(other)
    except ValueError as error:
        words = f"another one: {error}"
        _check.fail(op, f"{name} must have the tree of the gradients", words, "Was init called on the same parameters?")


def _check_shapes(op: str, streams: list[dict[int, Any]], names: Sequence[str]) -> None:
    gradients = streams[0]
    for stream, name in zip(streams, ("gradients", *names), strict=True):
        for i, g in gradients.items():
            if stream[i].shape != g.shape:
                rule = f"a leaf of {name} must have the shape of its gradient, {g.shape}"
                _check.fail(op, rule, stream[i].shape, "Was init called on the same parameters?")


def _fail_floating(op: str, streams: list[list[Any]], names: Sequence[str]) -> None:
    name, dtype = next(
        (name, x.dtype)
        for stream, name in zip(streams, ("gradients", *names), strict=True)
        for x in stream
        if not is_floating(x)
    )
    remedy = 'Mask other leaves with optax.masked, or use the variant "optax".'
    _check.fail(op, f"the leaves of {name} must be floating", dtype, remedy, TypeError)
