"""The table of ops: one row buys every test of test_ops.py.

An operand is a shape (standard normal numbers), or a function of a seeded generator that makes it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import jax_mps as mps


@dataclass(eq=False)
class Case:
    """One configuration of one op."""

    name: str  # "op: what is particular"
    function: Callable[..., Any]
    operands: list[Any]
    batched: tuple[int, ...] = (0,)  # operands that vmap maps over, and whose leading axis is the batch
    kernels: tuple[str, ...] = ()  # ops that must run in a native kernel, forward or backward
    tolerance: float = 2e-5  # float32, relative to the largest element
    half: bool = True  # also in float16 and bfloat16
    order: int = 2  # of the derivatives checked by finite differences in float64; 0 where they cannot be

    def __str__(self) -> str:
        return self.name


def positive(*shape: int) -> Callable[..., Any]:
    return lambda rng: rng.uniform(0.5, 2.0, shape)


def _conv(
    name: str, x: tuple[int, ...], w: tuple[int, ...], bias: bool = False, order: int = 2, **options: Any
) -> Case:
    operands = [x, w, (w[-1],)] if bias else [x, w]
    kernels = ("conv", "conv_data_gradient", "conv_weight_gradient") + (("bias_gradient",) if bias else ())
    return Case(f"conv: {name}", lambda *a: mps.conv(*a, **options), operands, kernels=kernels, order=order)


CONV = [
    _conv("3x3", (2, 7, 6, 3), (3, 3, 3, 5)),
    _conv("bias and relu", (2, 7, 6, 3), (3, 3, 3, 5), bias=True, neuron="relu"),
    _conv("bias and leaky relu", (2, 5, 5, 3), (3, 3, 3, 4), bias=True, neuron=("leaky_relu", 0.1)),
    _conv("gelu", (2, 5, 5, 3), (3, 3, 3, 4), neuron="gelu"),
    _conv("tanh, bias", (1, 4, 5, 3), (2, 2, 3, 4), bias=True, neuron=("tanh", 1.5, 0.5)),
    _conv("even window, valid", (1, 8, 9, 4), (2, 4, 4, 6), padding="VALID"),
    _conv("strides 2, odd size", (3, 9, 7, 2), (3, 3, 2, 4), strides=2),
    _conv("strides 3 x 2, valid", (2, 10, 11, 2), (3, 2, 2, 3), strides=(3, 2), padding="VALID"),
    _conv("dilation 2", (2, 9, 9, 3), (3, 3, 3, 4), dilation=2),
    _conv("dilation 1 x 3, strides 2", (1, 9, 12, 2), (3, 3, 2, 3), dilation=(1, 3), strides=2),
    _conv("explicit padding", (2, 6, 6, 3), (3, 3, 3, 4), padding=((2, 0), (1, 3))),
    _conv("padding above the window", (1, 3, 3, 2), (2, 2, 2, 2), padding=((3, 2), (2, 3))),
    _conv("1x1", (2, 5, 5, 8), (1, 1, 8, 16)),
    _conv("1x1, strides 2", (2, 9, 8, 11), (1, 1, 11, 13), strides=2),
    _conv(
        "1x1, strides 2 x 3, groups, padding",
        (2, 7, 8, 6),
        (1, 1, 3, 4),
        groups=2,
        strides=(2, 3),
        padding=((1, 0), (0, 2)),
    ),
    _conv("groups 2", (3, 6, 6, 4), (3, 3, 2, 6), groups=2),
    _conv("groups 3, strides 2", (2, 7, 7, 6), (3, 3, 2, 9), groups=3, strides=2),
    _conv("depthwise", (2, 6, 7, 8), (3, 3, 1, 8), groups=8),
    _conv("depthwise, dilation 2", (2, 9, 8, 16), (3, 3, 1, 16), groups=16, dilation=2),
    _conv("depthwise, multiplier 2, bias", (2, 6, 6, 4), (3, 3, 1, 8), bias=True, groups=4),
    _conv("window as large as the image", (2, 5, 5, 3), (5, 5, 3, 4), padding="VALID"),
    _conv("1-D", (2, 12, 3), (4, 3, 5)),
    _conv("1-D, stride as the window, bias, relu", (2, 40, 6), (10, 6, 8), bias=True, strides=10, neuron="relu"),
    _conv("1-D, one tap, strides 3", (3, 20, 5), (1, 5, 14), strides=3),
    _conv("1-D, groups and dilation", (3, 11, 4), (3, 2, 4), groups=2, dilation=2),
]


def _filtered(name: str, x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> Case:
    """Weights as small as layers start with, so that the errors are those of a layer."""
    case = _conv(name, x, w, order=0, **options)
    case.operands[1] = lambda rng: rng.standard_normal(w) / math.sqrt(math.prod(w[:-1]))
    return case


# Large enough for minimal filtering: tiles of 4x4 and 2x2, cut at the edges.
FILTERING = [
    _filtered("large 3x3, bias and relu", (2, 21, 18, 16), (3, 3, 16, 48), bias=True, neuron="relu"),
    _filtered("large 3x3, padding", (3, 16, 13, 48), (3, 3, 48, 16), padding=((4, 0), (0, 3))),
    _filtered("large 3x3, valid, leaky relu", (1, 24, 27, 32), (3, 3, 32, 32), padding="VALID", neuron="leaky_relu"),
    _filtered("large 5x5, bias and tanh", (2, 15, 14, 32), (5, 5, 32, 16), bias=True, neuron="tanh"),
    _filtered("large 5x5, padding", (1, 20, 19, 16), (5, 5, 16, 48), padding=((0, 5), (6, 1))),
]


def _transpose(name: str, x: tuple[int, ...], w: tuple[int, ...], bias: bool = False, **options: Any) -> Case:
    operands = [x, w, (w[-1],)] if bias else [x, w]
    return Case(f"conv_transpose: {name}", lambda *a: mps.conv_transpose(*a, **options), operands)


TRANSPOSE = [
    _transpose("strides 2", (2, 4, 5, 3), (3, 3, 3, 4), strides=2),
    _transpose("valid, bias, relu", (2, 4, 4, 3), (3, 3, 3, 4), bias=True, strides=2, padding="VALID", neuron="relu"),
    _transpose("groups 2", (1, 4, 4, 4), (3, 3, 2, 6), strides=2, groups=2),
    _transpose("1-D, strides 3", (2, 5, 3), (4, 3, 2), strides=3),
]

_MATRIX = ("dense", "dense_data_gradient", "dense_weight_gradient")
DENSE = [
    Case("dense", mps.dense, [(7, 5), (5, 3)], kernels=_MATRIX),
    Case("dense: bias and relu", lambda *a: mps.dense(*a, neuron="relu"), [(4, 9), (9, 6), (6,)], kernels=_MATRIX),
    Case("dense: bias and elu", lambda *a: mps.dense(*a, neuron="elu"), [(3, 5), (5, 4), (4,)], kernels=_MATRIX),
    Case("dense: three axes", mps.dense, [(2, 3, 5), (5, 4), (4,)], kernels=_MATRIX),
    Case("dense: one row, one column", mps.dense, [(1, 6), (6, 1)], kernels=_MATRIX),
]


def _neuron(name: str, operand: Any = (3, 4, 5), *parameters: float, order: int = 2) -> Case:
    kernels = ("neuron", "neuron_gradient")
    function = lambda x: mps.neuron(x, name, *parameters)  # noqa: E731
    return Case(f"neuron: {name} {parameters}", function, [operand], kernels=kernels, order=order)


NEURON = [
    _neuron("none"),
    _neuron("relu"),
    _neuron("relu", (3, 4, 5), 0.2),
    _neuron("leaky_relu"),
    _neuron("linear", (3, 4, 5), 1.5, -0.5),
    _neuron("sigmoid"),
    _neuron("hard_sigmoid"),
    _neuron("tanh"),
    _neuron("tanh", (3, 4, 5), 1.7, 0.6),
    _neuron("absolute"),
    _neuron("softplus"),
    _neuron("softplus", (3, 4, 5), 0.5, 2.0),
    _neuron("softsign"),
    _neuron("elu"),
    _neuron("elu", (3, 4, 5), 0.3),
    _neuron("relun"),
    _neuron("relun", (3, 4, 5), 0.1, 0.5),
    _neuron("power", positive(3, 4, 5), 1.5, 0.5, 1.7),
    _neuron("power", (3, 4, 5), 1.0, 0.0, 3.0),
    _neuron("exponential"),
    _neuron("exponential", (3, 4, 5), 0.5, 0.1, 2.0),
    _neuron("logarithm", positive(3, 4, 5)),
    _neuron("logarithm", positive(3, 4, 5), 2.0, 0.5, 10.0),
    _neuron("gelu"),
    Case("prelu", mps.prelu, [(2, 3, 4, 5), (5,)], kernels=("prelu", "prelu_gradient")),
    Case("prelu: one row of 300 channels", mps.prelu, [(1, 300), (300,)], kernels=("prelu", "prelu_gradient")),
]


def distinct(batch: int, *image: int) -> Callable[..., Any]:
    """Images without ties, in numbers that half precision holds exactly: their maxima stay in place."""
    *sizes, channels = image
    pixels = math.prod(sizes)

    def make(rng: Any) -> Any:
        order = rng.permuted(np.tile(np.arange(pixels), (batch, channels, 1)), axis=2)
        return np.moveaxis(order, 1, 2).reshape(batch, *sizes, channels) / 64 - pixels // 2 / 64

    return make


def _pool(name: str, kind: str, x: Any, window: Any, **options: Any) -> Case:
    x = distinct(*x) if kind == "max" else x
    function = getattr(mps, f"{kind}_pool")
    forward = ("max_pool", "max_pool_taps") if kind == "max" else (f"{kind}_pool",)
    case_of = lambda x: function(x, window, **options)  # noqa: E731
    return Case(f"{kind}_pool: {name}", case_of, [x], kernels=(forward[-1], f"{kind}_pool_gradient"))


POOL = [
    _pool("2x2", "max", (2, 6, 8, 3), 2),
    _pool("3x3, strides 2, odd size, 64 channels", "max", (1, 7, 9, 64), 3, strides=2),
    _pool("3x3, strides 1, same, 20 channels", "max", (2, 5, 6, 20), 3, strides=1, padding="SAME"),
    _pool("strides above the window, one channel", "max", (1, 8, 9, 1), 2, strides=3),
    _pool("3x2, strides 2x1, explicit padding", "max", (2, 6, 5, 5), (3, 2), strides=(2, 1), padding=((2, 1), (0, 1))),
    _pool("dilation 2x3, same", "max", (1, 9, 10, 4), (3, 2), strides=1, padding="SAME", dilation=(2, 3)),
    _pool("negative padding", "max", (2, 7, 8, 2), 2, padding=((-1, 0), (1, -2))),
    _pool("the whole image, above 256 taps", "max", (2, 17, 18, 5), (17, 18)),
    _pool("1-D", "max", (2, 11, 9), 4, strides=2),
    _pool("1-D, dilation", "max", (3, 12, 1), 3, strides=2, dilation=2),
    _pool("2x2", "avg", (2, 6, 8, 3), 2),
    _pool("3x3, strides 2, same, 20 channels", "avg", (2, 6, 7, 20), 3, strides=2, padding="SAME"),
    _pool("counting padding", "avg", (2, 6, 7, 8), 3, strides=1, padding="SAME", count_padding=True),
    _pool("explicit padding above the window", "avg", (1, 4, 5, 2), (2, 3), padding=((2, 2), (0, 3))),
    _pool("the whole image", "avg", (2, 7, 7, 33), 7),
    _pool("strides above the window", "avg", (1, 8, 9, 1), 2, strides=3),
    _pool("1-D, same", "avg", (2, 11, 5), 4, strides=3, padding="SAME"),
    _pool("2x2", "l2", (2, 6, 8, 3), 2),
    _pool("3x3, strides 2, same, 18 channels", "l2", (1, 7, 6, 18), 3, strides=2, padding="SAME"),
    _pool("1-D, overlapping", "l2", (2, 9, 4), 3, strides=1),
]


def _dropout(name: str, x: tuple[int, ...], keep: float, **options: Any) -> Case:
    key = lambda rng: rng.integers(0, 2**32, 2, np.uint32)  # noqa: E731
    function = lambda x, key: mps.dropout(x, key, keep_probability=keep, **options)  # noqa: E731
    return Case(f"dropout: {name}", function, [x, key], kernels=("dropout",))


DROPOUT = [
    _dropout("0.5", (3, 4, 5), 0.5),
    _dropout("0.9 of a row", (1, 2000), 0.9),
    _dropout("one mask for all rows", (4, 6, 5), 0.7, broadcast_axes=1),
    _dropout("per channel", (2, 3, 3, 4), 0.4, broadcast_axes=(1, 2)),
    _dropout("per row", (5, 7), 0.6, broadcast_axes=-1),
]


def _norm(name: str, x: tuple[int, ...], *, inference: bool = False, order: int = 2, **options: Any) -> Case:
    op = "batch_norm_inference" if inference else "batch_norm"
    channels = x[-1:]
    operands = [x, channels, positive(*channels)] if inference else [x]
    kernels = (op, f"{op}_gradient")
    options = {"epsilon": 1e-3, **options}
    function = lambda *a: getattr(mps, op)(*a, **options)  # noqa: E731
    return Case(f"{op}: {name}", function, [*operands, positive(*channels), channels], kernels=kernels, order=order)


NORM = [
    _norm("two axes", (6, 5)),
    _norm("images, relu", (3, 5, 4, 7), neuron="relu"),
    _norm("leaky relu", (4, 6, 3), neuron=("leaky_relu", 0.2)),
    _norm("relu of slope -0.5", (4, 6, 3), neuron=("relu", -0.5)),
    _norm("elu", (4, 6, 3), neuron="elu"),
    _norm("one channel", (5, 9, 8, 1)),
    _norm("many rows, three channels", (700, 9, 3), neuron="relu", order=0),
    _norm("many rows, 64 channels", (600, 64), neuron="relu", order=0),
    _norm("many channels", (9, 1300)),
    _norm("images, relu", (3, 5, 4, 7), inference=True, neuron="relu"),
    _norm("two axes", (6, 5), inference=True),
    _norm("tanh", (4, 6, 3), inference=True, neuron="tanh"),
    _norm("many rows, three channels", (700, 9, 3), inference=True, neuron=("relu", 0.1), order=0),
    _norm("many channels", (9, 1300), inference=True),
]


def _softmax(name: str, operand: Any, **options: Any) -> list[Case]:
    ops = {"softmax": mps.softmax, "log_softmax": mps.log_softmax}
    return [
        Case(f"{op}: {name}", functools.partial(f, **options), [operand], kernels=(op, f"{op}_gradient"))
        for op, f in ops.items()
    ]


SOFTMAX = [
    *_softmax("rows of 10", (3, 4, 10)),
    *_softmax("one class", (5, 1)),
    *_softmax("rows of 1000", (3, 1000)),
    *_softmax("rows of 2500", (2, 2500)),
    *_softmax("300 rows of 9", (300, 9)),
    *_softmax("axis 1", (3, 7, 2), axis=1),
]


def classes(below: int, *shape: int) -> Callable[..., Any]:
    return lambda rng: rng.integers(0, below, shape).astype(np.int32)


def shares(*shape: int) -> Callable[..., Any]:
    return lambda rng: rng.uniform(0.5, 2.0, shape) / shape[-1]  # does not add up to 1


def _loss(name: str, logits: tuple[int, ...], labels: Any, *weight: Any, **options: Any) -> Case:
    def function(logits: Any, labels: Any, weight: Any = None) -> Any:
        return mps.losses.softmax_cross_entropy(logits, labels, weight=weight, **{"reduction": "none", **options})

    op = "softmax_cross_entropy"
    batched = tuple(range(2 + len(weight)))
    return Case(f"{op}: {name}", function, [logits, labels, *weight], batched, kernels=(op, f"{op}_gradient"))


LOSS = [
    _loss("classes", (6, 10), classes(10, 6)),
    _loss("classes, smoothing", (6, 10), classes(10, 6), label_smoothing=0.1),
    _loss("classes, smoothing 1", (6, 40), classes(40, 6), label_smoothing=1.0),
    _loss("3000 classes, smoothing", (2, 3000), classes(3000, 2), label_smoothing=0.2),
    _loss("300 rows", (2, 150, 5), classes(5, 2, 150)),
    _loss("weights", (6, 70), classes(70, 6), positive(6)),
    _loss("dense labels", (4, 3, 6), shares(4, 3, 6)),
    _loss("dense labels of 1100 classes, smoothing", (3, 1100), shares(3, 1100), label_smoothing=0.1),
    _loss("dense labels, weights", (5, 40), (5, 40), positive(5)),
]


def _recurrent(
    name: str,
    cell: str,
    x: tuple[int, int, int],
    units: int,
    *,
    states: bool = False,
    lengths: bool = False,
    extra: str = "",
    native: bool = True,
    **options: Any,
) -> Case:
    batch, steps, features = x
    width = {"lstm": 4, "gru": 3, "mgu": 2, "rnn": 1}[cell] * units
    operands: dict[str, Any] = {"x": x}
    if states:
        operands |= {f"{n}0": (batch, units) for n in ("hc" if cell == "lstm" else "h")}
    if lengths:
        operands["lengths"] = lambda rng: rng.integers(0, steps + 1, batch).astype(np.int32)
    batched = tuple(range(len(operands)))
    operands |= {"w": scaled(0.7, features, width), "r": scaled(1 / units**0.5, units, width), "b": (width,)}
    if extra:
        shapes: dict[str, Any] = {"peephole": (3, units), "recurrent_bias": (units,)}
        shapes |= {"peephole matrices": scaled(0.5 / units**0.5, 3, units, units)}
        shapes |= {"memory": scaled(1 / units**0.5, units, units)}
        operands[extra.split()[0]] = shapes[extra]

    def function(*values: Any) -> Any:
        y, last = getattr(mps, cell)(**dict(zip(operands, values, strict=True)), **options)
        return (y, *last) if cell == "lstm" else (y, last)

    kernels = (f"{cell}_training", f"{cell}_gradient") if native else ()
    order = 2 if name == "plain" else int(batch < 50)
    name = ", ".join([name, *(f"{k} {v}" for k, v in options.items())])
    return Case(f"{cell}: {name}", function, list(operands.values()), batched, kernels, order=order)


def scaled(factor: float, *shape: int) -> Callable[..., Any]:
    return lambda rng: factor * rng.standard_normal(shape)


_HARD: dict[str, Any] = {"gate_neuron": "sigmoid", "cell_neuron": ("elu", 0.7), "output_neuron": ("tanh", 0.9, 0.7)}
_SOFT: dict[str, Any] = {"gate_neuron": "sigmoid", "cell_neuron": "softsign"}
_FLIP: dict[str, Any] = {"flip_output_gates": True}
_AGAIN: dict[str, Any] = {"reset": "after", "recompute": True}
RECURRENT = [
    _recurrent("plain", "lstm", (3, 5, 4), 6),
    _recurrent("states", "lstm", (2, 4, 3), 20, states=True),
    _recurrent("peepholes, lengths", "lstm", (4, 5, 3), 7, states=True, lengths=True, extra="peephole"),
    _recurrent("states, lengths", "lstm", (4, 5, 3), 17, states=True, lengths=True, reverse=True),
    _recurrent("peepholes, lengths", "lstm", (3, 4, 3), 5, lengths=True, extra="peephole", recompute=True),
    _recurrent("states", "lstm", (2, 5, 3), 16, states=True, recompute=True, reverse=True),
    _recurrent("one row, one step, one unit", "lstm", (1, 1, 1), 1),
    _recurrent("several chunks", "lstm", (90, 40, 2), 3, states=True, lengths=True),
    _recurrent("several chunks", "lstm", (90, 20, 2), 3, recompute=True, reverse=True),
    _recurrent("plain", "lstm", (2, 3, 2), 3, gate_neuron="hard_sigmoid", cell_neuron="softsign"),
    _recurrent("states, lengths", "lstm", (4, 5, 3), 17, states=True, lengths=True, **_HARD),
    _recurrent("peepholes, lengths", "lstm", (4, 5, 3), 6, states=True, lengths=True, extra="peephole", **_HARD),
    _recurrent("peepholes", "lstm", (3, 4, 3), 5, extra="peephole", recompute=True, reverse=True, **_HARD),
    _recurrent("several chunks", "lstm", (90, 20, 2), 3, recompute=True, lengths=True, **_HARD),
    _recurrent("matrices", "lstm", (3, 5, 4), 6, states=True, extra="peephole matrices"),
    _recurrent("matrices, lengths", "lstm", (4, 5, 3), 17, lengths=True, extra="peephole matrices", reverse=True),
    _recurrent("matrices", "lstm", (3, 4, 3), 5, extra="peephole matrices", recompute=True, **_HARD),
    _recurrent("matrices, several chunks", "lstm", (90, 20, 2), 3, states=True, extra="peephole matrices"),
    _recurrent("matrices, one row, one step, one unit", "lstm", (1, 1, 1), 1, extra="peephole matrices"),
    # Rows enough for the steps to take the inputs too.
    _recurrent("many rows", "lstm", (17, 4, 9), 21, states=True, lengths=True),
    _recurrent("many rows, several chunks", "lstm", (33, 26, 3), 8, recompute=True, reverse=True),
    # Gates of a multiple of 256 columns, whose gradients lie further apart.
    _recurrent("wide, several chunks", "lstm", (30, 32, 2), 64, states=True, lengths=True, extra="peephole"),
    _recurrent("wide", "lstm", (3, 4, 2), 64, extra="peephole matrices", **_HARD),
    _recurrent("wide", "gru", (3, 4, 2), 64, states=True, reset="after"),
    _recurrent("wide, memory", "gru", (3, 3, 2), 256, extra="memory"),
    _recurrent("wide, lengths", "mgu", (3, 4, 2), 128, lengths=True, reverse=True),
    _recurrent("wide", "rnn", (3, 4, 2), 256, states=True),
    *(
        case
        for reset in ("before", "after")
        for case in (
            _recurrent("plain", "gru", (3, 5, 4), 6, reset=reset),
            _recurrent("states, lengths", "gru", (4, 5, 3), 17, states=True, lengths=True, reset=reset),
            _recurrent("short", "gru", (3, 4, 2), 5, reset=reset, **_FLIP, recompute=True),
            _recurrent("lengths", "gru", (4, 5, 3), 16, lengths=True, reset=reset, reverse=True),
            _recurrent("states", "gru", (3, 4, 3), 5, reset=reset, gate_p_norm=2.0),
            _recurrent("several chunks", "gru", (90, 20, 2), 3, states=True, reset=reset),
            _recurrent("states, lengths", "gru", (4, 5, 3), 7, states=True, lengths=True, reset=reset, **_SOFT),
            _recurrent("short", "gru", (3, 4, 2), 5, reset=reset, **_SOFT, **_FLIP, recompute=True, reverse=True),
            _recurrent("several chunks", "gru", (90, 20, 2), 3, reset=reset, **_SOFT, gate_p_norm=2.0),
        )
    ),
    _recurrent("memory", "gru", (3, 5, 4), 6, states=True, extra="memory"),
    _recurrent("memory, lengths", "gru", (4, 5, 3), 17, lengths=True, extra="memory", reverse=True, **_FLIP),
    _recurrent("memory", "gru", (3, 4, 3), 5, states=True, extra="memory", recompute=True, **_SOFT),
    _recurrent("memory, several chunks", "gru", (90, 20, 2), 3, extra="memory"),
    _recurrent("lengths", "mgu", (4, 5, 3), 7, states=True, lengths=True, **_SOFT, **_FLIP),
    _recurrent("short", "mgu", (3, 4, 3), 5, states=True, recompute=True, **_SOFT),
    _recurrent("recurrent bias", "gru", (3, 4, 3), 5, states=True, extra="recurrent_bias", reset="after"),
    _recurrent("recurrent bias, several chunks", "gru", (90, 20, 2), 3, extra="recurrent_bias", **_AGAIN),
    _recurrent("plain", "mgu", (3, 5, 4), 6, states=True),
    _recurrent("lengths", "mgu", (4, 5, 3), 17, lengths=True, **_FLIP, reverse=True),
    _recurrent("states", "mgu", (3, 4, 3), 5, states=True, recompute=True, gate_p_norm=0.5),
    _recurrent("several chunks", "mgu", (90, 20, 2), 3, gate_p_norm=2.0, **_FLIP),
    _recurrent("states", "rnn", (3, 5, 4), 6, states=True),
    _recurrent("lengths", "rnn", (4, 5, 3), 17, lengths=True, neuron="relu"),
    _recurrent("states", "rnn", (3, 5, 3), 5, neuron="softplus", recompute=True, reverse=True),
    _recurrent("several chunks", "rnn", (90, 20, 2), 3, neuron="none"),
]

CASES = [*CONV, *FILTERING, *TRANSPOSE, *DENSE, *NEURON, *POOL, *DROPOUT, *NORM, *SOFTMAX, *LOSS, *RECURRENT]
