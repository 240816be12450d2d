"""`python -m jax_mps doctor`: a report on this machine, and a self-test of every op."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    """Runs the command of the command line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jax_mps", description="Training kernels for JAX.")
    parser.add_argument("command", choices=["doctor"], help="doctor: what runs here, and whether every op is right")
    parser.add_argument("--device", default="auto", help="auto, metal, cpu or reference (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="on Metal, float32 and a few small steps only")
    options = parser.parse_args()
    from jax_mps import doctor, set_device

    set_device(options.device)
    return doctor.main(options.quick)


if __name__ == "__main__":
    sys.exit(main())
