"""Layers without recurrence, and `Sequential`; see `jax_mps.nn`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp

import jax_mps as mps
from jax_mps import _types
from jax_mps._types import ArrayTree, DType, Ints, NeuronName, Padding, ShapeLike
from jax_mps.nn._checks import check_keep, check_weights, entries, one_for_each, told_shape
from jax_mps.ops import _check
from jax_mps.ops.neuron import spec

Params = ArrayTree  # dicts of arrays; tuples of them for stacks of layers
Shape = tuple[int, ...]
Weights = dict[str, jax.Array]
Initializer = Callable[[jax.Array, Shape, int, int, DType], jax.Array]  # of key, shape, fan_in, fan_out, dtype


def xavier_uniform(key: jax.Array, shape: Shape, fan_in: int, fan_out: int, dtype: DType) -> jax.Array:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): keeps variances through linear and tanh layers."""
    key = _check.key("nn.xavier_uniform", key)
    limit = math.sqrt(6 / max(fan_in + fan_out, 1))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def he_normal(key: jax.Array, shape: Shape, fan_in: int, fan_out: int, dtype: DType) -> jax.Array:
    """Normal of variance 2 / fan_in: keeps variances through relu layers."""
    key = _check.key("nn.he_normal", key)
    return jax.random.normal(key, shape, dtype) * jnp.asarray(math.sqrt(2 / max(fan_in, 1)), dtype)


def _shape(function: Callable[[Any], Any], input_shape: Shape, dtype: DType = jnp.float32) -> Shape:
    x = jax.eval_shape(lambda: jnp.zeros(input_shape, dtype))
    return tuple(jax.eval_shape(function, x).shape)


def _weights(layer: Any, key: jax.Array, shape: Shape, fan_in: int, fan_out: int) -> Weights:
    params = {"w": layer.initializer(key, shape, fan_in, fan_out, layer.dtype)}
    return {**params, "b": jnp.zeros(shape[-1], layer.dtype)} if layer.bias else params


@dataclass(frozen=True)
class Layer:
    """What every layer can do; this one does nothing.

    A layer is also a function: `layer(params, x)` is `layer.apply(params, x)`, so `mps.graph(layer)` works.
    """

    def __call__(
        self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False
    ) -> jax.Array:
        """The same as `apply`."""
        return self.apply(params, x, key=key, training=training)

    def init(self, key: jax.Array, input_shape: ShapeLike) -> tuple[Params, Shape]:
        """Makes the parameters, and tells the shape of the output; shapes include the batch axis.

        In place of the shape, the input itself or a jax.ShapeDtypeStruct will do.
        """
        return {}, _shape(lambda x: self.apply({}, x), told_shape(f"nn.{type(self).__name__}", input_shape))

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """The layer's output; `key` is needed where training draws random numbers."""
        return x

    def apply_training(self, params: Params, x: jax.Array, *, key: jax.Array | None = None) -> tuple[jax.Array, Params]:
        """The output in training, and the parameters with the running statistics moved."""
        return self.apply(params, x, key=key, training=True), params


@dataclass(frozen=True)
class Conv(Layer):
    """`mps.conv` over [batch, height, width, in] or, with a window of one number in a tuple, [batch, width, in]."""

    channels: int
    window: Ints
    strides: Ints = 1
    padding: Padding = "SAME"
    dilation: Ints = 1
    groups: int = 1
    neuron: _types.Neuron = None
    bias: bool = True
    initializer: Initializer = xavier_uniform
    dtype: DType = jnp.float32

    def __post_init__(self) -> None:
        check_weights("nn.Conv", self, channels=self.channels, groups=self.groups)
        spec("nn.Conv", self.neuron)

    def init(self, key: jax.Array, input_shape: ShapeLike) -> tuple[Weights, Shape]:
        """Params {"w": [window, in/groups, channels], "b": [channels]}."""
        axes = "[batch, height, width, channels] or [batch, width, channels]"
        key, input_shape = _check.key("nn.Conv", key), told_shape("nn.Conv", input_shape, 3, axes)
        rank = len(input_shape) - 2
        window = _check.integers("nn.Conv", "window", self.window, rank)
        area = math.prod(window)
        shape = (*window, input_shape[-1] // self.groups, self.channels)
        params = _weights(self, key, shape, area * shape[-2], area * self.channels // self.groups)
        return params, _shape(lambda x: self.apply(params, x), input_shape, self.dtype)

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """neuron(x * w + b)."""
        geometry: Any = {
            "strides": self.strides,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        w, b = entries("nn.Conv", params, "w", optional=("b",))
        return mps.conv(x, w, b, neuron=self.neuron, **geometry)


@dataclass(frozen=True)
class Dense(Layer):
    """`mps.dense` over the last axis."""

    features: int
    neuron: _types.Neuron = None
    bias: bool = True
    initializer: Initializer = xavier_uniform
    dtype: DType = jnp.float32

    def __post_init__(self) -> None:
        check_weights("nn.Dense", self, features=self.features)
        spec("nn.Dense", self.neuron)

    def init(self, key: jax.Array, input_shape: ShapeLike) -> tuple[Weights, Shape]:
        """Params {"w": [in, features], "b": [features]}."""
        key, input_shape = _check.key("nn.Dense", key), told_shape("nn.Dense", input_shape, 1, "[..., features]")
        fan_in = input_shape[-1]
        params = _weights(self, key, (fan_in, self.features), fan_in, self.features)
        return params, (*input_shape[:-1], self.features)

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """neuron(x w + b)."""
        w, b = entries("nn.Dense", params, "w", optional=("b",))
        return mps.dense(x, w, b, neuron=self.neuron)


@dataclass(frozen=True)
class _Pool(Layer):
    window: Ints
    strides: Ints | None = None
    padding: Padding = "VALID"


class MaxPool(_Pool):
    """`mps.max_pool`; strides of None are the window."""

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """The largest value of each window."""
        return mps.max_pool(x, self.window, strides=self.strides, padding=self.padding)


class AvgPool(_Pool):
    """`mps.avg_pool`; strides of None are the window."""

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """The mean of each window."""
        return mps.avg_pool(x, self.window, strides=self.strides, padding=self.padding)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation over all axes but the last; running = momentum * running + (1 - momentum) * batch's."""

    epsilon: float = 1e-5
    momentum: float = 0.9
    neuron: _types.Neuron = None
    dtype: DType = jnp.float32

    def __post_init__(self) -> None:
        _check.float_dtype("nn.BatchNorm", "dtype", self.dtype)
        spec("nn.BatchNorm", self.neuron)
        for word, value in (("epsilon", self.epsilon), ("momentum", self.momentum)):
            number = _check.number("nn.BatchNorm", word, value)
            if not 0 <= number <= 1:
                remedy = "The number of channels is the input's, and is not given."
                _check.fail("nn.BatchNorm", f"{word} must be from 0 to 1", value, remedy)

    def init(self, key: jax.Array, input_shape: ShapeLike) -> tuple[Weights, Shape]:
        """Params {"gamma", "beta", "mean", "variance"}, each [channels]; the last two are the running statistics."""
        input_shape = told_shape("nn.BatchNorm", input_shape, 2, "[..., channels] with at least two axes")
        one, zero = jnp.ones(input_shape[-1:], self.dtype), jnp.zeros(input_shape[-1:], self.dtype)
        return {"gamma": one, "beta": zero, "mean": jnp.copy(zero), "variance": jnp.copy(one)}, tuple(input_shape)

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """By the batch's statistics in training (which this does not record), else by the running ones."""
        if _check.flag("nn.BatchNorm", "training", training):
            return self.apply_training(params, x)[0]
        operands = entries("nn.BatchNorm", params, "mean", "variance", "gamma", "beta")
        return mps.batch_norm_inference(x, *operands, epsilon=self.epsilon, neuron=self.neuron)

    def apply_training(
        self, params: Params, x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, Weights]:
        """By the batch's statistics, which move the running ones."""
        _, _, *scale = entries("nn.BatchNorm", params, "mean", "variance", "gamma", "beta")
        kept = cast(Weights, params)
        y, mean, variance = mps.batch_norm(x, *scale, epsilon=self.epsilon, neuron=self.neuron)
        batch = jax.lax.stop_gradient({"mean": mean, "variance": variance})
        moved = {k: self.momentum * kept[k] + (1 - self.momentum) * v.astype(self.dtype) for k, v in batch.items()}
        return y, {**kept, **moved}


@dataclass(frozen=True)
class Dropout(Layer):
    """`mps.dropout` in training; nothing in evaluation."""

    keep_probability: float = 0.5

    def __post_init__(self) -> None:
        check_keep("nn.Dropout", self.keep_probability)

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """Zeros a random part of x and scales the rest up; x itself in evaluation."""
        if not _check.flag("nn.Dropout", "training", training):
            return x
        if key is None:
            _check.fail("nn.Dropout", "training needs a key", "None", "Pass key=jax.random.key(step) to apply.")
        return mps.dropout(x, key, keep_probability=self.keep_probability)


@dataclass(frozen=True)
class Flatten(Layer):
    """[batch, ...] to [batch, features]."""

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """The same numbers in two axes."""
        x = _check.array("nn.Flatten", "x", x)
        if x.ndim == 0:
            _check.fail("nn.Flatten", "x must have a batch axis", "a scalar", "Reshape x.")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


@dataclass(frozen=True)
class Neuron(Layer):
    """`mps.neuron` by name and parameters."""

    name: NeuronName
    a: float | None = None
    b: float | None = None
    c: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            remedy = 'Pass a name of mps.neuron, such as "relu".'
            _check.fail("nn.Neuron", "name must be a string", _check.told(self.name), remedy, TypeError)
        spec("nn.Neuron", (self.name, self.a, self.b, self.c))

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """f(x)."""
        return mps.neuron(x, self.name, self.a, self.b, self.c)


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Layers one after the other; its params are a tuple with an entry for each."""

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        for layer in layers:
            if isinstance(layer, type) or not hasattr(layer, "init") or not hasattr(layer, "apply"):
                remedy = "A list is unpacked, nn.Sequential(*layers); an activation is nn.Neuron(name)."
                _check.fail(
                    "nn.Sequential", "layers must be layers of jax_mps.nn", _check.told(layer), remedy, TypeError
                )
        object.__setattr__(self, "layers", layers)

    def init(self, key: jax.Array, input_shape: ShapeLike) -> tuple[tuple[Params, ...], Shape]:
        """The params of every layer, each made for the shape that the one before it gives."""
        params, shape = [], told_shape("nn.Sequential", input_shape)
        key = _check.key("nn.Sequential", key)
        for i, layer in enumerate(self.layers):
            some, shape = layer.init(jax.random.fold_in(key, i), shape)
            params.append(some)
        return tuple(params), shape

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """Every layer in turn, each with a key of its own made from `key`."""
        if _check.flag("nn.Sequential", "training", training):
            return self.apply_training(params, x, key=key)[0]
        for layer, some in zip(self.layers, one_for_each("nn.Sequential", params, len(self.layers)), strict=True):
            x = layer.apply(some, x)
        return x

    def apply_training(
        self, params: Params, x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[Params, ...]]:
        """Every layer's `apply_training` in turn."""
        moved = []
        key = None if key is None else _check.key("nn.Sequential", key)
        params = one_for_each("nn.Sequential", params, len(self.layers))
        for i, (layer, some) in enumerate(zip(self.layers, params, strict=True)):
            x, some = layer.apply_training(some, x, key=None if key is None else jax.random.fold_in(key, i))
            moved.append(some)
        return x, tuple(moved)
