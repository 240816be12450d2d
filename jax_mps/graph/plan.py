"""The memory plan: each intermediate's place in the program's arena."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from jax_mps.graph.views import row_major
from jax_mps.program import Node, Program, Value

_ALIGNMENT = {"cpu": 64, "metal": 256}  # of offsets, in bytes: Metal's for buffers placed in a heap


@dataclass(frozen=True)
class Memory:
    """Bytes of a program's intermediates: in the arena, and if each had memory of its own."""

    arena: int
    without_aliasing: int


@dataclass
class Slot:
    """The memory of one intermediate, or of several that follow each other in place."""

    values: list[Value]
    first: int  # the node that writes it
    last: int  # the last node that reads it
    bytes: int


def slots(program: Program, device: str = "cpu") -> list[Slot]:
    """The intermediates with their lifetimes; a chain's result takes over the memory of an operand that ends there."""
    outside = {id(v) for v in (*program.inputs, *program.outputs)}
    slot_of: dict[int, Slot] = {}
    found: list[Slot] = []
    last_read = {id(o): i for i, n in enumerate(program.nodes) for o in n.operands}
    for i, node in enumerate(program.nodes):
        if node.op == "reshape":  # another name of the same memory
            if id(node.operands[0]) in slot_of:
                slot = slot_of[id(node.results[0])] = slot_of[id(node.operands[0])]
                slot.last = max(slot.last, last_read.get(id(node.results[0]), i))
            continue
        free = [o for o in node.operands if id(o) in slot_of and slot_of[id(o)].last == i] if node.op == "chain" else []
        for k, result in enumerate(node.results):
            if id(result) in outside:
                continue
            last = last_read.get(id(result), i)
            heir = next((o for o in free if _in_place(node, k, o)), None)
            if heir is not None:
                slot = slot_of[id(heir)]
                free = [o for o in free if slot_of[id(o)] is not slot]
                slot.values.append(result)
                slot.last = last
            else:
                slot = Slot([result], i, last, _aligned(result.type.bytes, device))
                found.append(slot)
            slot_of[id(result)] = slot
    return found


def aliases(program: Program) -> tuple[tuple[int, int], ...]:
    """Pairs (input, output) that may share memory: a chain stores the output as the last reader of the input.

    With these a donated training state is updated where it lies.
    """
    name_of: dict[int, int] = {}  # a reshape's result is its operand by another name
    last_read: dict[int, int] = {}
    for i, node in enumerate(program.nodes):
        roots = [name_of.get(id(o), id(o)) for o in node.operands]
        last_read.update(dict.fromkeys(roots, i))
        if node.op == "reshape":
            name_of[id(node.results[0])] = roots[0]
    returned = Counter(name_of.get(id(o), id(o)) for o in program.outputs)
    output_of = {id(o): i for i, o in enumerate(program.outputs) if returned[id(o)] == 1}
    input_of = {id(v): i for i, v in enumerate(program.inputs) if not returned[id(v)]}
    pairs: dict[int, int] = {}
    for i, node in enumerate(program.nodes):
        for k, result in enumerate(node.results if node.op == "chain" else ()):
            ends = [o for o in node.operands if id(o) in input_of and last_read[id(o)] == i]
            free = (o for o in ends if input_of[id(o)] not in pairs and o.type == result.type)
            heir = next((o for o in free if _in_place(node, k, o)), None)
            if heir is not None and id(result) in output_of:
                pairs[input_of[id(heir)]] = output_of[id(result)]
    return tuple(pairs.items())


def _in_place(node: Node, result: int, operand: Value) -> bool:
    """Whether a chain reads an operand only element by element as it stores this result."""
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
    placed: list[tuple[int, Slot]] = []
    everything = slots(program, device)
    for slot in sorted(everything, key=lambda s: (-s.bytes, s.first)):
        offset = 0
        for start, other in sorted(placed, key=lambda p: p[0]):
            alive_together = slot.first <= other.last and other.first <= slot.last
            if alive_together and offset + slot.bytes > start and start + other.bytes > offset:
                offset = start + other.bytes
        placed.append((offset, slot))
        for value in slot.values:
            value.offset = offset
    separate = sum(_aligned(v.type.bytes, device) for s in everything for v in s.values)
    return Memory(max((offset + s.bytes for offset, s in placed), default=0), separate)


def _aligned(count: int, device: str) -> int:
    return -(-count // _ALIGNMENT[device]) * _ALIGNMENT[device]
