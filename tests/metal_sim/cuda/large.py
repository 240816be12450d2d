"""Sizes for bandwidth.py: name -> (function, [(shape, dtype) of each operand], multiplications and additions or 0)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

import jax_mps as mps

F32, F16 = "float32", "float16"
N = 64 << 20  # elements: 256 MiB of float32
IMAGES = (256, 64, 64, 64)  # as many


def of(op: Any, **attributes: Any) -> Any:
    """An op with its attributes."""
    return functools.partial(op, **attributes)


def gradient(function: Any) -> Any:
    """The gradient alone: what the value alone needs, XLA leaves out."""
    return lambda x, dy, *rest: jax.vjp(lambda x: function(x, *rest), x)[1](dy)[0]


LARGE: dict[str, Any] = {}


def row(name: str, function: Any, *shapes: Any, flops: float = 0) -> None:
    """Adds a row; a shape without a dtype is of float32."""
    LARGE[name] = (function, [(s, F32) if isinstance(s[0], int) else s for s in shapes], flops)


def elementwise(x: Any, y: Any) -> Any:
    return jnp.tanh(x * y + 1.5) - x


row("neuron: relu", mps.relu, (N,))
row("neuron: relu, float16", mps.relu, ((2 * N,), F16))
row("neuron: gelu", mps.gelu, (N,))
row("neuron_gradient: gelu", gradient(mps.gelu), (N,), (N,))
# graph takes what has an op of its own in it.
row("chain: tanh(x y + 1.5) - x", mps.graph(lambda x, y: mps.relu(elementwise(x, y))), (N,), (N,))
row("chain: sum over the last axis", mps.graph(lambda x: jnp.sum(jnp.square(mps.relu(x)), -1)), (65536, 1024))
row("chain: sum over the first axis", mps.graph(lambda x: jnp.sum(jnp.square(mps.relu(x)), 0)), (65536, 1024))
row("chain: transpose", mps.graph(lambda x: mps.relu(x.T + 1.0)), (8192, 8192))
row(
    "pad",
    mps.graph(lambda x: jax.lax.pad(mps.relu(x), jnp.float32(0), ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)))),
    IMAGES,
)
row("dropout", of(mps.dropout, keep_probability=0.5), (N // 64, 64), ((2,), "uint32"))
row("softmax, rows of 1024", mps.softmax, (65536, 1024))
row("softmax, rows of 10", mps.softmax, (6400000, 10))
row("softmax_gradient, rows of 1024", gradient(mps.softmax), (65536, 1024), (65536, 1024))
row("batch_norm, 64 channels", of(mps.batch_norm, epsilon=1e-3, neuron="relu"), IMAGES, (64,), (64,))
row("batch_norm_inference, 64 channels", of(mps.batch_norm_inference, epsilon=1e-3), IMAGES, (64,), (64,), (64,), (64,))
row("max_pool 2x2", lambda x: mps.max_pool(x, 2), IMAGES)
row("max_pool 3x3, strides 2", lambda x: mps.max_pool(x, 3, strides=2), IMAGES)
row("avg_pool 2x2", lambda x: mps.avg_pool(x, 2), IMAGES)
row("max_pool_gradient 2x2", gradient(lambda x: mps.max_pool(x, 2)), IMAGES, (256, 32, 32, 64))
row("bias_gradient", lambda x, dy: jax.vjp(lambda b: mps.dense(x, jnp.zeros((1, 64)), b), jnp.zeros(64))[1](dy)[0],
    (1 << 20, 1), (1 << 20, 64))  # fmt: skip


def step(rule: Any, states: int) -> Any:
    def run(g: Any, p: Any, *slots: Any) -> Any:
        state = jax.tree.unflatten(jax.tree.structure(rule.init({"w": p})), [jnp.int32(1), *slots])
        return mps.optim.step(rule, {"w": g}, state, {"w": p})

    return run


row("adam", step(mps.optim.adam(1e-3), 2), *[(N,)] * 4)
row("matmul 4096", mps.dense, (4096, 4096), (4096, 4096), flops=2 * 4096**3)
row("matmul 4096, float16", mps.dense, ((4096, 4096), F16), ((4096, 4096), F16), flops=2 * 4096**3)
CONV = 2 * 64 * 56 * 56 * 9 * 128 * 128
row("conv 3x3, 56x56, 128 channels", mps.conv, (64, 56, 56, 128), (3, 3, 128, 128), flops=CONV)
row("conv_data_gradient", gradient(mps.conv), (64, 56, 56, 128), (64, 56, 56, 128), (3, 3, 128, 128), flops=CONV)
row("conv_weight_gradient", lambda w, dy, x: jax.vjp(lambda w: mps.conv(x, w), w)[1](dy)[0],
    (3, 3, 128, 128), (64, 56, 56, 128), (64, 56, 56, 128), flops=CONV)  # fmt: skip
