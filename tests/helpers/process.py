"""Processes that a test starts: they run the package under test, whatever folder they begin in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax_mps

PACKAGE = Path(jax_mps.__file__).absolute().parents[1]  # the folder from which this process has jax_mps


def environment(*paths, **settings):
    """This process's environment for another: `paths`, then the package under test are where it imports from;
    settings that are None are taken away."""
    places = [*map(str, paths), str(PACKAGE), os.environ.get("PYTHONPATH", "")]
    all_settings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places)), "PYTHONSAFEPATH": "1"} | settings
    return {name: value for name, value in all_settings.items() if value is not None}


def python(*arguments, paths=(), cwd=None, check=True, timeout=600, **settings):
    """Runs Python with these arguments (`"-c", code`; `"-m", module`; a file, whose folder it imports from, too) in a
    process of its own, to its end; an end with an error fails the test, with what it wrote, unless `check` is False."""
    # Without -P it would import what lies in the current folder: the checkout's package, which may have no native half.
    if not str(arguments[0]).startswith("-"):
        paths = [Path(arguments[0]).parent, *paths]
    done = subprocess.run(
        [sys.executable, "-P", *map(str, arguments)],
        cwd=cwd,
        env=environment(*paths, **settings),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert not check or done.returncode == 0, f"ends with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-6000:]}"
    return done
