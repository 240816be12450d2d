"""graph inside and around shard_map, with its check of what varies over the mesh: values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import assert_same, normal
from jax import lax
from jax.sharding import PartitionSpec as P

import jax_mps as mps

W, X = normal(3, 3), normal(4, 3)


def varying(x):
    return lax.pcast(x, ("batch",), to="varying")


def total(x):
    return lax.psum(jnp.sum(x), "batch")


def plain(w, x):
    return total(mps.relu(x @ w))


def promoted(w, x):
    return total(mps.relu(x @ varying(w)) + varying(jnp.sum(mps.tanh(w))))


def counted(w, x):
    """A counter that does not vary, in a loop whose other state does."""
    return total(lax.fori_loop(0, 3, lambda i, c: mps.relu(c @ w) + i * 0.1, x))


def counted_in_jax(w, x):
    """The same loop, which stays in JAX."""
    step = lambda c: (c[0] + 1, jnp.sort(mps.relu(c[1] @ w)))  # noqa: E731
    i, y = lax.fori_loop(0, 3, lambda _, c: step(c), (0, x))
    return total(y + varying(i * 1.0))


def summed(w, x):
    """A carry that varies from the first, beside one that does not."""

    def body(carry, t):
        loss, n = carry
        return (loss + jnp.sum(mps.relu(x @ w) * t), n + t), n

    (loss, n), ns = lax.scan(body, (varying(jnp.float32(0.0)), jnp.float32(0.0)), jnp.arange(3.0))
    return total(loss) + n + jnp.sum(ns)


def branched(w, x):
    w = varying(w)  # the sum of its gradient must not be in one branch alone
    return total(lax.cond(lax.axis_index("batch") == 0, lambda: mps.relu(x @ w), lambda: x * 2.0))


def trained(w, x):
    def body(w, t):
        loss = lambda w: lax.pmean(jnp.mean(mps.relu(x * t @ w) ** 2), "batch")  # noqa: E731
        value, dw = jax.value_and_grad(loss)(w)
        return w - 0.1 * dw, value

    w, losses = lax.scan(body, w, jnp.arange(1.0, 4.0))
    return jnp.sum(w) + jnp.sum(losses)


def sharded(f):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(f, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P(), check_vma=True)


@pytest.fixture(autouse=True)
def promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


BODIES = [plain, promoted, counted, counted_in_jax, summed, branched, trained]
WAYS = {
    "inside": lambda f: jax.jit(sharded(mps.graph(f))),
    "around": lambda f: jax.jit(mps.graph(sharded(f))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("f", BODIES)
def test_values_and_gradients(native, f, way):
    with mps.set_device("reference"):
        wanted = jax.jit(sharded(f))(W, X), None if f is counted_in_jax else jax.jit(jax.grad(sharded(f), (0, 1)))(W, X)
    assert_same(WAYS[way](f)(W, X), wanted[0])
    if wanted[1] is not None:
        assert_same(jax.jit(jax.grad(WAYS[way](f), (0, 1)))(W, X), wanted[1])


@pytest.mark.parametrize("f", [plain, summed])
def test_without_jit(native, f):
    with mps.set_device("reference"):
        wanted = jax.jit(sharded(f))(W, X), jax.jit(jax.grad(sharded(f), (0, 1)))(W, X)
    g = sharded(mps.graph(f))
    assert_same((g(W, X), jax.grad(g, (0, 1))(W, X)), wanted)
