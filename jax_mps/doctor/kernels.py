"""What doctor tells of the Metal device's kernels: which compiled on this GPU, which were right, and which won."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from jax_mps import ffi
from jax_mps._device import device

_NOT_COMPILED = re.compile("does not compile|makes no pipeline|threads in a group")


class Kernel(NamedTuple):
    """One implementation of an op for one dtype, over all shapes that met it."""

    op: str
    dtype: str
    implementation: str
    tried: int  # shapes
    compiled: int
    agreed: int
    won: int
    reason: str  # of the first that did not

    def __str__(self) -> str:
        counts = f"{self.tried:5} {self.compiled:8} {self.agreed:6} {self.won:4}"
        return f"{self.op:30} {self.dtype:5} {self.implementation:44} {counts}  {self.reason}".rstrip()


HEAD = f"{'op':30} {'dtype':5} {'implementation':44} tried compiled agreed  won"


def kernels() -> list[Kernel]:
    """What came of every kernel that this process has met."""
    if device() != "metal":
        return []
    return tally(ffi.native().metal_verdicts())


def tally(verdicts: Iterable[tuple[str, str, str, float]]) -> list[Kernel]:
    """The verdicts (node, implementation, outcome, seconds) by op, dtype and implementation."""
    found: dict[tuple[str, str, str], Kernel] = {}
    for node, implementation, outcome, _ in verdicts:
        dtype = re.search(r"\((\w+)\[", node)
        key = node.partition("(")[0], dtype[1] if dtype else "", implementation
        row = found.get(key, Kernel(*key, 0, 0, 0, 0, ""))
        if outcome in ("won", "won before"):
            found[key] = row._replace(won=row.won + 1)
            continue
        agreed, compiled = outcome == "agrees", not _NOT_COMPILED.search(outcome)
        found[key] = row._replace(
            tried=row.tried + 1,
            compiled=row.compiled + compiled,
            agreed=row.agreed + agreed,
            reason=row.reason or ("" if agreed else first_line(outcome)),
        )
    return sorted(found.values())


def first_line(words: str) -> str:
    """The beginning of a compiler's message, for a table."""
    line = words.strip().partition("\n")[0]
    return line if len(line) <= 120 else line[:117] + "..."


def main() -> None:
    """Prints the table."""
    rows = kernels()
    if not rows:
        return
    print(f"\n{HEAD}")
    for row in rows:
        print(row)
    left_out = sum(row.agreed < row.tried for row in rows)
    print(f"\n{len(rows)} kernels: {sum(row.won > 0 for row in rows)} serve, {left_out} are left out for some shape")
