"""A call without jit around it; under `jax.debug_nans` and `jax.debug_infs` it says which op made such a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from jax_mps._compat import checked_numbers

_TESTS: dict[str, Callable[[Any], Any]] = {"nan": jnp.isnan, "inf": jnp.isinf}


def run_eagerly(
    jitted: Callable[..., Any],
    operands: Sequence[Any],
    name: str,
    meaning: Callable[..., Any] | None = None,
    origins: Callable[[], Mapping[int, str]] = dict,
) -> Any:
    """Runs a jitted function of arrays, which is the op or the program `name`.

    JAX answers an invalid number with a second run of the function without jit. That run would come back to here, and
    so on: the check is done here instead.

    Args:
        jitted: the function.
        operands: its arrays.
        name: what an error calls it.
        meaning: the same as many ops of JAX, which run one by one after an invalid number and are checked each.
        origins: of each node, the ops that it is made of.

    Raises:
        FloatingPointError: if a result has a NaN under `jax.debug_nans(True)`, or an infinity under `jax.debug_infs`.
    """
    kinds = checked_numbers()
    with jax.disable_jit(False), unchecked():
        results = jitted(*operands)
        found = [kind for kind in kinds if _any(_TESTS[kind], results)]
    if not found:
        return results
    words = f"invalid value ({found[0]}) encountered in {name}"
    if meaning is not None:
        meaning(*operands)  # raises at the op that gives it
        words += f" of {'; '.join(filter(None, origins().values()))}, but in none of these ops where JAX runs them"
    raise FloatingPointError(words)


@contextmanager
def unchecked() -> Iterator[None]:
    """Numbers inside are not checked: they are part of a function whose results will be."""
    if not checked_numbers():
        yield
        return
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def _any(test: Callable[[Any], Any], results: Sequence[Any]) -> bool:
    return any(bool(test(x).any()) for x in results if jnp.issubdtype(x.dtype, jnp.inexact))
