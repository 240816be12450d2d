"""Flax NNX modules that a graphed function takes, is, or is a method of: what it changes in them is changed.

A module (an optimizer, a Rngs, a variable) is an object that holds arrays. Outside of the trace it is split into a
static definition and its arrays; inside it is merged, run and split again; the caller's own objects are then updated::

    model ── split ── arrays ──┬── merge ── function ── split ──┬── arrays ── merge ── model, updated
                               └───────────── graph ────────────┘

Objects that several arguments share stay shared, and whatever the function adds, removes or sets, flags like
`deterministic` included, is so afterwards: this is `nnx.jit`'s own protocol, by the public contexts of NNX. Flax is
looked up where it is loaded, and never imported.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

# Where modules that a function closes over are looked for.
_DEPTH = 4  # of functions, containers and plain objects around one
_MANY = 1000  # elements of a container: data
_LIBRARIES = {"jax", "jaxlib", "numpy", "jax_mps"}  # of whose objects only the function that they wrap


class Call(NamedTuple):
    """A function of arrays for a function of modules, its arguments, and its result as the caller wants it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    whole: Callable[[Any], Any]


@jax.tree_util.register_pytree_with_keys_class
class _Split:
    """A module as its definition, which is static, and its arrays."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def tree_flatten_with_keys(self) -> tuple[tuple[Any, ...], None]:
        names = map(jax.tree_util.GetAttrKey, ("definition", "state"))
        return tuple(zip(names, self.parts, strict=True)), None

    @classmethod
    def tree_unflatten(cls, _: None, parts: tuple[Any, ...]) -> _Split:
        return cls(*parts)


def is_module(x: Any) -> bool:
    """Whether `x` is an object of NNX that holds arrays."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and not isinstance(x, jax.Ref | jax.core.Tracer) and bool(nnx.graph.is_graph_node(x))


@contextmanager
def threaded(tag: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Iterator[Call]:
    """The call with the modules among its arguments, and bound to the function, taken apart.

    Args:
        tag: the same object for all calls of one function.
        function: what is called, with `args` and `kwargs`.
        args, kwargs: trees with modules among their leaves.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None:
        unbound, first, named = _unbound(function)
        if _any_module((first, named)):
            function, args, kwargs = unbound, (*first, *args), {**named, **kwargs}
    if nnx is None or not _any_module((args, kwargs)):
        yield Call(function, args, kwargs, lambda result: result)
        return

    @functools.wraps(function, updated=())
    def pure(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _merged(nnx, tag, (args, kwargs), inner=True)
        result = function(*args, **kwargs)
        changed = jax.tree.map(lambda x: x if is_module(x) else None, (args, kwargs), is_leaf=is_module)
        return _split(nnx, tag, (changed, result))

    with nnx.update_context(tag):
        args, kwargs = _split(nnx, tag, (args, kwargs))
        yield Call(pure, args, kwargs, lambda result: _merged(nnx, tag, result, inner=False)[1])


def _split(nnx: Any, tag: Any, tree: Any) -> Any:
    with nnx.split_context(tag) as context:
        return jax.tree.map(lambda x: _Split(*context.split(x)) if is_module(x) else x, tree, is_leaf=is_module)


def _merged(nnx: Any, tag: Any, tree: Any, inner: bool) -> Any:
    def is_split(x: Any) -> bool:
        return isinstance(x, _Split)

    def merged(context: Any, x: Any) -> Any:
        definition, state = x.parts
        flat = nnx.to_flat_state(state) if isinstance(state, nnx.State) else [state]
        return context.unflatten(definition, flat)  # merge would copy mutable references

    with nnx.merge_context(tag, inner=inner) as context:
        return jax.tree.map(lambda x: merged(context, x) if is_split(x) else x, tree, is_leaf=is_split)


def _any_module(tree: Any) -> bool:
    return any(map(is_module, jax.tree.leaves(tree, is_leaf=is_module)))


def _unbound(function: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A function and the arguments that are bound to it."""
    if isinstance(function, functools.partial):
        inner, first, named = _unbound(function.func)
        return inner, (*first, *function.args), {**named, **function.keywords}
    if hasattr(function, "__func__") and hasattr(function, "__self__"):
        return function.__func__, (function.__self__,), {}
    if is_module(function):
        return type(function).__call__, (function,), {}
    return function, (), {}


class _Same:
    """An array by identity, kept so that no other takes its place."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.array is other.array


def closed_over(function: Callable[..., Any], leaves: list[Any]) -> tuple[Any, ...]:
    """What a trace depends on beside its arguments: the state of the modules that the function or a static leaf holds.

    Their arrays are constants of the trace, so that a change of one is a new trace.
    """
    if "flax.nnx" not in sys.modules:
        return ()
    found: dict[int, Any] = {}
    for root in (function, *leaves):
        _find(root, _DEPTH, found, set())
    nnx = sys.modules["flax.nnx"]
    if not found:
        return ()
    definition, state = nnx.split(list(found.values()))
    arrays = [None if isinstance(x, jax.core.Tracer) else _Same(x) for x in jax.tree.leaves(state)]
    return definition, *arrays


def _find(x: Any, depth: int, found: dict[int, Any], seen: set[int]) -> None:
    """Adds the modules that a function reads from around it, or a plain object has as attributes, by their ids."""
    if is_module(x):
        found[id(x)] = x
        return
    if depth < 0 or id(x) in seen or isinstance(x, types.ModuleType | type | jax.Array):
        return
    seen.add(id(x))
    around: list[Any] = []
    if isinstance(x, types.FunctionType):
        around += [cell.cell_contents for cell in x.__closure__ or () if not _is_empty(cell)]
        around += [x.__globals__[name] for name in _names(x.__code__) if name in x.__globals__]
        around = [y for y in around if not isinstance(y, types.FunctionType) or y.__globals__ is x.__globals__]
    elif hasattr(x, "__func__") and hasattr(x, "__self__"):
        around += [x.__func__, x.__self__]
    elif isinstance(x, functools.partial):
        around += [x.func, *x.args, *x.keywords.values()]
    elif isinstance(x, list | tuple | dict):
        around += (x.values() if isinstance(x, dict) else x) if len(x) < _MANY else ()
    elif type(x).__module__.partition(".")[0] in _LIBRARIES:
        around += [x.__wrapped__] if hasattr(x, "__wrapped__") else []
    elif hasattr(x, "__dict__"):
        around += vars(x).values()
    for y in around:
        _find(y, depth - 1, found, seen)


def _names(code: types.CodeType) -> set[str]:
    """The names that a function's code reads, that of functions in it included."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
