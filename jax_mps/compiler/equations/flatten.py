"""From a function to its flat list of equations.

Calls (jit, custom_jvp, custom_vjp, remat) are inlined. A scan whose body converts wholly is a native loop; the bodies
of other scans, of while and cond are graphed by themselves and stay loops of JAX around native calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal

from jax_mps.compiler.equations.clean import drop_dead, fold_constants
from jax_mps.compiler.equations.equation import Atom, Constant, Equation, Flat, Variable
from jax_mps.derivatives import linear_jaxpr

# A call and the parameter that holds its body.
CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",  # closed_call since JAX 0.11
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "mps_graph": "function",  # a graphed function in another
    "mps_linear": "pull",  # of forward mode
}
PROGRAM = "mps_program"
_PLAIN_CALLS = {"jit", "closed_call", "eval_jaxpr", "mps_graph"}  # they change no derivative
CHECKPOINTS = {"remat2"}
LOOPS = {"scan", "while", "cond"}
_IDENTITIES = {"optimization_barrier", "stop_gradient", "copy"}


def trace(function: Callable[..., Any], *args: Any) -> tuple[ClosedJaxpr, Any]:
    """The jaxpr of a function and the tree of shapes that it returns."""
    return jax.make_jaxpr(function, return_shape=True)(*args)


def flatten(closed: ClosedJaxpr, differentiable: bool = False) -> Flat:
    """Inlines every call; scan, while and cond stay as they are.

    If `differentiable`, so does all that changes derivatives: calls with rules of their own, stop_gradient.
    """
    flat = Flat([Variable(v.aval) for v in closed.jaxpr.invars])
    gone = _PLAIN_CALLS if differentiable else CALLS.keys() | _IDENTITIES
    flat.outputs = _inline(closed.jaxpr, closed.consts, flat.inputs, flat.equations, gone)
    fold_constants(flat)
    drop_dead(flat)
    return flat


def _inline(
    jaxpr: Any, constants: Sequence[Any], operands: Sequence[Atom], equations: list[Equation], gone: Set[str]
) -> list[Atom]:
    """Adds the equations of a jaxpr, of `gone` only what is in them, and gives its results."""
    env: dict[Any, Atom] = dict(zip(jaxpr.invars, operands, strict=True))
    env.update((v, Constant(c, v.aval)) for v, c in zip(jaxpr.constvars, constants, strict=True))

    def read(atom: Any) -> Atom:
        return Constant(atom.val, atom.aval) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        name, atoms = eqn.primitive.name, [read(v) for v in eqn.invars]
        if name in CALLS and name in gone:
            body = body_of(eqn)
            inner, constants = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())
            results = _inline(inner, constants, atoms, equations, gone)
        elif name == "mps_together":  # says what is batched under vmap
            results = atoms[: eqn.params["count"]]
        elif name == PROGRAM and gone >= CALLS.keys():  # of a graph in this one: both are planned together
            body = jax.make_jaxpr(eqn.params["original"].function)(*(v.aval for v in eqn.invars))
            results = _inline(body.jaxpr, body.consts, atoms, equations, gone)
        elif name in gone and not eqn.effects:
            results = atoms
        else:
            made = [Variable(v.aval) for v in eqn.outvars]
            equation = Equation(eqn.primitive, eqn.params, atoms, made, eqn.ctx, frozenset(eqn.effects))
            equations.append(equation)
            results = [*made]
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def body_of(eqn: Any) -> Any:
    """The jaxpr that a call of `CALLS` calls."""
    match eqn.primitive.name:
        case "mps_graph":
            return eqn.params["function"].closed
        case "mps_linear":
            return linear_jaxpr(eqn)
        case name:
            return eqn.params[CALLS[name]]


def with_bodies(equation: Equation, convert: Callable[[ClosedJaxpr], ClosedJaxpr]) -> Equation:
    """The scan, while or cond with every body converted."""

    def converted(value: Any) -> Any:
        if isinstance(value, ClosedJaxpr):
            return convert(value)
        if isinstance(value, tuple) and value and all(isinstance(v, ClosedJaxpr) for v in value):
            return tuple(map(convert, value))
        return value

    return replace(equation, params={key: converted(value) for key, value in equation.params.items()})
