"""Runs random whole programs under graph and holds them against NumPy; shrinks what fails. See random_programs.py."""

from __future__ import annotations

import argparse
import functools
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import jax
from numpy_oracle import faults, samples
from random_whole import arguments, plan, program
from setting import quick_compilation

import jax_mps as mps

natively = functools.partial(mps.graph, without=("weigh_gains",))  # regions that XLA runs as well, too


def failure(steps, gradients, args, graphed=natively):
    """What is wrong with a program's results under graph, or ""."""
    function = program(steps, gradients)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        try:
            got = jax.jit(graphed(function))(*args)
        except Exception as error:  # whatever it raises, the program itself does not
            jax.eval_shape(function, *args)
            return f"raises {type(error).__name__}: {str(error)[:300]}"
        for count in (5, 40):  # few runs first: where they are exceeded, more tell whether float32 is
            runs, avals = samples(function, args, count)
            found = faults(got, runs, avals)
            if not found:
                return ""
        return "; ".join(f"result {i}: {words}" for i, words in found)


def shrunk(steps, gradients, args):
    """The fewest steps that still fail, and how."""
    words = failure(steps, gradients, args)
    if gradients and (without := failure(steps, False, args)):
        gradients, words = False, without
    smaller = True
    while smaller:
        smaller = False
        for i in reversed(range(len(steps))):
            fewer = steps[:i] + steps[i + 1 :]
            try:
                found = failure(fewer, gradients, args)
            except Exception:  # a program of its own that JAX does not take
                continue
            if found:
                steps, words, smaller = fewer, found, True
                break
    return steps, gradients, words


def check(seed, shrink=True):
    """The words of a seed's fault, or ""."""
    (steps, gradients), args = plan(seed), arguments(seed)
    words = failure(steps, gradients, args)
    if not words or not shrink:
        return words
    steps, gradients, words = shrunk(steps, gradients, args)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        trace = jax.make_jaxpr(program(steps, gradients))(*args)
    return f"{words}\n  steps {[s[-1] for s in steps]}, gradients {gradients}\n{trace}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    parser.add_argument("--seconds", type=int, default=120, help="after which a program counts as hanging")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        jax.config.update("jax_disable_most_optimizations", True)  # XLA compiles faster; kernels are as they are
        for seed in range(options.seed, options.seed + options.count):
            print("seed", seed, flush=True)
            try:
                words = check(seed, not options.no_shrink)
            except Exception as error:  # of the judge, not the judged: the others go on
                words = f"cannot be judged: {type(error).__name__}: {str(error)[:500]}"
            print("done", flush=True)
            if words:
                print(f"FAULT {seed}: {words}", flush=True)
            if seed % 20 == 19:
                jax.clear_caches()
        return 0
    return supervise(options)


def supervise(options):
    """Workers of a hundred programs each; a worker that hangs or crashes at a seed goes on after it."""
    seed, last, bad, start = options.seed, options.seed + options.count, 0, time.time()
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {quick_compilation()}"}
    while seed < last:
        count = min(100, last - seed)
        command = [sys.executable, str(Path(__file__)), "--worker", "--seed", str(seed), "--count", str(count)]
        command += ["--no-shrink"] * options.no_shrink
        current, ended = seed, False
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
            while True:
                ready, _, _ = select.select([worker.stdout], [], [], options.seconds)
                line = worker.stdout.readline() if ready else None
                if line is None:
                    worker.kill()
                    print(f"FAULT {current}: no end after {options.seconds} s", flush=True)
                    break
                if not line:
                    ended = worker.wait() == 0
                    if not ended:
                        print(f"FAULT {current}: the process died with {worker.returncode}", flush=True)
                    break
                if line.startswith("seed "):
                    current = int(line.split()[1])
                elif line != "done\n":
                    bad += line.startswith("FAULT")
                    print(line, end="", flush=True)
        bad += not ended
        seed = seed + count if ended else current + 1
        print(f"{seed - options.seed} programs, {bad} faults, {time.time() - start:.0f} s", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
