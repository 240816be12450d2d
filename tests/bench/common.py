"""What the sections share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

try:
    import torch
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
    rounds: int = 0  # 0 as many as asked for; else each counts one call, of things that take seconds


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
