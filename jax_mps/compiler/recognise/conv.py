"""Recognises convolutions and their two gradients, in every order of axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_mps.compiler.equations.equation import Atom, Equation
from jax_mps.compiler.lower.rules import NotConvertible
from jax_mps.ops import _crop
from jax_mps.ops._number import precision_attribute
from jax_mps.ops.conv import convolution as conv
from jax_mps.ops.conv import data_gradient, weight_gradient

Producers = Mapping[Atom, Equation]  # of each result
Rewrite = tuple[Callable[..., Any], list[Atom]]  # JAX code, and what it is applied to


def convolution(equation: Equation, producers: Producers) -> Rewrite:
    """conv_general_dilated: a convolution, or the data or weight gradient of one."""
    p = equation.params
    lhs, rhs = equation.operands
    spec, rank = p["dimension_numbers"], lhs.aval.ndim - 2
    if rank not in (1, 2):
        raise NotConvertible(f"a convolution of {rank} spatial axes")
    if lhs.aval.dtype != rhs.aval.dtype or equation.results[0].aval.dtype != lhs.aval.dtype:
        raise NotConvertible("a convolution of mixed dtypes")
    padding = tuple((int(low), int(high)) for low, high in p["padding"])
    strides, lhs_dilation, rhs_dilation = (
        tuple(map(int, p[k])) for k in ("window_strides", "lhs_dilation", "rhs_dilation")
    )
    groups, batch_groups = int(p["feature_group_count"]), int(p["batch_group_count"])
    out_order = inverse((spec.out_spec[0], *spec.out_spec[2:], spec.out_spec[1]))
    image = (spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1])  # NHWC
    filters = (*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0])  # HWIO
    out_spatial = tuple(equation.results[0].aval.shape[i] for i in spec.out_spec[2:])
    window = tuple(rhs.aval.shape[i] for i in spec.rhs_spec[2:])
    ones = (1,) * rank
    precision = precision_attribute(p["precision"])

    reversed_from = _reversed(rhs, spec.rhs_spec[2:], producers)
    rotated = reversed_from is not None and reversed_from is not rhs
    if batch_groups == 1 and strides == ones and (rotated or lhs_dilation != ones):
        if reversed_from is None:
            raise NotConvertible("a dilated input with weights that are not rotated")
        return _data_gradient(
            reversed_from, lhs, padding, lhs_dilation, rhs_dilation, groups, spec, out_spatial, precision
        )
    if lhs_dilation != ones:
        raise NotConvertible("a dilated input with strides")
    larger = math.prod(window) - math.prod(out_spatial)
    cropped = any(low < 0 or high < 0 for low, high in padding)
    if groups == 1 and (batch_groups > 1 or larger > 0 or (larger == 0 and cropped)):
        # The roles as the weight gradient has them: images are contracted over, channels are the batch.
        image = (spec.lhs_spec[1], *spec.lhs_spec[2:], spec.lhs_spec[0])
        cotangent = (spec.rhs_spec[1], *spec.rhs_spec[2:], spec.rhs_spec[0])
        out_order = inverse((*spec.out_spec[2:], spec.out_spec[0], spec.out_spec[1]))
        sizes = tuple(lhs.aval.shape[i] for i in image[1:-1])
        pads = forward_padding(sizes, out_spatial, window, rhs_dilation, strides, [low for low, _ in padding])
        _leaves_some(sizes, pads)

        def transposed(x: Any, dy: Any) -> Any:
            dw = weight_gradient(
                jnp.transpose(x, image),
                jnp.transpose(dy, cotangent),
                window=out_spatial,
                strides=rhs_dilation,
                padding=pads,
                dilation=strides,
                groups=batch_groups,
                accumulator="float",
                **precision,
            )
            return jnp.transpose(dw, out_order)

        return transposed, [lhs, rhs]
    if batch_groups != 1:
        raise NotConvertible("a convolution with batch groups that is no weight gradient")
    _leaves_some([lhs.aval.shape[i] for i in spec.lhs_spec[2:]], padding)

    def forward(x: Any, w: Any) -> Any:
        y = conv(
            jnp.transpose(x, image),
            jnp.transpose(w, filters),
            neuron=None,
            strides=strides,
            padding=padding,
            dilation=rhs_dilation,
            groups=groups,
            accumulator="float",
            **precision,
        )
        return jnp.transpose(y, out_order)

    return forward, [lhs, rhs]


def _data_gradient(
    w: Atom,
    dy: Atom,
    padding: Any,
    strides: Any,
    dilation: Any,
    groups: int,
    spec: Any,
    spatial: Any,
    precision: dict[str, str],
) -> Rewrite:
    image = (spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1])
    out_order = inverse((spec.out_spec[0], *spec.out_spec[2:], spec.out_spec[1]))
    # As the forward convolution has them, the filters' "out" axis is this one's in, [groups x] this one's out its in.
    filters = (*spec.rhs_spec[2:], spec.rhs_spec[0], spec.rhs_spec[1])
    window = tuple(w.aval.shape[i] for i in filters[:-2])
    dilated = tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))
    low = [k - 1 - lo for k, (lo, _) in zip(dilated, padding, strict=True)]
    small = tuple(dy.aval.shape[i] for i in image[1:-1])
    pads = forward_padding(spatial, window, small, strides, dilation, low)
    _leaves_some(spatial, pads)

    def run(dy: Any, w: Any) -> Any:
        w = jnp.transpose(w, filters)
        if groups > 1:  # [..., groups * in, out/groups] -> [..., in, groups * out/groups]
            *sizes, grouped, out = w.shape
            w = w.reshape(*sizes, groups, grouped // groups, out)
            w = jnp.moveaxis(w, -3, -2).reshape(*sizes, grouped // groups, groups * out)
        dx = data_gradient(
            jnp.transpose(dy, image),
            w,
            spatial=spatial,
            strides=strides,
            padding=pads,
            dilation=dilation,
            groups=groups,
            accumulator="float",
            **precision,
        )
        return jnp.transpose(dx, out_order)

    return run, [dy, w]


def forward_padding(
    sizes: Sequence[int],
    window: Sequence[int],
    out: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    low: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """The padding of the convolution `sizes` -> `out` with this low part; the high part is the least from zero on."""
    pairs = []
    for n, k, m, s, d, lo in zip(sizes, window, out, strides, dilation, low, strict=True):
        least = (m - 1) * s + (k - 1) * d + 1 - n - lo
        pairs.append((int(lo), int(min(max(least, 0), least + s - 1))))
    return tuple(pairs)


def _leaves_some(spatial: Sequence[int], padding: _crop.Pairs) -> None:
    if min(_crop.sizes(spatial, _crop.parts(padding)[0])) < 1:
        raise NotConvertible("a convolution with negative padding that leaves nothing of its input")


def _reversed(rhs: Atom, spatial: Sequence[int], producers: Producers) -> Atom | None:
    """What `rhs` is the rotation of, if it is one over all its spatial axes (or has none longer than 1)."""
    producer = producers.get(rhs)
    if producer is not None and producer.name == "rev" and set(producer.params["dimensions"]) == set(spatial):
        return producer.operands[0]
    return rhs if all(rhs.aval.shape[i] == 1 for i in spatial) else None


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes one."""
    return tuple(int(i) for i in np.argsort(order))
