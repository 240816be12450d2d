"""What the table of cases lacks of the device's kernels: optimizers, selections, and whole programs of graph.

Each is a function of (recorder, name, dtype): what it runs eagerly is recorded op by op, a program of graph as one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import random_programs

import jax_mps as mps
from jax_mps.ops.label_gather import pick_op
from jax_mps.ops.random import random_bits_op

SHAPES = {"w": (5, 4), "b": (7,), "scale": (1,)}


def draw(dtype: Any, seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers."""
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def updates(recorder: Any, name: str, dtype: Any, *, optimizer: Any) -> None:
    """Two steps of an optimizer."""
    params = {k: draw(dtype, 0, *s) for k, s in SHAPES.items()}
    state = optimizer.init(params)
    for seed in (1, 2):
        gradients = {k: draw(dtype, seed, *s) for k, s in SHAPES.items()}
        params, state = mps.optim.step(optimizer, gradients, state, params)


def picks(recorder: Any, name: str, dtype: Any) -> None:
    """One class of each row, some of them out of range, and the gradient."""
    index = jnp.asarray(np.random.default_rng(0).integers(0, 40, 33), jnp.int32)
    _, pull = jax.vjp(lambda x: pick_op(x, index), draw(dtype, 3, 33, 40))
    pull(draw(dtype, 4, 33))


def pools(recorder: Any, name: str, dtype: Any) -> None:
    """What a maximum alone needs, and the gradient of its gradient."""
    x = draw(dtype, 8, 2, 7, 8, 3)
    mps.max_pool(x, 3, strides=2)
    _, pull = jax.vjp(lambda x: mps.max_pool(x, 3, strides=2), x)
    _, pull_again = jax.vjp(lambda dy: pull(dy)[0], draw(dtype, 9, 2, 3, 3, 3))
    pull_again(x)


def bits(recorder: Any, name: str, dtype: Any) -> None:
    """The bits of a key, which are of one dtype."""
    if dtype == jnp.float32:
        for seed, shape in enumerate([(1,), (6, 50), (33, 129), (70001,)]):
            key = jax.random.key_data(jax.random.key(seed))
            random_bits_op(key, shape=shape, generator="threefry2x32", partitionable=True)


def whole(recorder: Any, name: str, function: Callable, wanted: Callable, *operands: Any) -> None:
    """One call of graph(function), and what `wanted`, which XLA computes, gives."""
    recorder.outside += len(recorder.take())
    dtype = str(jax.tree.leaves(operands)[0].dtype)
    got = jax.block_until_ready(jax.jit(mps.graph(function))(*operands))
    with mps.set_device("reference"):
        truths = jax.tree.leaves(jax.jit(wanted)(*operands))
    results, arrays = jax.tree.leaves(got), jax.tree.leaves(operands)
    recorder.keep("graph", name, dtype, [*arrays, *results], results, truths)


def random_program(recorder: Any, name: str, dtype: Any, *, seed: int) -> None:
    """A random program and its gradients, in float32; graph takes it for the op of the device that leads it."""
    if dtype == jnp.float32:
        random = random_programs.gradients(seed, 10)
        function = lambda first, *rest: random(mps.relu(first), *rest)  # noqa: E731
        whole(recorder, name, function, function, *random_programs.arrays(seed))


def loop(recorder: Any, name: str, dtype: Any) -> None:
    """A scan, whose carry is copied from iteration to iteration, and results that are copies of one value."""

    def f(x, xs):
        def body(carry, row):
            count, y = carry
            y = mps.softmax(y + row * 0.5)
            return (count + 1, y), jnp.sum(y * row, -1)

        (count, y), sums = jax.lax.scan(body, (jnp.int32(0), x), xs)
        z = mps.relu(x)
        return count, y, sums, z, z.reshape(-1)

    for rows in (5, 12):
        whole(recorder, name, f, f, draw(dtype, 10, rows, 7), draw(dtype, 11, 4, rows, 7))


def many_results(recorder: Any, name: str, dtype: Any) -> None:
    """A chain of more results than a kernel binds: copies put them into their places."""

    def f(x):
        y = mps.relu(x)
        return [jnp.sin(y + i / 8) if i % 2 else y * (i + 1) for i in range(33)]

    whole(recorder, name, f, f, draw(dtype, 12, 9, 11))


def training_step(recorder: Any, name: str, dtype: Any) -> None:
    """A step of a small network for images with adam: convolution, batch norm, pool, dropout, dense, loss."""
    x, labels = draw(dtype, 5, 8, 12, 12, 3), jnp.arange(8, dtype=jnp.int32) % 5
    params = {
        "conv": draw(dtype, 6, 3, 3, 3, 8) * 0.2,
        "gamma": jnp.ones(8, dtype),
        "beta": jnp.zeros(8, dtype),
        "dense": draw(dtype, 7, 288, 5) * 0.1,
        "bias": jnp.zeros(5, dtype),
    }
    optimizer = mps.optim.adam(1e-2)
    key = jax.random.key(0)

    def loss(p, x):
        y = mps.conv(x, p["conv"])
        y, _, _ = mps.batch_norm(y, p["gamma"], p["beta"], epsilon=1e-3, neuron="relu")
        y = mps.max_pool(y, 2).reshape(8, -1)
        y = mps.dense(mps.dropout(y, key, keep_probability=0.8), p["dense"], p["bias"])
        return jnp.mean(mps.losses.softmax_cross_entropy(y, labels, reduction="none").astype(jnp.float32))

    def step(params, state, x):
        value, gradients = jax.value_and_grad(loss)(params, x)
        params, state = mps.optim.step(optimizer, gradients, state, params)
        return params, state, value

    whole(recorder, name, step, step, params, optimizer.init(params), x)


OPTIMIZERS = {
    "sgd": mps.optim.sgd(0.1),
    "sgd, nesterov, clip": mps.optim.sgd(0.1, 0.9, True, gradient_clip=(-1.0, 1.0)),
    "adam": mps.optim.adam(0.1),
    "adam, l2": mps.optim.adam(0.1, regularization="l2", regularization_scale=0.3),
    "adam, l1": mps.optim.adam(0.1, regularization="l1", regularization_scale=0.3),
    "nadam": mps.optim.adam(0.1, nesterov=True),
    "amsgrad": mps.optim.adam(0.1, amsgrad=True),
    "rmsprop": mps.optim.rmsprop(0.1),
    "rmsprop, centered, nesterov": mps.optim.rmsprop(0.1, centered=True, momentum=0.9, nesterov=True),
}
PROGRAMS: dict[str, Callable] = {
    "pick": picks,
    "max_pool alone": pools,
    "random_bits": bits,
    "graph: a loop": loop,
    "graph: many results": many_results,
    "graph: a training step": training_step,
    **{f"optimizer: {k}": functools.partial(updates, optimizer=o) for k, o in OPTIMIZERS.items()},
    **{f"graph: random program {s}": functools.partial(random_program, seed=s) for s in range(8)},
}
