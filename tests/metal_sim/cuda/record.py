"""Writes down what the Metal device dispatches on the simulator, for replay.py to repeat it on an NVIDIA GPU.

tests/metal_sim/run python tests/metal_sim/cuda/record.py FOLDER [REGEX]: every op that the table of cases and
programs.py (those whose names match) run eagerly, value and gradient, in each dtype. With each op goes its meaning in
float64, of the same operands. FOLDER gets calls.json, data.bin and sources/.
tests/metal_sim/run python tests/metal_sim/cuda/record.py FOLDER --large [REGEX]: the dispatches of large.py's sizes,
which are not run, for bandwidth.py.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).absolute().parent
sys.path[:0] = [str(HERE.parents[1] / "helpers"), str(HERE)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import jax_mps as mps  # noqa: E402
from jax_mps.primitive import OPS  # noqa: E402

DTYPES = {"float32": jnp.float32, "float16": jnp.float16, "bfloat16": jnp.bfloat16}


class Recorder:
    """Follows the file that the simulator writes, call by call."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "sources").mkdir(parents=True, exist_ok=True)
        self.data = (folder / "data.bin").open("wb")
        self.at = 0
        self.blobs: dict[bytes, int] = {}
        self.calls: list[dict] = []
        self.outside = 0  # dispatches of no call
        self.on_xla: set[str] = set()  # ops for which the device has no kernel
        self.raw = pathlib.Path(tempfile.mkdtemp())
        self.file = self.raw / "dispatches"
        self.file.touch()
        os.environ["METAL_SIM_RECORD"] = str(self.raw)

    def blob(self, data: bytes) -> int:
        """Keeps bytes, equal ones once; gives their offset."""
        if data not in self.blobs:
            self.blobs[data] = self.at
            self.at += self.data.write(data)
        return self.blobs[data]

    def take(self) -> list[dict]:
        """The dispatches since the last time."""
        data = self.file.read_bytes()
        self.file.write_bytes(b"")
        found: list[dict] = []
        at = 0
        while at < len(data):
            end = data.index(b"\n", at)
            word, *rest = data[at:end].decode().split()
            at = end + 1
            if word == "dispatch":
                source, function, *sizes = rest
                grid = [int(s) for s in sizes]
                groups = [t // s for t, s in zip(grid[:3], grid[3:], strict=True)]
                assert [g * s for g, s in zip(groups, grid[3:], strict=True)] == grid[:3], "a grid of whole groups"
                found.append({"source": source, "function": function, "groups": groups, "threads": grid[3:]})
                found[-1] |= {"constants": {}, "threadgroup": {}, "arguments": []}
            elif word == "constant":
                found[-1]["constants"][rest[0]] = rest[1:]
            elif word == "threadgroup":
                found[-1]["threadgroup"][rest[0]] = int(rest[1])
            elif word == "argument":
                name, slot, access, address, size, has = rest
                argument = {"name": name, "slot": int(slot), "access": access, "address": int(address)}
                argument |= {"bytes": int(size), "before": data[at : at + int(size)] if has == "1" else None}
                at += (int(size) + 1) * (has == "1")
                found[-1]["arguments"].append(argument)
            elif word == "after":
                for a in found[-1]["arguments"]:
                    if a["access"] == "written" and a["before"] is not None:
                        a["after"] = data[at : at + a["bytes"]]
                        at += a["bytes"] + 1
        return found

    def keep(self, op: str, label: str, dtype: str, arrays: list, results: list, truths: list) -> bool:
        """Adds the dispatches since the last time as a call; of a page that the host lent, only its arrays."""
        dispatches = self.take()
        known = [(x.unsafe_buffer_pointer(), x.nbytes) for x in arrays]
        for d in dispatches:
            if not (target := self.folder / "sources" / d["source"]).exists():
                target.write_text((self.raw / d["source"]).read_text())
            for a in d["arguments"]:
                for begin, size in known:
                    if a["access"] != "constant" and begin <= a["address"] < begin + size:
                        a["bytes"] = min(a["bytes"], begin + size - a["address"])
                for key in ("before", "after"):
                    if a.get(key) is not None:
                        a[key] = self.blob(a[key][: a["bytes"]])
        if dispatches:
            call = {"op": op, "label": label, "dtype": dtype, "dispatches": dispatches, "results": []}
            for x, truth in zip(results, truths, strict=True):
                number = {"address": x.unsafe_buffer_pointer(), "dtype": str(x.dtype), "count": x.size}
                call["results"].append(number | {"truth": self.blob(np.asarray(truth, np.float64).tobytes())})
            self.calls.append(call)
        return bool(dispatches)

    def save(self) -> None:
        """Writes the list of calls."""
        self.data.flush()
        (self.folder / "calls.json").write_text(json.dumps(self.calls))


def watch(recorder: Recorder, label: dict) -> None:
    """Has every op that runs eagerly recorded, with its meaning in float64."""
    inside = []

    def run(op, *operands, **attributes):
        if inside or label["dtype"] is None:
            return op._run_eagerly(*operands, **attributes)
        recorder.outside += len(recorder.take())
        results = jax.block_until_ready(op._run_eagerly(*operands, **attributes))
        truths = []
        if recorder.file.stat().st_size:
            inside.append(op)
            with jax.enable_x64(True):
                wide = [
                    jnp.asarray(np.asarray(x, np.float64)) if jnp.issubdtype(x.dtype, jnp.floating) else x
                    for x in operands
                ]
                meaning = jax.jit(functools.partial(op._results, **attributes))
                truths = [np.asarray(y, np.float64) for y in meaning(*wide)]
            inside.pop()
        if not recorder.keep(op.name, label["name"], label["dtype"], [*operands, *results], list(results), truths):
            recorder.on_xla.add(op.name)
        return results

    for op in OPS.values():
        op._primitive.def_impl(functools.partial(run, op))


def run_case(recorder: Recorder, function, operands) -> None:
    """The value and, in float16 and narrower too, the gradient of every floating operand.

    An op that trains by another one, as the recurrent layers do, is kept by itself too.
    """
    begin = len(recorder.calls)
    function(*operands)
    alone = recorder.calls[begin:]
    del recorder.calls[begin:]
    floating = [i for i, x in enumerate(operands) if jnp.issubdtype(x.dtype, jnp.floating)]

    def of_floating(*some):
        rest = iter(some)
        return function(*(next(rest) if i in floating else x for i, x in enumerate(operands)))

    values, pull = jax.vjp(of_floating, *(operands[i] for i in floating))
    rng = np.random.default_rng(0)
    pull(jax.tree.map(lambda y: jnp.asarray(rng.standard_normal(y.shape), y.dtype), values))
    again = {call["op"] for call in recorder.calls[begin:]}
    recorder.calls += [call for call in alone if call["op"] not in again]


def record_cases(folder: pathlib.Path, pattern: str) -> None:
    """All cases, dtype by dtype."""
    from cases import CASES
    from op_common import cast, operands_of
    from programs import PROGRAMS

    recorder = Recorder(folder)
    label: dict = {"name": "", "dtype": None}
    watch(recorder, label)
    started = time.monotonic()
    for dtype, type_ in DTYPES.items():
        for case in CASES:
            if re.search(pattern, case.name) and (dtype == "float32" or case.half):
                label |= {"name": case.name, "dtype": dtype}
                run_case(recorder, case.function, cast(operands_of(case), type_))
        for name, program in PROGRAMS.items():
            if re.search(pattern, name):
                label |= {"name": name, "dtype": dtype}
                program(recorder, name, type_)
        label["dtype"] = None
        recorder.save()
        print(dtype, len(recorder.calls), "calls,", f"{time.monotonic() - started:.0f} s", flush=True)
    dispatches = sum(len(c["dispatches"]) for c in recorder.calls)
    print(f"{len(recorder.calls)} calls, {dispatches} dispatches, {recorder.outside} outside of calls,", end=" ")
    print(f"{recorder.at / 1e6:.1f} MB; without a kernel: {sorted(recorder.on_xla)}")


def record_large(folder: pathlib.Path, pattern: str) -> None:
    """The dispatches of large arrays, with no numbers in them."""
    from large import LARGE

    recorder = Recorder(folder)
    jax.block_until_ready(mps.relu(jnp.ones(4)))  # the device's test of its memory runs
    recorder.take()
    os.environ["METAL_SIM_RECORD_ONLY"] = "1"
    for name, (function, shapes, work) in LARGE.items():
        if not re.search(pattern, name):
            continue
        # Arrays that nobody writes take no memory.
        operands = [jnp.asarray(np.zeros(shape, dtype)) for shape, dtype in shapes]
        results = jax.block_until_ready(jax.jit(function)(*operands))
        arrays = [*operands, *jax.tree.leaves(results)]
        recorder.keep(name, work, str(operands[0].dtype), arrays, [], [])
    recorder.save()


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    large = rest[:1] == ["--large"]
    (record_large if large else record_cases)(pathlib.Path(folder), (rest[large:] or [""])[0])
