"""What collects the nodes of one region: a value for each atom, a node for each op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jax_mps.compiler.equations.equation import Atom, Constant, Equation
from jax_mps.ir.program import Names, Node, Program, Type, Value


class NotConvertible(Exception):
    """The reason why an equation stays on XLA."""


Rule = Callable[["Builder", Equation, list[Value]], list[Value]]


class Builder:
    """Collects the nodes of one region."""

    def __init__(self, names: Names | None = None) -> None:
        self.program = Program()
        self.known: dict[Atom, Value] = {}
        self.made: dict[Value, str] = {}  # of a value, the primitive that it is a result of
        self.notes: dict[Value, str] = {}  # of a loop's result, why it is no recurrent op
        self.names = Names() if names is None else names

    def value(self, type_: Type) -> Value:
        """A new value."""
        return self.names.value(type_)

    def input(self, atom: Atom) -> Value:
        """The value of a variable from outside."""
        value = self.value(Type.of(atom.aval))
        self.program.inputs.append(value)
        self.known[atom] = value
        return value

    def read(self, atom: Atom) -> Value:
        """The value of an atom: a variable, or a scalar or uniform constant."""
        if atom not in self.known:
            assert isinstance(atom, Constant)
            array = np.asarray(atom.value)
            type_ = Type.of(atom.aval)
            self.known[atom] = self.number(array.reshape(-1)[0].item(), type_)
        return self.known[atom]

    def number(self, number: Any, type_: Type) -> Value:
        """A value that is this number everywhere."""
        (scalar,) = self.node("constant", [], [Type(type_.dtype, ())], value=number)
        return self.broadcast(scalar, type_.shape, ())

    def define(self, equation: Equation, rule: Rule) -> None:
        """Adds the nodes of one equation."""
        results = rule(self, equation, [self.read(o) for o in equation.operands])
        self.known.update(zip(equation.results, results, strict=True))
        self.made.update((v, equation.origin or equation.name) for v in results)
        if equation.note:
            self.notes.update((v, equation.note) for v in results)

    def node(self, op: str, operands: list[Value], types: list[Type], **attributes: Any) -> list[Value]:
        """Adds a node and gives its results."""
        results = [self.value(t) for t in types]
        self.program.nodes.append(Node(op, operands, results, attributes))
        return results

    def broadcast(self, x: Value, shape: tuple[int, ...], axes: tuple[int, ...]) -> Value:
        """`x` with axis i put at axes[i] of `shape`."""
        if x.type.shape == shape and axes == tuple(range(len(shape))):
            return x
        return self.node("broadcast_in_dim", [x], [Type(x.type.dtype, shape)], axes=axes)[0]

    def transpose(self, x: Value, order: tuple[int, ...]) -> Value:
        """`x` with axis i from axis order[i]."""
        if order == tuple(range(len(order))):
            return x
        shape = tuple(x.type.shape[i] for i in order)
        return self.node("transpose", [x], [Type(x.type.dtype, shape)], order=order)[0]

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        """`x` in another shape, row-major."""
        if x.type.shape == shape:
            return x
        return self.node("reshape", [x], [Type(x.type.dtype, shape)])[0]


def types_of(equation: Equation) -> list[Type]:
    """The types of an equation's results."""
    return [Type.of(r.aval) for r in equation.results]
