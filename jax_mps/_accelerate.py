"""accelerate: every jitted function of a program, whoever wrote it, compiled as under `mps.graph`.

The jaxpr that `jax.jit` is about to compile is graphed, gradients and all, whatever it came from: Keras, Flax, a jit of
long ago. XLA's own hook (`jax.extend.xla.register_hlo_module_transformation`) comes too late for that: its modules are
fused and laid out for the CPU already, convolutions sit in XLA's fusions and pools' gradients are scatters, and the
keys of JAX's compilation cache do not know of it, so that a program without it finds on disk what it has made.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jax_mps._compat import (
    cached_by_jaxpr,
    compile_what_it_gives,
    has_sizes,
    is_array_type,
    jaxprs_in_params,
    places_devices,
    set_in_this_thread,
    with_names_of,
)
from jax_mps._device import device
from jax_mps.compiler.equations.flatten import PROGRAM
from jax_mps.compiler.function import NAME
from jax_mps.compiler.gains import SMALL_PRODUCTS
from jax_mps.compiler.graph import graph
from jax_mps.primitive import OPS

# Multiply-adds, and elements of pools' windows, below which a function is left alone. For products outside of loops
# SMALL_PRODUCTS holds, as for a region of a graph.
_SMALL = 1 << 15
_POOLS = {"reduce_window_max", "reduce_window_sum", "select_and_scatter_add"}
_ALONE = {"mps_random_bits", "mps_pick", "mps_pick_gradient"}  # ops that alone are no reason to graph what they are in

# Whether it is on: in the keys of JAX's caches, which keep both of what each function was compiled to.
_on = jax.make_user_context()
_lock = threading.Lock()
_switches: list[accelerate] = []  # that hold for the process, the last one first of all
_AT_ONCE = 64  # switches of blocks that threads may be about to enter
_thread = threading.local()


class accelerate:
    """Compiles every function of `jax.jit` as under `mps.graph`, for good or, as a context manager, for a block.

    Nothing in the program has to change: the training loops of Keras and Flax, `nnx.jit`, Equinox's `filter_jit`, and
    functions that were jitted before become few native calls, with the results of `jax.jit(mps.graph(f))`, and donate
    and cache as before. Functions with nothing to gain, or on several devices, run as they would without it;
    `mps.explain` says why. So do single ops outside of jit, what is lowered ahead of time (`jit(f).lower(x)`), and
    what `jax.export` writes: there `mps.graph` is the way.

    The switch is the whole process's; a block, and a switch in it, is its thread's, and ends with it. What JAX has
    compiled is kept for when it is on, and for when it is off. `python -m jax_mps run script.py` runs a program with it
    on.

    Args:
        on: whether it is on from now on.

    Raises:
        TypeError: if `on` is no bool.
        RuntimeError: if this version of JAX compiles in a way that is not known here.

    Example:
        >>> import jax, jax.numpy as jnp, jax_mps as mps
        >>> step = jax.jit(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME").sum())
        >>> with mps.accelerate():
        ...     float(step(jnp.ones((1, 8, 16, 16)), jnp.ones((8, 8, 3, 3))))
        135424.0
    """

    def __init__(self, on: bool = True) -> None:
        if not isinstance(on, bool):
            raise TypeError(
                f"accelerate: on must be True or False, but got {on!r}. It takes no function: mps.graph(f) does."
            )
        if on:
            compile_what_it_gives(_replaced)
        self._value = on or None  # off is as if it had never been on
        self._restore: Callable[[], None] | None = None
        if _blocks():
            self._restore = set_in_this_thread(_on, self._value)
            return
        with _lock:
            _switches.append(self)
            del _switches[:-_AT_ONCE]
            _on.set_global(self._value)

    def __enter__(self) -> accelerate:
        if self._restore is None:
            with _lock:  # it is no longer the process's
                if self in _switches:
                    _switches.remove(self)
                    _on.set_global(_switches[-1]._value if _switches else None)
            self._restore = set_in_this_thread(_on, self._value)
        _thread.blocks = _blocks() + 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _thread.blocks = _blocks() - 1
        if self._restore is not None:
            self._restore()
            self._restore = None

    def __repr__(self) -> str:
        return f"accelerate({bool(self._value)})"


def _blocks() -> int:
    """In how many blocks this thread is."""
    return getattr(_thread, "blocks", 0)


def accelerated(closed: ClosedJaxpr, args: Sequence[Any] = ()) -> tuple[ClosedJaxpr, str]:
    """What a jitted function is compiled to for these arguments, and, if that is what it was, the reason or ""."""
    if not _on.value or _is_one_op(closed.jaxpr, ""):
        return closed, ""
    if _is_elsewhere([x.sharding for x in args if isinstance(x, jax.Array)]):
        return closed, "accelerate leaves it: it runs on several devices, or on none that is a CPU"
    graphed, reason = _graphed(closed)
    return graphed or closed, reason


def _replaced(closed: ClosedJaxpr, args: tuple[Any, ...], params: Mapping[str, Any]) -> ClosedJaxpr:
    """What JAX is to compile for a call of a jitted function with these arguments."""
    if not _on.value or _is_one_op(closed.jaxpr, params["name"]):
        return closed
    given = [*jax.tree.leaves(params["in_shardings"]), *jax.tree.leaves(params["out_shardings"])]
    if not params["ctx_mesh"].empty or _is_elsewhere(given):
        return closed
    return accelerated(closed, args)[0]


def _is_one_op(jaxpr: Any, name: str) -> bool:
    """Whether a jaxpr is what JAX makes of an op that is called outside of jit: of this name, of one equation."""
    if len(jaxpr.eqns) != 1:
        return False
    (equation,) = jaxpr.eqns
    own = equation.primitive.name
    return own in OPS or (own == name and not any(True for _ in jaxprs_in_params(equation.params)))


def _is_elsewhere(shardings: Sequence[Any]) -> bool:
    """Whether any of these is on several devices, or on another than a CPU; of none, whether new arrays would be."""
    devices: set[Any] = set()
    for sharding in shardings:
        if isinstance(sharding, jax.sharding.Sharding):
            devices |= sharding.device_set
    default = jax.config.jax_default_device or jax.default_backend()  # type: ignore[attr-defined]
    platforms = {getattr(d, "platform", d) for d in devices or [default]}
    return len(devices) > 1 or platforms != {"cpu"}


@cached_by_jaxpr
def _graphed(closed: ClosedJaxpr) -> tuple[ClosedJaxpr | None, str]:
    """The graphed function of a jaxpr; None with the reason why there is none."""
    reason = _unfit(closed)
    if reason:
        return None, reason
    try:
        found = jax.make_jaxpr(graph(jaxpr_as_fun(closed)))(*closed.in_avals)
        native = _any_native(found.jaxpr)
    except Exception as error:  # the program ran without
        warnings.warn(f"accelerate: a function stays in JAX: {error}", RuntimeWarning, stacklevel=2)
        return None, f"mps.graph failed: {error}"
    if not native:
        return None, "mps.graph found nothing in it that a native call would gain"
    if [_type(a) for a in found.out_avals] != [_type(a) for a in closed.out_avals]:
        return None, "mps.graph gives its results in other types"
    return with_names_of(closed, found), ""


def _type(aval: Any) -> Any:
    return (aval.shape, aval.dtype, aval.weak_type) if is_array_type(aval) else aval


def _unfit(closed: ClosedJaxpr) -> str:
    """Why a jaxpr is not graphed, of what can be said without trying, or ""."""
    if device() == "reference":
        return "the device is 'reference'"
    if not all(map(has_sizes, closed.in_avals)):
        return "accelerate leaves it: programs have no symbolic shape"
    if not _has_work(closed):
        return "accelerate leaves it: no convolution, pool, recurrent loop or large product outside of mps.graph"
    if places_devices(closed.jaxpr):
        return "accelerate leaves it: it says on which devices something is"
    return ""


def _has_work(closed: ClosedJaxpr) -> bool:
    """Whether there is enough in a jaxpr that native kernels are faster at, outside of what is graphed already."""
    large = products = 0
    for equation, times in _equations(closed.jaxpr, 1):
        count = times * _work(equation)
        if equation.primitive.name != "dot_general" or times > 1:
            large += count
        if equation.primitive.name == "dot_general":
            products += count
        if large >= _SMALL or products >= SMALL_PRODUCTS:
            return True
    return False


def _equations(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    """The equations of a jaxpr, those of bodies too, each with how often it runs: in a while loop, as if it were 8."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in (PROGRAM, NAME):
            continue
        yield equation, times
        inner = times * (max(int(equation.params["length"]), 1) if name == "scan" else 8 if name == "while" else 1)
        for body in jaxprs_in_params(equation.params):
            yield from _equations(body, inner)


def _work(equation: Any) -> int:
    """Multiply-adds of a convolution or a product, elements of a pool's windows; of an op of jax_mps enough."""
    name = equation.primitive.name
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
        return int(equation.outvars[0].aval.size * kernel.size // max(kernel.shape[numbers.rhs_spec[0]], 1))
    if name == "dot_general":
        (axes, _), _ = equation.params["dimension_numbers"]
        return int(equation.outvars[0].aval.size * math.prod(equation.invars[0].aval.shape[i] for i in axes))
    if name in _POOLS:
        return int(equation.invars[0].aval.size * math.prod(equation.params["window_dimensions"]))
    return _SMALL if name in OPS and name not in _ALONE else 0


def _any_native(jaxpr: Any) -> bool:
    """Whether there is a native call in a jaxpr, or in one in it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == PROGRAM:
            return True
        if equation.primitive.name == NAME:
            bodies = [equation.params["function"].jaxpr.jaxpr]
        else:
            bodies = list(jaxprs_in_params(equation.params))
        if any(map(_any_native, bodies)):
            return True
    return False
