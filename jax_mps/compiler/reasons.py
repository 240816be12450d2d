"""Why an equation stays in JAX, and of which equations a native node is made: what explain tells.

A reason travels as a name scope around the equation that stays, so it is in the jaxpr (and in JAX's profiles) wherever
the graphed function ends up, in a jit or a loop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax

from jax_mps.compiler.equations.equation import Equation
from jax_mps.ir.program import Node, Program, Value

NO_RULE = "mps.graph has no rule for this op: XLA runs it, between native calls"
FOR_ISLAND = (
    "feeds only what stays in JAX, and is small: a native call of its own would cost more. It moves with its reader"
)
NO_GAIN = "XLA is as fast: only elementwise ops, reductions and small products together"
RESULT_TYPE = "sets the type of a result, weak or not, as the function had it: no work at run time"

_SCOPE = "stays in JAX: "
_FOUND = re.compile(re.escape(_SCOPE) + "([^/]*)")
_SHOWN = 6

# What has no rule, by the beginning of its name, in the words of a user: what it is, and what to do where that helps.
_FAMILIES = {
    ("random_", "threefry"): "random bits and keys are made by JAX, but for 4096 or more of one key",
    ("while", "cond"): "control flow is JAX's; its branches or body are graphed by themselves",
    ("scan",): "the loop is JAX's; its body is graphed by itself",
    ("gather", "dynamic_slice", "scatter", "dynamic_update_slice"): "indices known only at run time: mps.graph takes "
    "slices at constant places, and one element of each row",
    ("sort", "top_k", "argmax", "argmin"): "an order of elements: XLA sorts and searches",
    ("cumlogsumexp",): "a running log-sum-exp: lax.cumsum, cumprod, cummax and cummin are native",
    ("reduce_precision", "reduce_xor"): "no instruction of mps.graph: astype(jnp.bfloat16) and astype back is one",
    ("reduce",): "a reduction by a function: sums, products, maxima, minima, any and all are native",
    ("rev",): "a reversed axis: chains read forwards. It costs one copy by XLA",
    ("psum", "pmax", "pmin", "all_", "ppermute", "axis_index"): "it works across devices",
}


def reason(equation: Equation, words: str) -> str:
    """Why an equation stays; `words` are those of whoever refused it."""
    if equation.effects:
        return f"an effect: {', '.join(sorted(map(str, equation.effects)))}"
    if words == NO_RULE or "dtype key" in words:
        for beginnings, family in _FAMILIES.items():
            if equation.name.startswith(beginnings):
                return family
    return words


def scope(words: str) -> AbstractContextManager[Any]:
    """A name scope that carries the reason."""
    return jax.named_scope(_SCOPE + words.replace("/", "\u2215"))


def reason_in(jaxpr_equation: Any) -> str:
    """The reason that a scope around a jaxpr's equation carries, or ""."""
    found = _FOUND.findall(str(jaxpr_equation.source_info.name_stack))
    return found[-1] if found else ""


def origins(made: Mapping[Value, str], notes: Mapping[Value, str], before: Program, after: Program) -> dict[int, str]:
    """Of each node of the fused program, by its first result's name, the primitives that it is made of.

    Args:
        made: the primitive that each value is the result of.
        notes: why a loop is no recurrent op, by its results.
        before: the program as it was built.
        after: the one that runs.
    """
    producer = {r: n for n in before.nodes for r in n.results}
    words = {n.results[0].name: _words(_within(n, producer, made)) for n in after.nodes if n.results}
    for loop in _loops(after):
        note = next((notes[r] for r in loop.results if r in notes), "")
        if note:
            words[loop.results[0].name] = f"{words.get(loop.results[0].name) or 'scan'} ({note})"
    return words


def _loops(program: Program) -> Iterator[Node]:
    for node in program.nodes:
        if node.body is not None:
            yield node
            yield from _loops(node.body)


def _within(node: Node, producer: Mapping[Value, Node], made: Mapping[Value, str]) -> Counter[str]:
    """The primitives between a node's operands and its results."""
    outside = set(node.operands)
    found: Counter[str] = Counter()
    seen: set[Node] = set()
    todo = list(node.results)
    while todo:
        value = todo.pop()
        source = producer.get(value)
        if source is None or source in seen:
            continue
        seen.add(source)
        if value in made:
            found[made[value]] += 1
        todo += [o for o in source.operands if o not in outside]
    return found


def _words(found: Counter[str]) -> str:
    shown = [name if n == 1 else f"{n} {name}" for name, n in found.most_common(_SHOWN)]
    rest = sum(n for _, n in found.most_common()[_SHOWN:])
    return ", ".join(shown + [f"{rest} more"] * bool(rest))
