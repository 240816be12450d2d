"""Loops: a scan whose body converts wholly becomes one node with the body as a program of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax

from jax_mps._compat import scan_params
from jax_mps.compiler.equations import evaluate
from jax_mps.compiler.equations.equation import Atom, Constant, Equation, Flat
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.pipeline import Control, Options, prepare


@dataclass
class Loop:
    """The body of a scan, (consts, carry, slices) -> (carry, slices), and how it is run."""

    body: Flat
    consts: int
    carry: int
    length: int
    reverse: bool


def convert_loop(equation: Equation, control: Control, options: Options) -> Equation:
    """The scan as a native loop; NotConvertible with the reason if it is none. `control` converts those in its body."""
    params = equation.params
    if equation.effects:
        raise NotConvertible("a loop with effects")
    prepared = prepare(params["jaxpr"], control, options)
    body = prepared.flat
    for inner in body.equations:
        try:
            prepared.check(inner)
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
