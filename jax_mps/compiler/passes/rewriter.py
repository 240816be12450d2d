"""Who writes and who reads each value of a program: what the passes over whole programs ask."""

from __future__ import annotations

from typing import Any

from jax_mps.compiler.passes.views import constant_of
from jax_mps.ir.program import Names, Node, Program, Type, Value


class Rewriter:
    """The nodes of a program by their values, and new values for it."""

    def __init__(self, program: Program, names: Names | None = None) -> None:
        self.program = program
        self.names = Names.after(program) if names is None else names
        self.producer = {r: n for n in program.nodes for r in n.results}
        self.readers: dict[Value, list[Node]] = {}  # each node once
        for node in program.nodes:
            for operand in dict.fromkeys(node.operands):
                self.readers.setdefault(operand, []).append(node)

    def number_of(self, value: Value) -> Any:
        """The number that a value is everywhere, or None."""
        node = constant_of(value, self.producer)
        return None if node is None else node.attributes["value"]

    def value(self, type_: Type) -> Value:
        """A new value."""
        return self.names.value(type_)
