"""Writes docs/figures.md's table from figures.json, one machine a column; `add` takes in what bench.py measured.

    python docs/site/figures.py                                         the page
    python docs/site/figures.py add --name NAME --about TEXT RUN.json ...   a machine's column from `bench --json` files

A figure is a ratio of median times, above 1 where jax_mps is faster. Of several runs the lowest and the highest are
kept: {"machines": [{"name", "about", "figures": {row: {engine: [low, high]}}}]}.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
DATA, PAGE = HOME / "figures.json", HOME.parent / "figures.md"
BEGIN, END = "<!-- begin figures -->\n", "<!-- end figures -->\n"

# Row: what the page calls it; then bench.py's section, and the group or the beginning of the names that make it up.
ROWS: dict[str, tuple[str, str, str]] = {
    "conv forward": ("convolution, forward (geometric mean of eight shapes)", "conv", "forward float32"),
    "conv data": ("convolution, data gradient", "conv", "data gradient float32"),
    "conv weight": ("convolution, weight gradient", "conv", "weight gradient float32"),
    "conv forward bfloat16": ("convolution, forward, bfloat16", "conv", "forward bfloat16"),
    "conv data bfloat16": ("convolution, data gradient, bfloat16", "conv", "data gradient bfloat16"),
    "conv weight bfloat16": ("convolution, weight gradient, bfloat16", "conv", "weight gradient bfloat16"),
    "max pool": ("max pool, forward and backward", "pool", "max pool forward and backward"),
    "batch norm": ("batch norm + relu, forward and backward", "norm", "batch norm"),
    "cross-entropy small": (
        "softmax cross-entropy, forward and backward, 4096x1000",
        "loss",
        "softmax cross-entropy f+b 4096x1000",
    ),
    "cross-entropy large": ("the same, 256x32000", "loss", "softmax cross-entropy f+b 256x32000"),
    "adam step": ("Adam, 25 million parameters (`mps.optim.step`)", "optim", "adam step, 25M"),
    "adam update": (
        "Adam, `update` and optax's `apply_updates` apart",
        "optim",
        "copy of gradients, adam update + apply, 25M",
    ),
    "digits": ("digit network, a training step of 64, with `mps.graph`", "digits", "digits step"),
    "digits Flax": ("the digit network in Flax and optax, with `mps.graph`", "graph", "Flax digits step"),
    "residual": ("residual stack in Flax and optax, with `mps.graph`", "graph", "Flax residual stack"),
    "lstm 200": (
        "LSTM, forward and backward, 32x20x64 to 200 (against `lax.scan`)",
        "rnn",
        "lstm 32x20x64 to 200, forward and backward",
    ),
    "lstm 200 weights": ("the same without the inputs' gradient", "rnn", "lstm 32x20x64 to 200, without"),
    "lstm 512": ("LSTM, 32x20x64 to 512", "rnn", "lstm 32x20x64 to 512, forward and backward"),
    "lstm 200 steps": ("LSTM, 200 steps, to 200", "rnn", "lstm 32x200x64 to 200, forward and backward"),
    "lstm 2000 steps": ("LSTM, 2,000 steps, to 200", "rnn", "lstm 32x2000x64 to 200, forward and backward"),
    "gru 200": ("GRU, 32x20x64 to 200", "rnn", "gru 32x20x64 to 200, forward and backward"),
    "gru 512": ("GRU, 32x20x64 to 512", "rnn", "gru 32x20x64 to 512, forward and backward"),
    "Flax LSTM": (
        "Flax LSTM by `scan`, 32x20x64 to 200, gradient, with `mps.graph`",
        "graph",
        "Flax OptimizedLSTMCell by scan",
    ),
    "Flax GRU": ("Flax GRU by `scan`, the same", "graph", "Flax GRUCell by scan"),
    "Equinox": ("Equinox residual network (`examples/equinox_resnet.py`), with `mps.graph`", "", ""),
    "Inception": ("Inception blocks 16x28x28x64 in Flax, with `mps.graph`", "graph", "Inception blocks 16x28x28x64"),
    "AdamW": ("optax's AdamW over 60 leaves, with `mps.graph`", "graph", "AdamW over 60 leaves"),
    "compile": ("tracing and planning 100 layers, against XLA's compilation of them", "graph", "trace and plan 100"),
}
ENGINES = {"xla": "", "torch": "PyTorch ", "torch.compile": "torch.compile "}


def measured(run: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """The figures of one run of bench.py: of a group its geometric mean, of names their lowest and highest."""
    found: dict[str, dict[str, list[float]]] = {}
    for row, (_, section, key) in ROWS.items():
        records = run["sections"].get(section, []) if section else []
        group = [r["ratios"] for r in records if r["group"] == key]
        named = [r["ratios"] for r in records if r["name"].startswith(key)]
        for engine in ENGINES:
            values = [ratios[engine] for ratios in group or named if engine in ratios]
            if values and group:
                values = [math.exp(statistics.fmean(map(math.log, values)))]
            if values:
                found.setdefault(row, {})[engine] = [min(values), max(values)]
    return found


def joined(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """The lowest and the highest of several runs."""
    found: dict[str, dict[str, list[float]]] = {}
    for figures in map(measured, runs):
        for row, engines in figures.items():
            for engine, (low, high) in engines.items():
                before = found.setdefault(row, {}).get(engine, [low, high])
                found[row][engine] = [min(low, before[0]), max(high, before[1])]
    return found


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _range(bounds: list[float]) -> str:
    low, high = map(_number, bounds)
    return low if low == high else f"{low.removesuffix('.0') if '.' not in high else low} to {high}"


def _cell(engines: dict[str, list[float]]) -> str:
    return "; ".join(f"{ENGINES[engine]}{_range(bounds)}" for engine, bounds in engines.items()) or "-"


def table(data: dict[str, Any]) -> str:
    """The machines, and a row for each figure that one of them has."""
    machines = data["machines"]
    lines = [f"* **{m['name']}**: {m['about']}." for m in machines]
    lines += ["", f"| against `jax.jit`; PyTorch | {' | '.join(m['name'] for m in machines)} |"]
    lines.append("|---" * (len(machines) + 1) + "|")
    for row, (words, _, _) in ROWS.items():
        cells = [_cell(m["figures"].get(row, {})) for m in machines]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(json.loads(DATA.read_text()))}\n{END}{after}"


def add(name: str, about: str, runs: list[Path]) -> None:
    """A machine's column, in place of one of the same name."""
    data = json.loads(DATA.read_text())
    machine = {"name": name, "about": about, "figures": joined([json.loads(path.read_text()) for path in runs])}
    data["machines"] = [m for m in data["machines"] if m["name"] != name] + [machine]
    DATA.write_text(json.dumps(data, indent=1) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    adding = commands.add_parser("add")
    adding.add_argument("--name", required=True)
    adding.add_argument("--about", required=True)
    adding.add_argument("runs", nargs="+", type=Path)
    options = parser.parse_args()
    if options.command == "add":
        add(options.name, options.about, options.runs)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
