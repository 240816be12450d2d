"""What doctor does beyond single ops: the kernels that win for the layers of a network, and its training for an epoch.

The network is that of examples/digits.py; its images are drawn here, ten blurred patterns with noise, so that nothing
has to be fetched.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_mps as mps
from jax_mps import nn
from jax_mps._types import DeviceName

TOLERANCE = 2e-2  # of the losses of two devices: rounding grows from step to step
SIZE, CLASSES = 28, 10


class Training(NamedTuple):
    """How much to train."""

    width: int  # channels of the first layer
    batch: int
    steps: int


EPOCH, QUICK = Training(32, 64, 22), Training(2, 8, 6)


def network(width: int) -> nn.Sequential:
    """Two convolutions and two dense layers."""
    return nn.Sequential(
        nn.Conv(width, 5, neuron="relu"),
        nn.MaxPool(2),
        nn.Conv(2 * width, 5, neuron="relu"),
        nn.MaxPool(2),
        nn.Flatten(),
        nn.Dense(32 * width, neuron="relu"),
        nn.Dropout(0.5),
        nn.Dense(CLASSES),
    )


def batches(training: Training) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of every step."""
    rng = np.random.default_rng(0)
    smooth = np.exp(-0.5 * ((np.arange(SIZE)[:, None] - np.arange(SIZE)) / 3.0) ** 2)
    patterns = smooth @ rng.standard_normal((CLASSES, SIZE, SIZE)) @ smooth
    patterns /= patterns.std(axis=(1, 2), keepdims=True)
    for _ in range(training.steps):
        labels = rng.integers(0, CLASSES, training.batch)
        images = patterns[labels] + 0.5 * rng.standard_normal((training.batch, SIZE, SIZE))
        yield images[..., None].astype(np.float32), labels.astype(np.int32)


def step_of(net: nn.Sequential, optimizer: Any) -> Callable[..., Any]:
    """(state, images, labels, key) -> (state, loss)."""

    def loss(params: Any, images: Any, labels: Any, key: Any) -> Any:
        logits = net.apply(params, images, key=key, training=True)
        return mps.losses.softmax_cross_entropy(logits, labels, reduction="mean")

    def step(state: Any, images: Any, labels: Any, key: Any) -> Any:
        params, slots = state
        value, gradients = jax.value_and_grad(loss)(params, images, labels, key)
        return mps.optim.step(optimizer, gradients, slots, params), value

    return step


class Curve(NamedTuple):
    """A training on one device."""

    losses: list[float]
    seconds: float  # a step, the first aside


def train(device: DeviceName, training: Training) -> Curve:
    """The losses of the network's training on a device, each step one graph."""
    with mps.set_device(device):
        net, optimizer = network(training.width), mps.optim.adam(1e-3)
        params, _ = net.init(jax.random.key(0), (training.batch, SIZE, SIZE, 1))
        state, losses, times = (params, optimizer.init(params)), [], []
        step = jax.jit(mps.graph(step_of(net, optimizer)), donate_argnums=0)
        for i, (images, labels) in enumerate(batches(training)):
            began = time.perf_counter()
            state, value = step(state, images, labels, jax.random.fold_in(jax.random.key(1), i))
            losses.append(float(value))
            times.append(time.perf_counter() - began)
        return Curve(losses, float(np.mean(times[1:] or times)))


def chosen(training: Training) -> list[tuple[str, str, str]]:
    """(layer, op, implementation) of the network's products: what won on this device, the first use being a contest."""
    width, batch = training.width, training.batch
    layers: list[tuple[str, Callable[..., Any], Any, Any]] = [
        ("conv 1", mps.conv, (batch, SIZE, SIZE, 1), (5, 5, 1, width)),
        ("conv 2", mps.conv, (batch, SIZE // 2, SIZE // 2, width), (5, 5, width, 2 * width)),
        ("dense 1", mps.dense, (batch, 98 * width), (98 * width, 32 * width)),
        ("dense 2", mps.dense, (batch, 32 * width), (32 * width, CLASSES)),
    ]
    found = []
    for name, function, *shapes in layers:
        total = functools.partial(lambda f, x, w: jnp.sum(f(x, w) ** 2), function)
        operands = [jnp.zeros(shape, jnp.float32) for shape in shapes]
        for row in mps.explain(jax.grad(total, (0, 1)), *operands):
            if row.op.startswith(("conv", "dense")):
                found.append((name, row.op, row.implementation))
    return found


def main(quick: bool) -> list[str]:
    """Prints what won and how the training went; gives what failed."""
    training = QUICK if quick else EPOCH
    print("\nlayer    op                     implementation")
    for layer, op, implementation in chosen(training):
        print(f"{layer:8} {op:22} {implementation}")
    here: DeviceName = mps.device()
    there: DeviceName = "cpu" if here != "cpu" else "reference"
    curves = {name: train(name, training) for name in (here, there)}
    print(f"\n{training.steps} steps of {training.batch} images, {training.width} channels in the first layer")
    for name, curve in curves.items():
        print(f"{name:10} loss {curve.losses[0]:.4f} to {curve.losses[-1]:.4f}, {curve.seconds * 1e3:.1f} ms a step")
    off = float(np.max(np.abs(np.subtract(curves[here].losses, curves[there].losses))))
    print(f"the losses differ by up to {off:.1e}, at most {TOLERANCE:.0e} passes")
    return [] if off <= TOLERANCE else ["the training"]
