"""One trace of a graphed function, and what its result is made of beside arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jax_mps._compat import Token, known_among_results, named, with_weak_type
from jax_mps.compiler.equations.flatten import trace
from jax_mps.compiler.function import Function, Grapher
from jax_mps.compiler.pipeline import Options

Dynamic = Callable[[Any], bool]  # whether a leaf is traced


class Traced:
    """A function of arrays, traced for their types; what it does not read is no operand.

    Values of a trace around this one that the function closes over become operands, so that they have gradients too.
    """

    def __init__(
        self, function: Callable[..., Any], arrays: Sequence[Any], dynamic: Dynamic, grapher: Grapher, options: Options
    ) -> None:
        self._result = Result(function, dynamic)
        closed, _ = trace(self._result.named(), *arrays)
        self.captured = [c for c in closed.consts if isinstance(c, jax.core.Tracer)]
        if self.captured:
            jaxpr, constants = closed.jaxpr, closed.consts

            def with_captured(*operands: Any) -> Any:
                rest = iter(operands)
                values = [next(rest) if isinstance(c, jax.core.Tracer) else c for c in constants]
                return jax.core.eval_jaxpr(jaxpr, values, *rest)

            closed, _ = trace(with_captured, *self.captured, *arrays)
        self._types, self._constants = closed.out_avals, closed.consts
        self._places = known_among_results(closed)
        self._run, self._read = Function(closed, options, grapher).reduced(tuple(p is None for p in self._places))

    def __call__(self, *arrays: Any) -> Any:
        """Runs it. A result that is an operand or a constant is none of the call, nor kept for a gradient once more."""
        known = [*self.captured, *arrays, *self._constants]
        made = iter(self._run(*itertools.compress(known, self._read)))
        pairs = zip(self._places, self._types, strict=True)
        return self._result.whole([next(made) if p is None else with_weak_type(known[p], t) for p, t in pairs])


class Result:
    """A function's result: its arrays, and the rest of it, which the trace alone knows."""

    def __init__(self, function: Callable[..., Any], dynamic: Dynamic) -> None:
        self._function, self._dynamic = function, dynamic
        self.tree: Any = None  # of the whole result
        self.static: list[tuple[int, Any]] = []  # leaves that are no arrays, by their places

    def arrays(self, *operands: Any) -> list[Any]:
        """Calls the function for the arrays of its result, and keeps the rest."""
        leaves, self.tree = jax.tree.flatten(self._function(*operands))
        dynamic = [self._dynamic(int(x) if isinstance(x, bool) else x) for x in leaves]
        self.static = [(i, x) for i, x in enumerate(leaves) if not dynamic[i]]
        return [x for x, d in zip(leaves, dynamic, strict=True) if d]

    def named(self) -> Callable[..., list[Any]]:
        """`arrays`, which errors call by the function's name."""
        names = getattr(self._function, "names", None)
        function = lambda *operands: self.arrays(*operands)  # noqa: E731
        return function if names is None else named(function, names())

    def whole(self, arrays: Sequence[Any]) -> Any:
        """The result of these arrays."""
        leaves = list(arrays)
        for i, x in self.static:
            leaves.insert(i, x)
        return jax.tree.unflatten(self.tree, leaves)


def is_array(x: Any) -> bool:
    """Whether a leaf is an array, or what JAX traces beside arrays: a mutable reference, a token."""
    return isinstance(x, jax.Array | jax.core.Tracer | np.ndarray | np.generic | jax.Ref | Token)


def is_array_to_jit(x: Any) -> bool:
    """Whether a leaf is an array inside of a trace, where what is left of NumPy's numbers is static."""
    return is_array(x) and not isinstance(x, np.generic)


def is_array_or_number(x: Any) -> bool:
    """Whether a leaf is an array or a number of Python, but for booleans."""
    return is_array(x) or (isinstance(x, int | float | complex) and not isinstance(x, bool))
