"""Slices without copies: convolutions and products read theirs where it lies.

::

    ab ──┬── slice [..., :16] ── conv             ab ──┬── part {start=0} ──── conv
         └── slice [..., 16:] ── dot       =>          └── part {start=16} ─── dot

Along the last axis the view has pitched rows: the device is asked whether it has a kernel for such. Along the leading
axis (or behind axes of size 1) a part is a range of memory like any other. A chain reads slices in place as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from jax_mps import ffi
from jax_mps.compiler.passes.rewriter import Rewriter
from jax_mps.compiler.passes.simplify import drop_dead
from jax_mps.ir.ops import ELEMENTWISE, FREE, VIEWS
from jax_mps.ir.program import Node, Program, Type, Value

READERS = {"conv", "conv_data_gradient", "conv_weight_gradient", "dot", "dense"}  # that may read pitched rows
_ALIGNMENT = 64  # bytes, of a range


def slice_views(program: Program) -> Program:
    """The program with parts for slices, wherever who reads them may."""
    return _Parts(program).run()


class _Parts(Rewriter):
    def run(self) -> Program:
        nodes: list[Node] = []
        for node in self.program.nodes:
            nodes.append(node)
            if node.op == "slice" and self._is_whole_base(node.operands[0]):
                (result,) = node.results
                place = _place(node)
                if place is None:
                    continue
                start, row = place
                takers = [n for n in self.readers.get(result, []) if n.op in READERS]
                if row:
                    takers = [n for n in takers if device_takes(n, {result: row})]
                if takers:
                    part = self.value(replace(result.type, row=row))
                    nodes.append(Node("part", [node.operands[0]], [part], {"start": start}))
                    for taker in takers:
                        taker.operands = [part if o is result else o for o in taker.operands]
        return drop_dead(Program(self.program.inputs, nodes, self.program.outputs))

    def _is_whole_base(self, value: Value) -> bool:
        """Whether a value is in memory, or is all needed there by parts of it."""
        node = self.producer.get(value)
        if node is None:
            return True
        if node.op in VIEWS or node.op in FREE:
            return False
        if node.op not in ELEMENTWISE:
            return True
        slices = [n for n in self.readers[value] if n.op == "slice" and _place(n) is not None]
        read = [n.results[0] for n in slices if any(r.op in READERS for r in self.readers.get(n.results[0], []))]
        return sum(r.type.elements for r in read) >= value.type.elements


def _place(node: Node) -> tuple[int, int] | None:
    """Where a slice starts and the pitch of its rows (0 for none), in elements; None if it is no view."""
    base, result = node.operands[0].type, node.results[0].type
    start, shape = node.attributes["start"], base.shape
    cut = [i for i, (a, b) in enumerate(zip(shape, result.shape, strict=True)) if a != b]
    if len(cut) != 1 or any(s != 1 for s in node.attributes["strides"]):
        return None
    (axis,) = cut
    first = start[axis] * math.prod(shape[axis + 1 :])
    if math.prod(shape[:axis]) == 1:
        return (first, 0) if first * (base.bytes // base.elements) % _ALIGNMENT == 0 else None
    return (first, shape[-1]) if axis == len(shape) - 1 and base.dtype == "f32" else None


def device_takes(node: Node, rows: Mapping[Value, int]) -> bool:
    """Whether the device has a kernel for a node if these values have rows so far apart."""

    def apart(value: Value) -> Type:
        return replace(value.type, row=rows.get(value, value.type.row))

    program = Program()
    names = iter(range(3 * (len(node.operands) + len(node.results))))
    operands, results, copies = [], [], []
    for operand in node.operands:
        type_ = apart(operand)
        dense = Type(type_.dtype, (*type_.shape[:-1], type_.row)) if type_.row else type_
        operands.append(Value(next(names), dense))
        program.inputs.append(operands[-1])
        if type_.row:
            operands[-1] = Value(next(names), type_)
            program.nodes.append(Node("part", program.inputs[-1:], operands[-1:], {"start": 0}))
    for result in node.results:
        type_ = apart(result)
        results.append(Value(next(names), type_, 0 if type_.row else None))
        program.outputs.append(results[-1])
        if type_.row:
            program.outputs[-1] = Value(next(names), replace(type_, row=0))
            copies.append(Node("concatenate", results[-1:], program.outputs[-1:], {"axis": len(type_.shape) - 1}))
    program.nodes += [Node(node.op, operands, results, node.attributes), *copies]
    try:
        ffi.implementations(program.text())
    except ValueError:
        return False
    return True
