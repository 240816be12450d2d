"""Recognises the picking of one element of each row, and slices at constant places, among JAX's gathers and scatters.

::

    take_along_axis(x, index[:, None], -1)       vmap(lambda row, i: row[i])(x, index)       x[arange(n), index]

are one gather in three forms: each element of the result comes from a row of its own, named by an axis that both have
(a batching axis) or by a column of the indices that counts the rows; the last column is the place in the row. Their
gradient is a scatter-add into zeros with the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_mps.compiler.equations.equation import Atom, Constant, Equation
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise.conv import Producers, Rewrite, inverse
from jax_mps.ops.label_gather import pick_gradient_op, pick_op

_ROWS = "mps.graph takes one element of each row, by an int32 index"


def gather(equation: Equation, producers: Producers) -> Rewrite:
    """One element of each row by an index, or a slice at a constant place."""
    x, index = equation.operands
    numbers, params, rank = equation.params["dimension_numbers"], equation.params, x.aval.ndim
    shape, mode, sizes = equation.results[0].aval.shape, params["mode"], tuple(params["slice_sizes"])
    if _is_one_index(index):
        start = np.asarray(index.value)
        inside = all(
            0 <= i <= x.aval.shape[axis] - sizes[axis] for i, axis in zip(start, numbers.start_index_map, strict=True)
        )
        if not inside:
            raise NotConvertible("a gather at a constant place that is out of range")
        first = [0] * rank
        for i, axis in zip(start, numbers.start_index_map, strict=True):
            first[axis] = int(i)
        limit = [f + n for f, n in zip(first, sizes, strict=True)]
        return (lambda x: lax.slice(x, first, limit).reshape(shape)), [x]
    if any(n != 1 for n in sizes):
        raise NotConvertible(f"a gather of slices {sizes}: {_ROWS}")
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    rows = _rows(x, index, batching, numbers.start_index_map, producers)
    if x.aval.dtype != np.float32:
        raise NotConvertible(f"a gather of {x.aval.dtype}: {_ROWS}, of float32")
    fills = mode == lax.GatherScatterMode.FILL_OR_DROP
    if fills and not (params["fill_value"] is None or np.isnan(params["fill_value"])):
        raise NotConvertible("a gather that fills with a number: mps.graph has NaN for an index out of range")

    def run(x: Any, index: Any) -> Any:
        place = _column(index, rows)
        place = place if fills else jnp.clip(place, 0, rows.classes - 1)
        return pick_op(jnp.transpose(x, rows.order).reshape(*rows.shape, rows.classes), place).reshape(shape)

    return run, [x, rows.index]


def scatter(equation: Equation, producers: Producers) -> Rewrite:
    """scatter-add into zeros of one element a row, or of a slice at a constant place."""
    zeros, index, updates = equation.operands
    numbers, shape = equation.params["dimension_numbers"], zeros.aval.shape
    if not _is_zero(zeros, producers):
        raise NotConvertible("a scatter-add into an array that is not zero: add it after a scatter-add into zeros")
    if _is_one_index(index):
        return _slice_gradient(np.asarray(index.value), numbers, shape, updates.aval.shape), [updates]
    batching = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    rows = _rows(zeros, index, batching, numbers.scatter_dims_to_operand_dims, producers)
    if updates.aval.size != math.prod(rows.shape):
        raise NotConvertible(f"a scatter-add of slices: {_ROWS}")
    if updates.aval.dtype != np.float32:
        raise NotConvertible(f"a scatter-add of {updates.aval.dtype}: {_ROWS}, of float32")
    clips = equation.params["mode"] == lax.GatherScatterMode.CLIP

    def run(index: Any, updates: Any) -> Any:
        place = _column(index, rows)
        place = jnp.clip(place, 0, rows.classes - 1) if clips else place  # else what is out of range is dropped
        dx = pick_gradient_op(updates.reshape(rows.shape), place, classes=rows.classes)
        return jnp.transpose(dx.reshape([shape[a] for a in rows.order]), inverse(rows.order))

    return run, [rows.index, updates]


def _slice_gradient(start: np.ndarray, numbers: Any, shape: Sequence[int], updates: Sequence[int]) -> Any:
    kept = [i for i in range(len(shape)) if i not in numbers.inserted_window_dims]
    if len(kept) != len(updates):
        raise NotConvertible("a scatter-add at a constant place with axes that are batched")
    sizes = [1] * len(shape)
    for axis, n in zip(kept, updates, strict=True):
        sizes[axis] = n
    first = [0] * len(shape)
    for i, axis in zip(start, numbers.scatter_dims_to_operand_dims, strict=True):
        first[axis] = int(i)
    config = [(f, n - f - k, 0) for f, n, k in zip(first, shape, sizes, strict=True)]
    if any(low < 0 or high < 0 for low, high, _ in config):
        raise NotConvertible("a scatter-add at a constant place that is out of range")
    return lambda u: lax.pad(u.reshape(sizes), jnp.zeros((), u.dtype), config)


@dataclass
class _Rows:
    """Where a gather finds its rows: the operand's axes in `order` are those of the rows, then the place in a row."""

    order: tuple[int, ...]
    shape: tuple[int, ...]  # of the rows
    classes: int
    index: Atom  # whose column `column` of the last axis is the place in a row
    column: int


def _rows(x: Atom, index: Atom, batching: dict[int, int], mapped: Sequence[int], producers: Producers) -> _Rows:
    """NotConvertible unless each index names an element of a row of its own."""
    if index.aval.dtype != np.int32:
        raise NotConvertible(f"an index of {index.aval.dtype}: {_ROWS}")
    shape = index.aval.shape[:-1]
    row_of = {axis: operand for operand, axis in batching.items()}  # by an axis of the indices, the operand's axis
    picked: list[int] = []  # columns that do not count
    for column, operand in enumerate(mapped):
        counted = next(
            (
                axis
                for axis, n in enumerate(shape)
                if axis not in row_of and n == x.aval.shape[operand] and _counts(index, column, axis, producers)
            ),
            None,
        )
        if counted is None:
            picked.append(column)
        else:
            row_of[counted] = operand
    if len(picked) != 1 or any(n != 1 and axis not in row_of for axis, n in enumerate(shape)):
        raise NotConvertible(f"a gather or scatter of any places: {_ROWS}")
    place = mapped[picked[0]]
    rest = [a for a in range(x.aval.ndim) if a != place and a not in row_of.values()]
    if any(x.aval.shape[a] != 1 for a in rest):
        raise NotConvertible(f"a gather or scatter of whole axes: {_ROWS}")
    order = (*rest, *(row_of[a] for a in sorted(row_of)), place)
    pieces = _pieces(index, producers)
    alone = pieces is not None and len(pieces) == len(mapped)
    found = (pieces[picked[0]], 0) if alone and pieces is not None else (index, picked[0])
    return _Rows(order, tuple(shape[a] for a in sorted(row_of)), x.aval.shape[place], *found)


def _column(index: Any, rows: _Rows) -> Any:
    alone = index.shape[-1] == 1
    return (index if alone else lax.index_in_dim(index, rows.column, -1)).reshape(rows.shape)


def _pieces(index: Atom, producers: Producers) -> Sequence[Atom] | None:
    """The columns of one number that the indices are a concatenation of, if they are."""
    producer = producers.get(index)
    if producer is None or producer.name != "concatenate" or producer.params["dimension"] != index.aval.ndim - 1:
        return None
    return producer.operands if all(o.aval.shape[-1] == 1 for o in producer.operands) else None


def _counts(index: Atom, column: int, axis: int, producers: Producers) -> bool:
    """Whether a column of the indices is its own place along `axis`."""
    if isinstance(index, Constant):
        return not isinstance(index.value, jax.core.Tracer) and _is_ramp(np.asarray(index.value)[..., column], axis)
    pieces = _pieces(index, producers)
    atom = pieces[column] if pieces is not None else index
    return atom.aval.shape[-1] == 1 and _is_place(atom, axis, producers)


def _is_ramp(values: np.ndarray, axis: int) -> bool:
    places = np.arange(values.shape[axis]).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    return bool(np.all(values == places))


def _is_place(atom: Any, axis: int, producers: Producers) -> bool:
    """Whether each element of `atom` is its place along `axis`."""
    if isinstance(atom, Constant):
        return not isinstance(atom.value, jax.core.Tracer) and _is_ramp(np.asarray(atom.value), axis)
    equation = producers.get(atom)
    if equation is None:
        return False
    if equation.name == "iota":
        return bool(equation.params["dimension"] == axis)
    first: Any = equation.operands[0] if equation.operands else None
    match equation.name:
        case "broadcast_in_dim":
            axes = list(equation.params["broadcast_dimensions"])
            whole = axis in axes and first.aval.shape[axes.index(axis)] == atom.aval.shape[axis]
            return whole and _is_place(first, axes.index(axis), producers)
        case "reshape" | "squeeze" | "expand_dims":  # axes of size 1 come and go
            before, after = ([n for n in a.aval.shape if n != 1] for a in (first, atom))
            if before != after or atom.aval.shape[axis] == 1:
                return False
            rank = sum(n != 1 for n in atom.aval.shape[:axis])
            place = [a for a, n in enumerate(first.aval.shape) if n != 1][rank]
            return _is_place(first, place, producers)
        case "convert_element_type":
            return bool(np.issubdtype(atom.aval.dtype, np.integer)) and _is_place(first, axis, producers)
        case "select_n":  # of a place, which is not negative: where(i < 0, i + n, i)
            return _is_never(first, producers) and _is_place(equation.operands[1], axis, producers)
    return False


def _is_never(atom: Any, producers: Producers) -> bool:
    """Whether a condition is false everywhere: a constant, or that a place is negative."""
    if isinstance(atom, Constant):
        return _is_number(atom, 0)
    equation = producers.get(atom)
    if equation is None or equation.name != "lt" or not _is_number(equation.operands[1], 0):
        return False
    place = equation.operands[0]
    return any(_is_place(place, axis, producers) for axis in range(place.aval.ndim))


def _is_number(atom: Atom, number: int) -> bool:
    if not isinstance(atom, Constant) or isinstance(atom.value, jax.core.Tracer):
        return False
    return bool(np.all(np.asarray(atom.value) == number))


def _is_one_index(index: Atom) -> TypeGuard[Constant]:
    return isinstance(index, Constant) and index.aval.ndim == 1 and not isinstance(index.value, jax.core.Tracer)


def _is_zero(atom: Any, producers: Producers) -> bool:
    while not isinstance(atom, Constant):
        producer = producers.get(atom)
        if producer is None or producer.name not in ("broadcast_in_dim", "reshape"):
            return False
        atom = producer.operands[0]
    return not jax.dtypes.issubdtype(atom.aval.dtype, jax.dtypes.prng_key) and bool(np.all(np.asarray(atom.value) == 0))


RULES = {"gather": gather, "scatter-add": scatter}
