"""graph's softmax pass: softmax as JAX writes it is the device's own, forward and backward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import (
    assert_same,
    everything_natively,  # noqa: F401
    normal,
    ops,
)

import jax_mps as mps


def test_golden(native):
    def f(x, dy):
        y, pull = jax.vjp(jax.nn.softmax, x)
        return y, *pull(dy)

    assert (
        mps.graph(f).program(normal(4, 8), normal(4, 8)).text()
        == """\
input %0: f32[4,8], %1: f32[4,8]
%27: f32[4,8] = softmax(%0)
%26: f32[4,8] = softmax_gradient(%1, %27)
return %27, %26"""
    )


@pytest.mark.parametrize("shape", [(8, 8), (2, 3, 5, 7), (9,), (4, 1, 6)])
def test_values_and_gradients(native, shape):
    def loss(x):
        y = jax.nn.softmax(jnp.sin(x) * 3.0, -1)
        return jnp.sum(y * normal(*shape))

    both = jax.value_and_grad(loss)
    assert_same(jax.jit(mps.graph(both))(normal(*shape)), jax.jit(both)(normal(*shape)))
    assert {"softmax", "softmax_gradient"} <= set(ops(both, normal(*shape)))


def test_attention(native):
    def loss(q, k, v):
        return jnp.sum(jnp.sin(jax.nn.dot_product_attention(q, k, v, is_causal=True)))

    args = [normal(2, 5, 3, 4, seed=s) for s in range(3)]
    both = jax.value_and_grad(loss, (0, 1, 2))
    with jax.numpy_rank_promotion("allow"):
        assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))
        assert {"softmax", "softmax_gradient"} <= set(ops(both, *args))


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_nan_and_infinity(native, value):
    x = normal(4, 8).at[1, 2].set(value).at[2].set(-jnp.inf)
    got, wanted = jax.jit(mps.graph(jax.nn.softmax))(x), jax.nn.softmax(x)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.nn.softmax(x, 0),  # another axis
        lambda x: jnp.exp(x - x.max(-1)[:, None]) / jnp.exp(x - x.max(-1)[:, None]).sum(-1)[None],  # other rows
        lambda x: (lambda e: (e, e / e.sum(-1, keepdims=True)))(jnp.exp(x - x.max(-1, keepdims=True))),
        lambda x: jnp.exp(x - x[:, :1]) / jnp.sum(jnp.exp(x - x[:, :1]), -1, keepdims=True),  # no maximum
        lambda x: (lambda e: e / e.sum(-1, keepdims=True))(jnp.exp((x - x.max(-1, keepdims=True)).reshape(4, 9))),
        lambda x: jax.nn.softmax(x.astype(jnp.bfloat16)).astype(jnp.float32),
    ],
)
def test_what_is_none_stays(native, function):
    assert "softmax" not in ops(function, normal(6, 6))
    assert_same(jax.jit(mps.graph(function))(normal(6, 6)), jax.jit(function)(normal(6, 6)), 1e-2)
