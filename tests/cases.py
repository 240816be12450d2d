"""The table of ops: one row buys every test of test_ops.py.

An operand is a shape (standard normal numbers), or a function of a seeded generator that makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax_mps as mps


@dataclass
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


def _conv(name: str, x: tuple[int, ...], w: tuple[int, ...], bias: bool = False, **options: Any) -> Case:
    operands = [x, w, (w[-1],)] if bias else [x, w]
    kernels = ("conv", "conv_data_gradient", "conv_weight_gradient") + (("bias_gradient",) if bias else ())
    return Case(f"conv: {name}", lambda *a: mps.conv(*a, **options), operands, kernels=kernels)


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
    _conv("groups 2", (3, 6, 6, 4), (3, 3, 2, 6), groups=2),
    _conv("groups 3, strides 2", (2, 7, 7, 6), (3, 3, 2, 9), groups=3, strides=2),
    _conv("depthwise", (2, 6, 7, 8), (3, 3, 1, 8), groups=8),
    _conv("depthwise, multiplier 2, bias", (2, 6, 6, 4), (3, 3, 1, 8), bias=True, groups=4),
    _conv("window as large as the image", (2, 5, 5, 3), (5, 5, 3, 4), padding="VALID"),
    _conv("1-D", (2, 12, 3), (4, 3, 5)),
    _conv("1-D, stride as the window, bias, relu", (2, 40, 6), (10, 6, 8), bias=True, strides=10, neuron="relu"),
    _conv("1-D, groups and dilation", (3, 11, 4), (3, 2, 4), groups=2, dilation=2),
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

CASES = [*CONV, *TRANSPOSE, *DENSE, *NEURON]
