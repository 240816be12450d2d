"""Where the constants of a loop come from: JAX takes what a loop's body does to its weights alone out of the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mps.compiler.equations import evaluate
from jax_mps.compiler.equations.equation import Atom, Equation, Flat, Variable
from jax_mps.compiler.recognise.recurrent import fingerprint
from jax_mps.compiler.recognise.recurrent.fingerprint import Env

_VIEWS = {"reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "slice", "split", "concatenate"}


class Sources:
    """Some values of a function, all values that they are views or concatenations of, and what makes them of these."""

    def __init__(self, flat: Flat, leaves: Sequence[Atom]) -> None:
        producer: dict[Atom, Equation] = {r: e for e in flat.equations for r in e.results}
        wanted: set[Equation] = set()
        self.variables: set[Variable] = set()
        self.roots: list[Variable] = []
        todo = list(leaves)
        while todo:
            atom = todo.pop()
            if not isinstance(atom, Variable) or atom in self.variables:
                continue
            self.variables.add(atom)
            equation = producer.get(atom)
            if equation is not None and equation.name in _VIEWS and _is_float(equation):
                wanted.add(equation)
                todo += [*equation.operands, *equation.results]
            else:
                self.roots.append(atom)
        self.equations = [e for e in flat.equations if e in wanted]

    def draw(self, values: Env) -> None:
        """Gives random elements to the roots, and their values to all others."""
        for i, root in enumerate(self.roots):
            values[root] = fingerprint.random(root.aval.shape, 1000 + i)
        fingerprint.evaluate(self.equations, values)

    def cotangents(self, roots: Sequence[Any], leaves: dict[Atom, Any]) -> dict[Atom, Any]:
        """From the cotangents of some variables those of all that they are made of."""
        env: dict[Atom, Any] = dict(zip(self.roots, roots, strict=True))
        evaluate.evaluate_all(self.equations, env)
        found = dict(leaves)
        for equation in reversed(self.equations):
            if not any(r in found for r in equation.results):
                continue
            given = [found.get(r, jnp.zeros(r.aval.shape, r.aval.dtype)) for r in equation.results]
            operands = [evaluate.read(o, env) for o in equation.operands]
            _, pull = jax.vjp(lambda *some, e=equation: evaluate.evaluate(e, some), *operands)
            for operand, cotangent in zip(equation.operands, pull(given), strict=True):
                found[operand] = found[operand] + cotangent if operand in found else cotangent
        return found


def _is_float(equation: Equation) -> bool:
    return all(a.aval.dtype == np.float32 for a in (*equation.operands, *equation.results))
