"""The section busy: training steps beside processes that keep half of the cores busy."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from common import Bench
from graph import _digits, _residual

from jax_mps import ffi

ROUNDS, SECONDS = 3, 2.0  # of each state, and at least so long


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.3)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _median(run: Callable[[], Any]) -> float:
    """Of calls that take SECONDS in all, so that the system's scheduler has had its turns."""
    times = []
    run()
    while sum(times) < SECONDS or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def busy() -> Iterator[Bench]:
    """Prints what the same step takes idle and beside busy cores, by turns; it compares no engines."""
    threads = int(ffi.native().versions().split(", ")[-1].split()[0])
    count = max(1, threads // 2)
    for bench in (next(iter(_residual(compare=False))), next(iter(_digits()))):
        shown = []
        for engine in ("jax_mps", "xla"):
            idle, beside = [], []
            for _ in range(ROUNDS):
                idle.append(_median(bench.engines[engine]))
                with _busy(count):
                    beside.append(_median(bench.engines[engine]))
            before, after = statistics.median(idle), statistics.median(beside)
            shown.append(f"{engine} {before * 1e3:.1f} -> {after * 1e3:.1f} ms ({after / before:.2f}x)")
        print(f"  {bench.name}, {threads} threads beside {count} busy cores: {', '.join(shown)}", flush=True)
    yield from ()
