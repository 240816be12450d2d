"""Settings of the process that are off unless asked for."""

from __future__ import annotations

import ctypes
import os
import platform
import warnings

# glibc's mallopt parameters (malloc.h), and the values that keep freed memory in the process.
_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # large arrays come from the heap, not from mappings of their own that die with them
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),  # the heap's freed top is not given back
    "M_TOP_PAD": (-2, 64 << 20),  # the heap grows by 64 MB at a time
    "M_ARENA_MAX": (-8, 1),  # one heap, so that every thread reuses what any other has freed
}
_VARIABLE = "JAX_MPS_KEEP_FREED_MEMORY"


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next allocation, instead of giving large arrays back to the system.

    XLA allocates every intermediate anew, and on Linux each fresh page of a large array costs a page fault the first
    time that it is touched. Training steps with large arrays outside of `mps.graph` become 1.2 to 1.6 times as fast
    (plain `jax.jit` and PyTorch too: in a comparison both sides must run with it). A graphed step gains little: its
    intermediates lie in one arena already.

    What it costs: the process never gives memory back, so it stays at its peak; holes between long-lived arrays can
    raise that peak; threads share one heap, so code that allocates small objects from many threads at once waits for
    its lock. It cannot be undone, holds for the whole process, and helps most when it comes before large allocations:
    call it first, or set the environment variable JAX_MPS_KEEP_FREED_MEMORY=1, which `import jax_mps` reads.

    Equivalent to: mallopt with M_MMAP_MAX=0, M_TRIM_THRESHOLD=2^31-1, M_TOP_PAD=64 MB, M_ARENA_MAX=1.

    Raises:
        RuntimeError: where the C library is not glibc (macOS, Windows, musl), or refuses; nothing is changed then.

    Example:
        >>> import jax_mps as mps
        >>> mps.config.keep_freed_memory()  # doctest: +SKIP

    Reference: mallopt(3).
    """
    name, version = platform.libc_ver()
    if name != "glibc":
        raise RuntimeError(
            f"keep_freed_memory: the C library must be glibc, but is {name or platform.system()} {version}".rstrip()
            + ". Go without it: mps.graph keeps its working memory anyway."
        )
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    refused = [parameter for parameter, setting in _SETTINGS.items() if not mallopt(*setting)]
    if refused:
        raise RuntimeError(
            f"keep_freed_memory: glibc {version} must take {', '.join(refused)}, but refuses. Go without it: "
            "mps.graph keeps its working memory anyway."
        )


def from_environment() -> None:
    """Applies what the environment asks for; warns where it cannot be."""
    wanted = os.environ.get(_VARIABLE, "0")
    if wanted not in ("0", "1", ""):
        raise ValueError(f"{_VARIABLE}: must be 0 or 1, but is {wanted!r}. Unset it.")
    if wanted == "1":
        try:
            keep_freed_memory()
        except RuntimeError as reason:
            warnings.warn(str(reason), RuntimeWarning, stacklevel=2)
