"""Native loops: a scan runs as it does in JAX, in every form that a scan takes."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import assert_same, normal
from jax import lax
from native import f32

import jax_mps as mps
from jax_mps import ffi

W = normal(4, 4) * 0.4


def cell(carry, x):
    """A recurrent cell whose result is its carry and a slice of the outputs at once."""
    carry = mps.tanh(carry @ W + x)
    return carry, carry


def swap(carry, x):
    """Carries that take each other's place, one that stays, one that is a slice, one that counts."""
    a, b, same, _, n = carry
    return (b, mps.relu(a) + x, same, x, n + 1), (a, n)


def accumulate(carry, x):
    """A carry that is updated where it lies."""
    return carry + mps.sigmoid(x @ W), None


def nested(carry, x):
    """A loop in a loop, whose constant is the outer slice."""
    carry, ys = lax.scan(lambda c, _: (mps.tanh(c @ W + x), jnp.sum(c)), carry, length=3)
    return carry * 0.9, ys


def nothing(carry, x):
    """A loop that computes constants and returns what it is given in another shape."""
    return carry, (x.T, x.reshape(-1), jnp.float32(2.0), mps.relu(x), mps.relu(carry))


X0 = normal(3, 4)
CARRIES = {
    cell: X0,
    swap: (X0, X0 + 1.0, X0 * 2.0, X0, jnp.int32(0)),
    accumulate: X0,
    nested: X0,
    nothing: X0,
}


def loops(function, *args):
    """The loop nodes of a graphed function, and how many regions and scans of JAX there are."""
    regions = mps.graph(function).program(*args)
    scans = str(jax.make_jaxpr(mps.graph(function))(*args)).count("scan[")
    return [n for region in regions for n in region.program.nodes if n.op == "loop"], len(regions), scans


@pytest.mark.parametrize("body", CARRIES, ids=lambda f: f.__name__)
class TestValues:
    @pytest.mark.parametrize("options", [{}, {"reverse": True}, {"unroll": 2}], ids=str)
    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_scan(self, native, body, length, options):
        def f(carry, xs):
            return lax.scan(body, carry, xs, **options)

        args = CARRIES[body], normal(length, 3, 4)
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))
        found, regions, scans = loops(f, *args)
        assert (len(found), regions, scans) == (1, 1, 0)

    def test_no_iterations(self, native, body):
        def f(carry, xs):
            return lax.scan(body, carry, xs)

        args = CARRIES[body], normal(0, 3, 4)
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))

    def test_gradients(self, native, body):
        def loss(carry, xs):
            floats = [y for y in jax.tree.leaves(lax.scan(body, carry, xs)) if y.dtype == jnp.float32]
            return sum((jnp.sum(jnp.sin(y)) for y in floats), start=jnp.float32(0.0))

        both = jax.value_and_grad(loss, (0, 1), allow_int=True)
        args = CARRIES[body], normal(4, 3, 4)
        got, wanted = jax.jit(mps.graph(both))(*args), jax.jit(both)(*args)
        drop = lambda tree: [y for y in jax.tree.leaves(tree) if y.dtype == jnp.float32]  # noqa: E731
        assert_same(drop(got), drop(wanted))
        assert loops(loss, *args)[2] == 0

    @pytest.mark.parametrize("length", [3, 4])
    def test_donated_carries(self, native, body, length):
        def f(carry, xs):
            return lax.scan(body, carry, xs)

        wanted = jax.jit(f)(CARRIES[body], normal(length, 3, 4))
        step = jax.jit(mps.graph(f), donate_argnums=0)
        assert_same(step(jax.tree.map(jnp.copy, CARRIES[body]), normal(length, 3, 4)), wanted)

    def test_vmap_and_outer_scan(self, native, body):
        def f(carry, xs):
            return lax.scan(body, carry, xs)

        graphed = mps.graph(f)
        batch = jax.tree.map(lambda a: jnp.stack([a, a + 1]), CARRIES[body])
        assert_same(
            jax.vmap(graphed, (0, None))(batch, normal(2, 3, 4)), jax.vmap(f, (0, None))(batch, normal(2, 3, 4))
        )
        outer = lambda f: lambda c, xs: lax.scan(lambda c, _: (f(c, xs)[0], None), c, length=3)  # noqa: E731
        args = CARRIES[body], normal(2, 3, 4)
        assert_same(jax.jit(outer(graphed))(*args), jax.jit(outer(f))(*args))
        assert_same(jax.jit(mps.graph(outer(graphed)))(*args), jax.jit(outer(f))(*args))


class TestForms:
    def test_counted_loops(self, native):
        def f(x):
            return lax.fori_loop(0, 6, lambda i, c: mps.tanh(c @ W) + i.astype(jnp.float32), x)

        assert_same(jax.jit(mps.graph(f))(X0), jax.jit(f)(X0))
        assert_same(jax.jit(mps.graph(jax.grad(lambda x: jnp.sum(f(x)))))(X0), jax.grad(lambda x: jnp.sum(f(x)))(X0))
        assert len(loops(f, X0)[0]) == 1

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision(self, native, dtype):
        w = W.astype(dtype)
        f = lambda c, xs: lax.scan(lambda c, x: (mps.tanh(mps.dense(c, w) + x), c), c, xs)  # noqa: E731
        args = X0.astype(dtype), normal(5, 3, 4).astype(dtype)
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args), 3e-2)
        assert len(loops(f, *args)[0]) == 1

    def test_slices_of_bytes_and_booleans(self, native):
        def f(carry, xs):
            return lax.scan(lambda c, x: (mps.relu(jnp.where(x, c, -c)), (x, c > 0.0)), carry, xs)

        args = normal(3), normal(4, 3) > 0.0
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))
        assert len(loops(f, *args)[0]) == 1

    def test_a_constant_array_among_the_results(self, native):
        w = np.arange(12, dtype=np.float32).reshape(3, 4) / 8

        def f(x):
            def body(c, _):
                return jnp.tanh(c @ w) @ w.T, (w, c)

            return lax.scan(body, x, length=3)

        x, total = normal(2, 3), lambda g: lambda x: g(x)[0].sum()
        assert_same(jax.jit(mps.graph(f))(x), f(x))
        assert_same(jax.grad(total(mps.graph(f)))(x), jax.grad(total(f))(x))

    def test_captured_arrays_and_shared_constants(self, native):
        table = np.asarray(normal(4, 4))
        f = lambda w, x: lax.scan(lambda c, _: (mps.relu(c @ table @ w) + w[0][None], None), x, length=3)  # noqa: E731
        assert_same(jax.jit(mps.graph(f))(W, X0), jax.jit(f)(W, X0))

    def test_a_carry_that_is_also_a_constant(self, native):
        f = lambda w: lax.scan(lambda c, _: (mps.relu(c @ w) + c, None), w, length=3)[0]  # noqa: E731
        assert_same(jax.jit(mps.graph(f))(W), jax.jit(f)(W))
        assert_same(jax.jit(mps.graph(f), donate_argnums=0)(jnp.copy(W)), jax.jit(f)(W))

    def test_steps_of_training_are_one_call(self, native):
        rule = mps.optim.adam(1e-2)

        def step(state, batch):
            params, slots = state

            def loss(params):
                y = mps.max_pool(mps.conv(batch[0], params["conv"], neuron="relu"), 2)
                logits = mps.dense(y.reshape(4, -1), params["dense"])
                return jnp.mean(mps.losses.softmax_cross_entropy(logits, batch[1]))

            value, gradients = jax.value_and_grad(loss)(params)
            updates, slots = rule.update(gradients, slots, params)
            return (jax.tree.map(jnp.add, params, updates), slots), value

        def train(state, batches):
            return lax.scan(step, state, batches)

        params = {"conv": normal(3, 3, 2, 4), "dense": normal(36, 5)}
        args = (params, rule.init(params)), (normal(5, 4, 6, 6, 2), jnp.arange(20).reshape(5, 4) % 5)
        assert_same(jax.jit(mps.graph(train))(*args), jax.jit(train)(*args), 1e-3)
        (loop,), regions, scans = loops(train, *args)
        assert (regions, scans) == (1, 0)
        assert len(loop.attributes["in_place"]) == len(jax.tree.leaves(args[0]))  # the state stays where it lies

    def test_bodies_that_do_not_convert_stay_loops_of_jax(self, native):
        f = lambda c, xs: lax.scan(lambda c, x: (jnp.sort(mps.relu(c)) + x, mps.tanh(c)), c, xs)  # noqa: E731
        args = X0, normal(3, 3, 4)
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))
        found, regions, scans = loops(f, *args)
        assert (len(found), regions, scans) == (0, 0, 1)

    def test_a_device_without_loops_runs_their_bodies(self, native, monkeypatch):
        def refuse(text):
            if " = loop(" in text:
                raise ValueError("no loops")
            return implementations(text)

        implementations = ffi.implementations
        monkeypatch.setattr(ffi, "implementations", refuse)
        f = lambda c, xs: mps.relu(lax.scan(nested, c, xs)[0])  # noqa: E731
        args = X0, normal(3, 3, 4)
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))
        text = str(jax.make_jaxpr(mps.graph(f))(*args))
        assert text.count("scan[") == 2 and text.count("mps_program") >= 2

    def test_explained(self, native):
        rows = mps.explain(mps.graph(lambda c, xs: lax.scan(cell, c, xs)), X0, normal(3, 3, 4))
        assert ("loop", "loop") in [(row.op, row.implementation) for row in rows]
        assert {"dot", "neuron", "chain"} & {row.op for row in rows}

    def test_concurrent_calls(self, native):
        f = lambda c, xs: lax.scan(cell, c, xs)  # noqa: E731
        step, args = jax.jit(mps.graph(f)), [(X0 * i, normal(9, 3, 4)) for i in range(8)]
        wanted, got = [jax.jit(f)(*a) for a in args], [None] * len(args)

        def run(i):
            for _ in range(20):
                got[i] = jax.block_until_ready(step(*args[i]))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(args))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_same(got, wanted)


def dots(function, *args):
    """How many products there are outside and inside of the loops of a function's one region."""
    (region,) = mps.graph(function).program(*args)
    inside = [n.op for node in region.program.nodes if node.body is not None for n in node.body.nodes]
    return [n.op for n in region.program.nodes].count("dot"), inside.count("dot")


class TestMovedOut:
    """Work that iterations share, each with the values that it had."""

    def check(self, f, *args, outside, inside):
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))
        assert dots(f, *args) == (outside, inside)

    @pytest.mark.parametrize("length", [1, 4])
    def test_what_no_iteration_changes(self, native, length):
        def f(w, v, c):
            return lax.scan(lambda c, _: (mps.relu(c @ ((w * 2.0) @ v.T).T) + v[0][None], None), c, length=length)[0]

        self.check(f, W, normal(4, 4), X0, outside=1, inside=1)

    def test_products_of_slices(self, native):
        f = lambda w, c, xs: lax.scan(lambda c, x: (mps.tanh(x @ w + c @ W), x), c, xs, reverse=True)  # noqa: E731
        self.check(f, W, X0, normal(5, 3, 4), outside=1, inside=1)

    def test_products_of_results(self, native):
        f = lambda w, c, xs: lax.scan(lambda c, x: (mps.tanh(c @ W + x), mps.sigmoid(c) @ w), c, xs)  # noqa: E731
        self.check(f, W, X0, normal(5, 3, 4), outside=1, inside=1)

    def test_totals(self, native):
        def f(start, c, xs):
            def body(carry, x):
                total, part, sums, c = carry
                c = mps.tanh(c @ W + x)
                product = c.T @ x
                return (total + product, part + product[:, 1:3].T, jnp.sum(x * 2.0, 0) + sums, c), None

            return lax.scan(body, (start, normal(2, 4), normal(4), c), xs, reverse=True)[0]

        self.check(f, normal(4, 4), X0, normal(5, 3, 4), outside=1, inside=1)

    def test_totals_that_are_read_stay(self, native):
        def f(start, xs):
            return lax.scan(lambda t, x: (t + x.T @ mps.relu(x), jnp.max(t)), start, xs)

        self.check(f, normal(4, 4), normal(5, 3, 4), outside=0, inside=1)

    def test_the_gradient_of_a_recurrent_cell_keeps_the_product_with_its_state(self, native):
        def loss(w, r, b, xs):
            def body(carry, x):
                h, c = carry
                i, f, g, o = jnp.split(x @ w + h @ r + b[None], 4, axis=-1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * mps.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zeros = jnp.zeros((3, 4))
            return jnp.sum(jnp.sin(lax.scan(body, (zeros, zeros), xs)[1]))

        both = jax.value_and_grad(loss, (0, 1, 2, 3))
        args = normal(5, 16), normal(4, 16), normal(16), normal(6, 3, 5)
        assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))
        assert dots(both, *args) == (4, 2)

    def test_loops_of_loops(self, native):
        def f(w, c, xs):
            def outer(c, x):
                c, ys = lax.scan(lambda c, y: (mps.tanh(c @ W + y[None] @ w), c), c, x)
                return c * 0.5, jnp.sum(ys, 0)

            return lax.scan(outer, c, xs)

        args = W, X0, normal(2, 3, 4)
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))
        gradient = jax.grad(lambda *args: jnp.sum(jnp.sin(f(*args)[1])), (0, 1, 2))
        assert_same(jax.jit(mps.graph(gradient))(*args), jax.jit(gradient)(*args))


BODY = """\
  input %2: f32[2], %3: f32[2]
  %4: f32[2] = chain(%2, %3) {code=["add 0 1"], offsets=[0,0], outputs=[["store",2]], shape=[2], strides=[[1],[1]]}
  return %4, %4
end
"""
HEAD = "input %0: f32[2], %1: f32[3,2]\n"
ATTRIBUTES = "{carry=1, consts=0, in_place=[], length=3, reverse=false}"
LOOP = f"{HEAD}%5: f32[2], %6: f32[3,2] = loop(%0, %1) {ATTRIBUTES} do\n{BODY}return %5, %6"
MALFORMED = [
    (LOOP.replace(" do\n", "\n"), "line 2: expected 'do' at the end of the line"),
    (LOOP.replace(" do\n", " do do\n"), "line 2: unexpected text at 'do'"),
    (LOOP.replace("end\n", ""), "line 6: statement after 'return'"),
    (LOOP.removesuffix("end\nreturn %5, %6"), "a loop has no 'end' line"),
    (LOOP.replace("end\n", "end\nend\n"), "line 7: 'end' outside of a loop"),
    (LOOP.replace("  return %4, %4\n", ""), "line 5: the program has no 'return' line"),
    (LOOP.replace("  return %4, %4\n", "  return %0, %4\n"), "line 5: %0 is not defined"),
    (LOOP.replace("return %5, %6", "return %4, %6"), "line 7: %4 is not defined"),
    (LOOP.replace("return %4, %4", "return %4"), "line 2: loop: the body's inputs and outputs must be as many"),
    (LOOP.replace("input %2: f32[2], %3", "input %3"), "line 4: %2 is not defined"),
    (LOOP.replace("length=3", "length=4"), "line 2: loop: a value of type f32[3,2] is f32[2] inside of the body of 4"),
    (LOOP.replace("length=3", "length=-1"), "line 2: loop: attribute 'length' is out of range"),
    (LOOP.replace("carry=1", "carry=7"), "line 2: loop: attribute 'carry' is out of range"),
    (LOOP.replace("carry=1, ", ""), "line 2: loop: attribute 'carry' is missing"),
    (LOOP.replace("consts=0", "consts=2"), "line 2: loop: the body's inputs and outputs must be as many"),
    (LOOP.replace("reverse=false", "reverse=0"), "line 2: loop: attribute 'reverse' must be true or false"),
    (LOOP.replace("in_place=[]", "in_place=[1]"), "line 2: loop: attribute 'in_place' must be numbers of carries"),
    (LOOP.replace("chain(", "nothing("), "nothing: there is no such op"),
    (LOOP.replace("%5: f32[2]", "%5: s32[2]"), "line 2: loop: a value of type s32[2] is f32[2] inside of the body"),
    ("%0: f32[2] = loop() {carry=0, consts=0, in_place=[], length=0, reverse=false} do\n" * 20, "nested too deeply"),
]


class TestText:
    def test_golden(self, native):
        f = lambda c, xs: lax.scan(lambda c, x: (mps.relu(c) + x, c), c, xs, reverse=True)  # noqa: E731
        assert (
            mps.graph(f).program(normal(2), normal(3, 2)).text().removeprefix("device metal\n")
            == """\
input %0: f32[2], %1: f32[3,2]
%6: f32[2], %7: f32[3,2] = loop(%0, %1) {carry=1, consts=0, in_place=[], length=3, reverse=true} do
  input %2: f32[2], %3: f32[2]
  %4: f32[2] @0 = neuron(%2) {neuron=["relu",0.0,0.0,0.0]}
  %5: f32[2] = chain(%4, %3) {code=["add 0 1"], offsets=[0,0], outputs=[["store",2]], shape=[2], strides=[[1],[1]]}
  return %5, %2
end
return %6, %7"""
        )

    def test_by_hand(self, native):
        (last, sums) = ffi.call(LOOP, [jnp.ones(2), jnp.ones((3, 2))], [f32(2), f32(3, 2)])
        np.testing.assert_array_equal(sums, [[2, 2], [3, 3], [4, 4]])
        np.testing.assert_array_equal(last, [4, 4])
        assert ffi.implementations(LOOP)[0] == "loop" and len(ffi.implementations(LOOP)) == 2

    @pytest.mark.parametrize("text, words", MALFORMED, ids=[str(i) for i in range(len(MALFORMED))])
    def test_malformed(self, native, text, words):
        with pytest.raises(ValueError) as refused:
            ffi.implementations(text)
        assert words in str(refused.value)
