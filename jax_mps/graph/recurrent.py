"""Recognises in a scan's body the cell of an LSTM or a GRU, as a step of `jax_mps.lstm` or `gru` with weights of its own.

First a guess: which sums of products are the gates, and which columns of the loop's constants are their weights. Then
the proof: the cell's meaning with these weights and the body agree over a finite field (`fingerprint`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mps.graph import capture, fingerprint
from jax_mps.graph.affine import NONLINEAR, Body, Place, Range, Sum, View, spread
from jax_mps.graph.capture import Atom, Equation, Flat
from jax_mps.graph.convert import NotConvertible
from jax_mps.graph.fingerprint import PRIME, Env
from jax_mps.ops._recurrent import GRU, LSTM, Ops
from jax_mps.ops.neuron import spec

_SIGMOID, _TANH = spec("lstm", "sigmoid"), spec("lstm", "tanh")
_STATES = 4  # of a loop that may be meant as a cell, at most


@dataclass
class Gate:
    """The weights of one gate: of the input, of the state, and biases; the sum of each is meant."""

    x: list[Place] = field(default_factory=list)
    h: list[Place] = field(default_factory=list)
    b: list[Place] = field(default_factory=list)


@dataclass
class Cell:
    """A scan whose body is a step of `ops`."""

    equation: Equation
    body: Body
    ops: Ops
    attributes: dict[str, Any]
    states: tuple[int, ...]  # of h (and c), the places in the carry
    gates: list[Gate]
    memory: list[Place]  # the bias of a GRU's product with the state
    x: int  # the input, of the scan's operands
    values: Env  # random elements for all values of the body

    @property
    def consts(self) -> list[Atom]:
        """The loop's constants."""
        return self.equation.operands[: self.equation.params["num_consts"]]

    @property
    def inits(self) -> list[Atom]:
        """The first states, as the op has them."""
        first = self.equation.params["num_consts"]
        return [self.equation.operands[first + i] for i in self.states]

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes of the state before the units."""
        return self.inits[0].aval.shape[:-1]

    @property
    def options(self) -> dict[str, Any]:
        """All attributes of the ops."""
        return {**self.attributes, "reverse": bool(self.equation.params["reverse"]), "recompute": False}

    def time_first(self, y: Any) -> Any:
        """The op's [B, T, ...] as the scan has it."""
        return y.transpose(1, 0, 2).reshape(y.shape[1], *self.batch, y.shape[2])

    def batch_first(self, y: Any) -> Any:
        """The inverse of `time_first`."""
        return y.reshape(y.shape[0], math.prod(self.batch), y.shape[-1]).transpose(1, 0, 2)

    def inputs(self, operands: Sequence[Any]) -> list[Any]:
        """The op's operands, of the scan's."""
        first, x = self.equation.params["num_consts"], self.batch_first(operands[self.x])
        states = [operands[first + i].reshape(x.shape[0], -1) for i in self.states]
        lengths = jnp.full(x.shape[:1], x.shape[1], jnp.int32)
        return [x, lengths, *states, *self.parameters(operands[:first])]

    def results(self, values: Sequence[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Of the op's results, those of the scan by name, and those that the op's gradient reads."""
        y, *rest = values
        last, kept = rest[: len(self.states)], rest[len(self.states) :]
        found = {f"last{i}": s.reshape(self.inits[0].aval.shape) for i, s in enumerate(last)}
        found["y"] = self.time_first(y)
        if kept and len(self.states) == 2:
            found["cells"] = kept[0].reshape(-1, *self.inits[0].aval.shape)
        return found, [y, *kept]

    def parameters(self, consts: Sequence[Any]) -> tuple[Any, ...]:
        """w, r, b and extras of the op, of the loop's constants."""
        inputs = self.body.flat.inputs
        places = [p for g in self.gates for p in (*g.x, *g.h, *g.b)] + self.memory
        part = Flat(inputs, equations=[*self.body.constant_equations], outputs=[atom for atom, _ in places])
        capture.drop_dead(part)
        env = dict(zip(map(id, inputs), consts, strict=False))
        capture.evaluate_all(part.equations, env)
        units = self.inits[0].aval.shape[-1]
        features = self.equation.operands[self.x].aval.shape[-1]
        w = _joined([g.x for g in self.gates], env, (features, units))
        r = _joined([g.h for g in self.gates], env, (units, units))
        b = _joined([g.b for g in self.gates], env, (units,))
        extras = [_joined([self.memory], env, (units,))] if self.attributes.get("reset") == "after" else []
        return (w, r, b, *extras)

    def step(self, parameters: Sequence[Any], states: Sequence[Any], x: Any) -> tuple[Any, ...]:
        """One step of the op's meaning: the states after it, shaped as those before."""
        w, r, b, *extras = parameters
        x, *flat = (a.reshape(math.prod(self.batch), a.shape[-1]) for a in (x, *states))
        new, _ = self.ops.cell.step(tuple(flat), jnp.dot(x, w) + b[None], r, tuple(extras), **self.attributes)
        return tuple(a.reshape(before.shape) for a, before in zip(new, states, strict=True))


def is_meant_as_cell(body: Body, carries: int) -> bool:
    """Whether a loop has what makes a recurrent cell: products of what it carries with constant weights, and gates."""
    names = {e.name for e in body.flat.equations}
    if carries not in range(1, _STATES + 1) or not names & set(NONLINEAR):
        return False
    first = len(body.flat.inputs) - len([v for v in body.flat.inputs if not body.is_fixed(v)])
    carried = {id(v) for v in body.flat.inputs[first : first + carries]}
    for equation in body.flat.equations:
        if any(id(o) in carried for o in equation.operands):
            if equation.name == "dot_general" and any(map(body.is_fixed, equation.operands)):
                return True
            carried.update(id(r) for r in equation.results)
    return False


def cell_of(equation: Equation, body: Body, values: Env) -> Cell:
    """The cell that a scan runs; `values` has those of its constants. NotConvertible with the reason if it is none."""
    params = equation.params
    consts, carries = params["num_consts"], params["num_carry"]
    inputs, outputs = body.flat.inputs, body.flat.outputs
    carry = inputs[consts : consts + carries]
    shape = carry[0].aval.shape
    if any(v.aval.dtype != np.float32 for v in (*inputs, *outputs)):
        raise NotConvertible("it is not all of float32")
    if carries > 2 or not shape or any(v.aval.shape != shape for v in carry):
        raise NotConvertible(f"it carries {', '.join(v.aval.str_short(True) for v in carry)}, no state of a cell")
    if not all(n for v in inputs for n in v.aval.shape) or not params["length"]:
        raise NotConvertible("it is empty")
    for i, (variable, operand) in enumerate(zip(inputs, equation.operands, strict=True)):
        known = fingerprint.read(operand, values) if i < consts else fingerprint.random(variable.aval.shape, i)
        values[id(variable)] = known
    fingerprint.evaluate(body.flat.equations, values)
    guess = _lstm if carries == 2 else _gru
    reasons = []
    for cell in guess(equation, body, values):
        if isinstance(cell, str):
            reasons.append(cell)
        elif _proven(cell):
            return cell
        else:
            reasons.append("it does more than the cell")
    raise NotConvertible(reasons[0])


def picked(x: Any, view: View) -> Any:
    """A view's elements, with axes [*batch, inner, unit], as far as it has them."""
    tags = [e.tag for e in view if isinstance(e, Range)]
    order = sorted(range(len(tags)), key=lambda i: (isinstance(tags[i], str), tags[i]))
    indices = tuple(slice(e.start, e.start + e.size) if isinstance(e, Range) else e for e in view)
    return x[indices].transpose(order)


def _joined(gates: list[list[Place]], env: dict[int, Any], shape: tuple[int, ...]) -> Any:
    """The weights of all gates side by side, each of `shape`."""

    def of(places: list[Place]) -> Any:
        parts = []
        for atom, view in places:
            view = tuple(e.start if isinstance(e, Range) and isinstance(e.tag, int) else e for e in view)
            parts.append(picked(capture.read(atom, env), view))
        zeros = jnp.zeros(shape, jnp.float32)
        return jnp.broadcast_to(sum(parts[1:], start=parts[0]), shape) if parts else zeros

    first = gates[0][0] if all(len(g) == 1 for g in gates) else None
    if first is not None:
        units = shape[-1]

        def at(i: int) -> View:
            moved = [_wider(e, i * units, units) for e in first[1]]
            return tuple(moved)

        if all(g[0][0] is first[0] and g[0][1] == at(i) for i, g in enumerate(gates)):
            whole = tuple(_wider(e, 0, len(gates) * units) for e in first[1])
            if any(isinstance(e, Range) and e.tag == "unit" for e in whole):
                shape = (*shape[:-1], len(gates) * units)
                return of([(first[0], whole)])
    return jnp.concatenate([of(g) for g in gates], -1)


def _wider(entry: Range | int, by: int, size: int) -> Range | int:
    if isinstance(entry, Range) and entry.tag == "unit":
        return Range("unit", entry.start + by, size)
    return entry


def _gate(total: Sum, body: Body, h: Atom, inputs: dict[int, Atom]) -> Gate:
    """A sum's weights; `inputs` collects the input that it reads."""
    gate = Gate(b=total.biases)
    for leaf, weights in total.products:
        if leaf is h:
            gate.h.append(weights)
        elif body.equation(leaf) is None:
            inputs[id(leaf)] = leaf
            gate.x.append(weights)
        else:
            raise NotConvertible("a gate has a product with neither the input nor the state")
    for _, view in gate.b:
        if any(isinstance(e, Range) and isinstance(e.tag, int) and e.size > 1 for e in view):
            raise NotConvertible("a gate has a bias for each row")
    return gate


def _sums(body: Body, atom: Atom) -> list[tuple[Place, Sum | str]]:
    """The sums under the nonlinearities of a state, or why one is none."""
    shape = atom.aval.shape
    view = (*(Range(i, 0, n) for i, n in enumerate(shape[:-1])), Range("unit", 0, shape[-1]))
    found: list[tuple[Place, Sum | str]] = []
    for place in body.gates(atom, view):
        try:
            total = body.sum_at(*place)
            if {e.tag: e.size for e in place[1] if isinstance(e, Range)} != {e.tag: e.size for e in view}:
                raise NotConvertible("a gate for less than the state")
            found.append((place, total))
        except NotConvertible as reason:
            found.append((place, str(reason)))
    return found


def _make(
    equation: Equation,
    body: Body,
    values: Env,
    ops: Ops,
    attributes: dict[str, Any],
    states: tuple[int, ...],
    sums: list[Sum],
    memory: Sum | None = None,
) -> Cell:
    h = body.flat.inputs[equation.params["num_consts"] + states[0]]
    inputs: dict[int, Atom] = {}
    gates = [_gate(s, body, h, inputs) for s in sums]
    biases: list[Place] = []
    if memory is not None:
        extra = _gate(memory, body, h, inputs)
        if memory.others or extra.x or gates[-1].h:
            raise NotConvertible("its reset gate multiplies more than the product with the state")
        gates[-1].h, biases = extra.h, extra.b
    if len(inputs) != 1:
        raise NotConvertible(f"its gates have products with {len(inputs)} inputs, not with one")
    (leaf,) = inputs.values()
    x = next(i for i, v in enumerate(body.flat.inputs) if v is leaf)
    if leaf.aval.shape[:-1] != h.aval.shape[:-1] or x < equation.params["num_consts"] + equation.params["num_carry"]:
        raise NotConvertible("its gates have products with other things than a slice and the state")
    return Cell(equation, body, ops, attributes, states, gates, biases, x, values)


def _lstm(equation: Equation, body: Body, values: Env) -> Iterator[Cell | str]:
    """Guesses, or why there is none: h' = s(o) tanh(c'), c' = s(f) c + s(i) tanh(g)."""
    consts, outputs = equation.params["num_consts"], body.flat.outputs
    every = [(h, _sums(body, outputs[h])) for h in (0, 1)]
    for h, found in sorted(every, key=lambda pair: -len(pair[1])):  # h depends on all gates, c on three
        c = 1 - h
        plain = [(place, s) for place, s in found if isinstance(s, Sum) and s.products and not s.others]
        if len(plain) != 4:
            yield _count_words(found, len(plain), 4, "an LSTM")
            continue
        sums = [fingerprint.read(atom, values) for (atom, _), _ in plain]
        gates = [picked(v, place[1]) for v, (place, _) in zip(sums, plain, strict=True)]
        sigmoid, tanh = ([_apply(name, g) for g in gates] for name in ("logistic", "tanh"))
        new_h, new_c = (fingerprint.read(outputs[i], values) for i in (h, c))
        old_c = values[id(body.flat.inputs[consts + c])]
        out = next((k for k in range(4) if same(sigmoid[k] * _apply("tanh", new_c), new_h)), None)
        if out is None:
            yield "its new state is not sigmoid(o) tanh(c)"
            continue
        others = [k for k in range(4) if k != out]
        for i, f, g in itertools.permutations(others):
            if same(sigmoid[f] * old_c + sigmoid[i] * tanh[g], new_c):
                attributes = {"neurons": (_SIGMOID, _TANH, _TANH)}
                sums_of = [plain[k][1] for k in (i, f, g, out)]
                yield from _tried(equation, body, values, LSTM, attributes, (h, c), sums_of)
                break
        else:
            yield "its new cell is not sigmoid(f) c + sigmoid(i) tanh(g)"


def _gru(equation: Equation, body: Body, values: Env) -> Iterator[Cell | str]:
    """Guesses: h' = (1 - s(z)) tanh(n) + s(z) h, or with the roles of h and tanh(n) exchanged."""
    (new,), (old,) = body.flat.outputs[:1], body.flat.inputs[equation.params["num_consts"] :][:1]
    found = _sums(body, new)
    every = [(place, s) for place, s in found if isinstance(s, Sum)]

    def is_plain(s: Sum) -> bool:
        return bool(s.products) and not s.others and all(body.equation(leaf) is None for leaf, _ in s.products)

    plain = [(place, s) for place, s in every if is_plain(s)]
    candidates = [(place, s) for place, s in every if not is_plain(s) and (s.products or s.others)]
    if len(plain) != 2 or len(candidates) != 1:
        yield _count_words(found, len(plain), 2, "a GRU")
        return
    value = {k: picked(fingerprint.read(p[0], values), p[1]) for k, (p, _) in enumerate([*plain, *candidates])}
    n, candidate = _apply("tanh", value[2]), candidates[0][1]
    new_h, old_h = fingerprint.read(new, values), values[id(old)]
    for update, flip in itertools.product((0, 1), (False, True)):
        z = _apply("logistic", value[update])
        kept, made = ((1 - z) * old_h, z * n) if flip else (z * old_h, (1 - z) * n)
        if not same(kept + made, new_h):
            continue
        attributes = {"neurons": (_SIGMOID, _TANH), "p": 1.0, "flip": flip}
        gates = [plain[update][1], plain[1 - update][1]]
        for reset, sums, memory in _resets(body, candidate, old):
            yield from _tried(
                equation, body, values, GRU, {**attributes, "reset": reset}, (0,), [*gates, sums], memory
            )
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
        for leaf, weights in candidate.products:
            equation = body.equation(leaf)
            gated = equation is not None and equation.name == "mul" and any(o is h for o in equation.operands)
            products.append((h if gated else leaf, weights))
        yield "before", Sum(products, candidate.biases, []), None


def _tried(*arguments: Any) -> Iterator[Cell | str]:
    try:
        yield _make(*arguments)
    except NotConvertible as reason:
        yield str(reason)


def _count_words(found: list[tuple[Place, Sum | str]], count: int, wanted: int, name: str) -> str:
    reasons = [s for _, s in found if isinstance(s, str)]
    words = f"it has {count} gates that are sums of products with the input and the state, {name} {wanted}"
    return f"{words} ({reasons[0]})" if reasons else words


def _apply(name: str, x: Any) -> Any:
    return fingerprint.FUNCTIONS[name](x)


def same(a: Any, b: Any) -> bool:
    """Whether values are equal modulo the prime."""
    return bool(np.array_equal(a % PRIME, b % PRIME))


def _proven(cell: Cell) -> bool:
    """Whether the cell's step is what the body computes."""
    inputs, first = cell.body.flat.inputs, cell.equation.params["num_consts"]

    def step(*operands: Any) -> tuple[Any, ...]:
        consts, (x, *states) = operands[:first], operands[first:]
        return cell.step(cell.parameters(consts), states, x)

    atoms = [*inputs[:first], inputs[cell.x], *(inputs[first + i] for i in cell.states)]
    got = derived(step, [fingerprint.read(a, cell.values) for a in atoms])
    wanted = [fingerprint.read(cell.body.flat.outputs[i], cell.values) for i in cell.states]
    return all(map(same, got, wanted))


def derived(function: Any, operands: Sequence[Any]) -> list[Any]:
    """What a JAX function of float32 arrays gives over the field."""
    closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in operands))
    flat = capture.flatten(closed)
    env = dict(zip(map(id, flat.inputs), operands, strict=True))
    fingerprint.evaluate(flat.equations, env)
    return [fingerprint.read(o, env) for o in flat.outputs]
