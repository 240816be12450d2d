"""Plants bugs into recorded kernels, to see that the sanitizers find them: planted.py FOLDER.

FOLDER, of record.py, has the case "softmax: rows of 1000". FOLDER-overrun, FOLDER-race and FOLDER-divergence get a
shader each: one that writes past its array, one that lacks its barriers, and one in which not all threads come to a
barrier. compile_cuda.py compiles them as any other.
"""

import json
import pathlib
import sys

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
BUGS = {
    "overrun": ("to[i] = T(", "to[i + 1] = T("),
    "race": (BARRIER, ""),
    "divergence": ("float log_sum = log(sum);", f"float log_sum = log(sum); if (lane != 1) {BARRIER}"),
}


def main() -> None:
    """Makes the folders."""
    folder = pathlib.Path(sys.argv[1])
    calls = json.loads((folder / "calls.json").read_text())
    call = next(c for c in calls if (c["op"], c["label"]) == ("softmax", "softmax: rows of 1000"))
    name = next(d["source"] for d in call["dispatches"] if d["function"] == "softmax")
    text = (folder / "sources" / name).read_text()
    whole, data = (folder / "data.bin").read_bytes(), b""
    blobs = [
        (a, k, a["bytes"]) for d in call["dispatches"] for a in d["arguments"] for k in ("before", "after") if k in a
    ]
    for owner, key, size in [*blobs, *((r, "truth", 8 * r["count"]) for r in call["results"])]:
        owner[key], data = len(data), data + whole[owner[key] : owner[key] + size]
    for bug, (good, bad) in BUGS.items():
        assert good in text
        target = folder.with_name(f"{folder.name}-{bug}")
        (target / "sources").mkdir(parents=True, exist_ok=True)
        for d in call["dispatches"]:  # the device's test of its memory may be one
            source = (folder / "sources" / d["source"]).read_text()
            (target / "sources" / d["source"]).write_text(source)
        (target / "sources" / name).write_text(text.replace(good, bad))
        (target / "calls.json").write_text(json.dumps([call]))
        (target / "data.bin").write_bytes(data)


if __name__ == "__main__":
    main()
