"""A recurrent cell found in a scan: how the scan's operands and results are those of the op."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from jax_mps.compiler.equations import clean, evaluate
from jax_mps.compiler.equations.equation import Atom, Equation, Flat
from jax_mps.compiler.recognise.recurrent.fingerprint import Env
from jax_mps.compiler.recognise.recurrent.gates import Body, Place, Range, View
from jax_mps.compiler.recognise.recurrent.sources import Sources
from jax_mps.ops._recurrent import Ops


@dataclass
class Gate:
    """The weights of one gate: of the input, of the state, and biases; the sum of each is meant."""

    x: list[Place] = field(default_factory=list)
    h: list[Place] = field(default_factory=list)
    b: list[Place] = field(default_factory=list)


@dataclass
class Scan:
    """A scan that may be a cell's, over a finite field."""

    equation: Equation
    body: Body
    sources: Sources  # of its constants
    values: Env  # random elements for all values of the body


@dataclass
class Cell(Scan):
    """A scan whose body is a step of `ops`."""

    ops: Ops
    attributes: dict[str, Any]
    states: tuple[int, ...]  # of h (and c), the places in the carry
    gates: list[Gate]
    memory: list[Place]  # the bias of a GRU's product with the state
    x: int  # the input, of the scan's operands
    recompute: bool = False  # in the gradient, instead of keeping the gates

    @property
    def consts(self) -> list[Atom]:
        """The loop's constants."""
        return self.equation.operands[: self.equation.consts]

    @property
    def inits(self) -> list[Atom]:
        """The first states, as the op has them."""
        first = self.equation.consts
        return [self.equation.operands[first + i] for i in self.states]

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes of the state before the units."""
        return self.inits[0].aval.shape[:-1]

    @property
    def options(self) -> dict[str, Any]:
        """All attributes of the ops."""
        return {**self.attributes, "reverse": bool(self.equation.params["reverse"]), "recompute": self.recompute}

    def time_first(self, y: Any) -> Any:
        """The op's [B, T, ...] as the scan has it."""
        return y.transpose(1, 0, 2).reshape(y.shape[1], *self.batch, y.shape[2])

    def batch_first(self, y: Any) -> Any:
        """The inverse of `time_first`."""
        return y.reshape(y.shape[0], math.prod(self.batch), y.shape[-1]).transpose(1, 0, 2)

    def inputs(self, operands: Sequence[Any]) -> list[Any]:
        """The op's operands, of the scan's."""
        first, x = self.equation.consts, self.batch_first(operands[self.x])
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
        clean.drop_dead(part)
        env: dict[Atom, Any] = dict(zip(inputs, consts, strict=False))
        evaluate.evaluate_all(part.equations, env)
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


def picked(x: Any, view: View) -> Any:
    """A view's elements, with axes [*batch, inner, unit], as far as it has them."""
    tags = [e.tag for e in view if isinstance(e, Range)]
    order = sorted(range(len(tags)), key=lambda i: (isinstance(tags[i], str), tags[i]))
    indices = tuple(slice(e.start, e.start + e.size) if isinstance(e, Range) else e for e in view)
    return x[indices].transpose(order)


def _joined(gates: list[list[Place]], env: dict[Atom, Any], shape: tuple[int, ...]) -> Any:
    """The weights of all gates side by side, each of `shape`; as they lie, if they lie so."""
    units, count = shape[-1], len(gates)
    if all(len(places) == 1 for places in gates):
        (atom, view), rest = gates[0][0], [places[0] for places in gates[1:]]
        by_unit = any(isinstance(e, Range) and e.tag == "unit" for e in view)
        follow = (a is atom and v == _of_units(view, i * units, units) for i, (a, v) in enumerate(rest, 1))
        if by_unit and all(follow):
            return _total([(atom, _of_units(view, 0, count * units))], env, (*shape[:-1], count * units))
    return jnp.concatenate([_total(places, env, shape) for places in gates], -1)


def _of_units(view: View, by: int, size: int) -> View:
    """A view of so many units, `by` units on."""
    return tuple(Range("unit", e.start + by, size) if isinstance(e, Range) and e.tag == "unit" else e for e in view)


def _total(places: list[Place], env: dict[Atom, Any], shape: tuple[int, ...]) -> Any:
    """The sum of weights."""
    total: Any = None
    for atom, view in places:
        of_one_row = tuple(e.start if isinstance(e, Range) and isinstance(e.tag, int) else e for e in view)
        part = jnp.broadcast_to(picked(jnp.asarray(evaluate.read(atom, env)), of_one_row), shape)
        total = part if total is None else total + part
    return jnp.zeros(shape, jnp.float32) if total is None else total
