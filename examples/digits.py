"""Learns to read handwritten digits, to more than 98.5 % on digits that it has not seen.

    python examples/digits.py

The images are scikit-learn's 1,797 real digits, enlarged to 28x28. The network is the running example of Apple's
"Metal for Accelerating Machine Learning" (WWDC 2018): conv, pool, conv, pool, fully connected, dropout, fully
connected. As there, training stops as soon as the accuracy on the test set reaches --target; so the test set has a
say in when to stop, and the accuracy on digits of nobody's choosing will be a little lower.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import jax_mps as mps
from jax_mps import nn

TEST_IMAGES = 360
EPOCHS = 40  # far more than the target needs


class Digits(NamedTuple):
    images: np.ndarray  # [n, 28, 28, 1], mean 0 and variance 1 over the training set
    labels: np.ndarray  # [n] int32


class State(NamedTuple):
    params: nn.Params
    optimizer: optax.OptState
    key: jax.Array


def load(seed: int) -> tuple[Digits, Digits]:
    """The training set (1,437 digits) and the test set (360), with every class equally common in both."""
    digits = load_digits()
    images = jax.image.resize(jnp.asarray(digits.images, jnp.float32), (len(digits.images), 28, 28), "bilinear")
    train, test, train_labels, test_labels = train_test_split(
        np.asarray(images)[..., None],
        digits.target.astype(np.int32),
        test_size=TEST_IMAGES,
        stratify=digits.target,
        random_state=seed,
    )
    mean, deviation = train.mean(), train.std()
    return Digits((train - mean) / deviation, train_labels), Digits((test - mean) / deviation, test_labels)


def network(width: int) -> nn.Sequential:
    """The talk's network, with as many channels as it has at a `width` of 32, or in proportion."""
    return nn.Sequential(
        nn.Conv(width, 5, neuron="relu"),
        nn.MaxPool(2),
        nn.Conv(2 * width, 5, neuron="relu"),
        nn.MaxPool(2),
        nn.Flatten(),
        nn.Dense(32 * width, neuron="relu"),
        nn.Dropout(0.5),
        nn.Dense(10),
    )


def shifted(images: jax.Array, key: jax.Array, most: int = 2) -> jax.Array:
    """Every image moved by up to `most` pixels each way; what enters at the border is its own edge."""
    padded = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * most + 1)
    cut = lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])  # noqa: E731
    return jax.vmap(cut)(padded, corners)


def train(net: nn.Sequential, data: Digits, test: Digits, options: argparse.Namespace) -> tuple[nn.Params, dict]:
    """Trains until the test accuracy reaches the target; gives the parameters and the curves."""
    key = jax.random.key(options.seed)
    optimizer = mps.optim.adam(1e-3)
    params, _ = net.init(key, (options.batch, 28, 28, 1))
    state = State(params, optimizer.init(params), key)

    def loss(params: nn.Params, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        shift, drop = jax.random.split(key)
        logits = net.apply(params, shifted(images, shift), key=drop, training=True)
        return mps.losses.softmax_cross_entropy(logits, labels, reduction="mean")

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: State, images: jax.Array, labels: jax.Array) -> tuple[State, jax.Array]:
        key, now = jax.random.split(state.key)
        value, gradients = jax.value_and_grad(loss)(state.params, images, labels, now)
        return State(*mps.optim.step(optimizer, gradients, state.optimizer, state.params), key), value

    predict = jax.jit(lambda params, images: jnp.argmax(net.apply(params, images), -1))
    order = np.random.default_rng(options.seed)
    curves: dict[str, list[float]] = {"loss": [], "accuracy": []}
    steps = len(data.labels) // options.batch
    for epoch in range(1, options.epochs + 1):
        batches = order.permutation(len(data.labels))[: steps * options.batch].reshape(steps, options.batch)
        with tqdm(batches, desc=f"epoch {epoch:2}", unit="batch") as bar:
            pending = None
            for batch in bar:
                state, value = step(state, data.images[batch], data.labels[batch])
                # The loss is read one step late: the device has the next batch while Python waits for this one.
                if pending is not None:
                    curves["loss"].append(float(pending))
                    bar.set_postfix(loss=f"{curves['loss'][-1]:.3f}", refresh=False)
                pending = value
            curves["loss"].append(float(pending))
            accuracy = float(np.mean(np.asarray(predict(state.params, test.images)) == test.labels))
            curves["accuracy"].append(accuracy)
            bar.set_postfix(loss=f"{np.mean(curves['loss'][-steps:]):.3f}", test_accuracy=f"{accuracy:.2%}")
        if 100 * accuracy >= options.target:
            break
    return state.params, curves


def plot(path: str, curves: dict, test: Digits, logits: np.ndarray) -> None:
    """Draws the curves, the confusion matrix, and test digits with the wrong ones first and marked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ink, blue, red = "#24292f", "#2f6fb3", "#d1343b"
    plt.rcParams.update({"font.size": 9, "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": "#c4c9cf"})
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    predicted = logits.argmax(1)
    wrong = predicted != test.labels

    figure = plt.figure(figsize=(13, 8.2), layout="constrained")
    curve_part, digit_part = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    loss_axis, accuracy_axis, matrix_axis = curve_part.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    steps = len(curves["loss"]) // len(curves["accuracy"])
    at = np.arange(1, len(curves["loss"]) + 1) / steps
    smooth = [np.mean(curves["loss"][max(0, i - steps // 2) : i + 1]) for i in range(len(at))]
    loss_axis.semilogy(at, curves["loss"], color=blue, alpha=0.25, linewidth=1, label="each batch")
    loss_axis.semilogy(at, smooth, color=blue, linewidth=2, label="running mean")
    loss_axis.set(title="Training loss", xlabel="epoch", ylabel="softmax cross-entropy")
    loss_axis.legend(frameon=False)

    epochs = np.arange(1, len(curves["accuracy"]) + 1)
    percent = 100 * np.array(curves["accuracy"])
    accuracy_axis.plot(epochs, percent, color=blue, linewidth=2, marker="o", markersize=4)
    accuracy_axis.annotate(
        f"{percent[-1]:.2f} %", (epochs[-1], percent[-1]), (0, 7), textcoords="offset points", ha="right"
    )
    accuracy_axis.set(title="Test accuracy", xlabel="epoch", ylabel="%", ylim=(min(percent.min() - 1, 95), 100.4))
    accuracy_axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in (loss_axis, accuracy_axis):
        axis.grid(color="#e6e8eb", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)

    counts = np.zeros((10, 10), int)
    np.add.at(counts, (test.labels, predicted), 1)
    right = np.diag(np.diag(counts))
    matrix_axis.imshow(np.where(right > 0, counts, np.nan), cmap="Blues", vmin=0, vmax=1.5 * counts.max())
    matrix_axis.imshow(np.where((counts > 0) & (right == 0), 1.0, np.nan), cmap="Reds", vmin=0, vmax=1.6)
    for i, j in np.argwhere(counts):
        matrix_axis.text(j, i, counts[i, j], ha="center", va="center", color="white" if i != j else ink, fontsize=8)
    matrix_axis.set(title="Confusion, test set", xlabel="predicted", ylabel="digit", xticks=range(10), yticks=range(10))
    matrix_axis.tick_params(length=0)

    shown = np.concatenate([np.flatnonzero(wrong), np.flatnonzero(~wrong)])[:56]
    digit_part.suptitle(f"Test digits: {wrong.sum()} of {len(wrong)} read wrong", fontsize=10.5)
    for axis, i in zip(digit_part.subplots(4, 14).flat, shown, strict=True):
        axis.imshow(test.images[i, ..., 0], cmap="gray_r", interpolation="bilinear")
        axis.set(xticks=[], yticks=[])
        words = f"{predicted[i]}, is {test.labels[i]}" if wrong[i] else str(predicted[i])
        axis.set_title(
            f"{words}  ({chances[i].max():.0%})",
            fontsize=8,
            pad=3,
            color=red if wrong[i] else ink,
            fontweight="bold" if wrong[i] else "normal",
        )
        for spine in axis.spines.values():
            spine.set(color=red if wrong[i] else "#d5d9de", linewidth=2 if wrong[i] else 0.8)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--epochs",
        type=int,
        default=EPOCHS,
        help="at most this many; fewer need not reach the target (default %(default)s)",
    )
    parser.add_argument("--batch", type=int, default=64, help="images a step (default %(default)s)")
    parser.add_argument(
        "--target", type=float, default=98.5, help="test accuracy to stop at, in percent (default %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, metal, cpu or reference (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split, the weights and the order (default %(default)s)"
    )
    parser.add_argument(
        "--width", type=int, default=32, help="channels of the first layer, to which others keep (default %(default)s)"
    )
    parser.add_argument("--no-plot", action="store_true", help="do not write digits.png")
    options = parser.parse_args()

    mps.set_device(options.device)
    began = time.perf_counter()
    data, test = load(options.seed)
    if min(options.epochs, options.width) < 1 or not 1 <= options.batch <= len(data.labels):
        parser.error(f"--epochs and --width must be at least 1, and --batch from 1 to {len(data.labels)}")
    net = network(options.width)
    print(f"{len(data.labels)} digits to learn from, {len(test.labels)} to test on; device {mps.device()}")
    params, curves = train(net, data, test, options)
    logits = np.asarray(jax.jit(net.apply)(params, test.images))
    accuracy = 100 * float(np.mean(logits.argmax(1) == test.labels))
    print(f"test accuracy: {accuracy:.2f} %")
    print(f"{len(curves['accuracy'])} epochs in {time.perf_counter() - began:.1f} s")
    if not options.no_plot:
        plot("digits.png", curves, test, logits)
        print("digits.png shows the curves, the confusion matrix and test digits")
    if accuracy < options.target:
        print(
            f"The test accuracy stayed below the target of {options.target} % to the end (--epochs {options.epochs}).",
            file=sys.stderr,
        )
        return int(options.epochs >= EPOCHS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
