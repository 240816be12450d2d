"""Softmax over the last axis, and its gradient, as JAX writes them in primitives, become the device's own.

::

    e = exp(x - max x), s = sum e
    e / s                                                =>  y = softmax(x)
    (dy / s - sum(dy * s^-2 * e)) * e                    =>  softmax_gradient(dy, y)

Only where nothing else reads e. In float32 only.
"""

from __future__ import annotations

import math

from jax_mps.compiler.passes.rewriter import Rewriter
from jax_mps.compiler.passes.simplify import drop_dead, live
from jax_mps.compiler.passes.views import row_source
from jax_mps.ir.program import Node, Program, Value


def fuse_softmax(program: Program) -> Program:
    """Rewrites each softmax and gradient of one."""
    return _Softmax(program).run()


class _Softmax(Rewriter):
    def made_by(self, value: Value, *ops: str) -> Node | None:
        """The node that gives a value, through reshapes, if it is one of these ops."""
        node = self.producer.get(value)
        while node is not None and node.op == "reshape":
            node = self.producer.get(node.operands[0])
        return node if node is not None and node.op in ops else None

    def row_of(self, value: Value, *ops: str) -> Node | None:
        """The node, one of `ops`, that gives one number a row, which `value` repeats along the last axis."""
        source = row_source(value, self.producer)
        node = self.producer.get(source) if source is not None else None
        return node if node is not None and node.op in ops else None

    def run(self) -> Program:
        found = [m for n in self.program.nodes if n.op == "exp" and (m := self._match(n)) is not None]
        program = self._rewritten(found)
        read = live(program)
        unread = [m for m in found if m[0].results[0] not in read]
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
        greatest = self.row_of(sub.operands[1], "max", "reduce")
        if greatest is not None and greatest.op == "max":  # of minus infinity and the maximum
            sides = [self.made_by(o, "reduce") for o in greatest.operands]
            least = [self.number_of(o) == -math.inf for o in greatest.operands]
            greatest = sides[1] if least[0] else sides[0] if least[1] else None
        if greatest is None or not _reduces(greatest, "max", x, last):
            return None
        sums = [n for n in self.readers.get(e, []) if n.op == "reduce" and _reduces(n, "sum", e, last)]
        if len(sums) != 1:
            return None
        readers = self.readers[e]
        divisions = [
            n for n in readers if n.op == "div" and n.operands[0] is e and self._is_sum(n.operands[1], sums[0])
        ]
        gradients = [(n, dy) for n in readers if (dy := self._gradient(n, e, sums[0])) is not None]
        return (exp, x, divisions, gradients) if divisions or gradients else None

    def _is_sum(self, value: Value, total: Node) -> bool:
        return self.row_of(value, "reduce") is total

    def _gradient(self, node: Node, e: Value, total: Node) -> Value | None:
        """dy, if a node is (dy / s - sum(dy * s^-2 * e)) * e."""
        whole = _other(node, "mul", e)
        add = None if whole is None else self.producer.get(whole)
        if add is None or add.op != "add":
            return None
        for part, rest in (add.operands, add.operands[::-1]):
            div, negated = self.producer.get(part), self.row_of(rest, "neg")
            if div is None or div.op != "div" or negated is None or not self._is_sum(div.operands[1], total):
                continue
            dy = div.operands[0]
            sum_ = self.made_by(negated.operands[0], "reduce")
            if sum_ is None or not _reduces(sum_, "sum", None, (len(e.type.shape) - 1,)):
                continue
            product = self.producer.get(sum_.operands[0])
            inverse = _other(product, "mul", e)
            scaled = None if inverse is None else self.producer.get(inverse)
            power = self.row_of(other, "integer_pow") if (other := _other(scaled, "mul", dy)) is not None else None
            if power is None or power.attributes["n"] != -2:
                continue
            if self.made_by(power.operands[0], "reduce") is total:
                return dy
        return None

    def _rewritten(self, found: list[tuple[Node, Value, list[Node], list[tuple[Node, Value]]]]) -> Program:
        """The program with these replaced; what nothing reads then is still there."""
        instead: dict[Node, Node] = {}
        same: dict[Value, Value] = {}
        first: dict[Node, Node] = {}
        for exp, x, divisions, gradients in found:
            y = self.value(exp.results[0].type)
            first[exp] = Node("softmax", [x], [y], {})
            same.update((n.results[0], y) for n in divisions)
            instead.update((n, Node("softmax_gradient", [dy, y], n.results, {})) for n, dy in gradients)
        nodes: list[Node] = []
        for node in self.program.nodes:
            if node in first:
                nodes.append(first[node])
            new = instead.get(node, node)
            nodes.append(Node(new.op, [same.get(o, o) for o in new.operands], new.results, new.attributes, new.body))
        outputs = [same.get(o, o) for o in self.program.outputs]
        return Program(self.program.inputs, nodes, outputs)


def _reduces(node: Node, kind: str, x: Value | None, axes: tuple[int, ...]) -> bool:
    return node.attributes["kind"] == kind and tuple(node.attributes["axes"]) == axes and x in (None, node.operands[0])


def _other(node: Node | None, op: str, value: Value) -> Value | None:
    """The operand of a node of this op beside `value`."""
    if node is None or node.op != op or value not in node.operands:
        return None
    return node.operands[1] if node.operands[0] is value else node.operands[0]
