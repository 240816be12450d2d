"""Recognises pooling and its gradients among JAX's windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_mps.compiler.equations.equation import Constant, Equation
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.compiler.recognise.conv import Producers, Rewrite, forward_padding, inverse
from jax_mps.ops import _crop
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


def _geometry(params: dict[str, Any], x: Any) -> tuple[tuple[int, ...], dict[str, Any], _crop.Pairs]:
    """The order of axes that makes x NHWC, the attributes of a pool, and what negative padding cuts away of x."""
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
    cut, pads = _crop.parts(_only(order, padding))
    if min(_crop.sizes(_only(order, x.aval.shape), cut)) < 1:
        raise NotConvertible("a window with negative padding that leaves nothing of its input")
    geometry = {"window": _only(order, window), "strides": _only(order, strides), "padding": pads}
    return order, geometry, cut


def max_window(equation: Equation, producers: Producers) -> Rewrite:
    """reduce_window_max."""
    (x,) = equation.operands
    order, geometry, cut = _geometry(equation.params, x)
    geometry["dilation"] = _only(order, tuple(map(int, equation.params["window_dilation"])))

    def run(x: Any) -> Any:
        # With the taps, which the backward pass asks for too; simplify makes one of the two.
        y, _ = max_pool_taps_op(_crop.crop(jnp.transpose(x, order), cut), **geometry)
        return jnp.transpose(y, inverse(order))

    return run, [x]


def scatter_window(equation: Equation, producers: Producers) -> Rewrite:
    """select_and_scatter_add, the gradient of reduce_window_max."""
    dy, x = equation.operands
    order, geometry, cut = _geometry(equation.params, x)
    if equation.params["select_prim"].name != "ge":
        raise NotConvertible("a scatter that does not select the maximum")
    geometry["dilation"] = (1,) * len(geometry["window"])

    def run(dy: Any, x: Any) -> Any:
        _, taps = max_pool_taps_op(_crop.crop(jnp.transpose(x, order), cut), **geometry)
        spatial = _crop.sizes(_only(order, x.shape), cut)
        dx = max_pool_gradient_op(jnp.transpose(dy, order), taps, spatial=spatial, **geometry)
        return jnp.transpose(_crop.uncrop(dx, cut), inverse(order))

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
    order, geometry, cut = _geometry(params, x)

    def run(x: Any) -> Any:
        y = avg_pool_op(_crop.crop(jnp.transpose(x, order), cut), count_padding=True, total=True, **geometry)
        return jnp.transpose(y, inverse(order))

    return run, [x]


def _sum_gradient(equation: Equation, producers: Producers) -> Rewrite | None:
    (x,) = equation.operands
    params, pad = equation.params, producers.get(x)
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


RULES = {
    "reduce_window_max": max_window,
    "reduce_window_sum": sum_window,
    "select_and_scatter_add": scatter_window,
}
