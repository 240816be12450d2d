"""What a graphed function is differentiated as: its recurrent scans are ops, which have gradients of their own.

The two halves of a gradient that is taken outside of graph are graphed one by one, so that neither shows the whole of a
scan's gradient. An op's own gradient needs no recognition, and keeps less than a scan::

    scan(cell)  ->  lstm     and so    lstm_training | what it keeps | lstm_gradient
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jax_mps._compat import across_devices
from jax_mps.compiler.equations import evaluate
from jax_mps.compiler.equations.equation import Atom, Equation, Flat
from jax_mps.compiler.equations.flatten import CHECKPOINTS, flatten
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise.recurrent.rewrite import cell_at, kinds_of
from jax_mps.compiler.recognise.rules import inlined

Function = Callable[..., Sequence[Any]]


def differentiable(closed: ClosedJaxpr) -> Function:
    """The function of a trace, to be differentiated."""
    flat = flatten(closed, differentiable=True)
    ops: dict[Equation, Function] = {}
    for equation in flat.equations:
        if equation.name == "scan":
            op = _op(flat, equation)
            if op is not None:
                ops[equation] = op
    if not ops:
        return jaxpr_as_fun(closed)

    def run(*operands: Any) -> list[Any]:
        env: dict[Atom, Any] = dict(zip(flat.inputs, operands, strict=True))
        for equation in flat.equations:
            given = [evaluate.read(o, env) for o in equation.operands]
            op = ops.get(equation)
            values = evaluate.evaluate(equation, given) if op is None else op(*given)
            env.update(zip(equation.results, values, strict=True))
        return evaluate.results(flat, env)

    return run


def _op(flat: Flat, equation: Equation) -> Function | None:
    """What runs a scan as an op: its results, None for those that nobody reads. None if it is no such scan."""
    if across_devices(equation.params, [r.aval for r in equation.results]):
        return None
    try:
        cell = cell_at(flat, equation)
        if cell is None:
            return None
        cell.recompute = any(e.primitive.name in CHECKPOINTS for e in equation.params["jaxpr"].eqns)
        kinds = kinds_of(cell)
        read = {o for e in flat.equations for o in e.operands} | set(flat.outputs)
        if any(k in ("", "cells") and r in read for r, k in zip(equation.results, kinds, strict=True)):
            return None

        def run(*operands: Any) -> list[Any]:
            found, _ = cell.results(cell.ops.forward(*cell.inputs(operands), **cell.options))
            return [found.get(k) for k in kinds]

        def both(*operands: Any) -> Any:
            results, pull = jax.vjp(lambda *some: [r for r in run(*some) if r is not None], *operands)
            return pull([jnp.ones_like(r) for r in results])

        inlined(both, equation.operands, "scan")  # the device has kernels for it
        return run
    except NotConvertible:
        return None
