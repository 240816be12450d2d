"""What bench.py times: each section yields benches, each bench names its engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jax_mps as mps

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None


@dataclass
class Bench:
    """One line of the report; every engine is a call that blocks until its work is done."""

    name: str
    engines: dict[str, Callable[[], Any]]
    group: str = ""  # lines of one group get a geometric mean
    flops: float = 0
    bytes: float = 0
    extra: dict[str, Any] = field(default_factory=dict)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def blocking(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """A call of the jitted function that waits for its results."""
    jitted = jax.jit(function)
    return lambda: jax.block_until_ready(jitted(*args))


def nchw(x: np.ndarray) -> Any:
    """A PyTorch tensor of an NHWC array, channels last in memory."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


# The eight shapes (N, H, C, K, R, stride) of a digit network, ResNets and InceptionV3's stem.
CONV_SHAPES = [
    (32, 28, 1, 32, 5, 1),
    (32, 14, 32, 64, 5, 1),
    (16, 56, 64, 64, 3, 1),
    (16, 28, 128, 128, 3, 1),
    (16, 14, 256, 256, 3, 1),
    (16, 28, 256, 512, 1, 1),
    (8, 149, 32, 32, 3, 1),
    (8, 224, 3, 64, 7, 2),
]


def conv(dtypes: tuple[str, ...] = ("float32", "bfloat16")) -> Iterator[Bench]:
    """Forward, data gradient and weight gradient, each inside a jitted function."""
    for dtype in dtypes:
        for n, h, c, k, r, s in CONV_SHAPES:
            pad = ((r - 1) // 2,) * 2
            x, w = normal(n, h, h, c), normal(r, r, c, k) * 0.1
            xj, wj = jnp.asarray(x, dtype), jnp.asarray(w, dtype)

            def own(x: Any, w: Any, pad: Any = (pad, pad), s: int = s) -> Any:
                return mps.conv(x, w, strides=s, padding=pad)

            def plain(x: Any, w: Any, pad: Any = (pad, pad), s: int = s) -> Any:
                return lax.conv_general_dilated(x, w, (s, s), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

            y = plain(xj, wj)
            dy = jnp.asarray(normal(*y.shape, seed=1), dtype)
            flops = 2.0 * y.size * r * r * c
            runs: dict[str, dict[str, Callable[[], Any]]] = {"forward": {}, "data gradient": {}, "weight gradient": {}}
            for name, f in (("jax_mps", own), ("xla", plain)):
                runs["forward"][name] = blocking(f, xj, wj)
                runs["data gradient"][name] = blocking(lambda x, w, dy, f=f: jax.vjp(f, x, w)[1](dy)[0], xj, wj, dy)
                runs["weight gradient"][name] = blocking(lambda x, w, dy, f=f: jax.vjp(f, x, w)[1](dy)[1], xj, wj, dy)
            if torch:
                kind = getattr(torch, dtype)
                xt, dyt = nchw(x).to(kind), nchw(np.array(dy, np.float32)).to(kind)
                wt = torch.from_numpy(w.transpose(3, 2, 0, 1).copy()).to(kind)
                wt = wt.contiguous(memory_format=torch.channels_last)
                runs["forward"]["torch"] = lambda x=xt, w=wt, s=s, p=pad[0]: F.conv2d(x, w, stride=s, padding=p)

                def backward(mask: Any, x: Any = xt, w: Any = wt, dy: Any = dyt, s: int = s, p: int = pad[0]) -> Any:
                    return lambda: torch.ops.aten.convolution_backward(
                        dy, x, w, None, [s, s], [p, p], [1, 1], False, [0, 0], 1, mask
                    )

                runs["data gradient"]["torch"] = backward([True, False, False])
                runs["weight gradient"]["torch"] = backward([False, True, False])
            for kind_of_run, engines in runs.items():
                name = f"{kind_of_run} {n}x{h}x{h}x{c} {r}x{r}x{k}/{s} {dtype}"
                yield Bench(name, engines, f"{kind_of_run} {dtype}", flops=flops)


def overhead() -> Iterator[Bench]:
    """The cost of one custom call inside a jit: 100 in one function against 100 of XLA's own smallest ops."""
    x = jnp.ones(8, jnp.float32)

    def chain(f: Callable[[Any], Any], count: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for _ in range(count):
                x = f(x)
            return x

        return run

    for count in (1, 100):
        yield Bench(
            f"{count} calls on 8 elements",
            {
                "jax_mps": blocking(chain(lambda x: mps.linear(x, 0.5, 0.1), count), x),
                "xla": blocking(chain(lambda x: lax.optimization_barrier(x * 0.5 + 0.1), count), x),
            },
        )


SECTIONS: dict[str, Callable[[], Iterator[Bench]]] = {"conv": conv, "overhead": overhead}
