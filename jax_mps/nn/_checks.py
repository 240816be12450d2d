"""Checks of what layers are made of and called with; their words are those of `ops/_check.py`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from jax_mps.ops import _check


def told_shape(name: str, given: Any, least: int = 0, axes: str = "") -> tuple[int, ...]:
    """The shape of the input that a user gave to `init`, as numbers or by an array; it has at least so many axes."""
    shape = _check.sizes(name, "input_shape", getattr(given, "shape", given))
    if len(shape) < least:
        _check.fail(name, f"input_shape must be {axes}", shape, "It includes the batch axis.")
    return shape


def check_weights(name: str, layer: Any, **counts: Any) -> None:
    """What layers with weights share: their numbers are counts, and initializer, dtype and bias what they should be."""
    for word, value in counts.items():
        _check.count(name, word, value)
    _check.float_dtype(name, "dtype", layer.dtype)
    _check.flag(name, "bias", layer.bias)
    try:
        inspect.signature(layer.initializer).bind(*range(5))
    except (TypeError, ValueError):
        rule = "initializer must be a function of (key, shape, fan_in, fan_out, dtype)"
        remedy = "One of JAX's fits as lambda key, shape, fan_in, fan_out, dtype: f(key, shape, dtype)."
        _check.fail(name, rule, _check.told(layer.initializer), remedy, TypeError)


def entries(name: str, params: Any, *wanted: str, optional: tuple[str, ...] = ()) -> tuple[Any, ...]:
    """The entries of a layer's params, and the optional ones or None."""
    if not isinstance(params, Mapping) or any(n not in params for n in wanted):
        got = f"a dict of {', '.join(map(str, params))}" if isinstance(params, Mapping) else _check.told(params)
        remedy = "Pass the first result of init; the order is apply(params, x)."
        _check.fail(name, f"params must be a dict with {', '.join(wanted)}", got, remedy, TypeError)
    return (*(params[n] for n in wanted), *(params.get(n) for n in optional))


def check_keep(name: str, keep_probability: Any) -> None:
    """A part that dropout keeps."""
    if not 0 < _check.number(name, "keep_probability", keep_probability) <= 1:
        remedy = "It is the part that is kept: 1 - rate of Flax."
        _check.fail(name, "keep_probability must be in (0, 1]", keep_probability, remedy)


def one_for_each(name: str, params: Any, count: int) -> tuple[Any, ...]:
    """The params of a stack: a tuple with an entry for each of so many layers."""
    if not isinstance(params, tuple | list) or len(params) != count:
        got = f"{len(params)} of them" if isinstance(params, tuple | list) else _check.told(params)
        remedy = "Pass the first result of init; the order is apply(params, x)."
        _check.fail(name, f"params must be a tuple with an entry for each of {count} layers", got, remedy, TypeError)
    return tuple(params)
