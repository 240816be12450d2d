"""Recognises pooling and the picking of labels among JAX's windows, gathers and scatters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_mps.graph.capture import Atom, Constant, Equation
from jax_mps.graph.convert import NotConvertible
from jax_mps.graph.recognise_conv import Producers, Rewrite, forward_padding, inverse
from jax_mps.ops.pick import pick_gradient_op, pick_op
from jax_mps.ops.pool import avg_pool_gradient_op, avg_pool_op, max_pool_gradient_op, max_pool_taps_op


def _image_order(window: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The order of axes that makes the array NHWC: the pooled axes in the middle."""
    pooled = [i for i, (k, s) in enumerate(zip(window, strides, strict=True)) if k > 1 or s > 1]
    rank = len(window)
    if rank not in (3, 4):
        raise NotConvertible(f"a window over {rank} axes")
    spatial = list(range(1, rank - 1)) if 0 not in pooled and rank - 1 not in pooled else list(range(2, rank))
    if not set(pooled) <= set(spatial):
        raise NotConvertible("a window over the batch or the channels")
    rest = [i for i in range(rank) if i not in spatial]
    return (rest[0], *spatial, rest[1])


def _only(order: Sequence[int], values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(values[i] for i in order[1:-1])


def _geometry(params: dict[str, Any], x: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    window = tuple(map(int, params["window_dimensions"]))
    strides = tuple(map(int, params["window_strides"]))
    padding = tuple((int(low), int(high)) for low, high in params["padding"])
    order = _image_order(window, strides)
    if any(padding[i] != (0, 0) for i in (order[0], order[-1])):
        raise NotConvertible("padding of the batch or the channels")
    if any(d != 1 for d in params.get("base_dilation", ())):
        raise NotConvertible("a window over a dilated input")
    if x.aval.dtype not in (np.float32, jnp.bfloat16, np.float16):
        raise NotConvertible(f"a window over {x.aval.dtype}")
    geometry = {
        "window": _only(order, window),
        "strides": _only(order, strides),
        "padding": _only(order, padding),
    }
    return order, geometry


def max_window(equation: Equation, producers: Producers) -> Rewrite:
    """reduce_window_max."""
    (x,) = equation.operands
    order, geometry = _geometry(equation.params, x)
    geometry["dilation"] = _only(order, tuple(map(int, equation.params["window_dilation"])))

    def run(x: Any) -> Any:
        # With the taps, which the backward pass asks for too; simplify makes one of the two.
        y, _ = max_pool_taps_op(jnp.transpose(x, order), **geometry)
        return jnp.transpose(y, inverse(order))

    return run, [x]


def scatter_window(equation: Equation, producers: Producers) -> Rewrite:
    """select_and_scatter_add, the gradient of reduce_window_max."""
    dy, x = equation.operands
    order, geometry = _geometry(equation.params, x)
    if equation.params["select_prim"].name != "ge":
        raise NotConvertible("a scatter that does not select the maximum")
    geometry["dilation"] = (1,) * len(geometry["window"])

    def run(dy: Any, x: Any) -> Any:
        _, taps = max_pool_taps_op(jnp.transpose(x, order), **geometry)
        spatial = _only(order, x.shape)
        dx = max_pool_gradient_op(jnp.transpose(dy, order), taps, spatial=spatial, **geometry)
        return jnp.transpose(dx, inverse(order))

    return run, [dy, x]


def sum_window(equation: Equation, producers: Producers) -> Rewrite:
    """reduce_window_sum: an average that is not divided, or the gradient of one."""
    (x,) = equation.operands
    params = equation.params
    if any(d != 1 for d in params["window_dilation"]):
        raise NotConvertible("a sum over a dilated window")
    gradient = _sum_gradient(equation, producers)
    if gradient is not None:
        return gradient
    order, geometry = _geometry(params, x)

    def run(x: Any) -> Any:
        y = avg_pool_op(jnp.transpose(x, order), count_padding=True, total=True, **geometry)
        return jnp.transpose(y, inverse(order))

    return run, [x]


def _sum_gradient(equation: Equation, producers: Producers) -> Rewrite | None:
    (x,) = equation.operands
    params, pad = equation.params, producers.get(id(x))
    window = tuple(map(int, params["window_dimensions"]))
    if pad is None or pad.name != "pad" or any(s != 1 for s in params["window_strides"]):
        return None
    value, config = pad.operands[1], pad.params["padding_config"]
    zero = isinstance(value, Constant) and np.all(np.asarray(value.value) == 0)
    if not zero or any(p != (0, 0) for p in params["padding"]) or any(d != 1 for d in params["base_dilation"]):
        return None
    order = _image_order(window, [1 + int(c[2]) for c in config])
    if any(tuple(config[i]) != (0, 0, 0) for i in (order[0], order[-1])):
        return None
    dy = pad.operands[0]
    sizes, strides = _only(order, window), tuple(1 + int(c[2]) for c in _only(order, config))
    spatial, small = _only(order, equation.results[0].aval.shape), _only(order, dy.aval.shape)
    low = [k - 1 - int(c[0]) for k, c in zip(sizes, _only(order, config), strict=True)]
    padding = forward_padding(spatial, sizes, small, strides, (1,) * len(sizes), low)
    if any(p < 0 for pair in padding for p in pair):
        return None
    geometry = {"window": sizes, "strides": strides, "padding": padding, "count_padding": True, "total": True}

    def run(dy: Any) -> Any:
        dx = avg_pool_gradient_op(jnp.transpose(dy, order), spatial=spatial, **geometry)
        return jnp.transpose(dx, inverse(order))

    return run, [dy]


def _index(index: Any, mode: Any, classes: int) -> Any:
    index = index.reshape(index.shape[:-2])
    return jnp.clip(index, 0, classes - 1) if mode == lax.GatherScatterMode.CLIP else index


def gather(equation: Equation, producers: Producers) -> Rewrite:
    """take_along_axis of one element a row, or a column by a constant index."""
    x, index = equation.operands
    numbers, params, rank = equation.params["dimension_numbers"], equation.params, x.aval.ndim
    leading = tuple(range(rank - 1))
    if _is_one_index(index):
        start = np.asarray(index.value)
        sizes = tuple(params["slice_sizes"])
        inside = all(
            0 <= i <= x.aval.shape[axis] - sizes[axis] for i, axis in zip(start, numbers.start_index_map, strict=True)
        )
        if not inside:
            raise NotConvertible("a gather out of range")
        first = [0] * rank
        for i, axis in zip(start, numbers.start_index_map, strict=True):
            first[axis] = int(i)
        limit = [f + n for f, n in zip(first, sizes, strict=True)]
        shape = equation.results[0].aval.shape
        return (lambda x: lax.slice(x, first, limit).reshape(shape)), [x]
    _one_of_each_row(numbers.operand_batching_dims, numbers.collapsed_slice_dims, leading, index)
    shape, mode = equation.results[0].aval.shape, params["mode"]
    if x.aval.dtype != np.float32 or (mode == lax.GatherScatterMode.FILL_OR_DROP and not _fills_nan(params)):
        raise NotConvertible("a gather of another kind")

    def run(x: Any, index: Any) -> Any:
        return pick_op(x, _index(index, mode, x.shape[-1])).reshape(shape)

    return run, [x, index]


def scatter(equation: Equation, producers: Producers) -> Rewrite:
    """scatter-add into zeros of one element a row, or of a column by a constant index."""
    zeros, index, updates = equation.operands
    numbers, rank = equation.params["dimension_numbers"], zeros.aval.ndim
    shape = zeros.aval.shape
    if not _is_zero(zeros, producers):
        raise NotConvertible("a scatter into an array that is not zero")
    if _is_one_index(index):
        start = np.asarray(index.value)
        kept = [i for i in range(rank) if i not in numbers.inserted_window_dims]
        if len(kept) != updates.aval.ndim:
            raise NotConvertible("a scatter")
        sizes = [1] * rank
        for axis, n in zip(kept, updates.aval.shape, strict=True):
            sizes[axis] = n
        first = [0] * rank
        for i, axis in zip(start, numbers.scatter_dims_to_operand_dims, strict=True):
            first[axis] = int(i)
        config = [(f, n - f - k, 0) for f, n, k in zip(first, shape, sizes, strict=True)]
        if any(low < 0 or high < 0 for low, high, _ in config):
            raise NotConvertible("a scatter out of range")
        return (lambda u: lax.pad(u.reshape(sizes), jnp.zeros((), u.dtype), config)), [updates]
    _one_of_each_row(numbers.operand_batching_dims, numbers.inserted_window_dims, tuple(range(rank - 1)), index)
    mode = equation.params["mode"]
    if updates.aval.dtype != np.float32:
        raise NotConvertible("a scatter of another dtype")

    def run(index: Any, updates: Any) -> Any:
        index = _index(index, mode, shape[-1])
        return pick_gradient_op(updates.reshape(index.shape), index, classes=shape[-1])

    return run, [index, updates]


def _is_one_index(index: Atom) -> TypeGuard[Constant]:
    return isinstance(index, Constant) and index.aval.ndim == 1 and not isinstance(index.value, jax.core.Tracer)


def _one_of_each_row(batching: Any, collapsed: Any, leading: tuple[int, ...], index: Any) -> None:
    same = tuple(batching) == leading and tuple(collapsed) == (len(leading),)
    if not same or index.aval.dtype != np.int32 or index.aval.shape[len(leading) :] != (1, 1):
        raise NotConvertible("not one element of each row")


def _fills_nan(params: dict[str, Any]) -> bool:
    return params["fill_value"] is None or bool(np.isnan(params["fill_value"]))


def _is_zero(atom: Any, producers: Producers) -> bool:
    while not isinstance(atom, Constant):
        producer = producers.get(id(atom))
        if producer is None or producer.name not in ("broadcast_in_dim", "reshape"):
            return False
        atom = producer.operands[0]
    return not jax.dtypes.issubdtype(atom.aval.dtype, jax.dtypes.prng_key) and bool(np.all(np.asarray(atom.value) == 0))


RULES = {
    "reduce_window_max": max_window,
    "reduce_window_sum": sum_window,
    "select_and_scatter_add": scatter_window,
    "gather": gather,
    "scatter-add": scatter,
}
