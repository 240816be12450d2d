"""graph on softmax cross-entropy as people write it: what JAX computes, and no array of all classes but gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from graph_common import (
    assert_same,
    everything_natively,  # noqa: F401
    normal,
    ops,
)

import jax_mps as mps


def labels_of(x):
    return jnp.arange(x.size // x.shape[-1]).reshape(x.shape[:-1]) * 7 % x.shape[-1]


def picked(x, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[..., None], -1)[..., 0]


def one_hot(x, labels):
    return -jnp.sum(jax.nn.log_softmax(x) * jax.nn.one_hot(labels, x.shape[-1], dtype=x.dtype), -1)


def smoothed(x, labels):
    return optax.softmax_cross_entropy(x, optax.smooth_labels(jax.nn.one_hot(labels, x.shape[-1], dtype=x.dtype), 0.1))


def masked(x, labels):
    loss = optax.softmax_cross_entropy_with_integer_labels(x, labels)
    return jnp.where(labels % 2 == 0, loss, 0.0)


def of_some_classes(x, labels):
    where = jnp.arange(x.shape[-1]) != 1
    return optax.softmax_cross_entropy_with_integer_labels(x, labels, where=jnp.broadcast_to(where, x.shape))


def scaled(x, labels):
    return picked(x / 2.0 + 1.0, labels) * 3.0


INTEGER = [optax.softmax_cross_entropy_with_integer_labels, picked, scaled]
FORMS = [*INTEGER, one_hot, smoothed, masked, of_some_classes]
SHAPES = [(8, 16), (3, 5), (1, 1000), (2, 3, 7), (5, 33), (6, 1), (9,)]


def both(form, reduce):
    return lambda x, labels: jax.value_and_grad(lambda x: reduce(form(x, labels)))(x)


def elements_stored(function, *args):
    """Those of all values that native programs write, but for results."""
    nodes = [n for region in mps.graph(function).program(*args) for n in region.program.nodes]
    return max((r.type.elements for n in nodes for r in n.results if r.offset is not None), default=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients(native, form, shape):
    args = normal(*shape), labels_of(normal(*shape))
    for reduce in (
        jnp.mean,
        lambda loss: jnp.sum(loss * (jnp.arange(loss.size, dtype=loss.dtype).reshape(loss.shape))),
    ):
        function = both(form, reduce)
        assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(native, form, dtype):
    function = both(form, lambda loss: jnp.sum(loss.astype(jnp.float32)))
    args = normal(8, 16).astype(dtype), labels_of(normal(8, 16))
    assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args), 3e-2)


@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits(native, form):
    x = normal(8, 16) * 1e4
    x = x.at[1, 2].set(-jnp.inf).at[2].set(-jnp.inf).at[3, 4].set(jnp.inf).at[4, 5].set(jnp.nan).at[5].set(3e38)
    function = both(lambda *args: (loss := form(*args)) + 0.0 * loss, jnp.sum)
    loss = lambda x, labels: (form(x, labels), function(x, labels)[1])  # noqa: E731
    for got, wanted in zip(
        jax.jit(mps.graph(loss))(x, labels_of(x)), jax.jit(loss)(x, labels_of(x)), strict=True
    ):  # NaN and infinity in the same places
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [*INTEGER, one_hot])
def test_labels_that_name_no_class(native, form):
    function = lambda x, labels: jax.vjp(lambda x: form(x, labels), x)[1](jnp.ones(6))[0]  # noqa: E731
    args = normal(6, 4), jnp.asarray([0, 3, 4, -1, -4, -100])
    np.testing.assert_allclose(jax.jit(mps.graph(form))(*args), jax.jit(form)(*args), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_alone_is_written(native, form):
    function, args = both(form, jnp.mean), (normal(64, 100), labels_of(normal(64, 100)))
    assert elements_stored(function, *args) <= 100
    assert "pick_gradient" not in ops(function, *args)
    assert ("pick" in ops(function, *args)) == (form is not smoothed)


def test_float64_is_exact(native):
    with jax.enable_x64(True):
        args = normal(8, 16).astype(jnp.float64), labels_of(normal(8, 16))
        for form in FORMS:
            function = both(form, jnp.mean)
            assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args), 1e-13)


def test_golden(native):
    def loss(x, labels):
        log_p = jax.nn.log_softmax(x)
        index = jnp.expand_dims(labels, -1)
        return jax.numpy.take_along_axis(log_p, index, -1, mode="clip")

    assert (
        mps.graph(loss).program(normal(4, 8), jnp.arange(4)).text().removeprefix("device metal\n")
        == """\
input %0: f32[4,8], %1: s32[4]
%2: f32[4] @0 = chain(%0) {code=[], offsets=[0], outputs=[["max",0,[1]]], shape=[4,8], strides=[[8,1]]}
%5: f32[4] @0 = chain(%2) {code=["const -inf","max 1 0"], offsets=[0], outputs=[["store",2]], shape=[4], \
strides=[[1]]}
%10: f32[4] @64 = chain(%0, %5) {code=["sub 0 1","exp 2"], offsets=[0,0], outputs=[["sum",3,[1]]], shape=[4,8], \
strides=[[8,1],[1,0]]}
%12: f32[4,1] @64 = chain(%10) {code=["log 0"], offsets=[0], outputs=[["store",1]], shape=[4,1], strides=[[1,1]]}
%22: s32[4,1] @128 = chain(%1) {code=["const_s32 0","lt 0 1","const_s32 8","add 0 3","select 2 0 4"], \
offsets=[0], outputs=[["store",5]], shape=[4,1], strides=[[1,1]]}
%30: s32[4] @128 = chain(%22) {code=["const_s32 7","const_s32 0","max 2 0","min 1 3"], offsets=[0], \
outputs=[["store",4]], shape=[4], strides=[[1]]}
%34: f32[4] @192 = pick(%0, %30)
%31: f32[4] = chain(%34, %5, %12) {code=["sub 0 1","sub 3 2"], offsets=[0,0,0], outputs=[["store",4]], \
shape=[4], strides=[[1],[1],[1]]}
return %31"""
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda x, hot: jnp.sum(x * hot, 0),  # along another axis
        lambda x, hot: jnp.sum(jnp.sin(x) * hot, -1),  # a pick would write the sine
        lambda x, hot: jnp.sum(x * jnp.roll(hot, 1, -1), -1),
        lambda x, hot: jnp.max(x * hot, -1),
        lambda x, hot: jnp.sum(x * (jnp.arange(6)[:, None] == jnp.arange(6)).astype(x.dtype), -1),  # a diagonal
        lambda x, hot: jnp.sum(x * (x[:, :1] == jnp.arange(6)).astype(x.dtype), -1),  # no integers
        lambda x, hot: jnp.sum(jnp.where(hot > 0, x, 1.0), -1),
        lambda x, hot: x * hot + x[:, :1] * hot,
    ],
)
def test_other_products_with_one_hot_rows(native, function):
    f = lambda x, labels: function(x, jax.nn.one_hot(labels, 6))  # noqa: E731
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        args = normal(6, 6), jnp.asarray([0, 5, 2, -1, 6, 1])
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))


def test_what_else_reads_a_pick_or_its_gradient(native):
    def f(x, labels):
        y = x * 2.0 - jnp.max(x, -1, keepdims=True)
        return jnp.take_along_axis(y, labels[:, None], -1), y @ y.T

    def g(x, labels):
        value, pull = jax.vjp(lambda x: jnp.take_along_axis(x, labels[:, None], -1), x)
        (dx,) = pull(value)
        return dx, -dx.sum(-1), (-dx).sum(-1), dx.sum(0), dx.sum(), dx.max(-1)

    args = normal(6, 4), jnp.asarray([0, 3, 2, -1, 1, 1])
    for function in (f, g):
        assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args))
