"""Picks, such as cross-entropy makes by integer labels, and their gradients touch no more than what is picked.

::

    hot = (iota == index), m one number a row
    sum of select(hot, x, 0) over a row             =>  select(inside, pick(x, index), 0), inside = 0 <= index < classes
    select(hot, m, 0)                               =>  pick_gradient(m, index)
    pick(x - m, index)                              =>  pick(x, index) - m
    sum of pick_gradient(dy, index) over a row      =>  select(inside, dy, 0)
    pick_gradient(dy, index)                        =>  select(hot, dy, 0)

So labels as numbers and as one-hot rows are one. A pick moves before arithmetic of which one operand alone is not the
same along a row: log_softmax is not written for one number of each row. The last rule is for what elementwise code
alone reads, so that no array of zeros is written. In float32 only.
"""

from __future__ import annotations

import math

from jax_mps.compiler.passes.rewriter import Rewriter
from jax_mps.compiler.passes.simplify import drop_dead
from jax_mps.compiler.passes.views import row_major, row_source, view_of
from jax_mps.ir.ops import ARITHMETIC, ELEMENTWISE, VIEWS
from jax_mps.ir.program import Node, Program, Type, Value

_PASSED = {"add", "sub", "mul", "div", "neg"}  # NaN, which stands for an index out of range, stays NaN
_FUSED = ARITHMETIC | {"select", "reduce"}  # readers with which a gradient is fused
_COMPUTED = ELEMENTWISE | VIEWS | {"reduce", "iota"}  # in a chain: not in memory unless something else wants it there


def gather_labels(program: Program) -> Program:
    """Finds picks, moves each before the arithmetic that it reads, then rewrites each gradient of a pick."""
    program = _Gradients(_OneHots(program).run()).run()
    return drop_dead(_Picks(program).run())


class _Nodes(Rewriter):
    """What the rewritings share: the new list of nodes."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.nodes: list[Node] = []

    def add(self, op: str, dtype: str, shape: tuple[int, ...], *operands: Value, **attributes: object) -> Value:
        """Adds a node of one new result."""
        self.nodes.append(Node(op, list(operands), [self.value(Type(dtype, shape))], attributes))
        return self.nodes[-1].results[0]

    def spread(self, x: Value, shape: tuple[int, ...], axes: tuple[int, ...]) -> Value:
        """`x` with axis i put at axes[i]."""
        return self.add("broadcast_in_dim", x.type.dtype, shape, x, axes=axes)

    def number(self, value: float, dtype: str, shape: tuple[int, ...]) -> Value:
        """A number everywhere."""
        return self.spread(self.add("constant", dtype, (), value=value), shape, ())

    def where_inside(self, index: Value, classes: int, x: Value, result: Value) -> None:
        """result = x where the index names a class, else 0."""
        shape = index.type.shape
        inside = [
            self.add("ge", "pred", shape, index, self.number(0, "s32", shape)),
            self.add("lt", "pred", shape, index, self.number(classes, "s32", shape)),
        ]
        here = self.add("and", "pred", shape, *inside)
        self.nodes.append(Node("select", [here, self.number(0.0, "f32", shape), x], [result], {}))

    def row(self, value: Value) -> Value | None:
        """What `value` repeats along the last axis: one number a row, or one number."""
        source = self.source(value)
        return source if source.type.elements == 1 else row_source(value, self.producer)

    def source(self, value: Value) -> Value:
        """The value that `value` is a view of."""
        while (node := self.producer.get(value)) is not None and node.op in VIEWS:
            value = node.operands[0]
        return value

    def of_rows(self, row: Value, shape: tuple[int, ...]) -> Value:
        """What `row` gave, in the shape of the rows."""
        if row.type.shape == shape:
            return row
        if row.type.elements == math.prod(shape):
            return self.add("reshape", row.type.dtype, shape, row)
        return self.spread(self.add("reshape", row.type.dtype, (), row), shape, ())

    def passed(self, x: Value) -> tuple[Node, list[Value | None]] | None:
        """The arithmetic that a pick moves before, and its operands that are rows; the one None is picked from."""
        node = self.producer.get(x)
        if node is None or node.op not in _PASSED or x.type.dtype != "f32":
            return None
        rows = [self.row(o) for o in node.operands]
        return (node, rows) if rows.count(None) == 1 else None


class _OneHots(_Nodes):
    def run(self) -> Program:
        for node in self.program.nodes:
            if not (self._sum(node) if node.op == "reduce" else node.op == "select" and self._gradient(node)):
                self.nodes.append(node)
        return drop_dead(Program(self.program.inputs, self.nodes, self.program.outputs))

    def _one_hot(self, node: Node | None) -> Value | None:
        """The index of a node that selects by one-hot rows from zeros and something in float32."""
        if node is None or node.op != "select" or node.results[0].type.dtype != "f32":
            return None
        hot = self.producer.get(node.operands[0])
        if self.number_of(node.operands[1]) != 0 or hot is None or hot.op != "eq":
            return None
        for one, other in (hot.operands, hot.operands[::-1]):
            index = row_source(other, self.producer)
            if index is not None and index.type.dtype == "s32" and self._counts_classes(one):
                return index
        return None

    def _counts_classes(self, value: Value) -> bool:
        """Whether an element of `value` is its place along the last axis."""
        view, shape = view_of(value, self.producer), value.type.shape
        node = self.producer.get(view.base) if view is not None else None
        if view is None or node is None or node.op != "iota" or view.offset or not shape:
            return False
        axis, base = node.attributes["axis"], view.base.type.shape
        alone = all(n == 1 or s == 0 for n, s in zip(shape[:-1], view.strides[:-1], strict=True))
        return alone and shape[-1] == base[axis] > 1 and view.strides[-1] == row_major(base)[axis]

    def _sum(self, node: Node) -> bool:
        made = self.producer.get(node.operands[0])
        index = self._one_hot(made) if _sums_rows(node) else None
        if made is None or index is None or not self._is_in_memory(made.operands[2]):
            return False
        (result,), shape = node.results, node.results[0].type.shape
        index = self.of_rows(index, shape)
        picked = self.add("pick", "f32", shape, made.operands[2], index)
        self.where_inside(index, made.results[0].type.shape[-1], picked, result)
        return True

    def _is_in_memory(self, x: Value) -> bool:
        """Whether what a pick from `x` reads is there without it."""
        while (found := self.passed(x)) is not None:
            x = found[0].operands[found[1].index(None)]
        node = self.producer.get(x)
        return node is None or node.op not in _COMPUTED

    def _gradient(self, node: Node) -> bool:
        index, row = self._one_hot(node), self.row(node.operands[2])
        if index is None or row is None:
            return False
        shape = node.results[0].type.shape
        operands = [self.of_rows(row, shape[:-1]), self.of_rows(index, shape[:-1])]
        self.nodes.append(Node("pick_gradient", operands, node.results, {"classes": shape[-1]}))
        return True


class _Picks(_Nodes):
    def run(self) -> Program:
        for node in self.program.nodes:
            if node.op == "pick":
                x, index = node.operands
                self._pick(x, index, node.results[0])
            else:
                self.nodes.append(node)
        return Program(self.program.inputs, self.nodes, self.program.outputs)

    def _pick(self, x: Value, index: Value, result: Value) -> None:
        """Adds the nodes of result = pick(x, index)."""
        found = self.passed(x)
        if found is None:
            self.nodes.append(Node("pick", [x, index], [result], {}))
            return
        node, operands = found[0], []
        for operand, row in zip(node.operands, found[1], strict=True):
            if row is None:
                operands.append(self.value(result.type))
                self._pick(operand, index, operands[-1])
            else:
                operands.append(self.of_rows(row, result.type.shape))
        self.nodes.append(Node(node.op, operands, [result], {}))


class _Gradients(_Nodes):
    def run(self) -> Program:
        outputs = set(self.program.outputs)
        for node in self.program.nodes:
            readers = self.readers.get(node.results[0], [])
            fuses = node.op == "pick_gradient" and all(n.op in _FUSED for n in readers)
            if fuses and node.results[0] not in outputs:
                self._expand(node)
            elif node.op != "reduce" or not self._sum(node):
                self.nodes.append(node)
        return drop_dead(Program(self.program.inputs, self.nodes, self.program.outputs))

    def _expand(self, node: Node) -> None:
        (dy, index), (result,) = node.operands, node.results
        shape = result.type.shape
        axes = tuple(range(len(shape) - 1))
        here = self.add(
            "eq", "pred", shape, self.add("iota", "s32", shape, axis=len(axes)), self.spread(index, shape, axes)
        )
        zeros, spread = self.number(0.0, "f32", shape), self.spread(dy, shape, axes)
        self.nodes.append(Node("select", [here, zeros, spread], [result], {}))

    def _sum(self, node: Node) -> bool:
        """Replaces the sum over rows of a pick's gradient, or of its negative, if a node is one."""
        made, negative = self.producer.get(node.operands[0]), False
        if made is not None and made.op == "neg":
            made, negative = self.producer.get(made.operands[0]), True
        if made is None or made.op != "pick_gradient" or not _sums_rows(node):
            return False
        dy, index = made.operands
        dy = self.add("neg", "f32", dy.type.shape, dy) if negative else dy
        self.where_inside(index, made.results[0].type.shape[-1], dy, node.results[0])
        return True


def _sums_rows(node: Node) -> bool:
    axes = tuple(node.attributes["axes"]) if node.op == "reduce" else ()
    return axes == (len(node.operands[0].type.shape) - 1,) and node.attributes["kind"] == "sum"
