"""Mutable references and tokens: they stay in JAX, in their order, and the rest is graphed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import assert_same, normal
from jax import lax

import jax_mps as mps

X, W, START = jnp.abs(normal(2, 3)), jnp.abs(normal(3, 4)), (1.0, 2.0, 3.0)


@pytest.fixture(autouse=True)
def promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def total(x):
    return jnp.sum(mps.relu(x @ W))


def counted(x, ref):
    ref[...] += 1.0
    return mps.relu(x @ W)


def in_order(x, ref):
    first = ref[...]
    ref[...] = first + total(x)
    second = ref[...]
    ref[0] = second[1] * 2.0
    ref[1:] = ref[:-1] * 0.25
    return first, second, ref[...], total(x * 2.0)


def in_a_scan(x, ref):
    def body(carry, t):
        ref[...] = ref[...] * 0.5 + t
        return carry + total(carry) * 1e-3, ref[...]

    return lax.scan(body, x, jnp.arange(4.0))


def in_a_loop(x, ref):
    def body(c):
        ref[0] = ref[0] + total(c)
        return c + 1.0

    return lax.while_loop(lambda c: c[0, 0] < 3.0, body, x)


def in_a_branch(x, ref):
    def double():
        ref[...] = ref[...] * 2.0
        return mps.relu(x @ W)

    def other():
        ref[1] = 7.0
        return mps.tanh(x @ W)

    return lax.cond(x[0, 0] > 0.0, double, other)


def swapped(x, ref):
    def body(i, c):
        return c * 0.5 + jax.ref.swap(ref, ..., ref[...] + total(c) * 0.1)[0] * 0.01

    return lax.fori_loop(0, 4, body, x)


def in_a_jit(x, ref):
    inner = jax.jit(counted)
    return inner(x, ref) + inner(x * 2.0, ref)


def of_its_own(x, ref):
    own = jax.new_ref(jnp.zeros((2, 4)))
    for i in range(3):
        own[...] += mps.relu(x @ W) * i
    ref[0] = lax.stop_gradient(own[0, 0])
    return jax.freeze(own)


def with_a_gradient(x, ref):
    def loss(x):
        ref[...] = lax.stop_gradient(ref[...] + jnp.sum(x))
        return total(x)

    return jax.grad(loss)(x)


BODIES = [
    counted,
    in_order,
    in_a_scan,
    in_a_loop,
    in_a_branch,
    swapped,
    in_a_jit,
    of_its_own,
    with_a_gradient,
]
WAYS = {
    "eager": mps.graph,
    "jit": lambda f: jax.jit(mps.graph(f)),
    "of jit": lambda f: mps.graph(jax.jit(f)),
    "in a function": lambda f: jax.jit(lambda *args: mps.graph(f)(*args)),
}


def twice(wrap, f, closed):
    """Results of two calls and what the reference holds at the end."""
    ref = jax.new_ref(jnp.asarray(START))
    g = wrap((lambda x: f(x, ref)) if closed else f)
    args = (X,) if closed else (X, ref)
    return [g(*args), g(*args), ref[...]]


@pytest.mark.parametrize("closed", [False, True], ids=["taken", "closed over"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("f", BODIES)
def test_references(native, f, way, closed):
    assert_same(twice(WAYS[way], f, closed), twice(jax.jit, f, closed))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("f", [counted, in_a_branch, in_a_jit, of_its_own])
def test_gradients_outside(native, f, way):
    """The reference is counted by the one call, and has no gradient."""

    def of(wrap):
        ref = jax.new_ref(jnp.asarray(START))
        loss = lambda x: jnp.sum(wrap(f)(x, ref) ** 2)  # noqa: E731
        return jax.value_and_grad(loss)(X), ref[...]

    assert_same(of(WAYS[way]), of(jax.jit))


@pytest.mark.parametrize("way", ["eager", "jit"])
@pytest.mark.parametrize("f", [counted, in_order, in_a_scan, in_a_jit])
def test_vmap(native, f, way):
    def of(wrap):
        ref = jax.new_ref(jnp.stack([jnp.asarray(START) * i for i in range(5)]))
        return jax.vmap(wrap(f))(jnp.stack([X] * 5), ref), ref[...]

    assert_same(of(WAYS[way]), of(jax.jit))


def test_the_rest_is_graphed(native):
    ref = jax.new_ref(jnp.asarray(START))
    assert len(mps.graph(in_order).program(X, ref)) == 1
    assert len(mps.graph(lambda x: in_a_jit(x, ref)).program(X)) == 1
    reasons = {row.op: row.implementation for row in mps.explain(mps.graph(in_order), X, ref) if row.device == "xla"}
    assert "Write" in reasons["swap"] and "Read" in reasons["get"]


def made(x):
    lax.after_all(lax.create_token(x))
    return mps.relu(x @ W), None


def returned(x):
    return mps.relu(x @ W), lax.after_all(lax.create_token(x))


def passed(x, token):
    return mps.relu(x @ W), lax.after_all(token)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("f", [made, returned, passed])
def test_tokens(native, f, way):
    args = (X, jax.jit(lax.create_token)(0.0)) if f is passed else (X,)
    for _ in range(2):
        got, token = WAYS[way](f)(*args)
        assert_same(got, jnp.maximum(X @ W, 0.0))
        assert (token is None) == (f is made)
    assert len(mps.graph(f).program(*args)) == 1
    sums = jax.vmap(lambda x: WAYS[way](f)(x, *args[1:])[0])(jnp.stack([X, -X]))
    assert_same(sums, jnp.maximum(jnp.stack([X, -X]) @ W, 0.0))
