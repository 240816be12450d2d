"""Sums over rows on the Metal device: in any number of parts, right, and the same whatever order the threads run in."""

import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
from metal_common import pytestmark, simulator  # noqa: F401

import jax_mps as mps

# Rows by channels: fewer rows than a part has; parts that are fewer, as many and more than the lanes of a SIMD-group;
# rows that no number of parts divides; one channel; and so many elements that the GPU is given all its threads.
SIZES = [(3, 5), (100, 7), (256, 3), (2000, 33), (4099, 1), (70001, 2), (17000, 130), (1, 6)]


def normal(*shape, seed=0, offset=0.0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32) + np.float32(offset)


def in_both_orders(function, *operands):
    """The results, which are to be the same in every bit."""
    operands = [jnp.asarray(x) for x in operands]
    found = []
    for order in ("0", "1"):
        with pytest.MonkeyPatch.context() as settings:
            settings.setenv("METAL_SIM_REVERSE", order)
            found.append([np.asarray(y) for y in jax.tree.leaves(function(*operands))])
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)
    return found[0]


def assert_near(got, wanted, tolerance=1e-5):
    scale = max(1.0, np.abs(wanted).max(initial=0))
    np.testing.assert_allclose(np.asarray(got, np.float64) / scale, wanted / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bias_gradient(size):
    dy = normal(*size)
    (db,) = in_both_orders(lambda dy: native.run("bias_gradient", [dy], [(dy.shape[1:], jnp.float32)]), dy)
    assert_near(db, dy.astype(np.float64).sum(0))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_batch_norm(size):
    """Far from zero, where a sum of squares would cancel."""
    rows, channels = size
    x, dy = normal(rows, channels, offset=100.0), normal(rows, channels, seed=1)
    gamma, beta = normal(channels, seed=2), normal(channels, seed=3)

    def both(x, gamma, beta, dy):
        (y, mean, variance), pull = jax.vjp(lambda *a: mps.batch_norm(*a, epsilon=1e-3), x, gamma, beta)
        return y, mean, variance, *pull((dy, jnp.zeros_like(mean), jnp.zeros_like(variance)))

    y, mean, variance, _, dgamma, dbeta = in_both_orders(both, x, gamma, beta, dy)
    wide, g = x.astype(np.float64), dy.astype(np.float64)
    assert_near(mean, wide.mean(0), 1e-6)
    assert_near(variance, wide.var(0))
    # y and dgamma stand on the float32 mean, whose last place is 1e-5 here.
    normal_x = (wide - mean) / np.sqrt(variance.astype(np.float64) + 1e-3)
    assert_near(y, normal_x * gamma + beta, 1e-4)
    assert_near(dgamma, (g * normal_x).sum(0), 1e-4)
    assert_near(dbeta, g.sum(0))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_prelu_slopes(size):
    x, dy = normal(*size), normal(*size, seed=1)
    slopes = normal(size[1], seed=2)
    _, dslopes = in_both_orders(lambda x, s, dy: jax.vjp(mps.prelu, x, s)[1](dy), x, slopes, dy)
    assert_near(dslopes, np.where(x > 0, 0, dy.astype(np.float64) * x).sum(0))


CHAINS = {
    "sum": (jnp.sum, np.sum),
    "max": (jnp.max, np.max),
    "min": (jnp.min, np.min),
}


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("size", [(5, 200), (300, 129), (17000, 130), (2, 70001)], ids=str)
def test_reductions_of_graph(size, name, axis):
    """Along the last axis the parts are lanes; else they are folded by a second kernel."""
    reduce, wanted = CHAINS[name]
    x = normal(*size)
    f = jax.jit(mps.graph(lambda x: reduce(mps.relu(x) * 0.5 - x, axis)))
    assert any(row.op == "graph" or row.device == "metal" for row in mps.explain(f, jnp.asarray(x)))
    (y,) = in_both_orders(f, x)
    wide = x.astype(np.float64)
    assert_near(y, wanted(np.maximum(wide, 0) * 0.5 - wide, axis))


@pytest.mark.parametrize("axis", [0, 1])
def test_nan_wins_a_maximum(axis):
    x = normal(300, 129)
    x[17, 5] = np.nan
    (y,) = in_both_orders(jax.jit(mps.graph(lambda x: jnp.max(mps.relu(x), axis))), x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x.max(axis)))
