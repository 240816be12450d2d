"""Equations evaluated over a finite field: two programs that agree on random elements mean the same.

Sums, products and quotients are those of the integers modulo a prime, exactly, so that `(1 - z) n + z h` and
`n + z (h - n)` agree and `c + 1e-9` does not agree with `c`. The exponential is a random function with
exp(-x) = 1 / exp(x); the logistic function and tanh are made of it, as in their definitions. Every other elementwise
function (max, a comparison, a conversion) is a random function of its name and operands, equal to nothing else. By the
lemma of Schwartz and Zippel, different results agree by chance in one element with odds of about one in a million, and
in the hundreds of elements of an array never.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jax_mps.compiler.equations.equation import Atom, Constant, Equation
from jax_mps.compiler.equations.flatten import flatten
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.ir.ops import ARITHMETIC
from jax_mps.ops._number import sums_in_float64

PRIME = 1048573  # below 2**20: a product's terms are below 2**40, so that float64 sums 8192 of them exactly
_TERMS = 8192
_OTHERS = ARITHMETIC | {"select_n", "clamp", "pow", "convert_element_type", "round", "reduce_precision"}

Array = np.ndarray
Env = dict[Atom, Array]


def random(shape: tuple[int, ...], seed: int) -> Array:
    """Random elements."""
    return np.random.default_rng([seed, *shape]).integers(1, PRIME, shape)


def evaluate(equations: Sequence[Equation], env: Env) -> None:
    """Adds the results of equations to `env`; NotConvertible for one that has no meaning here."""
    for equation in equations:
        rule = _RULES.get(equation.name)
        operands = [read(o, env) for o in equation.operands]
        if rule is None:
            if equation.name not in _OTHERS or equation.effects:
                raise NotConvertible(f"{equation.name} in its body")
            results = [_elementwise(equation, operands)]
        else:
            made = rule(equation, operands)
            results = made if isinstance(made, list) else [made]
        env.update(zip(equation.results, results, strict=True))


def of_function(function: Callable[..., Any], operands: Sequence[Array]) -> list[Array]:
    """What a JAX function of float32 arrays gives over the field."""
    closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(x.shape, np.float32) for x in operands))
    flat = flatten(closed)
    env: Env = dict(zip(flat.inputs, operands, strict=True))
    evaluate(flat.equations, env)
    return [read(o, env) for o in flat.outputs]


def apply(name: str, x: Array) -> Array:
    """The logistic function or tanh."""
    return {"logistic": _logistic, "tanh": _tanh}[name](x)


def same(a: Array, b: Array) -> bool:
    """Whether values are equal modulo the prime."""
    return bool(np.array_equal(a % PRIME, b % PRIME))


def read(atom: Atom, env: Env) -> Array:
    """The value of an atom."""
    if isinstance(atom, Constant) and atom not in env:
        env[atom] = _constant(atom)
    return env[atom]


def _constant(atom: Constant) -> Array:
    """Numbers as elements: m 2^e, exactly."""
    if isinstance(atom.value, jax.core.Tracer) or getattr(atom.aval.dtype, "kind", "") not in ("f", "i", "u", "b"):
        raise NotConvertible(f"a constant of {atom.aval.dtype} in its body")
    numbers = np.asarray(atom.value, np.float64)
    if not np.isfinite(numbers).all():
        return _hash("constant", [numbers.view(np.int64) % PRIME])
    mantissa, exponent = np.frexp(numbers)
    whole, power = (mantissa * 2.0**53).astype(np.int64), exponent.astype(np.int64) - 53
    return whole % PRIME * _power(np.int64(2), power % (PRIME - 1)) % PRIME


def _power(x: Any, n: Any) -> Array:
    """x^n, of an exponent or an array of them."""
    x, n = np.asarray(x, np.int64), np.asarray(n, np.int64)
    result = np.ones(np.broadcast_shapes(x.shape, n.shape), np.int64)
    for bit in range(20):
        result = np.where(n >> bit & 1, result * x % PRIME, result)
        x = x * x % PRIME
    return result


def _inverse(x: Array) -> Array:
    return _power(x, PRIME - 2)


def _hash(name: str, operands: Sequence[Array]) -> Array:
    """A random element for each name and each element of the operands."""
    mixed: Any = np.uint64(zlib.crc32(name.encode()) + 1)
    with np.errstate(over="ignore"):
        for x in operands:
            mixed = (mixed ^ x.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = mixed ^ (mixed >> np.uint64(32))
    return np.asarray(mixed % np.uint64(PRIME)).astype(np.int64)


def _exp(x: Array) -> Array:
    """Never 0 or -1, so that 1 / (1 + exp(-x)) always is; exp(0) = 1."""
    flip = x > PRIME // 2
    y = _hash("exp", [np.where(flip, PRIME - x, x)])
    y = np.where(x == 0, 1, 2 + y % (PRIME - 3))  # of 1, ..., p - 2
    return np.where(flip, _inverse(y), y)


def _logistic(x: Array) -> Array:
    return _inverse((1 + _exp(-x % PRIME)) % PRIME)


def _tanh(x: Array) -> Array:
    return (2 * _logistic(2 * x % PRIME) - 1) % PRIME


def _elementwise(equation: Equation, operands: list[Array]) -> Array:
    params = sorted((k, str(v)) for k, v in equation.params.items() if v is not None)
    shape = equation.results[0].aval.shape
    return np.broadcast_to(_hash(f"{equation.name} {params}", operands), shape)


def _convert(equation: Equation, operands: list[Array]) -> Array:
    same = equation.operands[0].aval.dtype == equation.results[0].aval.dtype
    return operands[0] if same else _elementwise(equation, operands)


def _dot(equation: Equation, operands: list[Array]) -> Array:
    (contract, batch), types = equation.params["dimension_numbers"], [o.aval.dtype for o in equation.operands]
    if {*types, equation.results[0].aval.dtype} != {np.dtype(np.float32)}:
        raise NotConvertible("dot_general of other dtypes than float32 in its body")
    if sums_in_float64(equation.params["precision"]):
        raise NotConvertible("dot_general whose algorithm sums in float64 in its body")
    sides = []
    for x, contracted, batched in zip(operands, contract, batch, strict=True):
        free = [i for i in range(x.ndim) if i not in (*contracted, *batched)]
        sizes = [math.prod(x.shape[i] for i in axes) for axes in (batched, free, contracted)]
        sides.append(np.transpose(x, (*batched, *free, *contracted)).reshape(sizes).astype(np.float64))
    left, right = sides
    total = np.zeros((left.shape[0], left.shape[1], right.shape[1]), np.int64)
    for start in range(0, left.shape[2], _TERMS):
        part = slice(start, start + _TERMS)
        total += np.matmul(left[:, :, part], right[:, :, part].transpose(0, 2, 1)).astype(np.int64) % PRIME
    return (total % PRIME).reshape(equation.results[0].aval.shape)


def _broadcast(equation: Equation, operands: list[Array]) -> Array:
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    here = [1] * len(shape)
    for axis, size in zip(axes, operands[0].shape, strict=True):
        here[axis] = size
    return np.broadcast_to(operands[0].reshape(here), shape)


def _reshape(equation: Equation, operands: list[Array]) -> Array:
    order = equation.params.get("dimensions") if equation.name == "reshape" else None
    return (operands[0] if order is None else operands[0].transpose(order)).reshape(equation.results[0].aval.shape)


def _slice(equation: Equation, operands: list[Array]) -> Array:
    p = equation.params
    strides = p["strides"] or (1,) * operands[0].ndim
    return operands[0][tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]


def _split(equation: Equation, operands: list[Array]) -> list[Array]:
    ends = np.cumsum(equation.params["sizes"])[:-1]
    return list(np.split(operands[0], ends, axis=equation.params["axis"]))


def _pad(equation: Equation, operands: list[Array]) -> Array:
    x, value = operands
    config = equation.params["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in config):
        raise NotConvertible("pad in its body")
    result = np.full(equation.results[0].aval.shape, value)
    spans = zip(config, x.shape, strict=True)
    result[tuple(slice(low, low + (n - 1) * (gap + 1) + 1, gap + 1) for (low, _, gap), n in spans)] = x
    return result


def _sum(equation: Equation, operands: list[Array]) -> Array:
    return np.asarray(operands[0].sum(tuple(equation.params["axes"])) % PRIME)


def _integer_pow(equation: Equation, operands: list[Array]) -> Array:
    return _power(operands[0], int(equation.params["y"]) % (PRIME - 1))


def _arithmetic(function: Callable[..., Any]) -> Callable[[Equation, list[Array]], Array]:
    return lambda equation, operands: np.broadcast_to(function(*operands) % PRIME, equation.results[0].aval.shape)


_RULES: dict[str, Callable[[Equation, list[Array]], Array | list[Array]]] = {
    "add": _arithmetic(lambda a, b: a + b),
    "add_any": _arithmetic(lambda a, b: a + b),
    "sub": _arithmetic(lambda a, b: a - b),
    "mul": _arithmetic(lambda a, b: a * b),
    "div": _arithmetic(lambda a, b: a * _inverse(b)),
    "neg": _arithmetic(lambda a: -a),
    "square": _arithmetic(lambda a: a * a),
    "one_minus_square": _arithmetic(lambda a: 1 - a * a),
    "exp": _arithmetic(_exp),
    "expm1": _arithmetic(lambda a: _exp(a) - 1),
    "logistic": _arithmetic(_logistic),
    "tanh": _arithmetic(_tanh),
    "integer_pow": _integer_pow,
    "convert_element_type": _convert,
    "dot_general": _dot,
    "reduce_sum": _sum,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": lambda equation, operands: operands[0].transpose(equation.params["permutation"]),
    "rev": lambda equation, operands: np.flip(operands[0], equation.params["dimensions"]),
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "concatenate": lambda equation, operands: np.concatenate(operands, equation.params["dimension"]),
    "stack": lambda equation, operands: np.stack(operands, equation.params["axis"]),
}
