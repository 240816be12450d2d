"""Settings of the process."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import warnings

from jax_mps import ffi

# glibc's mallopt parameters (malloc.h), and the values that keep freed memory in the process.
_KEPT = 2**31 - 1  # the most that mallopt takes
_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # large arrays come from the heap, not from mappings of their own that die with them
    "M_TRIM_THRESHOLD": (-1, _KEPT),  # the heap's freed top is not given back, up to this many bytes
    "M_TOP_PAD": (-2, 64 << 20),  # the heap grows by 64 MB at a time
    "M_ARENA_MAX": (-8, 1),  # one heap, so that every thread reuses what any other has freed
}
_VARIABLE = "JAX_MPS_KEEP_FREED_MEMORY"


def keep_freed_memory(limit: int | None = None, idle: float = 5.0) -> None:
    """Makes glibc keep freed memory for the next allocation, and give it back when the process is idle.

    XLA allocates every intermediate anew, and on Linux each fresh page of a large array costs a page fault the first
    time that it is touched. Training steps with large arrays outside of `mps.graph` become 1.2 to 1.6 times as fast,
    plain `jax.jit` and PyTorch too. A graphed step gains little: its intermediates lie in one arena already.

    `import jax_mps` calls it, unless the environment variable JAX_MPS_KEEP_FREED_MEMORY is 0. It helps most when it
    comes before large allocations.

    What it costs: while the process works it stays near its peak; holes between long-lived arrays can raise that peak;
    threads share one heap, so code that allocates small objects from many threads at once waits for its lock. It cannot
    be undone, and holds for the whole process.

    Equivalent to: mallopt with M_MMAP_MAX=0, M_TRIM_THRESHOLD=limit, M_TOP_PAD=64 MB, M_ARENA_MAX=1, and
    `give_back_memory()` after `idle` seconds in which no native kernel ran.

    Args:
        limit: bytes of freed memory at the end of the heap that are kept, at most 2^31-1; None for a quarter of the
            machine's memory.
        idle: seconds; math.inf never gives back.

    Raises:
        RuntimeError: where the C library is not glibc (macOS, Windows, musl), or refuses; nothing is changed then.
        ValueError: if limit or idle is out of range.

    Example:
        >>> import jax_mps as mps
        >>> mps.config.keep_freed_memory()  # doctest: +SKIP

    Reference: mallopt(3), malloc_trim(3).
    """
    if limit is not None and not 0 <= limit <= _KEPT:
        raise ValueError(
            f"keep_freed_memory: limit must be between 0 and 2^31-1 bytes, but is {limit}. Check its unit."
        )
    if not idle > 0:
        raise ValueError(f"keep_freed_memory: idle must be above 0 seconds, but is {idle}. Pass math.inf for never.")
    name, version = platform.libc_ver()
    if name != "glibc":
        raise RuntimeError(
            f"keep_freed_memory: the C library must be glibc, but is {name or platform.system()} {version}".rstrip()
            + ". Go without it: mps.graph keeps its working memory anyway."
        )
    if limit is None:
        limit = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4, _KEPT)
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = {**_SETTINGS, "M_TRIM_THRESHOLD": (_SETTINGS["M_TRIM_THRESHOLD"][0], limit)}
    refused = [parameter for parameter, setting in settings.items() if not mallopt(*setting)]
    if refused:
        raise RuntimeError(
            f"keep_freed_memory: glibc {version} must take {', '.join(refused)}, but refuses. Go without it: "
            "mps.graph keeps its working memory anyway."
        )
    if not math.isinf(idle):
        with contextlib.suppress(ModuleNotFoundError):  # without a native half nothing runs
            ffi.native().give_back_when_idle(idle)


def give_back_memory() -> None:
    """Gives the working memory of graphed functions, and what glibc keeps of freed memory, back to the system at once.

    Example:
        >>> import jax_mps as mps
        >>> mps.config.give_back_memory()
    """
    ffi.native().give_back_memory()


def from_environment() -> None:
    """Keeps freed memory unless the environment says no; warns where it asks for what cannot be."""
    wanted = os.environ.get(_VARIABLE, "")
    if wanted not in ("0", "1", ""):
        raise ValueError(f"{_VARIABLE}: must be 0 or 1, but is {wanted!r}. Unset it.")
    if wanted == "0":
        return
    try:
        keep_freed_memory()
    except RuntimeError as reason:
        if wanted == "1":
            warnings.warn(str(reason), RuntimeWarning, stacklevel=2)
