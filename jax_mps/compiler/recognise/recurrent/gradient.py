"""Recognises the reverse scan that is the gradient of a recurrent cell's scan.

What it does in a step is compared, over a finite field, with the gradient that JAX derives from the cell's meaning. For
what the forward scan kept stands what that computes of a random state; so it may keep whatever it likes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mps.compiler.equations import clean, evaluate
from jax_mps.compiler.equations.equation import Atom, Constant, Equation, Flat, Variable
from jax_mps.compiler.equations.flatten import flatten
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise.recurrent import fingerprint
from jax_mps.compiler.recognise.recurrent.cell import Cell
from jax_mps.compiler.recognise.recurrent.fingerprint import PRIME, Env, of_function, same
from jax_mps.compiler.recognise.recurrent.sources import Sources

_SEED = 2000


@dataclass
class Backward:
    """The reverse scan, and what each of its operands and results is."""

    cell: Cell
    equation: Equation
    dy: list[Atom]  # the cotangents of the op's results of all steps
    states: list[int]  # of the states, the places in the carry
    results: list[tuple[str, Any]]  # of each: what it is
    from_zero: set[int]  # the places in the carry that begin as zeros

    @property
    def operands(self) -> list[Atom]:
        """What `run` reads beside what the forward pass kept."""
        return [*self.cell.sources.roots, *self.dy, *self._carry()]

    def _carry(self) -> list[Atom]:
        return self.equation.operands[self.equation.consts :][: self.equation.carries]

    def run(self, operands: Sequence[Any], kept: Sequence[Any]) -> list[Any]:
        """The results of the reverse scan; `kept` is the forward op's operands, y, and what training kept."""
        cell, count = self.cell, len(self.cell.sources.roots)
        roots, dys, carry = operands[:count], operands[count : count + len(self.dy)], operands[count + len(self.dy) :]
        (batch, time, _), units = kept[0].shape, kept[2].shape[1]
        zeros = [] if dys else [jnp.zeros((batch, time, units), jnp.float32)]
        dy, *more = zeros or map(cell.batch_first, dys)
        last = [carry[i].reshape(batch, units) for i in self.states]
        dx, *others = cell.ops.gradient(sum(more, start=dy), *last, *kept, **cell.options)
        states, weights = others[: len(last)], others[len(last) :]
        gradients = self._of_constants(roots, weights)

        def result(i: int, kind: str, what: Any) -> Any:
            aval = self.equation.results[i].aval
            if kind == "constant":
                return gradients[what] if i in self.from_zero else carry[i] + gradients[what]
            if kind == "kept":
                return carry[i]
            return cell.time_first(dx) if kind == "x" else states[what].reshape(aval.shape)

        return [result(i, *r) for i, r in enumerate(self.results)]

    def _of_constants(self, roots: Sequence[Any], weights: Sequence[Any]) -> dict[Atom, Any]:
        return constants_gradient(self.cell, roots, lambda pull, _: pull(tuple(weights)))


def constants_gradient(cell: Cell, roots: Sequence[Any], weights: Any) -> dict[Atom, Any]:
    """The gradients of the loop's constants and of their sources.

    `weights(pull, parameters)` pulls the gradients of the op's parameters back to the constants.
    """
    sources = cell.sources
    env: dict[Atom, Any] = dict(zip(sources.roots, roots, strict=True))
    evaluate.evaluate_all(sources.equations, env)
    parameters, pull = jax.vjp(lambda *c: cell.parameters(c), *(evaluate.read(a, env) for a in cell.consts))
    leaves: dict[Atom, Any] = {}
    for atom, gradient in zip(cell.consts, weights(pull, parameters), strict=True):
        if isinstance(atom, Variable):
            leaves[atom] = leaves[atom] + gradient if atom in leaves else gradient
    return sources.cotangents(roots, leaves)


def backward_of(flat: Flat, cell: Cell, unknown: Sequence[Variable]) -> Backward:
    """The reverse scan that reads what is `unknown`; NotConvertible if it is not the cell's gradient."""
    equation = _reader(flat, cell, unknown)
    params = equation.params
    body = flatten(params["jaxpr"])
    consts, carries, states = equation.consts, equation.carries, len(cell.states)
    values = dict(cell.values)
    above = Sources(flat, equation.operands[:consts])
    if any(root not in cell.sources.variables for root in above.roots):
        raise NotConvertible("its backward loop reads more than the cell's weights and states")
    fingerprint.evaluate(above.equations, values)
    shapes = [o.aval.shape for o in equation.operands[consts : consts + carries]]
    if shapes[-states:] != [a.aval.shape for a in cell.inits]:
        raise NotConvertible("its backward loop does not carry the gradients of the states")

    env: Env = {}
    for variable, operand in zip(body.inputs[:consts], equation.operands, strict=False):
        env[variable] = fingerprint.read(operand, values)
    carry, slices = body.inputs[consts : consts + carries], body.inputs[consts + carries :]
    for i, variable in enumerate(carry):
        env[variable] = fingerprint.random(variable.aval.shape, _SEED + i)
    given = equation.operands[consts + carries :]
    kept = [_kept(cell, operand, values) for operand in given]
    wanted = _Wanted(cell)
    for cotangents in _cotangents(slices, kept, wanted.shape):
        dy = [i for i in cotangents if not _is_zero(given[i], flat)]
        parts = dict(zip(dy, wanted.parts(len(dy)), strict=True))
        for i, variable in enumerate(slices):
            zeros = np.zeros(variable.aval.shape, np.int64)
            env[variable] = parts.get(i, zeros) if i in cotangents else kept[i]
        for order in itertools.permutations(range(carries - states, carries)):
            last = {carry[place]: d for place, d in zip(order, wanted.dlast, strict=True)}
            here = env | last
            fingerprint.evaluate(body.equations, here)
            got = [fingerprint.read(o, here) for o in body.outputs]
            results = wanted.match(got, [here[v] for v in carry], order, bool(dy))
            if results is not None:
                first = equation.operands[consts : consts + carries]
                from_zero = {i for i, operand in enumerate(first) if _is_zero(operand, flat)}
                return Backward(cell, equation, [given[i] for i in dy], list(order), results, from_zero)
    raise NotConvertible("its backward loop is not the gradient of the cell alone")


def _cotangents(slices: Sequence[Variable], kept: Sequence[Any], shape: tuple[int, ...]) -> Iterator[list[int]]:
    """Which slices may be cotangents: those that the forward scan does not know; or up to two more, which come first.

    A cotangent may be what the forward scan has computed, as it is for half the sum of y's squares.
    """
    alike = [i for i, v in enumerate(slices) if v.aval.shape == shape]
    unknown = {i for i, k in enumerate(kept) if k is None}
    if unknown <= set(alike):
        found = [sorted(unknown | set(alike[:more])) for more in (0, 1, 2)]
        yield from (f for i, f in enumerate(found) if f not in found[:i])


class _Wanted:
    """A step of the gradient as JAX derives it from the cell's meaning, at random states and cotangents."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.shape = cell.inits[0].aval.shape
        self.dlast = [fingerprint.random(self.shape, 3 * _SEED + i) for i in range(len(cell.states))]
        self.dy = fingerprint.random(self.shape, 4 * _SEED)
        self._found: dict[bool, list[Any]] = {}
        self._names: list[Atom] = []

    def parts(self, count: int) -> list[Any]:
        """dy as a sum of so many cotangents."""
        some = [fingerprint.random(self.shape, 5 * _SEED + i) for i in range(count - 1)]
        return [*some, (self.dy - sum(some)) % PRIME][:count]

    def gradients(self, with_dy: bool) -> tuple[dict[Atom, Any], list[Any], Any]:
        """Of the constants and their sources, of the states, and of the input."""
        cell, states = self.cell, len(self.cell.states)
        if with_dy not in self._found:
            inputs, first = cell.body.flat.inputs, cell.equation.consts
            atoms = [*cell.sources.roots, inputs[cell.x], *(inputs[first + i] for i in cell.states)]
            dy = self.dy if with_dy else np.zeros(self.shape, np.int64)
            known = [fingerprint.read(a, cell.values) for a in atoms]
            self._found[with_dy] = of_function(self._step, [*known, *self.dlast, dy])
        dx, *rest = self._found[with_dy]
        return dict(zip(self._names, rest[states:], strict=True)), rest[:states], dx

    def _step(self, *operands: Any) -> list[Any]:
        cell, count = self.cell, len(self.cell.sources.roots)
        roots, (x, *rest) = operands[:count], operands[count:]
        states, cotangents = rest[: len(cell.states)], rest[len(cell.states) :]
        *last, dy = cotangents
        of_inputs: list[Any] = []

        def weights(pull: Any, parameters: Any) -> Any:
            _, back = jax.vjp(cell.step, parameters, states, x)
            dparameters, *others = back((last[0] + dy, *last[1:]))
            of_inputs.extend(others)
            return pull(dparameters)

        found = constants_gradient(cell, roots, weights)
        self._names = list(found)
        dstates, dx = of_inputs
        return [dx, *dstates, *found.values()]

    def match(
        self, got: Sequence[Any], before: Sequence[Any], order: Sequence[int], with_dy: bool
    ) -> list[tuple[str, Any]] | None:
        """What each result of the reverse scan is, or None if one of them is nothing that is wanted."""
        constants, states, dx = self.gradients(with_dy)
        results: list[tuple[str, Any]] = []
        for i, value in enumerate(got):
            if i in order:
                state = list(order).index(i)
                if not same(value, states[state]):
                    return None
                results.append(("state", state))
            elif i >= len(before):
                if value.shape != dx.shape or not same(value, dx):
                    return None
                results.append(("x", None))
            else:
                change = (value - before[i]) % PRIME
                name = next((n for n, d in constants.items() if d.shape == change.shape and same(d, change)), None)
                if name is None and change.any():
                    return None
                results.append(("kept", None) if name is None else ("constant", name))
        return results


def _reader(flat: Flat, cell: Cell, unknown: Sequence[Variable]) -> Equation:
    """The one reverse scan that reads what the cell's scan has kept."""
    ids = set(unknown)
    if any(o in ids for o in flat.outputs):
        raise NotConvertible(
            "results of its body other than the states leave the function; graph it together with its gradient"
        )
    found = [e for e in flat.equations if any(o in ids for o in e.operands)]
    params = cell.equation.params
    if len(found) != 1 or found[0].name != "scan" or found[0].effects:
        raise NotConvertible("results of its body other than the states are read")
    other = found[0].params
    slices = found[0].operands[found[0].consts + found[0].carries :]
    if other["length"] != params["length"] or other["reverse"] == params["reverse"] or not ids <= set(slices):
        raise NotConvertible("results of its body other than the states are read by a loop that is not its gradient")
    return found[0]


def _kept(cell: Cell, operand: Atom, values: Env) -> Any:
    """The value in a step of what the forward scan kept or read, or None."""
    forward = cell.equation
    for i, result in enumerate(forward.results[forward.carries :], forward.carries):
        if result is operand:
            return fingerprint.read(cell.body.flat.outputs[i], values)
    first = forward.consts + forward.carries
    for i, given in enumerate(forward.operands[first:], first):
        if given is operand:
            return values[cell.body.flat.inputs[i]]
    return None


def _is_zero(atom: Atom, flat: Flat) -> bool:
    if isinstance(atom, Constant):
        return clean.uniform(atom) and atom.aval.size > 0 and not np.asarray(atom.value).any()
    made = next((e for e in flat.equations if any(r is atom for r in e.results)), None)
    return made is not None and made.name == "broadcast_in_dim" and _is_zero(made.operands[0], flat)
