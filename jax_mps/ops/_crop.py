"""Negative padding is a cropping of x before the op: kernels, and XLA's convolution, see none of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jax_mps.ops import _check

Pairs = tuple[tuple[int, int], ...]


def parts(padding: Sequence[tuple[int, int]]) -> tuple[Pairs, Pairs]:
    """What padding cuts away, and what it adds: (low, high) of each spatial axis, none negative."""
    cut = tuple((max(-low, 0), max(-high, 0)) for low, high in padding)
    return cut, tuple((max(low, 0), max(high, 0)) for low, high in padding)


def crop(x: Any, cut: Pairs) -> Any:
    """x [batch, spatial axes, channels] without the pixels cut away."""
    if not any(low or high for low, high in cut):
        return x
    first = [0, *(low for low, _ in cut), 0]
    last = [x.shape[0], *(n - high for n, (_, high) in zip(x.shape[1:-1], cut, strict=True)), x.shape[-1]]
    return lax.slice(x, first, last)


def uncrop(x: Any, cut: Pairs) -> Any:
    """The transpose of `crop`: zeros where pixels were cut away."""
    if not any(low or high for low, high in cut):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in cut), (0, 0, 0)])


def sizes(spatial: Sequence[int], cut: Pairs) -> tuple[int, ...]:
    """The spatial sizes that `crop` leaves."""
    return tuple(n - low - high for n, (low, high) in zip(spatial, cut, strict=True))


def check(name: str, spatial: Sequence[int], padding: Sequence[tuple[int, int]]) -> None:
    """ValueError if negative padding leaves nothing of x."""
    left = sizes(spatial, parts(padding)[0])
    if any(n < 1 <= whole for n, whole in zip(left, spatial, strict=True)):
        got = f"padding {tuple(padding)} over {tuple(spatial)}"
        _check.fail(name, "negative padding must leave a pixel of x", got, "Pad less, or slice x.")
