"""Softmax and its cross-entropy where the table of cases cannot say it: extreme logits, labels, reductions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mps as mps

loss_of = mps.losses.softmax_cross_entropy
ROWS = [
    [1e4, -1e4, 0.0],
    [1e4, 1e4, 1e4 - 1],
    [-1e4, -1e4, -1e4],
    [-np.inf, 0.0, 1.0],
    [-np.inf, -np.inf, -np.inf],
    [np.inf, 0.0, 1.0],
    [np.nan, 0.0, 1.0],
    [3e38, -3e38, 0.0],
]


def extreme(classes):
    rows = np.full((len(ROWS), classes), -2e4, np.float32)
    rows[:, :3] = ROWS
    rows[4] = -np.inf
    return jnp.asarray(rows)


@pytest.mark.parametrize("classes", [3, 50, 2200])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_extreme_logits(device, name, classes):
    x = extreme(classes)
    wanted, pull = jax.vjp(getattr(jax.nn, name), x)
    got, own_pull = jax.vjp(getattr(mps, name), x)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    dy = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.float32) / classes, x.shape)
    np.testing.assert_allclose(own_pull(dy)[0], pull(dy)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [3, 50, 2200])
@pytest.mark.parametrize("dense", [False, True], ids=["classes", "dense"])
def test_extreme_logits_in_the_loss(device, classes, dense):
    x = extreme(classes)
    labels = jnp.full(len(ROWS), 1, jnp.int32)
    log_p = jax.nn.log_softmax(x)
    wanted = -log_p[:, 1]
    gradient = jax.nn.softmax(x) - jax.nn.one_hot(labels, classes)
    if dense:
        labels = jax.nn.one_hot(labels, classes)
    got, pull = jax.vjp(lambda x: loss_of(x, labels, reduction="none"), x)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones_like(got))[0], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [-1, -100, 5, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("classes", [5, 40])
def test_label_out_of_range(device, label, classes):
    label = label if label != 5 else classes
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, classes)), jnp.float32)
    labels = jnp.array([1, label, 2], jnp.int32)
    loss, pull = jax.vjp(lambda x: loss_of(x, labels, reduction="none"), x)
    gradient = pull(jnp.ones(3))[0]
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
    np.testing.assert_array_equal(np.isnan(gradient).all(1), [False, True, False])
    np.testing.assert_array_equal(np.isnan(gradient).any(1), [False, True, False])


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint32, jnp.int64, jnp.uint64], ids=str)
def test_integer_dtypes_of_labels(dtype):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)), jnp.float32)
        labels = jnp.array([4, 0, jnp.iinfo(dtype).max], dtype)
        loss = loss_of(x, labels, reduction="none")
        wanted = -jax.nn.log_softmax(x)
        np.testing.assert_allclose(loss[:2], [wanted[0, 4], wanted[1, 0]], rtol=1e-6)
        assert np.isnan(loss[2])
        if dtype in (jnp.int64, jnp.uint64):  # 2**32 + 1 must not wrap around to class 1
            assert np.isnan(loss_of(x[:1], jnp.array([2**32 + 1], dtype)))


WEIGHTS = [None, 0.5, 0.0, [1.0, 0.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "sum_by_nonzero_weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_reductions_and_weights(native, weight, reduction, smoothing):
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((4, 6)), rng.integers(0, 6, 4)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    t = np.eye(6)[labels] * (1 - smoothing) + smoothing / 6
    w = np.broadcast_to(1.0 if weight is None else np.asarray(weight), 4)
    rows = -w * (t * log_p).sum(1)
    divisor = {"mean": 4, "sum_by_nonzero_weights": max(np.count_nonzero(w), 1)}.get(reduction, 1)
    wanted = rows if reduction == "none" else rows.sum() / divisor

    def own(x, weight):
        labels32 = jnp.asarray(labels, jnp.int32)
        return loss_of(x, labels32, reduction=reduction, weight=weight, label_smoothing=smoothing)

    given = None if weight is None else jnp.asarray(weight, jnp.float32)
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(own(x, given), wanted, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(own(x, given)))(x)
    np.testing.assert_allclose(gradient, w[:, None] * (np.exp(log_p) - t) / divisor, rtol=1e-4, atol=1e-6)
    if given is not None:
        dweight = jax.grad(lambda w: jnp.sum(own(x, w)))(given)
        by_row = -(t * log_p).sum(1) / divisor
        np.testing.assert_allclose(dweight, by_row if given.ndim else by_row.sum(), rtol=1e-5)


def test_dense_labels_that_do_not_add_up_to_one(native):
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((4, 6)), rng.uniform(0, 2, (4, 6))
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    x32, t32 = jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.float32)
    dx, dt = jax.grad(lambda x, t: loss_of(x, t, reduction="sum"), (0, 1))(x32, t32)
    np.testing.assert_allclose(dx, np.exp(log_p) * t.sum(1, keepdims=True) - t, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dt, -log_p, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=["float16", "bfloat16"])
def test_half_logits_give_a_float32_loss(device, dtype):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6)), dtype)
    labels = jnp.array([0, 5, 2, 1])
    for t in (labels, jax.nn.one_hot(labels, 6), jax.nn.one_hot(labels, 6, dtype=dtype)):
        loss, gradient = jax.value_and_grad(loss_of)(x, t)
        assert (loss.dtype, gradient.dtype) == (jnp.float32, dtype)
        np.testing.assert_allclose(loss, loss_of(x.astype(jnp.float32), labels), rtol=1e-5)


def test_one_row_and_no_rows(device):
    one = loss_of(jnp.zeros(4), jnp.array(3))
    np.testing.assert_allclose(one, np.log(4), rtol=1e-6)
    empty, gradient = jax.value_and_grad(loss_of)(jnp.zeros((0, 4)), jnp.zeros(0, jnp.int32))
    assert empty == 0 and gradient.shape == (0, 4)


def test_unused_gradient_of_labels_costs_nothing():
    x, t = jnp.zeros((8, 4)), jnp.ones((8, 4))
    table = mps.explain(jax.jit(jax.grad(loss_of)), x, t)
    assert {row.op for row in table} >= {"softmax_cross_entropy", "softmax_cross_entropy_gradient"}


def exact_loss(x, t, smoothing):
    """The loss, and its gradients by logits and by labels, in more than float64; 0 times a logarithm of 0 is 0."""
    x, t = x.astype(np.longdouble), t.astype(np.longdouble)
    share = t * (1 - smoothing) + np.longdouble(smoothing) / x.shape[-1]
    shifted = x - x.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    counted = np.where((share == 0) & (log_p == -np.inf), 0, log_p)
    with np.errstate(over="ignore", invalid="ignore"):
        by_labels = np.zeros_like(counted) if smoothing == 1 else (smoothing - 1) * counted
        results = -(share * counted).sum(-1), np.exp(log_p) * share.sum(-1, keepdims=True) - share, by_labels
        return [y.astype(np.float32) for y in results]


# Far apart, so that their differences are infinite in float32 where the loss, a small share of them, is not.
@pytest.mark.parametrize("classes", [3, 31, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dense", [False, True], ids=["classes", "dense"])
def test_smoothing_of_extreme_logits(device, classes, smoothing, dense):
    rng = np.random.default_rng(classes)
    x = rng.standard_normal((16, classes)).astype(np.float32)
    x[:4] *= np.float32(8e37)
    x[4:8] = np.where(rng.random((4, classes)) < 0.5, np.float32(3.4e38), np.float32(-3.4e38))
    x[8:10] *= np.float32(1e30)
    x[10:12, 1] = -np.inf
    labels = rng.integers(0, classes, 16).astype(np.int32)
    t = np.eye(classes, dtype=np.float32)[labels]
    loss, by_logits, by_labels = exact_loss(x, t, smoothing)
    function = lambda x, t: loss_of(x, t, reduction="none", label_smoothing=smoothing)  # noqa: E731
    for f in (function, mps.graph(function)):
        y, pull = jax.vjp(jax.jit(f), x, t if dense else labels)
        dx, dt = pull(jnp.ones_like(y))
        np.testing.assert_allclose(y, loss, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(dx, by_logits, rtol=1e-4, atol=1e-5)
        if dense:
            np.testing.assert_allclose(dt, by_labels, rtol=1e-5, atol=1e-5)
