"""One trace of a graphed function: compiled, and with its gradient, which is traced from the trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from jax_mps.graph.capture import trace
from jax_mps.graph.compile import compile_jaxpr

Grapher = Callable[[Callable[..., Any]], Callable[..., Any]]


class Traced:
    """A function of arrays, traced and compiled for their types; differentiable, the gradient graphed in turn.

    Values of a trace around this one that the function closes over become operands, so that they have gradients too.
    """

    def __init__(self, function: Callable[..., Any], arrays: Sequence[Any], grapher: Grapher, fuse: bool) -> None:
        closed, shape = trace(function, *arrays)
        self._out = jax.tree.structure(shape)
        self.captured = [c for c in closed.consts if isinstance(c, jax.core.Tracer)]
        if self.captured:
            jaxpr, constants = closed.jaxpr, closed.consts

            def with_captured(*operands: Any) -> Any:
                rest = iter(operands)
                values = [next(rest) if isinstance(c, jax.core.Tracer) else c for c in constants]
                return jax.core.eval_jaxpr(jaxpr, values, *rest)

            closed, _ = trace(with_captured, *self.captured, *arrays)
        graphed, flat = compile_jaxpr(closed, fuse), jaxpr_as_fun(closed)
        forward = grapher(lambda *operands: jax.vjp(flat, *operands))
        backward = grapher(lambda pull, cotangents: pull(cotangents))
        self._run = jax.custom_vjp(lambda *operands: graphed(*operands))
        self._run.defvjp(forward, backward)

    def __call__(self, *arrays: Any) -> Any:
        """Runs it."""
        return jax.tree.unflatten(self._out, self._run(*self.captured, *arrays))
