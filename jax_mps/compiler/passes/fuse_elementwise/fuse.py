"""Fusion: elementwise nodes and the reductions of what they compute become few `chain` nodes.

::

    x ── sub ── mul ── add ── max ──> y          chain(x, mean, scale, shift) -> y, sum of y
                               └── reduce ──>

A chain's roots are the values that must be in memory: what other ops read, what the program returns, what is reduced.
Everything else between roots is computed again where it is needed, in registers, unless that would read or compute too
much. Roots over the same index space that read the same arrays share one chain, so each array is read once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from jax_mps.compiler.passes.views import View, constant_of
from jax_mps.ir.ops import IN_CHAINS, VIEWS
from jax_mps.ir.program import Node, Program, Type, Value

MAX_CODE, MAX_OPERANDS = 96, 24  # of one root
MAX_GROUP_CODE = 384  # of one chain
RECOMPUTED_CODE, RECOMPUTED_READS = 24, 2  # what is computed again rather than kept
SMALL_SHARE = 8  # an operand of fewer elements than this share of the result costs nothing to read again


@dataclass
class _Group:
    """One chain to be: roots over one index space."""

    shape: tuple[int, ...]
    roots: list[Node] = field(default_factory=list)  # elementwise nodes to store, and reduce nodes
    reads: set[Value] = field(default_factory=set)  # values read from memory
    code: int = 0  # of all roots


class _Fusion:
    def __init__(self, program: Program, separate: bool):
        self.program = program
        self.separate = separate
        self.producer = {r: n for n in program.nodes for r in n.results}
        self.kept: set[Value] = set()  # values in memory
        self.code: dict[Value, int] = {}  # of an elementwise value, how many instructions compute it
        self._choose_kept()

    def is_elementwise(self, value: Value) -> bool:
        node = self.producer.get(value)
        return node is not None and (node.op in IN_CHAINS)

    def view(self, value: Value) -> View | None:
        """Where a value's elements lie: in a base that is no view itself. None if it must be copied first."""
        node = self.producer.get(value)
        if node is None or node.op not in VIEWS:
            return View.whole(value)
        inner = self.view(node.operands[0]) if node.operands[0] not in self.kept else View.whole(node.operands[0])
        return None if inner is None else inner.through(node)

    def constant(self, value: Value) -> Node | None:
        """The node of the number that a value is everywhere, or None."""
        return constant_of(value, self.producer)

    def _choose_kept(self) -> None:
        uses = Counter(o for n in self.program.nodes for o in n.operands)
        uses.update(self.program.outputs)
        reads: dict[Value, frozenset[Value]] = {}
        elements: dict[Value, int] = {}  # of each value that is read
        code = self.code
        outputs = set(self.program.outputs)
        wanted: set[Value] = set(outputs)
        for node in self.program.nodes:
            if not (self.is_elementwise_node(node) or node.op == "reduce" or node.op in VIEWS):
                wanted.update(node.operands)
        for node in self.program.nodes:
            for result in node.results:
                if node.op in VIEWS:
                    source = node.operands[0]
                    if self.constant(source) is not None:
                        if result in wanted:
                            self.kept.add(result)
                        continue
                    if self.is_elementwise(source):
                        self.kept.add(source)  # computed once in its own shape
                    if self.view(result) is None:
                        self.kept.add(source)  # copied, to lie as the reshape reads it
                    view = self.view(result)
                    assert view is not None
                    if result in wanted and not view.contiguous:
                        self.kept.add(result)  # copied
                elif not self.is_elementwise_node(node):
                    self.kept.add(result)
                elif node.op == "constant":
                    if result in wanted:
                        self.kept.add(result)
                else:
                    leaves: frozenset[Value] = frozenset()
                    size = 1
                    for operand in node.operands:
                        if self.constant(operand) is not None:
                            continue
                        inner = self.is_elementwise(operand) and operand not in self.kept
                        if inner:
                            leaves |= reads[operand]
                            size += code[operand]
                        else:
                            leaves |= self._leaf(operand, elements)
                    if len(leaves) > MAX_OPERANDS - 4 or size > MAX_CODE - 8:
                        for operand in node.operands:  # the chain ends before this node
                            if self.is_elementwise(operand) and self.constant(operand) is None:
                                self.kept.add(operand)
                        leaves = frozenset(
                            i for o in node.operands if self.constant(o) is None for i in self._leaf(o, elements)
                        )
                        size = 1
                    reads[result], code[result] = leaves, size
                    large = sum(elements[i] * SMALL_SHARE >= result.type.elements for i in leaves)
                    costly = self.separate or (
                        uses[result] > 1 and (large > RECOMPUTED_READS or size > RECOMPUTED_CODE)
                    )
                    if result in wanted or costly:
                        self.kept.add(result)

    def _leaf(self, value: Value, elements: dict[Value, int]) -> frozenset[Value]:
        base = self.base(value)
        elements[base] = base.type.elements
        return frozenset([base])

    def is_elementwise_node(self, node: Node) -> bool:
        return node.op in IN_CHAINS

    def groups(self) -> list[_Group | Node]:
        """Chains to be and other nodes, in an order that runs."""
        order: list[_Group | Node] = []
        behind: list[int] = []  # of each item of the order, the items that it waits for, as bits
        maker: dict[Value, int] = {}  # of each kept value, the item that makes it
        readers: dict[tuple[tuple[int, ...], Value], list[int]] = {}  # by shape and value, the groups that read it
        for node in self.program.nodes:
            root = node.op == "reduce" or (
                any(r in self.kept for r in node.results) and (self.is_elementwise_node(node) or node.op in VIEWS)
            )
            if not root and (self.is_elementwise_node(node) or node.op in VIEWS):
                continue
            reads, registers = self._reads(node) if root else ({self.base(o) for o in node.operands}, set[Value]())
            waits = 0
            for read in reads:
                if read in maker:
                    waits |= 1 << maker[read] | behind[maker[read]]
            if not root:
                maker.update((r, len(order)) for r in node.results)
                order.append(node)
                behind.append(waits)
                continue
            shape = node.operands[0].type.shape if node.op == "reduce" else node.results[0].type.shape
            near = {maker[r] for r in registers if r in maker}.union(*(readers.get((shape, r), ()) for r in reads))
            index = self._joinable(order, sorted(near, reverse=True), node, shape, reads, registers, behind, maker)
            if index is None:
                index = len(order)
                order.append(_Group(shape))
                behind.append(0)
            group = order[index]
            assert isinstance(group, _Group)
            group.roots.append(node)
            for read in reads - group.reads:
                readers.setdefault((shape, read), []).append(index)
            group.reads |= reads
            group.code += self._code(node)
            bit = 1 << index
            more = waits & ~bit & ~behind[index]
            behind[index] |= more
            if more:  # whoever waits for the group now waits for what the group waits for
                behind = [b | more if b & bit else b for b in behind]
            maker.update((r, index) for r in node.results)
        return _sorted(order, behind)

    def _joinable(
        self,
        order: list[_Group | Node],
        near: list[int],
        node: Node,
        shape: tuple[int, ...],
        reads: set[Value],
        registers: set[Value],
        behind: list[int],
        maker: dict[Value, int],
    ) -> int | None:
        for index in near if not self.separate else []:
            group = order[index]
            if not isinstance(group, _Group) or group.shape != shape or len(group.roots) >= 12:
                continue
            direct = {r for r in registers if maker.get(r) == index and self.is_elementwise_node(self.producer[r])}
            if not (direct or reads & group.reads) or len(group.reads | reads) > MAX_OPERANDS:
                continue
            if group.code + self._code(node) > MAX_GROUP_CODE:
                continue
            # A wait for the group other than by a register of it would be a circle.
            outside = [maker[read] for read in reads - direct if read in maker]
            if not any(item == index or behind[item] >> index & 1 for item in outside):
                return index
        return None

    def _code(self, root: Node) -> int:
        """How long the code of a root is at most."""
        return self.code.get(root.operands[0] if root.op == "reduce" else root.results[0], 1) if root.operands else 1

    def _reads(self, root: Node) -> tuple[set[Value], set[Value]]:
        """The bases in memory that computing a root reads, and those read only element by element in its own shape."""
        found: set[Value] = set()
        viewed: set[Value] = set()
        todo = list(root.operands)
        if root.op in VIEWS:
            viewed.add(self.base(root.operands[0]))
        while todo:
            value = todo.pop()
            if self.constant(value) is not None:
                continue
            if self.is_elementwise(value) and value not in self.kept:
                node = self.producer[value]
                if node.op != "iota":
                    todo += node.operands
            else:
                found.add(self.base(value))
                if self.base(value) is not value:
                    viewed.add(self.base(value))
        return found, found - viewed

    def base(self, value: Value) -> Value:
        """The value in memory that a value is, or is a view of."""
        if value in self.kept:
            return value
        view = self.view(value)
        assert view is not None
        return view.base


def _sorted(order: list[Any], behind: list[int]) -> list[Any]:
    """The items so that each comes after those it waits for, otherwise as they were."""
    done = 0
    result: list[Any] = []
    for last in range(len(order)):
        todo = [last]
        while todo:
            index = todo[-1]
            waits = behind[index] & ~done
            if done >> index & 1 or not waits:
                todo.pop()
                if not done >> index & 1:
                    done |= 1 << index
                    result.append(order[index])
            else:
                todo.append((waits & -waits).bit_length() - 1)  # the first of them
    return result


def fuse(program: Program, separate: bool = False) -> Program:
    """The program with all elementwise nodes, reductions and views in chains; each in its own if `separate`."""
    fusion = _Fusion(program, separate)
    fused = Program(list(program.inputs), [], [])
    shaped: dict[Value, Value] = {}
    for item in fusion.groups():
        if isinstance(item, _Group):
            fused.nodes.append(_chain(item, fusion))
        else:
            operands = [_in_memory(o, fusion, fused, shaped) for o in item.operands]
            fused.nodes.append(replace(item, operands=operands))
    fused.outputs = [fusion.base(o) for o in program.outputs]
    return fused


def _in_memory(value: Value, fusion: _Fusion, fused: Program, shaped: dict[Value, Value]) -> Value:
    """The value in memory that `value` is, under its shape."""
    base = fusion.base(value)
    if base.type == value.type:
        return base
    if value not in shaped:
        shaped[value] = value
        fused.nodes.append(Node("reshape", [base], [value], {}))
    return shaped[value]


def _chain(group: _Group, fusion: _Fusion) -> Node:
    code: list[str] = []
    operands: list[View] = []
    loads: dict[tuple[Value, tuple[int, ...], int], int] = {}
    pending: list[Any] = []

    # Registers of operands come first, so the code is collected with symbolic names and numbered at the end.
    def load(view: View) -> str:
        key = (view.base, view.strides, view.offset)
        if key not in loads:
            loads[key] = len(operands)
            operands.append(view)
        return f"%{loads[key]}"

    names: dict[Any, str] = {}

    def emit(key: Any, line: str) -> str:
        if key not in names:
            names[key] = f"${len(pending)}"
            pending.append(line)
        return names[key]

    stored = {n.results[0] for n in group.roots if n.op != "reduce"}

    def register(value: Value) -> str:
        constant = fusion.constant(value)
        if constant is not None:
            return emit(
                ("constant", constant.results[0].type.dtype, repr(constant.attributes["value"])), _constant(constant)
            )
        node = fusion.producer.get(value)
        own = value in stored and node is not None and node.op not in VIEWS
        if own or (fusion.is_elementwise(value) and value not in fusion.kept):
            return compute(value)
        if value in fusion.kept or node is None:
            return load(View.whole(value))
        view = fusion.view(value)
        assert view is not None
        return load(view)

    def compute(value: Value) -> str:
        if value in names:
            return names[value]
        node = fusion.producer[value]
        registers = [register(o) for o in node.operands]
        own = value  # of a line, but for constants, which all share
        return _instructions(
            node, registers, lambda line: emit((not line.startswith("const") and own, line), line), names, own
        )

    outputs: list[tuple[Any, ...]] = []
    results: list[Value] = []
    for root in group.roots:
        if root.op == "reduce":
            outputs.append((root.attributes["kind"], register(root.operands[0]), tuple(root.attributes["axes"])))
        elif root.op in VIEWS:
            if fusion.constant(root.results[0]) is not None:
                outputs.append(("store", register(root.results[0])))
            else:
                view = fusion.view(root.results[0])
                assert view is not None
                outputs.append(("store", load(view)))
        elif root.op == "constant":
            outputs.append(("store", register(root.results[0])))
        else:
            outputs.append(("store", compute(root.results[0])))
        results.append(root.results[0])

    def number(name: str) -> int:
        return int(name[1:]) + (len(operands) if name[0] == "$" else 0)

    for line in pending:
        word, *rest = line.split(" ")
        code.append(" ".join([word, *(str(number(r)) if r[0] in "%$" else r for r in rest)]))
    attributes = {
        "shape": group.shape,
        "strides": tuple(v.strides for v in operands),
        "offsets": tuple(v.offset for v in operands),
        "code": tuple(code),
        "outputs": tuple((o[0], number(o[1]), *o[2:]) for o in outputs),
    }
    return Node("chain", [v.base for v in operands], results, attributes)


_REGISTERS = {"f32": "f32", "bf16": "f32", "f16": "f32", "s32": "s32", "u32": "u32", "u8": "u32", "pred": "pred"}
_WRAPPING = {"add", "sub", "mul", "square", "div", "not", "shift_left", "integer_pow", "convert"}  # beyond a byte


def _constant(node: Node) -> str:
    kind, value = _REGISTERS[node.results[0].type.dtype], node.attributes["value"]
    return f"const {float(value)!r}" if kind == "f32" else f"const_{kind} {int(value)}"


def _instructions(node: Node, registers: list[str], emit: Any, names: dict[Any, str], key: Any) -> str:
    result: Type = node.results[0].type
    if node.op == "integer_pow":
        last = emit(f"integer_pow {registers[0]} {node.attributes['n']}")
    elif node.op == "iota":
        last = emit(f"iota {node.attributes['axis']}")
    elif node.op == "bitcast":
        last = emit(f"bitcast_{result.dtype} {registers[0]}")
    elif node.op == "convert":
        source, kind = (_REGISTERS[t.dtype] for t in (node.operands[0].type, result))
        last = registers[0] if source == kind else emit(f"convert_{kind} {registers[0]}")
    else:
        last = emit(" ".join([node.op, *registers]))
    if result.dtype in ("bf16", "f16") and node.op not in ("select", "clamp"):
        last = emit(f"round_{result.dtype} {last}")
    if result.dtype == "u8" and node.op in _WRAPPING:
        last = emit(f"and {last} {emit('const_u32 255')}")
    names[key] = last
    return last
