"""graph's passes one by one: the program before, the program after."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from graph_common import NCHW, normal
from jax import lax

from jax_mps.compiler.loops import convert_loop
from jax_mps.compiler.lower.rules import Builder, rule_of
from jax_mps.compiler.passes.fuse_bias_relu import fuse_bias_relu
from jax_mps.compiler.passes.fuse_elementwise.fuse import fuse
from jax_mps.compiler.passes.hoist_from_loops import hoist
from jax_mps.compiler.passes.plan_memory import plan
from jax_mps.compiler.passes.simplify import common_subexpressions, drop_dead, merge_reshapes, transpose_products
from jax_mps.compiler.passes.sink_transposes import sink_transposes
from jax_mps.compiler.pipeline import EVERYTHING, prepare


def built(function, *args):
    """The program of a function before any pass, and its names."""
    control = lambda e: convert_loop(e, control, EVERYTHING)  # noqa: E731
    flat = prepare(jax.make_jaxpr(function)(*args), control, EVERYTHING).flat
    builder = Builder()
    for variable in flat.inputs:
        builder.input(variable)
    for equation in flat.equations:
        builder.define(equation, rule_of(equation))
    builder.program.outputs = [builder.read(o) for o in flat.outputs]
    return builder.program, builder.names


def check(program, before, after, change):
    assert program.text() == before.strip()
    assert change(program).text() == after.strip()


def test_common_subexpressions(native):
    check(
        built(lambda x: jnp.sin(x) + jnp.sin(x), normal(3))[0],
        """
input %0: f32[3]
%1: f32[3] = sin(%0)
%2: f32[3] = sin(%0)
%3: f32[3] = add(%1, %2)
return %3""",
        """
input %0: f32[3]
%1: f32[3] = sin(%0)
%3: f32[3] = add(%1, %1)
return %3""",
        common_subexpressions,
    )


def test_dead_code(native):
    program = built(lambda x: (jnp.sin(x), jnp.cos(x)), normal(3))[0]
    program.outputs = program.outputs[1:]
    check(
        program,
        """
input %0: f32[3]
%1: f32[3] = sin(%0)
%2: f32[3] = cos(%0)
return %2""",
        """
input %0: f32[3]
%2: f32[3] = cos(%0)
return %2""",
        drop_dead,
    )


def test_constants_are_folded_in_the_trace(native):
    program = built(lambda x: x * jnp.sqrt(jnp.float32(16.0)), normal(3))[0]
    check(
        program,
        """
input %0: f32[3]
%1: f32[] = constant() {value=4.0}
%2: f32[3] = broadcast_in_dim(%1) {axes=[]}
%3: f32[3] = mul(%0, %2)
return %3""",
        program.text(),
        lambda program: program,
    )


def test_reshapes(native):
    check(
        built(lambda x: jnp.sin(x.reshape(6)[None].reshape(3, 2)), normal(2, 3))[0],
        """
input %0: f32[2,3]
%1: f32[6] = reshape(%0)
%2: f32[1,6] = broadcast_in_dim(%1) {axes=[1]}
%3: f32[3,2] = reshape(%2)
%4: f32[3,2] = sin(%3)
return %4""",
        """
input %0: f32[2,3]
%1: f32[6] = reshape(%0)
%2: f32[1,6] = reshape(%0)
%3: f32[3,2] = reshape(%0)
%4: f32[3,2] = sin(%3)
return %4""",
        merge_reshapes,
    )


def test_transposed_products(native):
    check(
        built(lambda x, w: (x @ w).T, normal(2, 3), normal(3, 4))[0],
        """
input %0: f32[2,3], %1: f32[3,4]
%2: f32[2,4] = dot(%0, %1) {batch=[[],[]], contract=[[1],[0]]}
%3: f32[4,2] = transpose(%2) {order=[1,0]}
return %3""",
        """
input %0: f32[2,3], %1: f32[3,4]
%2: f32[2,4] = dot(%0, %1) {batch=[[],[]], contract=[[1],[0]]}
%3: f32[4,2] = dot(%1, %0) {batch=[[],[]], contract=[[0],[1]]}
return %3""",
        transpose_products,
    )


def test_transposes_sink(native):
    program, names = built(lambda x: jnp.sum(jnp.sin(x.T), 0), normal(2, 3))
    check(
        program,
        """
input %0: f32[2,3]
%1: f32[3,2] = transpose(%0) {order=[1,0]}
%2: f32[3,2] = sin(%1)
%3: f32[2] = reduce(%2) {axes=[0], kind="sum"}
return %3""",
        """
input %0: f32[2,3]
%1: f32[3,2] = transpose(%0) {order=[1,0]}
%4: f32[2,3] = sin(%0)
%2: f32[3,2] = transpose(%4) {order=[1,0]}
%5: f32[2] = reduce(%4) {axes=[1], kind="sum"}
return %5""",
        lambda program: sink_transposes(program, names),
    )


def test_recognised_convolution(native):
    program = built(
        lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=NCHW),
        normal(1, 2, 4, 4),
        normal(3, 2, 1, 1),
    )[0]
    assert (
        program.text()
        == """\
input %0: f32[1,2,4,4], %1: f32[3,2,1,1]
%2: f32[1,4,4,2] = transpose(%0) {order=[0,2,3,1]}
%3: f32[1,1,2,3] = transpose(%1) {order=[2,3,1,0]}
%4: f32[1,4,4,3] = conv(%2, %3) {accumulator="float", dilation=[1,1], groups=1, padding=[[0,0],[0,0]], strides=[1,1]}
%5: f32[1,3,4,4] = transpose(%4) {order=[0,3,1,2]}
return %5"""
    )


def test_neurons(native):
    check(
        built(lambda x, w: jnp.maximum(x @ w, 0.0), normal(40, 32), normal(32, 40))[0],
        """
input %0: f32[40,32], %1: f32[32,40]
%2: f32[40,40] = dot(%0, %1) {batch=[[],[]], contract=[[1],[0]]}
%3: f32[] = constant() {value=0.0}
%4: f32[40,40] = broadcast_in_dim(%3) {axes=[]}
%5: f32[40,40] = max(%2, %4)
return %5""",
        """
input %0: f32[40,32], %1: f32[32,40]
%3: f32[] = constant() {value=0.0}
%4: f32[40,40] = broadcast_in_dim(%3) {axes=[]}
%5: f32[40,40] = dense(%0, %1) {neuron=["relu",0.0,0.0,0.0]}
return %5""",
        fuse_bias_relu,
    )


def test_fusion_then_plan(native):
    program = built(lambda x, w: jnp.sin(jnp.sin(x @ w) @ w), normal(2, 2), normal(2, 2))[0]
    before = """
input %0: f32[2,2], %1: f32[2,2]
%2: f32[2,2] = dot(%0, %1) {batch=[[],[]], contract=[[1],[0]]}
%3: f32[2,2] = sin(%2)
%4: f32[2,2] = dot(%3, %1) {batch=[[],[]], contract=[[1],[0]]}
%5: f32[2,2] = sin(%4)
return %5"""
    chain = 'code=["sin 0"], offsets=[0], outputs=[["store",1]], shape=[2,2], strides=[[2,1]]'
    fused = f"""
input %0: f32[2,2], %1: f32[2,2]
%2: f32[2,2] = dot(%0, %1) {{batch=[[],[]], contract=[[1],[0]]}}
%3: f32[2,2] = chain(%2) {{{chain}}}
%4: f32[2,2] = dot(%3, %1) {{batch=[[],[]], contract=[[1],[0]]}}
%5: f32[2,2] = chain(%4) {{{chain}}}
return %5"""
    check(program, before, fused, lambda program: fuse(program))
    program = fuse(program)
    memory = plan(program)
    offsets = [next((r.offset for r in n.results), None) for n in program.nodes]
    assert (offsets, memory.arena, memory.without_aliasing) == ([0, 0, 64, None], 128, 192)


def test_hoisting(native):
    def f(w, xs):
        return lax.scan(lambda h, x: (jnp.sin(h + x @ w), None), xs[0] @ w, xs)[0]

    program, names = built(f, normal(2, 2), normal(3, 2, 2))
    assert [n.op for n in program.nodes][-1] == "loop"
    hoisted = hoist(program, names)
    (loop,) = (n for n in hoisted.nodes if n.op == "loop")
    whole = hoisted.nodes[hoisted.nodes.index(loop) - 1]
    assert str(whole).split(" = ")[1] == "dot(%1, %0) {batch=[[],[]], contract=[[2],[0]]}"
    assert [n.op for n in loop.body.nodes] == ["add", "sin"]


def test_names_are_new(native):
    program, names = built(jnp.sin, normal(3))
    used = {v.name for n in program.nodes for v in n.results}
    assert not used & {names.value(program.inputs[0].type).name for _ in range(5)}
