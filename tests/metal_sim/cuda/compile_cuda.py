"""Compiles the kernels of recorded dispatches with nvcc: compile_cuda.py FOLDER [JOBS].

FOLDER is what record.py wrote. Each pipeline, a kernel with its function constants, becomes a function of its own;
some of them at a time go into a module. FOLDER gets module*.cubin and built.json, the calls with the names of both.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import os
import pathlib
import re
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import to_cuda

FLAGS = ["-std=c++20", "-arch=sm_90", "-O3", "-lineinfo", "-w", "-I", str(pathlib.Path(__file__).parent)]
PER_MODULE = 40
DATA_TYPES = {3: "f", 29: "i", 33: "I", 53: "?"}  # MTLDataType: as struct unpacks it


def value(kind: str, data: str) -> str:
    """A function constant as C++ writes it."""
    (number,) = struct.unpack(DATA_TYPES[int(kind)], bytes.fromhex(data))
    return str(number).lower() if isinstance(number, bool) else repr(number)


def elements(text: str, function: str) -> dict[int, str]:
    """The element type of each buffer of a kernel, by slot; typedefs are followed."""
    source = to_cuda.msl.Source(text, spaces=False)
    to_cuda.msl.take_constants(source)
    to_cuda.msl.take_kernels(source)
    names = {n: o for o, n in re.findall(r"\btypedef\s+(\w+)\s+(\w+)\s*;", text)}
    found = {}
    for a in source.kernels[function][0]:
        if a["kind"] == "kBuffer":
            kind = re.search(r"(\w+)\s*[*&]", a["type"])[1]
            found[int(a["index"])] = names.get(kind, kind)
    return found


def compile_module(path: pathlib.Path) -> None:
    """A file to a cubin beside it."""
    done = subprocess.run(
        ["nvcc", *FLAGS, "-cubin", "-o", path.with_suffix(".cubin"), path], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{path}: {done.stderr[:4000]}")


def main() -> None:
    """Compiles a folder."""
    folder = pathlib.Path(sys.argv[1])
    jobs = int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count()
    calls = json.loads((folder / "calls.json").read_text())
    preprocessed = functools.cache(lambda name: to_cuda.preprocess((folder / "sources" / name).read_text()))
    types = functools.cache(lambda name, function: elements(preprocessed(name), function))
    pipelines: dict[str, tuple[str, str]] = {}  # what it is made of -> module, kernel
    texts: list[str] = []
    for call in calls:
        for d in call["dispatches"]:
            key = json.dumps([d["source"], d["function"], d["constants"]])
            if key not in pipelines:
                constants = {int(i): value(*v) for i, v in d["constants"].items()}
                kernel = f"k{len(pipelines)}"
                if len(pipelines) % PER_MODULE == 0:
                    texts.append('#include "msl_cuda.h"\n')
                texts[-1] += to_cuda.translate(preprocessed(d["source"]), d["function"], constants, kernel)
                pipelines[key] = (f"module{len(texts) - 1}.cubin", kernel)
            d["module"], d["kernel"] = pipelines[key]
            for a in d["arguments"]:
                a["element"] = types(d["source"], d["function"])[a["slot"]]
    paths = [folder / f"module{i}.cu" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile_module, paths))
    (folder / "built.json").write_text(json.dumps(calls))
    print(f"{len(pipelines)} pipelines in {len(paths)} modules")


if __name__ == "__main__":
    main()
