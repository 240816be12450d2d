"""Trains an Equinox residual network on handwritten digits twice: as it is, and with the one line that graphs its step.

    python examples/equinox_resnet.py

The model is plain Equinox: `eqx.nn.Conv2d` over single images, `eqx.nn.BatchNorm` with its state, vmap over the batch,
`eqx.filter_jit`. It knows nothing of jax_mps. The data are scikit-learn's 1,797 real digits. Both runs start from the
same weights and see the same batches, so at first their losses agree but for rounding.
"""

from __future__ import annotations

import argparse
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from comparing import compare, digits, finish

import jax_mps as mps


class Block(eqx.Module):
    """Two convolutions with batch norm, and a way around them."""

    conv1: eqx.nn.Conv2d
    norm1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    norm2: eqx.nn.BatchNorm
    shortcut: eqx.nn.Conv2d | None

    def __init__(self, channels: int, out: int, key: jax.Array):
        keys = jax.random.split(key, 3)
        stride = 1 if channels == out else 2
        self.conv1 = eqx.nn.Conv2d(channels, out, 3, stride, padding=1, use_bias=False, key=keys[0])
        self.norm1 = eqx.nn.BatchNorm(out, "batch", momentum=0.9, mode="batch")
        self.conv2 = eqx.nn.Conv2d(out, out, 3, padding=1, use_bias=False, key=keys[1])
        self.norm2 = eqx.nn.BatchNorm(out, "batch", momentum=0.9, mode="batch")
        self.shortcut = None if stride == 1 else eqx.nn.Conv2d(channels, out, 1, 2, use_bias=False, key=keys[2])

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x))), state


class ResNet(eqx.Module):
    """A convolution, residual blocks, the mean over the image, a linear layer."""

    stem: eqx.nn.Conv2d
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(self, width: int, key: jax.Array):
        keys = jax.random.split(key, 6)
        self.stem = eqx.nn.Conv2d(1, width, 3, padding=1, key=keys[0])
        sizes = [(width, width), (width, 2 * width), (2 * width, 2 * width), (2 * width, 4 * width)]
        self.blocks = [Block(i, o, k) for (i, o), k in zip(sizes, keys[1:5], strict=True)]
        self.head = eqx.nn.Linear(4 * width, 10, key=keys[5])

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        x = jax.nn.relu(self.stem(x))
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, (1, 2))), state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="of each run (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images a step (default %(default)s)")
    parser.add_argument("--width", type=int, default=32, help="channels of the first layer (default %(default)s)")
    parser.add_argument("--draw", metavar="FILE.svg", help="draw the graphed step")
    options = parser.parse_args()

    model, norms = eqx.nn.make_with_state(ResNet)(options.width, jax.random.key(0))
    optimizer = optax.sgd(0.01, momentum=0.9)
    start = model, norms, optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def step(state: tuple, images: jax.Array, labels: jax.Array) -> tuple[tuple, jax.Array]:
        model, norms, slots = state

        def loss(model: ResNet, norms: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
            batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            logits, norms = batched(jnp.moveaxis(images, -1, 1), norms)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), norms

        (value, norms), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(model, norms)
        updates, slots = optimizer.update(gradients, slots, eqx.filter(model, eqx.is_inexact_array))
        return (eqx.apply_updates(model, updates), norms, slots), value

    plain = eqx.filter_jit(step)
    graphed = eqx.filter_jit(mps.graph(step))  # the one line

    train, test = digits()
    batches = train.batches(options.batch, options.steps)
    results = compare({"jax.jit": plain, "mps.graph": graphed}, start, batches)

    @eqx.filter_jit
    def predict(state: tuple, images: jax.Array) -> jax.Array:
        model, norms, _ = state
        inference = eqx.nn.inference_mode(model)
        one = lambda image: inference(jnp.moveaxis(image, -1, 0), norms)[0]  # noqa: E731
        return jnp.argmax(jax.vmap(one, axis_name="batch")(images), -1)

    for name, result in results.items():
        accuracy = np.mean(np.asarray(predict(result.state, test.images)) == test.labels)
        print(f"{name:9s}: test accuracy {accuracy:.2%}")
    if options.draw:
        mps.graph(step).program(start, *batches[0]).draw(options.draw)
    return finish(results)


if __name__ == "__main__":
    sys.exit(main())
