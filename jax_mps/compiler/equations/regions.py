"""From equations to regions that one native call can run each, and what they read and give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jax_mps._compat import is_array_type
from jax_mps.compiler.equations.equation import Atom, Equation, Flat, Variable
from jax_mps.primitive import OPS


@dataclass(eq=False)
class Region:
    """Equations that run together: natively, or (an island) each by JAX."""

    native: bool
    equations: list[Equation] = field(default_factory=list)


def partition(flat: Flat, convertible: Callable[[Equation], bool]) -> list[Region]:
    """Maximal regions in an order that runs: convertible equations of one level, then the islands that need them.

    Equations with effects keep their order. An equation joins the first native region that may run it: the one after
    the last island that it waits for. An island runs after the last native region that it waits for, before
    all of them if it waits for none.
    """
    ready: dict[Atom, int] = {}  # of a variable: the first native region that may read it
    after: dict[Atom, int] = {}  # the last native region that it waits for, -1 for none
    native: dict[int, Region] = {}
    islands: dict[int, Region] = {}
    effects = -1  # where the last equation with an effect is
    for equation in flat.equations:
        if convertible(equation):
            here = max((ready.get(v, 0) for v in equation.operands), default=0)
            native.setdefault(here, Region(True)).equations.append(equation)
            last = here
        else:
            last = max((after.get(v, -1) for v in equation.operands), default=-1)
            if equation.effects:
                last = effects = max(last, effects)
            islands.setdefault(last, Region(False)).equations.append(equation)
            here = last + 1
        for result in equation.results:
            ready[result], after[result] = here, last
    ordered = [islands[-1]] if -1 in islands else []
    for k in range(max([*native, *islands], default=-1) + 1):
        ordered += [r for r in (native.get(k), islands.get(k)) if r]
    return ordered


def readers(regions: Sequence[Region], flat: Flat) -> dict[Atom, set[Region | Flat]]:
    """By a variable, the regions that read it; of an output, the function too."""
    found: dict[Atom, set[Region | Flat]] = {v: {flat} for v in flat.outputs}
    for region in regions:
        for equation in region.equations:
            for operand in equation.operands:
                found.setdefault(operand, set()).add(region)
    return found


def boundary(region: Region, readers: dict[Atom, set[Region | Flat]]) -> tuple[list[Variable], list[Variable]]:
    """The variables that a region reads from outside and those of its results that are read outside."""
    made = {r for e in region.equations for r in e.results}
    reads: dict[Variable, None] = {}  # in order
    for equation in region.equations:
        for operand in equation.operands:
            if isinstance(operand, Variable) and operand not in made:
                reads[operand] = None
    results = [r for e in region.equations for r in e.results if readers.get(r, set()) - {region}]
    return list(reads), results


def successors(flat: Flat) -> dict[Variable, Atom | None]:
    """By an input, the output that is likely its new value, or None.

    A state comes and goes as runs of values of the same types, so inputs and outputs pair up at the distance at which
    most of them fit, the rest at the next such distance. Constants have no successor.
    """
    numbers: dict[Any, int] = {}
    ins, outs = (
        np.array([numbers.setdefault(_kind(a.aval), len(numbers)) for a in atoms], int)
        for atoms in (flat.inputs, flat.outputs)
    )

    def fits(distance: int) -> np.ndarray:
        """The outputs that have the type of the input `distance` places later."""
        first = max(0, -distance)
        last = max(first, min(len(outs), len(ins) - distance))
        return first + np.flatnonzero(outs[first:last] == ins[first + distance : last + distance])

    found: dict[Variable, Atom | None] = {v: None for v, _ in flat.captured.values()}
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for distance in sorted(range(1 - len(outs), len(ins)), key=lambda d: (-len(fits(d)), abs(d))):
        if len(taken) == len(outs):
            break
        for o in fits(distance).tolist():
            if o + distance not in pairs and o not in taken:
                pairs[o + distance] = o
                taken.add(o)
    for i, variable in enumerate(flat.inputs):
        found[variable] = flat.outputs[pairs[i]] if i in pairs else None
    return found


def _kind(aval: Any) -> Any:
    return (aval.shape, aval.dtype) if is_array_type(aval) else aval


def before_islands(flat: Flat, native: set[Equation]) -> set[Equation]:
    """Small equations between the inputs and an island, such as those that make a random key: they join the island.

    Natively they would be a region of their own, which the island would wait for.
    """
    late: set[Atom] = set()  # variables that wait for what must be native
    early: list[Equation] = []
    for equation in flat.equations:
        heavy = (
            equation.name in OPS
            or equation.name in ("dot_general", "scan")
            or any(r.aval.size > 4096 for r in equation.results if is_array_type(r.aval))
        )
        if (equation in native and heavy) or any(o in late for o in equation.operands):
            late.update(equation.results)
        else:
            early.append(equation)
    wanted: set[Atom] = set()
    joined: set[Equation] = set()
    for equation in reversed(early):
        if equation not in native or any(r in wanted for r in equation.results):
            wanted.update(equation.operands)
            joined.add(equation)
    return joined & native
