"""Layers without recurrence, and `Sequential`; see `jax_mps.nn`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jax_mps as mps
from jax_mps.ops import _check

Params = Any
Shape = tuple[int, ...]
Initializer = Callable[[jax.Array, Shape, int, int, Any], jax.Array]  # of key, shape, fan_in, fan_out, dtype


def xavier_uniform(key: jax.Array, shape: Shape, fan_in: int, fan_out: int, dtype: Any) -> jax.Array:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): keeps variances through linear and tanh layers."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def he_normal(key: jax.Array, shape: Shape, fan_in: int, fan_out: int, dtype: Any) -> jax.Array:
    """Normal of variance 2 / fan_in: keeps variances through relu layers."""
    return jax.random.normal(key, shape, dtype) * jnp.asarray(math.sqrt(2 / fan_in), dtype)


def _shape(function: Callable[[Any], Any], input_shape: Shape, dtype: Any = jnp.float32) -> Shape:
    x = jax.eval_shape(lambda: jnp.zeros(input_shape, dtype))
    return tuple(jax.eval_shape(function, x).shape)


def _weights(layer: Any, key: jax.Array, shape: Shape, fan_in: int, fan_out: int) -> Params:
    params = {"w": layer.initializer(key, shape, fan_in, fan_out, layer.dtype)}
    return {**params, "b": jnp.zeros(shape[-1], layer.dtype)} if layer.bias else params


@dataclass(frozen=True)
class Layer:
    """What every layer can do; this one does nothing."""

    def init(self, key: jax.Array, input_shape: Shape) -> tuple[Params, Shape]:
        """Makes the parameters, and tells the shape of the output; shapes include the batch axis."""
        return {}, _shape(lambda x: self.apply({}, x), input_shape)

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
    window: int | tuple[int, ...]
    strides: int | tuple[int, ...] = 1
    padding: Any = "SAME"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    neuron: Any = None
    bias: bool = True
    initializer: Initializer = xavier_uniform
    dtype: Any = jnp.float32

    def init(self, key: jax.Array, input_shape: Shape) -> tuple[Params, Shape]:
        """Params {"w": [window, in/groups, channels], "b": [channels]}."""
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
        return mps.conv(x, params["w"], params.get("b"), neuron=self.neuron, **geometry)


@dataclass(frozen=True)
class Dense(Layer):
    """`mps.dense` over the last axis."""

    features: int
    neuron: Any = None
    bias: bool = True
    initializer: Initializer = xavier_uniform
    dtype: Any = jnp.float32

    def init(self, key: jax.Array, input_shape: Shape) -> tuple[Params, Shape]:
        """Params {"w": [in, features], "b": [features]}."""
        fan_in = input_shape[-1]
        params = _weights(self, key, (fan_in, self.features), fan_in, self.features)
        return params, (*input_shape[:-1], self.features)

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """neuron(x w + b)."""
        return mps.dense(x, params["w"], params.get("b"), neuron=self.neuron)


@dataclass(frozen=True)
class _Pool(Layer):
    window: int | tuple[int, ...]
    strides: int | tuple[int, ...] | None = None
    padding: Any = "VALID"


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
    neuron: Any = None
    dtype: Any = jnp.float32

    def init(self, key: jax.Array, input_shape: Shape) -> tuple[Params, Shape]:
        """Params {"gamma", "beta", "mean", "variance"}, each [channels]; the last two are the running statistics."""
        one, zero = jnp.ones(input_shape[-1:], self.dtype), jnp.zeros(input_shape[-1:], self.dtype)
        return {"gamma": one, "beta": zero, "mean": jnp.copy(zero), "variance": jnp.copy(one)}, tuple(input_shape)

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """By the batch's statistics in training (which this does not record), else by the running ones."""
        if training:
            return self.apply_training(params, x)[0]
        statistics = params["mean"], params["variance"]
        scale = params["gamma"], params["beta"]
        return mps.batch_norm_inference(x, *statistics, *scale, epsilon=self.epsilon, neuron=self.neuron)

    def apply_training(self, params: Params, x: jax.Array, *, key: jax.Array | None = None) -> tuple[jax.Array, Params]:
        """By the batch's statistics, which move the running ones."""
        scale = params["gamma"], params["beta"]
        y, mean, variance = mps.batch_norm(x, *scale, epsilon=self.epsilon, neuron=self.neuron)
        batch = jax.lax.stop_gradient({"mean": mean, "variance": variance})
        moved = {k: self.momentum * params[k] + (1 - self.momentum) * v.astype(self.dtype) for k, v in batch.items()}
        return y, {**params, **moved}


@dataclass(frozen=True)
class Dropout(Layer):
    """`mps.dropout` in training; nothing in evaluation."""

    keep_probability: float = 0.5

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """Zeros a random part of x and scales the rest up; x itself in evaluation."""
        if not training:
            return x
        if key is None:
            _check.fail("nn.Dropout", "training needs a key", "None", "Pass key=jax.random.key(step) to apply.")
        return mps.dropout(x, key, keep_probability=self.keep_probability)


@dataclass(frozen=True)
class Flatten(Layer):
    """[batch, ...] to [batch, features]."""

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """The same numbers in two axes."""
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


@dataclass(frozen=True)
class Neuron(Layer):
    """`mps.neuron` by name and parameters."""

    name: str
    a: float | None = None
    b: float | None = None
    c: float | None = None

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """f(x)."""
        return mps.neuron(x, self.name, self.a, self.b, self.c)


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Layers one after the other; its params are a tuple with an entry for each."""

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer):
        object.__setattr__(self, "layers", layers)

    def init(self, key: jax.Array, input_shape: Shape) -> tuple[Params, Shape]:
        """The params of every layer, each made for the shape that the one before it gives."""
        params, shape = [], tuple(input_shape)
        for i, layer in enumerate(self.layers):
            some, shape = layer.init(jax.random.fold_in(key, i), shape)
            params.append(some)
        return tuple(params), shape

    def apply(self, params: Params, x: jax.Array, *, key: jax.Array | None = None, training: bool = False) -> jax.Array:
        """Every layer in turn, each with a key of its own made from `key`."""
        if training:
            return self.apply_training(params, x, key=key)[0]
        for layer, some in zip(self.layers, params, strict=True):
            x = layer.apply(some, x)
        return x

    def apply_training(self, params: Params, x: jax.Array, *, key: jax.Array | None = None) -> tuple[jax.Array, Params]:
        """Every layer's `apply_training` in turn."""
        moved = []
        for i, (layer, some) in enumerate(zip(self.layers, params, strict=True)):
            x, some = layer.apply_training(some, x, key=None if key is None else jax.random.fold_in(key, i))
            moved.append(some)
        return x, tuple(moved)
