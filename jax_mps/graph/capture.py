"""From a function to its flat list of equations, and from that to regions that one native call can run each.

Calls (jit, custom_jvp, custom_vjp, remat) are inlined. A scan whose body converts wholly is a native loop; the bodies
of other scans, of while and cond are graphed by themselves and stay loops of JAX around native calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jax_mps._compat import across_devices, has_sizes, is_array_type, scan_counts, with_weak_type
from jax_mps.derivatives import linear_jaxpr
from jax_mps.eager import unchecked

# A call and the parameter that holds its body.
CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",  # closed_call since JAX 0.11
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "mps_graph": "function",  # a graphed function in another
    "mps_linear": "pull",  # of forward mode
}
PROGRAM = "mps_program"
_PLAIN_CALLS = {"jit", "closed_call", "eval_jaxpr", "mps_graph"}  # they change no derivative
CHECKPOINTS = {"remat2"}
LOOPS = {"scan", "while", "cond"}
_IDENTITIES = {"optimization_barrier", "stop_gradient", "copy"}

# What may run while a function is traced. All else may call back, print, raise or take its time.
_FOLDED_NAMES = """
abs acos acosh add add_any and argmax argmin asin asinh atan atan2 atanh bitcast_convert_type broadcast_in_dim cbrt
ceil clamp clz complex concatenate conj convert_element_type cos cosh cumlogsumexp cummax cummin cumprod cumsum
digamma div dot_general dynamic_slice dynamic_update_slice eq erf erf_inv erfc exp exp2 expand_dims expm1 floor gather
ge gt imag integer_pow is_finite le lgamma log log1p log2 logistic lt max min mul ne neg nextafter not
one_minus_square or pad polynomial population_count pow real reduce_and reduce_max reduce_min reduce_or
reduce_precision reduce_prod reduce_sum reduce_xor rem reshape rev round rsqrt scatter select_n shift_left
shift_right_arithmetic shift_right_logical sign sin sinh slice sort split sqrt square squeeze stack sub tan tanh tile
transpose unstack xor
"""
_FOLDED = frozenset(_FOLDED_NAMES.split())
_FOLDED_OPERAND, _FOLDED_RESULT = 4096, 64  # elements


@dataclass(eq=False)
class Variable:
    """One value of the flat program."""

    aval: Any


@dataclass(eq=False)
class Constant:
    """A literal or a constant of the trace."""

    value: Any
    aval: Any


Atom = Variable | Constant


@dataclass(eq=False)
class Equation:
    """One primitive applied to atoms."""

    primitive: Any
    params: dict[str, Any]
    operands: list[Atom]
    results: list[Variable]
    context: Any  # of JAX's configuration at the trace
    effects: frozenset[Any] = frozenset()
    origin: str = ""  # the primitive that it was recognised in
    loop: Any = None  # of a scan: its `loops.Loop`, or the reason why it is no native loop
    note: str = ""  # of a scan that is meant as a recurrent cell: why it does not run as the op

    @property
    def name(self) -> str:
        """The primitive's name."""
        return str(self.primitive.name)

    @property
    def consts(self) -> int:
        """How many of a scan's operands, the first ones, are the same in every step."""
        return scan_counts(self.params)[0]

    @property
    def carries(self) -> int:
        """How many of a scan's operands, after its consts, and of its first results are carried from step to step."""
        return scan_counts(self.params)[1]


@dataclass
class Flat:
    """A function without calls: inputs, equations in order, outputs."""

    inputs: list[Variable]
    captured: dict[int, tuple[Variable, Any]] = field(default_factory=dict)  # constant arrays, by the value's id
    equations: list[Equation] = field(default_factory=list)
    outputs: list[Atom] = field(default_factory=list)


def successors(flat: Flat) -> dict[int, int | None]:
    """By an input's id, the id of the output that is likely its new value, or None.

    A state comes and goes as runs of values of the same types, so inputs and outputs pair up at the distance at which
    most of them fit, the rest at the next such distance. Constants have no successor.
    """
    numbers: dict[Any, int] = {}
    ins, outs = (
        np.array([numbers.setdefault(_kind(a.aval), len(numbers)) for a in atoms], int)
        for atoms in (flat.inputs, flat.outputs)
    )

    def fits(distance: int) -> np.ndarray:
        """The outputs that have the type of the input `distance` places later."""
        first = max(0, -distance)
        last = max(first, min(len(outs), len(ins) - distance))
        return first + np.flatnonzero(outs[first:last] == ins[first + distance : last + distance])

    found: dict[int, int | None] = {id(v): None for v, _ in flat.captured.values()}
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for distance in sorted(range(1 - len(outs), len(ins)), key=lambda d: (-len(fits(d)), abs(d))):
        if len(taken) == len(outs):
            break
        for o in fits(distance).tolist():
            if o + distance not in pairs and o not in taken:
                pairs[o + distance] = o
                taken.add(o)
    for i, variable in enumerate(flat.inputs):
        found[id(variable)] = id(flat.outputs[pairs[i]]) if i in pairs else None
    return found


def _kind(aval: Any) -> Any:
    return (aval.shape, aval.dtype) if is_array_type(aval) else aval


def flatten(closed: ClosedJaxpr, differentiable: bool = False) -> Flat:
    """Inlines every call; scan, while and cond stay as they are.

    If `differentiable`, so does all that changes derivatives: calls with rules of their own, stop_gradient.
    """
    flat = Flat([Variable(v.aval) for v in closed.jaxpr.invars])
    gone = _PLAIN_CALLS if differentiable else CALLS.keys() | _IDENTITIES
    flat.outputs = _inline(closed.jaxpr, closed.consts, flat.inputs, flat.equations, gone)
    fold_constants(flat)
    drop_dead(flat)
    return flat


def _inline(
    jaxpr: Any, constants: Sequence[Any], operands: Sequence[Atom], equations: list[Equation], gone: Set[str]
) -> list[Atom]:
    """Adds the equations of a jaxpr, of `gone` only what is in them, and gives its results."""
    env: dict[Any, Atom] = dict(zip(jaxpr.invars, operands, strict=True))
    env.update((v, Constant(c, v.aval)) for v, c in zip(jaxpr.constvars, constants, strict=True))

    def read(atom: Any) -> Atom:
        return Constant(atom.val, atom.aval) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        name, atoms = eqn.primitive.name, [read(v) for v in eqn.invars]
        if name in CALLS and name in gone:
            body = body_of(eqn)
            inner, constants = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())
            results = _inline(inner, constants, atoms, equations, gone)
        elif name == "mps_together":  # says what is batched under vmap
            results = atoms[: eqn.params["count"]]
        elif name == PROGRAM and gone >= CALLS.keys():  # of a graph in this one: both are planned together
            body = jax.make_jaxpr(eqn.params["original"].function)(*(v.aval for v in eqn.invars))
            results = _inline(body.jaxpr, body.consts, atoms, equations, gone)
        elif name in gone and not eqn.effects:
            results = atoms
        else:
            made = [Variable(v.aval) for v in eqn.outvars]
            equation = Equation(eqn.primitive, eqn.params, atoms, made, eqn.ctx, frozenset(eqn.effects))
            equations.append(equation)
            results = [*made]
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def body_of(eqn: Any) -> Any:
    """The jaxpr that a call of `CALLS` calls."""
    match eqn.primitive.name:
        case "mps_graph":
            return eqn.params["function"].closed
        case "mps_linear":
            return linear_jaxpr(eqn)
        case name:
            return eqn.params[CALLS[name]]


def with_bodies(equation: Equation, convert: Callable[[ClosedJaxpr], ClosedJaxpr]) -> Equation:
    """The scan, while or cond with every body converted."""

    def converted(value: Any) -> Any:
        if isinstance(value, ClosedJaxpr):
            return convert(value)
        if isinstance(value, tuple) and value and all(isinstance(v, ClosedJaxpr) for v in value):
            return tuple(map(convert, value))
        return value

    return replace(equation, params={key: converted(value) for key, value in equation.params.items()})


def fold_constants(flat: Flat) -> None:
    """Evaluates equations of small constants, but not of the values of a trace around this one."""
    known: dict[int, Constant] = {}
    kept = []
    for equation in flat.equations:
        equation.operands = [known.get(id(o), o) for o in equation.operands]
        values = _folded(equation)
        if values is None:
            kept.append(equation)
        else:
            made = zip(equation.results, values, strict=True)
            known.update((id(r), Constant(np.asarray(v), r.aval)) for r, v in made)
    flat.equations = kept
    flat.outputs = [known.get(id(o), o) for o in flat.outputs]


def _folded(equation: Equation) -> list[Any] | None:
    """The results of an equation that folds; None of another."""
    if not _folds(equation):
        return None
    constants = [o.value for o in equation.operands if isinstance(o, Constant)]
    with jax.ensure_compile_time_eval(), unchecked():
        values = evaluate(equation, constants)
    # In a shard_map without jit nothing is evaluated but by its trace.
    return None if any(isinstance(v, jax.core.Tracer) for v in values) else values


def _folds(equation: Equation) -> bool:
    """Whether an equation may be evaluated while the function is traced: it is known to do nothing else, and small."""
    if equation.name not in _FOLDED or equation.effects or not equation.operands:
        return False
    if not all(isinstance(o, Constant) and not isinstance(o.value, jax.core.Tracer) for o in equation.operands):
        return False
    operands, results = ([a.aval for a in atoms] for atoms in (equation.operands, equation.results))
    if not all(map(has_sizes, results)):
        return False
    if any(a.size > _FOLDED_OPERAND for a in operands) or any(a.size > _FOLDED_RESULT for a in results):
        return False
    types = [a.dtype for a in (*operands, *results)]
    keys = any(jax.dtypes.issubdtype(t, jax.dtypes.extended) for t in types)
    return not keys and not across_devices(equation.params, results)


def drop_dead(flat: Flat) -> None:
    """Drops the equations whose results nobody reads, but for effects."""
    live = {id(v) for v in flat.outputs}
    kept = []
    for equation in reversed(flat.equations):
        if equation.effects or any(id(r) in live for r in equation.results):
            kept.append(equation)
            live.update(id(o) for o in equation.operands)
    flat.equations = kept[::-1]


@dataclass
class Region:
    """Equations that run together: natively, or (an island) each by JAX."""

    native: bool
    equations: list[Equation] = field(default_factory=list)


def capture_arrays(flat: Flat) -> None:
    """Makes constants that are no single number variables, so that regions read them like any operand."""

    def variable(atom: Atom) -> Atom:
        if isinstance(atom, Variable) or uniform(atom):
            return atom
        return flat.captured.setdefault(id(atom.value), (Variable(atom.aval), atom.value))[0]

    for equation in flat.equations:
        equation.operands = [variable(o) for o in equation.operands]
    flat.outputs = [variable(o) for o in flat.outputs]


def uniform(constant: Constant) -> bool:
    """Whether a constant is one number, in one or more elements."""
    if not is_array_type(constant.aval) or isinstance(constant.value, jax.core.Tracer):
        return False
    if jax.dtypes.issubdtype(constant.aval.dtype, jax.dtypes.extended):
        return False
    array = np.asarray(constant.value).reshape(-1)
    return array.size <= 1 or array.tobytes() == array[:1].tobytes() * array.size


def partition(flat: Flat, convertible: Callable[[Equation], bool]) -> list[Region]:
    """Maximal regions in an order that runs: convertible equations of one level, then the islands that need them.

    Equations with effects keep their order. An equation joins the first native region that may run it: the one after
    the last island that it waits for. An island runs after the last native region that it waits for, before
    all of them if it waits for none.
    """
    ready: dict[int, int] = {}  # of a variable: the first native region that may read it
    after: dict[int, int] = {}  # the last native region that it waits for, -1 for none
    native: dict[int, Region] = {}
    islands: dict[int, Region] = {}
    effects = -1  # where the last equation with an effect is
    for equation in flat.equations:
        if convertible(equation):
            here = max((ready.get(id(v), 0) for v in equation.operands), default=0)
            native.setdefault(here, Region(True)).equations.append(equation)
            last = here
        else:
            last = max((after.get(id(v), -1) for v in equation.operands), default=-1)
            if equation.effects:
                last = effects = max(last, effects)
            islands.setdefault(last, Region(False)).equations.append(equation)
            here = last + 1
        for result in equation.results:
            ready[id(result)], after[id(result)] = here, last
    ordered = [islands[-1]] if -1 in islands else []
    for k in range(max([*native, *islands], default=-1) + 1):
        ordered += [r for r in (native.get(k), islands.get(k)) if r]
    return ordered


def readers(regions: Sequence[Region], flat: Flat) -> dict[int, set[int]]:
    """By a variable's id, the ids of the regions that read it; of an output, the function's too."""
    found: dict[int, set[int]] = {id(v): {id(flat)} for v in flat.outputs}
    for region in regions:
        for equation in region.equations:
            for operand in equation.operands:
                found.setdefault(id(operand), set()).add(id(region))
    return found


def boundary(region: Region, readers: dict[int, set[int]]) -> tuple[list[Variable], list[Variable]]:
    """The variables that a region reads from outside and those of its results that are read outside."""
    made = {id(r) for e in region.equations for r in e.results}
    reads: dict[int, Variable] = {}
    for equation in region.equations:
        for operand in equation.operands:
            if isinstance(operand, Variable) and id(operand) not in made:
                reads[id(operand)] = operand
    results = [r for e in region.equations for r in e.results if readers.get(id(r), set()) - {id(region)}]
    return list(reads.values()), results


def reached(equation: Equation, flags: Sequence[bool]) -> list[bool]:
    """By flags of an equation's operands, those of its results that depend on a set one."""
    if equation.name != "scan" or not any(flags):
        return [any(flags)] * len(equation.results)
    body, carry = equation.params["jaxpr"].jaxpr, slice(equation.consts, equation.consts + equation.carries)
    given = list(flags)
    while True:
        found = {v for v, flag in zip(body.invars, given, strict=True) if flag}
        for inner in body.eqns:
            if any(not isinstance(v, Literal) and v in found for v in inner.invars):
                found.update(inner.outvars)
        results = [not isinstance(v, Literal) and v in found for v in body.outvars]
        carried = [a or b for a, b in zip(given[carry], results[: equation.carries], strict=True)]
        if carried == given[carry]:
            return results
        given[carry] = carried


def evaluate(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Runs one equation by JAX."""
    params = equation.primitive.get_bind_params(equation.params)
    with equation.context.manager:
        results = equation.primitive.bind(*operands, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def read(atom: Atom, env: dict[int, Any]) -> Any:
    """The value of an atom."""
    return atom.value if isinstance(atom, Constant) else env[id(atom)]


def evaluate_all(equations: Sequence[Equation], env: dict[int, Any]) -> None:
    """Runs equations by JAX; `env` is the values by the variables' ids."""
    for equation in equations:
        values = evaluate(equation, [read(o, env) for o in equation.operands])
        env.update(zip(map(id, equation.results), values, strict=True))


def call(flat: Flat, operands: Sequence[Any]) -> list[Any]:
    """Runs a flat function by JAX."""
    env: dict[int, Any] = dict(zip(map(id, flat.inputs), operands, strict=True))
    evaluate_all(flat.equations, env)
    return results(flat, env)


def results(flat: Flat, env: dict[int, Any]) -> list[Any]:
    """The results of a flat function, of the values by the variables' ids."""
    return [with_weak_type(read(o, env), o.aval) for o in flat.outputs]


def trace(function: Callable[..., Any], *args: Any) -> tuple[ClosedJaxpr, Any]:
    """The jaxpr of a function and the tree of shapes that it returns."""
    return jax.make_jaxpr(function, return_shape=True)(*args)
