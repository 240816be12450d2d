"""Looks through a loop's body: which sums of products with which columns of which weights are the gates of a cell.

A *view* says which elements of a value matter: for each axis an index, or a range with a tag. A gate of H units is read
off from its last nonlinearity down, whatever way the products were cut and joined::

    logistic(a) [batch, unit]  <-  split(z)[1]   z [batch, H + unit]  <-  x @ k + ...   k [:, H + unit], x [batch, :]
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from jax_mps.compiler.equations.equation import Atom, Constant, Equation, Flat
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.ir.ops import ARITHMETIC


class Range(NamedTuple):
    """So many elements along an axis; `tag` is the batch axis that they are, "unit" or "inner" (summed over)."""

    tag: int | str
    start: int
    size: int


View = tuple[Range | int, ...]
Place = tuple[Atom, View]
NONLINEAR = ("logistic", "tanh", "exp")


@dataclass
class Sum:
    """A gate before its nonlinearity."""

    products: list[tuple[Place, Place]] = field(default_factory=list)  # of what varies, with its weights
    biases: list[Place] = field(default_factory=list)
    others: list[tuple[Equation, View]] = field(default_factory=list)  # elementwise products of what varies

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.products + other.products, self.biases + other.biases, self.others + other.others)


class Body:
    """The body of a loop whose first `consts` inputs are its constants."""

    def __init__(self, flat: Flat, consts: int) -> None:
        self.flat, self.consts = flat, consts
        self.producer: dict[Atom, Equation] = {r: e for e in flat.equations for r in e.results}
        self.fixed = set(flat.inputs[:consts])
        self.constant_equations: list[Equation] = []
        for equation in flat.equations:
            if not equation.effects and all(self.is_fixed(o) for o in equation.operands):
                self.fixed.update(equation.results)
                self.constant_equations.append(equation)

    def is_fixed(self, atom: Atom) -> bool:
        """Whether a value is the same in every iteration."""
        return isinstance(atom, Constant) or atom in self.fixed

    def equation(self, atom: Atom) -> Equation | None:
        """What makes a value that varies, or None for an input."""
        return None if self.is_fixed(atom) else self.producer.get(atom)

    def gates(self, atom: Atom, view: View) -> list[Place]:
        """The sums under the nonlinearities that a value is computed from, each once.

        Under products with weights too, where a GRU may have its reset gate: all that is summed over counts as units.
        """
        found: dict[Place, None] = {}  # in order
        seen: set[Place] = set()
        todo = [(atom, view)]
        while todo:
            atom, view = self.source(*todo.pop())
            equation = self.equation(atom)
            if equation is None or (atom, view) in seen:
                continue
            seen.add((atom, view))
            if equation.name in NONLINEAR:
                place = self.source(self._unscaled(equation.operands[0]), view)
                found[place] = None
                todo.append(place)
            elif equation.name in (*ARITHMETIC, "integer_pow", "one_minus_square"):
                todo += [(o, spread(view, atom, o)) for o in equation.operands]
            elif equation.name == "dot_general":
                todo += self._multiplied(equation, view)
        return list(found)

    def _multiplied(self, equation: Equation, view: View) -> list[Place]:
        """What a product multiplies with weights, in units; nothing of other products."""
        try:
            places = [place for place, _ in self._dot(equation, view)]
        except NotConvertible:
            return []
        return [(atom, tuple(map(_in_units, inner))) for atom, inner in places]

    def _unscaled(self, atom: Atom) -> Atom:
        """Without a sign or a number before it, as in 1 / (1 + exp(-x))."""
        equation = self.equation(atom)
        if equation is not None and equation.name in ("neg", "mul", "div"):
            varying = [o for o in equation.operands if not self.is_fixed(o)]
            others = [o for o in equation.operands if self.is_fixed(o)]
            if len(varying) == 1 and all(isinstance(o, Constant) for o in others):
                return self._unscaled(varying[0])
        return atom

    def sum_at(self, atom: Atom, view: View) -> Sum:
        """A value as a sum; NotConvertible with the reason if it is none."""
        atom, view = self.source(atom, view)
        if self.is_fixed(atom):
            return Sum(biases=[self._unspread(atom, view)])
        equation = self.equation(atom)
        if equation is None:
            raise NotConvertible("an input or a state enters it without a product")
        if equation.name in ("add", "add_any"):
            left, right = (self.sum_at(o, spread(view, atom, o)) for o in equation.operands)
            return left + right
        if equation.name == "dot_general":
            return Sum(products=list(self._dot(equation, view)))
        if equation.name == "mul":
            return Sum(others=[(equation, view)])
        raise NotConvertible(f"{equation.name} in it")

    def _unspread(self, atom: Atom, view: View) -> Place:
        """A bias before it was broadcast over the batch."""
        while any(isinstance(e, Range) and isinstance(e.tag, int) and e.size > 1 for e in view):
            equation = self.producer.get(atom)
            moved = None if equation is None else _moved(equation, atom, view)
            if moved is None:
                break
            atom, view = moved
        return atom, view

    def _dot(self, equation: Equation, view: View) -> Iterator[tuple[Place, Place]]:
        contract, batch = equation.params["dimension_numbers"]
        fixed = [self.is_fixed(o) for o in equation.operands]
        if batch[0] or sum(fixed) != 1 or any(len(c) != 1 for c in contract):
            raise NotConvertible("a product that is not one with a matrix of weights")
        entries = iter(view)
        views: list[list[Range | int]] = []
        for operand, (axis,) in zip(equation.operands, contract, strict=True):
            inner = Range("inner", 0, operand.aval.shape[axis])
            views.append([inner if i == axis else next(entries) for i in range(operand.aval.ndim)])
        side = fixed.index(True)
        weights, weights_view = equation.operands[side], views[side]
        axis = contract[side][0]
        for piece, start in self._pieces(equation.operands[1 - side], tuple(views[1 - side])):
            size = next(e for e in piece[1] if isinstance(e, Range) and e.tag == "inner").size
            weights_view[axis] = Range("inner", start, size)
            tags = [e.tag for e in piece[1] if isinstance(e, Range)]
            sizes = tuple(e.size if isinstance(e, Range) else 1 for e in piece[1])
            if tags != [*range(len(tags) - 1), "inner"] or sizes != piece[0].aval.shape:
                raise NotConvertible("a product with a part of an input, or of transposed ones")
            yield piece, (weights, tuple(weights_view))

    def _pieces(self, atom: Atom, view: View) -> Iterator[tuple[Place, int]]:
        """A value summed over, as the pieces that are concatenated in it, and where each begins."""
        atom, view = self.source(atom, view)
        equation = self.equation(atom)
        axis = next(i for i, e in enumerate(view) if isinstance(e, Range) and e.tag == "inner")
        whole = view[axis] == Range("inner", 0, atom.aval.shape[axis])
        if equation is None or equation.name != "concatenate" or equation.params["dimension"] != axis or not whole:
            yield (atom, view), 0
            return
        start = 0
        for operand in equation.operands:
            size = operand.aval.shape[axis]
            part = (*view[:axis], Range("inner", 0, size), *view[axis + 1 :])
            for place, offset in self._pieces(operand, part):
                yield place, start + offset
            start += size

    def source(self, atom: Atom, view: View) -> Place:
        """Where a view's elements come from, through everything that only moves elements."""
        while True:
            equation = self.equation(atom)
            moved = None if equation is None else _moved(equation, atom, view)
            if moved is None:
                return atom, view
            atom, view = moved


def units_of(state: Atom) -> View:
    """The view of a whole state."""
    *batch, units = state.aval.shape
    return (*(Range(i, 0, n) for i, n in enumerate(batch)), Range("unit", 0, units))


def spread(view: View, result: Atom, operand: Atom) -> View:
    """The view of an elementwise operation's operand: a scalar, or with axes of size 1, it counts for all elements."""
    if not operand.aval.ndim:
        return ()
    sizes = zip(view, result.aval.shape, operand.aval.shape, strict=True)
    return tuple(e if n == m else 0 for e, n, m in sizes)


def _moved(equation: Equation, atom: Atom, view: View) -> Place | None:
    """The operand, and the view of it, that a view of an equation's result is; None if it is no such view."""
    params, x = equation.params, equation.operands[0]
    if equation.name == "convert_element_type":
        return (x, view) if x.aval.dtype == atom.aval.dtype else None
    if equation.name == "transpose":
        order = params["permutation"]
        return x, tuple(view[order.index(i)] for i in range(len(view)))
    if equation.name == "broadcast_in_dim":
        entries = [view[a] for a in params["broadcast_dimensions"]]
        sizes = zip(entries, params["broadcast_dimensions"], x.aval.shape, strict=True)
        return x, tuple(e if n == atom.aval.shape[a] else 0 for e, a, n in sizes)
    if equation.name in ("reshape", "squeeze", "expand_dims"):
        if params.get("dimensions") is not None and equation.name == "reshape":
            return None
        through = reshaped(view, atom.aval.shape, x.aval.shape)
        return None if through is None else (x, through)
    if equation.name == "slice":
        if any(s != 1 for s in params["strides"] or ()):
            return None
        return x, tuple(map(_shifted, view, params["start_indices"]))
    if equation.name == "split":
        piece = next(i for i, r in enumerate(equation.results) if r is atom)
        start = sum(map(int, params["sizes"][:piece]))
        return x, tuple(_shifted(e, start if i == params["axis"] else 0) for i, e in enumerate(view))
    if equation.name == "concatenate":
        axis, start = params["dimension"], 0
        first, size = (view[axis].start, view[axis].size) if isinstance(view[axis], Range) else (view[axis], 1)
        for operand in equation.operands:
            if start <= first and first + size <= start + operand.aval.shape[axis]:
                return operand, tuple(_shifted(e, -start if i == axis else 0) for i, e in enumerate(view))
            start += operand.aval.shape[axis]
    return None


def _in_units(entry: Range | int) -> Range | int:
    return Range("unit", *entry[1:]) if isinstance(entry, Range) and entry.tag == "inner" else entry


def _shifted(entry: Range | int, by: int) -> Range | int:
    return Range(entry.tag, entry.start + by, entry.size) if isinstance(entry, Range) else entry + by


def reshaped(view: View, shape: tuple[int, ...], into: tuple[int, ...]) -> View | None:
    """The view of an array of `shape` as one of the same elements in shape `into`, or None if it is none."""
    found: list[Range | int] = []
    i = 0
    for group, sizes in _groups(shape, into):
        entries, i = view[i : i + len(group)], i + len(group)
        run = _run(entries, group)
        part = None if run is None else _laid(run, sizes)
        if part is None:
            return None
        found += part
    return tuple(found)


def _run(entries: View, shape: tuple[int, ...]) -> Range | int | None:
    """The elements of a view in the row-major order of `shape`, if they are one, or follow each other."""
    run: Range | int = 0
    stride = 1
    for entry, n in zip(reversed(entries), reversed(shape), strict=True):
        if isinstance(entry, int):
            run = _shifted(run, entry * stride)
        elif isinstance(run, int) and stride == 1:
            run = _shifted(entry, run)
        else:
            return None
        stride *= n
    return run


def _laid(run: Range | int, shape: tuple[int, ...]) -> list[Range | int] | None:
    """The inverse of `_run`."""
    found: list[Range | int] = []
    for n in reversed(shape):
        start = run.start if isinstance(run, Range) else run
        if isinstance(run, Range) and start % n + run.size <= n:
            found.append(Range(run.tag, start % n, run.size))
        elif isinstance(run, Range):
            if n > 1:
                return None
            found.append(0)
            continue
        else:
            found.append(start % n)
        run = start // n
    return None if isinstance(run, Range) else found[::-1]


def _groups(shape: tuple[int, ...], into: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The runs of axes of two shapes that have the same elements."""
    i = j = 0
    while i < len(shape) or j < len(into):
        first, second = i, j
        if i < len(shape) and j < len(into) and shape[i] == into[j]:
            i, j = i + 1, j + 1
        elif i < len(shape) and shape[i] == 1:
            i += 1
        elif j < len(into) and into[j] == 1:
            j += 1
        else:
            while (a := math.prod(shape[first:i])) != (b := math.prod(into[second:j])) or a == 1:
                if a <= b:
                    i += 1
                else:
                    j += 1
        yield shape[first:i], into[second:j]
