"""Times the dispatches of large arrays on an NVIDIA GPU: bandwidth.py FOLDER [REPORT].

FOLDER is what `record.py FOLDER --large` wrote and compile_cuda.py compiled. Each dispatch is timed by itself: the
median of seven rounds of ten. Its bytes are those of the arrays that it reads and of those that it writes, each once;
the share is of the bandwidth of the GPU's own copy between two arrays, counted alike.
"""

from __future__ import annotations

import ctypes
import functools
import json
import pathlib
import statistics
import sys

import numpy as np
from replay import Gpu, launch_of, load

ROUNDS, TIMES = 7, 10
CHUNK = 16 << 20
LEAST = 16 << 20  # bytes of a dispatch that is shown


class Timer:
    """Seconds between two events of the GPU."""

    def __init__(self, gpu: Gpu):
        self.gpu, self.events = gpu, [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in self.events:
            gpu.call("cuEventCreate", ctypes.byref(event), 0)

    def median(self, run) -> float:
        """Of one `run()`, after one that does not count."""
        seconds = []
        for _ in range(ROUNDS + 1):
            self.gpu.call("cuEventRecord", self.events[0], None)
            for _ in range(TIMES):
                run()
            self.gpu.call("cuEventRecord", self.events[1], None)
            self.gpu.call("cuEventSynchronize", self.events[1])
            elapsed = ctypes.c_float()
            self.gpu.call("cuEventElapsedTime_v2", ctypes.byref(elapsed), *self.events)
            seconds.append(elapsed.value / 1e3 / TIMES)
        return statistics.median(seconds[1:])


def fill(gpu: Gpu, address: int, size: int, kind: str) -> None:
    """Floating numbers from 0.5 to 1.5; integers are 0."""
    numbers = np.random.default_rng(0).uniform(0.5, 1.5, CHUNK // 4).astype(np.float32)
    data = {"float": numbers, "half": np.tile(numbers.astype(np.float16), 2)}.get(kind, np.zeros(CHUNK // 4, np.int32))
    data = data.view(np.uint8)
    for at in range(0, size, CHUNK):
        gpu.put(address + at, data[: min(CHUNK, size - at)])


def arrays_of(call: dict) -> dict[tuple[int, int], str]:
    """The ranges of memory that a call touches, overlapping ones joined, and what is in them."""
    spans: list[list] = []
    used = [a for d in call["dispatches"] for a in d["arguments"] if a["access"] != "constant"]
    for a in sorted(used, key=lambda a: a["address"]):
        if spans and a["address"] < spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], a["address"] + a["bytes"])
        else:
            spans.append([a["address"], a["address"] + a["bytes"], a["element"]])
    return {(begin, end): kind for begin, end, kind in spans}


def traffic(dispatch: dict) -> int:
    """The bytes of the arrays that a dispatch reads and of those that it writes; one bound twice counts once."""
    arrays = {(a["address"], a["access"]): a["bytes"] for a in dispatch["arguments"] if a["access"] != "constant"}
    return sum(arrays.values())


def measure(gpu: Gpu, timer: Timer, data: np.ndarray, call: dict) -> list[float]:
    """Seconds of each dispatch of a call."""
    memory = {}
    for (begin, end), kind in arrays_of(call).items():
        memory[begin, end] = gpu.new(end - begin)
        fill(gpu, memory[begin, end], end - begin, kind)
    seconds, constants = [], []
    for d in call["dispatches"]:
        at = {}
        for a in d["arguments"]:
            if a["access"] == "constant":
                constants.append(gpu.new(a["bytes"]))
                gpu.put(constants[-1], data[a["before"] : a["before"] + a["bytes"]])
                at[a["slot"]] = constants[-1]
            else:
                at[a["slot"]] = next(m + a["address"] - b for (b, e), m in memory.items() if b <= a["address"] < e)
        launch, shared = launch_of(d, at)
        arguments = d["kernel"], d["groups"], d["threads"], shared, launch
        seconds.append(timer.median(functools.partial(gpu.launch, *arguments)))
    for address in [*memory.values(), *constants]:
        gpu.free(address)
    return seconds


def main() -> None:
    """Prints a table."""
    folder = pathlib.Path(sys.argv[1])
    gpu = Gpu()
    calls, data, timer = load(gpu, folder), np.fromfile(folder / "data.bin", np.uint8), Timer(gpu)
    size = 1 << 30
    one, other = gpu.new(size), gpu.new(size)
    fill(gpu, one, size, "float")
    copy = lambda: gpu.call("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(other), ctypes.c_uint64(one), size, None)  # noqa: E731
    size = ctypes.c_size_t(size)
    peak = 2 * size.value / timer.median(copy)
    gpu.free(one), gpu.free(other)
    rows = [["copy", "", peak / 1e9, "GB/s", 1.0, 0.0]]
    for call in calls:
        for d, seconds in zip(call["dispatches"], measure(gpu, timer, data, call), strict=True):
            if (moved := traffic(d)) < LEAST:
                continue
            product = call["label"] and d["function"] == "gemm"
            rate = (call["label"] if product else moved) / seconds / 1e9
            unit, share = ("GFLOP/s", 0.0) if product else ("GB/s", rate * 1e9 / peak)
            rows.append([call["op"], d["function"], rate, unit, share, seconds * 1e3])
            print(f"{call['op']:36} {d['function']:22} {seconds * 1e3:8.3f} ms {rate:9.0f} {unit} {share:.0%}")
    print(f"copy {peak / 1e9:.0f} GB/s")
    if len(sys.argv) > 2:
        pathlib.Path(sys.argv[2]).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
