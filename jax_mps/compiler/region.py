"""A region as one JAX primitive: runs a whole program in one custom call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jax_mps import ffi
from jax_mps._compat import Primitive, batching, lower_with_jax, mlir, result_aval, varying_axes, weakly_cached
from jax_mps.compiler.equations.flatten import PROGRAM
from jax_mps.eager import run_eagerly

Types = tuple[tuple[tuple[int, ...], Any], ...]  # shape and dtype of each result
Aliases = tuple[tuple[int, int], ...]  # (operand, result) pairs that may share memory

_primitive = Primitive(PROGRAM)
_primitive.multiple_results = True


@weakly_cached
class Original:
    """What a region means in JAX: run on other platforms and under vmap."""

    def __init__(
        self,
        function: Callable[..., list[Any]],
        origins: Callable[[], dict[int, str]],
        reached: Callable[[Sequence[bool]], list[bool]],
    ) -> None:
        self.function = function
        self.origins = origins  # of each node, by its first result's name, the primitives that it is made of
        self.reached = reached  # by flags of operands, the flags of the results that depend on a set one

    def __repr__(self) -> str:
        return "..."


def run(text: str, types: Types, aliases: Aliases, original: Original, operands: Sequence[Any]) -> Any:
    """Runs the program `text`; its results have these shapes and dtypes.

    A donated operand of an alias is updated where it lies; XLA copies one that is not donated first.
    """
    return _primitive.bind(*operands, text=text, types=types, aliases=aliases, original=original)


def _abstract(*avals: Any, text: str, types: Any, aliases: Aliases, original: Original) -> list[Any]:
    axes = varying_axes(avals)  # inside of a shard_map
    along = {axis: original.reached([axis in varying_axes([a]) for a in avals]) for axis in axes}
    return [
        result_aval(shape, dtype, avals, frozenset(axis for axis in axes if along[axis][i]))
        for i, (shape, dtype) in enumerate(types)
    ]


def _run_eagerly(*operands: Any, **params: Any) -> Any:
    original = params["original"]
    jitted = jax.jit(functools.partial(_primitive.bind, **params))
    return run_eagerly(jitted, operands, _primitive.name, original.function, original.origins)


def _lower_to_device(
    ctx: mlir.LoweringRuleContext, *operands: Any, text: str, types: Any, aliases: Aliases, original: Original
) -> Any:
    return ffi.lower(ctx, text, operands, aliases)


def _lower_to_jax(
    ctx: mlir.LoweringRuleContext, *operands: Any, text: str, types: Any, aliases: Aliases, original: Original
) -> Any:
    return lower_with_jax(ctx, lambda *xs: original.function(*xs), operands, {})


def _batch(
    operands: Sequence[Any], dims: Sequence[Any], *, text: str, types: Any, aliases: Aliases, original: Original
) -> Any:
    axes = tuple(None if d is None else int(d) for d in dims)
    # A result of nothing mapped stays one: a branch on it must not become a choice between both.
    mapped = [0 if r else None for r in original.reached([d is not None for d in dims])]
    return jax.vmap(lambda *xs: original.function(*xs), axes, mapped)(*operands), mapped


_primitive.def_abstract_eval(_abstract)
_primitive.def_impl(_run_eagerly)
mlir.register_lowering(_primitive, _lower_to_jax)
mlir.register_lowering(_primitive, _lower_to_device, platform="cpu")
batching.primitive_batchers[_primitive] = _batch
