"""The tables of ../H200.md from the reports of replay.py and bandwidth.py: table.py REPORT..."""

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


if __name__ == "__main__":
    found = [json.loads(pathlib.Path(name).read_text()) for name in sys.argv[1:]]
    replays = [r for r in found if isinstance(r, dict)]
    totals = {key: sum(r[key] for r in replays) for key in ("calls", "dispatches", "unwritten")}
    print(totals, "failures:", [f for r in replays for f in r["failures"]])
    print(errors(replays))
    for rows in found:
        if isinstance(rows, list):
            print(rates(rows))
