"""Layout: elementwise code and reductions between transposes run in the order of axes that lies in memory.

::

    conv ── transpose ── add ── max ── transpose ──> conv        conv ── add ── max ──> conv
                          └── reduce ──>                                    └── reduce ──>

Networks over channels first, or over single images under vmap, surround every convolution with transposes. One of them
moves behind an elementwise node if all of that node's operands are transposed alike (or are broadcast, which any order
can be), and if there is something to gain: a transpose that it undoes, or a reduction. A transpose of a transpose is
one, or none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from jax_mps.ir.program import Node, Program, Type, Value

Order = tuple[int, ...]  # axis i comes from axis order[i]
_ALSO_ELEMENTWISE = {"select", "clamp", "convert", "integer_pow", "bitcast"}


def sink_transposes(program: Program, elementwise: Collection[str], names: Iterator[int]) -> Program:
    """The program with transposes behind what they need not come before; new values get the next of `names`."""
    return _Sinking(program, elementwise, names).run()


class _Sinking:
    def __init__(self, program: Program, elementwise: Collection[str], names: Iterator[int]) -> None:
        self.program, self.elementwise, self.names = program, elementwise, names
        self.producer = {id(r): n for n in program.nodes for r in n.results}
        self.order: dict[int, Order] = {}  # of a value that is, or could be, a transposed one
        for node in program.nodes:
            order = self._order(node)
            if order is not None:
                self.order[id(node.results[0])] = order
        self.gains = self._gains()
        self.base: dict[int, Value] = {}  # of a value, what it is the transposed of
        self.same: dict[int, Value] = {}  # of a value, the equal one that stays
        self.nodes: list[Node] = []

    def _elementwise(self, node: Node) -> bool:
        return node.op in self.elementwise or node.op in _ALSO_ELEMENTWISE

    def _broadcast(self, value: Value) -> Node | None:
        node = self.producer.get(id(value))
        return node if node is not None and node.op == "broadcast_in_dim" else None

    def _order(self, node: Node) -> Order | None:
        """How the node's result is, or could be, the transposed of another."""
        if node.op == "transpose":
            inner = self.order.get(id(node.operands[0]))
            order: Order = tuple(node.attributes["order"])
            return order if inner is None else tuple(inner[i] for i in order)
        if node.op == "reduce" and id(node.operands[0]) in self.order:
            return _reduced(self.order[id(node.operands[0])], node.attributes["axes"])[1]
        if not self._elementwise(node) or not node.operands:
            return None
        whole = [o for o in node.operands if self._broadcast(o) is None]
        orders = {self.order.get(id(o)) for o in whole}
        shapes = {o.type.shape for o in node.operands}
        return orders.pop() if len(orders) == 1 and shapes == {node.results[0].type.shape} else None

    def _gains(self) -> set[int]:
        """The elementwise nodes that transposes move behind."""
        wanted: set[int] = set()  # values that a transpose, a reduction or such a node reads
        found = set()
        for node in reversed(self.program.nodes):
            gains = self._elementwise(node) and id(node.results[0]) in self.order and id(node.results[0]) in wanted
            if gains:
                found.add(id(node))
            if gains or node.op in ("transpose", "reduce"):
                wanted.update(map(id, node.operands))
        return found

    def run(self) -> Program:
        for node in self.program.nodes:
            node.operands = [self.same.get(id(o), o) for o in node.operands]
            if node.op == "transpose":
                self._transpose(node)
            elif node.op == "reduce" and id(node.operands[0]) in self.base:
                self._reduce(node)
            elif id(node) in self.gains and any(id(o) in self.base for o in node.operands):
                self._sink(node)
            else:
                self.nodes.append(node)
        outputs = [self.same.get(id(o), o) for o in self.program.outputs]
        return Program(self.program.inputs, self.nodes, outputs)

    def _transpose(self, node: Node) -> None:
        order = self.order[id(node.results[0])]
        source = node.operands[0]
        if id(source) in self.base:
            source = self.base[id(source)]
        else:
            order = tuple(node.attributes["order"])
        self._transposed(source, order, node.results[0])

    def _transposed(self, base: Value, order: Order, result: Value) -> None:
        if order == tuple(range(len(order))):
            self.same[id(result)] = base
            return
        self.base[id(result)], self.order[id(result)] = base, order
        self.nodes.append(Node("transpose", [base], [result], {"order": order}))

    def _reduce(self, node: Node) -> None:
        source, result = node.operands[0], node.results[0]
        base = self.base[id(source)]
        axes, order = _reduced(self.order[id(source)], node.attributes["axes"])
        shape = tuple(n for i, n in enumerate(base.type.shape) if i not in axes)
        made = Value(next(self.names), Type(result.type.dtype, shape))
        self.nodes.append(Node("reduce", [base], [made], {**node.attributes, "axes": axes}))
        self._transposed(made, order, result)

    def _sink(self, node: Node) -> None:
        result = node.results[0]
        order = next(self.order[id(o)] for o in node.operands if id(o) in self.base)
        shape = tuple(result.type.shape[order.index(i)] for i in range(len(order)))
        operands = [self.base[id(o)] if id(o) in self.base else self._other(o, order, shape) for o in node.operands]
        made = Value(next(self.names), Type(result.type.dtype, shape))
        self.nodes.append(Node(node.op, operands, [made], node.attributes))
        self._transposed(made, order, result)

    def _other(self, value: Value, order: Order, shape: tuple[int, ...]) -> Value:
        """An operand that is no transposed value, in the order that lies in memory."""
        made = Value(next(self.names), Type(value.type.dtype, shape))
        node = self._broadcast(value)
        if node is None:  # it turned out to lie as it is
            back = tuple(order.index(i) for i in range(len(order)))
            self.nodes.append(Node("transpose", [value], [made], {"order": back}))
        else:
            axes = tuple(order[a] for a in node.attributes["axes"])
            self.nodes.append(Node("broadcast_in_dim", node.operands, [made], {"axes": axes}))
        return made


def _reduced(order: Order, axes: tuple[int, ...]) -> tuple[tuple[int, ...], Order]:
    """The axes to reduce before a transpose instead of `axes` after it, and the order of what is left."""
    kept = [order[i] for i in range(len(order)) if i not in axes]
    return tuple(sorted(order[a] for a in axes)), tuple(sorted(kept).index(a) for a in kept)
