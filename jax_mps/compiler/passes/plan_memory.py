"""The memory plan: each intermediate's place in the program's arena."""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jax_mps.compiler.passes.views import row_major
from jax_mps.ir.ops import ALIASES
from jax_mps.ir.program import Node, Program, Value
from jax_mps.primitive import OPS

_ALIGNMENT = {"cpu": 64, "metal": 256}  # of offsets, in bytes: Metal's for buffers placed in a heap


@dataclass(frozen=True)
class Memory:
    """Bytes of a program's intermediates: in the arena, and if each had memory of its own."""

    arena: int
    without_aliasing: int


@dataclass(eq=False)
class Slot:
    """The memory of one intermediate, or of several that follow each other in place."""

    values: list[Value]
    first: int  # the node that writes it
    last: int  # the last node that reads it
    bytes: int
    starts: list[int] = field(default_factory=list)  # of each value, in bytes
    shared: bool = False  # by the operands of a concatenation


def slots(program: Program, device: str = "cpu") -> list[Slot]:
    """The intermediates with their lifetimes; a result takes the memory of an operand that ends there, if it may."""
    outside = {*program.inputs, *program.outputs}
    slot_of: dict[Value, Slot] = {}
    found: list[Slot] = []
    last_read = {o: i for i, n in enumerate(program.nodes) for o in n.operands}
    parts = {r for n in program.nodes if n.op == "part" for r in n.results}
    places = placed_operands(program)
    for i, node in enumerate(program.nodes):
        if node.op in ALIASES:  # another name of the same memory, or of some of it
            if node.operands[0] in slot_of:
                slot = slot_of[node.results[0]] = slot_of[node.operands[0]]
                slot.last = max(slot.last, last_read.get(node.results[0], i))
            continue
        free = [o for o in node.operands if o in slot_of and slot_of[o].last == i]
        free = [o for o in free if not slot_of[o].shared and o not in parts]
        if node.op != "chain":  # it must not read the memory under another name
            times = Counter(slot_of[o] for o in free)
            free = [o for o in free if times[slot_of[o]] == 1]
        for k, result in enumerate(node.results):
            if result in outside:
                continue
            last = last_read.get(result, i)
            whole, start = places.get(result, (result, 0))
            if whole is not result or result in slot_of:  # a part of what is put together, or that
                if whole in slot_of:
                    slot = slot_of[whole]
                else:
                    slot = Slot([], i, i, _aligned(whole.type.bytes, device), shared=True)
                    found.append(slot)
                    slot_of[whole] = slot
                slot_of[result] = slot
                slot.values.append(result)
                slot.starts.append(start)
                slot.last = max(slot.last, last, last_read.get(whole, i))
                continue
            heir = next((o for o in free if _in_place(node, k, o)), None)
            if heir is not None:
                slot = slot_of[heir]
                free = [o for o in free if slot_of[o] is not slot]
                slot.values.append(result)
                slot.starts.append(0)
                slot.last = last
            else:
                slot = Slot([result], i, last, _aligned(result.type.bytes, device), [0])
                found.append(slot)
            slot_of[result] = slot
    return found


def placed_operands(program: Program) -> dict[Value, tuple[Value, int]]:
    """Of an operand that lies in a concatenation's result: the outermost such result, and the bytes before it."""
    places: dict[Value, tuple[Value, int]] = {}
    for node in reversed(program.nodes):
        if node.op != "concatenate":
            continue
        whole, start = places.get(node.results[0], (node.results[0], 0))
        axis, shape = node.attributes["axis"], node.results[0].type.shape
        step = node.results[0].type.bytes // math.prod(shape[: axis + 1])
        for i, operand in enumerate(node.operands):
            if i in node.attributes.get("in_place", ()):
                places[operand] = whole, start
            start += operand.type.shape[axis] * step
    return places


def aliases(program: Program, successors: Mapping[int, int | None]) -> tuple[tuple[int, int], ...]:
    """Pairs (input, output) that may share memory: the output is stored by the last reader of the input.

    With these a donated training state is updated where it lies. `successors` are the outputs that alone may take the
    memory of some inputs; the memory of the others goes to any.
    """
    name_of: dict[Value, Value] = {}  # an alias is its operand by another name
    last_read: dict[Value, int] = {}
    for i, node in enumerate(program.nodes):
        roots = [name_of.get(o, o) for o in node.operands]
        last_read.update(dict.fromkeys(roots, i))
        if node.op in ALIASES:
            name_of[node.results[0]] = roots[0]
    returned = Counter(name_of.get(o, o) for o in program.outputs)
    output_of = {o: i for i, o in enumerate(program.outputs) if returned[o] == 1}
    input_of = {v: i for i, v in enumerate(program.inputs) if not returned[v]}
    pairs: dict[int, int] = {}
    for i, node in enumerate(program.nodes):
        for k, result in enumerate(node.results):
            ends = [o for o in node.operands if o in input_of and last_read[o] == i]
            if node.op != "chain":
                times = Counter(name_of.get(o, o) for o in node.operands)
                ends = [o for o in ends if times[o] == 1]
            if (output := output_of.get(result)) is None:
                continue
            free = [input_of[o] for o in ends]
            free = [i for i in free if i not in pairs and successors.get(i, output) == output]
            free.sort(key=lambda i: i not in successors)
            inputs = (program.inputs[i] for i in free)
            heir = next((o for o in inputs if o.type == result.type and _in_place(node, k, o)), None)
            if heir is not None:
                pairs[input_of[heir]] = output
    return tuple(pairs.items())


def _pairs(node: Node) -> Sequence[tuple[int, int]]:
    """The (operand, result) pairs that may share memory, of a node that is no chain: a loop's carry, an op's own."""
    if node.op == "loop":
        return [(node.attributes["consts"] + k, k) for k in range(node.attributes["carry"])]
    op = OPS.get(f"mps_{node.op}")
    return op.aliases(len(node.operands), node.attributes) if op else ()


def _in_place(node: Node, result: int, operand: Value) -> bool:
    """Whether a node reads an operand only element by element as it stores this result, or may update it."""
    if node.op != "chain":
        once = sum(o is operand for o in node.operands) == 1
        pair = any(node.operands[i] is operand for i, k in _pairs(node) if k == result)
        return once and pair and operand.type == node.results[result].type
    shape = node.attributes["shape"]
    if node.attributes["outputs"][result][0] != "store" or operand.type.dtype != node.results[result].type.dtype:
        return False
    if operand.type.bytes != node.results[result].type.bytes:
        return False
    reads = [
        (strides, offset)
        for o, strides, offset in zip(
            node.operands, node.attributes["strides"], node.attributes["offsets"], strict=True
        )
        if o is operand
    ]
    wanted = row_major(shape)
    return all(
        offset == 0 and all(s == w for s, w, n in zip(strides, wanted, shape, strict=True) if n != 1)
        for strides, offset in reads
    )


def plan(program: Program, device: str = "cpu") -> Memory:
    """Sets every intermediate's offset: the largest first, each as low as the others of its lifetime let it."""
    inner = [_plan_loop(node, device) for node in program.nodes if node.body is not None]
    placed: list[tuple[int, Slot]] = []  # by offset
    everything = slots(program, device)
    for slot in sorted(everything, key=lambda s: (-s.bytes, s.first)):
        offset = 0
        first, last = slot.first, slot.last
        for start, other in [p for p in placed if first <= p[1].last and p[1].first <= last]:
            if offset + slot.bytes > start and start + other.bytes > offset:
                offset = start + other.bytes
        insort(placed, (offset, slot), key=lambda p: p[0])
        for value, start in zip(slot.values, slot.starts, strict=True):
            value.offset = offset + start
    separate = sum(_aligned(v.type.bytes, device) for s in everything for v in s.values)
    arena = max((offset + s.bytes for offset, s in placed), default=0)
    return Memory(arena + max((m.arena for m in inner), default=0), separate + sum(m.without_aliasing for m in inner))


def _plan_loop(node: Node, device: str) -> Memory:
    """Plans a loop's body: which carries it writes where it reads them; the others lie in two places by turns."""
    assert node.body is not None
    first, carry = node.attributes["consts"], node.attributes["carry"]
    places = aliases(node.body, {first + k: k for k in range(carry)})
    in_place = tuple(o for i, o in places if i == first + o and o < carry)
    node.attributes = {**node.attributes, "in_place": in_place}
    memory = plan(node.body, device)
    second = sum(_aligned(r.type.bytes, device) for i, r in enumerate(node.results[:carry]) if i not in in_place)
    return Memory(memory.arena + second, memory.without_aliasing + second)


def _aligned(count: int, device: str) -> int:
    return -(-count // _ALIGNMENT[device]) * _ALIGNMENT[device]
