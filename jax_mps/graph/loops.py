"""Loops: a scan whose body converts wholly becomes one node with the body as a program of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
from jax.extend.core import ClosedJaxpr

from jax_mps._compat import scan_params
from jax_mps.graph import capture
from jax_mps.graph.capture import Atom, Constant, Equation, Flat
from jax_mps.graph.convert import NotConvertible, check
from jax_mps.graph.recognise import recognise
from jax_mps.graph.recognise_recurrent import recognise_recurrent


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
    capture.drop_dead(body)
    capture.capture_arrays(body)
    for inner in body.equations:
        try:
            if id(inner) in unrecognised:
                raise NotConvertible(unrecognised[id(inner)])
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
    closed = jax.make_jaxpr(lambda *operands: capture.call(body, operands))(*(v.aval for v in body.inputs))
    params = scan_params(params, closed, len(captured))
    return replace(equation, loop=loop, operands=operands + equation.operands, params=params)


def flatten_loops(closed: ClosedJaxpr, control: Callable[[Equation], Equation]) -> Flat:
    """A function without calls; recurrent cells are ops, `control` converts all other loops."""
    flat = capture.flatten(closed)
    recognise_recurrent(flat)
    flat.equations = [control(e) if e.name in capture.LOOPS else e for e in flat.equations]
    return flat
