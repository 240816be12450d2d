"""Views: values that are another value's elements in another order, read in place by strides instead of copied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jax_mps.ir.ops import VIEWS
from jax_mps.ir.program import Node, Value


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous array."""
    strides, stride = [], 1
    for dim in reversed(shape):
        strides.append(stride)
        stride *= dim
    return tuple(reversed(strides))


@dataclass(frozen=True)
class View:
    """Element [i, j, ...] of the view is element offset + i*strides[0] + j*strides[1] + ... of `base`."""

    base: Value
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def whole(cls, value: Value) -> View:
        """A value as it lies in memory."""
        return cls(value, value.type.shape, row_major(value.type.shape))

    @property
    def contiguous(self) -> bool:
        """Whether it is its base, but for the shape."""
        wanted = row_major(self.shape)
        same = all(s == w for s, w, n in zip(self.strides, wanted, self.shape, strict=True) if n != 1)
        return same and self.offset == 0 and self.base.type.elements == math.prod(self.shape)

    def through(self, node: Node) -> View | None:
        """The view that a node of VIEWS makes of this one, or None where strides cannot say it."""
        a, shape = node.attributes, node.results[0].type.shape
        if node.op == "broadcast_in_dim":
            spread = [0] * len(shape)
            for axis, stride, size in zip(a["axes"], self.strides, self.shape, strict=True):
                spread[axis] = 0 if size == 1 else stride
            return View(self.base, shape, tuple(spread), self.offset)
        if node.op == "transpose":
            return View(self.base, shape, tuple(self.strides[i] for i in a["order"]), self.offset)
        if node.op == "slice":
            offset = self.offset + sum(i * s for i, s in zip(a["start"], self.strides, strict=True))
            steps = tuple(s * step for s, step in zip(self.strides, a["strides"], strict=True))
            return View(self.base, shape, steps, offset)
        split = _reshaped(self.shape, self.strides, shape)
        return None if split is None else View(self.base, shape, split, self.offset)


def view_of(value: Value, producer: Mapping[Value, Node]) -> View | None:
    """A value as a view of one that no view makes; None where strides cannot say it."""
    node = producer.get(value)
    if node is None or node.op not in VIEWS:
        return View.whole(value)
    inner = view_of(node.operands[0], producer)
    return None if inner is None else inner.through(node)


def constant_of(value: Value, producer: Mapping[Value, Node]) -> Node | None:
    """The node of the number that a value is everywhere, or None."""
    node = producer.get(value)
    while node is not None and node.op in VIEWS:
        node = producer.get(node.operands[0])
    return node if node is not None and node.op == "constant" else None


def row_source(value: Value, producer: Mapping[Value, Node]) -> Value | None:
    """The value of one number a row that `value`, by views, repeats along its last axis; None if it is not such."""
    view, shape = view_of(value, producer), value.type.shape
    if view is None or view.base is value or not shape:
        return None
    wanted = (*row_major(shape[:-1]), 0)
    same = all(a == b for a, b, n in zip(view.strides, wanted, shape, strict=True) if n != 1)
    return view.base if same and view.base.type.elements == math.prod(shape[:-1]) else None


def _reshaped(old: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides of a reshape: runs of old axes that lie one in the other are split into new axes."""
    runs: list[list[int]] = []  # [size, stride] of each run, outermost first
    for dim, stride in zip(old, strides, strict=True):
        if dim == 1:
            continue
        if runs and runs[-1][1] == stride * dim:
            runs[-1] = [runs[-1][0] * dim, stride]
        else:
            runs.append([dim, stride])
    result: list[int] = []
    sizes = [dim for dim in new]
    for size, stride in reversed(runs):
        left = size
        while left > 1:
            if not sizes:
                return None
            dim = sizes.pop()
            if left % dim:
                return None
            result.append(stride * (size // left))
            left //= dim
    result += [0] * len(sizes)
    return tuple(reversed(result)) if all(dim == 1 for dim in sizes) else None
