"""Recognises scans that are an LSTM or a GRU over a sequence, alone or with their gradient, and runs them as the ops.

::

    scan(cell)                                        lstm
    scan(cell and what its gradient reads)            lstm_training
      reverse scan(the cell's gradient)               lstm_gradient, then that of joining the weights

The body's cell is found in `recurrent`, its gradient in `recurrent_gradient`.
"""

from __future__ import annotations

from typing import Any

from jax_mps.compiler.equations import clean
from jax_mps.compiler.equations.equation import Atom, Equation, Flat
from jax_mps.compiler.equations.flatten import flatten
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise.recurrent import fingerprint
from jax_mps.compiler.recognise.recurrent.cell import Cell
from jax_mps.compiler.recognise.recurrent.find_cell import cell_of, is_meant_as_cell
from jax_mps.compiler.recognise.recurrent.gates import Body
from jax_mps.compiler.recognise.recurrent.gradient import backward_of
from jax_mps.compiler.recognise.rules import inlined

_STATES = 4  # of a loop that may be meant as a cell, at most


def recognise_recurrent(flat: Flat) -> None:
    """Rewrites scans in place; a scan that is meant as a cell and is none gets the reason as its note."""
    for equation in [e for e in flat.equations if e.name == "scan"]:
        if not any(equation is e for e in flat.equations):  # a gradient, rewritten with its cell
            continue
        try:
            cell = cell_at(flat, equation)
            if cell is not None:
                _rewrite(flat, cell)
        except NotConvertible as reason:
            equation.note = f"no mps.lstm or mps.gru: {reason}"


def cell_at(flat: Flat, equation: Equation) -> Cell | None:
    """The cell that a scan runs; None if it is not meant as one, NotConvertible if it only looks like one."""
    if not 0 < equation.carries <= _STATES or equation.effects:
        return None
    body = Body(flatten(equation.params["jaxpr"]), equation.consts)
    if not is_meant_as_cell(body, equation.carries):
        return None
    return cell_of(flat, equation, body)


def _rewrite(flat: Flat, cell: Cell) -> None:
    equation, kinds = cell.equation, kinds_of(cell)
    read = {o for e in flat.equations for o in e.operands} | set(flat.outputs)
    pairs = [(r, k) for r, k in zip(equation.results, kinds, strict=True) if r in read]
    unknown = [r for r, k in pairs if not k]
    backward = backward_of(flat, cell, unknown) if unknown else None
    few = len(cell.states) * equation.params["length"] * cell.inits[0].aval.size
    cell.recompute = backward is not None and sum(r.aval.size for r in unknown) <= few  # as a checkpoint has it
    training = backward is not None or any(k == "cells" for _, k in pairs)

    names: list[str] = []

    def forward(*operands: Any) -> list[Any]:
        inputs = cell.inputs(operands)
        op = cell.ops.training if training else cell.ops.forward
        found, kept = cell.results(op(*inputs, **cell.options))
        names[:] = found
        return [*found.values(), *inputs, *kept]

    replaced: dict[Equation, list[Equation]] = {}
    results: dict[Atom, Atom] = {}
    replaced[equation], made = inlined(forward, equation.operands, "scan")
    found = dict(zip(names, made, strict=False))
    results.update((r, found[k]) for r, k in pairs if k)
    if backward is not None:
        given, kept = backward.operands, made[len(names) :]
        calls, gradients = inlined(
            lambda *some: backward.run(some[: len(given)], some[len(given) :]), given + kept, "scan"
        )
        replaced[backward.equation] = calls
        results.update(zip(backward.equation.results, gradients, strict=True))
    equations = [new for old in flat.equations for new in replaced.get(old, [old])]
    for new in equations:
        new.operands = [results.get(o, o) for o in new.operands]
    flat.equations, flat.outputs = equations, [results.get(o, o) for o in flat.outputs]
    clean.drop_dead(flat)


def kinds_of(cell: Cell) -> list[str]:
    """What each result of the scan is of the op's: "last0", "last1", "y", "cells", or "" for nothing of it."""
    outputs = [fingerprint.read(o, cell.values) for o in cell.body.flat.outputs]
    carries = cell.equation.carries
    kinds = [f"last{cell.states.index(i)}" for i in range(carries)]
    for value in outputs[carries:]:
        alike = [value.shape == outputs[i].shape and fingerprint.same(value, outputs[i]) for i in cell.states]
        kinds.append(next((name for name, a in zip(("y", "cells"), alike, strict=False) if a), ""))
    return kinds
