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

from jax_mps.ir.ops import ELEMENTWISE
from jax_mps.ir.program import Names, Node, Program, Type, Value

Order = tuple[int, ...]  # axis i comes from axis order[i]


def sink_transposes(program: Program, names: Names) -> Program:
    """The program with transposes behind what they need not come before; `names` names new values."""
    return _Sinking(program, names).run()


class _Sinking:
    def __init__(self, program: Program, names: Names) -> None:
        self.program, self.names = program, names
        self.producer = {r: n for n in program.nodes for r in n.results}
        self.order: dict[Value, Order] = {}  # of a value that is, or could be, a transposed one
        for node in program.nodes:
            order = self._order(node)
            if order is not None:
                self.order[node.results[0]] = order
        self.gains = self._gains()
        self.base: dict[Value, Value] = {}  # of a value, what it is the transposed of
        self.same: dict[Value, Value] = {}  # of a value, the equal one that stays
        self.nodes: list[Node] = []

    def _broadcast(self, value: Value) -> Node | None:
        node = self.producer.get(value)
        return node if node is not None and node.op == "broadcast_in_dim" else None

    def _order(self, node: Node) -> Order | None:
        """How the node's result is, or could be, the transposed of another."""
        if node.op == "transpose":
            inner = self.order.get(node.operands[0])
            order: Order = tuple(node.attributes["order"])
            return order if inner is None else tuple(inner[i] for i in order)
        if node.op == "reduce" and node.operands[0] in self.order:
            return _reduced(self.order[node.operands[0]], node.attributes["axes"])[1]
        if node.op not in ELEMENTWISE or not node.operands:
            return None
        whole = [o for o in node.operands if self._broadcast(o) is None]
        orders = {self.order.get(o) for o in whole}
        shapes = {o.type.shape for o in node.operands}
        return orders.pop() if len(orders) == 1 and shapes == {node.results[0].type.shape} else None

    def _gains(self) -> set[Node]:
        """The elementwise nodes that transposes move behind."""
        wanted: set[Value] = set()  # values that a transpose, a reduction or such a node reads
        found = set()
        for node in reversed(self.program.nodes):
            gains = node.op in ELEMENTWISE and node.results[0] in self.order and node.results[0] in wanted
            if gains:
                found.add(node)
            if gains or node.op in ("transpose", "reduce"):
                wanted.update(node.operands)
        return found

    def run(self) -> Program:
        for node in self.program.nodes:
            node.operands = [self.same.get(o, o) for o in node.operands]
            if node.op == "transpose":
                self._transpose(node)
            elif node.op == "reduce" and node.operands[0] in self.base:
                self._reduce(node)
            elif node in self.gains and any(o in self.base for o in node.operands):
                self._sink(node)
            else:
                self.nodes.append(node)
        outputs = [self.same.get(o, o) for o in self.program.outputs]
        return Program(self.program.inputs, self.nodes, outputs)

    def _transpose(self, node: Node) -> None:
        order = self.order[node.results[0]]
        source = node.operands[0]
        if source in self.base:
            source = self.base[source]
        else:
            order = tuple(node.attributes["order"])
        self._transposed(source, order, node.results[0])

    def _transposed(self, base: Value, order: Order, result: Value) -> None:
        if order == tuple(range(len(order))):
            self.same[result] = base
            return
        self.base[result], self.order[result] = base, order
        self.nodes.append(Node("transpose", [base], [result], {"order": order}))

    def _reduce(self, node: Node) -> None:
        source, result = node.operands[0], node.results[0]
        base = self.base[source]
        axes, order = _reduced(self.order[source], node.attributes["axes"])
        shape = tuple(n for i, n in enumerate(base.type.shape) if i not in axes)
        made = self.names.value(Type(result.type.dtype, shape))
        self.nodes.append(Node("reduce", [base], [made], {**node.attributes, "axes": axes}))
        self._transposed(made, order, result)

    def _sink(self, node: Node) -> None:
        result = node.results[0]
        order = next(self.order[o] for o in node.operands if o in self.base)
        shape = tuple(result.type.shape[order.index(i)] for i in range(len(order)))
        operands = [self.base[o] if o in self.base else self._other(o, order, shape) for o in node.operands]
        made = self.names.value(Type(result.type.dtype, shape))
        self.nodes.append(Node(node.op, operands, [made], node.attributes))
        self._transposed(made, order, result)

    def _other(self, value: Value, order: Order, shape: tuple[int, ...]) -> Value:
        """An operand that is no transposed value, in the order that lies in memory."""
        made = self.names.value(Type(value.type.dtype, shape))
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
