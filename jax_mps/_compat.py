"""JAX names that are private or still moving. Tested with JAX 0.10.2 to 0.12.0."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
from jax._src import api_util, config, core, pjit
from jax._src.core import Token, is_concrete
from jax._src.effects import custom_derivatives_allowed_effects
from jax._src.interpreters.partial_eval import DynamicJaxprTrace
from jax._src.lax.lax import _convert_element_type
from jax._src.state.types import RefEffect
from jax._src.util import weakref_cache_key_types, weakref_lru_cache
from jax.extend.core import ClosedJaxpr, Literal, Primitive, jaxprs_in_params
from jax.interpreters import ad, batching, mlir, partial_eval
from jax.sharding import NamedSharding, PartitionSpec

__all__ = [
    "Literal",
    "Primitive",
    "Token",
    "across_devices",
    "ad",
    "batched_aval",
    "batching",
    "cached_by_jaxpr",
    "checked_numbers",
    "checks_refuse",
    "compile_what_it_gives",
    "has_sizes",
    "has_types_of_its_own",
    "is_array_type",
    "is_concrete",
    "is_staging",
    "jaxprs_in_params",
    "jit_is_disabled",
    "known_among_results",
    "leave_out_unread",
    "leave_out_unread_of_call",
    "lower_with_jax",
    "matmul_precision",
    "mlir",
    "named",
    "names_of",
    "of_references",
    "places_devices",
    "result_aval",
    "scan_counts",
    "scan_params",
    "set_in_this_thread",
    "static_arguments",
    "tangent_aval",
    "trace_context",
    "vary_together",
    "varying_axes",
    "vmapped",
    "weakly_cached",
    "with_names_of",
    "with_weak_type",
    "without_unread",
]


def _varying(x: Any) -> frozenset[str]:
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def vary_together(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Promotes operands inside `shard_map` to vary over the union of their mesh axes.

    It must happen before a custom_vjp: the transpose of the promotion supplies the psum of a replicated operand's
    gradient.
    """
    union = frozenset[str]().union(*map(_varying, operands))
    if not union:
        return operands

    def promote(x: Any) -> Any:
        missing = tuple(sorted(union - _varying(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return tuple(map(promote, operands))


def varying_axes(avals: Sequence[Any]) -> frozenset[str]:
    """The mesh axes that any of these abstract values varies over."""
    return frozenset[str]().union(*(a.manual_axis_type.varying for a in avals))


def result_aval(
    shape: tuple[int, ...], dtype: Any, operand_avals: tuple[Any, ...], varying: frozenset[str] | None = None
) -> core.ShapedArray:
    """The abstract value of a result: it varies over `varying`, or every mesh axis that an operand varies over."""
    varying = varying_axes(operand_avals) if varying is None else varying
    if not varying:
        return core.ShapedArray(shape, dtype)
    first = next(a for a in operand_avals if a.manual_axis_type.varying)  # others may be on no mesh
    return first.update(
        shape,
        dtype,
        weak_type=False,
        sharding=NamedSharding(first.sharding.mesh, PartitionSpec(*(None,) * len(shape))),
        manual_axis_type=first.manual_axis_type.update(varying=varying),
    )


def names_of(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The names of a function and of its arguments, for the errors of a trace."""
    return api_util.debug_info("mps.graph", function, args, kwargs)


def named(function: Callable[..., Any], names: Any) -> Callable[..., Any]:
    """`function`, which errors of its trace call by these names."""
    api_util.save_wrapped_fun_debug_info(function, names)
    return function


def static_arguments(function: Any) -> tuple[Collection[int], Collection[str]]:
    """The places and the names of the arguments that a function of `jax.jit` does not trace."""
    information = getattr(function, "_jit_info", None)
    return (information.static_argnums, information.static_argnames) if information else ((), ())


def is_array_type(aval: Any) -> bool:
    """Whether an abstract value is an array's: tokens and mutable references are none."""
    return isinstance(aval, core.ShapedArray)


def has_sizes(aval: Any) -> bool:
    """Whether all sizes of an abstract value are known: those of an exported function may be symbols."""
    return not is_array_type(aval) or all(isinstance(size, int) for size in aval.shape)


def jit_is_disabled() -> bool:
    """Whether `jax.disable_jit` is on."""
    return bool(config.disable_jit.value)


def is_staging() -> bool:
    """Whether what is called now is being traced for a program, as in `jax.jit`, and does not run."""
    trace: Any = core.trace_ctx.trace
    while not isinstance(trace, DynamicJaxprTrace):
        if not hasattr(trace, "parent_trace"):
            return False
        trace = trace.parent_trace  # of a derivative or of vmap
    return True


def checks_refuse(effects: Any) -> bool:
    """Whether `jax.enable_checks` is on and refuses a `jax.custom_vjp` of a function with these effects."""
    return bool(config.enable_checks.value and custom_derivatives_allowed_effects.filter_not_in(effects))


def has_types_of_its_own(closed: ClosedJaxpr) -> bool:
    """Whether a trace has values of types that JAX takes apart when it lowers them, such as boxes."""
    return bool(closed.jaxpr.is_high)


def of_references(effects: Any) -> bool:
    """Whether any of these effects is one on a mutable reference."""
    return any(isinstance(e, RefEffect | core.InternalMutableArrayEffect) for e in effects)


def across_devices(params: dict[str, Any], avals: Any) -> bool:
    """Whether an equation with these parameters and results works along named axes of a mesh or of vmap."""
    names = (*jax.tree.leaves(params.get("axes", ())), *jax.tree.leaves(params.get("axis_name", ())))
    return any(isinstance(n, str) for n in names) or any(a.manual_axis_type.varying for a in avals if is_array_type(a))


def places_devices(jaxpr: Any) -> bool:
    """Whether a jaxpr, or one in it, says on which devices something is."""
    return any(_places(e) or any(map(places_devices, jaxprs_in_params(e.params))) for e in jaxpr.eqns)


def _places(equation: Any) -> bool:
    if equation.primitive.name == "device_put":  # without a device it is a copy, if anything
        return any(place is not None for place in (*equation.params["devices"], *equation.params["srcs"]))
    return equation.primitive.name in ("shard_map", "sharding_constraint", "reshard", "mesh_cast")


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many operands of a scan with these parameters are constants, and how many its carry."""
    if "ft_in" in params:  # since JAX 0.12
        consts, carry, _ = map(len, params["ft_in"].unpack())
        return consts, carry
    return params["num_consts"], params["num_carry"]


def scan_params(params: dict[str, Any], body: Any, more: int) -> dict[str, Any]:
    """The parameters of a scan with another body, whose first `more` operands are constants beside those before."""
    if "ft_in" in params:
        from jax._src import flattree  # type: ignore[attr-defined, unused-ignore]  # not in older JAX

        consts, *rest = params["ft_in"].unpack()
        return {**params, "jaxpr": body, "ft_in": flattree.pack(((flattree.nones(more), consts), *rest))}
    return {**params, "jaxpr": body, "num_consts": params["num_consts"] + more}


def leave_out_unread(primitive: Primitive, reduced: Callable[[Sequence[bool], Mapping[str, Any]], Any]) -> None:
    """Has JAX, where it drops dead code, leave out the unread results of a primitive without effects.

    `reduced(read, parameters)` gives the parameters with which the primitive has only the results that are read.
    """

    def rule(read: Any, *live_and_equation: Any) -> tuple[list[bool], Any]:
        equation = live_and_equation[-1]  # JAX 0.12 has something before it
        count = len(equation.invars)
        if not any(read):
            return [False] * count, None
        if all(read):
            return [True] * count, equation
        results = list(itertools.compress(equation.outvars, read))
        return [True] * count, equation.replace(outvars=results, params=reduced(read, equation.params))

    partial_eval.dce_rules[primitive] = rule


def leave_out_unread_of_call(primitive: Primitive, reduced: Callable[[Any, tuple[bool, ...]], Any]) -> None:
    """The same for a primitive that is a call: `reduced(parameters, read)` also says which operands are left."""

    def rule(read: Any, *live_and_equation: Any) -> tuple[list[bool], Any]:
        equation = live_and_equation[-1]
        if not any(read):
            return [False] * len(equation.invars), None
        params, kept = reduced(equation.params, tuple(read))
        operands = list(itertools.compress(equation.invars, kept))
        results = list(itertools.compress(equation.outvars, read))
        return list(kept), equation.replace(invars=operands, outvars=results, params=params)

    partial_eval.dce_rules[primitive] = rule


def without_unread(closed: ClosedJaxpr, read: Sequence[bool]) -> tuple[ClosedJaxpr, tuple[bool, ...]]:
    """The jaxpr of the results that are read, without what nothing of it reads; and which operands are left."""
    inner, used, kept = partial_eval.dce_jaxpr_consts(closed.jaxpr, list(read))
    constants = list(itertools.compress(closed.consts, used))
    return ClosedJaxpr(inner, constants), tuple(kept)


def known_among_results(closed: ClosedJaxpr) -> list[int | None]:
    """Of each result of a jaxpr, which of its operands and, after them, constants it is, or None."""
    places = {v: i for i, v in enumerate((*closed.jaxpr.invars, *closed.jaxpr.constvars))}
    return [None if isinstance(v, Literal) else places.get(v) for v in closed.jaxpr.outvars]


def weakly_cached(cls: type) -> type:
    """A class whose objects, as parameters of a primitive, are not kept alive by JAX's caches of types."""
    weakref_cache_key_types.add(cls)
    return cls


def tangent_aval(x: Any) -> Any:
    """The abstract value of a tangent of `x`; of dtype float0 where it has none."""
    return jax.typeof(x).to_tangent_aval()


def batched_aval(batch: Any, aval: Any) -> Any:
    """An abstract value with a batch in front; `batch` is what JAX tells a batching rule of the mapped axis."""
    return core.unmapped_aval(batch.size, 0, aval, batch.explicit_mesh_axis)


def vmapped(function: Callable[..., Any], axes: Any, batch: Any, out_axes: Any = 0) -> Callable[..., Any]:
    """`function` mapped over the axis that JAX tells a batching rule of, so that what names the axis finds it."""
    name = None if batch.name is core.no_axis_name else batch.name
    return jax.vmap(function, axes, out_axes, axis_name=name, axis_size=batch.size, spmd_axis_name=batch.spmd_name)


def matmul_precision() -> str | None:
    """The name that `jax.default_matmul_precision` sets, or None."""
    return config.default_matmul_precision.value


def trace_context() -> Any:
    """All of JAX's configuration that a trace depends on, hashable."""
    return config.trace_context()


def checked_numbers() -> list[str]:
    """What `jax.debug_nans` and `jax.debug_infs` look for now: "nan", "inf"."""
    return ["nan"] * config.debug_nans.value + ["inf"] * config.debug_infs.value


def lower_with_jax(ctx: Any, function: Any, operands: Any, attributes: dict[str, Any]) -> Any:
    """Lowers the JAX `function` (operands -> tuple of results) in place of a primitive."""
    return mlir.lower_fun(function, multiple_results=True)(ctx, *operands, **attributes)


def with_weak_type(x: Any, aval: core.ShapedArray) -> Any:
    """`x` as a traced function's result of type `aval`: an array of its dtype, weak where the trace was weak."""
    if (
        not is_array_type(aval)
        or jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended)
        or (isinstance(x, jax.Array) and jax.typeof(x).weak_type == aval.weak_type)
    ):
        return x
    return _convert_element_type(x, aval.dtype, weak_type=aval.weak_type)


_COMPILES = "_pjit_call_impl_python"  # of `pjit`: compiles and runs a call of a jitted function that JAX has not cached
_Replace = Callable[[ClosedJaxpr, tuple[Any, ...], Mapping[str, Any]], ClosedJaxpr]


def compile_what_it_gives(replace: _Replace) -> None:
    """Has JAX compile `replace(jaxpr, arguments, parameters)` where it calls a jitted function outside of a trace.

    Parameters are those of jit's primitive. What is lowered ahead of time or exported stays as it was. JAX's caches
    know nothing of it: what the replacement depends on must be in the keys of jit.

    Raises:
        RuntimeError: if this JAX does not have the function that does so.
    """
    before = getattr(pjit, _COMPILES, None)
    if getattr(before, "replaces", None) is replace:
        return
    needed = {"jaxpr", "name", "in_shardings", "out_shardings", "ctx_mesh"}
    if before is None or not needed <= inspect.signature(before).parameters.keys():
        raise RuntimeError(
            f"accelerate: jax._src.pjit.{_COMPILES} must take {', '.join(sorted(needed))}, as in JAX 0.10.2 to 0.12.0, "
            f"but JAX {jax.__version__} has no such function. Use mps.graph: jax.jit(mps.graph(step))."
        )

    @functools.wraps(before)
    def compile_and_run(*args: Any, jaxpr: ClosedJaxpr, **params: Any) -> Any:
        return before(*args, jaxpr=replace(jaxpr, args, params), **params)

    compile_and_run.replaces = replace  # type: ignore[attr-defined]
    setattr(pjit, _COMPILES, compile_and_run)


def cached_by_jaxpr(function: Callable[[ClosedJaxpr], Any]) -> Callable[[ClosedJaxpr], Any]:
    """A function of a jaxpr that remembers its results as long as their jaxprs live, for each trace context."""
    return weakref_lru_cache(function)


def with_names_of(other: ClosedJaxpr, closed: ClosedJaxpr) -> ClosedJaxpr:
    """`closed` with the names of the arguments and results of another jaxpr."""
    return ClosedJaxpr(closed.jaxpr.replace(debug_info=other.jaxpr.debug_info), closed.consts)


def set_in_this_thread(context: Any, value: Any) -> Callable[[], None]:
    """Sets a context of `jax.make_user_context` for the thread; gives what sets it back."""
    before = context._obj.swap_local(value)
    return lambda: context._obj.set_local(before)
