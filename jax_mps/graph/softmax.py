"""Softmax over the last axis, and its gradient, as JAX writes them in primitives, become the device's own.

::

    e = exp(x - max x), s = sum e
    e / s                                                =>  y = softmax(x)
    (dy / s - sum(dy * s^-2 * e)) * e                    =>  softmax_gradient(dy, y)

Only where nothing else reads e. In float32 only. The gradient of a picked element, which is zero elsewhere, becomes
elementwise code where such code reads it: no array of zeros is written.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from jax_mps.graph.links import Links
from jax_mps.graph.simplify import drop_dead, live
from jax_mps.graph.views import VIEWS, View, row_major
from jax_mps.program import Node, Program, Type, Value


def take_softmax(program: Program, elementwise: Collection[str]) -> Program:
    """Rewrites each softmax and gradient of one, then each gradient of a pick."""
    return _Picks(_Softmax(program).run(), elementwise).run()


class _Nodes(Links):
    def made_by(self, value: Value, *ops: str) -> Node | None:
        """The node that gives a value, through reshapes, if it is one of these ops."""
        node = self.producer.get(id(value))
        while node is not None and node.op == "reshape":
            node = self.producer.get(id(node.operands[0]))
        return node if node is not None and node.op in ops else None

    def of_rows(self, value: Value, *ops: str) -> Node | None:
        """The node, one of `ops`, that gives one number a row, which `value` repeats along the last axis."""
        views = []
        while (node := self.producer.get(id(value))) is not None and node.op in VIEWS:
            views.append(node)
            value = node.operands[0]
        if node is None or node.op not in ops or not views:
            return None
        shape = views[0].results[0].type.shape
        view: View | None = View.whole(value)
        for v in reversed(views):
            view = view.through(v) if view is not None else None
        wanted = (*row_major(shape[:-1]), 0)
        same = view is not None and all(
            a == b for a, b, n in zip(view.strides, wanted, shape, strict=True) if n != 1
        )  # fmt: skip
        return node if same and value.type.elements == math.prod(shape[:-1]) else None


class _Softmax(_Nodes):
    def run(self) -> Program:
        found = [m for n in self.program.nodes if n.op == "exp" and (m := self._match(n)) is not None]
        program = self._rewritten(found)
        read = live(program)
        unread = [m for m in found if id(m[0].results[0]) not in read]
        return drop_dead(program if len(unread) == len(found) else self._rewritten(unread))

    def _match(self, exp: Node) -> tuple[Node, Value, list[Node], list[tuple[Node, Value]]] | None:
        """exp's node, x, the divisions, and the gradients each with its dy."""
        (e,) = exp.results
        sub = self.made_by(exp.operands[0], "sub")
        if sub is None or sub.operands[0].type != e.type:
            return None
        if e.type.dtype != "f32" or not e.type.shape or e.type.shape[-1] == 1:
            return None
        x, last = sub.operands[0], (len(e.type.shape) - 1,)
        greatest = self.of_rows(sub.operands[1], "max", "reduce")
        if greatest is not None and greatest.op == "max":  # of minus infinity and the maximum
            sides = [self.made_by(o, "reduce") for o in greatest.operands]
            least = [self._is_least(o) for o in greatest.operands]
            greatest = sides[1] if least[0] else sides[0] if least[1] else None
        if greatest is None or not _reduces(greatest, "max", x, last):
            return None
        sums = [n for n in self.readers.get(id(e), []) if n.op == "reduce" and _reduces(n, "sum", e, last)]
        if len(sums) != 1:
            return None
        readers = self.readers[id(e)]
        divisions = [
            n for n in readers if n.op == "div" and n.operands[0] is e and self._is_sum(n.operands[1], sums[0])
        ]
        gradients = [(n, dy) for n in readers if (dy := self._gradient(n, e, sums[0])) is not None]
        return (exp, x, divisions, gradients) if divisions or gradients else None

    def _is_least(self, value: Value) -> bool:
        node = self.producer.get(id(value))
        while node is not None and node.op in VIEWS:
            node = self.producer.get(id(node.operands[0]))
        return node is not None and node.op == "constant" and node.attributes["value"] == -math.inf

    def _is_sum(self, value: Value, total: Node) -> bool:
        return self.of_rows(value, "reduce") is total

    def _gradient(self, node: Node, e: Value, total: Node) -> Value | None:
        """dy, if a node is (dy / s - sum(dy * s^-2 * e)) * e."""
        add = self.producer.get(id(_other(node, "mul", e)))
        if add is None or add.op != "add":
            return None
        for part, rest in (add.operands, add.operands[::-1]):
            div, negated = self.producer.get(id(part)), self.of_rows(rest, "neg")
            if div is None or div.op != "div" or negated is None or not self._is_sum(div.operands[1], total):
                continue
            dy = div.operands[0]
            sum_ = self.made_by(negated.operands[0], "reduce")
            if sum_ is None or not _reduces(sum_, "sum", None, (len(e.type.shape) - 1,)):
                continue
            product = self.producer.get(id(sum_.operands[0]))
            scaled = self.producer.get(id(_other(product, "mul", e)))
            power = self.of_rows(other, "integer_pow") if (other := _other(scaled, "mul", dy)) is not None else None
            if power is None or power.attributes["n"] != -2:
                continue
            if self.made_by(power.operands[0], "reduce") is total:
                return dy
        return None

    def _rewritten(self, found: list[tuple[Node, Value, list[Node], list[tuple[Node, Value]]]]) -> Program:
        """The program with these replaced; what nothing reads then is still there."""
        instead: dict[int, Node] = {}
        same: dict[int, Value] = {}
        first: dict[int, Node] = {}
        for exp, x, divisions, gradients in found:
            y = self.value(exp.results[0].type)
            first[id(exp)] = Node("softmax", [x], [y], {})
            same.update((id(n.results[0]), y) for n in divisions)
            instead.update((id(n), Node("softmax_gradient", [dy, y], n.results, {})) for n, dy in gradients)
        nodes: list[Node] = []
        for node in self.program.nodes:
            if id(node) in first:
                nodes.append(first[id(node)])
            new = instead.get(id(node), node)
            nodes.append(
                Node(new.op, [same.get(id(o), o) for o in new.operands], new.results, new.attributes, new.body)
            )
        outputs = [same.get(id(o), o) for o in self.program.outputs]
        return Program(self.program.inputs, nodes, outputs)


class _Picks(_Nodes):
    """pick_gradient(dy, index) -> select(iota == index, 0, dy), where elementwise code alone reads it."""

    def __init__(self, program: Program, elementwise: Collection[str]) -> None:
        super().__init__(program)
        self.elementwise = {*elementwise, "select", "reduce"}

    def run(self) -> Program:
        outputs = {id(o) for o in self.program.outputs}
        nodes: list[Node] = []
        for node in self.program.nodes:
            readers = self.readers.get(id(node.results[0]), [])
            fuses = node.op == "pick_gradient" and all(n.op in self.elementwise for n in readers)
            if fuses and id(node.results[0]) not in outputs:
                self._expand(node, nodes)
            else:
                nodes.append(node)
        return Program(self.program.inputs, nodes, self.program.outputs)

    def _expand(self, node: Node, nodes: list[Node]) -> None:
        (dy, index), (result,) = node.operands, node.results
        shape = result.type.shape
        axes = tuple(range(len(shape) - 1))

        def add(op: str, dtype: str, operands: list[Value], of: tuple[int, ...] = shape, **attributes: object) -> Value:
            nodes.append(Node(op, operands, [self.value(Type(dtype, of))], attributes))
            return nodes[-1].results[0]

        here = add(
            "eq", "pred", [add("iota", "s32", [], axis=len(axes)), add("broadcast_in_dim", "s32", [index], axes=axes)]
        )
        zero = add("broadcast_in_dim", "f32", [add("constant", "f32", [], (), value=0.0)], axes=())
        spread = add("broadcast_in_dim", "f32", [dy], axes=axes)
        nodes.append(Node("select", [here, zero, spread], [result], {}))


def _reduces(node: Node, kind: str, x: Value | None, axes: tuple[int, ...]) -> bool:
    return node.attributes["kind"] == kind and tuple(node.attributes["axes"]) == axes and x in (None, node.operands[0])


def _other(node: Node | None, op: str, value: Value) -> Value | None:
    """The operand of a node of this op beside `value`."""
    if node is None or node.op != op or value not in node.operands:
        return None
    return node.operands[1] if node.operands[0] is value else node.operands[0]
