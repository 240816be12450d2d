"""How far the gradients of whole networks are from float64, by jax.jit and by mps.graph.

    python tests/helpers/accuracy.py inception densenet mobilenet --seeds 3

prints ||g - g64|| / ||g64|| over all gradients of a training loss, for each seed and as geometric means. Most of it
comes from neurons and windows that pass a gradient on in float64 and not in float32, or the other way round: few, so
that a ratio takes a dozen seeds and more. Keras must be installed. The gradients of float64 are those of the same
function, computed by a process of its own and kept in `--cache`.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import numpy as np

CLASSES = 10
SIZES = {"inception": (107, 4), "densenet": (64, 4), "mobilenet": (96, 4)}  # pixels, batch
NETWORKS = {"inception": "InceptionV3", "densenet": "DenseNet121", "mobilenet": "MobileNetV2"}


def model_of(name: str, dtype: str = "float32") -> Any:
    """The Keras model, without weights."""
    import keras

    keras.config.set_floatx(dtype)
    keras.utils.clear_session()
    pixels, _ = SIZES[name]
    make = getattr(keras.applications, NETWORKS[name])
    return make(weights=None, input_shape=(pixels, pixels, 3), classes=CLASSES, classifier_activation=None)


def gradient_of(model: Any) -> Callable[..., Any]:
    """(trainable, other, x, labels) -> the gradients of the loss in training."""

    def loss(trainable: Any, other: Any, x: Any, labels: Any) -> Any:
        logits, _ = model.stateless_call(trainable, other, x, training=True)
        return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), -1))

    return jax.grad(loss)


def arguments_of(name: str, model: Any, seed: int) -> tuple[Any, ...]:
    """Seeded weights, images and labels."""
    random = np.random.default_rng(seed)
    pixels, batch = SIZES[name]

    def drawn(variable: Any) -> np.ndarray:
        value = np.asarray(variable.value)
        if value.ndim < 2:  # of batch norm, or a bias
            return value + 0.1 * random.standard_normal(value.shape).astype(np.float32)
        return (random.standard_normal(value.shape) * math.sqrt(2 / _fan_in(variable))).astype(np.float32)

    trainable = [drawn(v) for v in model.trainable_variables]
    other = [np.asarray(v.value) for v in model.non_trainable_variables]
    x = random.standard_normal((batch, pixels, pixels, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, batch)]
    return trainable, other, x, labels


def _fan_in(variable: Any) -> int:
    shape = variable.shape
    return math.prod(shape[:2]) if "depthwise" in variable.path else math.prod(shape[:-1])


def wide(x: Any) -> Any:
    """float32 as float64."""
    return x.astype(np.float64) if x.dtype == np.float32 else x


def references(name: str, seeds: int, cache: Path) -> Iterator[list[np.ndarray]]:
    """Of each seed the gradients in float64."""
    pixels, batch = SIZES[name]
    paths = [cache / f"{name}-{pixels}-{batch}-{seed}.npz" for seed in range(seeds)]
    if not all(path.exists() for path in paths):
        command = [sys.executable, __file__, name, "--float64", *map(str, paths)]
        command += ["--pixels", str(pixels), "--batch", str(batch)]
        subprocess.run(command, check=True, env={**os.environ, "JAX_ENABLE_X64": "1"})
    for path in paths:
        with np.load(path) as arrays:
            yield [arrays[f"arr_{i}"] for i in range(len(arrays.files))]


def write_references(name: str, paths: Sequence[Path]) -> None:
    """Computes the gradients in float64, of the seeds 0, 1, ..., and saves them."""
    model = model_of(name)
    arguments = [arguments_of(name, model, seed) for seed in range(len(paths))]
    gradient = jax.jit(gradient_of(model_of(name, "float64")))
    for path, narrow in zip(paths, arguments, strict=True):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, *map(np.asarray, gradient(*jax.tree.map(wide, narrow))))


def distance(gradients: Sequence[Any], exact: Sequence[np.ndarray]) -> float:
    """||g - g64|| / ||g64|| over all arrays."""
    apart = sum(float(np.sum((np.asarray(g, np.float64) - e) ** 2)) for g, e in zip(gradients, exact, strict=True))
    return math.sqrt(apart / sum(float(np.sum(e**2)) for e in exact))


def mean(numbers: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def ways() -> dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """By its name, each way to compile a function."""
    import jax_mps as mps

    def highest(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with jax.default_matmul_precision("highest"):
                return function(*args)

        return run

    return {
        "jit": jax.jit,
        "graph": lambda f: jax.jit(mps.graph(f)),
        "highest": lambda f: jax.jit(mps.graph(highest(f))),
    }


def measure(name: str, seeds: int, cache: Path, chosen: Sequence[str]) -> None:
    """Prints a network's distances."""
    model = model_of(name)
    function = gradient_of(model)
    compiled = {way: compile_(function) for way, compile_ in ways().items() if way in chosen}
    found: dict[str, list[float]] = {way: [] for way in compiled}
    for seed, exact in enumerate(references(name, seeds, cache)):
        arguments = arguments_of(name, model, seed)
        for way, run in compiled.items():
            found[way].append(distance(run(*arguments), exact))
        print(f"{name} seed {seed}: " + ", ".join(f"{way} {d[-1]:.3e}" for way, d in found.items()), flush=True)
    base = mean(found["jit"]) if "jit" in found else 1.0
    means = ", ".join(f"{way} {mean(d):.3e} ({mean(d) / base:.2f})" for way, d in found.items())
    print(f"{name} geometric mean: {means}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--ways", nargs="*", default=["jit", "graph", "highest"])
    parser.add_argument("--pixels", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--float64", type=Path, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.networks:
        SIZES[name] = (options.pixels or SIZES[name][0], options.batch or SIZES[name][1])
        if options.float64:
            write_references(name, options.float64)
        else:
            measure(name, options.seeds, options.cache, options.ways)


if __name__ == "__main__":
    main()
