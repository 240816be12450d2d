"""Checks of user input; every message names the op, the rule, what came, and the remedy."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

_MOST = 2**31 - 1  # of a stride, a padding or another such number
_MOST_PIXELS = 2**40  # of a padded image: XLA aborts where the size of a result overflows


def fail(op: str, rule: str, got: Any, remedy: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raises `op: rule, but got ... . remedy`."""
    raise error(f"{op}: {rule}, but got {got}. {remedy}")


def told(value: Any) -> str:
    """What came, in a few words."""
    if isinstance(value, jax.core.Tracer):
        return f"a traced value of {value.aval.str_short()}"
    if isinstance(value, jax.Array | np.ndarray) and value.ndim:
        return f"an array of {value.dtype}{list(value.shape)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."


def static_remedy(value: Any, otherwise: str) -> str:
    """What to do about a value that is not one of Python's."""
    if any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(value)):
        return "It must be known before tracing: close over it, or name it in jit's static_argnames."
    return otherwise


def array(op: str, name: str, x: Any) -> jax.Array:
    """`x` as an array."""
    if isinstance(x, jax.Array):
        return x
    try:
        if isinstance(x, str | bytes) or (isinstance(x, np.ndarray) and x.dtype == object):
            raise TypeError
        return jnp.asarray(x)
    except (TypeError, ValueError, AttributeError, OverflowError):
        fail(op, f"{name} must be an array", told(x), "Check the order of the arguments.", TypeError)


def floating(op: str, name: str, x: Any) -> jax.Array:
    """`x` as an array of a floating dtype."""
    x = array(op, name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        fail(op, f"{name} must be floating", x.dtype, f"Convert it: {name}.astype(jnp.float32).", TypeError)
    return x


def same_dtype(op: str, name: str, y: Any, x: jax.Array) -> jax.Array:
    """`y` as an array of `x`'s dtype; nothing is promoted silently."""
    y = array(op, name, y)
    if y.dtype != x.dtype:
        fail(op, f"{name} must have the dtype of x, {x.dtype}", y.dtype, "Cast one of them with astype.", TypeError)
    return y


def shape(op: str, name: str, x: jax.Array, wanted: tuple[int, ...], remedy: str) -> None:
    """`x` must have exactly the shape `wanted`."""
    if x.shape != wanted:
        fail(op, f"{name} must have shape {wanted}", x.shape, remedy)


def integers(op: str, name: str, value: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """One integer or `count` of them, each at least `least`, as a tuple."""
    items = [value] * count if isinstance(value, int | np.integer) else value
    if (
        not isinstance(items, Sequence | np.ndarray)
        or len(items) != count
        or not all(isinstance(i, int | np.integer) and i >= least for i in items)
    ):
        rule = (
            f"{name} must be an integer" + (f" or {count} of them, each" if count > 1 else " of") + f" at least {least}"
        )
        got, remedy = told(value), f"Check {name}."
        if isinstance(value, jax.Array):
            remedy = "Pass integers of Python or NumPy."
        fail(op, rule, got, static_remedy(value, remedy))
    if any(i > _MOST for i in items):
        fail(op, f"{name} must be at most {_MOST}", told(value), f"Check {name}.")
    return tuple(int(i) for i in items)


def count(op: str, name: str, value: Any) -> int:
    """One integer of at least 1."""
    if not isinstance(value, int | np.integer):
        remedy = static_remedy(value, f"Check {name}.")
        fail(op, f"{name} must be an integer of at least 1", told(value), remedy)
    return integers(op, name, value, 1)[0]


def sizes(op: str, name: str, value: Any) -> tuple[int, ...]:
    """A shape: integers of Python, none below 0."""
    try:
        result = tuple(operator.index(n) for n in value)
    except (TypeError, AssertionError):  # the latter of a key
        result = (-1,)
    if any(n < 0 for n in result):
        rule = f"{name} must be a tuple of integers, none below 0"
        fail(op, rule, told(value), static_remedy(value, f"Check {name}."), TypeError)
    return result


def flag(op: str, name: str, value: Any) -> bool:
    """True or False, known before tracing."""
    return bool(choice(op, name, value, (False, True)))


def float_dtype(op: str, name: str, dtype: Any) -> Any:
    """A floating dtype."""
    try:
        known = not hasattr(dtype, "shape") and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except (TypeError, ValueError):
        known = False
    if not known:
        fail(op, f"{name} must be a floating dtype", told(dtype), "Use jnp.float32 or jnp.bfloat16.", TypeError)
    return dtype


def key(op: str, value: Any) -> jax.Array:
    """A single key of JAX, made of raw data where it is that."""
    given = array(op, "key", value)
    if not jnp.issubdtype(given.dtype, jax.dtypes.prng_key):
        if given.dtype != jnp.uint32:
            fail(op, "key must be a JAX key", given.dtype, "Make one: jax.random.key(0).", TypeError)
        try:
            given = jax.random.wrap_key_data(given)
        except TypeError:
            fail(op, "key must be a single key", f"uint32{list(given.shape)}", "Make one: jax.random.key(0).")
    if given.shape:
        fail(op, "key must be a single key", f"keys of shape {given.shape}", "Split and pass one of them.")
    return given


def number(op: str, name: str, value: Any) -> float:
    """A finite Python number."""
    try:
        if isinstance(value, str):
            raise TypeError
        real = float(value)
    except (TypeError, ValueError, OverflowError):  # a traced value is a TypeError too
        fail(op, f"{name} must be a number", told(value), "Pass a Python float.", TypeError)
    if not math.isfinite(real):
        fail(op, f"{name} must be finite", real, f"Check how {name} is computed.")
    return real


def choice(op: str, name: str, value: Any, choices: Sequence[Any]) -> Any:
    """One of `choices`."""
    if isinstance(value, jax.Array | np.ndarray) or value not in choices:
        rule = f"{name} must be one of {', '.join(map(repr, choices))}"
        fail(op, rule, told(value), static_remedy(value, "Check the spelling."))
    return value


def padding(
    op: str, value: Any, sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Padding as (low, high) pairs: from "SAME" or "VALID", one pair, or one pair an axis.

    `sizes` are the spatial sizes, `windows` the dilated window sizes. SAME puts the odd pixel at the high end.
    """
    rule = 'padding must be "SAME", "VALID" or a (low, high) pair of integers for each spatial axis'
    remedy = f"Pass {len(sizes)} pairs or one of the words."
    if isinstance(value, str):
        if value.upper() == "VALID":
            return ((0, 0),) * len(sizes)
        if value.upper() == "SAME":
            totals = [max(-(-n // s) * s - s + k - n, 0) for n, k, s in zip(sizes, windows, strides, strict=True)]
            return tuple((total // 2, total - total // 2) for total in totals)
        fail(op, rule, told(value), remedy)
    try:
        pairs = tuple((operator.index(low), operator.index(high)) for low, high in value)
    except (TypeError, ValueError, AssertionError):
        fail(op, rule, told(value), static_remedy(value, remedy))
    if len(pairs) != len(sizes):
        fail(op, rule, told(value), remedy)
    pixels(op, "the padded input", tuple(n + low + high for n, (low, high) in zip(sizes, pairs, strict=True)))
    return pairs


def pixels(op: str, name: str, spatial: Sequence[int]) -> None:
    """Spatial sizes whose product is no absurd number."""
    if math.prod(max(n, 1) for n in spatial) > _MOST_PIXELS:
        fail(op, f"{name} must have at most 2**40 pixels", tuple(spatial), "Check strides and padding.")


def window_fits(op: str, sizes: Sequence[int], windows: Sequence[int], pairs: Sequence[tuple[int, int]]) -> None:
    """The padded input must hold the (dilated) window."""
    for n, k, (low, high) in zip(sizes, windows, pairs, strict=True):
        if n + low + high < k:
            fail(
                op,
                "the window must fit the padded input",
                f"a window of {tuple(windows)} over {tuple(sizes)} with padding {tuple(pairs)}",
                'Use a smaller window or padding="SAME".',
            )
