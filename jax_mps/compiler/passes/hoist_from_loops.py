"""Moves work out of loops: what no iteration changes, and products and sums that all iterations can share.

::

    dot(x[t], w)             w a constant, x[t] a slice     one product of all slices before the loop
    total + dot(a[t], b[t])  total read nowhere else        one product over all iterations after the loop
    total + sum(a[t])        alike                          one sum after the loop
    y[t] = dot(a[t], w)      read nowhere in the loop       one product of all a[t] after the loop

A recurrent network's cell so keeps only the product with its state.
"""

from __future__ import annotations

import math
from collections import Counter

from jax_mps.ir.ops import FREE, VIEWS
from jax_mps.ir.program import Names, Node, Program, Type, Value

_FREE = VIEWS | FREE  # computed where they are read
_ROWS = 512  # of a product: with more, it is as fast alone
_STACKED = 1 << 26  # bytes of a value of all iterations, at most


def hoist(program: Program, names: Names) -> Program:
    """The program with the work of its loops moved out, the innermost first; `names` names new values."""
    nodes: list[Node] = []
    for node in program.nodes:
        if node.body is None:
            nodes.append(node)
        else:
            node.body = hoist(node.body, names)
            nodes += _Loop(node, names).moved()
    return Program(program.inputs, nodes, program.outputs)


class _Loop:
    """One loop on its way: parts of its interface, and the nodes before and after it."""

    def __init__(self, node: Node, names: Names) -> None:
        assert node.body is not None
        self.node, self.names, body = node, names, node.body
        consts, carry = node.attributes["consts"], node.attributes["carry"]
        self.length = node.attributes["length"]
        # Pairs of the value outside and the value inside.
        pairs = list(zip(node.operands, body.inputs, strict=True))
        self.consts, self.first, self.xs = pairs[:consts], pairs[consts : consts + carry], pairs[consts + carry :]
        results = list(zip(node.results, body.outputs, strict=True))
        self.last, self.ys = results[:carry], results[carry:]
        self.nodes = list(body.nodes)
        self.before: list[Node] = []
        self.after: list[Node] = []
        self.sums: dict[Node, Value] = {}  # of a node of the body, the sum of its results

    def moved(self) -> list[Node]:
        """The nodes in place of the loop."""
        self._invariants()
        self._products_of_slices()
        self._totals()
        self._products_of_results()
        self._equal_results()
        consts, first, xs, last, ys = self.consts, self.first, self.xs, self.last, self.ys
        operands, inputs = ([p[i] for p in (*consts, *first, *xs)] for i in (0, 1))
        results, outputs = ([p[i] for p in (*last, *ys)] for i in (0, 1))
        attributes = {**self.node.attributes, "consts": len(consts), "carry": len(first)}
        loop = Node("loop", operands, results, attributes, Program(inputs, self.nodes, outputs))
        return [*self.before, *([loop] if results else []), *self.after]

    def _value(self, type_: Type) -> Value:
        return self.names.value(type_)

    def _stacked(self, type_: Type) -> Type:
        return Type(type_.dtype, (self.length, *type_.shape))

    def _outside(self, value: Value) -> Value:
        """All slices of a value of the body, as a result of the loop or an operand."""
        for pairs in (self.xs, self.ys):
            for outer, inner in pairs:
                if inner is value:
                    return outer
        outer = self._value(self._stacked(value.type))
        self.ys.append((outer, value))
        return outer

    def _is_outside(self, value: Value) -> bool:
        return any(inner is value for _, inner in (*self.xs, *self.ys))

    def _invariants(self) -> None:
        """Nodes of constants alone go before the loop; views and numbers only with what reads them."""
        outer = {inner: outer for outer, inner in self.consts}
        numbers: set[Value] = set()  # values of no constant array
        fixed = set(outer)
        producer = {r: n for n in self.nodes for r in n.results}
        moved: dict[Node, None] = {}  # in order

        def bring(node: Node) -> None:
            for operand in node.operands:
                if operand in producer:
                    bring(producer[operand])
            moved[node] = None

        for node in self.nodes:
            if all(o in numbers for o in node.operands):
                numbers.update(node.results)
            elif all(o in fixed or o in numbers for o in node.operands):
                fixed.update(node.results)
                size = sum(r.type.bytes for r in node.results)
                if node.op not in _FREE and size <= max(64, 2 * sum(o.type.bytes for o in node.operands)):
                    bring(node)
        gone = {n for n in moved if n.op not in _FREE}
        self.nodes = [n for n in self.nodes if n not in gone]
        reads = {o for n in self.nodes for o in n.operands} | {v for _, v in (*self.last, *self.ys)}
        for node in moved:  # under new names, for its own are those of the body's inputs
            results = [self._value(r.type) for r in node.results]
            operands = [outer[o] for o in node.operands]
            self.before.append(Node(node.op, operands, results, node.attributes, node.body))
            outer.update(zip(node.results, results, strict=True))
            if node in gone:
                self.consts += [(o, r) for r, o in zip(node.results, results, strict=True) if r in reads]

    def _products_of_slices(self) -> None:
        slices = {inner: outer for outer, inner in self.xs}
        consts = {inner: outer for outer, inner in self.consts}
        kept = []
        for node in self.nodes:
            plain = self._is_plain_product(node) and self._is_small(node.results[0])
            if not plain or node.operands[0] not in slices or node.operands[1] not in consts:
                kept.append(node)
                continue
            left, right = node.attributes["contract"]
            attributes = {"batch": ((), ()), "contract": (tuple(i + 1 for i in left), right)}
            (result,) = node.results
            whole = self._value(self._stacked(result.type))
            operands = [slices[node.operands[0]], consts[node.operands[1]]]
            self.before.append(Node("dot", operands, [whole], attributes))
            self.xs.append((whole, result))
        self.nodes = kept

    def _is_plain_product(self, node: Node) -> bool:
        """A product without batch whose left side has few rows."""
        if node.op != "dot" or node.attributes["batch"][0] or node.results[0].type.dtype != "f32":
            return False
        contracted = node.attributes["contract"][0]
        rows = [n for i, n in enumerate(node.operands[0].type.shape) if i not in contracted]
        return math.prod(rows) < _ROWS

    def _is_small(self, value: Value) -> bool:
        """Whether the values of all iterations may be kept."""
        return self._is_outside(value) or self.length * value.type.bytes <= _STACKED

    def _uses(self) -> Counter[Value]:
        uses = Counter(o for n in self.nodes for o in n.operands)
        uses.update(v for _, v in (*self.last, *self.ys))
        return uses

    def _totals(self) -> None:
        """Products before sums: what these read may be kept for those already."""
        self._totals_of("dot")
        self._totals_of("reduce")
        self._forget_unread()

    def _totals_of(self, op: str) -> None:
        producer = {r: n for n in self.nodes for r in n.results}
        uses = self._uses()
        for (start, first), (end, last) in [*zip(self.first, self.last, strict=True)]:
            add = producer.get(last)
            if add is None or add.op != "add" or uses[first] != 1 or uses[last] != 1:
                continue
            if first not in add.operands or first.type.dtype != "f32":
                continue
            term = add.operands[1] if add.operands[0] is first else add.operands[0]
            views: list[Node] = []
            source = producer.get(term)
            while source is not None and source.op in VIEWS:
                views.append(source)
                source = producer.get(source.operands[0])
            if source is None or source.op != op or not self._sums(source):
                continue
            total = self._whole(source)
            for view in reversed(views):
                result = self._value(view.results[0].type)
                self.after.append(Node(view.op, [total], [result], view.attributes))
                total = result
            self.after.append(Node("add", [start, total], [end], {}))
            i = next(i for i, (_, v) in enumerate(self.first) if v is first)
            del self.first[i], self.last[i]
            self._drop(add)

    def _sums(self, node: Node) -> bool:
        """Whether a node sums over something, so that it may as well sum over the iterations."""
        if node.op == "reduce":
            f32 = node.operands[0].type.dtype == "f32"
            return node.attributes["kind"] == "sum" and f32 and self._is_outside(node.operands[0])
        if node.op != "dot" or node.attributes["batch"][0] or any(v.type.dtype != "f32" for v in node.operands):
            return False
        more = sum(o.type.bytes for o in node.operands if not self._is_outside(o))
        contracted = math.prod(node.operands[0].type.shape[i] for i in node.attributes["contract"][0])
        small = all(map(self._is_small, node.operands))
        return small and contracted < _ROWS and more <= 2 * node.results[0].type.bytes

    def _whole(self, node: Node) -> Value:
        """The sum of a node's results over all iterations, computed once after the loop."""
        if node in self.sums:
            return self.sums[node]
        result = self._value(node.results[0].type)
        operands = [self._outside(o) for o in node.operands]
        if node.op == "reduce":
            axes = (0, *(a + 1 for a in node.attributes["axes"]))
            made = Node("reduce", operands, [result], {"kind": "sum", "axes": axes})
        else:
            contract = tuple((0, *(a + 1 for a in side)) for side in node.attributes["contract"])
            made = Node("dot", operands, [result], {"batch": ((), ()), "contract": contract})
        self.sums[node] = result
        self.after.append(made)
        return result

    def _products_of_results(self) -> None:
        """Products that only a stack of results reads."""
        consts = {inner: outer for outer, inner in self.consts}
        producer = {r: n for n in self.nodes for r in n.results}
        for outer, inner in [*self.ys]:
            node = producer.get(inner)
            if node is None or not self._is_plain_product(node) or self._uses()[inner] != 1:
                continue
            a, w = node.operands
            if (
                w not in consts
                or not self._is_small(a)
                or not (self._is_outside(a) or a.type.bytes <= inner.type.bytes)
            ):
                continue
            left, right = node.attributes["contract"]
            attributes = {"batch": ((), ()), "contract": (tuple(i + 1 for i in left), right)}
            self.ys = [pair for pair in self.ys if pair[1] is not inner]
            self.after.append(Node("dot", [self._outside(a), consts[w]], [outer], attributes))
            self._drop(node)
        self._forget_unread()

    def _equal_results(self) -> None:
        """A stack of slices of an operand is the operand; two stacks of one value are one."""
        kept: list[tuple[Value, Value]] = []
        for outer, inner in self.ys:
            same = next((o for o, v in (*self.xs, *kept) if v is inner), None)
            if same is None:
                kept.append((outer, inner))
            else:
                self.after.insert(0, Node("reshape", [same], [outer], {}))
        self.ys = kept

    def _drop(self, node: Node) -> None:
        self.nodes = [n for n in self.nodes if n is not node]

    def _forget_unread(self) -> None:
        """Drops nodes and inputs of the body that nothing reads."""
        uses = {v for _, v in (*self.last, *self.ys)}
        kept = []
        for node in reversed(self.nodes):
            if any(r in uses for r in node.results):
                kept.append(node)
                uses.update(node.operands)
        self.nodes = kept[::-1]
        self.consts = [p for p in self.consts if p[1] in uses]
        self.xs = [p for p in self.xs if p[1] in uses]
