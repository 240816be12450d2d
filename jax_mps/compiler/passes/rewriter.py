"""Who writes and who reads each value of a program: what the passes over whole programs ask."""

from __future__ import annotations

from typing import Any

from jax_mps.compiler.passes.views import constant_of
from jax_mps.ir.program import Node, Program, Type, Value


class Links:
    """The nodes of a program by the ids of their values, and new values for it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.producer = {id(r): n for n in program.nodes for r in n.results}
        self.readers: dict[int, list[Node]] = {}  # each node once
        for node in program.nodes:
            for operand in {id(o): o for o in node.operands}.values():
                self.readers.setdefault(id(operand), []).append(node)
        self.names = max((v.name for n in program.nodes for v in n.results), default=0)

    def number_of(self, value: Value) -> Any:
        """The number that a value is everywhere, or None."""
        node = constant_of(value, self.producer)
        return None if node is None else node.attributes["value"]

    def value(self, type_: Type) -> Value:
        """A new value."""
        self.names += 1
        return Value(self.names, type_)
