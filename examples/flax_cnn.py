"""Trains a Flax network on handwritten digits twice: as it is, and with the one line that graphs its training step.

    python examples/flax_cnn.py

The model, the optimizer and the step know nothing of jax_mps. The data are scikit-learn's 1,797 real digits, enlarged
to 28x28. Both runs start from the same weights and see the same batches and random numbers, so at first their losses
agree but for rounding.
"""

from __future__ import annotations

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from comparing import compare, digits, finish
from flax import nnx

import jax_mps as mps


class CNN(nnx.Module):
    """Two convolutions with batch norm, two dense layers with dropout."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = nnx.Conv(width, 2 * width, (3, 3), rngs=rngs)
        self.dense1 = nnx.Linear(49 * 2 * width, 16 * width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense2 = nnx.Linear(16 * width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.avg_pool(x, (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = self.dropout(nnx.relu(self.dense1(x.reshape(x.shape[0], -1))))
        return self.dense2(x)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="of each run (default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (default %(default)s)")
    parser.add_argument("--width", type=int, default=32, help="channels of the first layer (default %(default)s)")
    parser.add_argument("--draw", metavar="FILE.svg", help="draw the graphed step")
    options = parser.parse_args()

    model = CNN(options.width, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    structure, start = nnx.split((model, optimizer))

    def step(state: nnx.State, images: jax.Array, labels: jax.Array) -> tuple[nnx.State, jax.Array]:
        model, optimizer = nnx.merge(structure, state)
        model.train()

        def loss(model: CNN) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), value

    plain = jax.jit(step, donate_argnums=0)
    graphed = jax.jit(mps.graph(step), donate_argnums=0)  # the one line

    train, test = digits()
    batches = train.batches(options.batch, options.steps)
    results = compare({"jax.jit": plain, "mps.graph": graphed}, start, batches)

    @jax.jit
    def predict(state: nnx.State, images: jax.Array) -> jax.Array:
        model, _ = nnx.merge(structure, state)
        model.eval()
        return jnp.argmax(model(images), -1)

    for name, result in results.items():
        accuracy = np.mean(np.asarray(predict(result.state, test.images)) == test.labels)
        print(f"{name:9s}: test accuracy {accuracy:.2%}")
    if options.draw:
        mps.graph(step).program(start, *batches[0]).draw(options.draw)
    return finish(results)


if __name__ == "__main__":
    sys.exit(main())
