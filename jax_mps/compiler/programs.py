"""What `graph(f).program(...)` gives: the native programs, with their text, memory, drawing, and names of values."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jax_mps.compiler.compiled import Graphed, NativeRegion
from jax_mps.compiler.equations.equation import Atom, Flat
from jax_mps.compiler.passes.plan_memory import Memory
from jax_mps.drawing.draw import Part, draw


class Programs(tuple[NativeRegion, ...]):
    """The native programs of a graphed function, in the order in which they run."""

    _name = "graph"
    _names: dict[Atom, str] = {}  # noqa: RUF012  # of inputs and values of JAX
    _outputs: dict[Atom, str] = {}  # noqa: RUF012  # of results

    @classmethod
    def of(cls, graphed: Graphed, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> Programs:
        """Those of a compiled function; `inputs` and `outputs` name its flat operands and results."""
        programs = cls(p for p in graphed.parts if isinstance(p, NativeRegion))
        programs._name = name
        programs._names = _names(graphed.flat, inputs)
        programs._outputs = {}
        for atom, words in zip(graphed.flat.outputs, outputs, strict=True):
            programs._outputs.setdefault(atom, words)
        return programs

    def text(self) -> str:
        """Their text forms."""
        return "\n\n".join(region.text for region in self)

    @property
    def memory(self) -> Memory:
        """Bytes of all intermediates: in the arenas, and if each had memory of its own."""
        return Memory(
            sum(region.memory.arena for region in self), sum(region.memory.without_aliasing for region in self)
        )

    def svg(self) -> str:
        """The drawing that `draw` writes, as text; a notebook shows the programs by it."""
        parts = []
        for region in self:
            inputs = [self._names.get(v, "from JAX") for v in region.operands]
            outputs = [self._outputs.get(v, "to JAX") for v in region.results]
            parts.append(Part(region.program, region.memory, region.aliases, inputs, outputs))
        return draw(parts, self._name)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draws the nodes of every native call, and below them when and where their values live, into an SVG file.

        A card is a node: its inputs and the function's arguments above its name, a chain's steps below, the results
        that the function returns at the bottom. A curve is a value, thicker the larger it is. The pointer shows a
        node's statement in full.

        Raises:
            ValueError: if the path does not end in .svg.
        """
        if not os.fspath(path).endswith(".svg"):
            raise ValueError(f"draw: path must end in .svg, but got {os.fspath(path)!r}. Convert the SVG afterwards.")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.svg())

    _repr_svg_ = svg


def _names(flat: Flat, inputs: Sequence[str]) -> dict[Atom, str]:
    names: dict[Atom, str] = {variable: "constant" for variable, _ in flat.captured.values()}
    for equation in flat.equations:
        names.update((r, f"{equation.name} of JAX") for r in equation.results)
    names.update(zip(flat.inputs, inputs, strict=True))
    return names


def name_of(function: Any) -> str:
    """What a function is called."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def argument_names(function: Callable[..., Any], args: Any, kwargs: Any) -> list[str]:
    """A name for every leaf of the arguments: "params.Dense_0.kernel"."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    words = [p.name for p in parameters if p.kind in places]
    words += [f"argument {i}" for i in range(len(words), len(args))]
    found = []
    for i, arg in enumerate(args):
        found += leaf_names(arg, words[i])
    for key in sorted(kwargs):
        found += leaf_names(kwargs[key], key)
    return found


def leaf_names(tree: Any, prefix: str, named: Callable[[Any], bool] = lambda leaf: True) -> list[str]:
    """A name for every leaf of a tree that is to be `named`."""
    paths = [path for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0] if named(leaf)]
    return [".".join([prefix, *(jax.tree_util.keystr((k,), simple=True) for k in path)]) for path in paths]
