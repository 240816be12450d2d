"""graph: a JAX function becomes few native calls, fused and planned.

The compile is the list of steps in pipeline.py; this file is what a user calls.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from inspect import isfunction
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import numpy as np

from jax_mps._compat import is_concrete, is_staging, jit_is_disabled, names_of, static_arguments, trace_context
from jax_mps._device import device
from jax_mps.compiler.compiled import compile_jaxpr
from jax_mps.compiler.equations.flatten import trace
from jax_mps.compiler.modules import Call, closed_over, threaded
from jax_mps.compiler.pipeline import Options
from jax_mps.compiler.programs import Programs, argument_names, leaf_names, name_of
from jax_mps.compiler.traced import Result, Traced, is_array, is_array_or_number, is_array_to_jit

_CACHED_TRACES = 64
P = ParamSpec("P")
R = TypeVar("R")


class graph(Generic[P, R]):
    """Turns a JAX function into one that runs as few native calls as its ops allow, usually one.

    The function is traced; convolutions, pools, products and their gradients are recognised in JAX's own primitives
    (and so in Flax, Equinox, Haiku or plain lax code), elementwise code and reductions between them are fused, and all
    intermediates share one arena. What the device has no kernel for stays in JAX between the native calls. The result
    is a pure function with the same arguments and results: jit it, scan it, donate to it::

        step = jax.jit(mps.graph(step))

    Args:
        function: a pure function of pytrees. Leaves that are no arrays or numbers are static, in the result too: a
            change of them is a new trace. So are booleans, and inside `jax.jit` and the like all numbers of Python and
            NumPy, which whoever called jit (Equinox's `filter_jit`, for one) kept from being traced.
            Flax NNX modules are taken as `nnx.jit` takes them, be they arguments, the function, or what it is a method
            of: what the function changes in them is changed. A method may be decorated.
        fuse: False runs every elementwise op as a kernel of its own, for comparison.
        without: names of steps of the compiler to leave out, for comparison or to look for a fault: "fold_padding",
            say. `jax_mps/compiler/pipeline.py` lists them.

    Returns:
        A function. `jax.grad` of it differentiates the function first and graphs the gradient, to any order;
        `jax.vmap` of it runs the function as it was. `jax.jvp` and `jax.linear_transpose` of it work, partly in JAX.

    Raises:
        TypeError: if the function is not callable, or for an option of `jax.jit`.
        ValueError: if `without` names no step, or one that is needed.

    Example:
        >>> import jax, jax.numpy as jnp, jax_mps as mps
        >>> layer = lambda x, w: jax.nn.relu(x @ w)
        >>> float(jax.jit(mps.graph(layer))(jnp.ones((2, 3)), jnp.ones((3, 4)))[0, 0])
        3.0

    Reference: MPSNNGraph.
    """

    def __init__(
        self,
        function: Callable[P, R] | None = None,
        *,
        fuse: bool = True,
        without: Collection[str] = (),
        **others: object,
    ) -> None:
        if others:
            given = ", ".join(f"{name}={value!r}" for name, value in others.items())
            raise TypeError(
                f"graph: the only options are fuse and without, but got {given}. jax.jit takes the others: "
                f"jax.jit(mps.graph(f), {given})."
            )
        if not callable(function):
            raise TypeError(f"graph: function must be callable, but got {function!r}. Pass the function itself.")
        functools.update_wrapper(self, function, updated=())
        vars(self).update(_own_attributes(function))
        if not hasattr(self, "__name__"):  # of a partial
            self.__name__ = name_of(function)
        self._function, self._options = function, Options.of(without, fuse)
        self._cache: OrderedDict[Any, Traced] = OrderedDict()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A method, where the function is one."""
        return self if instance is None else _Method(self, instance)

    def __reduce__(self) -> Any:
        return functools.partial(graph, without=self._options.without), (self._function,)

    def __repr__(self) -> str:
        return f"graph({name_of(self._function)})"

    def __eq__(self, other: object) -> bool:
        """As functions are equal, so that JAX finds again what it has compiled of the same function, graphed anew."""
        if not isinstance(other, graph) or self._options != other._options:
            return False
        one, another = self._function, other._function
        return one is another or (isinstance(one, MethodType) and one == another)

    def __hash__(self) -> int:
        function = self._function
        return hash((graph, function if isinstance(function, MethodType) else id(function), self._options))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function with `args` and `kwargs`; under `jax.disable_jit` the function as it was."""
        if jit_is_disabled():
            return self._function(*args, **kwargs)
        with threaded(self, self._function, args, kwargs) as call:
            leaves = jax.tree.leaves((call.args, call.kwargs))
            inside = is_staging() or any(isinstance(x, jax.core.Tracer) and not is_concrete(x) for x in leaves)
            dynamic = is_array_to_jit if inside else is_array_or_number
            flat, arrays, key = _flat(call, dynamic)
            return call.whole(self._traced(flat, arrays, (key, inside), dynamic)(*arrays))

    def program(self, *args: object, **kwargs: object) -> Programs:
        """The native programs of a call with these arguments, without running it.

        Arguments are arrays, or anything with shape and dtype; numbers of Python stay numbers, as inside of jit.
        """
        with threaded(self, self._function, args, kwargs) as call:
            names = argument_names(call.function, call.args, call.kwargs)
            leaves = jax.tree.leaves((call.args, call.kwargs))
            flat, arrays, _ = _flat(call, _has_type)
            result = Result(flat, is_array)
            closed, shapes = trace(result.named(), *arrays)
        inputs = [n for n, x in zip(names, leaves, strict=True) if _has_type(x)]
        outputs = leaf_names(result.whole(shapes), "result", _has_type)
        return Programs.of(compile_jaxpr(closed, self._options), name_of(self._function), inputs, outputs)

    def _traced(
        self, flat: Callable[..., Any], arrays: Sequence[Any], key: Any, dynamic: Callable[[Any], bool]
    ) -> Traced:
        key = (key, tuple(jax.typeof(x) for x in arrays), device(), trace_context())
        if key not in self._cache:
            traced = Traced(
                flat, arrays, dynamic, functools.partial(graph, without=self._options.without), self._options
            )
            if traced.captured:  # values of a trace around this one, soon over
                return traced
            self._cache[key] = traced
        self._cache.move_to_end(key)
        while len(self._cache) > _CACHED_TRACES:
            self._cache.popitem(last=False)
        return self._cache[key]


def _flat(call: Call, dynamic: Callable[[Any], bool]) -> tuple[Callable[..., Any], list, Any]:
    """The function of the arrays alone, these arrays, and what else tells one trace from another."""
    leaves, tree = jax.tree.flatten((call.args, call.kwargs))
    fixed = _fixed(call)
    static = tuple(_Static(x) if (fixed and fixed[i]) or not dynamic(x) else None for i, x in enumerate(leaves))
    held = closed_over(call.function, [s.value for s in static if s is not None])
    arrays = [x for x, s in zip(leaves, static, strict=True) if s is None]
    return _Flat(call.function, tree, static), arrays, (tree, static, held)


class _Flat:
    """A function of the arrays among its arguments."""

    def __init__(self, function: Callable[..., Any], tree: Any, static: Sequence[_Static | None]) -> None:
        self._function, self._tree, self._static = function, tree, static

    def __call__(self, *arrays: Any) -> Any:
        rest = iter(arrays)
        args, kwargs = jax.tree.unflatten(self._tree, [next(rest) if s is None else s.value for s in self._static])
        return self._function(*args, **kwargs)

    def names(self) -> Any:
        """The names of the function and of its arguments, for JAX."""
        args, kwargs = jax.tree.unflatten(self._tree, [0 if s is None else None for s in self._static])
        return names_of(self._function, args, kwargs)


def _fixed(call: Call) -> list[bool]:
    """Of each leaf, whether it is of an argument that `jax.jit`, around the function, keeps static; [] if none is."""
    numbers, names = static_arguments(call.function)
    if not numbers and not names:
        return []
    flags = ([i in numbers for i in range(len(call.args))], {name: name in names for name in call.kwargs})
    whole = jax.tree.map(lambda flag, x: jax.tree.map(lambda _: flag, x), flags, (list(call.args), call.kwargs))
    return jax.tree.leaves(whole)


def _own_attributes(function: Callable[..., Any]) -> dict[str, Any]:
    """What somebody has set on a function, compiled by JAX or not; `jax.jit` hands it on too."""
    if not isfunction(getattr(function, "__wrapped__", function)):
        return {}
    own = getattr(function, "__dict__", {})
    return {name: value for name, value in own.items() if not name.startswith("_") and not hasattr(graph, name)}


class _Method:
    """A graphed function bound to an object, as a method is."""

    def __init__(self, function: graph, instance: Any) -> None:
        functools.update_wrapper(self, function, updated=())
        self.__func__, self.__self__ = function, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def program(self, *args: object, **kwargs: object) -> Programs:
        """The native programs of a call with these arguments, without running it."""
        return self.__func__.program(self.__self__, *args, **kwargs)

    def __repr__(self) -> str:
        return f"{self.__func__!r} of {self.__self__!r}"


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
        if isinstance(self.value, float | complex | np.inexact):  # 0.0 is not -0.0
            return repr(self.value) == repr(other.value)
        return bool(self.value is other.value or self.value == other.value)


def _has_type(x: Any) -> bool:
    return is_array(x) or (hasattr(x, "shape") and hasattr(x, "dtype")) or isinstance(x, jax.core.AbstractValue)
