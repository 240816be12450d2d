"""Random whole programs of every dtype that graph computes in, with loops, branches, gathers and gradients.

`program(plan)` is the function of a plan, a list of seeds, one a step; a plan without some of its steps is a program
too, so a failing one shrinks. What a program means is `numpy_oracle`'s to say.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

F, I, U, B = jnp.dtype("float32"), jnp.dtype("int32"), jnp.dtype("uint8"), jnp.dtype(bool)
HALVES = jnp.dtype("bfloat16"), jnp.dtype("float16")
ARGUMENTS = [((3, 4), F), ((4,), F), ((2, 3, 4), F), ((4, 4), F), ((3, 4), I), ((4,), I), ((3, 4), U), ((4,), U),
             ((3, 4), B), ((3, 4), HALVES[0]), ((4,), HALVES[1])]  # fmt: skip
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e30, -1e-30, 65504.0]


def arguments(seed):
    """The arguments of a program; a third of the seeds has NaN, infinities, zeros of both signs and ties among them."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for shape, dtype in ARGUMENTS:
        if jnp.issubdtype(dtype, jnp.floating):
            x = rng.standard_normal(shape)
            place = rng.random(shape) < (0.2 if seed % 3 == 0 else 0.0)
            x[place] = rng.choice(SPECIAL, place.sum())
        elif dtype == B:
            x = rng.random(shape) < 0.5
        elif dtype == U:
            x = rng.integers(0, 256, shape)
        else:
            wide = rng.random(shape) < 0.2
            x = np.where(wide, rng.integers(-(2**31), 2**31, shape), rng.integers(-9, 10, shape))
        with np.errstate(over="ignore"):  # what is too large for the dtype is infinite
            found.append(jnp.asarray(x, dtype))
    return found


UNARY = [
    jnp.sin,
    jnp.tanh,
    jnp.abs,
    jnp.square,
    jnp.negative,
    jnp.sign,
    jnp.floor,
    jnp.ceil,
    jnp.round,
    lax.round,
    jax.nn.relu,
    jax.nn.sigmoid,
    jax.nn.silu,
    jax.nn.softplus,
    jax.nn.gelu,
    lax.erf,
    jax.nn.leaky_relu,
    jax.nn.elu,
    jnp.exp2,
    jnp.cbrt,
    lambda x: jnp.exp(-jnp.abs(x)),
    lambda x: jnp.log1p(jnp.abs(x)),
    lambda x: jnp.expm1(jnp.minimum(x, 3)),
    lambda x: jnp.log(jnp.abs(x) + 0.5),
    lambda x: lax.rsqrt(jnp.abs(x) + 0.5),
    jnp.sqrt,
    lambda x: lax.integer_pow(x, 3),
    lambda x: lax.integer_pow(x, -2),
    lambda x: x * 0.37 + 1.5,
    lambda x: jnp.clip(x, -0.5, 0.7),
    lambda x: 1 - x,
    lambda x: x - x.dtype.type(0.0),
    lambda x: x * 1,
    lambda x: jnp.arctan2(x, 1 + jnp.abs(x)),
]
BINARY = [
    jnp.add,
    jnp.multiply,
    jnp.subtract,
    jnp.maximum,
    jnp.minimum,
    lax.rem,
    lambda x, y: x / (1.0 + jnp.abs(y)),
    lambda x, y: x / y,
    lambda x, y: jnp.power(jnp.abs(x) + 0.1, jnp.clip(y, -2, 2)),
    jnp.logaddexp,
]
COMPARISONS = [jnp.less, jnp.less_equal, jnp.greater, jnp.greater_equal, jnp.equal, jnp.not_equal]
INTEGER_UNARY = [
    jnp.sign,
    jnp.negative,
    jnp.square,
    jnp.invert,
    lambda x: x * 3 - 1,
    lambda x: x // 2,
    lambda x: x % 5,
    lambda x: x & 3,
    lambda x: x ^ 85,
    lambda x: x << 1,
    lambda x: x >> 1,
    lambda x: lax.integer_pow(x, 3),
    lambda x: jnp.clip(x, 1, 7),
    lambda x: lax.shift_right_logical(x, x & 15),
    lambda x: lax.shift_right_arithmetic(x, x & 15),
]
INTEGER_BINARY = [
    jnp.add,
    jnp.subtract,
    jnp.multiply,
    jnp.maximum,
    jnp.minimum,
    jnp.bitwise_and,
    jnp.bitwise_or,
    jnp.bitwise_xor,
    lax.div,
    lax.rem,
    jnp.floor_divide,
    jnp.mod,
    lambda x, y: lax.shift_left(x, y & 31),
]
LOGIC = [jnp.logical_and, jnp.logical_or, jnp.logical_xor, jnp.equal, jnp.maximum, jnp.minimum, jnp.less]


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


class Step:
    """One step: `x`, a value drawn by a generator, and what is made of it; None where that does not fit."""

    def __init__(self, seed, values):
        self.rng, self.values = np.random.default_rng(seed), values
        floats = [v for v in values if v.dtype == F]
        self.x = self.one(floats if self.rng.random() < 0.5 else values)

    def one(self, choices):
        return choices[self.rng.integers(len(choices))]

    def below(self, n):
        return int(self.rng.integers(n))

    def like(self, dtype=None, shape=None):
        """Another value of a dtype and a shape; x's if not given."""
        dtype, shape = dtype or self.x.dtype, self.x.shape if shape is None else shape
        return self.one([v for v in self.values if v.shape == shape and v.dtype == dtype] or [None])

    def run(self):
        return getattr(self, self.one(STEPS))()

    def unary(self):
        if self.x.dtype == B:
            return ~self.x
        return self.one(UNARY if is_float(self.x) else INTEGER_UNARY)(self.x)

    def binary(self):
        functions = LOGIC if self.x.dtype == B else BINARY if is_float(self.x) else INTEGER_BINARY
        return self.one(functions)(self.x, self.like())

    def compare(self):
        return self.one(COMPARISONS)(self.x, self.like())

    def constant(self):
        if self.x.dtype == B:
            return None
        numbers = [0.0, -0.0, 1.0, -1.5, 3.0] if is_float(self.x) else [0, 1, 7, 200]
        return self.one(COMPARISONS + (BINARY if is_float(self.x) else INTEGER_BINARY))(
            self.x, self.x.dtype.type(self.one(numbers))
        )

    def cast(self):
        """To any dtype; out of range is the nearest integer."""
        to = self.one([F, F, I, U, B, *HALVES, jnp.dtype("uint32")])
        return self.x.astype(to)

    def select(self):
        mask = self.like(B)
        mask = self.x == self.like() if mask is None else mask
        return jnp.where(mask, self.x, self.like())

    def clamp(self):
        return (
            None
            if self.x.dtype == B
            else lax.clamp(jnp.broadcast_to(jnp.min(self.x), self.x.shape), self.like(), self.x)
        )

    def broadcast(self):
        shape, at = list(self.x.shape), self.below(self.x.ndim + 1)
        shape.insert(at, 1 + self.below(3))
        return lax.broadcast_in_dim(self.x, shape, [i for i in range(len(shape)) if i != at])

    def reshape(self):
        n = self.x.size
        a = self.one([d for d in range(1, n + 1) if n % d == 0])
        return self.x.reshape(self.one([(a, n // a), (n,), (n // a, 1, a)]))

    def transpose(self):
        return self.x.transpose(*self.rng.permutation(self.x.ndim).tolist()) if self.x.ndim else None

    def slice(self):
        start = [self.below(n) for n in self.x.shape]
        limit = [int(self.rng.integers(i + 1, n + 1)) for i, n in zip(start, self.x.shape, strict=True)]
        return lax.slice(self.x, start, limit, [1 + self.below(2) for _ in start])

    def flip(self):
        return jnp.flip(self.x, self.axis()) if self.x.ndim else None

    def axis(self):
        return self.below(self.x.ndim)

    def pad(self):
        config = []
        for n in self.x.shape:
            low, high, inner = self.below(4) - 1, self.below(4) - 1, self.below(2)
            config.append((low, high, inner) if n + low + high + inner * (n - 1) > 0 else (0, 0, inner))
        return lax.pad(self.x, np.asarray(self.one([0, 1]), self.x.dtype), config)

    def concatenate(self):
        if not self.x.ndim:
            return None
        axis = self.axis()

        def fits(v):
            same = v.dtype == self.x.dtype and v.ndim == self.x.ndim
            return same and all(a == b or i == axis for i, (a, b) in enumerate(zip(v.shape, self.x.shape, strict=True)))

        others = [self.one([v for v in self.values if fits(v)]) for _ in range(1 + self.below(2))]
        return (
            jnp.stack([self.x, self.like()], axis)
            if self.rng.random() < 0.3
            else jnp.concatenate([self.x, *others], axis)
        )

    def reduce(self):
        if not self.x.ndim:
            return None
        axes = tuple(i for i in range(self.x.ndim) if self.rng.random() < 0.5) or (0,)
        if self.x.dtype == B:
            kinds = [jnp.any, jnp.all, jnp.sum]
        elif is_float(self.x):
            kinds = [jnp.sum, jnp.max, jnp.min, jnp.mean, jnp.var, jnp.prod]
        else:
            kinds = [jnp.sum, jnp.max, jnp.min, jnp.prod]
        return self.one(kinds)(self.x, axis=axes, keepdims=bool(self.rng.random() < 0.5))

    def cumulative(self):
        if not self.x.ndim or self.x.dtype == B:
            return None
        return self.one([lax.cumsum, lax.cumsum, lax.cumprod, lax.cummax, lax.cummin])(
            self.x, axis=self.axis(), reverse=bool(self.rng.random() < 0.5)
        )

    def order(self):
        if not self.x.ndim or self.x.dtype == B:
            return None
        return self.one([jnp.argmax, jnp.argmin, lambda x, axis: lax.sort(x, dimension=axis)])(self.x, self.axis())

    def dot(self):
        if self.x.dtype not in (F, HALVES[0]) or self.x.ndim < 2:
            return None
        right = [v for v in self.values if v.dtype == self.x.dtype and v.ndim == 2 and v.shape[0] == self.x.shape[-1]]
        if right and self.x.ndim == 2 and self.rng.random() < 0.7:
            return self.x @ self.one(right)
        return jnp.einsum("...ij,...kj->...ik", self.x, self.x)

    def conv(self):
        if self.x.dtype != F or self.x.ndim < 2:
            return None
        image = self.x.reshape(1, self.x.shape[0], -1, 1)
        w = jnp.sin(jnp.arange(36.0, dtype=F)).reshape(3, 3, 1, 4) + self.values[1][None, None, None]
        padding = self.one(["SAME", ((1, 1), (2, 1)), ((1, 2), (-1, 2))])
        if image.shape[2] < 3:
            padding = "SAME"
        strides = self.one([(1, 1), (2, 1)])
        y = lax.conv_general_dilated(image, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y) if self.rng.random() < 0.7 else y

    def pool(self):
        if self.x.dtype != F or self.x.ndim < 2:
            return None
        image = self.x.reshape(1, self.x.shape[0], -1, 1)
        start, how = self.one([(-jnp.inf, lax.max), (0.0, lax.add)])
        return lax.reduce_window(image, start, how, (1, 2, 2, 1), (1, self.one([1, 2]), 1, 1), "SAME")

    def softmax(self):
        if not is_float(self.x) or not self.x.ndim:
            return None
        return self.one([jax.nn.softmax, jax.nn.log_softmax, jax.nn.logsumexp])(self.x, axis=self.axis())

    def index(self, shape, n):
        """Integers that mostly name one of n places."""
        found = [v for v in self.values if v.dtype in (I, U) and v.shape == shape]
        wild = jnp.resize(self.one([v for v in self.values if v.dtype in (I, U)]).astype(I), shape)
        index = self.one(found).astype(I) if found else wild
        return index % n if self.rng.random() < 0.7 else index

    def gather(self):
        if not self.x.ndim:
            return None
        x = self.x.reshape(-1, self.x.shape[-1])
        rows, n = x.shape
        index = self.index((rows,), n)
        mode = self.one([None, "clip", "fill"])
        return self.one(
            [
                lambda: x[jnp.arange(rows), index],
                lambda: jax.vmap(lambda row, i: row[i])(x, index),
                lambda: jnp.take_along_axis(x, index[:, None], -1, mode=mode)[:, 0],
                lambda: jnp.take(x, index % rows, 0, mode="clip"),
                lambda: lax.dynamic_slice(x, (index[0], index[-1]), (1, min(2, n))),
                lambda: x[:, -1],
            ]
        )()

    def scatter(self):
        if self.x.dtype == B or not self.x.ndim:
            return None
        x = self.x.reshape(-1, self.x.shape[-1])
        rows, n = x.shape
        index = self.index((rows,), n)
        zeros = jnp.zeros((rows, n), x.dtype)
        return self.one(
            [
                lambda: zeros.at[jnp.arange(rows), index].add(x[:, 0], mode=self.one(["drop", "clip"])),
                lambda: zeros.at[index % rows].add(x),
                lambda: x.at[jnp.arange(rows), index % n].set(x.dtype.type(2)),
                lambda: lax.dynamic_update_slice(x, x[:1, :1] + x.dtype.type(1), (index[0], index[-1])),
                lambda: x * jax.nn.one_hot(index, n, dtype=x.dtype) if is_float(x) else x,
            ]
        )()

    def scan(self):
        if not is_float(self.x) or not self.x.ndim:
            return None
        first, then, join = self.one(UNARY), self.one(UNARY), self.one([jnp.add, jnp.multiply, jnp.maximum])
        count = self.one([I, U])

        def body(carry, x):
            carry, n = carry
            y = join(first(x), carry * 0.5)
            return (then(y) * 0.3, n * 3 + 1), (y if self.x.ndim < 4 else jnp.sum(y), n)

        (carry, n), (ys, ns) = lax.scan(body, (self.x[0], count.type(1)), self.x, reverse=bool(self.rng.random() < 0.5))
        return self.one([ys, ys, carry, n, ns])

    def fori(self):
        if not is_float(self.x):
            return None
        f, limit = self.one(UNARY), 1 + self.below(4)
        if self.rng.random() < 0.5:  # a bound that is known when the program runs
            limit = jnp.abs(self.index((), 5)) % 6
        return lax.fori_loop(0, limit, lambda i, c: f(c) * 0.5 + i.astype(c.dtype), self.x)

    def while_(self):
        if not is_float(self.x):
            return None
        f, goal, limit = self.one(UNARY), self.one([5.0, 20.0]), jnp.abs(self.index((), 4)) % 7
        start = jnp.float32(1.0), self.x, jnp.int32(0)

        def body(c):
            return jnp.nextafter(c[0] * 2, F.type(1e9)), f(c[1]) * 0.5 + 0.1, c[2] + 1

        _, x, n = lax.while_loop(lambda c: (c[0] < goal) & (c[2] < limit), body, start)
        return self.one([x, x, n])

    def cond(self):
        functions = UNARY if is_float(self.x) else [jnp.invert] if self.x.dtype == B else INTEGER_UNARY
        f, g = self.one(functions), self.one(functions)
        which = jnp.any(self.like() == self.x) if self.rng.random() < 0.5 else jnp.sum(self.values[1]) > 0
        return lax.cond(which, lambda x: f(x), lambda x: g(g(x)), self.x)

    def update(self):
        """As an optimizer would write it."""
        if self.x.dtype != F:
            return None
        g, p = self.x, self.like()
        mu, nu = 0.1 * g + 0.9 * p, 0.001 * g**2 + 0.999 * jnp.square(p)
        self.values.extend([mu, nu])
        return p + -0.01 * (mu / 0.19) / (jnp.sqrt(nu / 0.002 + 1e-6) + 1e-4)

    def iota(self):
        dtype = self.one([I, U, F, jnp.dtype("uint32")])
        return lax.broadcasted_iota(dtype, self.x.shape, self.axis()) if self.x.ndim else None


STEPS = (
    ["unary"] * 4 + ["binary"] * 4 + ["cast"] * 2 + ["constant", "compare", "select", "clamp", "broadcast", "reshape"]
)
STEPS += ["transpose", "slice", "flip", "pad", "concatenate", "reduce", "reduce", "cumulative", "order", "dot", "conv"]
STEPS += ["pool", "softmax", "gather", "gather", "scatter", "scan", "fori", "while_", "cond", "update", "iota"]


def plan(seed):
    """The steps of a seed's program, as seeds, and whether it has gradients."""
    rng = np.random.default_rng([seed, 2])
    return [[seed, 3, k] for k in range(int(rng.integers(2, 22)))], bool(rng.random() < 0.3)


def program(steps, gradients=False):
    """The function of steps: its last value and some of the others; and gradients by the first four arguments."""

    def run(*args):
        values, made = list(args), []
        for seed in steps:
            y = Step(seed, values).run()
            if y is not None and 0 < y.size <= 4096 and y.ndim <= 4:
                values.append(y)
                kept = np.random.default_rng([*seed, 4]).random() < 0.35
                made.append((y, kept))
        return [y for y, kept in made[:-1] if kept] + [y for y, _ in made[-1:]] or values[:1]

    def loss(*floats, rest):
        results = run(*floats, *rest)
        # The sine of large numbers would show the last bit of each.
        return sum((jnp.sum(jnp.sin(4 * jnp.tanh(y / 4))) for y in results if y.dtype == F), start=F.type(0.0)), results

    def both(*args):
        try:
            (value, results), slopes = jax.value_and_grad(loss, range(4), has_aux=True)(*args[:4], rest=args[4:])
        except ValueError as error:  # a loop without a bound has no gradient in JAX
            if "Reverse-mode differentiation does not work" not in str(error):
                raise
            return run(*args)
        return [value, *results, *slopes]

    return both if gradients else run
