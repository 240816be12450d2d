"""Recognises, in JAX's own primitives, the ops that devices have kernels for.

Each rule looks at one equation and gives JAX code over jax_mps's ops that means the same, or the reason why there is
none. JAX writes the gradients of convolutions and pools as odd forms of the same primitives::

    data gradient     conv_general_dilated(dy, rev(w), lhs_dilation=strides)          in and out of w swapped
    weight gradient   conv_general_dilated(x, dy, rhs_dilation=strides)               batch and features swapped
    max pool's        select_and_scatter_add(dy, x, ge)
    sum pool's        reduce_window_sum(pad(dy, interior=strides-1), stride 1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jax_mps.compiler.equations.equation import Atom, Equation, Flat
from jax_mps.compiler.equations.flatten import flatten
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise import erfc, gather, pool, random
from jax_mps.compiler.recognise.conv import Producers, Rewrite, convolution
from jax_mps.primitive import OPS

_RULES: dict[str, Callable[[Equation, Producers], Rewrite]] = {
    "conv_general_dilated": convolution,
    **pool.RULES,
    **gather.RULES,
    **random.RULES,
    **erfc.RULES,
}


def recognise(flat: Flat) -> dict[Equation, str]:
    """Rewrites equations in place; gives the reason for each of these families that stays."""
    producers: dict[Atom, Equation] = {r: e for e in flat.equations for r in e.results}
    reasons: dict[Equation, str] = {}
    equations: list[Equation] = []
    for equation in flat.equations:
        rule = _RULES.get(equation.name)
        if rule is None:
            equations.append(equation)
            continue
        try:
            equations += _rewritten(equation, *rule(equation, producers))
        except NotConvertible as reason:
            reasons[equation] = str(reason)
            equations.append(equation)
    flat.equations = equations
    return reasons


def _rewritten(equation: Equation, function: Callable[..., Any], operands: list[Atom]) -> list[Equation]:
    equations, outputs = inlined(function, operands, equation.name)
    for old, made in zip(equation.results, outputs, strict=True):
        last = next(e for e in equations if any(r is made for r in e.results))
        last.results = [old if r is made else r for r in last.results]
    return equations


def inlined(function: Callable[..., Any], operands: list[Atom], origin: str) -> tuple[list[Equation], list[Atom]]:
    """JAX code applied to atoms, as equations and results; NotConvertible if the device refuses an op in it."""
    closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(o.aval.shape, o.aval.dtype) for o in operands))
    inner = flatten(closed)
    renamed: dict[Atom, Atom] = dict(zip(inner.inputs, operands, strict=True))
    for new in inner.equations:
        new.origin = origin
        new.operands = [renamed.get(o, o) for o in new.operands]
        op = OPS.get(new.name)
        if op is not None:
            text, words = op.placement([o.aval for o in new.operands], [r.aval for r in new.results], new.params)
            if not text:
                raise NotConvertible(words)
    return inner.equations, [renamed.get(o, o) for o in inner.outputs]
