"""JAX names that are private or still moving. Tested with JAX 0.10.2, the oldest and the newest so far."""

from __future__ import annotations

from typing import Any

import jax
from jax import core
from jax.extend.core import Literal, Primitive, jaxprs_in_params
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

__all__ = [
    "Literal",
    "Primitive",
    "batching",
    "jaxprs_in_params",
    "lower_with_jax",
    "mlir",
    "result_aval",
    "vary_together",
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


def result_aval(shape: tuple[int, ...], dtype: Any, operand_avals: tuple[Any, ...]) -> core.ShapedArray:
    """The abstract value of a result: it varies over every mesh axis that an operand varies over."""
    first = operand_avals[0]
    varying = frozenset[str]().union(*(a.manual_axis_type.varying for a in operand_avals))
    if not varying:
        return core.ShapedArray(shape, dtype)
    return first.update(
        shape,
        dtype,
        weak_type=False,
        sharding=NamedSharding(first.sharding.mesh, PartitionSpec(*(None,) * len(shape))),
        manual_axis_type=first.manual_axis_type.update(varying=varying),
    )


def lower_with_jax(ctx: Any, function: Any, operands: Any, attributes: dict[str, Any]) -> Any:
    """Lowers the JAX `function` (operands -> tuple of results) in place of a primitive."""
    return mlir.lower_fun(function, multiple_results=True)(ctx, *operands, **attributes)
