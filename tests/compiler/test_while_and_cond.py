"""graph in while and cond: their bodies and branches are graphed inside, and stay loops and branches of JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import NHWC, assert_same, normal
from jax import lax
from process import python

import jax_mps as mps

X, W = normal(1, 6, 6, 3), normal(3, 3, 3, 3) * 0.05


def layer(x, w):
    return jnp.tanh(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC))


def natively_inside(function, *args):
    """The control flow of JAX that has native calls in its bodies, by name, the outermost first."""
    found = []

    def visit(jaxpr, names):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "mps_program":
                found.append(names)
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        own = equation.primitive.name in ("while", "cond", "scan")
                        visit(inner, (*names, equation.primitive.name) if own else names)

    visit(jax.make_jaxpr(mps.graph(function))(*args).jaxpr, ())
    return set(found)


def until_small(x, w):
    return lax.while_loop(lambda c: jnp.sum(c[0] ** 2) > 1.0, lambda c: (layer(c[0], w), c[1] + 1), (x, 0))


def counted(x, w):
    return lax.fori_loop(0, jnp.int32(3), lambda i, c: layer(c, w) * (i + 1).astype(jnp.float32), x)


def natively_tested(x, w):
    return lax.while_loop(lambda c: jnp.sum(layer(c, w)) > 100.0, lambda c: c * 0.5, x)


def branches(x, w):
    return lax.switch(
        jnp.int32(x[0, 0, 0, 0] > 0) + 1, [lambda x: x, lambda x: layer(x, w), lambda x: layer(layer(x, w), w)], x
    )


def branches_in_loops(x, w):
    def body(c):
        i, x = c
        return i + 1, lax.cond(i % 2 == 0, lambda x: layer(x, w), lambda x: x * 0.5, x)

    return lax.while_loop(lambda c: c[0] < 4, body, (0, x))[1]


@pytest.mark.parametrize(
    "function, where",
    [
        (until_small, ("while",)),
        (counted, ("while",)),
        (natively_tested, ("while",)),
        (branches, ("cond",)),
        (branches_in_loops, ("while", "cond")),
    ],
)
def test_bodies_are_native(native, function, where):
    assert where in natively_inside(function, X, W)
    assert_same(jax.jit(mps.graph(function))(X, W), jax.jit(function)(X, W))


def test_gradients_through_branches(native):
    both = jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(branches(x, w))), (0, 1))
    for x in (X, -X):
        assert_same(jax.jit(mps.graph(both))(x, W), jax.jit(both)(x, W))
    assert ("cond",) in natively_inside(both, X, W)


def test_forward_derivatives_through_while(native):
    tangent = lambda x, w: jax.jvp(until_small, (x, w), (x, w))[1][0]  # noqa: E731
    assert_same(jax.jit(mps.graph(tangent))(X, W), jax.jit(tangent)(X, W))


def test_vmapped_branches(native):
    xs = jnp.stack([X, -X, X * 2.0])
    function = jax.vmap(branches, (0, None))
    assert_same(jax.jit(mps.graph(function))(xs, W), jax.jit(function)(xs, W))


def test_no_iterations(native):
    assert_same(jax.jit(mps.graph(until_small))(X * 0.0, W), jax.jit(until_small)(X * 0.0, W))


# A loop whose whole body is one native call, with a carry at its own place among the operands, runs in a process of its
# own: if XLA takes that carry for a constant, it never ends.
ENDS = """
import jax, jax.numpy as jnp, jax_mps as mps
from jax import lax
w = jax.random.normal(jax.random.key(0), (256, 256)) * 0.05
counted = lambda x: lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, jnp.tanh(c[1] @ c[1])), (jnp.int32(0), x))
tripled = lambda c: (c[0] + 2 * c[0], mps.dense(c[1], c[1]))
grown = lambda x: lax.while_loop(lambda c: c[0] < 9, tripled, (jnp.float32(1), x))
by = lambda n, x: lax.fori_loop(0, n, lambda i, x: jnp.tanh(x @ x), x)
for name, f, args in (("while", counted, (w,)), ("tripled", grown, (w,)), ("fori", by, (4, w))):
    for got, wanted in zip(jax.tree.leaves(jax.jit(mps.graph(f))(*args)), jax.tree.leaves(f(*args)), strict=True):
        assert jnp.abs(got - wanted).max() < 1e-5, name
print("ended")
"""


def test_loops_that_are_one_call_end():
    assert python("-c", ENDS).stdout.endswith("ended\n")
