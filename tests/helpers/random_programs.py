"""Random programs over what graph converts: each a function of four arrays, drawn from a seed.

`python tests/helpers/random_programs.py --count 1000 --seed 0` runs those of `random_whole` (every dtype, loops,
branches, gathers, gradients) under graph and holds their results against NumPy in float64; it prints and shrinks what
is wrong.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

F = jnp.float32
SHAPES = ((3, 4), (4,), (2, 3, 4), (4, 4))

UNARY = [
    jnp.sin,
    jnp.tanh,
    jnp.abs,
    jnp.square,
    jnp.negative,
    jnp.sign,
    jnp.floor,
    jax.nn.relu,
    jax.nn.sigmoid,
    lax.erf,
    lambda x: jnp.exp(-jnp.abs(x)),
    lambda x: jnp.log1p(jnp.abs(x)),
    lambda x: lax.rsqrt(jnp.abs(x) + 0.5),
    lambda x: lax.integer_pow(x, 3),
    lambda x: x * 0.37 + 1.5,
    lambda x: lax.clamp(F(-0.5), x, F(0.7)),
]
BINARY = [
    jnp.add,
    jnp.multiply,
    jnp.subtract,
    jnp.maximum,
    jnp.minimum,
    jnp.less,
    jnp.equal,
    jnp.greater_equal,
    lambda x, y: x / (1.0 + jnp.abs(y)),
]
INTEGER = [jnp.abs, jnp.negative, jnp.sign, lambda x: x * 3 - 1, lambda x: x // 2, lambda x: x % 5, lambda x: x & 3]
LOGICAL = [jnp.logical_and, jnp.logical_or, jnp.logical_xor]
CASTS = [
    lambda x: jnp.clip(x, -9.0, 9.0).astype(jnp.int32),
    lambda x: x > 0.0,
    lambda x: x.astype(jnp.bfloat16).astype(F),
]


class _Draw:
    """One step of a program: `x` and what else is there, by a random generator."""

    def __init__(self, rng, values):
        self.rng, self.values = rng, values
        floats = [v for v in values if v.dtype == F]
        self.x = self.one(floats if rng.random() < 0.8 else values)

    def one(self, choices):
        return choices[self.rng.integers(len(choices))]

    def like(self, dtype):
        return self.one([v for v in self.values if v.shape == self.x.shape and v.dtype == dtype] or [None])

    def unary(self):
        if self.x.dtype == F:
            return self.one(UNARY)(self.x)
        return ~self.x if self.x.dtype == bool else self.one(INTEGER)(self.x)

    def binary(self):
        functions = LOGICAL if self.x.dtype == bool else BINARY if self.x.dtype == F else BINARY[:-1]
        return self.one(functions)(self.x, self.like(self.x.dtype))

    def broadcast(self):
        shape, at = list(self.x.shape), int(self.rng.integers(self.x.ndim + 1))
        shape.insert(at, int(self.rng.integers(1, 4)))
        return lax.broadcast_in_dim(self.x, shape, [i for i in range(len(shape)) if i != at]) if at < 4 else None

    def reshape(self):
        n = self.x.size
        a = self.one([d for d in range(1, n + 1) if n % d == 0])
        return self.x.reshape(self.one([(a, n // a), (n,), (n // a, 1, a)]))

    def transpose(self):
        return self.x.transpose(*self.rng.permutation(self.x.ndim).tolist()) if self.x.ndim else None

    def slice(self):
        start = [int(self.rng.integers(n)) for n in self.x.shape]
        limit = [int(self.rng.integers(i + 1, n + 1)) for i, n in zip(start, self.x.shape, strict=True)]
        return lax.slice(self.x, start, limit, [int(self.rng.integers(1, 3)) for _ in start])

    def reduce(self):
        if self.x.dtype != F or not self.x.ndim:
            return None
        axes = tuple(i for i in range(self.x.ndim) if self.rng.random() < 0.5) or (0,)
        kind = self.one([jnp.sum, jnp.max, jnp.min, jnp.mean])
        return kind(self.x, axis=axes, keepdims=bool(self.rng.random() < 0.5))

    def dot(self):
        if self.x.dtype != F or self.x.ndim < 2:
            return None
        right = [v for v in self.values if v.dtype == F and v.ndim == 2 and v.shape[0] == self.x.shape[-1]]
        if right and self.x.ndim == 2 and self.rng.random() < 0.7:
            return self.x @ self.one(right)
        return jnp.einsum("...ij,...kj->...ik", self.x, self.x)

    def concatenate(self):
        if not self.x.ndim:
            return None
        axis = int(self.rng.integers(self.x.ndim))

        def fits(v):
            same = v.dtype == self.x.dtype and v.ndim == self.x.ndim
            return same and all(a == b or i == axis for i, (a, b) in enumerate(zip(v.shape, self.x.shape, strict=True)))

        return jnp.concatenate([self.x, self.one(list(filter(fits, self.values)))], axis)

    def pad(self):
        if self.x.dtype == bool:
            return None
        config = []
        for n in self.x.shape:
            low, high, inner = (int(self.rng.integers(a, b)) for a, b in ((-1, 3), (-1, 3), (0, 2)))
            config.append((low, high, inner) if n + low + high + inner * (n - 1) > 0 else (0, 0, inner))
        return lax.pad(self.x, self.x.dtype.type(2), config)

    def select(self):
        mask = self.like(jnp.dtype(bool))
        return jnp.where(self.x == 0 if mask is None else mask, self.x, self.like(self.x.dtype))

    def cast(self):
        if self.x.dtype == F:
            return self.one(CASTS)(self.x)
        return self.x.astype(self.one([F, jnp.int32, bool]))

    def conv(self):
        if self.x.dtype != F or self.x.ndim < 2:
            return None
        image = self.x.reshape(1, self.x.shape[0], -1, 1)
        vector = self.one([v for v in self.values if v.dtype == F and v.shape == (4,)])
        w = jnp.sin(jnp.arange(36.0, dtype=F)).reshape(3, 3, 1, 4) + vector[None, None, None]
        y = lax.conv_general_dilated(image, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = y + vector[None, None, None] if self.rng.random() < 0.7 else y
        return jax.nn.relu(y) if self.rng.random() < 0.7 else y

    def softmax(self):
        if self.x.dtype != F or not self.x.ndim:
            return None
        axis = int(self.rng.integers(self.x.ndim))
        return self.one([jax.nn.softmax, jax.nn.log_softmax, jax.nn.logsumexp])(self.x, axis=axis)

    def update(self):
        """As an optimizer would write it."""
        if self.x.dtype != F:
            return None
        g, p = self.x, self.like(F)
        mu, nu = 0.1 * g + 0.9 * p, 0.001 * g**2 + 0.999 * jnp.square(p)
        self.values.extend([mu, nu])
        return p + -0.01 * (mu / 0.19) / (jnp.sqrt(nu / 0.002 + 1e-6) + 1e-4)

    def iota(self):
        return (
            lax.broadcasted_iota(jnp.int32, self.x.shape, int(self.rng.integers(self.x.ndim))) if self.x.ndim else None
        )

    def scan(self):
        if self.x.dtype != F or not self.x.ndim:
            return None
        first, then, join = self.one(UNARY), self.one(UNARY), self.one([jnp.add, jnp.multiply, jnp.maximum])

        def body(carry, x):
            y = join(first(x), carry * 0.5)
            return then(y) * 0.3, (y if self.x.ndim < 4 else jnp.sum(y))

        carry, ys = lax.scan(body, self.x[0], self.x, reverse=bool(self.rng.random() < 0.5))
        return ys if self.rng.random() < 0.7 else carry


_STEPS = ["unary"] * 3 + ["binary"] * 3 + ["broadcast", "reshape", "transpose", "slice", "reduce", "dot"]
_STEPS += ["concatenate", "pad", "select", "cast", "iota", "scan", "conv", "softmax", "update"]


def arrays(seed, special=False):
    """The arguments of a program; `special` puts NaN, infinities and zeros of both signs among the numbers."""
    rng = np.random.default_rng(seed)
    found = [rng.standard_normal(s) for s in SHAPES]
    for x in found if special else ():
        place = rng.random(x.shape) < 0.15
        x[place] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], place.sum())
    return [jnp.asarray(x, F) for x in found]


def program(seed, steps):
    """The program of a seed."""

    def run(*args):
        rng, values = np.random.default_rng(seed), list(args)
        for _ in range(steps):
            draw = _Draw(rng, values)
            y = getattr(draw, draw.one(_STEPS))()
            if y is not None and y.size <= 4096 and y.ndim <= 4:
                values.append(y)
        made = values[len(args) :] or values
        return [v for v in made[:-1] if rng.random() < 0.35] + made[-1:]

    return run


def gradients(seed, steps):
    """The program of a seed, with the gradients of a loss of its results."""

    def loss(*args):
        results = program(seed, steps)(*args)
        # The sine of large numbers would show the last bit of each.
        return sum((jnp.sum(jnp.sin(4 * jnp.tanh(y / 4))) for y in results if y.dtype == F), start=F(0.0)), results

    return jax.value_and_grad(loss, range(len(SHAPES)), has_aux=True)


_SMOOTH = [jnp.sin, jnp.tanh, jnp.square, jnp.negative, jax.nn.relu, jax.nn.sigmoid, jax.nn.silu, jnp.abs]


def half_program(seed, steps, dtype):
    """A program of a seed in half precision, without the steps of functions, where rounding would show."""

    def run(*args):
        rng, values = np.random.default_rng(seed), [a.astype(dtype) for a in args]
        for _ in range(steps):
            x = values[rng.integers(len(values))]
            same = [v for v in values if v.shape == x.shape]
            other = same[rng.integers(len(same))]
            y = [
                lambda x, y: _SMOOTH[rng.integers(len(_SMOOTH))](x),
                lambda x, y: x + y,
                lambda x, y: jnp.tanh(x) * y,
                lambda x, y: jnp.mean(x, -1, keepdims=True) + x,
                lambda x, y: jnp.einsum("...i,...j->...ij", x, y).mean(-1),
                lambda x, y: jnp.max(x, 0, keepdims=True) - y,
                lambda x, y: jnp.concatenate([x, y], 0)[: x.shape[0]] * 0.5,
                lambda x, y: lax.scan(lambda c, x: (jnp.tanh(c + x), c), x[0], x)[1],
            ][rng.integers(8)](x, other)
            values.append(jnp.tanh(y))
        return values[len(args) :]

    return run


if __name__ == "__main__":
    import random_check

    raise SystemExit(random_check.main())
