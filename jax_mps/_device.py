"""Which device runs the programs: Metal, the native CPU device, or XLA alone ("reference")."""

from __future__ import annotations

import functools
import os
from types import TracebackType
from typing import cast, get_args

import jax

from jax_mps import ffi
from jax_mps._types import Device, DeviceName

_DEVICES = ("auto", *get_args(Device))
# The chosen device, None for the environment's; in the keys of JAX's caches, which keep what each device compiled.
_chosen = jax.make_user_context()


def device() -> Device:
    """The device that programs run on now: "metal", "cpu" or "reference".

    Example:
        >>> import jax_mps as mps
        >>> with mps.set_device("reference"):
        ...     mps.device()
        'reference'
    """
    name = _chosen.value or _of_environment()
    return cast(Device, ffi.devices()[0] if name == "auto" else name)


class set_device:
    """Chooses the device, for good or, as a context manager, for a block.

    A jitted function called on another device is traced and compiled for that one; what it was compiled for before is
    kept.

    Args:
        name: "auto" (Metal where there is one, else the CPU), "metal", "cpu", or "reference" (every op runs on its
            meaning in XLA).

    Raises:
        ValueError: if there is no such device, or this machine does not have it.

    Example:
        >>> import jax_mps as mps
        >>> _ = mps.set_device("auto")
    """

    def __init__(self, name: DeviceName) -> None:
        chosen = _checked(name, "set_device")
        self._before = _chosen.get_global()
        _chosen.set_global(None if chosen == _of_environment() else chosen)

    def __enter__(self) -> set_device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _chosen.set_global(self._before)


@functools.cache
def _of_environment() -> str:
    return _checked(os.environ.get("JAX_MPS_DEVICE", "auto"), "JAX_MPS_DEVICE")


def _checked(name: str, source: str) -> str:
    if name not in _DEVICES:
        raise ValueError(f"{source}: the device must be one of {', '.join(_DEVICES)}, but got {name!r}.")
    if name == "metal" and name not in ffi.devices():
        raise ValueError(f"{source}: this build or machine has no Metal device. Use 'cpu', or 'auto'.")
    return name
