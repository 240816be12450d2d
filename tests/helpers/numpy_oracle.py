"""What a JAX program means: its trace run in NumPy with float64 numbers, and how far float32 may be from that.

The trace runs several times: exactly, with each result rounded to its dtype, and with each result rounded up or down at
random (Monte Carlo arithmetic), sums in float32's own error, elementary functions a few units in the last place wrong.
Where all runs agree on an integer, a boolean, a NaN, an infinity or a zero's sign, the program has to; elsewhere in
those, float32 itself decides. A finite number may be four times as far from the exact one as the farthest run, and
eight units in the last place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy_moves import PRIMITIVES

from jax_mps._compat import Literal, jaxprs_in_params, scan_counts

CALLS = {"jit", "closed_call", "eval_jaxpr", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
_ROUGH = {"exp", "exp2", "log", "log1p", "log2", "expm1", "tanh", "logistic", "rsqrt", "cbrt", "sin", "cos", "tan"}
_ROUGH |= {"erf", "erf_inv", "pow", "atan2", "integer_pow", "sqrt", "div"}
_FORMATS = {"float32": (24, -149, 2.0**128), "float16": (11, -24, 65520.0), "bfloat16": (8, -133, 2.0**128)}
TINY = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}


def rounded(x, dtype, rng=None):
    """Float64 numbers on the grid of a dtype: the nearest, or one of the two neighbours at random."""
    digits, least, limit = _FORMATS[str(dtype)]
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(x)
        step = np.ldexp(1.0, np.maximum(np.where(np.isfinite(x), exponent, 0) - digits, least))
        scaled = x / step
        whole = (
            np.rint(scaled)
            if rng is None
            else np.floor(scaled) + (rng.random(x.shape) < 0.5) * (scaled != np.floor(scaled))
        )
        y = np.where(np.isfinite(x), np.copysign(whole * step, x), x)
        return np.where(abs(y) >= limit, np.copysign(np.inf, y), y)


class Run:
    """One way to round."""

    def __init__(self, rng=None, exact=False):
        self.rng, self.exact = rng, exact
        self.masks = {}  # by their ids, the arrays that are booleans as numbers

    def terms(self, x):
        """The terms of a sum, with what float32's order of them may do."""
        if self.rng is None or (np.array_equal(x, np.rint(x)) and np.abs(x).sum() < 2**24):
            return x
        return x * (1 + self.rng.uniform(-1, 1, x.shape) * 2.0**-21)

    def factors(self, a, b):
        """The operands of a product, alike."""
        if a.dtype != np.float64:
            return a, b
        return self.terms(a), self.terms(b)

    def zero_sign(self, y, where=True):
        """Zeros of a sum, or the greater of two zeros: of either sign."""
        if self.rng is None:
            return y
        signs = np.where(self.rng.random(y.shape) < 0.5, -0.0, 0.0)
        return np.where((y == 0) & where, signs, y)

    def finish(self, name, y, aval):
        """A result as an array of its type."""
        y = np.asarray(y)
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            assert y.dtype == aval.dtype, (name, y.dtype, aval.dtype)
            return y
        half = aval.dtype != np.float32
        y = y.astype(np.float64)
        if self.exact and not half:
            return y
        if self.rng is not None and name in _ROUGH:
            plain = rounded(y, aval.dtype) == y
            y = np.where(plain, y, y * (1 + self.rng.uniform(-1, 1, y.shape) * 2.0**-21))
        # A program may keep halves of a fused chain in float32.
        return rounded(y, aval.dtype, self.rng)

    def evaluate(self, jaxpr, consts, args):
        """The results of a jaxpr."""
        env = {}
        read = lambda v: self._array(v.val, v.aval) if isinstance(v, Literal) else env[v]  # noqa: E731
        env.update((v, self._array(c, v.aval)) for v, c in zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [read(v) for v in eqn.invars])
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _array(self, x, aval):
        return np.asarray(x).astype(np.float64 if jnp.issubdtype(aval.dtype, jnp.floating) else aval.dtype)

    def _equation(self, eqn, operands):
        name, params, avals = eqn.primitive.name, eqn.params, [v.aval for v in eqn.outvars]
        if name in CALLS:
            (body,) = list(jaxprs_in_params({k: v for k, v in params.items() if k in ("jaxpr", "call_jaxpr")}))
            closed = params.get("jaxpr", params.get("call_jaxpr"))
            return self.evaluate(body, getattr(closed, "consts", ()), operands)
        if name == "scan":
            return self._scan(params, operands, scan_counts(params))
        if name == "while":
            return self._while(params, operands)
        if name == "cond":
            index, *rest = operands
            branch = params["branches"][int(np.clip(int(index), 0, len(params["branches"]) - 1))]
            return self.evaluate(branch.jaxpr, branch.consts, rest)
        y = PRIMITIVES[name](self, avals, params, *operands)
        if name == "mul" and self.rng is not None:
            # A product with a mask may select, so that what is masked makes no NaN.
            for x in operands:
                if id(x) in self.masks:
                    y = self.zero_sign(np.where((x == 0) & (self.rng.random(np.shape(y)) < 0.5), 0.0, y))
        many = y if eqn.primitive.multiple_results else [y]
        results = [self.finish(name, r, a) for r, a in zip(many, avals, strict=True)]
        of_mask = name in ("broadcast_in_dim", "reshape", "squeeze") and any(id(x) in self.masks for x in operands)
        if (name == "convert_element_type" and operands[0].dtype == bool) or of_mask:
            self.masks[id(results[0])] = results[0]
        return results

    def _scan(self, params, operands, counts):
        consts, carries = counts
        body, length = params["jaxpr"], params["length"]
        fixed, carry, xs = operands[:consts], operands[consts : consts + carries], operands[consts + carries :]
        stacks = []
        for i in reversed(range(length)) if params["reverse"] else range(length):
            results = self.evaluate(body.jaxpr, body.consts, [*fixed, *carry, *(x[i] for x in xs)])
            carry = results[:carries]
            stacks.append(results[carries:])
        stacks = stacks[::-1] if params["reverse"] else stacks
        return [*carry, *(np.stack(column) for column in zip(*stacks, strict=True))]

    def _while(self, params, operands):
        a, b = params["cond_nconsts"], params["body_nconsts"]
        tests, fixed, carry = operands[:a], operands[a : a + b], operands[a + b :]
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        for _ in range(1000):
            (goes_on,) = self.evaluate(test.jaxpr, test.consts, [*tests, *carry])
            if not goes_on:
                return carry
            carry = self.evaluate(body.jaxpr, body.consts, [*fixed, *carry])
        raise RuntimeError("a loop of more than 1000 steps")


def samples(function, args, count=6, seed=0):
    """The results of each run, the exact one first."""
    closed = jax.make_jaxpr(function)(*args)
    runs = [Run(exact=True), Run(), *(Run(np.random.default_rng([seed, k])) for k in range(count))]
    found = []
    with np.errstate(all="ignore"):
        for run in runs:
            values = [run._array(a, v.aval) for a, v in zip(args, closed.jaxpr.invars, strict=True)]
            found.append(run.evaluate(closed.jaxpr, closed.consts, values))
    return found, [v.aval for v in closed.jaxpr.outvars]


def faults(got, runs, avals):
    """Why results are not what the runs allow: of each result that is wrong, its number and words."""
    found = []
    for i, (y, aval) in enumerate(zip(got, avals, strict=True)):
        if y.dtype != aval.dtype or y.shape != aval.shape:
            found.append((i, f"{y.dtype}{y.shape} instead of {aval.dtype}{aval.shape}"))
            continue
        all_ = np.stack([np.broadcast_to(run[i], aval.shape) for run in runs])
        words = (
            _floating(np.asarray(y, np.float64), all_, str(aval.dtype))
            if all_.dtype == np.float64
            else _exact(np.asarray(y), all_)
        )
        if words:
            found.append((i, words))
    return found


def _exact(y, runs):
    wrong = (runs == runs[0]).all(0) & (y != runs[0])
    return _words("exact", y, runs, wrong)


def _floating(y, runs, dtype):
    def every(condition):
        return condition(runs).all(0)

    tiny = TINY[dtype]
    for name, condition in (
        ("NaN", np.isnan),
        ("a number", lambda x: ~np.isnan(x)),
        ("infinite", np.isposinf),
        ("-infinite", np.isneginf),
        ("finite", np.isfinite),
        ("0", lambda x: (x == 0) & ~np.signbit(x)),
        ("-0", lambda x: (x == 0) & np.signbit(x)),
    ):
        wrong = every(condition) & ~condition(y)
        if name in ("0", "-0"):
            wrong &= y == 0
        if wrong.any():
            return _words(name, y, runs, wrong)
    with np.errstate(all="ignore"):
        digits = _FORMATS[dtype][0]
        finite = np.isfinite(runs).all(0) & np.isfinite(y)
        spread = np.abs(runs - runs[0]).max(0)
        bound = 4 * spread + np.abs(runs).max(0) * 2.0 ** (3 - digits) + 4 * tiny
        return _words("near", y, runs, finite & (np.abs(y - runs[0]) > bound))


def _words(what, y, runs, wrong):
    if not wrong.any():
        return ""
    at = tuple(map(int, np.argwhere(wrong)[0]))
    seen = ", ".join(f"{v:.9g}" for v in runs[(slice(None), *at)])
    return f"not {what} in {wrong.sum()} of {wrong.size}: [{at}] is {y[at]:.9g}, but runs gave {seen}"
