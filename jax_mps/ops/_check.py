"""Checks of user input; every message names the op, the rule, what came, and the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np


def fail(op: str, rule: str, got: Any, remedy: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raises `op: rule, but got ... . remedy`."""
    raise error(f"{op}: {rule}, but got {got}. {remedy}")


def floating(op: str, name: str, x: Any) -> jax.Array:
    """`x` as an array of a floating dtype."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        fail(op, f"{name} must be floating", x.dtype, f"Convert it: {name}.astype(jnp.float32).", TypeError)
    return x


def same_dtype(op: str, name: str, y: Any, x: jax.Array) -> jax.Array:
    """`y` as an array of `x`'s dtype; nothing is promoted silently."""
    y = jnp.asarray(y)
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
        fail(op, f"{name} must be an integer or {count} of them, each at least {least}", value, f"Check {name}.")
    return tuple(int(i) for i in items)


def number(op: str, name: str, value: Any) -> float:
    """A finite Python number."""
    try:
        real = float(value)
    except (TypeError, ValueError):  # a traced value is a TypeError too
        fail(op, f"{name} must be a number", repr(value), "Pass a Python float.", TypeError)
    if not math.isfinite(real):
        fail(op, f"{name} must be finite", real, f"Check how {name} is computed.")
    return real


def choice(op: str, name: str, value: Any, choices: Sequence[Any]) -> Any:
    """One of `choices`."""
    if value not in choices:
        fail(op, f"{name} must be one of {', '.join(map(repr, choices))}", repr(value), "Check the spelling.")
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
        fail(op, rule, repr(value), remedy)
    try:
        pairs = tuple((int(low), int(high)) for low, high in value)
    except (TypeError, ValueError):
        fail(op, rule, repr(value), remedy)
    if len(pairs) != len(sizes):
        fail(op, rule, repr(value), remedy)
    return pairs


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
