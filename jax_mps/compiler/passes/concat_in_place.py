"""Concatenation without copies: who computes an operand writes it into its place in the result.

::

    conv ── a ──┐                            conv ──> ab[..., :16]
                concatenate ── ab    =>                            concatenate(ab[..., :16], ab[..., 16:]) ── ab
    chain ── b ─┘                            chain ──> ab[..., 16:]

Along the leading axis (or behind axes of size 1) an operand is a range of the result's memory like any other. Along the
last axis it has pitched rows, which chains, products and most convolutions can write and read; chains only in the cache
as fast as others. An operand that something else writes or reads is copied as before. The node stays, to say that
all is written; ``in_place`` numbers what needs no copy.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from jax_mps.compiler.passes.rewriter import Rewriter
from jax_mps.compiler.passes.slice_views import READERS, device_takes
from jax_mps.ir.program import Node, Program, Type, Value

_ALIGNMENT = 64  # bytes, of every place in the arena
_CACHED = 1 << 20  # bytes of a result that is still in the cache when its parts are read


def concat_in_place(program: Program) -> Program:
    """The program with the operands of concatenations in their places, the outermost concatenations first."""
    return _Eliding(program).run()


class _Eliding(Rewriter):
    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.outside = {*program.inputs, *program.outputs}

    def run(self) -> Program:
        for node in reversed(self.program.nodes):
            if node.op == "concatenate" and node.results[0] not in self.outside:
                in_place = self._placed(node)
                if in_place:
                    node.attributes = {**node.attributes, "in_place": in_place}
        return self.program

    def _placed(self, node: Node) -> tuple[int, ...]:
        (whole,), axis = node.results, node.attributes["axis"]
        shape = whole.type.shape
        rows = math.prod(shape[:axis]) > 1
        if rows and axis != len(shape) - 1:
            return ()
        step = whole.type.bytes // math.prod(shape[: axis + 1])  # bytes of one index along the axis
        row = (whole.type.row or shape[-1]) if rows or whole.type.row else 0
        times = Counter(node.operands)
        found, start = [], 0
        for i, operand in enumerate(node.operands):
            aligned = start % _ALIGNMENT == 0 and times[operand] == 1
            if aligned and self._is_made_here(operand) and (not row or self._may_be_pitched(operand, row, node)):
                found.append(i)
                if row:
                    self._put_pitched(operand, row, node)
            start += operand.type.shape[axis] * step
        return tuple(found)

    def _is_made_here(self, value: Value) -> bool:
        """Whether a node writes it, and may write it anywhere."""
        node = self.producer.get(value)
        others = [n for n in self.readers[value] if n.op in ("concatenate", "reshape", "part", "loop")]
        alone = len(others) == 1 and value not in self.outside
        return node is not None and node.op not in ("reshape", "part", "loop") and alone

    def _may_be_pitched(self, value: Value, row: int, into: Node) -> bool:
        """Whether its rows may lie apart, for who writes it and who reads it."""
        node = self.producer[value]
        readers = [n for n in self.readers[value] if n is not into]
        chains = any(n.op == "chain" for n in readers)
        if value.type.dtype != "f32" or (chains and into.results[0].type.bytes > _CACHED):
            return False
        return all(_reads_pitched(n, value, row) for n in readers) and _writes_pitched(node, value, row)

    def _put_pitched(self, value: Value, row: int, into: Node) -> None:
        for reader in self.readers[value]:
            if reader is not into and reader.op == "chain":
                changed = _read_pitched(reader, value, row)
                assert changed is not None
                reader.attributes = changed
        value.type = replace(value.type, row=row)


def _writes_pitched(node: Node, value: Value, row: int) -> bool:
    if node.op == "chain":
        return bool(node.attributes["outputs"][node.results.index(value)][0] == "store")
    if node.op == "concatenate":
        return bool(node.attributes["axis"] == len(value.type.shape) - 1)
    return node.op in READERS and device_takes(node, {value: row})


def _reads_pitched(node: Node, value: Value, row: int) -> bool:
    if node.op in READERS:
        return device_takes(node, {value: row})
    return _read_pitched(node, value, row) is not None


def _read_pitched(node: Node, value: Value, row: int) -> dict[str, object] | None:
    """The attributes of a chain that reads `value` by pitched rows; None if it, or a node of another op, cannot."""
    if node.op != "chain":
        return None
    a = node.attributes
    strides, offsets = list(a["strides"]), list(a["offsets"])
    for i, operand in enumerate(node.operands):
        if operand is value:
            changed = _pitched(strides[i], offsets[i], a["shape"], value.type, row)
            if changed is None:
                return None
            strides[i], offsets[i] = changed
    return {**a, "strides": tuple(strides), "offsets": tuple(offsets)}


def _pitched(
    strides: tuple[int, ...], offset: int, shape: tuple[int, ...], type_: Type, row: int
) -> tuple[tuple[int, ...], int] | None:
    """Strides and offset of a view of rows that follow one another, once they are `row` apart; None where none are."""
    cols = type_.shape[-1]
    last, changed = offset % cols, []
    for stride, size in zip(strides, shape, strict=True):
        if size == 1 or stride % cols == 0:
            changed.append(stride // cols * row if size > 1 else 0)
        else:
            last += stride * (size - 1)
            changed.append(stride)
    return (tuple(changed), offset // cols * row + offset % cols) if last < cols else None
