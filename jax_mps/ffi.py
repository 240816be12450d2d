"""The one XLA custom call: its registration, and what its device says of a program."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_mps._compat import mlir

_TARGET = "jax_mps"


@functools.cache
def native() -> Any:
    """The native module, with its custom call registered."""
    import jax_mps._ext as _ext

    _require_api(_ext.ffi_api)
    jax.ffi.register_ffi_target(_TARGET, _ext.target(), platform="cpu")
    return _ext


def _require_api(built: tuple[int, int]) -> None:
    """ImportError where the native half was built for a later FFI API than jaxlib's, which its headers tell.

    Registered all the same, it would be refused when JAX's CPU backend starts, and the backend with it.
    """
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    if not header.is_file():
        return
    words = re.findall(r"^#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)$", header.read_text(), re.MULTILINE)
    has = tuple(map(int, words))
    if len(has) == 2 and (built[0] != has[0] or built > has):
        texts = [".".join(map(str, version)) for version in (built, has)]
        raise ImportError(
            f"jax_mps: jaxlib must take calls of FFI API {texts[0]}, for which jax_mps was built, but jaxlib "
            f"{jax.lib.__version__} has {texts[1]}. Install a later jaxlib, or build jax_mps again, with the headers "
            "that its pyproject.toml names, as pip install does."
        )


@functools.cache
def build() -> str:
    """The version, and a digest of the native half: what tells one build of this library from another."""
    from jax_mps import __version__

    with open(native().__file__, "rb") as file:
        return f"{__version__}+{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def _attributes(text: str) -> dict[str, str]:
    """The attributes of the custom call.

    JAX finds on disk what it has compiled by a key of the whole function, so `build` keeps each build to its own. The
    native half does not read it: a function that another version has exported runs.
    """
    return {"program": text, "build": build()}


@functools.cache
def devices() -> tuple[str, ...]:
    """The devices of this build and machine that have kernels of their own, best first."""
    return tuple(native().devices())


def text_for(device: str, text: str) -> str:
    """The text of a program as it is sent to a device: without a word of it, the CPU runs it."""
    return text if device == "cpu" else f"device {device}\n{text}"


def implementations(text: str) -> list[str]:
    """The device's implementation of each step of a program; ValueError with the reason if one has none."""
    return native().implementations(text)


def lower(ctx: mlir.LoweringRuleContext, text: str, operands: Sequence[Any], aliases: Iterable[tuple[int, int]]) -> Any:
    """Lowers to the program's custom call; the (operand, result) pairs of `aliases` share memory if of one type."""
    native()
    ins, outs = ([str(aval) for aval in avals] for avals in (ctx.avals_in, ctx.avals_out))
    shared = {i: o for i, o in aliases if ins[i] == outs[o]}
    ctx = ctx.replace(avals_out=_more_than_a_state(ctx.avals_out, jax.core.ShapedArray))
    results = jax.ffi.ffi_lowering(_TARGET, operand_output_aliases=shared)(ctx, *operands, **_attributes(text))
    return results[: len(outs)]


def _more_than_a_state(results: Sequence[Any], type_: Callable[..., Any]) -> list[Any]:
    """The results and, where there are several, one of no bytes, so that the call is never all of a loop's next state.

    XLA takes operand i of whatever ends a loop's body for element i of the next state. Of a call that ends it alone, an
    operand that the loop carries at its own place then counts as a constant of the loop, which never ends.
    """
    return [*results, type_((0,), jnp.uint8)] if len(results) > 1 else list(results)


def call(text: str, operands: Sequence[jax.Array], results: Sequence[jax.ShapeDtypeStruct]) -> list[jax.Array]:
    """Runs a program on arrays: `results` gives the shapes and dtypes of its outputs."""
    native()
    given = _more_than_a_state(results, jax.ShapeDtypeStruct)
    return list(jax.ffi.ffi_call(_TARGET, tuple(given))(*operands, **_attributes(text)))[: len(results)]


class CacheInfo(NamedTuple):
    """The cache of compiled programs, and the working memory kept between calls."""

    count: int  # type: ignore[assignment]  # compiled programs
    bytes: int  # an estimate of what they keep
    limit: int  # programs kept at most, least recently used out first
    hits: int
    misses: int
    arena_bytes: int  # working memory kept for the next call


def cache_info() -> CacheInfo:
    """How many compiled programs are kept, how large they are, and how much working memory waits for reuse.

    Example:
        >>> import jax_mps as mps
        >>> mps.cache_info().limit
        1024
    """
    return CacheInfo(**native().cache_info())


def set_cache_limit(programs: int) -> None:
    """Keeps at most `programs` compiled programs (1024 at the start), least recently used out first.

    Raises:
        ValueError: if `programs` is below 1; TypeError if it is no integer.
    """
    if not isinstance(programs, int) or programs >= 2**63:
        raise TypeError(f"set_cache_limit: programs must be an integer, but got {programs!r}. 1024 is usual.")
    if programs < 1:
        raise ValueError(
            f"set_cache_limit: programs must be at least 1, but got {programs}. Use clear_cache to empty it."
        )
    native().set_cache_limit(programs)


def clear_cache() -> None:
    """Drops every compiled program and all working memory that waits for reuse; both come back on demand."""
    native().clear_cache()


# Functions that another process has exported call the target before any op here does. This starts no backend. Where the
# native half is not built, the first call says so.
with contextlib.suppress(ModuleNotFoundError):
    native()
