"""Equations run by JAX, and which of their results depend on what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Literal

from jax_mps._compat import with_weak_type
from jax_mps.compiler.equations.equation import Atom, Constant, Equation, Flat


def reached(equation: Equation, flags: Sequence[bool]) -> list[bool]:
    """By flags of an equation's operands, those of its results that depend on a set one."""
    if equation.name != "scan" or not any(flags):
        return [any(flags)] * len(equation.results)
    body, carry = equation.params["jaxpr"].jaxpr, slice(equation.consts, equation.consts + equation.carries)
    given = list(flags)
    while True:
        found = {v for v, flag in zip(body.invars, given, strict=True) if flag}
        for inner in body.eqns:
            if any(not isinstance(v, Literal) and v in found for v in inner.invars):
                found.update(inner.outvars)
        results = [not isinstance(v, Literal) and v in found for v in body.outvars]
        carried = [a or b for a, b in zip(given[carry], results[: equation.carries], strict=True)]
        if carried == given[carry]:
            return results
        given[carry] = carried


def evaluate(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Runs one equation by JAX."""
    params = equation.primitive.get_bind_params(equation.params)
    with equation.context.manager:
        results = equation.primitive.bind(*operands, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def read(atom: Atom, env: dict[Atom, Any]) -> Any:
    """The value of an atom."""
    return atom.value if isinstance(atom, Constant) else env[atom]


def evaluate_all(equations: Sequence[Equation], env: dict[Atom, Any]) -> None:
    """Runs equations by JAX; `env` is the values by the variables."""
    for equation in equations:
        values = evaluate(equation, [read(o, env) for o in equation.operands])
        env.update(zip(equation.results, values, strict=True))


def call(flat: Flat, operands: Sequence[Any]) -> list[Any]:
    """Runs a flat function by JAX."""
    env: dict[Atom, Any] = dict(zip(flat.inputs, operands, strict=True))
    evaluate_all(flat.equations, env)
    return results(flat, env)


def results(flat: Flat, env: dict[Atom, Any]) -> list[Any]:
    """The results of a flat function, of the values by the variables."""
    return [with_weak_type(read(o, env), o.aval) for o in flat.outputs]
