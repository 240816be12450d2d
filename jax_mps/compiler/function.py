"""A traced function as one JAX primitive: compiled where it runs, differentiated first and graphed after.

Its derivative is two graphed functions, the forward pass with what it keeps and the pullback. Under vmap, and where a
linear function is transposed, it is what it was before it was graphed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jax_mps._compat import (
    Literal,
    Primitive,
    batching,
    checks_refuse,
    has_types_of_its_own,
    is_array_type,
    jaxprs_in_params,
    leave_out_unread_of_call,
    mlir,
    of_references,
    places_devices,
    tangent_aval,
    vmapped,
    weakly_cached,
    without_unread,
)
from jax_mps.compiler.compiled import Graphed, compile_jaxpr
from jax_mps.compiler.differentiable import differentiable
from jax_mps.compiler.pipeline import Options
from jax_mps.derivatives import Passed, differentiable_by, differentiate_by, of_some, transpose_as, with_the_batch_of

NAME = "mps_graph"
Grapher = Callable[[Callable[..., Any]], Callable[..., Any]]

_primitive = Primitive(NAME)
_primitive.multiple_results = True


@weakly_cached
class Function:
    """A function of arrays by its trace; `grapher` graphs what becomes of it."""

    def __init__(self, closed: ClosedJaxpr, options: Options, grapher: Grapher) -> None:
        self.closed, self._options, self._grapher = closed, options, grapher
        self._reduced: dict[tuple[bool, ...], tuple[Function, tuple[bool, ...]]] = {}
        self._forward: dict[tuple[bool, ...], Callable[..., Any]] = {}
        self._with_gradient: dict[tuple[bool, ...], bool] = {}
        self._pull: Callable[..., Any] | None = None

    def __call__(self, *operands: Any) -> list[Any]:
        """Runs it. One with effects, or with devices of its own, is a call that JAX looks into.

        With values of types of its own, or where JAX's checks refuse its effects, the function runs as it was.
        """
        if has_types_of_its_own(self.closed) or checks_refuse(self.closed.effects):
            return list(self.original(*operands))
        if self._is_open:
            return list(self._open(*operands))
        if not self.closed.out_avals:
            return []
        return list(_primitive.bind(*operands, function=self))

    @functools.cached_property
    def _is_open(self) -> bool:
        return bool(self.closed.effects) or places_devices(self.closed.jaxpr)

    @functools.cached_property
    def compiled(self) -> Graphed:
        """As regions and islands."""
        return compile_jaxpr(self.closed, self._options)

    @functools.cached_property
    def _open(self) -> Callable[..., Sequence[Any]]:
        """The function by `jax.custom_jvp`; by `jax.custom_vjp` with mutable references and tokens: no tangents."""
        arrays = [is_array_type(a) for a in self.closed.in_avals]
        if all(arrays) and not of_references(self.closed.effects):
            return differentiable_by(
                lambda *operands: self.compiled(*operands), lambda xs, which, _: self.pass_forward(xs, which)
            )
        results = [is_array_type(a) for a in self.closed.out_avals]
        closed = self.closed

        def run(*operands: Any) -> list[Any]:
            found = self.compiled(*operands)
            inputs = itertools.compress(operands, arrays)
            mapped = iter(with_the_batch_of(list(inputs), list(itertools.compress(found, results))))
            return [next(mapped) if r else y for r, y in zip(results, found, strict=True)]

        def forward(*operands: Any) -> Any:
            of_arrays = of_some(differentiable(closed), operands, arrays)
            return jax.vjp(of_arrays, *itertools.compress(operands, arrays))

        def backward(pull: Any, cotangents: Any) -> Any:
            rest = iter(pull(cotangents))
            return tuple(next(rest) if a else None for a in arrays)

        function = jax.custom_vjp(run)
        function.defvjp(self._grapher(forward), self._grapher(backward))
        return function

    @functools.cached_property
    def jaxpr(self) -> ClosedJaxpr:
        """What runs, with native calls in it."""
        return jax.make_jaxpr(self.compiled)(*self.closed.in_avals)

    def __repr__(self) -> str:
        return str(self.jaxpr)

    @property
    def original(self) -> Callable[..., Sequence[Any]]:
        """The function as it was."""
        return jaxpr_as_fun(self.closed)

    def reduced(self, read: tuple[bool, ...]) -> tuple[Function, tuple[bool, ...]]:
        """The function of the results that are read, and which operands it has."""
        if read not in self._reduced:
            inner, kept = without_unread(self.closed, read)
            self._reduced[read] = Function(inner, self._options, self._grapher), kept
        return self._reduced[read]

    def reached(self, flags: Sequence[bool]) -> list[bool]:
        """Which results depend on the operands whose flags are set."""
        jaxpr = self.closed.jaxpr
        found = {v for v, flag in zip(jaxpr.invars, flags, strict=True) if flag}
        for equation in jaxpr.eqns:
            if any(not isinstance(v, Literal) and v in found for v in equation.invars):
                found.update(equation.outvars)
        return [not isinstance(v, Literal) and v in found for v in jaxpr.outvars]

    def forward(self, which: tuple[bool, ...]) -> Callable[..., Any]:
        """Gives the results, what is kept for the cotangents of some operands, and how they are made of it."""
        if which not in self._forward:
            closed = self.closed
            floating = [is_array_type(a) and jnp.issubdtype(a.dtype, jnp.inexact) for a in closed.out_avals]

            def forward(*operands: Any) -> Any:
                run = of_some(differentiable(closed), operands, which)

                def by_kind(*some: Any) -> tuple[list[Any], list[Any]]:
                    pairs = list(zip(floating, run(*some), strict=True))
                    return [y for f, y in pairs if f], [y for f, y in pairs if not f]

                first, pull, second = jax.vjp(by_kind, *itertools.compress(operands, which), has_aux=True)
                moving, others = iter(first), iter(second)
                return [next(moving if f else others) for f in floating], pull

            self._forward[which] = self._grapher(forward)
        return self._forward[which]

    def pass_forward(self, operands: tuple[Any, ...], which: tuple[bool, ...]) -> Passed | Callable[..., Any]:
        """The results, what is kept for the cotangents of some operands, and what they are made by.

        Of a loop that JAX has no gradient of, only forward mode's: the function as JAX differentiates it.
        """
        if not self._has_gradient(which):
            return differentiable(self.closed)
        results, kept = self.forward(which)(*operands)
        leaves, tree = jax.tree.flatten(kept)

        def pull(residuals: list[Any], cotangents: list[Any]) -> Sequence[Any]:
            return self.pull(jax.tree.unflatten(tree, residuals), cotangents)

        return results, leaves, pull

    def _has_gradient(self, which: tuple[bool, ...]) -> bool:
        """Whether JAX has the gradient for some operands: a `lax.while_loop` of what depends on them has none."""
        if which not in self._with_gradient:
            self._with_gradient[which] = not _carries_floats(self.closed.jaxpr) or self._try_gradient(which)
        return self._with_gradient[which]

    def _try_gradient(self, which: tuple[bool, ...]) -> bool:
        def gradient(*operands: Any) -> Any:
            run = of_some(self.original, operands, which)
            results, pull = jax.vjp(run, *itertools.compress(operands, which))
            return pull([jnp.ones(y.shape, tangent_aval(y).dtype) for y in results])

        try:
            jax.eval_shape(gradient, *self.closed.in_avals)
        except ValueError:
            return False
        return True

    @property
    def pull(self) -> Callable[..., Any]:
        """Applies what `forward` kept to cotangents."""
        if self._pull is None:
            self._pull = self._grapher(lambda pull, cotangents: pull(cotangents))
        return self._pull


def _carries_floats(jaxpr: Any) -> bool:
    """Whether a jaxpr, or one in it, has a `lax.while_loop` whose carry has floating elements."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            if any(is_array_type(v.aval) and jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in equation.outvars):
                return True
        elif equation.primitive is _primitive:
            if _carries_floats(equation.params["function"].closed.jaxpr):
                return True
        elif any(map(_carries_floats, jaxprs_in_params(equation.params))):
            return True
    return False


def _batch(batch: Any, operands: Any, axes: Any, *, function: Function) -> Any:
    if all(a is None for a in axes):
        return _primitive.bind(*operands, function=function), [None] * len(function.closed.out_avals)
    # A result of nothing mapped stays one: a branch on it must not become a choice between both. Tokens have no batch.
    reached = zip(function.reached([a is not None for a in axes]), function.closed.out_avals, strict=True)
    mapped = [0 if r and is_array_type(t) else None for r, t in reached]
    return vmapped(lambda *xs: list(function.original(*xs)), tuple(axes), batch, mapped)(*operands), mapped


def _reduce(params: dict[str, Any], read: tuple[bool, ...]) -> tuple[dict[str, Any], tuple[bool, ...]]:
    function, kept = params["function"].reduced(read)
    return {"function": function}, kept


_primitive.def_impl(lambda *operands, function: function.compiled(*operands))
_primitive.def_abstract_eval(lambda *avals, function: list(function.closed.out_avals))
mlir.register_lowering(_primitive, mlir.lower_fun(lambda *xs, function: function.compiled(*xs), multiple_results=True))
batching.fancy_primitive_batchers[_primitive] = _batch
differentiate_by(_primitive, lambda operands, which, params: params["function"].pass_forward(operands, which))
transpose_as(_primitive, lambda function: function.original)
leave_out_unread_of_call(_primitive, _reduce)
