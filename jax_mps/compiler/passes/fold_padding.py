"""Padding before a convolution or a pool becomes part of it, and so does the cropping of a gradient after it.

::

    pad ── x ──> conv {padding=p}              conv {padding=p + pad}
    conv_data_gradient {padding=p} ── crop     conv_data_gradient {padding=p + crop}

The value is zero, or minus infinity before a maximum; only spatial axes are padded; no padding becomes negative. A
transpose in between (channels first) keeps its place. A cropping that stays is a slice, which chains read in place.
"""

from __future__ import annotations

import math
from collections import Counter

from jax_mps.compiler.passes.rewriter import Rewriter
from jax_mps.compiler.passes.simplify import drop_dead
from jax_mps.ir.program import Node, Program, Type, Value

_ZERO, _LEAST = 0.0, -math.inf
_PADDED = {"conv": _ZERO, "conv_weight_gradient": _ZERO, "avg_pool": _ZERO, "max_pool": _LEAST, "max_pool_taps": _LEAST}
_CROPPED = {"conv_data_gradient", "avg_pool_gradient", "max_pool_gradient"}

Pairs = list[tuple[int, int]]  # low and high of every axis


def fold_padding(program: Program) -> Program:
    """The program with paddings and croppings folded; what they leave unread is dropped."""
    return _Folding(program).run()


class _Folding(Rewriter):
    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.uses = Counter(o for n in program.nodes for o in n.operands)
        self.uses.update(program.outputs)

    def run(self) -> Program:
        nodes: list[Node] = []
        for node in self.program.nodes:
            if node.op in _PADDED:
                self._take_padding(node, nodes)
            elif node.op in ("pad", "slice"):
                node = self._cropped(node) or _as_slice(node)
            nodes.append(node)
            self.producer.update((r, node) for r in node.results)
        return drop_dead(Program(self.program.inputs, nodes, self.program.outputs))

    def _take_padding(self, node: Node, nodes: list[Node]) -> None:
        if node.op == "avg_pool" and not node.attributes["count_padding"]:
            return
        x = node.operands[0]
        source, order = self.producer.get(x), tuple(range(len(x.type.shape)))
        transpose = source if source is not None and source.op == "transpose" else None
        if transpose is not None:
            source, order = self.producer.get(transpose.operands[0]), transpose.attributes["order"]
        if source is None or source.op != "pad" or self.number_of(source.operands[1]) != _PADDED[node.op]:
            return
        config = [source.attributes["config"][i] for i in order]
        padding = _added(node, [(low, high) for low, high, _ in config])
        if padding is None or any(interior for _, _, interior in config):
            return
        inner = source.operands[0]
        if transpose is not None:
            shape = tuple(inner.type.shape[i] for i in order)
            moved = self.value(Type(inner.type.dtype, shape))
            nodes.append(Node("transpose", [inner], [moved], transpose.attributes))
            inner = moved
        node.operands = [inner, *node.operands[1:]]
        node.attributes = {**node.attributes, "padding": padding}

    def _cropped(self, node: Node) -> Node | None:
        """A gradient that gives no more than a node keeps of it."""
        x, (result,) = node.operands[0], node.results
        gradient = self.producer.get(x)
        if gradient is None or gradient.op not in _CROPPED or self.uses[x] != 1:
            return None
        crop = _crop(node, x)
        padding = None if crop is None else _added(gradient, crop)
        if padding is None:
            return None
        attributes = {**gradient.attributes, "padding": padding, "spatial": result.type.shape[1:-1]}
        return Node(gradient.op, gradient.operands, [result], attributes)


def _crop(node: Node, x: Value) -> Pairs | None:
    """How much a pad or a slice takes away from every axis; None if it does something else."""
    if node.op == "pad":
        config = node.attributes["config"]
        crops = all(low <= 0 and high <= 0 and not interior for low, high, interior in config)
        return [(-low, -high) for low, high, _ in config] if crops else None
    if any(step != 1 for step in node.attributes["strides"]):
        return None
    sizes = zip(node.attributes["start"], node.results[0].type.shape, x.type.shape, strict=True)
    return [(start, whole - start - size) for start, size, whole in sizes]


def _as_slice(node: Node) -> Node:
    """A pad that only crops is a view."""
    crop = _crop(node, node.operands[0]) if node.op == "pad" else None
    if crop is None:
        return node
    attributes = {"start": tuple(low for low, _ in crop), "strides": (1,) * len(crop)}
    return Node("slice", node.operands[:1], node.results, attributes)


def _added(node: Node, pairs: Pairs) -> tuple[tuple[int, int], ...] | None:
    """The node's padding and what `pairs` adds to it; None if that is beyond spatial axes or negative."""
    if pairs[0] != (0, 0) or pairs[-1] != (0, 0):
        return None
    both = zip(node.attributes["padding"], pairs[1:-1], strict=True)
    padding = tuple((p[0] + low, p[1] + high) for p, (low, high) in both)
    return padding if all(p >= 0 for pair in padding for p in pair) else None
