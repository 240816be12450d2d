"""jax.debug_nans and jax.debug_infs: the op that made the number is named, without false alarms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import NHWC, assert_same, normal
from jax import lax

import jax_mps as mps

X, W = jnp.abs(normal(2, 6, 6, 4)), jnp.abs(normal(3, 3, 4, 8, seed=1))
CHECKS = {"nan": jax.debug_nans, "inf": jax.debug_infs}


def convolved(x):
    return lax.conv_general_dilated(x, W, (1, 1), "SAME", dimension_numbers=NHWC)


def logarithms(x):
    return jnp.log(convolved(x) - 1e6)


def poles(x):
    return 1.0 / (convolved(x) * 0.0)


def sound(x):
    """No invalid number, but some on the way, and as constants."""
    y = convolved(x)
    y = jnp.where(y > 1e6, jnp.log(y - 1e6), jnp.where(y > 0.0, y, -jnp.inf))
    return jnp.sum(jax.nn.softmax(jnp.where(jnp.arange(8) < 6, jnp.sum(y, (1, 2)), jnp.float32(0.5) * -jnp.inf)), -1)


def total(f):
    return lambda x: jnp.sum(f(x))


FORMS = {
    "eager": mps.graph,
    "jit": lambda f: jax.jit(mps.graph(f)),
    "in a function": lambda f: jax.jit(lambda x: mps.graph(f)(x) * 2.0),
    "gradient of it": lambda f: jax.grad(total(mps.graph(f))),
    "jit of its gradient": lambda f: jax.jit(jax.value_and_grad(total(mps.graph(f)))),
    "it of a gradient": lambda f: mps.graph(jax.value_and_grad(total(f))),
    "scan": lambda f: jax.jit(lambda x: lax.scan(lambda c, x: (c, mps.graph(f)(x)), 0, x[None])[1]),
}


@pytest.fixture(autouse=True)
def promotion():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("kind, f, op", [("nan", logarithms, "log"), ("inf", poles, "div")])
@pytest.mark.parametrize("form", FORMS)
def test_the_op_is_named(native, form, kind, f, op):
    op = "scan" if form == "scan" else op  # a loop of JAX is one op to it
    with CHECKS[kind](True), pytest.raises(FloatingPointError, match=rf"^invalid value \({kind}\) encountered in {op}"):
        jax.block_until_ready(FORMS[form](f)(X))


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("form", ["eager", "jit", "in a function", "scan"])
def test_no_alarm_without_one(native, form, kind):
    wanted = FORMS[form](sound)(X)
    with CHECKS[kind](True):
        assert_same(FORMS[form](sound)(X), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_sound_has_its_values(native, form):
    f = lambda x: jnp.sqrt(convolved(x) + 1.0)  # noqa: E731
    wanted = FORMS[form](f)(X)
    with jax.debug_nans(True), jax.debug_infs(True):
        assert_same(FORMS[form](f)(X), wanted)


OPS = {
    "conv": lambda x: mps.conv(x, W),
    "max_pool": lambda x: mps.max_pool(x, 2),
    "neuron": lambda x: mps.relu(x) * mps.tanh(x),
    "batch_norm": lambda x: mps.batch_norm(x, jnp.ones(4), jnp.zeros(4), epsilon=1e-3)[0],
    "softmax": mps.softmax,
    "lstm": lambda x: mps.lstm(x[:, 0], jnp.ones((4, 8)), jnp.ones((2, 8)), jnp.zeros(8))[0],
}


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", OPS)
def test_ops(device, name, jit):
    f, gradient = OPS[name], jax.grad(lambda x: jnp.sum(OPS[name](x) ** 2))
    wanted = jit(f)(X), jit(gradient)(X)
    with jax.debug_nans(True), jax.debug_infs(True):
        assert_same((jit(f)(X), jit(gradient)(X)), wanted)
    poisoned = jnp.full_like(X, jnp.nan)
    if name == "max_pool" and not np.isnan(f(poisoned)).any():
        return  # NaN is not the largest number
    for g in (f, gradient):
        with jax.debug_nans(True), pytest.raises(FloatingPointError, match=r"^invalid value \(nan\) encountered in "):
            jax.block_until_ready(jit(g)(poisoned))


def test_an_op_is_named_by_its_primitive(native):
    with jax.debug_nans(True):
        for f in (mps.logarithm, jax.jit(mps.logarithm), mps.graph(lambda x: mps.logarithm(x) + 1.0)):
            with pytest.raises(FloatingPointError, match=r"^invalid value \(nan\) encountered in mps_neuron\b"):
                jax.block_until_ready(f(-X - 1.0))
