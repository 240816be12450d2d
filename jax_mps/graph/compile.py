"""The compile: from a function's trace to native regions and islands."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from jax_mps import ffi
from jax_mps._compat import with_weak_type
from jax_mps.device import device
from jax_mps.graph import capture, region, report
from jax_mps.graph.capture import Constant, Equation, Flat, Region, Variable
from jax_mps.graph.convert import ELEMENTWISE, Builder, NotConvertible, rule_of
from jax_mps.graph.fuse import fuse as fuse_pass
from jax_mps.graph.plan import Memory, aliases, plan
from jax_mps.graph.recognise import recognise
from jax_mps.graph.simplify import simplify
from jax_mps.primitive import OPS
from jax_mps.program import Program

# Below so many multiply-adds a region of nothing but products stays on XLA, whose own are as fast there.
_SMALL_PRODUCTS = 1 << 19


@dataclass
class NativeRegion:
    """A native region: its program, memory, and what it reads and gives."""

    program: Program
    memory: Memory
    text: str
    operands: list[Variable]
    results: list[Variable]
    equations: list[Equation]
    aliases: tuple[tuple[int, int], ...]  # inputs and outputs that may share memory
    origins: Callable[[], dict[int, str]]  # of each node, by its first result's name, the primitives that it is made of

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """Runs it natively."""
        types = tuple((r.aval.shape, r.aval.dtype) for r in self.results)
        return list(region.run(self.text, types, self.aliases, region.Original(self.original, self.origins), operands))

    def original(self, *operands: Any) -> list[Any]:
        """Runs its equations by JAX."""
        env = dict(zip(map(id, self.operands), operands, strict=True))
        _evaluate(self.equations, env)
        return [env[id(r)] for r in self.results]


@dataclass
class Graphed:
    """A function as regions: native ones compiled, islands as their equations."""

    flat: Flat
    parts: list[NativeRegion | list[Equation]]
    reasons: dict[int, str]  # of each equation that stays in JAX, by its id

    def __call__(self, *operands: Any) -> list[Any]:
        """Runs it on flat operands."""
        env: dict[int, Any] = dict(zip(map(id, self.flat.inputs), operands, strict=True))
        env.update((id(variable), value) for variable, value in self.flat.captured.values())
        for part in self.parts:
            if isinstance(part, NativeRegion):
                env.update(zip(map(id, part.results), part.run([env[id(v)] for v in part.operands]), strict=True))
            else:
                for equation in part:
                    with report.scope(self.reasons[id(equation)]):
                        _evaluate([equation], env)
        return [with_weak_type(_read(o, env), o.aval) for o in self.flat.outputs]


def _read(atom: Any, env: dict[int, Any]) -> Any:
    return atom.value if isinstance(atom, Constant) else env[id(atom)]


def _evaluate(equations: Sequence[Equation], env: dict[int, Any]) -> None:
    for equation in equations:
        values = capture.evaluate(equation, [_read(o, env) for o in equation.operands])
        env.update(zip(map(id, equation.results), values, strict=True))


def compile_jaxpr(closed: ClosedJaxpr, fuse: bool = True) -> Graphed:
    """The whole compile."""
    flat = capture.flatten(closed, lambda body: _graph_body(body, fuse))
    reasons: dict[int, str] = {}
    if device() == "reference":
        return Graphed(flat, [flat.equations], {id(e): "the device is 'reference'" for e in flat.equations})
    unrecognised = recognise(flat)
    capture.drop_dead(flat)
    capture.capture_arrays(flat)

    def convertible(equation: Equation) -> bool:
        try:
            if id(equation) in unrecognised:
                raise NotConvertible(unrecognised[id(equation)])
            _alone(equation)
        except NotConvertible as refused:
            reasons[id(equation)] = report.reason(equation, str(refused))
            return False
        return True

    native = {id(e) for e in flat.equations if convertible(e)}
    native -= _before_islands(flat, native)
    regions = capture.partition(flat, lambda e: id(e) in native)
    parts: list[NativeRegion | list[Equation]] = []
    for part in regions:
        compiled, why = None, report.FOR_ISLAND
        if part.native:
            try:
                compiled, why = _compile_region(part, regions, flat, fuse), report.NO_GAIN
            except ValueError as refused:  # a chain beyond the device's limits
                why = str(refused)
        if compiled is None:
            reasons.update((id(e), why) for e in part.equations if id(e) not in reasons)
        parts.append(compiled if compiled is not None else part.equations)
    return Graphed(flat, parts, reasons)


def _before_islands(flat: Flat, native: set[int]) -> set[int]:
    """Small equations between the inputs and an island, such as those that make a random key: they join the island.

    Natively they would be a region of their own, which the island would wait for.
    """
    late: set[int] = set()  # variables that wait for what must be native
    early: list[Equation] = []
    for equation in flat.equations:
        heavy = (
            equation.name in OPS or equation.name == "dot_general" or any(r.aval.size > 4096 for r in equation.results)
        )
        if (id(equation) in native and heavy) or any(id(o) in late for o in equation.operands):
            late.update(id(r) for r in equation.results)
        else:
            early.append(equation)
    wanted: set[int] = set()
    joined: set[int] = set()
    for equation in reversed(early):
        if id(equation) not in native or any(id(r) in wanted for r in equation.results):
            wanted.update(id(o) for o in equation.operands)
            joined.add(id(equation))
    return joined & native


def _alone(equation: Equation) -> None:
    """NotConvertible if an equation by itself is none that the device runs."""
    rule, builder = rule_of(equation), Builder()
    own = OPS.get(equation.name)
    if own is not None:
        results = [r.aval for r in equation.results]
        text, words = own.placement([o.aval for o in equation.operands], results, equation.params)
        if not text:
            raise NotConvertible(words)
    for operand in equation.operands:
        if isinstance(operand, Variable) and id(operand) not in builder.known:
            builder.input(operand)
    builder.define(equation, rule)


def _compile_region(part: Region, regions: Sequence[Region], flat: Flat, fuse: bool) -> NativeRegion | None:
    operands, results = capture.boundary(part, regions, flat)
    builder = Builder()
    for operand in operands:
        builder.input(operand)
    for equation in part.equations:
        builder.define(equation, rule_of(equation))
    builder.program.outputs = [builder.read(r) for r in results]
    program = simplify(builder.program, ELEMENTWISE, itertools.count(builder.count))
    if not _gains(program):
        return None
    program = fuse_pass(program, ELEMENTWISE, separate=not fuse)
    memory = plan(program)
    text = program.text()
    ffi.implementations(text)
    return NativeRegion(
        program,
        memory,
        text,
        operands,
        results,
        part.equations,
        aliases(program),
        lambda: report.origins(builder.made, builder.program, program),
    )


def _gains(program: Program) -> bool:
    own = {op.name for op in OPS.values()}
    products = 0
    for node in program.nodes:
        if node.op in own:
            return True
        if node.op == "dot":
            contracted = [node.operands[0].type.shape[i] for i in node.attributes["contract"][0]]
            products += node.results[0].type.elements * math.prod(contracted)
    return products >= _SMALL_PRODUCTS


def _graph_body(closed: ClosedJaxpr, fuse: bool) -> ClosedJaxpr:
    graphed = compile_jaxpr(closed, fuse)
    if not any(isinstance(p, NativeRegion) for p in graphed.parts):
        return closed
    return jax.make_jaxpr(graphed)(*closed.in_avals)
