"""Variances as the mean of squares less the square of the mean, as Flax writes batch and layer norm, lose no digits.

::

    mean = sum x / n
    sum x^2 / n - mean^2      =>  sum d^2 / n - (sum d / n)^2,    d = x - shift, shift = the mean of a part of x

The shift is near the mean, so that little cancels whatever the mean is, and x is still read once: the part is a
sixteenth of it. Of few numbers it is all of them, and the variance is sum d^2 / n. In float32 only.
"""

from __future__ import annotations

import math

import numpy as np

from jax_mps.compiler.passes.rewriter import Rewriter
from jax_mps.compiler.passes.simplify import drop_dead
from jax_mps.ir.program import Node, Program, Type, Value

_SHARE = 16  # of the numbers that are summed, one in so many is in the part,
_LEAST = 32  # but so many at least


def shift_variances(program: Program) -> Program:
    """Rewrites each variance of one pass."""
    return drop_dead(_Variances(program).run())


class _Variances(Rewriter):
    def run(self) -> Program:
        nodes: list[Node] = []
        for node in self.program.nodes:
            found = self._match(node)
            nodes += [node] if found is None else self._shifted(node, *found)
        return Program(self.program.inputs, nodes, self.program.outputs)

    def _made_by(self, value: Value, *ops: str) -> Node | None:
        """The node that gives a value, through reshapes, if it is one of these ops."""
        node = self.producer.get(value)
        while node is not None and node.op == "reshape":
            node = self.producer.get(node.operands[0])
        return node if node is not None and node.op in ops else None

    def _square_of(self, value: Value) -> Value | None:
        """What a value is the square of."""
        node = self._made_by(value, "square", "integer_pow", "mul")
        if node is None or node.attributes.get("n", 2) != 2 or node.operands[0] is not node.operands[-1]:
            return None
        return node.operands[0]

    def _mean_of(self, value: Value) -> tuple[Value, tuple[int, ...]] | None:
        """What a value is the mean of, and over which axes."""
        node = self._made_by(value, "div", "mul")
        for i, operand in enumerate(node.operands if node is not None else []):
            assert node is not None
            total, number = self._made_by(operand, "reduce"), self.number_of(node.operands[1 - i])
            if total is None or total.attributes["kind"] != "sum" or number is None or (node.op == "div" and i == 1):
                continue
            (x,), axes = total.operands, tuple(total.attributes["axes"])
            count = math.prod(x.type.shape[a] for a in axes)
            if number in ((count,) if node.op == "div" else (1 / count, float(np.float32(1 / count)))):
                return x, axes
        return None

    def _match(self, node: Node) -> tuple[Value, tuple[int, ...], Value] | None:
        """x, the axes and the mean, if a node gives x's variance."""
        if node.op != "sub" or node.results[0].type.dtype != "f32":
            return None
        squares, mean = self._mean_of(node.operands[0]), self._square_of(node.operands[1])
        if squares is None or mean is None:
            return None
        x, axes = self._square_of(squares[0]), squares[1]
        whole = self._mean_of(mean)
        if x is None or whole is None or x.type != squares[0].type or whole[0].type != x.type:
            return None
        same = whole[0] is x and whole[1] == axes and mean.type.elements == node.results[0].type.elements
        return (x, axes, mean) if same else None

    def _shifted(self, node: Node, x: Value, axes: tuple[int, ...], mean: Value) -> list[Node]:
        """The nodes that give the variance."""
        nodes: list[Node] = []
        shape = x.type.shape
        kept = tuple(i for i in range(len(shape)) if i not in axes)
        rest = tuple(shape[i] for i in kept)

        def add(op: str, shape: tuple[int, ...], *operands: Value, **attributes: object) -> Value:
            nodes.append(Node(op, list(operands), [self.value(Type("f32", shape))], attributes))
            return nodes[-1].results[0]

        def mean_of(y: Value) -> Value:
            count = math.prod(y.type.shape[a] for a in axes)
            number = add("broadcast_in_dim", rest, add("constant", (), value=float(count)), axes=())
            return add("div", rest, add("reduce", rest, y, kind="sum", axes=axes), number)

        steps, sizes = _part(shape, axes)
        whole = sizes == shape
        if not whole:
            shift = mean_of(add("slice", sizes, x, start=(0,) * len(shape), strides=steps))
        else:
            shift = mean if mean.type.shape == rest else add("reshape", rest, mean)
        deviation = add("sub", shape, x, add("broadcast_in_dim", shape, shift, axes=kept))
        variance = mean_of(add("square", shape, deviation))
        if not whole:
            variance = add("sub", rest, variance, add("square", rest, mean_of(deviation)))
        nodes.append(Node("reshape", [variance], node.results, {}))
        if variance.type == node.results[0].type:
            nodes.pop()
            nodes[-1].results = node.results
        return nodes


def _part(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and shape of the part: spread over the inner axes, but of the last axis the first numbers."""
    steps, sizes = [1] * len(shape), list(shape)
    share = min(_SHARE, math.prod(shape[a] for a in axes) // _LEAST)
    for axis in sorted(axes, reverse=True):
        step = min(max(share, 1), shape[axis])
        share //= step
        sizes[axis] = -(-shape[axis] // step)
        steps[axis] = 1 if axis == len(shape) - 1 else step
    return tuple(steps), tuple(sizes)
