"""Tells what a person is doing from a phone's accelerometer and gyroscope, for people it has never met.

    python examples/activity.py

The network is the activity classifier of Apple's "Metal for Accelerating Machine Learning" (WWDC 2018) and of Turi
Create, with its 277,222 parameters: a convolution reads windows of 100 samples, an LSTM follows 20 of them, two dense
layers name the activity of each. The signals are simulated (examples/activity_data.py says how), or real ones read
from a folder of CSV files: --data FOLDER. People are split: some to learn from, some to tell when to stop, some to
test on; nobody is in two groups.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import activity_data as data
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jax_mps as mps
from jax_mps import nn


class Groups(NamedTuple):
    """Sequences of different people, channels of mean 0 and variance 1 over the first group."""

    train: data.Sequences
    validation: data.Sequences
    test: data.Sequences


def network(classes: int, units: int = 200, window: int = data.WINDOW) -> nn.Sequential:
    """The classifier: [batch, steps * window, channels] to [batch, steps, classes]."""
    return nn.Sequential(
        nn.Conv(64, (window,), strides=window, padding="VALID", neuron="relu"),
        nn.Dropout(0.8),
        nn.LSTM(units),
        nn.Dense(128),
        nn.BatchNorm(epsilon=1e-3, neuron="relu"),
        nn.Dropout(0.5),
        nn.Dense(classes),
    )


def size(params: nn.Params) -> int:
    """The number of parameters that are learned (so without running statistics)."""
    learned = jax.tree_util.tree_leaves_with_path(params)
    return sum(p.size for path, p in learned if path[-1].key not in ("mean", "variance"))


def loss(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean cross-entropy over the windows that there are."""
    each = mps.losses.softmax_cross_entropy(logits, labels, reduction="none")
    return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1)


def split(people: list[data.Sequences], seed: int) -> Groups:
    """A quarter of the people to test on, a sixth of the others to tell when to stop."""
    if len(people) < 3:
        raise ValueError(f"There must be at least three people, but there are {len(people)}.")
    order = np.random.default_rng(seed).permutation(len(people))
    tests = max(1, len(people) // 4)
    validations = max(1, (len(people) - tests) // 6)
    cuts = np.split(order, [tests, tests + validations])
    test, validation, train = (data.together([people[i] for i in some]) for some in cuts)
    mean, deviation = train.signals.mean((0, 1)), train.signals.std((0, 1)) + 1e-6
    return Groups(*(s._replace(signals=(s.signals - mean) / deviation) for s in (train, validation, test)))


def accuracy(predicted: np.ndarray, some: data.Sequences) -> float:
    """The share of windows named right, in percent."""
    return float(100 * np.average(predicted == some.labels, weights=some.weights))


class State(NamedTuple):
    """What a training step moves on."""

    params: nn.Params
    optimizer: object
    key: jax.Array


def stepper(net: nn.Sequential, optimizer: Any) -> Callable:
    """The training step: (state, signals, labels, weights) to (state, loss)."""

    def objective(params, signals, labels, weights, key):
        logits, moved = net.apply_training(params, signals, key=key)
        return loss(logits, labels, weights), moved

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: State, *batch: jax.Array) -> tuple[State, jax.Array]:
        key, now = jax.random.split(state.key)
        (value, moved), gradients = jax.value_and_grad(objective, has_aux=True)(state.params, *batch, now)
        return State(*mps.optim.step(optimizer, gradients, state.optimizer, moved), key), value

    return step


def train(net: nn.Sequential, groups: Groups, options: argparse.Namespace) -> tuple[nn.Params, dict]:
    """Trains until the validation people gain no more; gives the best parameters and the curves."""
    key = jax.random.key(options.seed)
    optimizer = mps.optim.adam(1e-3)
    params, _ = net.init(key, groups.train.signals[:1].shape)
    state, step = State(params, optimizer.init(params), key), stepper(net, optimizer)
    predict = jax.jit(lambda params, signals: jnp.argmax(net.apply(params, signals), -1))
    order, count = np.random.default_rng(options.seed), len(groups.train.labels)
    batch_size = min(options.batch, count)
    curves: dict[str, list[float]] = {"loss": [], "validation": []}
    best, kept, waited = -1.0, params, 0
    for epoch in range(1, options.epochs + 1):
        steps = count // batch_size
        batches = order.permutation(count)[: steps * batch_size].reshape(steps, batch_size)
        with tqdm(batches, desc=f"epoch {epoch:2}", unit="batch") as bar:
            pending = None
            for rows in bar:
                state, value = step(state, *(array[rows] for array in groups.train))
                # The loss is read one step late: the device has the next batch while Python waits for this one.
                if pending is not None:
                    curves["loss"].append(float(pending))
                    bar.set_postfix(loss=f"{curves['loss'][-1]:.3f}", refresh=False)
                pending = value
            curves["loss"].append(float(pending))
            now = accuracy(np.asarray(predict(state.params, groups.validation.signals)), groups.validation)
            curves["validation"].append(now)
            bar.set_postfix(loss=f"{np.mean(curves['loss'][-steps:]):.3f}", validation=f"{now:.2f} %")
        waited += 1
        if now > best:
            best, kept, waited = now, jax.tree.map(jnp.copy, state.params), 0
        if waited >= options.patience:
            break
    return kept, curves


def confusion(predicted: np.ndarray, some: data.Sequences, classes: int) -> np.ndarray:
    """Windows by true and by predicted activity."""
    counts, alive = np.zeros((classes, classes), int), some.weights > 0
    np.add.at(counts, (some.labels[alive], predicted[alive]), 1)
    return counts


def plot(path: str, curves: dict, predicted: np.ndarray, test: data.Sequences, names: tuple[str, ...]):
    """Draws the curves, the confusion matrix, and some test sequences: true activity over predicted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ink, blue, red = "#24292f", "#2f6fb3", "#d1343b"
    plt.rcParams.update({"font.size": 9, "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": "#c4c9cf"})
    figure = plt.figure(figsize=(13, 9), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    left, right = upper.subplots(1, 2, width_ratios=(1.3, 1))
    epochs = np.arange(1, len(curves["validation"]) + 1)
    at = np.arange(1, len(curves["loss"]) + 1) * len(epochs) / len(curves["loss"])
    left.semilogy(at, curves["loss"], color=blue, linewidth=1.2)
    left.set(title="Training loss, and accuracy on validation people", xlabel="epoch", ylabel="cross-entropy")
    percent = left.twinx()
    percent.plot(epochs, curves["validation"], color=red, marker="o", markersize=3)
    percent.set(ylabel="%", ylim=(min(curves["validation"]) - 2, 101))
    counts = confusion(predicted, test, len(names))
    right.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.4)
    for i, j in np.argwhere(counts):
        right.text(j, i, counts[i, j], ha="center", va="center", color=ink if i == j else red, fontsize=8)
    ticks = range(len(names))
    right.set(title="Windows of people not seen before", xlabel="predicted", ylabel="activity")
    right.set_xticks(ticks, names, rotation=30, ha="right")
    right.set_yticks(ticks, names)
    wrong = ((predicted != test.labels) * test.weights).sum(1)
    order = np.argsort(-wrong, kind="stable")
    shown = np.concatenate([order[:3], order[-3:]]) if len(order) >= 6 else order
    axes = np.atleast_1d(lower.subplots(len(shown), 1, sharex=True))
    seconds, second = data.WINDOW / data.RATE, np.arange(test.signals.shape[1]) / data.RATE
    colors = plt.get_cmap("Set2")(np.arange(len(names)) % 8)
    for axis, row in zip(axes, shown, strict=True):
        axis.plot(second, test.signals[row, :, 2], color="#8c949e", linewidth=0.5)
        for half, labels in enumerate((predicted[row], test.labels[row])):
            for step, label in enumerate(labels):
                box = (half / 2, (half + 1) / 2)
                axis.axvspan(step * seconds, (step + 1) * seconds, *box, color=colors[label], alpha=0.75, linewidth=0)
        for step in np.flatnonzero((predicted[row] != test.labels[row]) * test.weights[row]):
            axis.axvspan(step * seconds, (step + 1) * seconds, fill=False, edgecolor=red, linewidth=1.6)
        axis.set(yticks=[], xlim=(0, second[-1]), ylabel=f"{int(wrong[row])} wrong")
    axes[-1].set_xlabel("seconds; each band: true activity above, predicted below, vertical acceleration over both")
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in colors]
    lower.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", metavar="FOLDER", help="CSV files (format: activity_data.read) in place of simulation"
    )
    parser.add_argument("--people", type=int, default=32, help="people to simulate (default %(default)s)")
    parser.add_argument("--each", type=int, default=20, help="sequences of 40 s of each (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=30, help="at most this many (default %(default)s)")
    parser.add_argument("--patience", type=int, default=5, help="epochs to wait for a gain (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences a step (default %(default)s)")
    parser.add_argument("--units", type=int, default=200, help="of the LSTM (default %(default)s)")
    parser.add_argument("--target", type=float, default=95.0, help="accuracy to reach, percent (default %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, metal, cpu or reference (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of people, weights and order (default %(default)s)")
    parser.add_argument("--no-plot", action="store_true", help="do not write activity.png")
    options = parser.parse_args()
    if min(options.epochs, options.batch, options.each, options.units) < 1:
        parser.error("--epochs, --batch, --each and --units must be at least 1")

    mps.set_device(options.device)
    began = time.perf_counter()
    try:
        if options.data:
            people, names = data.read(options.data)
        else:
            people, names = data.simulate(options.people, options.each, options.seed), data.ACTIVITIES
        groups = split(people, options.seed)
    except ValueError as error:
        parser.error(str(error))
    net = network(len(names), options.units)
    params, _ = jax.eval_shape(lambda key: net.init(key, groups.train.signals[:1].shape), jax.random.key(0))
    sizes = ", ".join(str(len(some.labels)) for some in groups)
    print(f"{len(people)} people; sequences to learn from, to stop by, to test on: {sizes}; device {mps.device()}")
    print(f"{size(params):,} parameters")
    params, curves = train(net, groups, options)
    predict = jax.jit(lambda params, signals: jnp.argmax(net.apply(params, signals), -1))
    predicted = np.asarray(predict(params, groups.test.signals))
    result = accuracy(predicted, groups.test)
    print(f"accuracy on people not seen before: {result:.2f} %")
    print(f"{len(curves['validation'])} epochs in {time.perf_counter() - began:.1f} s")
    if not options.no_plot:
        plot("activity.png", curves, predicted, groups.test, names)
        print("activity.png shows the curves, the confusion matrix and test sequences")
    if result < options.target:
        print(f"The accuracy stayed below the target of {options.target} %.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
