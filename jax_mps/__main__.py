"""`python -m jax_mps doctor`: a report on this machine, and a self-test of every op; `bench`: times, in a checkout.

`run script.py`: an untouched program with `accelerate` on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from jax_mps import _run

_COMMANDS = (
    "doctor: what runs here, and whether every op is right; bench: how fast (bench --help tells more); "
    "run script.py: a program as it is, with mps.accelerate on"
)


def main() -> int:
    """Runs the command of the command line; gives the exit code."""
    if sys.argv[1:2] == ["bench"]:
        return _bench(sys.argv[2:])
    if sys.argv[1:2] == ["run"]:
        _run.start(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m jax_mps", description="Training kernels for JAX.")
    parser.add_argument("command", choices=["doctor", "bench", "run"], help=_COMMANDS)
    parser.add_argument("--device", default="auto", help="auto, metal, cpu or reference (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="on Metal, float32 and a few small steps only")
    parser.add_argument(
        "--report",
        metavar="FILE",
        nargs="?",
        const="jax_mps_doctor.txt",
        help="write what is printed to a file, too (default %(const)s)",
    )
    options = parser.parse_args()
    os.environ.setdefault("JAX_MPS_CACHE_DIR", "")  # kernels are compiled and compared anew
    from jax_mps import set_device
    from jax_mps.doctor import report

    set_device(options.device)
    with _both(options.report) if options.report else contextlib.nullcontext():
        return report.main(options.quick)


def _bench(arguments: list[str]) -> int:
    """Runs the benchmarks of the checkout that this package lies in, or else the current folder."""
    for root in (Path(__file__).parents[1], Path.cwd()):
        program = root / "tests" / "bench"
        if (program / "__main__.py").exists():
            sys.argv = [str(program), *arguments]
            runpy.run_path(str(program), run_name="__main__")
            return 0
    print(f"bench: the current folder must be a checkout of jax_mps, with tests/bench, but is {Path.cwd()}. Go to one.")
    return 2


@contextlib.contextmanager
def _both(path: str) -> Iterator[None]:
    """What is printed goes to a file, too."""
    with open(path, "w") as file, contextlib.redirect_stdout(_Both(sys.stdout, file)):
        yield


class _Both(io.TextIOBase):
    def __init__(self, *files: TextIO) -> None:
        self._files = files

    def write(self, text: str) -> int:
        for file in self._files:
            file.write(text)
            file.flush()  # a process that dies leaves what came before
        return len(text)


if __name__ == "__main__":
    sys.exit(main())
