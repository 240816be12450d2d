"""Zeros of both signs, subnormals, infinities and NaN: what float32 functions give for them, from NumPy in float64.

Run as a program, it holds all elementwise instructions of this machine's device against that (the environment chooses
its instruction set), prints what differs and ends with its count.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys

import numpy as np
from native import chain

TINY = np.finfo(np.float32).tiny  # the least normal number
LARGEST = np.finfo(np.float32).max
MAGNITUDES = [0, 1e-45, 1e-40, TINY, 1e-20, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 9.5, 1e10, LARGEST, np.inf]
SPECIAL = np.array([s * m for m in MAGNITUDES for s in (1, -1)] + [np.nan], np.float32)


def _away(x):
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def _erf_inv(x):
    if math.isnan(x) or abs(x) > 1:
        return math.nan
    if abs(x) == 1:
        return math.copysign(math.inf, x)
    if abs(x) < 1e-6:
        return x * math.sqrt(math.pi) / 2
    return statistics.NormalDist().inv_cdf((x + 1) / 2) / math.sqrt(2)


def _logistic(x):
    return 1 / (1 + np.exp(-x))


# Of float64 arrays. Signs of zeros are as IEEE 754 and C have them.
UNARY = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "square": np.square, "floor": np.floor, "ceil": np.ceil,
    "round_half_away": _away, "round_half_even": np.rint, "exp": np.exp, "exp2": np.exp2, "log": np.log,
    "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "logistic": _logistic, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "erf": np.vectorize(math.erf, [float]), "erf_inv": np.vectorize(_erf_inv, [float]),
    **{f"integer_pow {n}": lambda x, n=n: x ** float(n) for n in (-3, -2, -1, 1, 2, 3, 8)},
}  # fmt: skip


def greatest(x, y):
    """The larger, NaN if one is, and +0 of two zeros that differ."""
    return np.where((x == 0) & (y == 0), np.where(np.signbit(x) & np.signbit(y), -0.0, 0.0), np.maximum(x, y))


def least(x, y):
    return -greatest(-x, -y)


BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "rem": np.fmod, "max": greatest,
          "min": least, "pow": np.power, "atan2": np.arctan2}  # fmt: skip
EXACT = ("neg", "abs", "sign", "floor", "ceil", "round_half_away", "round_half_even", "max", "min", "sqrt", "rem")


def rounded(f, *operands):
    with np.errstate(all="ignore"):
        return f(*(np.asarray(x, np.float64) for x in operands)).astype(np.float32)


def flushed(x):
    """Subnormals become zeros of their sign."""
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def same(got, wanted, rtol):
    """Whether each is NaN, or of one sign and as near as rtol; both are then zero or neither is."""
    with np.errstate(all="ignore"):
        near = (got == wanted) | (np.abs(got - wanted) <= rtol * np.abs(wanted))
    near &= (got == 0) == (wanted == 0)
    return np.where(np.isnan(wanted), np.isnan(got), near & (np.signbit(got) == np.signbit(wanted)))


def differing(name, f, operands, got, rtol=3e-6):
    """Words for what f does not give for the operands; a subnormal may count as a zero, on either side of f."""
    rtol = 0 if name in EXACT else rtol
    wanted = rounded(f, *operands)
    good = same(got, wanted, rtol)
    if name != "sign":  # which is to see them
        for few in itertools.product((False, True), repeat=len(operands)):
            y = rounded(f, *(flushed(x) if zero else x for x, zero in zip(operands, few, strict=True)))
            good |= same(got, y, rtol) | same(flushed(got), flushed(y), rtol)
    return [
        f"{name}({', '.join(str(x[i]) for x in operands)}) is {got[i]}, not {wanted[i]}" for i in np.flatnonzero(~good)
    ]


def pairs():
    a, b = np.meshgrid(SPECIAL, SPECIAL, indexing="ij")
    return a.ravel().copy(), b.ravel().copy()


def instruction_faults():
    """Each instruction alone (in vector loops), and beside others (where there is any, in machine code)."""
    faults = []
    for name, f in [*UNARY.items(), *BINARY.items()]:
        x = pairs()[: 1 if name in UNARY else 2]
        op, *more = name.split()
        line, n = " ".join([op, *(str(i) for i in range(len(x))), *more]), len(x)
        (alone,) = chain(x[0].shape, x, [line], [["store", n]], [np.float32])
        code = [line, "const 1.0", f"max 0 {n + 1}", f"min {n + 2} {n + 1}"]
        beside, *_ = chain(x[0].shape, x, code, [["store", n], ["store", n + 3]], [np.float32] * 2)
        faults += differing(name, f, x, alone) + [f"beside others: {w}" for w in differing(name, f, x, beside)]
    return faults


def constant_faults():
    """max, min and clamp with constants, on either side."""
    faults, x = [], np.repeat(SPECIAL, 5)
    for name, f in (("max", greatest), ("min", least)):
        for c in [v for v in SPECIAL if np.isfinite(v)]:
            constant = np.full_like(x, c)
            text = [f"const {float(c)!r}", f"{name} 0 1", f"{name} 1 0", "abs 2", "abs 3"]
            results = chain(x.shape, [x], text, [["store", r] for r in (2, 3, 4, 5)], [np.float32] * 4)
            faults += differing(name, f, (x, constant), results[0]) + differing(name, f, (constant, x), results[1])
    for low, high in itertools.product((-1.0, -0.0, 0.0), (0.0, 1.0)):
        bounds = [f"const {low!r}", f"const {high!r}"]
        (y, _) = chain(x.shape, [x], [*bounds, "clamp 1 0 2", "abs 3"], [["store", 3], ["store", 4]], [np.float32] * 2)
        clamp = lambda x: least(greatest(x, np.float64(low)), np.float64(high))  # noqa: B023, E731
        faults += differing("max", clamp, (x,), y)
    return faults


def reduction_faults():
    """Over rows, columns and all, of every length up to where vectors are unrolled; the specials at each place."""
    faults, rng = [], np.random.default_rng(0)
    for name, f in (("max", greatest), ("min", least)):
        side = -1 if name == "max" else 1
        for n in (1, 2, 3, 7, 16, 33, 64, 130, 300):
            x = np.full((40, n), side * 5, np.float32)
            for row in x:
                row[rng.integers(0, n, 3)] = rng.choice([0.0, -0.0, 0.0, -0.0, np.nan, side * np.inf], 3)
            wanted = _folded(f, x)
            for array, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
                (y,) = chain(array.shape, [array], [], [[name, 0, [axis]]], [np.float32])
                faults += [f"{name} of {n} along {axis}: {a}, not {b}" for a, b in zip(y, wanted, strict=True)
                           if not same(a, b, 0)]  # fmt: skip
    return faults


def _folded(f, x):
    y = x[:, 0].astype(np.float64)
    for column in x.T[1:].astype(np.float64):
        y = f(y, column)
    return y.astype(np.float32)


def main():
    faults = instruction_faults() + constant_faults() + reduction_faults()
    print("\n".join(faults))
    return min(len(faults), 100)


if __name__ == "__main__":
    sys.exit(main())
