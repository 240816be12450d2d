"""Derivatives beyond a gradient: forward mode, the gradient of each example's gradient, linear transposes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from graph_common import assert_same
from jax import lax
from op_common import as_tuple, cast, differentiable, operands_of

import jax_mps as mps

# One configuration of each op.
ONE_OF_EACH = {case.name.split(":")[0]: case for case in reversed(CASES) if case.order}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), jnp.float32)


def assert_close(got, wanted, tolerance=2e-5):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        largest = np.abs(np.asarray(w, np.float64)).max() if np.size(w) else 0
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * largest)


def of_floating(case, operands):
    """The floating results of a case as a function of its floating operands, and these."""
    which = differentiable(operands)

    def function(*some):
        values = list(operands)
        for place, value in zip(which, some, strict=True):
            values[place] = value
        results = as_tuple(case.function(*values))
        return tuple(y for y in results if jnp.issubdtype(y.dtype, jnp.floating))

    return function, [operands[i] for i in which]


class TestEveryOp:
    @pytest.mark.parametrize("case", ONE_OF_EACH.values(), ids=str)
    def test_forward_mode(self, native, case):
        """<dy, J dx> = <J^T dy, dx>, where gradients are right."""
        function, operands = of_floating(case, cast(operands_of(case), jnp.float32))
        tangents = [normal(*x.shape, seed=i) for i, x in enumerate(operands)]
        results, moved = jax.jit(lambda xs, ts: jax.jvp(function, xs, ts))(tuple(operands), tuple(tangents))
        cotangents = tuple(normal(*y.shape, seed=9 + i) for i, y in enumerate(results))
        _, pull = jax.vjp(function, *operands)
        dot = lambda xs, ys: [float(np.vdot(np.float64(x), np.float64(y))) for x, y in zip(xs, ys, strict=True)]  # noqa: E731
        forward, backward = dot(cotangents, moved), dot(pull(cotangents), tangents)
        scale = sum(map(abs, forward)) + sum(map(abs, backward)) + 1e-3
        assert abs(sum(forward) - sum(backward)) < 1e-4 * scale

    @pytest.mark.parametrize("name", ["conv", "batch_norm", "lstm", "max_pool", "prelu"])
    def test_gradient_of_gradients_of_examples(self, name):
        """Some operands are the batch's, the first one each example's own; float64, so that equal means equal."""
        with jax.enable_x64(True):
            case = ONE_OF_EACH[name]
            function, operands = of_floating(case, cast(operands_of(case), jnp.float64))
            first = jnp.stack([operands[0], operands[0] * 1.25, operands[0] * 0.75])

            def penalty(function):
                def of_one(x, *shared):
                    total = lambda *xs: sum(jnp.sum(jnp.sin(y)) for y in function(*xs))  # noqa: E731
                    found = jax.grad(total, tuple(range(1 + len(shared))))(x, *shared)
                    return sum(jnp.sum(g**2) for g in found)

                return of_one

            def mapped(*shared):
                return jax.vmap(penalty(function), (0, *(None for _ in shared)))(first, *shared).sum()

            def one_by_one(*shared):
                return sum(penalty(function)(x, *shared) for x in first)

            if len(operands) > 1:
                places = tuple(range(len(operands) - 1))
                got, wanted = (jax.jit(jax.grad(f, places))(*operands[1:]) for f in (mapped, one_by_one))
            else:
                got, wanted = jax.jit(mapped)(), jax.jit(one_by_one)()
            assert_close(got, wanted, 1e-9)


def penalised(f):
    """A loss of each example's gradient, as in a gradient penalty."""
    times = jnp.array([0.3, -0.7, 1.1])
    return lambda a, b: jnp.sum(jax.vmap(lambda t: jax.grad(f, (0, 1))(a, b, t)[0] ** 2)(times))


def wave(a, b, x):
    return jnp.sin(x * a) * b


class TestGraph:
    def test_gradient_of_gradients_of_examples(self, native):
        gradient = lambda f: jax.grad(penalised(f), (0, 1))(0.5, 2.0)  # noqa: E731
        with jax.enable_x64(True):
            wanted = gradient(wave)
        assert_close(gradient(mps.graph(wave)), wanted)
        assert_close(jax.jit(lambda: gradient(mps.graph(wave)))(), wanted)
        assert_close(jax.grad(mps.graph(penalised(wave)), (0, 1))(0.5, 2.0), wanted)

    def test_physics_informed_network(self, native):
        """The equation's residual has a second derivative of the network at each point, the loss a gradient of that."""
        layers = [(normal(1, 16) * 1.0, normal(16)), (normal(16, 16) * 0.3, normal(16)), (normal(16, 1), normal(1))]

        def network(layers, x):
            x = x[None]
            for w, b in layers[:-1]:
                x = jnp.tanh(x @ w + b)
            return (x @ layers[-1][0] + layers[-1][1])[0]

        def loss(network, layers):
            residual = lambda x: jax.grad(jax.grad(network, 1), 1)(layers, x) + network(layers, x)  # noqa: E731
            return jnp.mean(jax.vmap(residual)(jnp.linspace(0, 1, 7)) ** 2)

        wanted = jax.grad(lambda p: loss(network, p))(layers)
        assert_close(jax.grad(lambda p: loss(mps.graph(network), p))(layers), wanted, 1e-4)
        assert_close(jax.jit(jax.grad(lambda p: loss(mps.graph(network), p)))(layers), wanted, 1e-4)

    def test_meta_learning(self, native):
        """The gradient through a step of gradient descent for each task."""
        w, xs, ys = normal(4, 3), normal(5, 8, 4), normal(5, 8, 3)

        def outer(loss, w):
            after = lambda x, y: loss(w - 0.1 * jax.grad(loss)(w, x, y), x, y)  # noqa: E731
            return jax.vmap(after)(xs, ys).mean()

        loss = lambda w, x, y: jnp.mean((jnp.tanh(mps.dense(x, w)) - y) ** 2)  # noqa: E731
        plain = lambda w, x, y: jnp.mean((jnp.tanh(x @ w) - y) ** 2)  # noqa: E731
        wanted = jax.grad(functools.partial(outer, plain))(w)
        for f in (loss, mps.graph(loss), mps.graph(plain)):
            assert_close(jax.grad(functools.partial(outer, f))(w), wanted)

    def test_forward_mode_and_hessian(self, native):
        f = lambda w, x: jnp.sum(jnp.tanh(mps.dense(x, w, neuron="sigmoid")) ** 2)  # noqa: E731
        plain = lambda w, x: jnp.sum(jnp.tanh(jax.nn.sigmoid(x @ w)) ** 2)  # noqa: E731
        w, x = normal(4, 3), normal(5, 4)
        for g in (mps.graph(f), mps.graph(plain), jax.jit(mps.graph(plain)), f):
            assert_close(jax.jvp(g, (w, x), (x[:4, :3], x)), jax.jvp(plain, (w, x), (x[:4, :3], x)))
            assert_close(jax.jacfwd(g)(w, x), jax.grad(plain)(w, x))
            assert_close(jax.hessian(g)(w, x), jax.hessian(plain)(w, x), 1e-4)
            assert_close(jax.jvp(jax.grad(g), (w, x), (w, x)), jax.jvp(jax.grad(plain), (w, x), (w, x)), 1e-4)
        assert_close(mps.graph(jax.hessian(mps.graph(plain)))(w, x), jax.hessian(plain)(w, x), 1e-4)

    def test_integers_and_keys_have_no_tangent(self, native):
        def f(x, n, key):
            return jnp.sum(x * n.astype(x.dtype)) * jax.random.uniform(key), n + 1, key

        x, n, key = normal(6), jnp.arange(6), jax.random.key(0)
        for wrap in (lambda f: f, jax.jit):
            value = lambda g: jax.value_and_grad(lambda x: (g(x, n, key)[0], g(x, n, key)[1:]), has_aux=True)  # noqa: E731
            (got, (count, _)), gradient = wrap(value(mps.graph(f)))(x)
            (wanted, _), wanted_gradient = wrap(value(f))(x)
            assert_close((got, gradient), (wanted, wanted_gradient))
            assert count.tolist() == list(range(1, 7))

    def test_transposed(self, native):
        a, b = jnp.eye(64) * 3 + normal(64, 64) * 0.1, normal(64)
        for wrap in (mps.graph, lambda f: jax.jit(mps.graph(f))):
            (got,) = jax.linear_transpose(wrap(lambda x: a @ x), b)(b)
            assert_close(got, a.T @ b)
            solve = lambda b: jax.scipy.sparse.linalg.cg(wrap(lambda x: a.T @ (a @ x)), b)[0].sum()  # noqa: B023, E731
            assert_close(jax.grad(solve)(b), np.linalg.solve(np.float64(a.T @ a), np.ones(64)), 1e-3)

    def test_mapped_over_arrays_of_numpy(self, native):
        w = np.random.default_rng(0).standard_normal((4, 3))  # float64, which JAX takes as float32
        f = lambda x: jnp.tanh(x @ w) * np.arange(1, 7.0).reshape(2, 3)  # noqa: E731
        wanted = jax.vmap(f)(normal(5, 2, 4))
        for wrap in (lambda f: f, jax.jit):
            assert_close(wrap(jax.vmap(mps.graph(f)))(normal(5, 2, 4)), wanted)
            assert_close(jax.vmap(wrap(mps.graph(f)))(normal(5, 2, 4)), wanted)

    def test_of_a_linear_function_of_an_op(self, native):
        x, w = normal(2, 5, 5, 3), normal(3, 3, 3, 4)
        dy = normal(2, 5, 5, 4)
        (got,) = jax.linear_transpose(lambda x: mps.conv(x, w), x)(dy)
        assert_close(got, jax.vjp(lambda x: mps.conv(x, w), x)[1](dy)[0])


def printed(x):
    jax.debug.callback(lambda _: None, x)
    return mps.relu(x) ** 3


def put(x):
    return mps.relu(jax.device_put(x)) ** 3


def looped(x):
    return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] * x), (0, mps.relu(x)))[1]


def looped_and_printed(x):
    jax.debug.callback(lambda _: None, x)
    return looped(x)


class TestForwardMode:
    """Of graphed functions with effects, of devices that nobody names, of loops without a gradient."""

    @pytest.mark.parametrize("function", [printed, put, looped, looped_and_printed])
    def test_tangents_of_cubes(self, native, function):
        x, dx = jnp.array([0.5, -1.0, 2.0]), jnp.array([1.0, 3.0, -0.5])
        y, dy = np.float32([0.125, 0, 8]), np.float32([0.75, 0, -6])
        g = mps.graph(function)
        for called in (g, jax.jit(g), mps.graph(g)):
            assert_same(jax.jvp(called, (x,), (dx,)), (y, dy))
            assert_same(jax.jit(lambda x, dx, f=called: jax.jvp(f, (x,), (dx,)))(x, dx), (y, dy))
            assert_same(jax.linearize(called, x)[1](dx), dy)
            assert_same(jax.vmap(lambda x, dx, f=called: jax.jvp(f, (x,), (dx,))[1])(x, dx), dy)
            second = jax.jacfwd(jax.jacfwd(lambda x, f=called: jnp.sum(f(x))))(x)
            assert_same(second, np.diag(np.float32([3, 0, 12])))

    @pytest.mark.parametrize("function", [looped, looped_and_printed])
    def test_loops_without_a_gradient_say_so(self, native, function):
        with pytest.raises(ValueError, match=r"Reverse-mode differentiation does not work for lax\.while_loop"):
            jax.grad(lambda x: jnp.sum(mps.graph(function)(x)))(jnp.ones(3))

    def test_gradients_beside_a_loop_are_native(self, native):
        def f(x):
            scale = lax.while_loop(lambda c: c < 3.0, lambda c: c * 2.0, jnp.float32(1.0))
            return jnp.sum(mps.relu(x) * scale)

        x = jnp.array([0.5, -1.0, 2.0])
        assert_same(jax.grad(mps.graph(f))(x), np.float32([4, 0, 4]))
        assert "mps_program" in str(jax.make_jaxpr(jax.grad(mps.graph(f)))(x))
