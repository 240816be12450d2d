"""`python -m jax_mps doctor`: a report on this machine, and a self-test of every op."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def main() -> int:
    """Runs the command of the command line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jax_mps", description="Training kernels for JAX.")
    parser.add_argument("command", choices=["doctor"], help="doctor: what runs here, and whether every op is right")
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
