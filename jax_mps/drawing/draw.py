"""The drawing of a graphed function: the nodes of its native calls, and below them when and where their values live."""

from __future__ import annotations

import math
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import dataclass

from jax_mps.compiler.passes.plan_memory import Memory
from jax_mps.drawing import card, svg
from jax_mps.drawing.layout import Box, Link, place, rows
from jax_mps.drawing.lifetimes import chart
from jax_mps.ir.program import Node, Program, Value

MARGIN, SPACE, LABELS = 36.0, 30.0, 17.0  # around all, between rows, below a node for its values' names
_WIDEST = 1500.0
_LONG, _MANY = 14, 90  # rows that a link spans before it is cut, in a drawing of so many nodes
_CHIPS = 7  # inputs or outputs shown of a node
INPUT, STATE, OUTPUT = "#8a6d1f", "#3d8b4f", "#b3452f"


@dataclass(frozen=True)
class Part:
    """One native call: its program, memory, the (input, output) pairs that share memory, and the names of both."""

    program: Program
    memory: Memory
    aliases: Sequence[tuple[int, int]]
    inputs: Sequence[str]  # "" where it has no name
    outputs: Sequence[str]


def draw(parts: Sequence[Part], name: str) -> str:
    """The drawing as the text of an SVG."""
    root = xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg"})
    paper = svg.element(root, "rect", width="100%", height="100%", fill=svg.PAPER)
    paper.tail = "\n"
    head = svg.element(root, "g")
    y, width = MARGIN + 78.0, 760.0
    used: dict[str, None] = {}
    for i, part in enumerate(parts):
        if len(parts) > 1:
            svg.text(root, MARGIN, y, f"native call {i + 1} of {len(parts)}", size=14, font_weight="600")
            y += 18.0
        body = svg.element(root, "g", id_=f"call-{i + 1}")
        drawing = _Drawing(part, f"{i + 1}", used)
        across, down = drawing.draw(body)
        below = svg.element(root, "g", id_=f"arena-{i + 1}")
        wide = min(max(across, 900.0), 2400.0)
        tall = chart(below, part.program, part.memory, drawing.families, wide)
        full = max(across, wide)
        body.set("transform", f"translate({MARGIN + (full - across) / 2:.1f} {y:.1f})")
        below.set("transform", f"translate({MARGIN + (full - wide) / 2:.1f} {y + down + 40:.1f})")
        y += down + 40.0 + tall + 44.0
        width = max(width, full)
    if not parts:
        svg.text(root, MARGIN, y, "XLA runs all of it: there is no native call.", size=13)
        y += 30.0
    _head(head, parts, name, list(used), width)
    root.set("width", f"{width + 2 * MARGIN:.0f}")
    root.set("height", f"{y:.0f}")
    root.set("viewBox", f"0 0 {width + 2 * MARGIN:.0f} {y:.0f}")
    xml.indent(root, " ")
    return xml.tostring(root, encoding="unicode") + "\n"


def _head(head: xml.Element, parts: Sequence[Part], name: str, used: Sequence[str], width: float) -> None:
    svg.text(head, MARGIN, MARGIN + 14, name, size=21, font_weight="700")
    nodes = sum(len(p.program.nodes) for p in parts)
    arena, separate = sum(p.memory.arena for p in parts), sum(p.memory.without_aliasing for p in parts)
    calls = f"{len(parts)} native call{'' if len(parts) == 1 else 's'}"
    words = f"{calls} · {nodes} nodes · {svg.size(arena)} of working memory, {svg.size(separate)} without aliasing"
    svg.text(head, MARGIN, MARGIN + 34, words, size=12, fill=svg.QUIET)
    x, y = MARGIN, MARGIN + 54.0
    entries = [(f, card.FAMILIES[f][0], False) for f in card.FAMILIES if f in used]
    entries += [("input", INPUT, True), ("state, updated", STATE, True), ("output", OUTPUT, True)]
    for words, colour, chip in entries:
        room = svg.width(words) + 34.0
        if x + room > MARGIN + width:
            x, y = MARGIN, y + 16
        svg.element(head, "rect", x=x, y=y - 9, width=11, height=11, rx=5.5 if chip else 2, fill=colour)
        svg.text(head, x + 16, y + 0.5, words, fill=svg.QUIET)
        x += room


class _Drawing:
    """The nodes of one program as cards, the values between them as curves."""

    def __init__(self, part: Part, prefix: str, used: dict[str, None]) -> None:
        self.part, self.prefix, self.program = part, prefix, part.program
        nodes = self.program.nodes
        self.maker = {r: i for i, n in enumerate(nodes) for r in n.results}
        self.role: dict[Value, tuple[str, str]] = {}  # of an input: its name and colour
        states = {i for i, _ in part.aliases} | _states(part)
        for i, value in enumerate(self.program.inputs):
            self.role[value] = (part.inputs[i] or "input", STATE if i in states else INPUT)
        self.returned: dict[Value, str] = {}
        for value, name in zip(self.program.outputs, part.outputs, strict=True):
            self.returned.setdefault(value, name or "output")
        updated = {self.program.outputs[o] for _, o in part.aliases}
        self.updated = updated | {self.program.outputs[o] for o in _state_outputs(part)}
        self.families = []
        for node in nodes:
            self.families.append(card.family(node, any(r in self.updated for r in node.results)))
        used.update(dict.fromkeys(self.families))

    def draw(self, into: xml.Element) -> tuple[float, float]:
        """Draws all, in several columns where there is much; gives width and height."""
        nodes = self.program.nodes
        readers = {r: [i for i, n in enumerate(nodes) if r in n.operands] for n in nodes for r in n.results}
        pairs = [(self.maker[v], found) for v, found in readers.items()]
        row = rows(len(nodes), pairs, [self._size(n, [])[0] for n in nodes], _WIDEST)
        deep = max(row, default=0) + 1
        columns = max(2, round(math.sqrt(deep / 7))) if len(nodes) > _MANY else 1
        column = [r * columns // deep for r in row]
        cut: list[list[Value]] = []  # of each node, the operands from another column or from far above
        for i, node in enumerate(nodes):
            made = [(o, self.maker[o]) for o in dict.fromkeys(node.operands) if o in self.maker]
            far = [o for o, m in made if column[m] != column[i] or (columns > 1 and row[i] - row[m] > _LONG)]
            cut.append(far)
            for operand in far:
                readers[operand].remove(i)
        x = tall = 0.0
        for c in range(columns):
            group = svg.element(into, "g", transform=f"translate({x:.1f} 0)")
            across, down = self._column(group, [i for i in range(len(nodes)) if column[i] == c], row, readers, cut)
            x, tall = x + across + 2 * MARGIN, max(tall, down)
        return x - 2 * MARGIN, tall

    def _column(
        self,
        into: xml.Element,
        members: list[int],
        row: list[int],
        readers: dict[Value, list[int]],
        cut: list[list[Value]],
    ) -> tuple[float, float]:
        at = {i: k for k, i in enumerate(members)}
        first = min((row[i] for i in members), default=0)
        boxes, links, drawn = [], [], []
        for i in members:
            node = self.program.nodes[i]
            across, down = self._size(node, cut[i])
            boxes.append(Box(across, down + (LABELS if self._named(node) else 0.0), row[i] - first))
            for result, port in zip(node.results, self._ports(node), strict=True):
                if readers[result]:
                    links.append(Link(at[i], port, [at[t] for t in readers[result]]))
                    drawn.append(result)
        layout = place(boxes, links, SPACE)
        wires = svg.element(into, "g", fill="none")
        for value, paths in zip(drawn, layout.paths, strict=True):
            colour = card.FAMILIES[self.families[self.maker[value]]][0]
            thick = 1.1 + 0.22 * max(0, len(bin(max(value.type.bytes, 1))) - 14)
            for (x, y), *rest in paths:
                path = [(x, y - LABELS), (x, y), *rest]
                svg.element(
                    wires, "path", d=svg.curve(path), stroke=colour, stroke_width=thick, stroke_opacity=0.55,
                    title=f"{value}: {value.type}",
                )  # fmt: skip
                x, y = path[-1]
                svg.element(wires, "path", d=f"M{x - 3.6:.1f} {y - 6:.1f}h7.2l-3.6 6z", fill=colour)
        for i, box in zip(members, boxes, strict=True):
            self._card(into, i, self.program.nodes[i], box, cut[i])
        return layout.width, layout.height

    def _named(self, node: Node) -> bool:
        return any(r not in self.returned for r in node.results)

    def _ports(self, node: Node) -> list[float]:
        """Where each result leaves, right of the centre."""
        room = [svg.width(_label(r), 9.5, mono=True) + 16.0 if r not in self.returned else 20.0 for r in node.results]
        at, ports = -sum(room) / 2, []
        for r in room:
            ports.append(at + 4.0 if len(room) > 1 or r > 20.0 else 0.0)
            at += r
        if len(ports) == 1:
            return [0.0]
        return ports

    def _chips(self, node: Node, far: Sequence[Value]) -> list[tuple[str, str, str]]:
        """The inputs that a node reads, and values from far above: words, colour, sign."""
        own = {o: o for o in node.operands if o in self.role}.values()
        chips = [(f"{self.role[o][0]}  {o.type}", self.role[o][1], "in") for o in own]
        for o in far:
            maker = self.maker[o]
            chips.append((f"{_label(o)}", card.FAMILIES[self.families[maker]][0], "far"))
        return _few(chips)

    def _outs(self, node: Node) -> list[tuple[str, str, str]]:
        found = [r for r in node.results if r in self.returned]
        colours = [STATE if r in self.updated else OUTPUT for r in found]
        return _few([(f"{self.returned[r]}  {r.type}", c, "out") for r, c in zip(found, colours, strict=True)])

    def _size(self, node: Node, far: Sequence[Value]) -> tuple[float, float]:
        lines, chips = card.details(node), [*self._chips(node, far), *self._outs(node)]
        wide = svg.width(card.title(node), 12.5, bold=True) + 26.0
        wide = max([wide, *(svg.width(w, 10) + 26.0 for w in lines), *(svg.width(w, 9.5) + 36.0 for w, _, _ in chips)])
        labels = [svg.width(_label(r), 9.5, mono=True) + 16.0 for r in node.results if r not in self.returned]
        wide = max(wide, sum(labels) if len(labels) > 1 else 2 * max(labels, default=0.0), 84.0)
        plain = node.op == "reshape"
        return wide, (21.0 if plain else 26.0) + 13.0 * len(lines) + 15.0 * len(chips) + (
            5.0 if lines or chips else 0.0
        )

    def _card(self, into: xml.Element, i: int, node: Node, box: Box, far: Sequence[Value]) -> None:
        colour = card.FAMILIES[self.families[i]][0]
        group = svg.element(into, "g", id_=f"node-{self.prefix}-{i}", title=str(node))
        across, down = self._size(node, far)
        left, top = box.x - box.width / 2, box.y
        svg.element(group, "rect", x=left, y=top, width=across, height=down, rx=6, fill="#fff", stroke=colour)
        svg.element(group, "rect", x=left, y=top, width=across, height=down, rx=6, fill=colour, fill_opacity=0.06)
        svg.element(group, "rect", x=left, y=top, width=5, height=down, rx=2.5, fill=colour)
        y = top + 17.0
        for words, tint, sign in self._chips(node, far):
            _chip(group, left + 13, y - 10.5, words, tint, sign)
            y += 15.0
        y += 0.0 if node.op != "reshape" else -2.0
        small = node.op == "reshape"
        svg.text(
            group, left + 13, y, card.title(node), size=11 if small else 12.5,
            font_weight="400" if small else "650", fill=colour,
        )  # fmt: skip
        for line in card.details(node):
            y += 13.0
            svg.text(group, left + 13, y, line, size=10)
        for words, tint, sign in self._outs(node):
            y += 15.0
            _chip(group, left + 13, y - 8.5, words, tint, sign)
        for result, port in zip(node.results, self._ports(node), strict=True):
            if result not in self.returned:
                at = box.x + port
                svg.element(group, "path", d=f"M{at:.1f} {top + down:.1f}v6", stroke=colour, stroke_opacity=0.55)
                svg.text(group, at + 5, top + down + 12, _label(result), size=9.5, mono=True, fill=svg.QUIET)


def _label(value: Value) -> str:
    return f"{value} {value.type}"


def _few(chips: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    if len(chips) <= _CHIPS:
        return chips
    rest = len(chips) - _CHIPS + 1
    return [*chips[: _CHIPS - 1], (f"and {rest} more", svg.QUIET, chips[0][2])]


def _chip(group: xml.Element, x: float, y: float, words: str, colour: str, sign: str) -> None:
    across = svg.width(words, 9.5) + 19.0
    svg.element(group, "rect", x=x, y=y, width=across, height=13, rx=6.5, fill=colour, fill_opacity=0.13)
    mark = {"in": "h4l4 4l-4 4h-4z", "far": "l4 -1l4 1l-4 8z", "out": "m0 0h4l4 4l-4 4h-4l4 -4z"}[sign]
    svg.element(group, "path", d=f"M{x + 4:.1f} {y + 2.5:.1f}{mark}", fill=colour)
    svg.text(group, x + 15, y + 9.8, words, size=9.5, fill=colour)


def _pairs(part: Part) -> list[tuple[int, int]]:
    """Inputs and outputs of one type and one name, but for the argument's and the result's own: a state's parts."""
    found: dict[tuple[str, object], int] = {}
    for i, (name, value) in enumerate(zip(part.inputs, part.program.inputs, strict=True)):
        if "." in name:
            found.setdefault((name.partition(".")[2], value.type), i)
    pairs = []
    for o, (name, value) in enumerate(zip(part.outputs, part.program.outputs, strict=True)):
        whole = name.partition(".")[2]  # of a result that is a tuple of states, without its place in it as well
        matches = (found.get((key, value.type)) for key in (whole, whole.partition(".")[2]) if key)
        pairs += [(i, o) for i in matches if i is not None][:1]
    return pairs


def _states(part: Part) -> set[int]:
    return {i for i, _ in _pairs(part)}


def _state_outputs(part: Part) -> set[int]:
    return {o for _, o in _pairs(part)}
