"""What runs where: each op of a function, the device and implementation it gets, or the reason why it is on XLA."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jax_mps import ffi
from jax_mps._accelerate import accelerated
from jax_mps._compat import jaxprs_in_params
from jax_mps._device import device
from jax_mps.compiler.equations.flatten import CALLS, PROGRAM
from jax_mps.compiler.reasons import reason_in
from jax_mps.compiler.traced import is_array
from jax_mps.derivatives import linear_jaxpr
from jax_mps.ops._check import fail, told
from jax_mps.primitive import OPS

OUTSIDE = "not under mps.graph: XLA runs it"


class Row(NamedTuple):
    """One kind of op of the function: as it is called, how often, and where it runs."""

    op: str
    types: str  # "f32[8,4] -> f32[8,2]"
    count: int  # type: ignore[assignment]  # equations; a loop's body counts once
    device: str  # "cpu", "metal" or "xla"
    implementation: str  # its name, or for XLA the reason
    made_of: str = ""  # of a graphed program's node: the primitives of JAX that are fused in it


class Explanation(tuple[Row, ...]):
    """The rows, as a table when printed."""

    def __str__(self) -> str:
        head = Row("op", "types", "count", "device", "implementation or reason", "made of")  # type: ignore[arg-type]
        rows = [tuple(map(str, row)) for row in (head, *self)]
        if not any(row.made_of for row in self):
            rows = [row[:-1] for row in rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines)

    __repr__ = __str__


def explain(function: Callable[..., object], *args: object, **kwargs: object) -> Explanation:
    """Tells for each op of `function(*args, **kwargs)` which implementation runs it, without running it.

    Args:
        function: any JAX function, compiled with jax.jit or not, a gradient or a whole training step.
        *args, **kwargs: what it is called with: arrays, or anything with shape and dtype; all else stays as it is,
            numbers of Python too, which the function may ask for their values.

    Returns:
        A table of rows (op, types, count, device, implementation, made_of). jax_mps's ops and the nodes of graphed
        programs come first, each with the name of its implementation or the reason why XLA runs it, and a node with the
        primitives of JAX that went into it. The ops of JAX itself follow, which XLA runs; where `mps.graph` left one
        there, the row says why. Where `mps.accelerate` is on, that is what a jit of the function would run.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.explain(mps.relu, jnp.ones(8))[0].op
        'neuron'
    """
    if not callable(function):
        fail("explain", "function must be callable", told(function), "Pass it and then its arguments.", TypeError)
    closed, left = accelerated(_trace(function, args, kwargs), jax.tree.leaves((args, kwargs)))
    own: Counter[tuple[str, str, str, str, str]] = Counter()
    other: Counter[tuple[str, str]] = Counter()
    for equation, around in _equations(closed.jaxpr):
        if equation.primitive.name == PROGRAM:
            own.update(_steps(equation.params["text"], equation.params["original"].origins()))
            continue
        op = OPS.get(equation.primitive.name)
        if op is None:
            other[equation.primitive.name, reason_in(equation) or around] += 1
            continue
        operands, results = ([v.aval for v in vs] for vs in (equation.invars, equation.outvars))
        text, words = op.placement_alone(operands, results, equation.params)
        types = f"{_types(operands)} -> {_types(results)}"
        own[op.name, types, device() if text else "xla", words, ""] += 1
    rows = [Row(name, types, n, where, words, made_of) for (name, types, where, words, made_of), n in own.items()]
    rows += [Row(name, "", n, "xla", words or left or OUTSIDE) for (name, words), n in other.most_common()]
    return Explanation(rows)


def _trace(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The jaxpr of a call; leaves without a dtype, numbers of Python among them, are handed on as they are."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    traced = [hasattr(x, "dtype") or is_array(x) for x in leaves]

    def arrays(*some: Any) -> list[Any]:
        rest = iter(some)
        args, kwargs = jax.tree.unflatten(tree, [next(rest) if t else x for t, x in zip(traced, leaves, strict=True)])
        return [x for x in jax.tree.leaves(function(*args, **kwargs)) if hasattr(x, "dtype")]

    return jax.make_jaxpr(arrays)(*(x for x, t in zip(leaves, traced, strict=True) if t))


def _steps(text: str, origins: dict[int, str]) -> Iterator[tuple[str, str, str, str, str]]:
    """The nodes of a program, each with its implementation; a chain with the number of its instructions."""
    steps = [line.partition(" = ") for line in text.splitlines() if " = " in line]
    for (results, _, call), words in zip(steps, ffi.implementations(text), strict=True):
        op = call.partition("(")[0]
        if op in ("reshape", "part"):
            continue
        shown = re.findall(r": (\w+\[[\d,]*\])", results)
        if op == "chain":
            quotes = call.partition("code=[")[2].partition("]")[0].count('"')
            words = f"{quotes // 2} instruction{'s' * (quotes != 2)} in {words}"
        first = re.match(r"%(\d+)", results.strip())
        made_of = origins.get(int(first[1]), "") if first else ""
        yield op, f"-> {', '.join(shown[:4])}", device(), words, made_of


def _equations(jaxpr: Any, around: str = "") -> Iterator[tuple[Any, str]]:
    """The equations, each with why it stays if it stands in the body of one that stays, or ""."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "mps_graph":
            inner = [equation.params["function"].jaxpr.jaxpr]
        elif name == "mps_linear":
            inner = [linear_jaxpr(equation).jaxpr]
        else:
            inner = list(jaxprs_in_params(equation.params))
        if not inner or name not in CALLS:
            yield equation, around
        within = around
        if name not in CALLS and reason_in(equation):
            within = f"in a body of `{name}`, which has nothing to gain from a native call"
        for body in inner:
            yield from _equations(body, within)


def _types(avals: list[Any]) -> str:
    shown = [a.str_short(short_dtypes=True) for a in avals[:4]]
    return ", ".join(shown + [f"... {len(avals) - 4} more"] * (len(avals) > 4))
