"""What the examples share that train one model twice: the digits, and two steps side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

Step = Callable[..., tuple[Any, jax.Array]]  # (state, images, labels) -> (state, loss)


class Images(NamedTuple):
    images: np.ndarray  # [n, size, size, 1], mean 0 and variance 1
    labels: np.ndarray  # [n] int32

    def batches(self, size: int, count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        """As many batches as asked for, from the images in a new order every time through."""
        order = np.random.default_rng(seed)
        picks = [order.permutation(len(self.labels)) for _ in range(1 + count * size // len(self.labels))]
        picked = np.concatenate(picks)[: count * size].reshape(count, size)
        return [(self.images[p], self.labels[p]) for p in picked]


@dataclass
class Run:
    state: Any
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each step but the first, which compiles
    compile_seconds: float = 0.0


def digits(size: int = 28) -> tuple[Images, Images]:
    """scikit-learn's digits, enlarged: 1,437 to learn from and 360 to test on."""
    data = load_digits()
    images = np.asarray(
        jax.image.resize(jnp.asarray(data.images, jnp.float32), (len(data.images), size, size), "cubic")
    )
    images = (images - images.mean()) / images.std()
    train, test, train_labels, test_labels = train_test_split(
        images[..., None], data.target.astype(np.int32), test_size=360, stratify=data.target, random_state=0
    )
    return Images(train, train_labels), Images(test, test_labels)


def compare(steps: dict[str, Step], start: Any, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Run]:
    """Trains from `start` by each of the steps, in turns of ten batches so that all see the same machine."""
    copy = lambda x: jnp.array(x) if isinstance(x, jax.Array) else x  # noqa: E731  # a step may donate its state
    runs = {name: Run(jax.tree.map(copy, start)) for name in steps}
    with tqdm(total=len(batches) * len(steps), unit="step") as bar:
        for first in range(0, len(batches), 10):
            for name, run in runs.items():
                for images, labels in batches[first : first + 10]:
                    began = time.perf_counter()
                    run.state, loss = steps[name](run.state, images, labels)
                    run.losses.append(float(loss))
                    took = time.perf_counter() - began
                    if len(run.losses) == 1:
                        run.compile_seconds = took
                    else:
                        run.seconds.append(took)
                    bar.update()
                bar.set_postfix({n: f"loss {r.losses[-1]:.3f}" for n, r in runs.items() if r.losses}, refresh=False)
    return runs


def finish(runs: dict[str, Run]) -> int:
    """Prints the times and whether the losses agree; gives the exit code."""
    times = {}
    for name, run in runs.items():
        times[name] = statistics.median(run.seconds or [run.compile_seconds])
        first = f"first step with compilation {run.compile_seconds:.1f} s"
        print(f"{name:9s}: {1e3 * times[name]:7.2f} ms a step (median), {first}, last loss {run.losses[-1]:.4f}")
    plain, graphed = runs.values()
    slow, fast = times.values()
    print(f"with the one line a step is {slow / fast:.2f} times as fast")
    # Later, rounding moves them apart as it does any two runs: a relu near 0 falls to the other side.
    early = np.abs(np.subtract(plain.losses, graphed.losses))[:4].max()
    print(f"losses of the first four steps differ by at most {early:.1e}")
    return int(early > 1e-2)
