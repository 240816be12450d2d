"""THE list: what the compiler does, in order.

A function's trace becomes flat equations; `EQUATION_STEPS` make of them what can be lowered. Each region of equations
that stay together becomes a program: `WHOLE_PASSES` rewrite it with the bodies of its loops, then `PROGRAM_PASSES` each
program by itself, a loop's body before what is around it. `compiled.py` calls them.

`JAX_MPS_DUMP=folder` writes what each leaves into files; `JAX_MPS_VERIFY=1` checks every program after every pass.
`mps.graph(f, without=("fold_padding",))` leaves some out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import ClosedJaxpr

from jax_mps._device import device
from jax_mps.compiler.equations import clean
from jax_mps.compiler.equations.equation import Equation, Flat
from jax_mps.compiler.equations.flatten import LOOPS, flatten
from jax_mps.compiler.gains import gains
from jax_mps.compiler.lower.rules import NotConvertible, check
from jax_mps.compiler.passes.concat_in_place import concat_in_place
from jax_mps.compiler.passes.fold_padding import fold_padding
from jax_mps.compiler.passes.fuse_bias_relu import fuse_bias_relu
from jax_mps.compiler.passes.fuse_elementwise.fuse import fuse
from jax_mps.compiler.passes.fuse_softmax import fuse_softmax
from jax_mps.compiler.passes.gather_labels import gather_labels
from jax_mps.compiler.passes.hoist_from_loops import hoist
from jax_mps.compiler.passes.plan_memory import Memory, plan
from jax_mps.compiler.passes.shift_variances import shift_variances
from jax_mps.compiler.passes.simplify import simplify
from jax_mps.compiler.passes.slice_views import slice_views
from jax_mps.compiler.recognise.recurrent.rewrite import recognise_recurrent
from jax_mps.compiler.recognise.rules import recognise
from jax_mps.compiler.watch import watch
from jax_mps.ir.program import Names, Program

Control = Callable[[Equation], Equation]  # converts a loop with its bodies


@dataclass(frozen=True)
class Step:
    """One entry of the list."""

    name: str
    run: Callable[..., Any]
    place: str  # the reason for its place
    when: Callable[[], bool] = lambda: True
    left_out: Callable[..., Any] | None = None  # what runs in its place
    needed: bool = False  # it can't be left out


@dataclass
class Equations:
    """Equations on their way to be lowered."""

    flat: Flat
    control: Control
    refused: dict[Equation, str] = field(default_factory=dict)  # why an equation is none of an op

    def check(self, equation: Equation) -> None:
        """NotConvertible, with the reason, for an equation that cannot be lowered."""
        if equation in self.refused:
            raise NotConvertible(self.refused[equation])
        check(equation)


def _on_device() -> bool:
    return device() != "reference"


def _on_cpu() -> bool:
    return device() == "cpu"


def _convert_loops(e: Equations) -> None:
    e.flat.equations = [e.control(q) if q.name in LOOPS else q for q in e.flat.equations]


EQUATION_STEPS: tuple[Step, ...] = (
    Step("recognise_recurrent", lambda e: recognise_recurrent(e.flat), "first: it reads scans as JAX wrote them"),
    Step("convert_loops", _convert_loops, "before the ops around them: what a loop captures is seen then", needed=True),
    Step(
        "recognise_ops",
        lambda e: e.refused.update(recognise(e.flat)),
        "convolutions, pools and gathers, whose gradients are read from whole equations",
        when=_on_device,
    ),
    Step(
        "drop_dead_equations",
        lambda e: clean.drop_dead(e.flat),
        "what recognition has left unread",
        when=_on_device,
        needed=True,
    ),
    Step(
        "capture_arrays",
        lambda e: clean.capture_arrays(e.flat),
        "last: of the constants that are still read",
        when=_on_device,
        needed=True,
    ),
)

# Of a region's whole program, with the bodies of its loops.
WHOLE_PASSES: tuple[Step, ...] = (
    Step("simplify", simplify, "first: lowering writes the same view and number many times", needed=True),
    Step("hoist_from_loops", hoist, "while products and sums are nodes of their own"),
    Step("simplify_again", simplify, "what left a loop may be there already", needed=True),
)

# Of each program by itself, a loop's body first.
PROGRAM_PASSES: tuple[Step, ...] = (
    Step("shift_variances", shift_variances, "before any fusion: it looks for sums, and changes what they are of"),
    Step("fuse_softmax", fuse_softmax, "before chains take its maximum, exponentials and sum apart"),
    Step("gather_labels", gather_labels, "after softmax: what is picked from is its result"),
    Step("fold_padding", fold_padding, "before relus are taken: a pad between a convolution and its relu is gone"),
    Step("fuse_bias_relu", fuse_bias_relu, "before chains: bias and relu would be in one"),
    Step("slice_views", slice_views, "before chains, which would copy the slices that products read", when=_on_cpu),
    Step(
        "fuse_elementwise",
        fuse,
        "after all that looks for single elementwise ops",
        left_out=functools.partial(fuse, separate=True),
    ),
    Step("concat_in_place", concat_in_place, "last: chains write into a concatenation as well", when=_on_cpu),
)

FUSIONS = frozenset(s.name for s in PROGRAM_PASSES if s.name != "shift_variances")  # what fuse=False leaves out
OPTIONAL = ("weigh_gains", *(s.name for s in (*EQUATION_STEPS, *WHOLE_PASSES, *PROGRAM_PASSES) if not s.needed))


@dataclass(frozen=True)
class Options:
    """What of the list a graphed function is compiled with."""

    without: frozenset[str] = frozenset()  # of OPTIONAL
    loops: bool = True  # whether loops may be native

    @classmethod
    def of(cls, without: Collection[str], fuse: bool) -> Options:
        """Those of `mps.graph(f, fuse=fuse, without=without)`; ValueError for what can't be left out."""
        names = frozenset([without] if isinstance(without, str) else without)
        for name in sorted(names, key=str):
            if name not in OPTIONAL:
                raise ValueError(
                    f"graph: without names steps of the compiler that may be left out, but got {name!r}. "
                    f"They are {', '.join(OPTIONAL)}."
                )
        return cls(names if fuse else names | FUSIONS)


EVERYTHING = Options()


def prepare(closed: ClosedJaxpr, control: Control, options: Options) -> Equations:
    """A function without calls, its ops recognised; `control` converts its loops."""
    equations = Equations(flatten(closed), control)
    watch("flatten", equations.flat)
    for step in EQUATION_STEPS:
        if step.when() and step.name not in options.without:
            step.run(equations)
            watch(step.name, equations.flat)
    return equations


def optimise(program: Program, names: Names, options: Options) -> tuple[Program, Memory] | None:
    """A region's program as the device gets it, and its memory; None if it is not worth a native call."""
    watch("lower", program)
    program = _run(WHOLE_PASSES[:1], options, program, names)
    if "weigh_gains" not in options.without and not gains(program):
        return None
    program = _run(WHOLE_PASSES[1:], options, program, names)
    program = _inside_out(program, options)
    memory = plan(program, device())
    watch("plan_memory", program, memory)
    return program, memory


def _inside_out(program: Program, options: Options) -> Program:
    for node in program.nodes:
        if node.body is not None:
            node.body = _inside_out(node.body, options)
    return _run(PROGRAM_PASSES, options, program)


def _run(steps: Sequence[Step], options: Options, program: Program, *names: Names) -> Program:
    for step in steps:
        run = step.left_out if step.name in options.without else step.run
        if run is not None and step.when():
            program = run(program, *names)
            watch(step.name, program)
    return program
