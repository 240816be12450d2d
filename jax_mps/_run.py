"""Runs a program, untouched, with accelerate on: `python -m jax_mps run script.py`, as `python script.py` would.

It is a program of its own, in a process that has not imported JAX: the script may set what JAX reads when it is
imported (JAX_ENABLE_X64, JAX_PLATFORMS). accelerate is turned on when the script imports JAX.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

USAGE = "usage: python -m jax_mps run script.py [arguments], or run -m module [arguments]"


def start(arguments: list[str]) -> NoReturn:
    """Becomes the process that runs the program; its exit code is the program's."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, __file__, *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)


def main(arguments: list[str]) -> int:
    """Runs what the command line names; gives the exit code where the program ends by an error."""
    match arguments:
        case ["-m", name, *rest]:
            first, run = os.getcwd(), lambda: runpy.run_module(name, run_name="__main__", alter_sys=True)
        case [name, *rest] if not name.startswith("-"):
            if not os.path.exists(name):
                print(f"run: the script must exist, but there is no {name!r}. {USAGE}", file=sys.stderr)
                return 2
            first, run = os.path.dirname(os.path.abspath(name)), lambda: runpy.run_path(name, run_name="__main__")
        case ["-h" | "--help"]:
            print(USAGE)
            return 0
        case _:
            print(f"run: a script, or -m and a module, must follow. {USAGE}", file=sys.stderr)
            return 2
    sys.argv = [name, *rest]
    del sys.path[: not sys.flags.safe_path]  # the folder of this file
    if not sys.flags.safe_path:
        sys.path.insert(0, first)
    sys.meta_path.insert(0, _AfterJax())
    try:
        run()
    except SystemExit:
        raise
    except BaseException as error:
        error.__traceback__ = _of_the_program(error.__traceback__)
        sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


class _AfterJax(importlib.abc.MetaPathFinder):
    """Turns accelerate on when JAX has been imported."""

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module as others find it."""
        if name != "jax":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _accelerate()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _accelerate() -> None:
    home = str(Path(__file__).resolve().parents[1])
    sys.path.append(home)  # a checkout that is not installed
    try:
        from jax_mps import accelerate
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(home)
    accelerate()


def _of_the_program(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without what runs the program."""
    ours = {__file__, runpy.__file__, "<frozen runpy>", "<frozen importlib._bootstrap>"}
    while traceback is not None and traceback.tb_frame.f_code.co_filename in ours:
        traceback = traceback.tb_next
    return traceback


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
