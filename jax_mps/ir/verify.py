"""What every program must be: checked after each pass of the compiler where `JAX_MPS_VERIFY=1` is set, as in tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from jax_mps.ir.ops import ALIASES, ARITHMETIC
from jax_mps.ir.program import Node, Program, Value

_TO_BOOLEAN = {"eq", "ne", "lt", "le", "gt", "ge", "is_finite"}
_ELEMENTWISE = ARITHMETIC | {"select", "clamp", "convert", "bitcast", "integer_pow"}


class BrokenProgram(Exception):
    """A pass of the compiler has left a program that means nothing."""


def verify(program: Program, step: str, arena: int | None = None) -> None:
    """Raises BrokenProgram, which names the step that left it, unless a program holds what follows.

    Every value is defined once, before it is read, and has a name of its own; a loop's body reads its inputs alone and
    gives what the loop does; the types of lax's own nodes agree. Where memory is planned, in an arena of `arena` bytes,
    every intermediate lies inside of it, and two that are alive at once lie apart, but for what is written in place.
    """
    for words in _faults(program, arena):
        raise BrokenProgram(f"after {step}: {words}.\n{program.text()}")


def _faults(program: Program, arena: int | None) -> Iterator[str]:
    yield from _definitions(program)
    for node in program.nodes:
        yield from (f"{words}, in {node}" for words in _types(node))
        if node.body is not None:
            yield from _loop(node)
            yield from (f"{words}, in a loop's body" for words in _faults(node.body, None))
    if arena is not None:
        yield from _places(program, arena)
    yield from (f"{a} and {b} are alive at once and overlap" for a, b in overlaps(program))


def _definitions(program: Program) -> Iterator[str]:
    defined: set[Value] = set()
    names: set[int] = set()

    def define(value: Value) -> Iterator[str]:
        if value in defined:
            yield f"{value} is defined twice"
        elif value.name in names:
            yield f"two values are called {value}"
        defined.add(value)
        names.add(value.name)

    for value in program.inputs:
        yield from define(value)
    for node in program.nodes:
        yield from (f"{o} is read before it is defined, in {node}" for o in node.operands if o not in defined)
        for result in node.results:
            yield from define(result)
    yield from (f"{o} is returned and never defined" for o in program.outputs if o not in defined)


def _types(node: Node) -> Iterator[str]:
    """Of lax's own nodes; devices check those that have kernels."""
    if node.op in _ELEMENTWISE:
        yield from _elementwise(node)
        return
    if node.op not in ("reshape", "transpose", "broadcast_in_dim", "slice", "part"):
        return
    (x,), (y,) = ([v.type for v in side] for side in (node.operands, node.results))
    a = node.attributes
    if x.dtype != y.dtype:
        yield f"a view changes {x.dtype} to {y.dtype}"
    match node.op:
        case "reshape":
            good = x.elements == y.elements
        case "transpose":
            good = sorted(a["order"]) == [*range(len(x.shape))] and y.shape == tuple(x.shape[i] for i in a["order"])
        case "broadcast_in_dim":
            places = [y.shape[i] for i in a["axes"] if i < len(y.shape)]
            good = len(places) == len(x.shape) and all(n in (1, m) for n, m in zip(x.shape, places, strict=True))
        case "slice":
            rows = zip(a["start"], a["strides"], x.shape, y.shape, strict=True)
            good = all(n == 0 or start + (n - 1) * step < size for start, step, size, n in rows)
        case _:
            good = a["start"] + _extent(node.results[0]) <= math.prod(x.shape)
    if not good:
        yield f"{x} has no such view {y}"


def _elementwise(node: Node) -> Iterator[str]:
    result, operands = node.results[0].type, [o.type for o in node.operands]
    if any(o.shape != result.shape for o in operands):
        yield f"an elementwise op of {', '.join(map(str, operands))} gives {result}"
    if node.op == "select":
        operands = operands[1:]
    if node.op in ("convert", "bitcast"):
        return
    dtypes = {o.dtype for o in operands}
    if node.op in _TO_BOOLEAN:
        dtypes |= {"pred"} if result.dtype != "pred" else set()
    else:
        dtypes.add(result.dtype)
    if len(dtypes) > 1:
        yield f"one op has the dtypes {', '.join(sorted(dtypes))}"


def _loop(node: Node) -> Iterator[str]:
    """A loop's body has an input for each operand and an output for each result; slices lose their first axis."""
    body, consts, carry = node.body, node.attributes["consts"], node.attributes["carry"]
    assert body is not None
    if (len(body.inputs), len(body.outputs)) != (len(node.operands), len(node.results)):
        yield f"the body of a loop has other inputs or outputs than {node.op}"
        return
    pairs = [
        *((o, i, k >= consts + carry) for k, (o, i) in enumerate(zip(node.operands, body.inputs, strict=True))),
        *((r, o, k >= carry) for k, (r, o) in enumerate(zip(node.results, body.outputs, strict=True))),
    ]
    for outside, inside, sliced in pairs:  # chains give the same memory in another shape
        shape = outside.type.shape[1:] if sliced else outside.type.shape
        if (outside.type.dtype, math.prod(shape)) != (inside.type.dtype, inside.type.elements):
            yield f"{outside.type} is {inside.type} in the body of a loop"


def _extent(value: Value) -> int:
    """Elements from the first to the last of a value whose rows may be apart."""
    type_ = value.type
    if not type_.row or not type_.elements:
        return type_.elements
    rows = type_.elements // type_.shape[-1]
    return (rows - 1) * type_.row + type_.shape[-1]


def _places(program: Program, arena: int) -> Iterator[str]:
    outside, wholes = {*program.inputs, *program.outputs}, _placed(program)
    for node in program.nodes:
        for value in node.results:
            if value in outside or node.op in ALIASES:
                continue
            if value.offset is None:
                if value not in wholes:
                    yield f"{value} has no place in memory"
            elif value.offset < 0 or value.offset + value.type.bytes > arena:
                yield f"{value} lies beyond the arena of {arena} bytes"


def _placed(program: Program) -> Mapping[Value, Value]:
    """Of what lies in a concatenation's result: the outermost such result."""
    wholes: dict[Value, Value] = {}
    for node in reversed(program.nodes):
        if node.op == "concatenate":
            whole = wholes.get(node.results[0], node.results[0])
            wholes.update((node.operands[i], whole) for i in node.attributes.get("in_place", ()))
    return wholes


def overlaps(program: Program) -> list[tuple[Value, Value]]:
    """Pairs of values alive at once whose memory overlaps, but for those that one node reads and writes in place."""
    wholes = _placed(program)
    root: dict[Value, Value] = dict(wholes)
    written: dict[Value, int] = {}
    read: dict[Value, int] = {}
    for i, node in enumerate(program.nodes):
        for operand in node.operands:
            read[root.get(operand, operand)] = i
        for result in node.results:
            if node.op in ALIASES:
                root[result] = root.get(node.operands[0], node.operands[0])
            elif (whole := wholes.get(result, result)).offset is not None:
                written.setdefault(whole, i)  # what parts lie in is alive from the first of them on
    placed = sorted(written, key=lambda v: (v.offset or 0, written[v]))
    found = []
    for k, a in enumerate(placed):
        for b in placed[k + 1 :]:
            assert a.offset is not None and b.offset is not None
            if b.offset >= a.offset + a.type.bytes:
                break
            first, then = sorted((a, b), key=written.__getitem__)
            end = read.get(first, written[first])
            if a.type.bytes and b.type.bytes and end >= written[then]:
                node = program.nodes[written[then]]
                updates = end == written[then] and first in [root.get(o, o) for o in node.operands]
                if not (updates and a.offset == b.offset):
                    found.append((first, then))
    return found
