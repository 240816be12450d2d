"""What the optimizers share: the transformation with a fused step, hyperparameters, and the way of a tree to one op."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_mps._types import ArrayTree
from jax_mps.ops import _check
from jax_mps.ops.optim import parameters_read
from jax_mps.optim._others import Rule, is_floating
from jax_mps.primitive import Op

Variant = Literal["optax", "mps", "tensorflow"]
VARIANTS = get_args(Variant)
Regularization = Literal["none", "l1", "l2"]
Tree = TypeVar("Tree")
State = TypeVar("State")


class FusedTransformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An optax transformation that also knows how to update parameters and state together; see `step`."""

    fused_step: Callable[[ArrayTree, ArrayTree, ArrayTree], tuple[ArrayTree, ArrayTree]]  # what `step` calls

    @classmethod
    def of(cls, op: str, init: Callable, advance: Callable, kind: type) -> FusedTransformation:
        """From `init(params)` and `advance(gradients, state, params, apply)` -> (updates or parameters, state).

        `kind` is the type of its states.
        """

        def checked_init(params: Any) -> Any:
            for leaf in jax.tree.leaves(params):
                if not hasattr(leaf, "shape") and not isinstance(leaf, int | float | complex):
                    remedy = "Pass the tree of arrays that is trained."
                    _check.fail(op, "the leaves of params must be arrays", _check.told(leaf), remedy, TypeError)
            return init(params)

        def checked(gradients: Any, state: Any, params: Any, apply: bool) -> Any:
            if not isinstance(state, kind):
                rule, order = f"state must be the {kind.__name__} that init gave", "gradients, state, params"
                remedy = f"The order is step(optimizer, {order}) and update({order})."
                _check.fail(op, rule, _check.told(state), remedy, TypeError)
            return advance(gradients, state, params, apply)

        def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
            return checked(updates, state, params, False)

        self = cls(checked_init, update)
        self.fused_step = lambda gradients, state, params: checked(gradients, state, params, True)
        return self


def step(optimizer: optax.GradientTransformation, gradients: Tree, state: State, params: Tree) -> tuple[Tree, State]:
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

    Raises:
        ValueError, TypeError: if optimizer is none, or state is not what its init gave.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> sgd = mps.optim.sgd(0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> params, state = mps.optim.step(sgd, {"w": jnp.array([1.0, 2.0])}, sgd.init(params), params)
        >>> params["w"].tolist()
        [0.5, 0.0]
    """
    order = "The order is step(optimizer, gradients, state, params)."
    if not callable(getattr(optimizer, "update", None)) or not callable(getattr(optimizer, "init", None)):
        got = _check.told(optimizer)
        _check.fail("optim.step", "optimizer must be one, such as mps.optim.adam(1e-3)", got, order, TypeError)
    like_gradients = [str(jax.tree.structure(t)) == str(jax.tree.structure(gradients)) for t in (state, params)]
    if like_gradients == [True, False]:
        _check.fail("optim.step", "state must be what optimizer.init gave", "a tree like the gradients", order)
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
        _check.choice(self.op, "regularization", self.regularization, get_args(Regularization))
        number(self.op, "regularization_scale", self.regularization_scale, least=0)
        number(self.op, "gradient_rescale", self.gradient_rescale)
        clip = self.gradient_clip
        if clip is not None:
            if not isinstance(clip, tuple | list) or len(clip) != 2:
                rule = "gradient_clip must be None or a (min, max) pair"
                _check.fail(self.op, rule, _check.told(clip), "Pass two numbers.")
            if not all(_is_static(bound) or _is_scalar_array(bound) for bound in clip):
                rule, remedy = (
                    "gradient_clip must be None or a (min, max) pair of numbers",
                    "Use math.inf for no bound.",
                )
                _check.fail(self.op, rule, _check.told(clip), remedy, TypeError)
            static = [bound for bound in clip if _is_static(bound)]
            if any(bound != bound for bound in static) or (len(static) == 2 and static[0] > static[1]):
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
        if not _is_finite(value):
            _check.fail(op, f"{name} must be finite", value, f"Check how {name} is computed.")
        if not least <= value < below:
            rule = f"{name} must be at least {least:g}" + ("" if below == math.inf else f" and below {below:g}")
            _check.fail(op, rule, value, f"Check {name}.")
    elif not _is_scalar_array(value):
        got = f"an array of shape {value.shape}" if getattr(value, "shape", ()) else _check.told(value)
        _check.fail(op, f"{name} must be a number or a scalar array", got, f"Check {name}.", TypeError)
    return value


def _is_static(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_scalar_array(value: Any) -> bool:
    if not isinstance(value, jax.Array | np.ndarray) or value.shape:
        return False
    return bool(jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer))


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer above all floats
        return False


def rate(op: str, learning_rate: Any) -> Callable[[Any], Any]:
    """The learning rate as a function of the count of updates made."""
    if callable(learning_rate):
        return lambda count: number(op, "what learning_rate(count) gives", learning_rate(count))
    number(op, "learning_rate", learning_rate, least=0)
    return lambda count: learning_rate


def scalar(value: Any) -> Any:
    """A hyperparameter to compute with: arrays in the default floating dtype, Python's numbers in full precision."""
    if isinstance(value, int):
        return float(value)
    return value if _is_static(value) else jnp.asarray(value).astype(jnp.result_type(float))


def storage(op: str, name: str, dtype: Any) -> Any:
    """A floating dtype or None."""
    if dtype is None:
        return None
    return jax.dtypes.canonicalize_dtype(_check.float_dtype(op, f"{name}, if not None,", dtype))


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
    names = ["gradients", *(name for name, _ in trees)]
    arrays = [
        {i: _check.array(op.name, f"a leaf of {name}", stream[i]) for i in full}
        for name, stream in zip(names, streams, strict=True)
    ]
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
        words = f"another one: {' '.join(str(error).split())[:300]}"
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
