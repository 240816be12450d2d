"""Flax NNX modules under graph: several steps leave the values, statistics, counters and flags that nnx.jit leaves."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from graph_common import assert_same, normal
from process import python

import jax_mps as mps

X, LABELS = normal(8, 6, 6, 3), jnp.arange(8) % 5


@pytest.fixture(autouse=True)
def promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.conv(x))))
        return self.head(x.mean((1, 2)))

    def logits(self, x, *, scale=1.0):
        return self(x) * scale


def made():
    net = Net(nnx.Rngs(0))
    return net, nnx.Optimizer(net, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)


def loss(net, x, labels):
    return optax.softmax_cross_entropy_with_integer_labels(net(x), labels).mean()


def step(net, optimizer, x, labels):
    value, gradients = nnx.value_and_grad(loss)(net, x, labels)
    optimizer.update(net, gradients)
    return value


WAYS = {
    "graph": mps.graph,
    "nnx.jit of graph": lambda f: nnx.jit(mps.graph(f)),
    "graph of nnx.jit": lambda f: mps.graph(nnx.jit(f)),
    "in a step": lambda f: nnx.jit(lambda *args: mps.graph(f)(*args)),
}


def state(*modules):
    """All that modules hold, counters and keys included."""
    values = jax.tree.leaves(nnx.state(modules))
    keys = [jnp.issubdtype(v.dtype, jax.dtypes.prng_key) for v in values]
    return [jax.random.key_data(v) if k else v for v, k in zip(values, keys, strict=True)]


@pytest.mark.parametrize("way", WAYS)
def test_training(native, way):
    def run(wrap):
        net, optimizer = made()
        f, predict = wrap(step), wrap(lambda net, x: net(x))
        losses = [f(net, optimizer, X, LABELS) for _ in range(3)]
        net.eval()
        quiet = predict(net, X), predict(net, X * 2.0)
        net.train()
        return losses, quiet, f(net, optimizer, X, LABELS), predict(net, X), state(net, optimizer)

    assert_same(run(WAYS[way]), run(nnx.jit))


def test_traced_once_a_mode(native):
    traces = []

    def f(net, x):
        traces.append(net.dropout.deterministic)
        return net(x)

    net, _ = made()
    for g in (mps.graph(f), nnx.jit(mps.graph(f))):
        traces.clear()
        for mode in (net.train, net.eval, net.train, net.eval):
            mode()
            g(net, X)
            g(net, X)
        assert traces == [False, True]
    assert len(mps.graph(step).program(*made(), X, LABELS)) == 1
    assert any(row.device == "cpu" for row in mps.explain(mps.graph(step), *made(), X, LABELS)) or native != "cpu"


CALLS = {
    "model": lambda wrap, net: wrap(net)(X),
    "method": lambda wrap, net: wrap(net.__call__)(X),
    "other method": lambda wrap, net: wrap(net.logits)(X, scale=2.0),
    "partial": lambda wrap, net: wrap(functools.partial(loss, net, labels=LABELS))(X),
    "partial of a method": lambda wrap, net: wrap(functools.partial(net.logits, scale=3.0))(X),
    "in a dict": lambda wrap, net: wrap(lambda d, scale: d["net"](d["x"]) * scale)({"net": net, "x": X}, scale=2.0),
    "by keyword": lambda wrap, net: wrap(lambda *, net: net(X))(net=net),
    "a layer": lambda wrap, net: wrap(lambda conv, x: conv(x))(net.conv, X),
}


@pytest.mark.parametrize("call", CALLS)
def test_bound_and_nested(native, call):
    """Modules that are the function, bound to it, or inside of other arguments; called twice, with its statistics."""

    def run(wrap):
        net, _ = made()
        graphed = functools.cache(wrap)  # by the function, as a user who keeps it
        keep = lambda f: graphed(f) if call not in ("in a dict", "by keyword", "a layer") else wrap(f)  # noqa: E731
        return CALLS[call](keep, net), CALLS[call](keep, net), state(net)

    assert_same(run(mps.graph), run(lambda f: f))


def test_shared_references(native):
    class Pair(nnx.Module):
        def __init__(self, net):
            self.first, self.second = net.head, net.head
            self.count = nnx.Variable(jnp.zeros((), jnp.int32))

    def f(net, pair, head):
        pair.first.kernel[...] *= 2.0
        pair.count[...] += 1
        head.bias[...] += pair.second.kernel[...].sum()
        return net.head(mps.relu(jnp.ones((2, 8))))

    def run(wrap):
        net, _ = made()
        pair, g = Pair(net), wrap(f)
        found = [g(net, pair, net.head) for _ in range(2)]
        assert pair.first is pair.second is net.head
        return found, state(net, pair)

    assert_same(run(mps.graph), run(lambda f: f))
    assert_same(run(lambda f: nnx.jit(mps.graph(f))), run(lambda f: f))


def test_what_is_made_and_set_inside(native):
    def f(net, metric, rngs, x):
        net.seen = nnx.Variable(x.sum())
        net.dropout.deterministic = True
        metric.update(values=net(x))
        return nnx.Linear(2, 3, rngs=rngs), net, {"key": jax.random.key_data(rngs())}

    def run(wrap):
        (net, _), metric, rngs = made(), nnx.metrics.Average(), nnx.Rngs(3)
        layer, same, found = wrap(f)(net, metric, rngs, X)
        assert same is net and net.dropout.deterministic is True
        return state(layer, net, metric, rngs), found, metric.compute(), layer(jnp.ones((1, 2)))

    assert_same(run(mps.graph), run(lambda f: f))


@pytest.mark.parametrize("jit", [lambda f: f, nnx.jit], ids=["eager", "jit"])
def test_transformations_of_nnx_around_it(native, jit):
    def run(wrap):
        net, _ = made()
        value, gradients = jit(nnx.value_and_grad(wrap(loss)))(net, X, LABELS)
        net.eval()
        each = jit(lambda net: nnx.vmap(wrap(lambda net, x: net(x[None])), in_axes=(None, 0))(net, X))(net)
        return value, jax.tree.leaves(gradients), each, state(net)

    assert_same(run(mps.graph), run(lambda f: f))


class Trainer:
    def __init__(self):
        self.net, self.optimizer = made()

    def step(self, x):
        return step(self.net, self.optimizer, x, LABELS)

    def predict(self, x):
        return self.net(x)


THE_NET = made()[0]


def of_a_global(x):
    return _through(x) * 2.0


def _through(x):
    return THE_NET(x)


def test_a_closed_over_model_is_never_stale(native):
    net, trainer = THE_NET, Trainer()
    for closed, graphed in (
        (net, mps.graph(lambda x: net(x))),
        (net, mps.graph(of_a_global)),
        (trainer.net, mps.graph(trainer.predict)),
        (trainer.net, mps.graph(Trainer.predict)),
    ):
        args = (trainer, X) if closed is trainer.net and graphed._function is Trainer.predict else (X,)
        scale = 2.0 if graphed._function is of_a_global else 1.0
        closed.eval()
        for _ in range(2):
            closed.head.bias[...] += 1.0
            assert_same(graphed(*args), closed(X) * scale)
            assert_same(graphed(*args), closed(X) * scale)
        closed.train()


def test_a_closed_over_model_is_not_changed_in_silence(native):
    trainer = Trainer()
    net, before = trainer.net, state(trainer.net, trainer.optimizer)
    for f in (lambda x: net(x), trainer.step, trainer.predict):
        with pytest.raises(Exception, match="different trace level"):
            mps.graph(f)(X)
    assert_same(state(net, trainer.optimizer), before)


class Counter(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.full(3, 2.0))
        self.count = nnx.Variable(jnp.array(0))


def counting(counter, x):
    counter.count[...] += 1
    return mps.relu(x * counter.scale[...])


@pytest.mark.parametrize("way", [*WAYS, "jax.jit of graph"])
def test_variables_of_mutable_references(native, way):
    counter = nnx.with_vars(Counter(), ref=True)
    g = WAYS[way](counting) if way in WAYS else jax.jit(mps.graph(counting))
    for calls in (1, 2):
        assert_same(g(counter, jnp.array([1.0, -1.0, 3.0])), jnp.array([2.0, 0.0, 6.0]))
        assert int(counter.count[...]) == calls


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ref", [False, True])
def test_a_variable_alone(native, way, ref):
    def f(variable, x):
        variable[...] += 1
        return mps.relu(x * variable[...])

    variable = nnx.Variable(jnp.array(1.0), ref=ref)
    assert_same(WAYS[way](f)(variable, jnp.array([1.0, -1.0])), jnp.array([2.0, 0.0]))
    assert_same(variable[...], jnp.float32(2.0))


def test_values_of_types_of_their_own(native):
    variable = nnx.Variable(jnp.array(2.0), hijax=True)
    f = lambda variable, x: mps.relu(x * variable[...])  # noqa: E731
    assert_same(jax.jit(mps.graph(f))(variable, jnp.array([1.0, -1.0])), jnp.array([2.0, 0.0]))


def test_an_error_leaves_the_model_as_it_was(native):
    def f(net, x, fails):
        y = net(x)
        if fails:
            raise ValueError("no")
        return y

    (net, _), g = made(), mps.graph(f)
    before = state(net)
    with pytest.raises(ValueError, match="no"):
        g(net, X, True)
    assert_same(state(net), before)
    wanted = made()[0]
    assert_same(g(net, X, False), wanted(X))
    assert_same(state(net), state(wanted))


def test_flax_is_not_imported():
    code = """
import sys, jax.numpy as jnp, jax_mps as mps
assert float(mps.graph(lambda x: mps.relu(x))(jnp.ones(2))[0]) == 1.0
assert not [name for name in sys.modules if name.split(".")[0] == "flax"]
"""
    python("-c", code)


def test_arrays_of_numpy_beside_modules(native):
    net, _ = made()
    net.eval()
    assert_same(mps.graph(lambda net, x, n: net(x) * n)(net, np.asarray(X), 2), net(X) * 2.0)
