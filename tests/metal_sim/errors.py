"""Writes docs/metal-errors.md: of each op and dtype the largest error seen on the Metal device.

    tests/metal_sim/run python tests/metal_sim/errors.py [--sample N] [--jobs N] [--keep FOLDER]

Every row of the table of cases and every check of doctor is run with its gradient; the results of each op on the way
are compared with its meaning in float64 on the same operands. --sample N takes one row in N (and every check); --jobs N
runs in so many processes; --keep FOLDER keeps what each row gave, so that a run that was stopped goes on where it
ended. What the same shaders gave on an NVIDIA GPU is copied from H200.md.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import os
import sys
import zlib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))

import jax  # noqa: E402

jax.config.update("jax_disable_most_optimizations", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from cases import CASES  # noqa: E402
from tqdm import tqdm  # noqa: E402

import jax_mps as mps  # noqa: E402
from jax_mps import ffi  # noqa: E402
from jax_mps.doctor import report  # noqa: E402
from jax_mps.primitive import OPS  # noqa: E402

DTYPES = ("float32", "float16", "bfloat16")
COMMAND = "tests/metal_sim/run python tests/metal_sim/errors.py"


def rows(sample: int):
    """(function, operands as numpy arrays, whether also in half precision) of what is run."""
    for case in CASES:
        seed = zlib.crc32(case.name.encode())
        if seed % sample == 0:
            rng = np.random.default_rng(seed)
            operands = [rng.standard_normal(o) if isinstance(o, tuple) else np.asarray(o(rng)) for o in case.operands]
            yield case.function, operands, case.half
    rng = np.random.default_rng(0)
    for check in report.CHECKS:
        yield check.function, [rng.standard_normal(shape) for shape in check.shapes], True


def cast(operands, dtype):
    return [jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else x.dtype) for x in operands]


def of_row(sample: int, keep: Path | None, number: int):
    """Of one row: (op, dtype, error), and the ops that stay on XLA, with the reason."""
    kept = keep and keep / f"{sample}-{number}.json"
    if kept and kept.exists():
        return json.loads(kept.read_text())
    function, operands, half = listed(sample)[number]
    found, elsewhere = [], {}
    for dtype in DTYPES if half else DTYPES[:1]:
        for finding in report.findings(function, cast(operands, dtype)):
            if finding.native:
                found.append((finding.op, dtype, float(finding.error)))
            else:
                elsewhere.setdefault(finding.op, finding.implementation)
    if kept:
        kept.write_text(json.dumps([found, elsewhere]))
    return found, elsewhere


@functools.cache
def listed(sample: int):
    """The rows, which hold functions and cannot go from process to process."""
    return list(rows(sample))


def measure(sample: int, jobs: int, keep: Path | None):
    """Op -> dtype -> largest error, and the ops that stay on XLA, with the reason."""
    errors = defaultdict(lambda: dict.fromkeys(DTYPES, None))
    elsewhere = {}
    count = len(listed(sample))
    context = multiprocessing.get_context("spawn")  # jax's threads do not outlive a fork
    with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
        of = functools.partial(of_row, sample, keep)
        for found, there in tqdm(pool.map(of, range(count)), total=count, mininterval=10):
            elsewhere = there | elsewhere
            for op, dtype, error in found:
                errors[op][dtype] = float(np.max([error, errors[op][dtype] or 0.0]))
    return errors, elsewhere


def on_the_gpu() -> dict[str, list[str]]:
    """Op -> its errors in DTYPES, as H200.md's first table has them."""
    lines = (Path(__file__).parent / "H200.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| op | float32"))
    table = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        op, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        table[op] = cells[: len(DTYPES)]
    return table


def page(errors, elsewhere, sample: int) -> str:
    """The page of docs."""
    device = ffi.native().metal_information()["name"]
    some = "every row" if sample == 1 else f"one in {sample} of the rows"
    lines = [
        "# Errors of the Metal kernels",
        "",
        f"The largest error of each op over {some} of `tests/helpers/cases.py` and the checks of `python -m jax_mps "
        "doctor`, values and gradients: the largest difference from the op's meaning in float64 on the same operands, "
        "relative to the largest element of the result or to 1. "
        "Half precision is storage; sums are in float32, and the error "
        "is that of the last rounding (2^-11 of float16, 2^-8 of bfloat16) where nothing cancels. A recurrent gradient "
        "that computes its gates again (`recompute=True`) begins each step with a rounded state, by which a sum next "
        "to a corner of its neuron may take the other slope: in one row with elu (a = 0.7) one of 5,400 does, and four "
        "numbers of `lstm_gradient` in bfloat16 differ by up to 7 %. The float32 errors of `lstm` are those of 32 "
        "steps of 64 units whose peepholes are as large as 3, where each step magnifies the rounding of the one "
        "before; the other rows stay below 5e-7.",
        "",
        f"Simulated Metal is the `{device}` of `tests/metal_sim`, whose shaders run on the CPU: its exp, log and tanh "
        "are those of the C library, and an Apple GPU's own differ in the last places. The columns of the NVIDIA H200 "
        "are those of `tests/metal_sim/H200.md`, which says what ran there. `-`: no row has it.",
        "",
        f"Made by `{COMMAND}{'' if sample == 1 else f' --sample {sample}'}`.",
        "",
        "| op | " + " | ".join(f"{dtype}, simulated Metal | {dtype}, H200" for dtype in DTYPES) + " |",
        "|---|" + "---|" * (2 * len(DTYPES)),
    ]
    gpu = on_the_gpu()
    for op in sorted(errors):
        cells = []
        for dtype, there in zip(DTYPES, gpu.get(op, [""] * len(DTYPES)), strict=True):
            cells += ["-" if errors[op][dtype] is None else f"{errors[op][dtype]:.1e}", there or "-"]
        lines.append(f"| `{op}` | {' | '.join(cells)} |")
    missing = {op.name for op in OPS.values()} - set(errors)
    if missing:
        lines += ["", "Not in the table:", ""]
        lines += [f"* `{op}`: {elsewhere.get(op, 'no row runs it')}" for op in sorted(missing)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=1, help="one in so many rows (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default %(default)s)")
    parser.add_argument("--keep", type=Path, help="a folder for what each row gave")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    assert mps.device() == "metal", "needs the Metal device: " + COMMAND
    path = ROOT / "docs" / "metal-errors.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(page(*measure(options.sample, options.jobs, options.keep), options.sample))
    print(path.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
