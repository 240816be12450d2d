"""JAX's primitives in NumPy: floating values are float64 arrays whatever their dtype, integers and booleans their own.

`PRIMITIVES[name](noise, types, params, *operands)` gives the result, or a list of them, unrounded. `types` are the
results' abstract values; `noise` says what float32 may do otherwise: the order of a sum, the sign of a zero.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import scipy.special
from jax import lax

PRIMITIVES = {}


def primitive(*names):
    def register(function):
        PRIMITIVES.update(dict.fromkeys(names, function))
        return function

    return register


def simple(**functions):
    for name, function in functions.items():
        PRIMITIVES[name] = lambda noise, types, params, *x, f=function: f(*x)


def is_float(x):
    return x.dtype == np.float64


def wrapped(function):
    """Integers wrap around, without a word."""

    def run(*x):
        with np.errstate(all="ignore"):
            return function(*x)

    return run


def divide(a, b):
    if is_float(a):
        return a / b
    if np.issubdtype(a.dtype, np.unsignedinteger):
        return np.where(b == 0, np.iinfo(a.dtype).max, a // np.where(b == 0, 1, b)).astype(a.dtype)
    wide = np.where(b == 0, 1, b).astype(np.int64)
    quotient = np.sign(a.astype(np.int64)) * np.sign(wide) * (abs(a.astype(np.int64)) // abs(wide))
    return np.where(b == 0, -1, quotient).astype(a.dtype)


def remainder(a, b):
    if is_float(a):
        return np.fmod(a, b)
    whole = np.where(b == 0, 1, b)
    return np.where(b == 0, a, np.fmod(a.astype(np.int64), whole.astype(np.int64))).astype(a.dtype)


def shift(function):
    def run(a, b):
        bits = a.dtype.itemsize * 8
        over = b.astype(np.int64) >= bits
        return function(a, np.where(over, 0, b).astype(np.int64), over)

    return run


def arithmetic_right(a, b, over):
    signed = a.astype(f"int{a.dtype.itemsize * 8}")
    return np.where(over, np.where(signed < 0, -1, 0), signed >> b).astype(a.dtype)


def sign(x):
    return np.where(np.isnan(x) | (x == 0), x, np.copysign(1.0, x)) if is_float(x) else np.sign(x)


simple(
    neg=wrapped(np.negative), sign=sign, floor=np.floor, ceil=np.ceil, is_finite=np.isfinite,
    exp=wrapped(np.exp), exp2=wrapped(np.exp2), log=wrapped(np.log), log1p=wrapped(np.log1p), log2=wrapped(np.log2),
    expm1=wrapped(np.expm1), tanh=np.tanh, logistic=wrapped(scipy.special.expit),
    sqrt=wrapped(np.sqrt), rsqrt=wrapped(lambda x: 1 / np.sqrt(x)), cbrt=np.cbrt,
    sin=wrapped(np.sin), cos=wrapped(np.cos), tan=wrapped(np.tan), erf=scipy.special.erf,
    erf_inv=wrapped(lambda x: np.where(abs(x) > 1, np.nan, scipy.special.erfinv(np.clip(x, -1, 1)))),
    abs=wrapped(np.abs), square=wrapped(np.square),
    add=wrapped(np.add), sub=wrapped(np.subtract), mul=wrapped(np.multiply), add_any=wrapped(np.add),
    rem=wrapped(remainder),
    pow=wrapped(lambda a, b: np.power(a, b.astype(np.float64))), atan2=np.arctan2,
    one_minus_square=wrapped(lambda x: (1 + x) * (1 - x)),
    eq=np.equal, ne=np.not_equal, lt=np.less, le=np.less_equal, gt=np.greater, ge=np.greater_equal,
    shift_left=shift(lambda a, b, over: np.where(over, 0, a << b.astype(a.dtype)).astype(a.dtype)),
    shift_right_logical=shift(
        lambda a, b, over: np.where(over, 0, a.view(f"u{a.dtype.itemsize}") >> b.astype(f"u{a.dtype.itemsize}"))
        .astype(f"u{a.dtype.itemsize}").view(a.dtype)
    ),
    shift_right_arithmetic=shift(arithmetic_right),
    copy=lambda x: x, copy_p=lambda x: x, pvary=lambda *x: list(x), stop_gradient=lambda x: x,
    optimization_barrier=lambda *x: list(x),
)  # fmt: skip
simple(**{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert})


@primitive("div")
def _div(noise, types, params, a, b):
    y = wrapped(divide)(a, b)
    if not is_float(y) and noise.rng is not None and np.array_equal(a, b) and noise.rng.random() < 0.5:
        y = np.where(b == 0, 1, y).astype(y.dtype)  # x / x is 1 everywhere to XLA from JAX 0.12 on
    return y


def extremum(function):
    def run(noise, types, params, a, b):
        y = function(a, b)
        return noise.zero_sign(y, (a == 0) & (b == 0)) if is_float(y) else y

    return run


PRIMITIVES["max"], PRIMITIVES["min"] = extremum(np.maximum), extremum(np.minimum)


@primitive("clamp")
def _clamp(noise, types, params, low, x, high):
    y = np.minimum(np.maximum(x, low), high)
    if not is_float(y):
        return y
    return noise.zero_sign(y, (low == 0).astype(int) + (x == 0) + (high == 0) > 1)


@primitive("round")
def _round(noise, types, params, x):
    if params["rounding_method"] == lax.RoundingMethod.TO_NEAREST_EVEN:
        return np.rint(x)
    whole = np.trunc(x)
    return np.where(np.isfinite(x), np.copysign(abs(whole) + (abs(x - whole) >= 0.5), x), x)


@primitive("integer_pow")
def _integer_pow(noise, types, params, x):
    n = params["y"]
    with np.errstate(all="ignore"):
        return x**n if n >= 0 else 1 / x**-n


@primitive("polynomial")
def _polynomial(noise, types, params, x, *coefficients):
    total = coefficients[-1]
    for c in coefficients[-2::-1]:
        total = total * x + c
    return np.broadcast_to(total, types[0].shape)


@primitive("select_n")
def _select(noise, types, params, which, *cases):
    which = np.broadcast_to(which, cases[0].shape)
    return np.choose(which.astype(int), cases) if len(cases) > 1 else cases[0]


@primitive("convert_element_type")
def _convert(noise, types, params, x):
    dtype = np.dtype(types[0].dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return x.astype(np.float64)
    if dtype.kind == "b" or not is_float(x):
        with np.errstate(all="ignore"):
            return x != 0 if dtype.kind == "b" else x.astype(dtype)
    info = np.iinfo(dtype)
    return np.clip(np.trunc(np.nan_to_num(x, nan=0.0)), info.min, info.max).astype(dtype)  # out of range: the nearest


@primitive("bitcast_convert_type")
def _bitcast(noise, types, params, x):
    narrow = x.astype(np.float32) if is_float(x) else x
    y = narrow.view(types[0].dtype)
    return y.astype(np.float64) if y.dtype == np.float32 else y


@primitive("iota")
def _iota(noise, types, params):
    shape, axis, dtype = params["shape"], params["dimension"], np.dtype(params["dtype"])
    y = np.broadcast_to(np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)
    return y.astype(np.float64 if jnp.issubdtype(dtype, jnp.floating) else dtype)


@primitive("reduce_sum", "psum")
def _sum(noise, types, params, x):
    if not is_float(x):
        return np.sum(x, tuple(params["axes"]), dtype=x.dtype)
    with np.errstate(all="ignore"):
        y = np.sum(noise.terms(x), tuple(params["axes"]))
    return noise.zero_sign(y)


def reduction(function):
    def run(noise, types, params, x):
        with np.errstate(all="ignore"):
            y = np.asarray(function(x, tuple(params["axes"])))
        y = y.astype(x.dtype)
        return noise.zero_sign(y) if is_float(y) else y

    return run


PRIMITIVES.update(
    reduce_max=reduction(np.max),
    reduce_min=reduction(np.min),
    reduce_or=reduction(np.any),
    reduce_and=reduction(np.all),
)


@primitive("reduce_prod")
def _prod(noise, types, params, x):
    with np.errstate(all="ignore"):
        y = np.prod(noise.terms(x) if is_float(x) else x, tuple(params["axes"]), dtype=x.dtype)
    return noise.zero_sign(y) if is_float(y) else y


def cumulative(function):
    def run(noise, types, params, x):
        axis = params["axis"]
        x = noise.terms(x) if is_float(x) else x
        x = np.flip(x, axis) if params["reverse"] else x
        with np.errstate(all="ignore"):
            y = function.accumulate(x, axis=axis, dtype=x.dtype)
        y = np.flip(y, axis) if params["reverse"] else y
        return noise.zero_sign(y) if is_float(y) else y

    return run


PRIMITIVES.update(
    cumsum=cumulative(np.add),
    cumprod=cumulative(np.multiply),
    cummax=cumulative(np.maximum),
    cummin=cumulative(np.minimum),
)


def order(function):
    """The first of the greatest (least), a NaN before all."""

    def run(noise, types, params, x):
        (axis,) = params["axes"]
        return function(x, axis).astype(params["index_dtype"])

    return run


PRIMITIVES.update(argmax=order(np.argmax), argmin=order(np.argmin))


@primitive("sort")
def _sort(noise, types, params, *x):
    axis, keys = params["dimension"], x[: params["num_keys"]]
    order = np.lexsort([k + 0.0 if is_float(k) else k for k in keys[::-1]], axis=axis)
    return [np.take_along_axis(v, order, axis) for v in x]


@primitive("rev")
def _rev(noise, types, params, x):
    return np.flip(x, tuple(params["dimensions"]))
