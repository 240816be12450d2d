"""Recognises in a scan's body the cell of an LSTM or a GRU: a step of `jax_mps.lstm` or `gru`, with its weights.

First a guess: which sums of products are the gates, and which columns of the loop's constants are their weights. Then
the proof: the cell's meaning with these weights and the body agree over a finite field (`fingerprint`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jax_mps.compiler.equations.equation import Atom, Equation, Flat
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise.recurrent import fingerprint
from jax_mps.compiler.recognise.recurrent.cell import Cell, Gate, Scan, picked
from jax_mps.compiler.recognise.recurrent.fingerprint import Env
from jax_mps.compiler.recognise.recurrent.gates import NONLINEAR, Body, Place, Range, Sum, View, spread, units_of
from jax_mps.compiler.recognise.recurrent.sources import Sources
from jax_mps.ops._recurrent import GRU, LSTM, Ops
from jax_mps.ops.neuron import spec

_SIGMOID, _TANH = spec("lstm", "sigmoid"), spec("lstm", "tanh")


def is_meant_as_cell(body: Body, carries: int) -> bool:
    """Whether a loop has what makes a recurrent cell: products of what it carries with constant weights, and gates."""
    carried = set(body.flat.inputs[body.consts : body.consts + carries])
    nonlinear = product = False
    for equation in body.flat.equations:
        nonlinear |= equation.name in NONLINEAR
        if any(o in carried for o in equation.operands):
            product |= equation.name == "dot_general" and any(map(body.is_fixed, equation.operands))
            carried.update(equation.results)
    return nonlinear and product


def cell_of(flat: Flat, equation: Equation, body: Body) -> Cell:
    """The cell that a scan of a function runs; NotConvertible with the reason if it is none."""
    consts, carries = equation.consts, equation.carries
    inputs, outputs = body.flat.inputs, body.flat.outputs
    carry = inputs[consts : consts + carries]
    shape = carry[0].aval.shape
    if any(v.aval.dtype != np.float32 for v in (*inputs, *outputs[:carries])):
        raise NotConvertible("it is not all of float32")
    if carries > 2 or not shape or any(v.aval.shape != shape for v in carry):
        raise NotConvertible(f"it carries {', '.join(v.aval.str_short(True) for v in carry)}, no state of a cell")
    if not all(n for v in inputs for n in v.aval.shape) or not equation.params["length"]:
        raise NotConvertible("it is empty")
    sources, values = Sources(flat, equation.operands[:consts]), Env()
    sources.draw(values)
    for i, (variable, operand) in enumerate(zip(inputs, equation.operands, strict=True)):
        known = fingerprint.read(operand, values) if i < consts else fingerprint.random(variable.aval.shape, i)
        values[variable] = known
    fingerprint.evaluate(body.flat.equations, values)
    guess = _lstm if carries == 2 else _gru
    reasons = []
    for cell in guess(Scan(equation, body, sources, values)):
        if isinstance(cell, str):
            reasons.append(cell)
        elif _proven(cell):
            return cell
        else:
            reasons.append("it does more than the cell")
    raise NotConvertible(reasons[0])


def _gate(total: Sum, body: Body, h: Atom, inputs: set[Atom]) -> Gate:
    """A sum's weights; `inputs` collects the input that it reads."""
    gate = Gate(b=total.biases)
    for (leaf, _), weights in total.products:
        if leaf is h:
            gate.h.append(weights)
        elif body.equation(leaf) is None:
            inputs.add(leaf)
            gate.x.append(weights)
        else:
            raise NotConvertible("a gate has a product with neither the input nor the state")
    for _, view in gate.b:
        if any(isinstance(e, Range) and isinstance(e.tag, int) and e.size > 1 for e in view):
            raise NotConvertible("a gate has a bias for each row")
    return gate


def _sums(body: Body, atom: Atom) -> list[tuple[Place, Sum | str]]:
    """The sums under the nonlinearities of a state, or why one is none."""
    view = units_of(atom)
    found: list[tuple[Place, Sum | str]] = []
    for place in body.gates(atom, view):
        try:
            total = body.sum_at(*place)
            if _sizes(place[1]) != _sizes(view):
                raise NotConvertible("a gate for less than the state")
            found.append((place, total))
        except NotConvertible as reason:
            found.append((place, str(reason)))
    return found


def _sizes(view: View) -> dict[int | str, int]:
    return {e.tag: e.size for e in view if isinstance(e, Range)}


def _make(
    scan: Scan,
    ops: Ops,
    attributes: dict[str, Any],
    states: tuple[int, ...],
    sums: list[Sum],
    memory: Sum | None = None,
) -> Cell:
    equation, body = scan.equation, scan.body
    h = body.flat.inputs[equation.consts + states[0]]
    inputs: set[Atom] = set()
    gates = [_gate(s, body, h, inputs) for s in sums]
    biases: list[Place] = []
    if memory is not None:
        extra = _gate(memory, body, h, inputs)
        if memory.others or extra.x or gates[-1].h:
            raise NotConvertible("its reset gate multiplies more than the product with the state")
        gates[-1].h, biases = extra.h, extra.b
    if len(inputs) != 1:
        raise NotConvertible(f"its gates have products with {len(inputs)} inputs, not with one")
    (leaf,) = inputs
    x = next(i for i, v in enumerate(body.flat.inputs) if v is leaf)
    if leaf.aval.shape[:-1] != h.aval.shape[:-1] or x < equation.consts + equation.carries:
        raise NotConvertible("its gates have products with other things than a slice and the state")
    return Cell(**vars(scan), ops=ops, attributes=attributes, states=states, gates=gates, memory=biases, x=x)


def _lstm(scan: Scan) -> Iterator[Cell | str]:
    """Guesses, or why there is none: h' = s(o) tanh(c'), c' = s(f) c + s(i) tanh(g)."""
    body, values = scan.body, scan.values
    consts, outputs = body.consts, body.flat.outputs
    every = [(h, _sums(body, outputs[h])) for h in (0, 1)]
    for h, found in sorted(every, key=lambda pair: -len(pair[1])):  # h depends on all gates, c on three
        c = 1 - h
        plain = [(place, s) for place, s in found if isinstance(s, Sum) and s.products and not s.others]
        if len(plain) != 4:
            yield _count_words(found, len(plain), 4, "an LSTM")
            continue
        sums = [fingerprint.read(atom, values) for (atom, _), _ in plain]
        gates = [picked(v, place[1]) for v, (place, _) in zip(sums, plain, strict=True)]
        sigmoid, tanh = ([fingerprint.apply(name, g) for g in gates] for name in ("logistic", "tanh"))
        new_h, new_c = (fingerprint.read(outputs[i], values) for i in (h, c))
        old_c = values[body.flat.inputs[consts + c]]
        out = next(
            (k for k in range(4) if fingerprint.same(sigmoid[k] * fingerprint.apply("tanh", new_c), new_h)), None
        )
        if out is None:
            yield "its new state is not sigmoid(o) tanh(c)"
            continue
        others = [k for k in range(4) if k != out]
        for i, f, g in itertools.permutations(others):
            if fingerprint.same(sigmoid[f] * old_c + sigmoid[i] * tanh[g], new_c):
                attributes = {"neurons": (_SIGMOID, _TANH, _TANH)}
                sums_of = [plain[k][1] for k in (i, f, g, out)]
                yield from _tried(scan, LSTM, attributes, (h, c), sums_of)
                break
        else:
            yield "its new cell is not sigmoid(f) c + sigmoid(i) tanh(g)"


def _gru(scan: Scan) -> Iterator[Cell | str]:
    """Guesses: h' = (1 - s(z)) tanh(n) + s(z) h, or with the roles of h and tanh(n) exchanged."""
    body, values = scan.body, scan.values
    (new,), (old,) = body.flat.outputs[:1], body.flat.inputs[body.consts :][:1]
    found = _sums(body, new)
    every = [(place, s) for place, s in found if isinstance(s, Sum)]

    def is_plain(s: Sum) -> bool:
        return bool(s.products) and not s.others and all(body.equation(leaf) is None for (leaf, _), _ in s.products)

    plain = [(place, s) for place, s in every if is_plain(s)]
    candidates = [(place, s) for place, s in every if not is_plain(s) and (s.products or s.others)]
    if len(plain) != 2:
        yield _count_words(found, len(plain), 2, "a GRU")
        return
    if len(candidates) != 1:
        yield f"{len(candidates)} of its gates have a reset gate in them, not 1 as in a GRU"
        return
    value = {k: picked(fingerprint.read(p[0], values), p[1]) for k, (p, _) in enumerate([*plain, *candidates])}
    n, candidate = fingerprint.apply("tanh", value[2]), candidates[0][1]
    new_h, old_h = fingerprint.read(new, values), values[old]
    for update, flip in itertools.product((0, 1), (False, True)):
        z = fingerprint.apply("logistic", value[update])
        kept, made = ((1 - z) * old_h, z * n) if flip else (z * old_h, (1 - z) * n)
        if not fingerprint.same(kept + made, new_h):
            continue
        attributes = {"neurons": (_SIGMOID, _TANH), "p": 1.0, "flip": flip}
        gates = [plain[update][1], plain[1 - update][1]]
        for reset, sums, memory in _resets(body, candidate, old):
            yield from _tried(scan, GRU, {**attributes, "reset": reset}, (0,), [*gates, sums], memory)
        yield "its candidate is not tanh(x w + r (h r_n + b)) nor tanh(x w + (r h) r_n)"
        return
    yield "its new state is not (1 - sigmoid(z)) tanh(n) + sigmoid(z) h"


def _resets(body: Body, candidate: Sum, h: Atom) -> Iterator[tuple[str, Sum, Sum | None]]:
    """The candidate's sum, by where the reset gate may stand, and what it multiplies."""
    rest = Sum([*candidate.products], candidate.biases, [])
    if len(candidate.others) == 1:
        equation, view = candidate.others[0]
        for operand in equation.operands:
            try:
                yield "after", rest, body.sum_at(operand, spread(view, equation.results[0], operand))
            except NotConvertible:
                continue
    elif not candidate.others:
        products = []
        for place, weights in candidate.products:
            gated = any(source is h for source, _ in _factors(body, *place))
            products.append(((h, units_of(h)) if gated else place, weights))
        yield "before", Sum(products, candidate.biases, []), None


def _factors(body: Body, atom: Atom, view: View) -> list[Place]:
    """What a value is the elementwise product of."""
    made = body.equation(atom)
    operands = made.operands if made is not None and made.name == "mul" else []
    return [body.source(o, spread(view, atom, o)) for o in operands]


def _tried(*arguments: Any) -> Iterator[Cell | str]:
    try:
        yield _make(*arguments)
    except NotConvertible as reason:
        yield str(reason)


def _count_words(found: list[tuple[Place, Sum | str]], count: int, wanted: int, name: str) -> str:
    reasons = [s for _, s in found if isinstance(s, str)]
    words = f"{count} of its gates are sums of products with the input and the state, not {wanted} as in {name}"
    return f"{words} ({reasons[0]})" if reasons else words


def _proven(cell: Cell) -> bool:
    """Whether the cell's step is what the body computes."""
    inputs, first = cell.body.flat.inputs, cell.equation.consts

    def step(*operands: Any) -> tuple[Any, ...]:
        consts, (x, *states) = operands[:first], operands[first:]
        return cell.step(cell.parameters(consts), states, x)

    atoms = [*inputs[:first], inputs[cell.x], *(inputs[first + i] for i in cell.states)]
    got = fingerprint.of_function(step, [fingerprint.read(a, cell.values) for a in atoms])
    wanted = [fingerprint.read(cell.body.flat.outputs[i], cell.values) for i in cell.states]
    return all(map(fingerprint.same, got, wanted))
