"""What an op of a program is: the one table that the compiler's passes ask.

Ops that are not in it have kernels of their own (conv, dot, lstm, chain, loop, ...): their operands and results are in
memory.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """What passes may assume of an op."""

    elementwise: bool = False  # element i of the result is of elements i of the operands, which have its shape
    arithmetic: bool = False  # elementwise, by the name of the lax primitive that means the same
    free: bool = False  # a number, or places along an axis: computed where it is read
    view: bool = False  # its operand's elements in another order, which a chain reads in place
    alias: bool = False  # its operand's memory, or some of it, by another name


_ARITHMETIC = Kind(elementwise=True, arithmetic=True)
_ARITHMETIC_NAMES = """
abs add and atan2 cbrt ceil cos div eq erf erf_inv exp exp2 expm1 floor ge gt is_finite le log log1p logistic lt max min
mul ne neg not or pow rem round_half_away round_half_even rsqrt shift_left shift_right_arithmetic shift_right_logical
sign sin sqrt square sub tan tanh xor
"""
KINDS: dict[str, Kind] = {
    **dict.fromkeys(_ARITHMETIC_NAMES.split(), _ARITHMETIC),
    **dict.fromkeys(["bitcast", "clamp", "convert", "integer_pow", "select"], Kind(elementwise=True)),
    **dict.fromkeys(["constant", "iota"], Kind(free=True)),
    **dict.fromkeys(["broadcast_in_dim", "slice", "transpose"], Kind(view=True)),
    "reshape": Kind(view=True, alias=True),
    "part": Kind(alias=True),
}

ARITHMETIC = frozenset(op for op, kind in KINDS.items() if kind.arithmetic)
ELEMENTWISE = frozenset(op for op, kind in KINDS.items() if kind.elementwise)
FREE = frozenset(op for op, kind in KINDS.items() if kind.free)
VIEWS = frozenset(op for op, kind in KINDS.items() if kind.view)
ALIASES = frozenset(op for op, kind in KINDS.items() if kind.alias)
IN_CHAINS = ELEMENTWISE | FREE  # what a chain computes in registers
