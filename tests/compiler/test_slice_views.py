"""graph's slices: convolutions and products read theirs where it lies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from graph_common import assert_same, conv, everything_natively, in_place, normal, ops, overlaps, text  # noqa: F401

import jax_mps as mps


def parts(function, *args):
    """The starts of a function's parts, and how far apart their rows are."""
    programs = [region.program for region in mps.graph(function).program(*args)]
    assert all(overlaps(p) == [] for p in programs)
    return [(n.attributes["start"], n.results[0].type.row) for p in programs for n in p.nodes if n.op == "part"]


def check(function, *args):
    assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args))


def test_golden(native):
    def f(x, w):
        return conv(x[..., 16:], w)

    attributes = 'accumulator="float", dilation=[1,1], groups=1, padding=[[0,0],[0,0]], strides=[1,1]'
    args = normal(2, 4, 4, 48), normal(1, 1, 32, 16)
    assert (
        text(f, *args)
        == f"""\
input %0: f32[2,4,4,48], %1: f32[1,1,32,16]
%4: f32[2,4,4,32|48] = part(%0) {{start=16}}
%3: f32[2,4,4,16] = conv(%4, %1) {{{attributes}}}
return %3"""
    )
    check(f, *args)


def split(x, a, b):
    """Channels in two, as cross-stage networks have them: a tower of each, their sum."""
    left, right = jnp.split(x, 2, -1)
    return jnp.tanh(conv(left, a) + conv(right, b))


def tower(x, *ws):
    """Each convolution reads the one before, and all are put together."""
    ys = [x]
    for w in ws:
        ys.append(conv(ys[-1], w))
    return jnp.concatenate(ys[1:], -1)


def product(x, w):
    """Gates of a recurrent cell: slices of a product, each in one of its own."""
    y = x @ w
    return jnp.tanh(y[:, :16] @ w[:16]) + y[:, 16:32] @ w[4:20] * y[:, 32:33]


def batches(x, w):
    first, second = jnp.split(x, 2, 0)
    return conv(first, w) * 2.0 + conv(second, w)


IMAGE, WIDE = normal(2, 5, 3, 64), normal(2, 16, 16, 64)
ONE, THREE = normal(1, 1, 32, 16) / 8, normal(3, 3, 32, 32) / 16
NETWORKS = [
    (split, (IMAGE, ONE, ONE + 1)),
    (split, (WIDE, THREE, THREE + 0.1)),
    (split, (WIDE, normal(5, 5, 32, 32) / 32, normal(1, 1, 32, 32) / 8)),
    (tower, (normal(2, 5, 3, 16), normal(1, 1, 16, 32), normal(1, 1, 32, 16) / 8, normal(1, 1, 16, 48) / 4)),
    (tower, (normal(2, 16, 16, 32), THREE, THREE / 2, THREE + 0.1)),
    (product, (normal(7, 24), normal(24, 48) / 8)),
    (batches, (WIDE, normal(3, 3, 64, 16) / 16)),
]


@pytest.mark.parametrize("network, args", NETWORKS)
def test_values_and_gradients(native, network, args):
    def loss(*args):
        y = network(*args)
        return jnp.sum(jnp.sin(y) * normal(*y.shape))

    for function in (network, jax.value_and_grad(loss, tuple(range(len(args))))):
        check(function, *args)
    if network is tower:  # where the whole is still in the cache, and not the caller's
        assert in_place(lambda *args: jnp.sum(network(*args), 0), *args) == [(0, 1, 2)]
    else:
        assert len(parts(network, *args)) >= 2


def test_gradients_of_a_concatenation_are_parts(native):
    def loss(x, a, b):
        return jnp.sum(jnp.sin(jnp.concatenate([conv(x, a), conv(x, b)], -1)))

    args = normal(2, 4, 4, 32), normal(1, 1, 32, 16), normal(1, 1, 32, 48)
    both = jax.grad(loss, (0, 1, 2))
    assert parts(both, *args) == [(0, 64), (16, 64)]
    check(both, *args)


X = normal(4, 8, 8, 32)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.lax.conv_general_dilated(  # windows of more than a pixel, with strides
            x[..., :16], normal(3, 3, 16, 8), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        lambda x: conv(x[:, 2:], normal(1, 1, 32, 8)),  # neither along the leading nor along the last axis
        lambda x: conv(x[1:3, ..., :16], normal(1, 1, 16, 8)),  # along two
        lambda x: conv(x[..., ::2], normal(1, 1, 16, 8)),  # with steps
        lambda x: conv(jnp.sin(x)[..., :16], normal(1, 1, 16, 8)),  # of what is not needed whole
        lambda x: conv(jnp.swapaxes(x, 1, 2)[..., :16], normal(1, 1, 16, 8)),  # of a view
        lambda x: conv(x.astype(jnp.bfloat16)[..., :16], normal(1, 1, 16, 8).astype(jnp.bfloat16)),
        lambda x: x[:, 0, 0, :8] * 2.0,  # a chain reads it in place
        lambda x: x[..., :16],
    ],
)
def test_what_is_copied_as_before(native, function):
    assert parts(function, X) == []
    assert_same(jax.jit(mps.graph(function))(X), jax.jit(function)(X), 2e-2)


def test_what_else_reads_a_slice(native):
    def f(x, w):
        y = x[..., :16]
        z = conv(y, w)
        return y, jnp.sin(y), z, z[:2].sum(), conv(z, w.T.reshape(1, 1, 16, 16))

    check(f, X, normal(1, 1, 16, 16))
    assert parts(f, X, normal(1, 1, 16, 16)) == [(0, 32)]


def test_donated_inputs_that_a_part_reads(native):
    def step(x, w):
        return x * 0.5 + 1.0, conv(x[..., 16:], w)

    args, jitted = (X, normal(1, 1, 16, 16)), jax.jit(mps.graph(step), donate_argnums=0)
    wanted = step(*args)
    assert_same(jitted(jnp.copy(X), args[1]), wanted)


def test_within_loops(native):
    def f(x, w):
        def body(h, x):
            y = x @ w
            h = jnp.tanh(y[:, :16] @ w[:, :16] + h)
            return h, y[:, 16:] @ w[:, 4:20]

        return jax.lax.scan(body, x[0, :, :16], x)

    args = normal(3, 4, 16), normal(16, 32) / 4
    check(f, *args)
    check(jax.grad(lambda *args: jnp.sum(f(*args)[1]), (0, 1)), *args)
    assert "part" in ops(f, *args) or any(n.op == "part" for r in mps.graph(f).program(*args) for m in r.program.nodes
                                          if m.body for n in m.body.nodes)  # fmt: skip


@pytest.mark.parametrize(
    "line, words",
    [
        ("%1: f32[4,8] @0 = part(%0) {start=1}", r"a part of type f32\[4,8\] from element 1 is not within f32\[4,8\]"),
        ("%1: f32[4,4|8] = part(%0) {start=5}", "from element 5 is not within"),
        ("%1: f32[4,4|8] = part(%0) {start=-1}", "from element -1 is not within"),
        ("%1: s32[4,4|8] = part(%0) {start=0}", "a part is of one operand, and has its dtype"),
        ("%1: f32[4,4|8] = part(%0)", "attribute 'start' is missing"),
    ],
)
def test_texts(native, line, words):
    program = f"input %0: f32[4,8]\n{line}\n%2: f32[4,4] = concatenate(%1) {{axis=1}}\nreturn %2"
    with pytest.raises(ValueError, match=words):
        mps.ffi.implementations(program)
