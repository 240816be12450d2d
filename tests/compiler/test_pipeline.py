"""The list of the compiler's steps: what can be left out, what is written and checked after each."""

from __future__ import annotations

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import pytest
from graph_common import NHWC, assert_same, normal
from jax import lax

import jax_mps as mps
from jax_mps.compiler import pipeline
from jax_mps.compiler.passes.plan_memory import plan
from jax_mps.ir.program import Node, Program, Type, Value
from jax_mps.ir.verify import BrokenProgram, overlaps, verify


def conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=NHWC)


def branches(x, w, b, labels):
    """Two convolutions side by side, a relu after one of them, a slice of channels, and a loss."""
    wide = conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), w)
    first, second = jax.nn.relu(conv(wide[..., :8], w) + b), conv(wide[..., 8:], w)
    both = jnp.concatenate([first, second], -1)
    logits = conv(both[..., 4:12], w).reshape(-1, 16)
    variance = jnp.mean(both * both, (0, 1, 2)) - jnp.mean(both, (0, 1, 2)) ** 2
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)
    return jax.nn.softmax(jnp.sin(logits)), picked.sum(), variance


def scanned(x, w):
    """A loop with a product of its slices."""
    total, sums = lax.scan(lambda h, x: (jnp.tanh(x @ w + h), h.sum()), jnp.zeros((4, 8)), x)
    return mps.relu(total), sums


ARGUMENTS = normal(2, 9, 9, 8), normal(3, 3, 8, 16) / 9, normal(1, 1, 1, 16), jnp.arange(50) % 16
LOOP = normal(5, 4, 8), normal(8, 8)
CASES = {"branches": (branches, ARGUMENTS), "scanned": (scanned, LOOP)}
CHANGES = {name: "branches" for name in (*pipeline.FUSIONS, "shift_variances")} | {"hoist_from_loops": "scanned"}


@pytest.mark.parametrize("name", pipeline.OPTIONAL)
@pytest.mark.parametrize("case", CASES)
def test_without(native, name, case):
    """The results are the same without any step that may be left out; the program is another where it had work."""
    function, args = CASES[case]
    left = mps.graph(function, without=(name,))
    assert_same(jax.jit(left)(*args), function(*args))
    changed = left.program(*args).text() != mps.graph(function).program(*args).text()
    if CHANGES.get(name) == case:
        assert changed, f"{name} had nothing to do"


def test_without_everything(native):
    left = mps.graph(branches, without=pipeline.OPTIONAL)
    assert_same(jax.jit(left)(*ARGUMENTS), branches(*ARGUMENTS))
    loss = lambda x, w: branches(x, w, *ARGUMENTS[2:])[1]  # noqa: E731
    gradients = jax.grad(mps.graph(loss, without=pipeline.OPTIONAL), (0, 1))(*ARGUMENTS[:2])
    assert_same(gradients, jax.grad(loss, (0, 1))(*ARGUMENTS[:2]))


def test_unfused_is_without_fusions(native):
    unfused = mps.graph(branches, fuse=False)
    assert unfused == mps.graph(branches, without=pipeline.FUSIONS)
    text = unfused.program(*ARGUMENTS).text()
    assert text == mps.graph(branches, without=pipeline.FUSIONS).program(*ARGUMENTS).text()


def test_what_is_left_out_is_part_of_the_function(native):
    one, other = mps.graph(branches), mps.graph(branches, without="fuse_softmax")
    assert one != other and hash(one) != hash(other) and other == mps.graph(branches, without=["fuse_softmax"])
    assert "fuse_softmax" not in repr(one)
    assert pickle.loads(pickle.dumps(other)) == other
    assert one.program(*ARGUMENTS).text() != other.program(*ARGUMENTS).text()


@pytest.mark.parametrize("name", ["fuse_sofmax", "simplify", 3])
def test_what_can_not_be_left_out(name):
    words = (
        rf"graph: without names steps of the compiler that may be left out, but got {name!r}\. They are weigh_gains, "
    )
    with pytest.raises(ValueError, match=words):
        mps.graph(branches, without=(name,))


def test_every_step_says_why_it_stands_where_it_does():
    steps = (*pipeline.EQUATION_STEPS, *pipeline.WHOLE_PASSES, *pipeline.PROGRAM_PASSES)
    assert len({step.name for step in steps}) == len(steps)
    assert all(re.fullmatch(r"[a-z_]+", step.name) and len(step.place) > 15 for step in steps)


def test_dump(native, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_MPS_DUMP", str(tmp_path / "dump"))
    region = mps.graph(branches).program(*ARGUMENTS)
    mps.graph(scanned).program(*LOOP)
    folders = sorted((tmp_path / "dump").iterdir())
    assert [re.sub(r"^\d+-\d+-", "", folder.name) for folder in folders[-2:]] == ["branches", "scanned"]
    files = sorted(folders[-2].iterdir())
    names = [re.fullmatch(r"\d{3}-(\w+)\.txt", file.name)[1] for file in files]
    passes = [step.name for step in pipeline.PROGRAM_PASSES if step.when()]
    first = ["jaxpr", "flatten", *(step.name for step in pipeline.EQUATION_STEPS), "lower"]
    assert names == [*first, *(step.name for step in pipeline.WHOLE_PASSES), *passes, "plan_memory"]
    assert files[-1].read_text().strip() == region[0].program.text()
    assert (
        "conv_general_dilated" in files[1].read_text() and "mps_conv" in files[names.index("recognise_ops")].read_text()
    )


# A program that means something, and what breaks it.


def good():
    f32 = lambda *shape: Type("f32", shape)  # noqa: E731
    x, a, b, c, d = (Value(i, f32(4, 8)) for i in range(5))
    flat = Value(5, f32(32))
    nodes = [
        Node("exp", [x], [a], {}),
        Node("tanh", [a], [b], {}),
        Node("add", [a, b], [c], {}),
        Node("sin", [c], [d], {}),
        Node("reshape", [d], [flat], {}),
    ]
    return Program([x], nodes, [flat])


def planned():
    program = good()
    out = Value(6, Type("f32", (32,)))
    program.nodes.append(Node("cos", [program.outputs[0]], [out], {}))
    program.outputs = [out]
    return program, plan(program).arena


def looped():
    graphed = mps.graph(scanned, without=("hoist_from_loops", "weigh_gains")).program(*LOOP)[0].program
    program = copy.deepcopy(graphed)
    return program, next(node for node in program.nodes if node.body is not None)


def test_good_programs_are_whole(native):
    verify(good(), "a test")
    verify(*planned()[:1], "a test", planned()[1])
    verify(looped()[0], "a test")


def _swap(program):
    program.nodes[0], program.nodes[1] = program.nodes[1], program.nodes[0]


def _twice(program):
    program.nodes[1].results = program.nodes[0].results


def _same_name(program):
    program.nodes[1].results[0].name = program.nodes[0].results[0].name


def _no_output(program):
    program.outputs = [Value(99, Type("f32", (32,)))]


def _shape(program):
    program.nodes[1].results[0].type = Type("f32", (8, 4))


def _dtype(program):
    program.nodes[1].results[0].type = Type("s32", (4, 8))


def _view(program):
    program.nodes[4].results[0].type = Type("f32", (31,))


def _view_dtype(program):
    program.nodes[4].results[0].type = Type("s32", (32,))


BREAKS = {
    _swap: "%1 is read before it is defined",
    _twice: "%1 is defined twice",
    _same_name: "two values are called %1",
    _no_output: "%99 is returned and never defined",
    _shape: r"an elementwise op of f32\[4,8\] gives f32\[8,4\]",
    _dtype: "one op has the dtypes f32, s32",
    _view: r"f32\[4,8\] has no such view f32\[31\]",
    _view_dtype: "a view changes f32 to s32",
}


@pytest.mark.parametrize("change", BREAKS)
def test_a_broken_program(change):
    program = good()
    change(program)
    with pytest.raises(BrokenProgram, match=rf"^after fold_padding: ({BREAKS[change]})"):
        verify(program, "fold_padding")


def test_memory_that_overlaps():
    program, arena = planned()
    a, b = program.nodes[0].results[0], program.nodes[1].results[0]
    b.offset = a.offset  # tanh may write where it reads, if nothing else reads that later
    assert overlaps(program) == [(a, b)]
    with pytest.raises(BrokenProgram, match="after plan_memory: %1 and %2 are alive at once and overlap"):
        verify(program, "plan_memory", arena)
    program.nodes[2].operands = [b, b]
    assert overlaps(program) == []


def test_an_alias_of_memory_that_is_written_again():
    program, _ = planned()
    d, flat = program.nodes[4].operands[0], program.nodes[4].results[0]
    late = Value(7, d.type, offset=d.offset)
    program.nodes.insert(5, Node("exp", [program.inputs[0]], [late], {}))  # while the view is still to be read
    assert program.nodes[6].operands == [flat] and overlaps(program) == [(d, late)]


@pytest.mark.parametrize("offset", [None, -64, 1 << 20])
def test_memory_outside_of_the_arena(offset):
    program, arena = planned()
    program.nodes[0].results[0].offset = offset
    with pytest.raises(BrokenProgram, match=r"%1 (has no place in memory|lies beyond the arena of)"):
        verify(program, "plan_memory", arena)


def test_broken_loops(native):
    program, loop = looped()
    loop.body.inputs.pop()
    with pytest.raises(BrokenProgram, match="the body of a loop has other inputs or outputs"):
        verify(program, "hoist_from_loops")
    program, loop = looped()
    loop.body.outputs.reverse()
    with pytest.raises(BrokenProgram, match="in the body of a loop"):
        verify(program, "hoist_from_loops")
    program, loop = looped()
    loop.body.nodes[0].operands[0] = program.inputs[0]
    with pytest.raises(BrokenProgram, match=r"is read before it is defined, in .*, in a loop's body"):
        verify(program, "hoist_from_loops")


def test_the_compiler_is_watched(native, monkeypatch):
    """A pass that breaks a program is named."""

    def breaks(program):
        return Program(program.inputs, program.nodes, [Value(10**6, o.type) for o in program.outputs])

    broken = tuple(
        pipeline.Step(s.name, breaks, s.place, s.when) if s.name == "fold_padding" else s
        for s in pipeline.PROGRAM_PASSES
    )
    monkeypatch.setattr(pipeline, "PROGRAM_PASSES", broken)
    with pytest.raises(BrokenProgram, match=r"^after fold_padding: %1000000 is returned and never defined"):
        mps.graph(branches).program(*ARGUMENTS)
