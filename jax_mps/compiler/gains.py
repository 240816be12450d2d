"""Whether a region is worth a native call."""

from __future__ import annotations

import math
from collections.abc import Iterator

from jax_mps.ir.program import Node, Program
from jax_mps.primitive import OPS

# Below so many multiply-adds a region of nothing but products stays on XLA, whose own are as fast there.
SMALL_PRODUCTS = 3 << 20


def gains(program: Program) -> bool:
    """Whether it has an op with a kernel of its own, or large products: all else XLA does as fast."""
    own = {op.name for op in OPS.values()}
    return any(node.op in own for node in _nodes(program)) or _products(program) >= SMALL_PRODUCTS


def _nodes(program: Program) -> Iterator[Node]:
    for node in program.nodes:
        yield node
        if node.body is not None:
            yield from _nodes(node.body)


def _products(program: Program) -> int:
    """Multiply-adds of all products."""
    count = 0
    for node in program.nodes:
        if node.op == "dot":
            contracted = [node.operands[0].type.shape[i] for i in node.attributes["contract"][0]]
            count += node.results[0].type.elements * math.prod(contracted)
        elif node.body is not None:
            count += node.attributes["length"] * _products(node.body)
    return count
