"""From equations to nodes: what each lax primitive is in a program.

A rule takes the `Builder` and an equation whose operands are values already, and gives the values of its results. The
nodes are still lax's own ops ("add", "reduce_sum", "broadcast_in_dim"); the passes turn them into what devices run.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jax_mps._compat import is_array_type
from jax_mps._device import device
from jax_mps.compiler.equations.equation import Equation, Variable
from jax_mps.compiler.lower.builder import Builder, NotConvertible, Rule, types_of
from jax_mps.compiler.lower.elementwise import RULES
from jax_mps.compiler.reasons import NO_RULE
from jax_mps.ir.program import Node, Type, Value
from jax_mps.ops._number import sums_in_float64
from jax_mps.primitive import OPS

__all__ = ["Builder", "NotConvertible", "check", "rule_of"]

_MAX_AXES = 12  # of a chain


def rule_of(equation: Equation) -> Rule:
    """The rule of an equation; NotConvertible with the reason where it stays on XLA."""
    for atom in (*equation.operands, *equation.results):
        if not is_array_type(atom.aval):
            raise NotConvertible(f"programs have arrays only, not {atom.aval}")
        try:
            type_ = Type.of(atom.aval)
        except TypeError as reason:
            raise NotConvertible(str(reason)) from None
        if len(type_.shape) > _MAX_AXES:
            raise NotConvertible(f"an array of {len(type_.shape)} axes")
        if 0 in type_.shape:
            raise NotConvertible("an empty array needs no kernel")
    rule = _RULES.get(equation.name)
    if equation.name == "scan" and not hasattr(equation.loop, "body"):
        raise NotConvertible(equation.loop or "a loop of JAX")
    if equation.primitive.name in OPS:
        return _own_op
    if rule is None:
        raise NotConvertible(NO_RULE)
    return rule


def check(equation: Equation) -> None:
    """NotConvertible if an equation by itself is none that the device runs."""
    rule, builder = rule_of(equation), Builder()
    own = OPS.get(equation.name)
    if own is not None:
        results = [r.aval for r in equation.results]
        text, words = own.placement([o.aval for o in equation.operands], results, equation.params)
        if not text:
            raise NotConvertible(words)
    if device() == "metal":
        for atom in (*equation.operands, *equation.results):
            if lacks := _lacks(jnp.dtype(atom.aval.dtype)):
                raise NotConvertible(lacks)
    for operand in equation.operands:
        if isinstance(operand, Variable) and operand not in builder.known:
            builder.input(operand)
    builder.define(equation, rule)


@functools.cache
def _lacks(dtype: Any) -> str:
    """Why the GPU stores no such numbers, or "": an old one lacks bfloat16. Its compiler decides."""
    if dtype not in (jnp.float16, jnp.bfloat16):
        return ""
    one = [jax.core.ShapedArray((1,), dtype)]
    text, words = OPS["mps_neuron"].placement(one, one, {"neuron": ("relu", 0.0, 0.0, 0.0)})
    return "" if text else words


def _own_op(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    op = OPS[equation.primitive.name]
    return builder.node(op.name, operands, types_of(equation), **equation.params)


def _broadcast_in_dim(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    axes = tuple(int(a) for a in equation.params["broadcast_dimensions"])
    return [builder.broadcast(operands[0], types_of(equation)[0].shape, axes)]


def _reshape(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    x, order = operands[0], equation.params.get("dimensions")
    if order is not None:  # of the axes before
        x = builder.transpose(x, tuple(map(int, order)))
    return [builder.reshape(x, types_of(equation)[0].shape)]


def _squeeze(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    return [builder.reshape(operands[0], types_of(equation)[0].shape)]


def _transpose(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    return [builder.transpose(operands[0], tuple(int(i) for i in equation.params["permutation"]))]


def _slice(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    start = tuple(map(int, equation.params["start_indices"]))
    strides = equation.params["strides"] or (1,) * len(start)
    return builder.node("slice", operands, types_of(equation), start=start, strides=tuple(map(int, strides)))


def _split(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    axis, start, results = int(equation.params["axis"]), 0, []
    for type_ in types_of(equation):
        first = tuple(start if i == axis else 0 for i in range(len(type_.shape)))
        results += builder.node("slice", operands, [type_], start=first, strides=(1,) * len(first))
        start += type_.shape[axis]
    return results


def _pad(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    config = tuple(tuple(map(int, c)) for c in equation.params["padding_config"])
    return builder.node("pad", operands, types_of(equation), config=config)


def _concatenate(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    return builder.node("concatenate", operands, types_of(equation), axis=int(equation.params["dimension"]))


def _stack(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    axis, (type_,) = int(equation.params["axis"]), types_of(equation)
    one = (*type_.shape[:axis], 1, *type_.shape[axis + 1 :])
    return builder.node("concatenate", [builder.reshape(x, one) for x in operands], [type_], axis=axis)


def _unstack(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (x,), axis = operands, int(equation.params["axis"])
    one = (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :])
    results = []
    for i, type_ in enumerate(types_of(equation)):
        start = tuple(i if a == axis else 0 for a in range(len(one)))
        (part,) = builder.node("slice", [x], [Type(type_.dtype, one)], start=start, strides=(1,) * len(one))
        results.append(builder.reshape(part, type_.shape))
    return results


def _dot(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (contract, batch), types = equation.params["dimension_numbers"], types_of(equation)
    if any(v.type.dtype not in ("f32", "bf16") for v in operands):
        dtypes = " and ".join(v.type.dtype for v in operands)
        raise NotConvertible(f"dot_general of {dtypes}: products take float32 and bfloat16. Cast the operands.")
    if sums_in_float64(equation.params["precision"]):
        raise NotConvertible("its algorithm sums in float64, the kernels in float32")
    lists = {"contract": contract, "batch": batch}
    return builder.node("dot", operands, types, **{k: tuple(tuple(map(int, a)) for a in v) for k, v in lists.items()})


def _loop(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    loop = equation.loop
    inner = Builder(builder.names)
    inner.notes = builder.notes
    for variable in loop.body.inputs:
        inner.input(variable)
    for equation_inside in loop.body.equations:
        inner.define(equation_inside, rule_of(equation_inside))
    inner.program.outputs = [inner.read(o) for o in loop.body.outputs]
    results = [builder.value(t) for t in types_of(equation)]
    attributes = {"consts": loop.consts, "carry": loop.carry, "length": loop.length, "reverse": loop.reverse}
    builder.program.nodes.append(Node("loop", operands, results, attributes | {"in_place": ()}, inner.program))
    return results


_RULES: dict[str, Rule] = {
    **RULES,
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "dot_general": _dot,
    "expand_dims": _squeeze,
    "pad": _pad,
    "reshape": _reshape,
    "scan": _loop,
    "slice": _slice,
    "split": _split,
    "stack": _stack,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "unstack": _unstack,
}
