"""What can be graphed and how it is called: methods, callables, keywords, static arguments; names in errors."""

from __future__ import annotations

import copy
import functools
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from graph_common import assert_same, normal

import jax_mps as mps

X, W = normal(2, 3), normal(3, 4)


def layer(x, n=1, *, scale=2.0, key=None):
    return x if n > 3 else mps.relu(x @ W) * scale


def plain(x, n=1, *, scale=2.0):
    return x if n > 3 else jnp.maximum(x @ W, 0.0) * scale


class Plain:
    def __init__(self, w):
        self.w = w

    @mps.graph
    def layer(self, x, *, scale=2.0):
        return mps.relu(x @ self.w) * scale

    def method(self, x, *, scale=2.0):
        return mps.relu(x @ self.w) * scale

    def __call__(self, x, *, scale=2.0):
        return self.method(x, scale=scale)


class Equinox(eqx.Module):
    w: jax.Array

    @mps.graph
    def __call__(self, x, *, scale=2.0):
        return mps.relu(x @ self.w) * scale


CALLABLES = {
    "method": lambda: Plain(W).layer,
    "method of a class": lambda: functools.partial(Plain.layer, Plain(W)),
    "bound method": lambda: mps.graph(Plain(W).method),
    "object": lambda: mps.graph(Plain(W)),
    "equinox": lambda: Equinox(W),
    "graph of an equinox module": lambda: mps.graph(Equinox(W)),
    "partial": lambda: mps.graph(functools.partial(layer, n=3)) and mps.graph(functools.partial(Plain.layer, Plain(W))),
    "jit": lambda: mps.graph(jax.jit(layer, static_argnames="n")),
    "a copy": lambda: copy.deepcopy(copy.copy(mps.graph(jax.jit(layer, static_argnames="n")))),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_callables(native, name):
    f = CALLABLES[name]()
    for scale in (2.0, 3.0):
        assert_same(f(X, scale=scale), plain(X, scale=scale))
        assert_same(jax.jit(lambda x, f=f, scale=scale: f(x, scale=scale))(X), plain(X, scale=scale))
    assert_same(f(X), plain(X))
    loss = lambda f: lambda x: jnp.sum(f(x) ** 2)  # noqa: E731
    assert_same(jax.grad(loss(f))(X), jax.grad(loss(plain))(X))
    assert_same(jax.vmap(f)(X[None]), plain(X)[None])
    if hasattr(f, "program"):
        assert len(f.program(X, scale=3.0)) == 1


def test_gradients_of_a_module_with_a_graphed_method(native):
    loss = lambda w: jnp.sum(plain(X) ** 2) if w is None else jnp.sum((jnp.maximum(X @ w, 0.0) * 2.0) ** 2)  # noqa: E731
    assert_same(jax.grad(lambda module: jnp.sum(module(X) ** 2))(Equinox(W)).w, jax.grad(loss)(W))


@pytest.mark.parametrize("options", [{"static_argnames": "n"}, {"static_argnums": 1}])
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: functools.partial(f, scale=3.0)], ids=["jit", "partial"])
def test_static_arguments_of_a_jit_inside(native, options, wrap):
    g = mps.graph(jax.jit(wrap(layer), **options))
    scale = {} if wrap(layer) is layer else {"scale": 3.0}
    for n in (1, 5):
        assert_same(g(X, n), plain(X, n, **scale))
        assert len(g.program(X, n)) == (n < 4)
        if "static_argnames" in options:
            assert_same(g(X, n=n), plain(X, n, **scale))


def test_places_after_many(native):
    def f(first, *rest, last):
        return mps.relu(first @ W) + sum(rest) + last["a"]

    g = mps.graph(f)
    assert_same(g(X, 1.0, 2.0, last={"a": 3.0}), jnp.maximum(X @ W, 0.0) + 6.0)
    svg = g.program(X, jnp.ones((2, 4)), jnp.ones((2, 4)), last={"a": jnp.ones((2, 4))}).svg()
    assert "first" in svg and "argument 1" in svg and "last.a" in svg


def test_names(native):
    assert repr(mps.graph(layer)) == "graph(layer)"
    assert repr(mps.graph(functools.partial(layer, n=2))) == "graph(layer)"
    assert repr(mps.graph(Plain(W))) == "graph(Plain)"
    assert repr(Plain(W).layer).startswith("graph(layer) of <")
    assert mps.graph(layer).__name__ == "layer"


def test_pickle(native):
    g = pickle.loads(pickle.dumps(mps.graph(mps.relu, fuse=False)))
    assert repr(g) == "graph(relu)" and g == mps.graph(mps.relu, fuse=False)
    assert_same(g(X), jnp.maximum(X, 0.0))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.grad], ids=["eager", "jit", "grad"])
def test_a_branch_on_a_number_names_function_and_argument(native, wrap):
    g = wrap(mps.graph(lambda x, n: jnp.sum(layer(x, n))))
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        g(X, jnp.float32(5.0))
    assert "the function <lambda> at" in str(caught.value) and "test_calls.py" in str(caught.value)
    assert "the value of the argument n." in str(caught.value) and "traced.py" not in str(caught.value)

    with pytest.raises(jax.errors.TracerBoolConversionError, match=r"the function layer at .* of the argument n\."):
        mps.graph(layer).program(X, jnp.float32(1.0))

    def of_tree(tree, mode):
        return tree["x"] if tree["n"][0] > 1 else mps.relu(tree["x"])

    with pytest.raises(
        jax.errors.TracerBoolConversionError, match=r"the function of_tree at .* argument tree\['n'\]\[0\]\."
    ):
        mps.graph(of_tree)({"x": X, "n": [3.0, 4.0]}, "a static string")


def test_errors():
    with pytest.raises(
        TypeError, match=r"graph: the only options are fuse and without, but got donate_argnums=0\. jax\.jit takes"
    ):
        mps.graph(donate_argnums=0)
    with pytest.raises(TypeError, match=r"jax\.jit\(mps\.graph\(f\), donate_argnums=0, static_argnums=\(1,\)\)\.$"):
        mps.graph(layer, donate_argnums=0, static_argnums=(1,))
    with pytest.raises(TypeError, match="graph: function must be callable, but got None"):
        mps.graph(fuse=False)


def test_explain_keeps_numbers(native):
    """Control flow may ask for them, and for those in an Equinox model."""

    def f(x, n, rate):
        for _ in range(n):
            x = mps.relu(x) * rate if rate > 0.5 else x
        return x

    for g in (f, mps.graph(f), jax.jit(f, static_argnums=(1, 2))):
        rows = mps.explain(g, X, 2, 1.0)
        assert any(row.op in ("neuron", "chain") for row in rows)
        assert not any(row.op in ("neuron", "chain") for row in mps.explain(g, X, 2, 0.0))

    model = eqx.nn.MLP(3, 4, 8, 2, key=jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert any(row.op == "dot_general" for row in mps.explain(lambda m, x: jax.vmap(m)(x), model, X))
        step = mps.graph(lambda m, x: mps.softmax(jax.vmap(m)(x)))
        assert any(row.device == native for row in mps.explain(step, model, X))


def test_graphs_in_a_graph_are_planned_together(native):
    """Their programs are taken apart, loops and gradients too."""
    inner = mps.graph(lambda x: mps.tanh(x @ W) @ W.T)

    def f(inner, x):
        def body(carry, _):
            return inner(carry) * 0.5, jnp.sum(inner(carry))

        last, sums = jax.lax.scan(body, x, length=3)
        return jnp.sum(inner(mps.relu(last)) ** 2) + jnp.sum(sums)

    whole = functools.partial(f, inner)
    wanted = jax.value_and_grad(functools.partial(f, lambda x: mps.tanh(x @ W) @ W.T))(X)
    assert len(mps.graph(whole).program(X)) == 1
    assert len(mps.graph(jax.value_and_grad(whole)).program(X)) == 1
    for g in (mps.graph(jax.value_and_grad(whole)), jax.value_and_grad(mps.graph(whole)), jax.value_and_grad(whole)):
        assert_same(jax.jit(g)(X), wanted)
        assert_same(jax.vmap(g)(X[None]), jax.tree.map(lambda y: y[None], wanted))
