"""A compiled function: regions that run natively, and equations that stay in JAX between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from jax_mps import ffi
from jax_mps._compat import has_sizes
from jax_mps._device import device
from jax_mps.compiler import reasons, region
from jax_mps.compiler.equations import evaluate, regions
from jax_mps.compiler.equations.equation import Atom, Equation, Flat, Variable
from jax_mps.compiler.equations.flatten import LOOPS, flatten, with_bodies
from jax_mps.compiler.equations.regions import Region
from jax_mps.compiler.loops import convert_loop
from jax_mps.compiler.lower.rules import Builder, NotConvertible, rule_of
from jax_mps.compiler.passes.plan_memory import Memory, aliases
from jax_mps.compiler.pipeline import EVERYTHING, Options, optimise, prepare
from jax_mps.compiler.watch import watched
from jax_mps.ir.program import Program


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
        original = region.Original(self.original, self.origins, self.reached)
        return list(region.run(self.text, types, self.aliases, original, operands))

    def original(self, *operands: Any) -> list[Any]:
        """Runs its equations by JAX."""
        env: dict[Atom, Any] = dict(zip(self.operands, operands, strict=True))
        evaluate.evaluate_all(self.equations, env)
        return [env[r] for r in self.results]

    def reached(self, flags: Sequence[bool]) -> list[bool]:
        """Which results depend on the operands whose flags are set."""
        found = {v for v, flag in zip(self.operands, flags, strict=True) if flag}
        for equation in self.equations:
            through = evaluate.reached(equation, [o in found for o in equation.operands])
            found.update(r for r, flag in zip(equation.results, through, strict=True) if flag)
        return [r in found for r in self.results]


@dataclass
class Graphed:
    """A function as regions: native ones compiled, islands as their equations."""

    flat: Flat
    parts: list[NativeRegion | list[Equation]]
    reasons: dict[Equation, str]  # of each equation that stays in JAX

    def __call__(self, *operands: Any) -> list[Any]:
        """Runs it on flat operands."""
        env: dict[Atom, Any] = dict(zip(self.flat.inputs, operands, strict=True))
        env.update((variable, value) for variable, value in self.flat.captured.values())
        for part in self.parts:
            if isinstance(part, NativeRegion):
                env.update(zip(part.results, part.run([env[v] for v in part.operands]), strict=True))
            else:
                for equation in part:
                    with reasons.scope(self.reasons[equation]):
                        evaluate.evaluate_all([equation], env)
        with reasons.scope(reasons.RESULT_TYPE):
            return evaluate.results(self.flat, env)


def compile_jaxpr(closed: ClosedJaxpr, options: Options = EVERYTHING) -> Graphed:
    """The whole compile; without native loops if the device refuses a region that has some."""
    if not all(map(has_sizes, closed.in_avals)):  # as jax.export may have them
        flat = flatten(closed)
        return Graphed(flat, [flat.equations], {e: "programs have no symbolic shape" for e in flat.equations})
    with watched(closed):
        prepared = prepare(closed, lambda equation: _control(equation, options), options)
        flat = prepared.flat
        if device() == "reference":
            return Graphed(flat, [flat.equations], {e: "the device is 'reference'" for e in flat.equations})
        stays: dict[Equation, str] = {}

        def convertible(equation: Equation) -> bool:
            try:
                prepared.check(equation)
            except NotConvertible as refused:
                stays[equation] = reasons.reason(equation, str(refused))
                return False
            return True

        native = {e for e in flat.equations if convertible(e)}
        native -= regions.before_islands(flat, native)
        found = regions.partition(flat, lambda e: e in native)
        readers = regions.readers(found, flat)
        successors = regions.successors(flat)
        parts: list[NativeRegion | list[Equation]] = []
        for part in found:
            compiled, why = None, reasons.FOR_ISLAND
            if part.native:
                try:
                    compiled, why = _compile_region(part, readers, successors, options), reasons.NO_GAIN
                except ValueError as beyond:  # a chain beyond the device's limits
                    if any(equation.name == "scan" for equation in part.equations):
                        return compile_jaxpr(closed, replace(options, loops=False))
                    why = str(beyond)
            if compiled is None:
                stays.update((e, why) for e in part.equations if e not in stays)
                stays.update((e, f"{stays[e]}; {e.note}") for e in part.equations if e.note)
            parts.append(compiled if compiled is not None else part.equations)
        return Graphed(flat, parts, stays)


def _compile_region(
    part: Region, readers: dict[Atom, set[Region | Flat]], successors: dict[Variable, Atom | None], options: Options
) -> NativeRegion | None:
    operands, results = regions.boundary(part, readers)
    builder = Builder()
    for operand in operands:
        builder.input(operand)
    for equation in part.equations:
        builder.define(equation, rule_of(equation))
    builder.program.outputs = [builder.read(r) for r in results]
    optimised = optimise(builder.program, builder.names, options)
    if optimised is None:
        return None
    program, memory = optimised
    text = ffi.text_for(device(), program.text())
    ffi.implementations(text)
    place: dict[Atom | None, int] = {r: i for i, r in enumerate(results)}
    return NativeRegion(
        program,
        memory,
        text,
        operands,
        results,
        part.equations,
        aliases(program, {i: place.get(successors[v]) for i, v in enumerate(operands) if v in successors}),
        lambda: reasons.origins(builder.made, builder.notes, builder.program, program),
    )


def _control(equation: Equation, options: Options) -> Equation:
    """A scan as a native loop, or any loop with its bodies graphed."""
    reason = None
    if equation.name == "scan" and options.loops and device() != "reference":
        try:
            return convert_loop(equation, lambda inner: _control(inner, options), options)
        except NotConvertible as refused:
            reason = str(refused)
    graphed = with_bodies(equation, lambda body: _graph_body(body, options))
    graphed.loop = reason
    return graphed


def _graph_body(closed: ClosedJaxpr, options: Options) -> ClosedJaxpr:
    graphed = compile_jaxpr(closed, options)
    if not any(isinstance(p, NativeRegion) or any(e.name in LOOPS for e in p) for p in graphed.parts):
        return closed  # nothing in it, nor in a loop in it, is native
    return jax.make_jaxpr(graphed)(*closed.in_avals)
