"""The chart of a program's arena: time to the right, place upwards, a rectangle for every intermediate."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Sequence
from typing import NamedTuple

from jax_mps.compiler.passes.plan_memory import ALIASES, Memory, placed_operands
from jax_mps.drawing import card, svg
from jax_mps.ir.program import Program, Value

PEAK = "#b3452f"
_LEFT, _TALL = 64.0, 300.0


class Life(NamedTuple):
    """When a value is in the arena, in nodes; halves where another takes over its place."""

    value: Value
    node: int
    first: float
    last: float


def lives(program: Program) -> list[Life]:
    """Every intermediate with its time, in the order of the program."""
    root: dict[Value, Value] = {}  # an alias is its operand by another name
    written: dict[Value, tuple[Value, int]] = {}
    last: dict[Value, int] = {}
    root.update((part, whole) for part, (whole, _) in placed_operands(program).items())  # drawn as what they are put in
    parts = set(root)
    for i, node in enumerate(program.nodes):
        for operand in node.operands:
            last[root.get(operand, operand)] = i
        for result in node.results:
            if result in parts:
                written.setdefault(root[result], (root[result], i))
            elif node.op in ALIASES:
                root[result] = root.get(node.operands[0], node.operands[0])
            elif result.offset is not None:
                written.setdefault(result, (result, i))
    ends = {(v.offset, last.get(k, i)): k for k, (v, i) in written.items()}
    found = []
    for k, (value, i) in written.items():
        end = last.get(k, i)
        taken = any(v.offset == value.offset and j == end and m != k for m, (v, j) in written.items())
        takes = i in {e for o, e in ends if o == value.offset and ends[o, e] != k}
        found.append(Life(value, i, i + (0.5 if takes else 0.0), end + (0.5 if taken and end > i else 1.0)))
    return found


def chart(into: xml.Element, program: Program, memory: Memory, families: Sequence[str], width: float) -> float:
    """Draws the chart; gives its height."""
    count, top = len(program.nodes), 44.0
    svg.text(into, 0, 14, "Working memory", size=14, font_weight="600")
    if not memory.arena:
        svg.text(into, 0, 32, "This call has no intermediates.", size=11, fill=svg.QUIET)
        return 40.0
    share = memory.arena / memory.without_aliasing
    separate = svg.size(memory.without_aliasing)
    words = f"{svg.size(memory.arena)} in one arena; {separate} if every value had memory of its own ({share:.0%})"
    svg.text(into, 0, 32, words, size=11, fill=svg.QUIET)
    start = svg.width(words) + 20.0
    bar = max(width - start, 60.0)
    svg.element(into, "rect", x=start, y=24, width=bar, height=8, rx=4, fill=svg.LINE, title="without aliasing")
    svg.element(into, "rect", x=start, y=24, width=bar * min(share, 1.0), height=8, rx=4, fill=PEAK, title="the arena")
    across = width - _LEFT
    x = lambda t: _LEFT + across * t / count  # noqa: E731
    y = lambda b: top + 14 + _TALL * (1 - b / memory.arena)  # noqa: E731
    step = _tick(memory.arena)
    for k in range(int(memory.arena / step) + 1):
        svg.element(into, "path", d=f"M{_LEFT} {y(k * step):.1f}h{across:.1f}", stroke=svg.LINE)
        svg.text(into, _LEFT - 8, y(k * step) + 3.5, svg.size(k * step), size=9.5, fill=svg.QUIET, text_anchor="end")
    for life in lives(program):
        value, colour = life.value, card.FAMILIES[families[life.node]][0]
        assert value.offset is not None
        low, high = y(value.offset), y(value.offset + value.type.bytes)
        wide, tall = x(life.last) - x(life.first), max(low - high, 0.6)
        title = f"{value}: {value.type} @{value.offset}, {svg.size(value.type.bytes)}, by {program.nodes[life.node].op}"
        svg.element(
            into, "rect", x=x(life.first), y=high, width=wide, height=tall, rx=min(2.0, tall / 2), fill=colour,
            fill_opacity=0.5, stroke="#fff", stroke_width=0.7 if tall > 3 else 0.2, title=title,
        )  # fmt: skip
        for words in (f"{value} {svg.size(value.type.bytes)}", str(value)):
            if tall > 12 and wide > svg.width(words, 9) + 6:
                svg.text(into, x(life.first) + 4, (low + high) / 2 + 3, words, size=9)
                break
    peak = y(memory.arena)
    svg.element(into, "path", d=f"M{_LEFT} {peak:.1f}h{across:.1f}", stroke=PEAK, stroke_dasharray="5 3")
    svg.text(
        into, width, peak - 4, f"peak {svg.size(memory.arena)}", size=10, fill=PEAK, text_anchor="end"
    )  # fmt: skip
    base = y(0) + 4
    for i, family in enumerate(families):
        svg.element(
            into, "rect", x=x(i) + 0.3, y=base, width=max(across / count - 0.6, 0.4), height=7,
            fill=card.FAMILIES[family][0], title=f"{i}: {program.nodes[i].op}",
        )  # fmt: skip
    svg.text(into, _LEFT, base + 20, "time: the nodes in their order →", size=9.5, fill=svg.QUIET)
    return base + 26


def _tick(most: int) -> float:
    """A round step that gives four to eight lines."""
    step = 64.0
    while most / step > 8:
        step *= 2
    return step
