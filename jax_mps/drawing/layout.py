"""A layered layout: boxes in rows from top to bottom, every link downwards, few crossings, straight where it can be.

Sugiyama's method: rows by dependence; long links get a place of their own in every row that they pass; the order within
a row by barycentres; positions by least squares under the order (pool adjacent violators).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

GAP, LANE = 26.0, 9.0  # between boxes, between the lanes of long links
_SWEEPS = 12
_PULL = 0.05  # to the middle, so that nothing drifts away over many rows


@dataclass(eq=False)
class Box:
    """Something with a size; the layout gives it a row, its centre and its top."""

    width: float
    height: float
    row: int = 0
    x: float = 0.0
    y: float = 0.0
    lane: bool = False  # a long link passing through a row


@dataclass(eq=False)
class Link:
    """What leaves box `source` at `port` right of its centre and goes to each of `targets`, by index."""

    source: int
    port: float
    targets: Sequence[int]


@dataclass
class Layout:
    """What the layout gives beside the boxes' places."""

    width: float
    height: float
    paths: list[list[list[tuple[float, float]]]] = field(default_factory=list)  # of each link, for each target


class _Piece(NamedTuple):
    """A part of a link between neighbouring rows."""

    upper: Box
    lower: Box
    port: float  # right of the upper's centre
    weight: float


def rows(count: int, links: Sequence[tuple[int, Sequence[int]]], widths: Sequence[float], widest: float) -> list[int]:
    """The row of each of `count` boxes, given in an order that runs: below its sources, no row wider than `widest`."""
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for source, targets in links:
        for target in targets:
            above[target].append(source)
            below[source].append(target)
    wanted = [0] * count
    for i in range(count):
        wanted[i] = max((wanted[s] + 1 for s in above[i]), default=0)
    for _ in range(2):  # down to its readers, where that makes links shorter
        for i in reversed(range(count)):
            if below[i] and len(below[i]) > len(above[i]):
                wanted[i] = max(wanted[i], min(wanted[t] for t in below[i]) - 1)
    depth = [0] * count  # of what hangs below
    for i in reversed(range(count)):
        depth[i] = max((depth[t] + 1 for t in below[i]), default=0)
    row = [-1] * count
    left = sorted(range(count), key=lambda i: (-depth[i], i))
    now = 0
    while left:
        free, waiting = 0.0, []
        for i in left:
            ready = wanted[i] <= now and all(0 <= row[s] < now for s in above[i])
            if ready and (free == 0.0 or free + widths[i] <= widest):
                row[i] = now
                free += widths[i] + GAP
            else:
                waiting.append(i)
        left, now = waiting, now + 1
    used = {r: k for k, r in enumerate(sorted(set(row)))}
    return [used[r] for r in row]


def place(boxes: Sequence[Box], links: Sequence[Link], space: float) -> Layout:
    """Places boxes that have their rows, `space` apart, and draws the links between them."""
    count = max((b.row for b in boxes), default=-1) + 1
    grid: list[list[Box]] = [[] for _ in range(count)]
    lanes: list[dict[int, Box]] = []
    for i, box in enumerate(boxes):
        grid[box.row].append(box)
        for link in (k for k in links if k.source == i):
            last = max(boxes[t].row for t in link.targets)
            lanes.append({r: Box(2.0, 0.0, r, lane=True) for r in range(box.row + 1, last)})
            for r, lane in lanes[-1].items():
                grid[r].append(lane)
    ordered = [k for i in range(len(boxes)) for k in links if k.source == i]
    pieces: list[_Piece] = []
    for link, trunk in zip(ordered, lanes, strict=True):
        source = boxes[link.source]
        for r, lane in trunk.items():
            pieces.append(
                _Piece(trunk[r - 1], lane, 0.0, 8.0) if r - 1 in trunk else _Piece(source, lane, link.port, 2.0)
            )
        for target in sorted(set(link.targets)):
            upper = trunk.get(boxes[target].row - 1)
            pieces.append(
                _Piece(upper, boxes[target], 0.0, 1.0) if upper else _Piece(source, boxes[target], link.port, 1.5)
            )
    _order(grid, pieces)
    _positions(grid, pieces)
    _straighten(grid, lanes)
    left = min((b.x - b.width / 2 for row in grid for b in row), default=0.0)
    y = 0.0
    for row in grid:
        height = max(b.height for b in row)
        for b in row:
            b.x -= left
            b.y = y
            if b.lane:
                b.height = height
        y += height + space
    width = max((b.x + b.width / 2 for row in grid for b in row), default=0.0)
    found = dict(zip(ordered, _paths(boxes, ordered, lanes), strict=True))
    return Layout(width, y - space if grid else 0.0, [found[k] for k in links])


def _order(grid: list[list[Box]], pieces: Sequence[_Piece]) -> None:
    """The order within rows that crosses least of those that barycentres sweep through."""
    # With where on the upper box they leave, in boxes: ports to the left come first.
    uppers: dict[Box, list[tuple[Box, float]]] = {}
    lowers: dict[Box, list[tuple[Box, float]]] = {}
    for p in pieces:
        aside = 0.9 * p.port / max(p.upper.width, 1.0)
        uppers.setdefault(p.lower, []).append((p.upper, aside))
        lowers.setdefault(p.upper, []).append((p.lower, aside))
    best, least = [list(row) for row in grid], _crossings(grid, lowers)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for r in range(len(grid)) if down else reversed(range(len(grid))):
            row, beside = grid[r], grid[r - 1 : r] if down else grid[r + 1 : r + 2]
            at = {b: i for other in (*beside, row) for i, b in enumerate(other)}
            mean = {}
            for b in row:
                near = (uppers if down else lowers).get(b, [])
                sign = 1.0 if down else -1.0
                mean[b] = sum(at[n] + sign * a for n, a in near) / len(near) if near else at[b]
            row.sort(key=lambda b: mean[b])
        crossings = _crossings(grid, lowers)
        if crossings < least:
            best, least = [list(row) for row in grid], crossings
    grid[:] = best


def _crossings(grid: list[list[Box]], lowers: dict[Box, list[tuple[Box, float]]]) -> int:
    total = 0
    for upper, lower in pairwise(grid):
        at = {b: i for i, b in enumerate(lower)}
        seen: list[int] = []
        for box in upper:
            near = sorted(lowers.get(box, []), key=lambda pair: (pair[1], at[pair[0]]))
            for port in sorted({a for _, a in near}):
                ends = [at[n] for n, a in near if a == port]
                total += sum(len(seen) - bisect_right(seen, e) for e in ends)
                for e in ends:
                    insort(seen, e)
    return total


def _positions(grid: list[list[Box]], pieces: Sequence[_Piece]) -> None:
    """Every box near its neighbours in the rows above and below."""
    above: dict[Box, list[_Piece]] = {}
    below: dict[Box, list[_Piece]] = {}
    for p in pieces:
        above.setdefault(p.lower, []).append(p)
        below.setdefault(p.upper, []).append(p)
    for row in grid:
        _spread(row, [0.0] * len(row), [1.0] * len(row))
    for sweep in range(3 * _SWEEPS):
        down, late = sweep % 2 == 0, sweep >= 2 * _SWEEPS
        for row in grid if down else reversed(grid):
            wanted, weights = [], []
            for b in row:
                ups = [(p.upper.x + p.port, p.weight) for p in above.get(b, [])] if down or late else []
                downs = [(p.lower.x - p.port, p.weight) for p in below.get(b, [])] if not down or late else []
                weight = sum(w for _, w in ups + downs) + _PULL
                wanted.append(sum(x * w for x, w in ups + downs) / weight)
                weights.append(weight)
            _spread(row, wanted, weights)


def _straighten(grid: list[list[Box]], lanes: Sequence[dict[int, Box]]) -> None:
    """Every long link at one place over as many rows as have room."""
    for _ in range(4):
        wanted: dict[Box, float] = {}
        for trunk in lanes:
            middle = sorted(lane.x for lane in trunk.values())
            wanted.update((lane, middle[len(middle) // 2]) for lane in trunk.values())
        for row in grid:
            _spread(row, [wanted.get(b, b.x) for b in row], [20.0 if b.lane else 1.0 for b in row])


def _spread(row: list[Box], wanted: Sequence[float], weights: Sequence[float]) -> None:
    """Positions closest to those wanted that keep the order and the gaps."""
    shift, blocks = 0.0, []  # [sum of weight * position, weight, members]
    shifts = []
    for i, (box, x, w) in enumerate(zip(row, wanted, weights, strict=True)):
        if i:
            narrow = box.lane and row[i - 1].lane
            shift += (row[i - 1].width + box.width) / 2 + (LANE if narrow else GAP)
        shifts.append(shift)
        blocks.append([(x - shift) * w, w, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, weight, members = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + weight, blocks[-1][2] + members]
    i = 0
    for total, weight, members in blocks:
        for _ in range(int(members)):
            row[i].x = total / weight + shifts[i]
            i += 1


def _paths(
    boxes: Sequence[Box], links: Sequence[Link], lanes: Sequence[dict[int, Box]]
) -> list[list[list[tuple[float, float]]]]:
    """Of each link and target the points: the port, both ends of each lane on the way, the entry."""
    ends: dict[int, list[tuple[float, int, int]]] = {}  # of each box: who enters it, from where
    for k, (link, trunk) in enumerate(zip(links, lanes, strict=True)):
        for t in link.targets:
            upper = trunk.get(boxes[t].row - 1)
            x = upper.x if upper else boxes[link.source].x + link.port
            ends.setdefault(t, []).append((x, k, t))
    entry: dict[tuple[int, int], float] = {}
    for t, found in ends.items():
        box = boxes[t]
        step = min(22.0, (box.width - 24.0) / max(len(found) - 1, 1))
        room = (box.width - 24.0 - step * (len(found) - 1)) / 2
        mean = sum(x for x, _, _ in found) / len(found) - box.x
        centre = max(-room, min(room, mean))  # straight down where the box is wide enough
        for i, (_, k, _) in enumerate(sorted(found)):
            entry[k, t] = box.x + centre + step * (i - (len(found) - 1) / 2)
    paths: list[list[list[tuple[float, float]]]] = []
    for k, (link, trunk) in enumerate(zip(links, lanes, strict=True)):
        source = boxes[link.source]
        start = (source.x + link.port, source.y + source.height)
        paths.append([])
        for t in link.targets:
            points = [start]
            for r in range(source.row + 1, boxes[t].row):
                points += [(trunk[r].x, trunk[r].y), (trunk[r].x, trunk[r].y + trunk[r].height)]
            paths[-1].append([*points, (entry[k, t], boxes[t].y)])
    return paths
