"""All that the machine with the GPU does: gpu.py HOME REPORTS [PART...].

Parts are replay, memcheck, racecheck, synccheck and bandwidth; all of them unless some are named.

HOME holds folders that record.py wrote and compile_cuda.py compiled. Those with numbers in them are repeated and
compared (replay), and once more under each tool of compute-sanitizer, which has to find what planted.py planted for it;
those named large* are timed (bandwidth). REPORTS gets the JSON files of which table.py makes tables. Exit status 1 if a
comparison fails, a tool reports an error, or a planted one is not found. Needs NumPy, CUDA's driver and toolkit.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
TOOLS = {"memcheck": "overrun", "racecheck": "race", "synccheck": "divergence"}  # and which planted bug each finds
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")
SHARDS = 4  # processes that share the calls of a folder
LIMIT = 540  # seconds


def run(log: pathlib.Path, *command: str | pathlib.Path) -> tuple[int, str]:
    """Exit status and output of a command, which is kept."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
        status, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as e:
        status, text = 124, (e.stdout or b"").decode(errors="replace") + f"\nstopped after {LIMIT} s\n"
    log.write_text(text)
    return status, text


def replay(folders: list[pathlib.Path], reports: pathlib.Path) -> bool:
    """Every folder repeated and compared, several at a time."""
    jobs = [(f, i) for f in folders for i in range(SHARDS)]

    def one(job: tuple[pathlib.Path, int]) -> tuple[int, str]:
        folder, i = job
        name = reports / f"replay-{folder.name}-{i}"
        options = ["--shard", f"{i}/{SHARDS}", "--report", name.with_suffix(".json")]
        return run(name.with_suffix(".log"), sys.executable, HERE / "replay.py", folder, *options)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        done = list(pool.map(one, jobs))
    for (folder, i), (status, text) in zip(jobs, done, strict=True):
        print(f"replay {folder.name} {i}: exit {status}; {text.strip().splitlines()[0] if text.strip() else ''}")
        if status:
            print(text[-2000:])
    return not any(status for status, _ in done)


def sanitizer(tool: str, folders: list[pathlib.Path], planted: list[pathlib.Path], reports: pathlib.Path) -> bool:
    """Every folder under a tool, and the planted bug that it finds."""
    jobs = [(f, i) for f in folders for i in range(SHARDS)]
    jobs += [(f, -1) for f in planted if f.name.endswith(f"-{TOOLS[tool]}")]

    def one(job: tuple[pathlib.Path, int]) -> dict:
        folder, i = job
        shard = f"{i}/{SHARDS}" if i >= 0 else "0/1"
        log = reports / f"{tool}-{folder.name}-{i}.log"
        command = ["compute-sanitizer", "--tool", tool, "--target-processes", "all", "--print-limit", "20"]
        _, text = run(log, *command, sys.executable, HERE / "replay.py", folder, "--shard", shard)
        counts = [int(n) for n in SUMMARY.findall(text)]
        ran = re.search(r"(\d+) calls, (\d+) dispatches", text)
        return {
            "tool": tool,
            "folder": folder.name,
            "planted": i < 0,
            "errors": max(counts) if counts else None,  # None: it did not come to its end
            "dispatches": int(ran[2]) if ran else None,
            "log": log.name,
        }

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        rows = list(pool.map(one, jobs))
    (reports / f"{tool}.json").write_text(json.dumps({"sanitizers": rows}, indent=1))
    clean = [r for r in rows if not r["planted"]]
    bad = [r["log"] for r in clean if r["errors"] != 0 or r["dispatches"] is None]
    missed = [r["folder"] for r in rows if r["planted"] and not r["errors"]]
    count = sum(r["dispatches"] or 0 for r in clean)
    print(f"{tool}: {count} dispatches, with errors or not finished: {bad}, planted and not found: {missed}")
    return not bad and not missed and any(r["planted"] for r in rows)


def bandwidth(folders: list[pathlib.Path], reports: pathlib.Path) -> bool:
    """The large dispatches, one after the other."""
    good = True
    for folder in folders:
        name = reports / f"bandwidth-{folder.name}"
        status, text = run(
            name.with_suffix(".log"), sys.executable, HERE / "bandwidth.py", folder, name.with_suffix(".json")
        )
        print(f"bandwidth {folder.name}: exit {status}\n{text[-6000:]}")
        good &= status == 0
    return good


def about(reports: pathlib.Path) -> None:
    """What the machine is."""
    gpu = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    tool = subprocess.run(["compute-sanitizer", "--version"], capture_output=True, text=True)
    version = re.search(r"[Vv]ersion ([\d.]+)", tool.stdout)
    text = {"gpu": gpu.stdout.strip(), "compute-sanitizer": version[1] if version else ""}
    (reports / "about.json").write_text(json.dumps({"about": text}, indent=1))
    print(text)


def main() -> int:
    """Runs the parts that are named, or all."""
    home, reports, *parts = sys.argv[1:]
    folders = sorted(p.parent for p in pathlib.Path(home).glob("*/built.json"))
    large = [f for f in folders if f.name.startswith("large")]
    planted = [f for f in folders if f.name.startswith("planted-")]
    numbers = [f for f in folders if f not in large and f not in planted]
    target = pathlib.Path(reports)
    target.mkdir(parents=True, exist_ok=True)
    about(target)
    good = True
    for part in parts or ("replay", *TOOLS, "bandwidth"):
        began = time.monotonic()
        if part == "replay":
            good &= replay(numbers, target)
        elif part in TOOLS:
            good &= sanitizer(part, numbers, planted, target)
        elif part == "bandwidth":
            good &= bandwidth(large, target)
        else:
            raise SystemExit(f"no part {part}: replay, {', '.join(TOOLS)}, bandwidth")
        print(f"== {part}: {time.monotonic() - began:.0f} s", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
