"""A flat function: equations over variables and constants, without calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jax_mps._compat import scan_counts


@dataclass(eq=False)
class Variable:
    """One value of the flat program."""

    aval: Any


@dataclass(eq=False)
class Constant:
    """A literal or a constant of the trace."""

    value: Any
    aval: Any


Atom = Variable | Constant


@dataclass(eq=False)
class Equation:
    """One primitive applied to atoms."""

    primitive: Any
    params: dict[str, Any]
    operands: list[Atom]
    results: list[Variable]
    context: Any  # of JAX's configuration at the trace
    effects: frozenset[Any] = frozenset()
    origin: str = ""  # the primitive that it was recognised in
    loop: Any = None  # of a scan: its `loops.Loop`, or the reason why it is no native loop
    note: str = ""  # of a scan that is meant as a recurrent cell: why it does not run as the op

    @property
    def name(self) -> str:
        """The primitive's name."""
        return str(self.primitive.name)

    @property
    def consts(self) -> int:
        """How many of a scan's operands, the first ones, are the same in every step."""
        return scan_counts(self.params)[0]

    @property
    def carries(self) -> int:
        """How many of a scan's operands, after its consts, and of its first results are carried from step to step."""
        return scan_counts(self.params)[1]


@dataclass(eq=False)
class Flat:
    """A function without calls: inputs, equations in order, outputs."""

    inputs: list[Variable]
    captured: dict[int, tuple[Variable, Any]] = field(default_factory=dict)  # constant arrays, by the value's id
    equations: list[Equation] = field(default_factory=list)
    outputs: list[Atom] = field(default_factory=list)

    def text(self) -> str:
        """One line for the inputs, one for each equation, one for what is returned: for a reader's eyes."""
        names: dict[Atom, str] = {}

        def name(atom: Atom) -> str:
            if isinstance(atom, Constant):
                return str(atom.aval.str_short(short_dtypes=True))
            return names.setdefault(atom, f"%{len(names)}")

        def defined(variables: list[Variable]) -> str:
            return ", ".join(f"{name(v)}: {v.aval.str_short(short_dtypes=True)}" for v in variables)

        lines = [f"input {defined([*self.inputs, *(v for v, _ in self.captured.values())])}"]
        for e in self.equations:
            lines.append(f"{defined(e.results)} = {e.name}({', '.join(map(name, e.operands))})")
        return "\n".join([*lines, f"return {', '.join(map(name, self.outputs))}"])
