"""graph: a JAX function becomes few native calls, fused and planned.

The compile is the list of steps in `compile.compile_jaxpr`; this file is what a user calls.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jax_mps._compat import trace_context
from jax_mps.device import device
from jax_mps.graph.capture import trace
from jax_mps.graph.compile import Graphed, NativeRegion, compile_jaxpr
from jax_mps.graph.plan import Memory

_CACHED_TRACES = 64


class Programs(tuple[NativeRegion, ...]):
    """The native programs of a graphed function, in the order in which they run."""

    def text(self) -> str:
        """Their text forms."""
        return "\n\n".join(region.text for region in self)

    @property
    def memory(self) -> Memory:
        """Bytes of all intermediates: in the arenas, and if each had memory of its own."""
        return Memory(
            sum(region.memory.arena for region in self), sum(region.memory.without_aliasing for region in self)
        )


class graph:
    """Turns a JAX function into one that runs as few native calls as its ops allow, usually one.

    The function is traced; convolutions, pools, products and their gradients are recognised in JAX's own primitives
    (and so in Flax, Equinox, Haiku or plain lax code), elementwise code and reductions between them are fused, and all
    intermediates share one arena. What the device has no kernel for stays in JAX between the native calls. The result
    is a pure function with the same arguments and results: jit it, scan it, donate to it::

        step = jax.jit(mps.graph(step))

    Args:
        function: a pure function of pytrees. Leaves that are no arrays or numbers are static.
        fuse: False runs every elementwise op as a kernel of its own, for comparison.

    Returns:
        A function. `jax.grad` of it differentiates the function first and graphs the gradient; `jax.vmap` of it runs
        the function as it was. Forward-mode differentiation (`jax.jvp`) of it is not there: differentiate inside.

    Example:
        >>> import jax, jax.numpy as jnp, jax_mps as mps
        >>> layer = lambda x, w: jax.nn.relu(x @ w)
        >>> float(jax.jit(mps.graph(layer))(jnp.ones((2, 3)), jnp.ones((3, 4)))[0, 0])
        3.0

    Reference: MPSNNGraph.
    """

    def __init__(self, function: Callable[..., Any], *, fuse: bool = True) -> None:
        if not callable(function):
            raise TypeError(f"graph: function must be callable, but got {function!r}. Pass the function itself.")
        functools.update_wrapper(self, function, updated=())
        self._function, self._fuse = function, fuse
        self._cache: OrderedDict[Any, tuple[Graphed, Any]] = OrderedDict()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function with `args` and `kwargs`."""
        leaves, tree = jax.tree.flatten((args, kwargs))
        static = tuple(None if _is_array(x) else _Static(x) for x in leaves)
        arrays = [x for x in leaves if _is_array(x)]

        def flat(*arrays: Any) -> Any:
            rest = iter(arrays)
            args, kwargs = jax.tree.unflatten(tree, [next(rest) if s is None else s.value for s in static])
            return self._function(*args, **kwargs)

        return _differentiable(functools.partial(self._run, flat, (tree, static)), flat, self._fuse)(*arrays)

    def program(self, *args: Any, **kwargs: Any) -> Programs:
        """The native programs of a call with these arguments, without running it."""
        closed = jax.make_jaxpr(self._function)(*args, **kwargs)
        return Programs(p for p in compile_jaxpr(closed, self._fuse).parts if isinstance(p, NativeRegion))

    def _run(self, flat: Callable[..., Any], key: Any, *arrays: Any) -> Any:
        key = (key, tuple(jax.typeof(x) for x in arrays), device(), trace_context())
        if key not in self._cache:
            closed, shape = trace(flat, *arrays)
            graphed, out = compile_jaxpr(closed, self._fuse), jax.tree.structure(shape)
            if any(isinstance(c, jax.core.Tracer) for c in closed.consts):  # of a trace around this one, soon over
                return jax.tree.unflatten(out, graphed(*arrays))
            self._cache[key] = graphed, out
        self._cache.move_to_end(key)
        while len(self._cache) > _CACHED_TRACES:
            self._cache.popitem(last=False)
        graphed, out = self._cache[key]
        return jax.tree.unflatten(out, graphed(*arrays))


class _Static:
    """A leaf that is part of the function, compared by value where it can be."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except TypeError:
            return id(self.value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static) or type(self.value) is not type(other.value):
            return False
        return bool(self.value is other.value or self.value == other.value)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float | complex)


def _differentiable(run: Callable[..., Any], flat: Callable[..., Any], fuse: bool) -> Callable[..., Any]:
    """`run`, whose gradient is the graph of `flat`'s gradient."""
    wrapped = jax.custom_vjp(run)

    def forward(*arrays: Any) -> Any:
        result, pull = graph(lambda *arrays: jax.vjp(flat, *arrays), fuse=fuse)(*arrays)
        return result, pull

    def backward(pull: Any, cotangents: Any) -> Any:
        return graph(lambda pull, cotangents: pull(cotangents), fuse=fuse)(pull, cotangents)

    wrapped.defvjp(forward, backward)
    return wrapped
