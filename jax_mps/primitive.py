"""How an op becomes a JAX primitive.

An `Op` is made from its *meaning*, a JAX function of the operands and of static attributes. The meaning gives the
shapes, runs where no kernel does, and is what tests compare kernels with. Gradients come from the op's gradient rule
or, without one, from JAX's differentiation of the meaning.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jax_mps import ffi
from jax_mps._compat import (
    Primitive,
    batching,
    leave_out_unread,
    lower_with_jax,
    mlir,
    result_aval,
    tangent_aval,
    vary_together,
)
from jax_mps._device import device
from jax_mps.derivatives import Pullback, differentiate_by, transpose_as
from jax_mps.eager import run_eagerly
from jax_mps.ir.program import Program

Arrays = tuple[Any, ...]
Attributes = tuple[tuple[str, Any], ...]  # sorted items: hashable
Batching = Literal["merge", "prepend", "loop"]
Aliases = Callable[..., Sequence[tuple[int, int]]]

OPS: dict[str, Op] = {}  # by primitive name, for explain and graph


class Op:
    """A primitive with a meaning, shapes, lowering, batching and a gradient.

    Args:
        name: the op's name in programs.
        meaning: `meaning(*operands, **attributes)`, an array or a tuple of arrays.
        batch: the operands whose leading axis is the batch, as it is for every result.
        vmap: how vmap over those operands alone becomes one call. "merge" folds the new axis into the leading
            one, "prepend" puts it before (for ops that map over any leading axes). All else runs as a loop.
        aliases: `aliases(number of operands, **attributes)`, the (operand, result) pairs that share memory wherever
            their types agree: XLA copies an operand that is needed afterwards, and kernels then work in place.
        partial: whether results that nobody reads are left out; the attribute `wanted` then has a bool for each.
        alone: `alone(**attributes)`, why XLA runs the op on the CPU where it stands alone, not in a graph; or "".
    """

    def __init__(
        self,
        name: str,
        meaning: Callable,
        batch: Sequence[int] = (),
        vmap: Batching = "loop",
        aliases: Aliases | None = None,
        partial: bool = False,
        alone: Callable[..., str] | None = None,
    ):
        self.name, self.meaning, self.partial = name, meaning, partial
        self._alone = alone or (lambda **attributes: "")
        self._batch, self._vmap = frozenset(batch), vmap
        self._aliases: Aliases = aliases or (lambda count, **attributes: ())
        self._gradient: Callable | None = None
        self._forward: Callable | None = None
        self._primitive = Primitive(f"mps_{name}")
        self._primitive.multiple_results = True
        self._primitive.def_abstract_eval(self._abstract)
        self._primitive.def_impl(self._run_eagerly)
        mlir.register_lowering(self._primitive, self._lower_to_jax)
        mlir.register_lowering(self._primitive, self._lower_to_device, platform="cpu")
        batching.primitive_batchers[self._primitive] = self._batch_rule
        if partial:
            leave_out_unread(self._primitive, self.reduced)
        differentiate_by(self._primitive, self._forward_pass)
        transpose_as(self._primitive, self._code)
        OPS[self._primitive.name] = self

    def __call__(self, *operands: Any, **attributes: Any) -> Any:
        """Applies the op; gives an array, or a tuple of them as the meaning does."""
        results = self._primitive.bind(*vary_together(operands), **attributes)
        return results[0] if len(results) == 1 else tuple(results)

    def gradient(self, rule: Callable) -> Callable:
        """Sets `rule(residuals, cotangents, **attributes)` -> a cotangent or None for each operand.

        The residuals are `(operands, results)` unless a forward rule says otherwise.
        """
        self._gradient = rule
        return rule

    def forward(self, rule: Callable) -> Callable:
        """Sets `rule(*operands, **attributes)` -> (results, residuals), run in place of the op when differentiated."""
        self._forward = rule
        return rule

    def program(self, operands: Sequence[Any], results: Sequence[Any], attributes: dict[str, Any]) -> Program:
        """The program of this op alone; TypeError where programs lack a dtype."""
        return Program.of_op(self.name, operands, results, attributes)

    def aliases(self, count: int, attributes: Mapping[str, Any]) -> Sequence[tuple[int, int]]:
        """The (operand, result) pairs, of `count` operands, that may share memory where their types agree."""
        return self._aliases(count, **attributes)

    def reduced(self, read: Sequence[bool], attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes with which a partial op gives only those of its results that are read."""
        before = attributes.get("wanted") or (True,) * len(read)
        flags = iter(read)
        return {**attributes, "wanted": tuple(wanted and next(flags) for wanted in before)}

    def placement(self, operands: Sequence[Any], results: Sequence[Any], attributes: dict[str, Any]) -> tuple[str, str]:
        """The text of the program that the device runs, or "", and its implementation's name or the reason why not."""
        if device() == "reference":
            return "", "the device is 'reference'"
        try:
            text = ffi.text_for(device(), self.program(operands, results, attributes).text())
            return text, ffi.implementations(text)[0]
        except (TypeError, ValueError) as reason:
            return "", str(reason)

    def placement_alone(self, operands: Sequence[Any], results: Sequence[Any], attributes: Any) -> tuple[str, str]:
        """The same of the op where no graph is around it."""
        reason = self._alone(**attributes) if device() == "cpu" else ""
        return ("", reason) if reason else self.placement(operands, results, attributes)

    # From here on: what JAX calls.

    def _code(self, **attributes: Any) -> Callable[..., Arrays]:
        return functools.partial(self._results, **attributes)

    def _results(self, *operands: Any, wanted: Sequence[bool] | None = None, **attributes: Any) -> Arrays:
        results = self.meaning(*operands, **attributes)
        results = results if isinstance(results, tuple) else (results,)
        return results if wanted is None else tuple(itertools.compress(results, wanted))

    def _abstract(self, *avals: Any, **attributes: Any) -> list[Any]:
        types = tuple((a.shape, a.dtype) for a in avals)
        shapes = _result_types(self._results, types, tuple(sorted(attributes.items())))
        return [result_aval(shape, dtype, avals) for shape, dtype in shapes]

    def _run_eagerly(self, *operands: Any, **attributes: Any) -> Any:
        return run_eagerly(_jitted(self._primitive, tuple(sorted(attributes.items()))), operands, self._primitive.name)

    def _lower_to_jax(self, ctx: mlir.LoweringRuleContext, *operands: Any, **attributes: Any) -> Any:
        return lower_with_jax(ctx, self._results, operands, attributes)

    def _lower_to_device(self, ctx: mlir.LoweringRuleContext, *operands: Any, **attributes: Any) -> Any:
        text, _ = self.placement_alone(ctx.avals_in, ctx.avals_out, attributes)
        if not text:
            return self._lower_to_jax(ctx, *operands, **attributes)
        return ffi.lower(ctx, text, operands, self.aliases(len(operands), attributes))

    def _forward_pass(
        self, operands: Arrays, which: tuple[bool, ...], attributes: dict[str, Any]
    ) -> tuple[list[Any], list[Any], Pullback]:
        wanted = attributes.pop("wanted", None)
        if self._forward is not None:
            results, residuals = self._forward(*operands, **attributes)
            results = results if isinstance(results, tuple) else (results,)
        else:
            results = self._primitive.bind(*operands, **attributes)
            residuals = (operands, tuple(results))
        leaves, tree = jax.tree.flatten(residuals)
        types = tuple(tangent_aval(y) for y in results)
        wanted = (True,) * len(types) if wanted is None else tuple(wanted)
        pull = _OpPullback(self, tuple(sorted(attributes.items())), tree, which, types, wanted)
        return list(itertools.compress(results, wanted)), leaves, pull

    def _pull(self, residuals: Any, cotangents: Arrays, attributes: dict[str, Any]) -> Arrays:
        if self._gradient is not None:
            return tuple(self._gradient(residuals, cotangents, **attributes))
        operands, _ = residuals
        return self.meaning_vjp(operands, cotangents, **attributes)

    def meaning_vjp(self, operands: Arrays, cotangents: Arrays, **attributes: Any) -> Arrays:
        """JAX's own gradient of the meaning; None for operands that are not floating."""
        floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in operands]

        def of_floating(*some: Any) -> Arrays:
            rest = iter(some)
            return self._results(
                *(next(rest) if f else x for f, x in zip(floating, operands, strict=True)), **attributes
            )

        _, pull = jax.vjp(of_floating, *(x for f, x in zip(floating, operands, strict=True) if f))
        gradients = iter(pull(cotangents))
        return tuple(next(gradients) if f else None for f in floating)

    def _batch_rule(self, operands: Arrays, dims: Sequence[Any], **attributes: Any) -> tuple[list[Any], list[int]]:
        size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
        batched = [d is not None for d in dims]
        front = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True)]
        if self._vmap == "loop" or any(b and i not in self._batch for i, b in enumerate(batched)):
            results = self._loop(front, batched, attributes)
            return results, [0] * len(results)
        for i in self._batch:
            if i < len(front) and not batched[i]:
                front[i] = jnp.broadcast_to(front[i], (size, *front[i].shape))
        if self._vmap == "prepend":
            results = self._primitive.bind(*front, **attributes)
            return results, [0] * len(results)
        count = front[min(self._batch)].shape[1]
        merged = [x.reshape(size * count, *x.shape[2:]) if i in self._batch else x for i, x in enumerate(front)]
        results = self._primitive.bind(*merged, **attributes)
        return [y.reshape(size, count, *y.shape[1:]) for y in results], [0] * len(results)

    def _loop(self, front: Sequence[Any], batched: Sequence[bool], attributes: dict[str, Any]) -> list[Any]:
        def one(mapped: Sequence[Any]) -> Any:
            rest = iter(mapped)
            operands = vary_together(tuple(next(rest) if b else x for b, x in zip(batched, front, strict=True)))
            return self._primitive.bind(*operands, **attributes)

        return list(jax.lax.map(one, [x for b, x in zip(batched, front, strict=True) if b]))


@dataclass(frozen=True)
class _OpPullback:
    """The cotangents of an op's operands that have a tangent, from those of its wanted results."""

    op: Op
    attributes: Attributes
    residuals: Any  # their tree
    which: tuple[bool, ...]  # of the operands have a tangent
    types: tuple[Any, ...]  # of the cotangents of all results, float0 for integers
    wanted: tuple[bool, ...]  # of the results

    def __call__(self, residuals: list[Any], cotangents: list[Any]) -> list[Any]:
        given = iter(cotangents)
        every = tuple(
            np.zeros(t.shape, t.dtype)
            if t.dtype == jax.dtypes.float0
            else (next(given) if wanted else jnp.zeros(t.shape, t.dtype))
            for t, wanted in zip(self.types, self.wanted, strict=True)
        )
        found = self.op._pull(jax.tree.unflatten(self.residuals, residuals), every, dict(self.attributes))
        return list(itertools.compress(found, self.which))


def op(
    name: str,
    batch: Sequence[int] = (),
    vmap: Batching = "loop",
    aliases: Aliases | None = None,
    partial: bool = False,
    alone: Callable[..., str] | None = None,
) -> Callable[[Callable], Op]:
    """Makes an `Op` of the meaning that it decorates."""
    return lambda meaning: Op(name, meaning, batch, vmap, aliases, partial, alone)


@functools.lru_cache(maxsize=4096)
def _result_types(results: Callable, types: Sequence[Any], attributes: Attributes) -> list[tuple[Any, Any]]:
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
    return [(y.shape, y.dtype) for y in jax.eval_shape(functools.partial(results, **dict(attributes)), *structs)]


@functools.lru_cache(maxsize=4096)
def _jitted(primitive: Primitive, attributes: Attributes) -> Callable:
    return jax.jit(functools.partial(primitive.bind, **dict(attributes)))
