"""How the library's primitives are differentiated: by a rule for cotangents, in every mode and to any order.

JAX asks a primitive for tangents. A *pullback* is the other direction: from what the forward pass keeps, it gives the
cotangents of the operands from those of the results. The primitive `mps_linear` is the linear map that it transposes::

    jvp         y, dy = f(x), mps_linear(residuals, dx)
    transpose   dx = pull(residuals, dy)

Reverse mode never runs it; forward mode evaluates it by transposing the pullback. Under vmap all of its results have
the batch, so that what the batch shares gets the sum of its cotangents once. (`jax.custom_vjp` gives it that sum once
an example in JAX 0.10, and raises in JAX 0.12.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jax_mps._compat import (
    Primitive,
    ad,
    batched_aval,
    batching,
    is_array_type,
    mlir,
    tangent_aval,
    vmapped,
    weakly_cached,
)

# pull(residuals, cotangents of the floating results) -> a cotangent, None for zero, of each operand that has a tangent.
Pullback = Callable[[list[Any], list[Any]], Sequence[Any]]
# forward(operands, which of them have a tangent, parameters) -> results, residuals, pullback; or, where there is no
# pullback, a function of the operands that JAX differentiates.
Passed = tuple[list[Any], list[Any], Pullback]
Forward = Callable[[tuple[Any, ...], tuple[bool, ...], dict[str, Any]], Passed | Callable[..., Sequence[Any]]]

_linear, _together = Primitive("mps_linear"), Primitive("mps_together")
_linear.multiple_results = _together.multiple_results = True


def differentiate_by(primitive: Primitive, forward: Forward) -> None:
    """Gives a primitive of several results its derivative."""

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...], **params: Any) -> tuple[list[Any], list[Any]]:
        return _tangents(forward, primals, tangents, params, ad.Zero)

    ad.primitive_jvps[primitive] = rule


def differentiable_by(function: Callable[..., Sequence[Any]], forward: Forward) -> Callable[..., Sequence[Any]]:
    """`function`, which JAX looks into where it is called, with a derivative of its own."""

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        return _tangents(forward, primals, tangents, {}, SymbolicZero)

    differentiated = jax.custom_jvp(function)
    differentiated.defjvp(rule, symbolic_zeros=True)
    return differentiated


def _tangents(
    forward: Forward, primals: tuple[Any, ...], tangents: tuple[Any, ...], params: dict[str, Any], zero: type
) -> tuple[list[Any], list[Any]]:
    """The results and their tangents; `zero` is the class of tangents that are zero."""
    which = tuple(not isinstance(t, zero) for t in tangents)
    passed = forward(primals, which, params)
    if callable(passed):
        return _jvp(passed, primals, tangents, zero)
    results, residuals, pull = passed
    moving = [t for t, w in zip(tangents, which, strict=True) if w]
    types = [tangent_aval(y) for y in results]
    floating = tuple(t for t in types if _moves(t))
    moved = iter(_linear.bind(*residuals, *moving, pull=pull, count=len(residuals), types=floating))
    return results, [next(moved) if _moves(t) else zero(t) for t in types]


def _moves(tangent: Any) -> bool:
    """Whether a type of tangents has more than zero; that of integers, tokens and references has not."""
    return is_array_type(tangent) and tangent.dtype != jax.dtypes.float0


def differentiate_as(primitive: Primitive, function: Callable[..., Callable[..., Sequence[Any]]]) -> None:
    """Gives a primitive the derivative of `function(**parameters)`, JAX code of its operands that means the same."""

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...], **params: Any) -> tuple[list[Any], list[Any]]:
        return _jvp(function(**params), primals, tangents)

    ad.primitive_jvps[primitive] = rule


def transpose_as(primitive: Primitive, function: Callable[..., Callable[..., Sequence[Any]]]) -> None:
    """Lets a primitive be transposed as `function(**parameters)`, JAX code that is linear in some operands."""

    def rule(cotangents: Sequence[Any], *operands: Any, **params: Any) -> list[Any]:
        unknown = [ad.is_undefined_primal(x) for x in operands]
        of_unknown = of_some(function(**params), operands, unknown)
        types = [x.aval for x in operands if ad.is_undefined_primal(x)]
        found = iter(jax.linear_transpose(of_unknown, *types)([ad.instantiate_zeros(c) for c in cotangents]))
        return [next(found) if u else None for u in unknown]

    ad.primitive_transposes[primitive] = rule


def of_some(
    function: Callable[..., Sequence[Any]], operands: Sequence[Any], some: Sequence[bool]
) -> Callable[..., list[Any]]:
    """`function` of some of its operands; the others are as in `operands`."""

    def run(*values: Any) -> list[Any]:
        rest = iter(values)
        return list(function(*(next(rest) if s else x for s, x in zip(some, operands, strict=True))))

    return run


def _jvp(
    function: Callable[..., Sequence[Any]], primals: Any, tangents: Any, zero: type = ad.Zero
) -> tuple[list[Any], list[Any]]:
    which = [not isinstance(t, zero) for t in tangents]
    moving = [(p, t) for p, t, w in zip(primals, tangents, which, strict=True) if w]
    xs, dxs = zip(*moving, strict=True)
    results, moved = jax.jvp(of_some(function, primals, which), xs, dxs)
    pairs = zip(results, moved, strict=True)
    return results, [zero(tangent_aval(y)) if t.dtype == jax.dtypes.float0 else t for y, t in pairs]


@weakly_cached
@dataclass(frozen=True)
class _Mapped:
    """A pullback under vmap: cotangents have the batch in front, residuals and tangents where the axes say."""

    pull: Pullback
    residual_axes: tuple[int | None, ...]
    tangent_axes: tuple[int | None, ...]
    batch: Any  # what JAX tells of the mapped axis

    def __call__(self, residuals: list[Any], cotangents: list[Any]) -> list[Any]:
        axes = (list(self.residual_axes), [0] * len(cotangents))
        found = vmapped(lambda r, c: list(self.pull(r, c)), axes, self.batch)(residuals, cotangents)
        return [
            None if x is None else (jnp.sum(x, 0) if axis is None else jnp.moveaxis(x, 0, axis))
            for x, axis in zip(found, self.tangent_axes, strict=True)
        ]


def _evaluate(*operands: Any, pull: Pullback, count: int, types: Sequence[Any]) -> list[Any]:
    residuals, tangents = list(operands[:count]), list(operands[count:])

    def transposed(*cotangents: Any) -> list[Any]:
        found = pull(residuals, list(cotangents))
        return [jnp.zeros_like(t) if x is None else x for x, t in zip(found, tangents, strict=True)]

    return list(jax.linear_transpose(transposed, *types)(tangents))


def _transpose(cotangents: Sequence[Any], *operands: Any, pull: Pullback, count: int, types: Sequence[Any]) -> Any:
    residuals = list(operands[:count])
    if any(map(ad.is_undefined_primal, residuals)):
        raise ValueError("mps_linear: only the tangents are linear, but the transpose of a residual was asked for.")
    found = pull(residuals, [ad.instantiate_zeros(c) for c in cotangents])
    return [None] * count + [
        x if ad.is_undefined_primal(o) else None for x, o in zip(found, operands[count:], strict=True)
    ]


def _batch(batch: Any, operands: Any, axes: Any, *, pull: Pullback, count: int, types: Sequence[Any]) -> Any:
    if all(a is None for a in axes):
        return _linear.bind(*operands, pull=pull, count=count, types=types), [None] * len(types)
    mapped = _Mapped(pull, tuple(axes[:count]), tuple(axes[count:]), batch)
    batched = tuple(batched_aval(batch, t) for t in types)
    return _linear.bind(*operands, pull=mapped, count=count, types=batched), [0] * len(types)


def with_the_batch_of(inputs: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    """The results, which under vmap have the batch if one of the inputs has it."""
    return list(_together.bind(*results, *inputs, count=len(results)))


def _batch_together(batch: Any, operands: Any, axes: Any, *, count: int) -> Any:
    if all(a is None for a in axes):
        return _together.bind(*operands, count=count), [None] * count
    pairs = zip(operands[:count], axes[:count], strict=True)
    spread = [
        jnp.broadcast_to(x, (batch.size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs
    ]
    return spread, [0] * count


def linear_jaxpr(equation: Any) -> Any:
    """What an equation of `mps_linear` evaluates, as a jaxpr."""
    return jax.make_jaxpr(functools.partial(_evaluate, **equation.params))(*(v.aval for v in equation.invars))


_linear.def_impl(_evaluate)
_linear.def_abstract_eval(lambda *avals, pull, count, types: list(types))
mlir.register_lowering(_linear, mlir.lower_fun(_evaluate, multiple_results=True))
batching.fancy_primitive_batchers[_linear] = _batch
differentiate_as(_linear, lambda **params: functools.partial(_evaluate, **params))
ad.primitive_transposes[_linear] = _transpose

_together.def_impl(lambda *operands, count: list(operands[:count]))
_together.def_abstract_eval(lambda *avals, count: list(avals[:count]))
mlir.register_lowering(
    _together, mlir.lower_fun(lambda *operands, count: list(operands[:count]), multiple_results=True)
)
batching.fancy_primitive_batchers[_together] = _batch_together
