"""Looks at what each step of the compiler leaves: `JAX_MPS_DUMP` writes it to files, `JAX_MPS_VERIFY` checks it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from jax.extend.core import ClosedJaxpr

from jax_mps.compiler.equations.equation import Flat
from jax_mps.compiler.passes.plan_memory import Memory
from jax_mps.ir.program import Program
from jax_mps.ir.verify import verify

_compiles = itertools.count(1)


class _Folder:
    """A folder of one compile; the files are numbered in the order of the steps."""

    def __init__(self, parent: str, closed: ClosedJaxpr) -> None:
        name = re.sub(r"\W+", "_", getattr(closed.jaxpr.debug_info, "func_name", "") or "function").strip("_")
        self._path = Path(parent) / f"{os.getpid()}-{next(_compiles):04}-{name[:60]}"
        self._files = itertools.count()
        self._path.mkdir(parents=True, exist_ok=True)
        self.write("jaxpr", str(closed))

    def write(self, step: str, text: str) -> None:
        """Writes what a step left."""
        (self._path / f"{next(self._files):03}-{step}.txt").write_text(text + "\n")


_folder: ContextVar[_Folder | None] = ContextVar("folder", default=None)


@contextlib.contextmanager
def watched(closed: ClosedJaxpr) -> Iterator[None]:
    """Steps inside are those of one compile, which has a folder of its own."""
    parent = os.environ.get("JAX_MPS_DUMP")
    token = _folder.set(_Folder(parent, closed) if parent else None)
    try:
        yield
    finally:
        _folder.reset(token)


def watch(step: str, left: Flat | Program, memory: Memory | None = None) -> None:
    """Called after each step with what it left, and the memory where it is planned."""
    folder = _folder.get()
    if folder is not None:
        folder.write(step, left.text())
    if isinstance(left, Program) and os.environ.get("JAX_MPS_VERIFY", "0") not in ("", "0"):
        verify(left, step, memory.arena if memory is not None else None)
