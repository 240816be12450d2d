"""Repeats recorded dispatches on an NVIDIA GPU and compares: with the simulator, and with each op's meaning.

replay.py FOLDER [--shard I/N] [--report FILE]: FOLDER is what record.py wrote and compile_cuda.py compiled. Of the
dispatches of one op, those after the first take the GPU's own results, so that its last results are the GPU's alone.
Exit status 1 if anything differs by more than it may. With --shard, one call in N, from the I-th on. Needs NumPy, and
CUDA's driver.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import pathlib
import sys
import time

import numpy as np

SLOTS = 31
# Of an op against its meaning in float64, relative to the largest element: the tests' own tolerances.
TOLERANCE = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
NUMPY = {"float": np.float32, "half": np.float16, "int": np.int32, "uint": np.uint32, "uchar": np.uint8}
NUMPY |= {"float32": np.float32, "float16": np.float16, "int32": np.int32, "uint32": np.uint32, "uint8": np.uint8}


class Launch(ctypes.Structure):
    """msl::Launch of msl_cuda.h."""

    _fields_ = [("buffer", ctypes.c_uint64 * SLOTS), ("threadgroup", ctypes.c_uint32 * SLOTS)]


class Gpu:
    """The few calls of CUDA's driver that this needs."""

    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.functions: dict[str, ctypes.c_void_p] = {}

    def call(self, name: str, *arguments) -> None:
        if status := getattr(self.cuda, name)(*arguments):
            raise RuntimeError(f"{name}: CUDA error {status}")

    def load(self, path: pathlib.Path, names: list[str]) -> None:
        module = ctypes.c_void_p()
        self.call("cuModuleLoad", ctypes.byref(module), str(path).encode())
        for name in names:
            self.functions[name] = ctypes.c_void_p()
            self.call("cuModuleGetFunction", ctypes.byref(self.functions[name]), module, name.encode())

    def new(self, size: int) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def put(self, address: int, data: np.ndarray) -> None:
        self.call(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(address),
            data.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_size_t(data.nbytes),
        )

    def get(self, address: int, size: int) -> np.ndarray:
        data = np.empty(size, np.uint8)
        self.call(
            "cuMemcpyDtoH_v2", data.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(address), ctypes.c_size_t(size)
        )
        return data

    def launch(self, name: str, groups: list[int], threads: list[int], shared: int, launch: Launch) -> None:
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(launch))
        self.call("cuLaunchKernel", self.functions[name], *groups, *threads, shared, None, arguments, None)


def launch_of(dispatch: dict, at: dict[int, int]) -> tuple[Launch, int]:
    """The arguments of a dispatch whose slots are at these addresses, and the bytes of dynamic shared memory."""
    launch, shared = Launch(), 0
    for slot, address in at.items():
        launch.buffer[slot] = address
    for index, size in dispatch["threadgroup"].items():
        launch.threadgroup[int(index)] = shared
        shared += size
    return launch, shared


def load(gpu: Gpu, folder: pathlib.Path) -> list[dict]:
    """The recorded calls; the compiled kernels are loaded."""
    modules = collections.defaultdict(list)
    calls = json.loads((folder / "built.json").read_text())
    for call in calls:
        for d in call["dispatches"]:
            modules[d["module"]].append(d["kernel"])
    for module, names in modules.items():
        gpu.load(folder / module, sorted(set(names)))
    return calls


def numbers(data: np.ndarray, kind: str) -> np.ndarray:
    """Bytes as float64 or as integers."""
    if kind in ("bfloat", "bfloat16"):
        typed = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        typed = data.view(NUMPY[kind])
    with np.errstate(invalid="ignore"):  # signalling NaN, in memory that nobody has written
        return typed.astype(np.float64) if typed.dtype.kind == "f" else typed.astype(np.int64)


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference relative to the largest number, or to 1; NaN and infinity must be alike."""
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    finite = np.isfinite(wanted)
    scale = max(1.0, np.abs(wanted[finite]).max(initial=0))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0, np.abs(got - wanted) / scale)
    return float(np.where(np.isfinite(off), off, np.inf).max(initial=0))


class Memory:
    """What the simulator and the GPU have at the simulator's addresses, as far as a call has shown it."""

    def __init__(self):
        self.pieces: list[tuple[int, np.ndarray, np.ndarray]] = []  # address, simulator's, GPU's; latest last

    def write(self, address: int, simulated: np.ndarray, real: np.ndarray) -> None:
        self.pieces.append((address, simulated, real))

    def read(self, address: int, simulated: np.ndarray) -> np.ndarray:
        """The GPU's bytes where the simulator has left what it reads now."""
        data = simulated.copy()
        for begin, old, real in self.pieces:
            first, last = max(address, begin), min(address + len(data), begin + len(real))
            if first < last:
                here, there = slice(first - address, last - address), slice(first - begin, last - begin)
                data[here] = np.where(old[there] == simulated[here], real[there], data[here])
        return data

    def last(self, address: int, size: int) -> np.ndarray | None:
        """What the simulator has at the end; None if there is a byte that no dispatch wrote."""
        data, known = np.zeros(size, np.uint8), np.zeros(size, bool)
        for begin, old, _ in self.pieces:
            first, last = max(address, begin), min(address + size, begin + len(old))
            if first < last:
                data[first - address : last - address] = old[first - begin : last - begin]
                known[first - address : last - address] = True
        return data if known.all() else None


class Replay:
    """Runs calls and keeps the largest errors."""

    def __init__(self, gpu: Gpu, data: np.ndarray):
        self.gpu, self.data = gpu, data
        self.dispatches = self.calls = 0
        self.unwritten = 0  # results that XLA itself made
        self.kernels: dict[str, float] = collections.defaultdict(float)  # function and dtype -> error to the simulator
        self.ops: dict[tuple[str, str], list[float]] = {}  # op, dtype -> largest error to the meaning, calls
        self.failures: list[str] = []

    def blob(self, at: int, size: int) -> np.ndarray:
        return self.data[at : at + size]

    def call(self, call: dict) -> None:
        memory = Memory()
        self.calls += 1
        for d in call["dispatches"]:
            self.dispatch(call, d, memory)
        key = (call["op"], call["dtype"])
        row = self.ops.setdefault(key, [0.0, 0])
        row[1] += 1
        for r in call["results"]:
            wanted = self.blob(r["truth"], 8 * r["count"]).view(np.float64)
            size = r["count"] * (2 if r["dtype"].endswith("16") else 1 if r["dtype"] in ("uint8", "bool") else 4)
            if (last := memory.last(r["address"], size)) is None:
                self.unwritten += 1
                continue
            seen = memory.read(r["address"], last)
            off = error(numbers(seen, "uint8" if r["dtype"] == "bool" else r["dtype"]), wanted)
            row[0] = max(row[0], off)
            if off > (TOLERANCE[call["dtype"]]):
                self.failures.append(
                    f"{call['label']} {call['dtype']}: {call['op']} differs from its meaning by {off:.2g}"
                )

    def dispatch(self, call: dict, d: dict, memory: Memory) -> None:
        """One launch, each array in memory of its own that is exactly as long; arrays that overlap share it."""
        self.dispatches += 1
        spans = []  # [begin, end, bytes]
        for a in sorted((a for a in d["arguments"] if a["access"] != "constant"), key=lambda a: a["address"]):
            before = memory.read(a["address"], self.blob(a["before"], a["bytes"]))
            if spans and a["address"] < spans[-1][1]:
                begin, end, _ = spans[-1]
                grown = np.zeros(max(end, a["address"] + a["bytes"]) - begin, np.uint8)
                grown[: end - begin] = spans[-1][2]
                grown[a["address"] - begin :][: a["bytes"]] = before
                spans[-1] = [begin, begin + len(grown), grown]
            else:
                spans.append([a["address"], a["address"] + a["bytes"], before])
        where = {}
        for begin, end, before in spans:
            where[begin, end] = self.gpu.new(end - begin)
            self.gpu.put(where[begin, end], before)
        at, constants = {}, []
        for a in d["arguments"]:
            if a["access"] == "constant":
                constants.append(self.gpu.new(a["bytes"]))
                self.gpu.put(constants[-1], self.blob(a["before"], a["bytes"]))
                at[a["slot"]] = constants[-1]
            else:
                at[a["slot"]] = next(m + a["address"] - b for (b, e), m in where.items() if b <= a["address"] < e)
        launch, shared = launch_of(d, at)
        self.gpu.launch(d["kernel"], d["groups"], d["threads"], shared, launch)
        self.gpu.call("cuCtxSynchronize")
        for a in d["arguments"]:
            if a["access"] == "written":
                real, simulated = self.gpu.get(at[a["slot"]], a["bytes"]), self.blob(a["after"], a["bytes"])
                memory.write(a["address"], simulated, real)
                kind = a["element"]
                off = error(numbers(real, kind), numbers(simulated, kind))
                key = f"{d['function']} {kind}"
                self.kernels[key] = max(self.kernels[key], off)
                name = {"half": "float16", "bfloat": "bfloat16"}.get(kind, "float32")
                if off > TOLERANCE[name] or (kind in ("int", "uint", "uchar") and off):
                    text = f"{call['label']} {call['dtype']}: {call['op']}: {d['function']}'s '{a['name']}'"
                    self.failures.append(f"{text} differs from the simulator's by {off:.2g}")
        for address in [*where.values(), *constants]:
            self.gpu.free(address)


def main() -> int:
    """Repeats a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--report", type=pathlib.Path)
    options = parser.parse_args()
    gpu = Gpu()
    calls = load(gpu, options.folder)
    replay = Replay(gpu, np.fromfile(options.folder / "data.bin", np.uint8))
    started = time.monotonic()
    first, step = map(int, options.shard.split("/"))
    for call in calls[first::step]:
        replay.call(call)
    print(f"{replay.calls} calls, {replay.dispatches} dispatches, {time.monotonic() - started:.1f} s;", end=" ")
    print(f"{replay.unwritten} results are not the device's")
    print(f"{len(replay.failures)} failures", *replay.failures[:40], sep="\n")
    if options.report:
        ops = [[op, dtype, *row] for (op, dtype), row in sorted(replay.ops.items())]
        report = {"ops": ops, "kernels": replay.kernels, "failures": replay.failures}
        report |= {"calls": replay.calls, "dispatches": replay.dispatches, "unwritten": replay.unwritten}
        options.report.write_text(json.dumps(report, indent=1))
    return bool(replay.failures)


if __name__ == "__main__":
    sys.exit(main())
