"""Which device runs the programs: Metal, the native CPU device, or XLA alone ("reference")."""

from __future__ import annotations

import os
from types import TracebackType

import jax

from jax_mps import ffi

_DEVICES = ("auto", "metal", "cpu", "reference")
_requested: str | None = None  # None: not yet read from the environment


def device() -> str:
    """The device that programs run on now: "metal", "cpu" or "reference".

    Example:
        >>> import jax_mps as mps
        >>> with mps.set_device("reference"):
        ...     mps.device()
        'reference'
    """
    global _requested
    if _requested is None:
        _requested = _checked(os.environ.get("JAX_MPS_DEVICE", "auto"), "JAX_MPS_DEVICE")
    return ffi.devices()[0] if _requested == "auto" else _requested


class set_device:
    """Chooses the device, for good or, as a context manager, for a block.

    Compiled functions know the device that they were compiled for, so JAX's caches are cleared.

    Args:
        name: "auto" (Metal where there is one, else the CPU), "metal", "cpu", or "reference" (every op runs on its
            meaning in XLA).

    Raises:
        ValueError: if there is no such device, or this machine does not have it.

    Example:
        >>> import jax_mps as mps
        >>> _ = mps.set_device("auto")
    """

    def __init__(self, name: str) -> None:
        global _requested
        name = _checked(name, "set_device")
        device()  # reads the environment first, so that leaving the block comes back to it
        self._before, _requested = _requested, name
        jax.clear_caches()

    def __enter__(self) -> set_device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _requested
        _requested = self._before
        jax.clear_caches()


def _checked(name: str, source: str) -> str:
    if name not in _DEVICES:
        raise ValueError(f"{source}: the device must be one of {', '.join(_DEVICES)}, but got {name!r}.")
    if name == "metal" and name not in ffi.devices():
        raise ValueError(f"{source}: this build or machine has no Metal device. Use 'cpu', or 'auto'.")
    return name
