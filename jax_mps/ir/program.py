"""The program: nodes over typed values, and the text form that is cached, printed and sent to the device.

::

    input %0: f32[64,28,28,1], %1: f32[5,5,1,32]
    %2: f32[64,28,28,32] = conv(%0, %1) {groups=1, padding=[[2,2],[2,2]], strides=[1,1]}
    return %2

One statement a line. An intermediate carries its byte offset in the program's arena: ``%2: f32[8] @64 = ...``. A first
line ``device metal`` says what device the program is for, if not for the CPU. An intermediate ``f32[8,16|48]`` lies in
another: its rows, of the last axis, are 48 elements apart. ``part(%0) {start=16}`` is the memory of %0 from its element
16 on, by another name.

A loop runs its body, a program of its own, over constants, a carry and slices of arrays along their first axis, and
gives the last carry and the slices stacked::

    input %0: f32[4,4], %1: f32[2,4], %2: f32[9,2,4]
    %3: f32[2,4], %4: f32[9,2,4] = loop(%0, %1, %2) {carry=1, consts=1, in_place=[], length=9, reverse=false} do
      input %5: f32[4,4], %6: f32[2,4], %7: f32[2,4]
      ...
      return %9, %9
    end
    return %3, %4

A body reads nothing but its inputs, and its offsets are in an arena of its own. A carry of ``in_place`` is written
where it is read.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_DTYPES = {
    "float32": "f32",
    "bfloat16": "bf16",
    "float16": "f16",
    "int32": "s32",
    "uint32": "u32",
    "uint8": "u8",
    "bool": "pred",
}
_SIZES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "u8": 1, "pred": 1}


@functools.cache
def _name(dtype: Any) -> str:
    return getattr(dtype, "name", str(dtype))  # PRNG keys have no NumPy dtype


@dataclass(frozen=True)
class Type:
    """A dtype in the program's words ("f32") and a shape."""

    dtype: str
    shape: tuple[int, ...]
    row: int = 0  # from one row of the last axis to the next, of pitched rows

    @classmethod
    def of(cls, x: Any) -> Type:
        """The type of anything with a shape and a dtype; TypeError for a dtype that programs do not have."""
        name = _name(x.dtype)
        if name not in _DTYPES:
            known = "they compute in float32, float16, bfloat16, int32, uint32, uint8 and bool"
            raise TypeError(f"programs have no dtype {name}: {known}. Cast it for a native call.")
        if not all(isinstance(dim, int) for dim in x.shape):
            raise TypeError(f"programs have no symbolic shape {x.shape}")
        return cls(_DTYPES[name], tuple(x.shape))

    @property
    def elements(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes they take, without what is between rows."""
        return self.elements * _SIZES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}{f'|{self.row}' if self.row else ''}]"


@dataclass(eq=False)
class Value:
    """One typed value; `offset` is its place in the arena, None for inputs and outputs."""

    name: int
    type: Type
    offset: int | None = None

    def __str__(self) -> str:
        return f"%{self.name}"

    def definition(self) -> str:
        """The value as it is defined: name, type, offset."""
        return f"%{self.name}: {self.type}" + ("" if self.offset is None else f" @{self.offset}")


class Names:
    """Gives new values names that no other value of a program has."""

    def __init__(self, first: int = 0) -> None:
        self._next = itertools.count(first)

    @classmethod
    def after(cls, program: Program) -> Names:
        """Names for more values of a program."""
        values = (*program.inputs, *(r for n in program.nodes for r in n.results))
        return cls(max((v.name for v in values), default=0) + 1)

    def value(self, type_: Type) -> Value:
        """A new value."""
        return Value(next(self._next), type_)


@dataclass(eq=False)
class Node:
    """One op applied to values."""

    op: str
    operands: list[Value]
    results: list[Value]
    attributes: Mapping[str, Any]
    body: Program | None = None  # of a loop

    def __str__(self) -> str:
        attributes = ", ".join(f"{k}={_attribute(v)}" for k, v in sorted(self.attributes.items()) if v is not None)
        line = f"{', '.join(r.definition() for r in self.results)} = {self.op}({', '.join(map(str, self.operands))})"
        line += f" {{{attributes}}}" if attributes else ""
        if self.body is None:
            return line
        return "\n".join([f"{line} do", *(f"  {inner}" for inner in self.body.text().splitlines()), "end"])


@dataclass
class Program:
    """Inputs, nodes in order of execution, outputs."""

    inputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    @classmethod
    def of_op(cls, op: str, operands: Sequence[Any], results: Sequence[Any], attributes: Mapping[str, Any]) -> Program:
        """The program of one node; operands and results are anything with shape and dtype."""
        types = [Type.of(x) for x in (*operands, *results)]
        values = [Value(name, type_) for name, type_ in enumerate(types)]
        inputs, outputs = values[: len(operands)], values[len(operands) :]
        return cls(inputs, [Node(op, inputs, outputs, attributes)], outputs)

    def text(self) -> str:
        """The text form."""
        lines = [f"input {', '.join(v.definition() for v in self.inputs)}"] if self.inputs else []
        lines += map(str, self.nodes)
        lines.append(f"return {', '.join(map(str, self.outputs))}")
        return "\n".join(lines)


def _attribute(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return f'"{value}"'
        case tuple() | list():
            return f"[{','.join(map(_attribute, value))}]"
    raise TypeError(f"an attribute is a bool, int, float, str or a tuple of them, but got {value!r}")
