"""Label picks however they are written: x[arange(n), y], vmap(lambda row, i: row[i]), take_along_axis, by many axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import normal, ops
from jax import lax

import jax_mps as mps


def labels_for(*shape, classes, outside=False):
    low, high = (-2 * classes, 2 * classes) if outside else (-classes, classes)
    return jnp.asarray(np.random.default_rng([3, *shape]).integers(low, high, shape), jnp.int32)


def rows(x, y):
    return x[jnp.arange(x.shape[0]), y]


def mapped(x, y):
    return jax.vmap(lambda row, i: row[i])(x, y)


def mapped_columns(x, y):
    return jax.vmap(lambda column, i: column[i], (1, 0))(x.T, y)


def along(x, y):
    return jnp.take_along_axis(x, y[:, None], -1)[:, 0]


def at(x, y):
    return x.at[jnp.arange(x.shape[0]), y].get(mode="clip")


def concrete(x, y):
    return x[np.arange(x.shape[0]), y]


FORMS = [rows, mapped, mapped_columns, along, at, concrete]


def picked(x, y, outside):
    """By NumPy: negative indices count from the end; beyond the ends they are those of the mode."""
    y = np.where(y < 0, y + x.shape[-1], y)
    inside = (y >= 0) & (y < x.shape[-1])
    found = np.take_along_axis(x, np.clip(y, 0, x.shape[-1] - 1)[..., None], -1)[..., 0]
    return np.where(inside, found, np.nan) if outside == "fill" else found


@pytest.mark.parametrize("n", [5, 130])  # 130 indices are not folded as constants
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outside", [False, True])
def test_value(native, form, n, outside):
    x, y = normal(n, 7), labels_for(n, classes=7, outside=outside)
    f = lambda x, y: form(mps.relu(x), y)  # noqa: E731
    assert not [r for r in mps.explain(mps.graph(f), x, y) if r.device == "xla"]
    assert "pick" in ops(f, x, y)
    mode = "fill" if form is along else "clip"
    np.testing.assert_array_equal(jax.jit(mps.graph(f))(x, y), picked(np.maximum(x, 0), np.asarray(y), mode))


@pytest.mark.parametrize("form", FORMS)
def test_gradient(native, form):
    x, y, w = normal(130, 7), labels_for(130, classes=7), normal(130)
    g = jax.grad(lambda x, y: jnp.sum(form(x, y) * w))
    f = lambda x, y: (g(x, y), mps.relu(w))  # noqa: E731
    assert not [r for r in mps.explain(mps.graph(f), x, y) if r.device == "xla"]
    expected = np.zeros(x.shape, np.float32)
    expected[np.arange(130), np.asarray(y)] = w
    np.testing.assert_array_equal(jax.jit(mps.graph(f))(x, y)[0], expected)


def test_out_of_range_gradients(native):
    """What is out of range is dropped, or goes to the end, as the mode has it."""
    x, y, w = normal(40, 7), labels_for(40, classes=7, outside=True), normal(40)
    for mode in ("drop", "clip"):
        f = lambda y, mode=mode: (  # noqa: E731
            jnp.zeros(x.shape).at[jnp.arange(40), y].add(w, mode=mode, wrap_negative_indices=False),
            mps.relu(w),
        )
        assert not [r for r in mps.explain(mps.graph(f), y) if r.device == "xla"]
        expected = np.zeros(x.shape, np.float32)
        for row, (i, v) in enumerate(zip(np.asarray(y), np.asarray(w), strict=True)):
            if 0 <= i < 7 or mode == "clip":
                expected[row, min(max(i, 0), 6)] += v
        np.testing.assert_array_equal(jax.jit(mps.graph(f))(y)[0], expected)


def test_more_axes(native):
    x, y = normal(3, 5, 7), labels_for(3, 5, classes=7)
    expected = np.take_along_axis(np.asarray(x), np.asarray(y % 7)[..., None], -1)[..., 0]
    forms = [
        lambda x, y: x[jnp.arange(3)[:, None], jnp.arange(5)[None], y],
        lambda x, y: jax.vmap(jax.vmap(lambda row, i: row[i]))(x, y),
        lambda x, y: jax.vmap(rows)(x, y),
        lambda x, y: jax.vmap(mapped, 1, 1)(x, y),
        lambda x, y: x.transpose(2, 0, 1)[y, jnp.arange(3)[:, None], jnp.arange(5)[None]],
    ]
    with jax.numpy_rank_promotion("allow"):
        for form in forms:
            f = lambda x, y, form=form: form(x + 0 * mps.relu(x), y)  # noqa: E731
            assert not [r for r in mps.explain(mps.graph(f), x, y) if r.device == "xla"]
            np.testing.assert_array_equal(jax.jit(mps.graph(f))(x, y), expected)
            g = lambda x, y, form=form: (jax.grad(lambda x: jnp.sum(form(x, y) ** 2) / 2)(x), mps.relu(x))  # noqa: E731
            dx = jax.jit(mps.graph(g))(x, y)[0]
            np.testing.assert_array_equal(dx, np.where(np.arange(7) == np.asarray(y % 7)[..., None], x, 0))


OTHERS = {
    "two of each row": (lambda x, y: x[jnp.arange(4)[:, None], jnp.stack([y, y], 1)], "one element of each row"),
    "rows": (lambda x, y: x[y], "a gather of slices (1, 4): mps.graph takes one element of each row"),
    "a diagonal": (lambda x, y: x[y, y], "a gather or scatter of any places"),
    "other rows": (lambda x, y: x[jnp.arange(4)[::-1] % 3, y], "a gather or scatter of any places"),
    "integers": (lambda x, y: x.astype(jnp.int32)[jnp.arange(4), y], "a gather of int32"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_gathers_stay(native, name):
    function, words = OTHERS[name]
    x, y = normal(4, 4), jnp.asarray([3, 0, 2, 2])
    f = lambda x, y: (function(x, y), mps.relu(x))  # noqa: E731
    with jax.numpy_rank_promotion("allow"):
        (row,) = (r for r in mps.explain(mps.graph(f), x, y) if r.op == "gather")
        assert words in row.implementation
        np.testing.assert_array_equal(jax.jit(mps.graph(f))(x, y)[0], function(x, y))


def test_scatters_that_stay(native):
    x, y = normal(4, 4), jnp.asarray([3, 0, 2, 2])
    f = lambda x, y: (x.at[jnp.arange(4), y].add(1.0), mps.relu(x))  # noqa: E731
    (row,) = (r for r in mps.explain(mps.graph(f), x, y) if r.op == "scatter-add")
    assert "into an array that is not zero: add it after a scatter-add into zeros" in row.implementation
    expected = np.asarray(x) + (np.arange(4) == np.asarray(y)[:, None])
    np.testing.assert_array_equal(jax.jit(mps.graph(f))(x, y)[0], expected)


def test_policy_gradient(native):
    """PPO's ratio of probabilities: one region."""

    def loss(w, x, actions, old):
        logp = jax.nn.log_softmax(x @ w)
        return -jnp.mean(jnp.exp(jax.vmap(lambda p, a: p[a])(logp, actions) - old))

    w, x, actions = normal(600, 128), normal(64, 600), labels_for(64, classes=128) % 128
    step = jax.value_and_grad(loss)
    args = w, x, actions, normal(64) - 5
    assert not [r for r in mps.explain(mps.graph(step), *args) if r.device == "xla"]
    found, wanted = jax.jit(mps.graph(step))(*args), jax.jit(step)(*args)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_slice_at_a_constant_place_out_of_range(native):
    x = normal(4, 6)
    start = np.array([3, 9], np.int32)
    numbers = lax.GatherDimensionNumbers(offset_dims=(0, 1), collapsed_slice_dims=(), start_index_map=(0, 1))

    def f(x):
        return lax.gather(mps.relu(x), jnp.asarray(start), numbers, (1, 2), mode="clip")

    (row,) = (r for r in mps.explain(mps.graph(f), x) if r.op == "gather")
    assert "a gather at a constant place that is out of range" in row.implementation
    np.testing.assert_array_equal(jax.jit(mps.graph(f))(x), np.maximum(x, 0)[3:4, 4:6])
