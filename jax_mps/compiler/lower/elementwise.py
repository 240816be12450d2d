"""The rules of elementwise primitives and of reductions: what a chain computes, in lax's words.

A chain has instructions for float32, int32, uint32 and booleans. Half precision is float32 in its registers, rounded
after each node; uint8 is uint32, cut to its last byte (`fuse` writes both). What has no instruction is made of others.
"""

from __future__ import annotations

import math
from functools import reduce

from jax import lax

from jax_mps.compiler.equations.equation import Equation
from jax_mps.compiler.lower.builder import Builder, NotConvertible, Rule, types_of
from jax_mps.ir.ops import ARITHMETIC
from jax_mps.ir.program import Type, Value

FLOATS = ("f32", "bf16", "f16")
_UNSIGNED = ("u32", "u8")

# lax's elementwise primitives that mean the same in a chain's code.
_EXPONENTIAL = ["exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sqrt", "rsqrt", "cbrt"]
_FLOAT_UNARY = ["floor", "ceil", "sin", "cos", "tan", "erf", "erf_inv", "is_finite", *_EXPONENTIAL]
_FLOAT_ONLY = {*_FLOAT_UNARY, "pow", "atan2"}
_ANY = ["neg", "abs", "sign", "square", "not", "add", "sub", "mul", "div", "rem", "max", "min"]
_COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]
_BITS = ["and", "or", "xor", "shift_left", "shift_right_logical", "shift_right_arithmetic"]
_LOGIC = {"max": "or", "min": "and", "add": "or", "mul": "and"}  # of booleans
_ROUNDINGS = {
    lax.RoundingMethod.AWAY_FROM_ZERO: "round_half_away",
    lax.RoundingMethod.TO_NEAREST_EVEN: "round_half_even",
}
_NAMES = {"add_any": "add"}
_REDUCTIONS = {"sum": "sum", "max": "max", "min": "min", "prod": "prod", "or": "max", "and": "min"}
_MAPPED = {"psum": "sum", "pmax": "max", "pmin": "min"}
_CUMULATIVE = {"cumsum": "sum", "cumprod": "prod", "cummax": "max", "cummin": "min"}


def _elementwise(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    name = _NAMES.get(equation.name, equation.name)
    (type_,) = types_of(equation)
    first = operands[0].type.dtype
    if name in _FLOAT_ONLY and first not in FLOATS:
        raise NotConvertible(f"{name} of {first}: chains have it for floating numbers. Convert its operand first.")
    if name == "pow" and operands[1].type.dtype == "s32":
        exponent = Type(type_.dtype, operands[1].type.shape)
        operands = [operands[0], builder.node("convert", [operands[1]], [exponent])[0]]
    spread = [_spread(builder, x, type_.shape) for x in operands]
    if first == "pred":
        name = _LOGIC.get(name, name)
    if first in _UNSIGNED and name in ("neg", "sign"):
        return _of_unsigned(builder, name, spread[0])
    if first == "u8" and name == "shift_right_arithmetic":
        return [_shifted(builder, *spread)]
    return builder.node(name, spread, [type_])


def _spread(builder: Builder, x: Value, shape: tuple[int, ...]) -> Value:
    """`x` in `shape`: lax's elementwise ops take scalars, and axes of size 1."""
    return x if x.type.shape == shape else builder.broadcast(x, shape, tuple(range(len(x.type.shape))))


def _of_unsigned(builder: Builder, name: str, x: Value) -> list[Value]:
    """neg(x) = 0 - x, sign(x) = min(x, 1)."""
    if name == "neg":
        return builder.node("sub", [builder.number(0, x.type), x], [x.type])
    return builder.node("min", [x, builder.number(1, x.type)], [x.type])


def _shifted(builder: Builder, x: Value, distance: Value) -> Value:
    """An arithmetic shift of bytes to the right, at the upper end of words."""
    word = Type("u32", x.type.shape)
    up = builder.number(24, word)
    (wide,), (distance,) = (builder.node("convert", [v], [word]) for v in (x, distance))
    for name, by in (("shift_left", up), ("shift_right_arithmetic", distance), ("shift_right_logical", up)):
        (wide,) = builder.node(name, [wide, by], [word])
    return builder.node("convert", [wide], [x.type])[0]


def _select(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = types_of(equation)
    which, *cases = operands
    if len(cases) != 2 or which.type.dtype != "pred":
        raise NotConvertible("select_n of more than two cases, or by an integer. Nest jnp.where for it.")
    spread = [_spread(builder, x, type_.shape) for x in (which, *cases)]
    return builder.node("select", spread, [type_])


def _clamp(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = types_of(equation)
    if type_.dtype == "pred":
        raise NotConvertible("clamp of booleans. Use & and |.")
    return builder.node("clamp", [_spread(builder, x, type_.shape) for x in operands], [type_])


def _round(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    return builder.node(_ROUNDINGS[equation.params["rounding_method"]], operands, types_of(equation))


def _one_minus_square(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    """(1 + x)(1 - x), of which JAX has made one primitive since 0.12."""
    (x,), (type_,) = operands, types_of(equation)
    if type_.dtype not in FLOATS:
        raise NotConvertible(f"one_minus_square of {type_.dtype}. Convert its operand to float32 first.")
    one = builder.number(1.0, type_)
    sides = [builder.node(op, [one, x], [type_])[0] for op in ("add", "sub")]
    return builder.node("mul", sides, [type_])


def _polynomial(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    """c0 + x (c1 + x (c2 + ...)), of which JAX has made one primitive since 0.12."""
    (type_,) = types_of(equation)
    x, *coefficients = (_spread(builder, v, type_.shape) for v in operands)

    def horner(sum_: Value, coefficient: Value) -> Value:
        return builder.node("add", [*builder.node("mul", [sum_, x], [type_]), coefficient], [type_])[0]

    return [reduce(horner, reversed(coefficients))]


def _log2(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    types = types_of(equation)
    if types[0].dtype != "f32":
        raise NotConvertible(f"log2 of {types[0].dtype}. Convert its operand to float32 first.")
    return builder.node(
        "mul", [*builder.node("log", operands, types), builder.number(1 / math.log(2), types[0])], types
    )


def _integer_pow(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    exponent, dtype = int(equation.params["y"]), operands[0].type.dtype
    if dtype not in FLOATS and exponent < 0:
        raise NotConvertible(f"integer_pow of {dtype} to a negative power. Convert its operand to float32 first.")
    return builder.node("integer_pow", operands, types_of(equation), n=exponent)


def _convert(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,), (x,) = types_of(equation), operands
    if type_ == x.type:
        return operands
    if type_.dtype == "u8" and x.type.dtype in FLOATS:  # out of range is the nearest
        bounds = [builder.number(n, x.type) for n in (0.0, 255.0)]
        (x,) = builder.node("clamp", [bounds[0], x, bounds[1]], [x.type])
    return builder.node("convert", [x], [type_])


def _bitcast(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = types_of(equation)
    if {type_.dtype, operands[0].type.dtype} - {"f32", "s32", "u32"}:
        raise NotConvertible(f"a bitcast of {operands[0].type.dtype} to {type_.dtype}: only 32-bit numbers are taken")
    return builder.node("bitcast", operands, [type_])


def _iota(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    (type_,) = types_of(equation)
    (index,) = builder.node("iota", [], [Type("s32", type_.shape)], axis=int(equation.params["dimension"]))
    return [index] if type_.dtype == "s32" else builder.node("convert", [index], [type_])


def _reduce(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    """Halves are summed in float32; integers wrap around."""
    name = equation.name.removeprefix("reduce_")
    if name in ("or", "and") and operands[0].type.dtype != "pred":
        raise NotConvertible(f"{equation.name} of {operands[0].type.dtype}: only booleans are taken. Compare first.")
    axes = tuple(int(a) for a in equation.params["axes"])
    return builder.node("reduce", operands, types_of(equation), kind=_REDUCTIONS[name], axes=axes)


def _reduce_mapped(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    """psum and its like over axes that vmap has mapped: reductions over axes of the array."""
    axes, kind = equation.params["axes"], _MAPPED[equation.name]
    if equation.params.get("axis_index_groups") is not None or not all(isinstance(a, int) for a in axes):
        raise NotConvertible("it works across devices")
    if any(x.type.dtype == "pred" for x in operands):
        raise NotConvertible(f"{equation.name} of booleans. Convert them to int32 first.")
    pairs = zip(operands, types_of(equation), strict=True)
    return [builder.node("reduce", [x], [t], kind=kind, axes=tuple(axes))[0] for x, t in pairs]


def _cumulative(builder: Builder, equation: Equation, operands: list[Value]) -> list[Value]:
    dtype, params = operands[0].type.dtype, equation.params
    if dtype not in (*FLOATS, "s32", "u32"):
        raise NotConvertible(f"{equation.name} of {dtype}. Convert its operand to int32 or float32 first.")
    kind, axis, reverse = _CUMULATIVE[equation.name], int(params["axis"]), bool(params["reverse"])
    return builder.node("cumulative", operands, types_of(equation), kind=kind, axis=axis, reverse=reverse)


RULES: dict[str, Rule] = {
    **dict.fromkeys([*ARITHMETIC, *_NAMES], _elementwise),
    **dict.fromkeys([f"reduce_{kind}" for kind in _REDUCTIONS], _reduce),
    **dict.fromkeys(_MAPPED, _reduce_mapped),
    **dict.fromkeys(_CUMULATIVE, _cumulative),
    "bitcast_convert_type": _bitcast,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "integer_pow": _integer_pow,
    "iota": _iota,
    "log2": _log2,
    "one_minus_square": _one_minus_square,
    "polynomial": _polynomial,
    "round": _round,
    "select_n": _select,
}
