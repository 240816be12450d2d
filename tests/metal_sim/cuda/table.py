"""The tables of ../H200.md from the reports of gpu.py, replay.py and bandwidth.py: table.py REPORT.json..."""

import json
import pathlib
import sys

DTYPES = ("float32", "float16", "bfloat16")


def errors(reports: list[dict]) -> str:
    """Op by dtype: the largest error to the meaning, and how many calls."""
    ops: dict[tuple[str, str], tuple[float, int]] = {}
    for report in reports:
        for op, dtype, error, calls in report["ops"]:
            most, count = ops.get((op, dtype), (0.0, 0))
            ops[op, dtype] = max(most, error), count + calls
    lines = [f"| op | {' | '.join(DTYPES)} | calls |", "|---" * 5 + "|"]
    for op in sorted({op for op, _ in ops}):
        cells = [f"{ops[op, d][0]:.1e}" if (op, d) in ops else "" for d in DTYPES]
        lines.append(f"| {op} | {' | '.join(cells)} | {sum(ops.get((op, d), (0, 0))[1] for d in DTYPES)} |")
    return "\n".join(lines)


def rates(rows: list[list]) -> str:
    """What each large dispatch reached."""
    lines = ["| op | kernel | ms | rate | share |", "|---" * 5 + "|"]
    for op, kernel, rate, unit, share, milliseconds in rows:
        lines.append(
            f"| {op} | {kernel} | {milliseconds:.3f} | {rate:.0f} {unit} | {f'{share:.0%}' if share else ''} |"
        )
    return "\n".join(lines)


def sanitizers(rows: list[dict]) -> str:
    """What each tool reported, and whether it found what was planted for it."""
    lines = ["| tool | dispatches | errors | planted bug found |", "|---" * 4 + "|"]
    for tool in dict.fromkeys(r["tool"] for r in rows):
        clean = [r for r in rows if r["tool"] == tool and not r["planted"]]
        errors = sum(r["errors"] or 0 for r in clean)
        unfinished = [r["log"] for r in clean if r["errors"] is None or r["dispatches"] is None]
        found = [f"{r['folder']}: {r['errors'] or 0} errors" for r in rows if r["tool"] == tool and r["planted"]]
        count = sum(r["dispatches"] or 0 for r in clean)
        note = f"; not finished: {', '.join(unfinished)}" if unfinished else ""
        lines.append(f"| {tool} | {count} | {errors}{note} | {', '.join(found) or 'none was planted'} |")
    return "\n".join(lines)


def kernels(reports: list[dict]) -> str:
    """Kernel and storage: the largest difference from the simulator's result."""
    most: dict[str, float] = {}
    for report in reports:
        for name, error in report["kernels"].items():
            most[name] = max(most.get(name, 0.0), error)
    functions = sorted({name.split()[0] for name in most})
    kinds = ("float", "half", "bfloat", "int", "uint", "uchar")
    lines = [f"| kernel | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    for f in functions:
        cells = [f"{most[f'{f} {k}']:.1e}" if f"{f} {k}" in most else "" for k in kinds]
        lines.append(f"| {f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints all tables."""
    found = {pathlib.Path(name).stem: json.loads(pathlib.Path(name).read_text()) for name in sys.argv[1:]}
    replays = [r for r in found.values() if isinstance(r, dict) and "ops" in r]
    for r in found.values():
        if isinstance(r, dict) and "about" in r:
            print(r["about"])
    if replays:
        totals = {key: sum(r[key] for r in replays) for key in ("calls", "dispatches", "unwritten")}
        print(totals, "failures:", [f for r in replays for f in r["failures"]])
        print(f"\n{errors(replays)}\n\n{kernels(replays)}")
    rows = [row for r in found.values() if isinstance(r, dict) for row in r.get("sanitizers", [])]
    if rows:
        print(f"\n{sanitizers(rows)}")
    for name, r in found.items():
        if isinstance(r, list):
            print(f"\n{name}\n\n{rates(r)}")


if __name__ == "__main__":
    main()
