"""Loops: a scan whose body converts wholly becomes one node with the body as a program of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
from jax.extend.core import ClosedJaxpr

from jax_mps._compat import scan_params
from jax_mps.compiler.equations import clean, evaluate
from jax_mps.compiler.equations.equation import Atom, Constant, Equation, Flat
from jax_mps.compiler.equations.flatten import LOOPS, flatten
from jax_mps.compiler.lower.rules import NotConvertible, check
from jax_mps.compiler.recognise.recurrent.rewrite import recognise_recurrent
from jax_mps.compiler.recognise.rules import recognise


@dataclass
class Loop:
    """The body of a scan, (consts, carry, slices) -> (carry, slices), and how it is run."""

    body: Flat
    consts: int
    carry: int
    length: int
    reverse: bool


def convert_loop(equation: Equation, control: Callable[[Equation], Equation]) -> Equation:
    """The scan as a native loop; NotConvertible with the reason if it is none. `control` converts those in its body."""
    params = equation.params
    if equation.effects:
        raise NotConvertible("a loop with effects")
    body = flatten_loops(params["jaxpr"], control)
    unrecognised = recognise(body)
    clean.drop_dead(body)
    clean.capture_arrays(body)
    for inner in body.equations:
        try:
            if inner in unrecognised:
                raise NotConvertible(unrecognised[inner])
            check(inner)
        except NotConvertible as reason:
            raise NotConvertible(f"{inner.name} in its body: {reason}") from None
    loop = Loop(body, equation.consts, equation.carries, int(params["length"]), bool(params["reverse"]))
    if not body.captured:
        return replace(equation, loop=loop)
    captured = [*body.captured.values()]
    body.inputs, body.captured = [variable for variable, _ in captured] + body.inputs, {}
    loop.consts += len(captured)
    operands: list[Atom] = [Constant(value, variable.aval) for variable, value in captured]
    closed = jax.make_jaxpr(lambda *operands: evaluate.call(body, operands))(*(v.aval for v in body.inputs))
    params = scan_params(params, closed, len(captured))
    return replace(equation, loop=loop, operands=operands + equation.operands, params=params)


def flatten_loops(closed: ClosedJaxpr, control: Callable[[Equation], Equation]) -> Flat:
    """A function without calls; recurrent cells are ops, `control` converts all other loops."""
    flat = flatten(closed)
    recognise_recurrent(flat)
    flat.equations = [control(e) if e.name in LOOPS else e for e in flat.equations]
    return flat
