"""Simplification: what is computed twice is computed once, what nobody reads is not, masks select."""

from __future__ import annotations

import itertools
from typing import Any

from jax_mps.compiler.passes.sink_transposes import sink_transposes
from jax_mps.ir.program import Names, Node, Program, Type, Value
from jax_mps.primitive import OPS


def simplify(program: Program, names: Names) -> Program:
    """Common subexpressions, transposes, then dead code, in loops too; `names` names new values."""
    for node in program.nodes:
        if node.body is not None:
            node.body = simplify(node.body, names)
    program = transpose_products(select_masked(merge_reshapes(common_subexpressions(program)), names))
    return drop_dead(common_subexpressions(sink_transposes(program, names)))


def transpose_products(program: Program) -> Program:
    """transpose(dot(a, b)) becomes dot(b, a) where it only swaps the free axes of a with those of b.

    JAX writes every dense layer's weight gradient so.
    """
    producer = {n.results[0]: n for n in program.nodes if n.op == "dot"}
    nodes = []
    for node in program.nodes:
        dot = producer.get(node.operands[0]) if node.op == "transpose" else None
        if dot is not None and not dot.attributes["batch"][0]:
            left, right = dot.attributes["contract"]
            free = len(dot.operands[0].type.shape) - len(left)
            rank = len(dot.results[0].type.shape)
            if node.attributes["order"] == (*range(free, rank), *range(free)):
                swapped = {"batch": ((), ()), "contract": (right, left)}
                node = Node("dot", dot.operands[::-1], node.results, swapped)
        nodes.append(node)
    return Program(program.inputs, nodes, program.outputs)


def select_masked(program: Program, names: Names) -> Program:
    """A product with a mask selects, as XLA has it: what is masked, such as the logarithm of 0, does not make NaN."""
    masks = {
        n.results[0]: n.operands[0]
        for n in program.nodes
        if n.op == "convert" and n.operands[0].type.dtype == "pred" and n.results[0].type.dtype == "f32"
    }
    nodes = []
    for node in program.nodes:
        masked = [i for i, o in enumerate(node.operands) if o in masks] if node.op == "mul" else []
        if masked:
            type_ = node.results[0].type
            zero, zeros = names.value(Type(type_.dtype, ())), names.value(type_)
            nodes.append(Node("constant", [], [zero], {"value": 0.0}))
            nodes.append(Node("broadcast_in_dim", [zero], [zeros], {"axes": ()}))
            mask, x = node.operands[masked[0]], node.operands[1 - masked[0]]
            node = Node("select", [masks[mask], zeros, x], node.results, {})
        nodes.append(node)
    return Program(program.inputs, nodes, program.outputs)


def merge_reshapes(program: Program) -> Program:
    """A reshape of a reshape is one, or none; what only adds, or reduces over, axes of size 1 is a reshape.

    vmap puts such an axis into every convolution and takes it out again.
    """
    source: dict[Value, Value] = {}  # of a reshape's result
    same: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        node.operands = [same.get(o, o) for o in node.operands]
        alike = (
            node.op in ("broadcast_in_dim", "reduce")
            and node.operands[0].type.elements == node.results[0].type.elements
        )
        if node.op == "reshape" or (alike and list(node.attributes["axes"]) == sorted(node.attributes["axes"])):
            base, result = source.get(node.operands[0], node.operands[0]), node.results[0]
            if base.type == result.type:
                same[result] = base
                continue
            source[result] = base
            node = Node("reshape", [base], [result], {})
        nodes.append(node)
    return Program(program.inputs, nodes, [same.get(o, o) for o in program.outputs])


def common_subexpressions(program: Program) -> Program:
    """Of nodes with the same op, operands, types and attributes only the first stays."""
    same: dict[Value, Value] = {}
    seen: dict[Any, Node] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        operands = [same.get(o, o) for o in node.operands]
        if node.body is not None:
            node.operands = operands
            nodes.append(node)
            continue
        types = tuple(r.type for r in node.results)
        attributes = tuple(sorted((k, repr(v)) for k, v in node.attributes.items()))
        key = (node.op, tuple(operands), types, attributes)
        first = seen.setdefault(key, node)
        if first is node:
            node.operands = operands
            nodes.append(node)
        else:
            same.update(zip(node.results, first.results, strict=True))
    return Program(program.inputs, nodes, [same.get(o, o) for o in program.outputs])


def live(program: Program) -> set[Value]:
    """The values that an output needs."""
    found = set(program.outputs)
    for node in reversed(program.nodes):
        if any(r in found for r in node.results):
            found.update(node.operands)
    return found


def drop_dead(program: Program) -> Program:
    """Without the nodes whose results nobody reads, and without unread results of nodes that can do without."""
    read = live(program)
    kept = [n for n in program.nodes if any(r in read for r in n.results)]
    for node in kept:
        if node.body is not None:
            _drop_unread(node, read)
        op = OPS.get(f"mps_{node.op}")
        flags = [r in read for r in node.results]
        if op is not None and op.partial and not all(flags):
            node.attributes = op.reduced(flags, node.attributes)
            node.results = list(itertools.compress(node.results, flags))
    return Program(program.inputs, kept, program.outputs)


def _drop_unread(loop: Node, read: set[Value]) -> None:
    """Drops a loop's stacks of results that nobody reads."""
    assert loop.body is not None
    carry = loop.attributes["carry"]
    pairs = zip(loop.results, loop.body.outputs, strict=True)
    kept = [(r, o) for i, (r, o) in enumerate(pairs) if i < carry or r in read]
    loop.results = [r for r, _ in kept]
    loop.body = drop_dead(Program(loop.body.inputs, loop.body.nodes, [o for _, o in kept]))
