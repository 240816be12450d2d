"""Times jax_mps against jax.jit and PyTorch: python tests/bench [--only SECTION ...] [--json FILE].

Engines alternate within one process: every round in a new random order; before each engine a pause, in which the
threads of the one before fall asleep, then one run that does not count and three that do. Figures are medians; ratios
above 1 mean that jax_mps is faster. PyTorch is compared with where it is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import Bench
from sections import SECTIONS

import jax_mps as mps

ROUNDS, COUNTED, PAUSE = 6, 3, 0.01


def measure(engines: dict[str, Callable[[], Any]], rounds: int, counted: int = COUNTED) -> dict[str, float]:
    """The median seconds of each engine's call, which blocks until its work is done."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    order = list(engines)
    for run in engines.values():
        run()
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            if counted > 1:
                engines[name]()
            for _ in range(counted):
                start = time.perf_counter()
                engines[name]()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(samples) for name, samples in times.items()}


def report(bench: Bench, seconds: dict[str, float]) -> dict[str, Any]:
    """Prints one line and gives it as a record."""
    ours = seconds["jax_mps"]
    ratios = {name: s / ours for name, s in seconds.items() if name != "jax_mps"}
    work = ""
    if bench.flops:
        work = f"{bench.flops / ours / 1e9:7.0f} GFLOP/s"
    elif bench.bytes:
        work = f"{bench.bytes / ours / 1e9:7.1f} GB/s"
    shown = "  ".join(f"{ratio:6.2f}x {name}" for name, ratio in ratios.items())
    print(f"  {bench.name:44s} {ours * 1e3:9.3f} ms {work:15s} {shown}", flush=True)
    return {"name": bench.name, "group": bench.group, "seconds": seconds, "ratios": ratios, "work": work.strip()}


def summarise(records: list[dict[str, Any]]) -> None:
    """The geometric mean of each group's ratios."""
    groups = dict.fromkeys(r["group"] for r in records if r["group"])
    for group in groups:
        rows = [r for r in records if r["group"] == group]
        for other in rows[0]["ratios"]:
            mean = math.exp(statistics.fmean(math.log(r["ratios"][other]) for r in rows if other in r["ratios"]))
            print(f"  {group}: geometric mean {mean:.2f}x {other} over {len(rows)}")


def floors() -> dict[str, float]:
    """What the machine can do: a large product's arithmetic, a triad's bandwidth (three streams counted)."""
    n = 1536
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(mps.dense)
    size = 32 * 2**20
    x, y = np.ones(size, np.float32), np.ones(size, np.float32)
    triad = jax.jit(lambda x, y: x + 3.0 * y, donate_argnums=0)
    state = [jax.device_put(x)]
    y = jax.device_put(y)

    def run_triad() -> None:
        state[0] = triad(state[0], y)
        state[0].block_until_ready()

    seconds = measure({"product": lambda: product(a, a).block_until_ready(), "triad": run_triad}, 4)
    found = {"gflops": 2 * n**3 / seconds["product"] / 1e9, "triad": 12 * size / seconds["triad"] / 1e9}
    print(f"floors: {found['gflops']:.0f} GFLOP/s (float32 product), {found['triad']:.1f} GB/s (triad)")
    return found


def main() -> None:
    """Runs the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--json", metavar="FILE", help="write all figures here")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    random.seed(0)
    try:
        import torch

        other = f", torch {torch.__version__}"
    except ImportError:
        other = ", without torch"
    from jax_mps import ffi

    print(f"jax {jax.__version__}{other}, {platform.machine()}, {ffi.native().versions()}")
    result: dict[str, Any] = {"floors": floors(), "sections": {}}
    for section in args.only:
        print(f"{section}:")
        records = []
        for bench in SECTIONS[section]():
            seconds = measure(bench.engines, bench.rounds, 1) if bench.rounds else measure(bench.engines, args.rounds)
            records.append(report(bench, seconds))
        summarise(records)
        result["sections"][section] = records
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
