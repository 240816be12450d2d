"""graph's passes: any program computes what it did, in memory where no two live values overlap, and short programs are
as fused as they should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import assert_same, everything_natively, normal, overlaps  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from random_programs import arrays, gradients, half_program, program
from setting import examples

import jax_mps as mps
from jax_mps.compiler.compiled import compile_jaxpr
from jax_mps.compiler.pipeline import Options


@settings(max_examples=examples(120), derandomize=True, deadline=None, database=None)
@given(st.integers(0, 2**32), st.integers(1, 24), st.booleans())
def test_random_programs(seed, steps, fuse):
    function, args = gradients(seed, steps), arrays(seed)
    wanted = jax.jit(function)(*args)
    graph = mps.graph(function, fuse=fuse)
    assert_same(jax.jit(graph)(*args), wanted, 1e-3)
    compiled = compile_jaxpr(jax.make_jaxpr(function)(*args), Options.of((), fuse))
    assert not compiled.reasons
    for region in compiled.parts:
        assert region.memory.arena <= region.memory.without_aliasing
        assert overlaps(region.program) == []


@settings(max_examples=examples(60), derandomize=True, deadline=None, database=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([jnp.bfloat16, jnp.float16]))
def test_random_programs_in_half_precision(seed, steps, dtype):
    function, args = half_program(seed, steps, dtype), arrays(seed)
    assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args), 6e-2)


@settings(max_examples=examples(50), derandomize=True, deadline=None, database=None)
@given(st.integers(0, 2**32), st.integers(1, 16))
def test_random_programs_of_nan_and_infinity(seed, steps):
    function, args = program(seed, steps), arrays(seed, special=True)
    results = jax.jit(mps.graph(function))(*args), jax.jit(function)(*args)
    for got, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=1e-3, atol=1e-3)


def text(function, *args, **options):
    return mps.graph(function, **options).program(*args).text().removeprefix("device metal\n")


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda m, v, count, g: (m - g, v + g * m, count + 1), {0: 0, 1: 1, 2: 2}),
        (lambda g, m, v, count: (m - g, v + g * m, count + 1), {1: 0, 2: 1, 3: 2}),
        (lambda g, v, m, count: (v + g * m, m - g, count + 1), {1: 0, 2: 1, 3: 2}),
        (lambda m, g, count: (jnp.sum(m * g), count + 1), {2: 1}),
    ],
    ids=["state-first", "state-last", "in-the-function's-order", "no-successor"],
)
def test_outputs_take_the_memory_of_what_they_succeed(native, function, wanted):
    """So that XLA copies neither a donated state nor, before the call, what is not donated."""
    count = function.__code__.co_argcount - 1
    args = [normal(8)] * count
    args.insert(function.__code__.co_varnames.index("count"), jnp.int32(1))
    graphed = compile_jaxpr(jax.make_jaxpr(function)(*args))
    (region,) = graphed.parts
    inputs, outputs = graphed.flat.inputs, graphed.flat.outputs
    pairs = {inputs.index(region.operands[i]): outputs.index(region.results[o]) for i, o in region.aliases}
    assert pairs == wanted


def test_results_take_over_the_memory_of_what_ends(native):
    def f(x, w):
        for _ in range(3):
            x = jnp.sin(x @ w)
        return x

    memory = mps.graph(f).program(normal(4, 4), normal(4, 4)).memory
    assert (memory.arena, memory.without_aliasing) == (2 * 64, 5 * 64)


class TestGolden:
    def test_elementwise_code_is_one_chain_that_broadcasts_by_strides(self, native):
        def f(x, mean, scale):
            return jnp.maximum((x - mean[None]) * scale[None] + 1.0, 0.0)

        assert (
            text(f, normal(2, 3), normal(3), normal(3))
            == """\
input %0: f32[3], %1: f32[2,3], %2: f32[3]
%14: f32[2,3] = chain(%1, %0, %2) {code=["sub 0 1","mul 3 2","const 1.0","add 4 5","const 0.0","max 6 7"], \
offsets=[0,0,0], outputs=[["store",8]], shape=[2,3], strides=[[3,1],[0,1],[0,1]]}
return %14"""
        )

    def test_values_and_their_sums_share_a_chain(self, native):
        def f(x):
            y = jnp.tanh(x)
            return y, jnp.sum(y, 0)

        assert (
            text(f, normal(2, 3))
            == """\
input %0: f32[2,3]
%1: f32[2,3], %2: f32[3] = chain(%0) {code=["tanh 0"], offsets=[0], outputs=[["store",1],["sum",1,[0]]], \
shape=[2,3], strides=[[3,1]]}
return %1, %2"""
        )

    def test_views_that_strides_can_say_are_read_in_place(self, native):
        assert (
            text(lambda x: x.T[1:, ::2] * 2.0, normal(4, 3))
            == """\
input %0: f32[4,3]
%5: f32[2,2] = chain(%0) {code=["const 2.0","mul 0 1"], offsets=[1], outputs=[["store",2]], \
shape=[2,2], strides=[[1,6]]}
return %5"""
        )

    def test_values_read_through_a_view_are_stored_before(self, native):
        def f(x):
            y = jnp.sin(x)
            return y, y + y.T

        first, then = mps.graph(f).program(normal(3, 3))[0].program.nodes
        assert first.results[0] in then.operands

    def test_equal_nodes_are_one(self, native):
        assert text(lambda x: jnp.sin(x) * jnp.sin(x), normal(3)).count("sin") == 1

    def test_unfused_each_op_is_a_chain(self, native):
        assert (
            text(lambda x: jnp.sin(x) * x, normal(3), fuse=False)
            == """\
input %0: f32[3]
%1: f32[3] @0 = chain(%0) {code=["sin 0"], offsets=[0], outputs=[["store",1]], shape=[3], strides=[[1]]}
%2: f32[3] = chain(%1, %0) {code=["mul 0 1"], offsets=[0,0], outputs=[["store",2]], shape=[3], strides=[[1],[1]]}
return %2"""
        )


class TestNeurons:
    """conv and dense with the bias and the relu that follow."""

    def test_of_a_convolution(self, native):
        def f(x, w, b):
            y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jax.nn.relu(y + b[None, None, None])

        conv = 'accumulator="float", dilation=[1,1], groups=1, neuron=["relu",0.0,0.0,0.0], padding=[[1,1],[1,1]]'
        assert (
            text(f, normal(2, 8, 6, 2), normal(3, 3, 2, 5), normal(5))
            == f"""\
input %0: f32[2,8,6,2], %1: f32[3,3,2,5], %2: f32[5]
%9: f32[2,8,6,5] = conv(%0, %1, %2) {{{conv}, strides=[1,1]}}
return %9"""
        )

    def test_the_derivative_reads_the_result(self, native):
        def f(x, w, b):
            return jnp.sum(jnp.square(jax.nn.relu(x @ w + b[None])))

        args = normal(40, 30), normal(30, 40), normal(40)
        nodes = mps.graph(jax.grad(f, (0, 1, 2))).program(*args)[0].program.nodes
        assert [n.op for n in nodes if n.op != "chain"] == ["dense", "dot", "dot"]
        assert not any(line.startswith(("max", "add")) for n in nodes for line in n.attributes.get("code", ()))
        assert_same(jax.jit(mps.graph(jax.grad(f, (0, 1, 2))))(*args), jax.jit(jax.grad(f, (0, 1, 2)))(*args))

    @pytest.mark.parametrize(
        "after, ops",
        [
            (lambda y, b: (y + b[None], y), ["dot", "chain"]),  # something else reads the product
            (lambda y, b: (jax.nn.relu(y + b[None]), y + b[None]), ["dense", "chain"]),  # or the value before the relu
            (lambda y, b: jnp.maximum(y + b[None], 1.0), ["dense", "chain"]),
            (lambda y, b: y + b[:, None], ["dot", "chain"]),
            (lambda y, b: jax.nn.relu(y), ["dense"]),
        ],
    )
    def test_only_where_nothing_is_lost(self, native, after, ops):
        def f(x, w, b):
            return after(x @ w, b)

        args = normal(40, 40), normal(40, 40), normal(40)
        assert [n.op for n in mps.graph(f).program(*args)[0].program.nodes] == ops
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))

    def test_nan_and_infinity_pass(self, native):
        def f(x, w, b):
            return jax.value_and_grad(lambda w: jnp.sum(jax.nn.relu(x @ w + b[None])))(w)

        x = normal(40, 40).at[3, 4].set(jnp.nan).at[5, 6].set(jnp.inf)
        args = x, normal(40, 40), normal(40)
        for got, wanted in zip(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shapes", [((), (3, 4)), ((3, 4), ()), ((), ()), ((), (3,))])
def test_products_with_a_number(native, shapes):
    """They contract nothing; a neuron after them is a node of its own."""
    a, b = (normal(*shape) for shape in shapes)
    f = lambda a, b: mps.relu(lax.dot_general(a, b, (((), ()), ((), ()))))  # noqa: E731
    wanted = np.maximum(np.float64(a)[..., None] * np.float64(b).reshape(-1), 0).reshape(a.shape + b.shape)
    np.testing.assert_allclose(jax.jit(mps.graph(f))(a, b), wanted, rtol=1e-6)
    assert len(mps.graph(f).program(a, b)) == 1
