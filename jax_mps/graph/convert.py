"""From equations to nodes: what each lax primitive is in a program.

A rule takes the `Builder` and an equation whose operands are values already, and gives the values of its results. The
nodes are still lax's own ops ("add", "reduce_sum", "broadcast_in_dim"); the passes turn them into what devices run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jax_mps._compat import is_array_type
from jax_mps.graph.capture import Atom, Constant, Equation, Variable
from jax_mps.primitive import OPS
from jax_mps.program import Node, Program, Type, Value


class NotConvertible(Exception):
    """The reason why an equation stays on XLA."""


Rule = Callable[["Builder", Equation, list[Value]], list[Value]]

# lax's elementwise primitives that mean the same in a chain's code.
_EXPONENTIAL = ["exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sqrt", "rsqrt", "cbrt"]
_FLOAT_UNARY = ["floor", "ceil", "sin", "cos", "tan", "erf", "erf_inv", "is_finite", *_EXPONENTIAL]
_FLOAT_ONLY = {*_FLOAT_UNARY, "pow", "atan2"}
_ANY = ["neg", "abs", "sign", "square", "not", "add", "sub", "mul", "div", "rem", "max", "min"]
_COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]
_BITS = ["and", "or", "xor", "shift_left", "shift_right_logical", "shift_right_arithmetic"]
ELEMENTWISE = frozenset([*_FLOAT_ONLY, *_ANY, *_COMPARISONS, *_BITS])
_REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min"}
_MAPPED = {"psum": "sum", "pmax": "max", "pmin": "min"}
_MAX_AXES = 12  # of a chain
_NAMES = {"add_any": "add"}


class Builder:
    """Collects the nodes of one region."""

    def __init__(self, names: Iterator[int] | None = None) -> None:
        self.program = Program()
        self.known: dict[int, Value] = {}  # by id of the atom
        self.made: dict[int, str] = {}  # by id of the value, the primitive that it is a result of
        self.notes: dict[int, str] = {}  # by id of a loop's result, why it is no recurrent op
        self.names = itertools.count() if names is None else names

    def value(self, type_: Type) -> Value:
        """A new value."""
        return Value(next(self.names), type_)

    def input(self, atom: Atom) -> Value:
        """The value of a variable from outside."""
        value = self.value(Type.of(atom.aval))
        self.program.inputs.append(value)
        self.known[id(atom)] = value
        return value

    def read(self, atom: Atom) -> Value:
        """The value of an atom: a variable, or a scalar or uniform constant."""
        if id(atom) not in self.known:
            assert isinstance(atom, Constant)
            array = np.asarray(atom.value)
            type_ = Type.of(atom.aval)
            self.known[id(atom)] = self.number(array.reshape(-1)[0].item(), type_)
        return self.known[id(atom)]

    def number(self, number: Any, type_: Type) -> Value:
        """A value that is this number everywhere."""
        (scalar,) = self.node("constant", [], [Type(type_.dtype, ())], value=number)
        return self.broadcast(scalar, type_.shape, ())

    def define(self, equation: Equation, rule: Rule) -> None:
        """Adds the nodes of one equation."""
        results = rule(self, equation, [self.read(o) for o in equation.operands])
        self.known.update((id(r), v) for r, v in zip(equation.results, results, strict=True))
        self.made.update((id(v), equation.origin or equation.name) for v in results)
        if equation.note:
            self.notes.update((id(v), equation.note) for v in results)

    def node(self, op: str, operands: list[Value], types: list[Type], **attributes: Any) -> list[Value]:
        """Adds a node and gives its results."""
        results = [self.value(t) for t in types]
        self.program.nodes.append(Node(op, operands, results, attributes))
        return results

    def broadcast(self, x: Value, shape: tuple[int, ...], axes: tuple[int, ...]) -> Value:
        """`x` with axis i put at axes[i] of `shape`."""
        if x.type.shape == shape and axes == tuple(range(len(shape))):
            return x
        return self.node("broadcast_in_dim", [x], [Type(x.type.dtype, shape)], axes=axes)[0]

    def transpose(self, x: Value, order: tuple[int, ...]) -> Value:
        """`x` with axis i from axis order[i]."""
        if order == tuple(range(len(order))):
            return x
        shape = tuple(x.type.shape[i] for i in order)
        return self.node("transpose", [x], [Type(x.type.dtype, shape)], order=order)[0]

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        """`x` in another shape, row-major."""
        if x.type.shape == shape:
            return x
        return self.node("reshape", [x], [Type(x.type.dtype, shape)])[0]


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
        raise NotConvertible("no kernel for this op")
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
    for operand in equation.operands:
        if isinstance(operand, Variable) and id(operand) not in builder.known:
            builder.input(operand)
    builder.define(equation, rule)


def _types(equation: Equation) -> list[Type]:
    return [Type.of(r.aval) for r in equation.results]


def _own_op(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    op = OPS[equation.primitive.name]
    return builder.node(op.name, operands, _types(equation), **equation.params)


def _elementwise(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    name = _NAMES.get(equation.name, equation.name)
    (type_,) = _types(equation)
    if name in _FLOAT_ONLY and operands[0].type.dtype not in ("f32", "bf16", "f16"):
        raise NotConvertible(f"{name} of {operands[0].type.dtype}")
    if name == "pow" and operands[1].type.dtype == "s32":
        exponent = Type(type_.dtype, operands[1].type.shape)
        operands = [operands[0], builder.node("convert", [operands[1]], [exponent])[0]]
    spread = [_spread(builder, x, type_.shape) for x in operands]
    return builder.node(name, spread, [type_])


def _spread(builder: Builder, x: Value, shape: tuple[int, ...]) -> Value:
    """`x` in `shape`: lax's elementwise ops take scalars, and axes of size 1."""
    return x if x.type.shape == shape else builder.broadcast(x, shape, tuple(range(len(x.type.shape))))


def _select(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = _types(equation)
    which, *cases = operands
    if len(cases) != 2 or which.type.dtype != "pred":
        raise NotConvertible("select_n of more than two cases")
    spread = [_spread(builder, x, type_.shape) for x in (which, *cases)]
    return builder.node("select", spread, [type_])


def _clamp(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = _types(equation)
    return builder.node("clamp", [_spread(builder, x, type_.shape) for x in operands], [type_])


def _one_minus_square(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    """(1 + x)(1 - x), of which JAX has made one primitive since 0.12."""
    (x,), (type_,) = operands, _types(equation)
    if type_.dtype not in ("f32", "bf16", "f16"):
        raise NotConvertible(f"one_minus_square of {type_.dtype}")
    one = builder.number(1.0, type_)
    sides = [builder.node(op, [one, x], [type_])[0] for op in ("add", "sub")]
    return builder.node("mul", sides, [type_])


def _log2(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    types = _types(equation)
    if types[0].dtype != "f32":
        raise NotConvertible(f"log2 of {types[0].dtype}")
    return builder.node(
        "mul", [*builder.node("log", operands, types), builder.number(1 / math.log(2), types[0])], types
    )


def _integer_pow(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    if operands[0].type.dtype not in ("f32", "bf16", "f16"):
        raise NotConvertible("integer_pow of integers")
    return builder.node("integer_pow", operands, _types(equation), n=int(equation.params["y"]))


def _convert(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = _types(equation)
    if type_ == operands[0].type:
        return operands
    if type_.dtype == "u8" or operands[0].type.dtype == "u8":
        raise NotConvertible("conversion of uint8")
    return builder.node("convert", operands, [type_])


def _bitcast(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = _types(equation)
    if {type_.dtype, operands[0].type.dtype} - {"f32", "s32", "u32"}:
        raise NotConvertible("bitcast between sizes")
    return builder.node("bitcast", operands, [type_])


def _iota(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = _types(equation)
    if type_.dtype not in ("s32", "f32", "u32"):
        raise NotConvertible(f"iota of {type_.dtype}")
    (index,) = builder.node("iota", [], [Type("s32", type_.shape)], axis=int(equation.params["dimension"]))
    return [index] if type_.dtype == "s32" else builder.node("convert", [index], [type_])


def _reduce(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    if operands[0].type.dtype not in ("f32", "bf16", "f16"):
        raise NotConvertible(f"{equation.name} of {operands[0].type.dtype}")
    axes = tuple(int(a) for a in equation.params["axes"])
    return builder.node("reduce", operands, _types(equation), kind=_REDUCTIONS[equation.name], axes=axes)


def _reduce_mapped(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    """psum and its like over axes that vmap has mapped: reductions over axes of the array."""
    axes, kind = equation.params["axes"], _MAPPED[equation.name]
    if equation.params.get("axis_index_groups") is not None or not all(isinstance(a, int) for a in axes):
        raise NotConvertible("it works across devices")
    if any(x.type.dtype not in ("f32", "bf16", "f16") for x in operands):
        raise NotConvertible(f"{equation.name} of {operands[0].type.dtype}")
    pairs = zip(operands, _types(equation), strict=True)
    return [builder.node("reduce", [x], [t], kind=kind, axes=tuple(axes))[0] for x, t in pairs]


def _broadcast_in_dim(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    axes = tuple(int(a) for a in equation.params["broadcast_dimensions"])
    return [builder.broadcast(operands[0], _types(equation)[0].shape, axes)]


def _reshape(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    x, order = operands[0], equation.params.get("dimensions")
    if order is not None:  # of the axes before
        x = builder.transpose(x, tuple(map(int, order)))
    return [builder.reshape(x, _types(equation)[0].shape)]


def _squeeze(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    return [builder.reshape(operands[0], _types(equation)[0].shape)]


def _transpose(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    return [builder.transpose(operands[0], tuple(int(i) for i in equation.params["permutation"]))]


def _slice(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    start = tuple(map(int, equation.params["start_indices"]))
    strides = equation.params["strides"] or (1,) * len(start)
    return builder.node("slice", operands, _types(equation), start=start, strides=tuple(map(int, strides)))


def _split(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    axis, start, results = int(equation.params["axis"]), 0, []
    for type_ in _types(equation):
        first = tuple(start if i == axis else 0 for i in range(len(type_.shape)))
        results += builder.node("slice", operands, [type_], start=first, strides=(1,) * len(first))
        start += type_.shape[axis]
    return results


def _pad(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    config = tuple(tuple(map(int, c)) for c in equation.params["padding_config"])
    return builder.node("pad", operands, _types(equation), config=config)


def _concatenate(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    return builder.node("concatenate", operands, _types(equation), axis=int(equation.params["dimension"]))


def _stack(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    axis, (type_,) = int(equation.params["axis"]), _types(equation)
    one = (*type_.shape[:axis], 1, *type_.shape[axis + 1 :])
    return builder.node("concatenate", [builder.reshape(x, one) for x in operands], [type_], axis=axis)


def _dot(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (contract, batch), types = equation.params["dimension_numbers"], _types(equation)
    if any(v.type.dtype not in ("f32", "bf16") for v in operands):
        raise NotConvertible(f"dot_general of {operands[0].type.dtype}")
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
    results = [builder.value(t) for t in _types(equation)]
    attributes = {"consts": loop.consts, "carry": loop.carry, "length": loop.length, "reverse": loop.reverse}
    builder.program.nodes.append(Node("loop", operands, results, attributes | {"in_place": ()}, inner.program))
    return results


_RULES: dict[str, Rule] = {
    **dict.fromkeys([*ELEMENTWISE, *_NAMES], _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_MAPPED, _reduce_mapped),
    "broadcast_in_dim": _broadcast_in_dim,
    "bitcast_convert_type": _bitcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "dot_general": _dot,
    "expand_dims": _squeeze,
    "integer_pow": _integer_pow,
    "iota": _iota,
    "log2": _log2,
    "one_minus_square": _one_minus_square,
    "pad": _pad,
    "reshape": _reshape,
    "scan": _loop,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "stack": _stack,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
