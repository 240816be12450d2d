"""Random convolutions: value and gradients against sums in float64, each run twice, between canaries.

python tests/helpers/random_convolutions.py --count 5000 --seed 0
python tests/helpers/random_convolutions.py --count 200 --large: such as threads share
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import itertools
import math
import os
import sys
import time
from typing import Any

from setting import quick_compilation

if __name__ == "__main__":
    os.environ.setdefault("JAX_MPS_GUARD", "1")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick_compilation()}"
    if glob.glob("jax_mps/_ext*"):  # a checkout with a native half, before an installed package
        sys.path.insert(0, os.getcwd())

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jax_mps as mps

TOLERANCE = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.2e-2}
FORMS = ("op", "op", "graph, channels last", "graph, channels first")
LAYOUTS = {
    ("graph, channels last", 1): ("NWC", "WIO", "NWC"),
    ("graph, channels last", 2): ("NHWC", "HWIO", "NHWC"),
    ("graph, channels first", 1): ("NCW", "OIW", "NCW"),
    ("graph, channels first", 2): ("NCHW", "OIHW", "NCHW"),
}
FEW = (1, 2, 3, 5, 7, 17)
MOST, MOST_NUMBERS = 3_000_000, 200_000  # multiply-adds, and numbers of x
LARGE = 300_000_000, 2_000_000

Pairs = tuple[tuple[int, int], ...]
Ints = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution, channels last, and how it is asked for."""

    batch: int
    spatial: Ints
    window: Ints
    strides: Ints
    dilation: Ints
    padding: Pairs
    groups: int
    fan_in: int  # of a group
    fan_out: int
    dtype: str
    form: str

    @property
    def out(self) -> Ints:
        """The result's spatial sizes."""
        axes = zip(self.spatial, self.window, self.strides, self.dilation, self.padding, strict=True)
        return tuple((n + sum(pad) - (k - 1) * d - 1) // s + 1 for n, k, s, d, pad in axes)

    @property
    def shapes(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Of x, w, b and dy."""
        channels, filters = self.groups * self.fan_in, self.groups * self.fan_out
        x, dy = (self.batch, *self.spatial, channels), (self.batch, *self.out, filters)
        return x, (*self.window, self.fan_in, filters), (filters,), dy


def draw(seed: int, large: bool = False) -> Convolution:
    """The convolution of a seed."""
    rng = np.random.default_rng([seed, 2] if large else seed)
    least, most, numbers = (MOST, *LARGE) if large else (0, MOST, MOST_NUMBERS)
    while True:
        c = _draw(rng)
        if large:
            fan_in, fan_out = (int(n * rng.integers(1, 9)) for n in (c.fan_in, c.fan_out))
            c = dataclasses.replace(
                c, fan_in=min(fan_in, 512), fan_out=min(fan_out, 512), batch=int(rng.integers(1, 20))
            )
        products = c.batch * math.prod(c.out) * math.prod(c.window) * c.fan_in * c.fan_out * c.groups
        if min(c.out) >= 1 and least <= products <= most and math.prod(c.shapes[0]) <= numbers:
            return c


def _draw(rng: np.random.Generator) -> Convolution:
    def one(choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    rank = one((1, 2, 2, 2))
    kind = one(("pixel", "grouped", "few", "any"))
    largest = 150 if rank == 1 else 34
    each = lambda f: tuple(f() for _ in range(rank))  # noqa: E731
    equal = rng.random() < 0.6
    repeat = lambda f: (f(),) * rank if equal else each(f)  # noqa: E731
    spatial = each(lambda: int(rng.integers(1, largest)))
    window = (1,) * rank if kind == "pixel" else repeat(lambda: int(one((1, 2, 3, 3, 3, 4, 5, 5, 7))))
    strides = repeat(lambda: one((2, 2, 3, 4)) if kind == "pixel" else one((1, 1, 1, 2, 2, 3)))
    dilation = repeat(lambda: one((2, 2, 3) if kind == "grouped" else (1, 1, 1, 2, 3)))
    dilation = (1,) * rank if kind == "pixel" else dilation
    wide = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    padding: Pairs = ((0, 0),) * rank
    if rng.random() < 0.6:
        above = one((0, 0, 2))  # also larger than the window
        padding = tuple((int(rng.integers(0, k + above)), int(rng.integers(0, k + above))) for k in wide)
    groups, fan_in, fan_out = 1, int(rng.integers(1, 80)), int(rng.integers(1, 80))
    if kind == "pixel":
        fan_in, fan_out = one(range(8, 301, 7)), one(range(9, 301, 5))
        groups = one((1, 1, 1, 1, 2, 3))
    elif kind == "grouped":
        groups = one((2, 3, 4, 8, 16, 17, 32, 64))
        fan_in, fan_out = (
            (1, one((1, 1, 2, 3))) if rng.random() < 0.5 else (one((1, 2, 3, 4, 5, 8, 16)), one((1, 2, 3, 4, 8, 16)))
        )
    elif kind == "few":
        fan_in, fan_out = one(FEW), one((*FEW, 8, 16, 32))
        fan_in, fan_out = (fan_in, fan_out) if rng.random() < 0.7 else (fan_out, fan_in)
    elif rng.random() < 0.5:
        fan_in, fan_out = one((16, 32, 48)), one((16, 32, 64))
    dtype = one(("float32", "float32", "bfloat16", "bfloat16", "float16"))
    batch = int(one((1, 1, 2, 3, 5, 8)))
    return Convolution(batch, spatial, window, strides, dilation, padding, groups, fan_in, fan_out, dtype, one(FORMS))


def operands(c: Convolution, seed: int) -> list[Any]:
    """x, w, b and dy in the dtype."""
    rng = np.random.default_rng([seed, 1])
    return [rng.standard_normal(shape).astype(jnp.dtype(c.dtype)) for shape in c.shapes]


def exact(c: Convolution, x: Any, w: Any, b: Any, dy: Any) -> list[np.ndarray]:
    """y, dx, dw and db as float64 sums over shifted windows."""
    x, w, b, dy = (np.asarray(v, np.float64) for v in (x, w, b, dy))
    low, rank = [pad[0] for pad in c.padding], len(c.window)
    padded = np.pad(x, ((0, 0), *c.padding, (0, 0)))
    y, dpadded, dw = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(w.shape)

    def rows(v: np.ndarray, fan: int) -> np.ndarray:  # [groups, pixels, channels of a group]
        return np.moveaxis(v.reshape(-1, c.groups, fan), 1, 0)

    def back(v: np.ndarray, shape: Ints) -> np.ndarray:
        return np.moveaxis(v, 0, 1).reshape(shape)

    of_dy = rows(dy, c.fan_out)
    for tap in itertools.product(*map(range, c.window)):
        axes = zip(tap, c.dilation, c.strides, c.out, strict=True)
        here = (slice(None), *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in axes))
        seen = padded[here]
        of_x, of_w = rows(seen, c.fan_in), np.moveaxis(w[tap].reshape(c.fan_in, c.groups, c.fan_out), 1, 0)
        y += back(of_x @ of_w, y.shape)
        dpadded[here] += back(of_dy @ np.swapaxes(of_w, 1, 2), seen.shape)
        dw[tap] = np.moveaxis(np.swapaxes(of_x, 1, 2) @ of_dy, 0, 1).reshape(dw[tap].shape)
    inside = tuple(slice(a, a + n) for a, n in zip(low, c.spatial, strict=True))
    return [y + b, dpadded[(slice(None), *inside)], dw, dy.sum(tuple(range(rank + 1)))]


def run(c: Convolution, x: Any, w: Any, b: Any, dy: Any) -> list[list[np.ndarray]]:
    """y, dx, dw and db, twice."""
    first = c.form.endswith("first")
    image = lambda v: np.moveaxis(v, -1, 1) if first else v  # noqa: E731
    weights = lambda v: np.moveaxis(v, (-1, -2), (0, 1)) if first else v  # noqa: E731

    def conv(x: Any, w: Any, b: Any) -> Any:
        if c.form == "op":
            return mps.conv(x, w, b, strides=c.strides, padding=c.padding, dilation=c.dilation, groups=c.groups)
        layout = LAYOUTS[c.form, len(c.window)]
        y = lax.conv_general_dilated(x, w, c.strides, c.padding, None, c.dilation, layout, feature_group_count=c.groups)
        shape = [1] * y.ndim
        shape[1 if first else -1] = -1
        return y + b.reshape(shape)

    def step(x: Any, w: Any, b: Any, dy: Any) -> Any:
        y, pull = jax.vjp(conv, x, w, b)
        return y, *pull(dy)

    compiled = jax.jit(step if c.form == "op" else mps.graph(step))
    given = image(x), weights(w), b, image(dy)

    def channels_last(y: Any, dx: Any, dw: Any, db: Any) -> list[np.ndarray]:
        y, dx, dw, db = map(np.asarray, (y, dx, dw, db))
        if not first:
            return [y, dx, dw, db]
        return [np.moveaxis(y, 1, -1), np.moveaxis(dx, 1, -1), np.moveaxis(dw, (0, 1), (-1, -2)), db]

    return [channels_last(*compiled(*given)) for _ in range(2)]


def faults(c: Convolution, seed: int) -> list[str]:
    """What is wrong with a convolution of the numbers of a seed."""
    values = operands(c, seed)
    try:
        first, second = run(c, *values)
    except Exception as error:  # a broken canary among them
        return [f"seed {seed}: {c}: {error}"]
    pixels = c.batch * math.prod(c.out)
    terms = [math.prod(c.window) * c.fan_in, math.prod(c.window) * c.fan_out, pixels, pixels]
    found = []
    for name, a, b, wanted, n in zip(("y", "dx", "dw", "db"), first, second, exact(c, *values), terms, strict=True):
        error = np.abs(a.astype(np.float64) - wanted) / max(np.abs(wanted).max(initial=0), math.sqrt(n))
        if a.shape != wanted.shape or a.dtype != values[0].dtype or not error.max(initial=0) <= TOLERANCE[c.dtype]:
            found.append(f"seed {seed}: {c}: {name} is wrong by {error.max(initial=0):.2g} of the largest")
        if a.tobytes() != b.tobytes():
            found.append(f"seed {seed}: {c}: {name} is another one when it runs again")
    return found


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # XLA compiles faster; kernels are as they are
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--large", action="store_true", help="of up to 300 million multiply-adds")
    given = parser.parse_args()
    total, start = 0, time.monotonic()
    for i in range(given.count):
        found = faults(draw(given.seed + i, given.large), given.seed + i)
        total += len(found)
        for line in found:
            print(line, flush=True)
        if i % 100 == 99:
            jax.clear_caches()
            print(f"{i + 1} convolutions, {total} faults, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{given.count} convolutions from seed {given.seed}: {total} faults")
    sys.exit(bool(total))


if __name__ == "__main__":
    main()
