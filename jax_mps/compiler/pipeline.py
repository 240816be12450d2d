"""The compile: from a function's trace to native regions and islands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from jax_mps import ffi
from jax_mps._compat import has_sizes
from jax_mps._device import device
from jax_mps.compiler import reasons, region
from jax_mps.compiler.equations import clean, evaluate, regions
from jax_mps.compiler.equations.equation import Atom, Equation, Flat, Variable
from jax_mps.compiler.equations.flatten import LOOPS, flatten, with_bodies
from jax_mps.compiler.equations.regions import Region
from jax_mps.compiler.loops import convert_loop, flatten_loops
from jax_mps.compiler.lower.rules import Builder, NotConvertible, check, rule_of
from jax_mps.compiler.passes.concat_in_place import elide_concatenations
from jax_mps.compiler.passes.fold_padding import fold_padding
from jax_mps.compiler.passes.fuse_bias_relu import take_neurons
from jax_mps.compiler.passes.fuse_elementwise.fuse import fuse as fuse_pass
from jax_mps.compiler.passes.fuse_softmax import take_softmax
from jax_mps.compiler.passes.gather_labels import take_picks
from jax_mps.compiler.passes.hoist_from_loops import hoist
from jax_mps.compiler.passes.plan_memory import Memory, aliases, plan
from jax_mps.compiler.passes.shift_variances import shift_variances
from jax_mps.compiler.passes.simplify import simplify
from jax_mps.compiler.passes.slice_views import take_parts
from jax_mps.compiler.recognise.rules import recognise
from jax_mps.ir.program import Node, Program
from jax_mps.primitive import OPS

# Below so many multiply-adds a region of nothing but products stays on XLA, whose own are as fast there.
_SMALL_PRODUCTS = 3 << 20


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


def compile_jaxpr(closed: ClosedJaxpr, fuse: bool = True, loops: bool = True) -> Graphed:
    """The whole compile; without native loops if the device refuses a region that has some."""
    if not all(map(has_sizes, closed.in_avals)):  # as jax.export may have them
        flat = flatten(closed)
        return Graphed(flat, [flat.equations], {e: "programs have no symbolic shape" for e in flat.equations})
    flat = flatten_loops(closed, lambda equation: _control(equation, fuse, loops))
    stays: dict[Equation, str] = {}
    if device() == "reference":
        return Graphed(flat, [flat.equations], {e: "the device is 'reference'" for e in flat.equations})
    unrecognised = recognise(flat)
    clean.drop_dead(flat)
    clean.capture_arrays(flat)

    def convertible(equation: Equation) -> bool:
        try:
            if equation in unrecognised:
                raise NotConvertible(unrecognised[equation])
            check(equation)
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
                compiled, why = _compile_region(part, readers, successors, fuse), reasons.NO_GAIN
            except ValueError as refused:  # a chain beyond the device's limits
                if any(equation.name == "scan" for equation in part.equations):
                    return compile_jaxpr(closed, fuse, loops=False)
                why = str(refused)
        if compiled is None:
            stays.update((e, why) for e in part.equations if e not in stays)
            stays.update((e, f"{stays[e]}; {e.note}") for e in part.equations if e.note)
        parts.append(compiled if compiled is not None else part.equations)
    return Graphed(flat, parts, stays)


def _compile_region(
    part: Region, readers: dict[Atom, set[Region | Flat]], successors: dict[Variable, Atom | None], fuse: bool
) -> NativeRegion | None:
    operands, results = regions.boundary(part, readers)
    builder = Builder()
    for operand in operands:
        builder.input(operand)
    for equation in part.equations:
        builder.define(equation, rule_of(equation))
    builder.program.outputs = [builder.read(r) for r in results]
    program = simplify(builder.program, builder.names)
    if not _gains(program):
        return None
    program = simplify(hoist(program, builder.names), builder.names)
    program = _fused(program, fuse)
    memory = plan(program, device())
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


def _fused(program: Program, fuse: bool) -> Program:
    for node in program.nodes:
        if node.body is not None:
            node.body = _fused(node.body, fuse)
    program = shift_variances(program)
    if not fuse:
        return fuse_pass(program, separate=True)
    program = take_softmax(program)
    program = take_picks(program)
    program = fold_padding(program)
    program = take_neurons(program)
    if device() == "cpu":
        program = take_parts(program)
    program = fuse_pass(program)
    return elide_concatenations(program) if device() == "cpu" else program


def _gains(program: Program) -> bool:
    own = {op.name for op in OPS.values()}
    return any(node.op in own for node in _nodes(program)) or _products(program) >= _SMALL_PRODUCTS


def _nodes(program: Program) -> Iterator[Node]:
    for node in program.nodes:
        yield node
        if node.body is not None:
            yield from _nodes(node.body)


def _products(program: Program) -> int:
    """Multiply-adds of all products."""
    count = 0
    for node in program.nodes:
        if node.op == "dot":
            contracted = [node.operands[0].type.shape[i] for i in node.attributes["contract"][0]]
            count += node.results[0].type.elements * math.prod(contracted)
        elif node.body is not None:
            count += node.attributes["length"] * _products(node.body)
    return count


def _control(equation: Equation, fuse: bool, loops: bool) -> Equation:
    """A scan as a native loop, or any loop with its bodies graphed."""
    reason = None
    if equation.name == "scan" and loops and device() != "reference":
        try:
            return convert_loop(equation, lambda inner: _control(inner, fuse, loops))
        except NotConvertible as refused:
            reason = str(refused)
    graphed = with_bodies(equation, lambda body: _graph_body(body, fuse, loops))
    graphed.loop = reason
    return graphed


def _graph_body(closed: ClosedJaxpr, fuse: bool, loops: bool) -> ClosedJaxpr:
    graphed = compile_jaxpr(closed, fuse, loops)
    if not any(isinstance(p, NativeRegion) or any(e.name in LOOPS for e in p) for p in graphed.parts):
        return closed  # nothing in it, nor in a loop in it, is native
    return jax.make_jaxpr(graphed)(*closed.in_avals)
