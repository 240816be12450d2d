"""graph: what it returns equals what the function returns, and it is a function like any other to JAX."""

from __future__ import annotations

import itertools

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from graph_common import NCHW, NHWC, assert_same, normal, ops
from jax import lax

import jax_mps as mps


def check(function, *args, wanted_ops=(), regions=1, tolerance=1e-4):
    """The value and the gradients of `function` (a scalar), natively and by JAX."""
    both = jax.value_and_grad(function, tuple(range(len(args))))
    assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args), tolerance)
    found = ops(both, *args)
    assert set(wanted_ops) <= set(found), found
    assert len(mps.graph(both).program(*args)) == regions


CONVS = ("conv", "conv_data_gradient", "conv_weight_gradient")
PADDINGS = ["SAME", "VALID", ((2, 1), (0, 3))]
GEOMETRIES = [
    *itertools.product([NHWC, NCHW], [1, 2], PADDINGS, [1], [1]),
    *itertools.product([NHWC, NCHW], [1, 3], ["SAME"], [1, 2], [1, 2]),
]


class TestRecognised:
    @pytest.mark.parametrize("order, stride, padding, dilation, groups", GEOMETRIES)
    def test_convolution(self, native, order, stride, padding, dilation, groups):
        x, w = normal(2, 9, 10, 4), normal(3, 2, 4 // groups, 6)
        if order is NCHW:
            x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
        conv = {"rhs_dilation": (dilation,) * 2, "dimension_numbers": order, "feature_group_count": groups}

        def f(x, w):
            return jnp.sum(jnp.sin(lax.conv_general_dilated(x, w, (stride,) * 2, padding, **conv)))

        check(f, x, w, wanted_ops=CONVS)

    @pytest.mark.parametrize("size", [1, 3, 9])
    def test_windows_as_small_and_as_large_as_the_image(self, native, size):
        def f(x, w):
            return jnp.sum(jnp.sin(lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=NHWC)))

        check(f, normal(2, 9, 9, 4), normal(size, size, 4, 5))

    @pytest.mark.parametrize("stride", [1, 2])
    def test_convolution_of_one_axis(self, native, stride):
        order = ("NWC", "WIO", "NWC")

        def f(x, w):
            return jnp.sum(jnp.sin(lax.conv_general_dilated(x, w, (stride,), "SAME", dimension_numbers=order)))

        check(f, normal(2, 11, 3), normal(4, 3, 5), wanted_ops=CONVS)

    def test_depthwise_convolution(self, native):
        depthwise = {"dimension_numbers": NHWC, "feature_group_count": 4}

        def f(x, w):
            return jnp.sum(jnp.sin(lax.conv_general_dilated(x, w, (1, 1), "SAME", **depthwise)))

        check(f, normal(2, 6, 6, 4), normal(3, 3, 1, 8), wanted_ops=CONVS)

    def test_transposed_convolution(self, native):
        def f(x, w):
            return jnp.sum(jnp.sin(lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=NHWC)))

        both = jax.value_and_grad(f, (0, 1))
        args = normal(2, 5, 5, 3), normal(3, 3, 3, 4)
        assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))

    @pytest.mark.parametrize("pool", [linen.max_pool, linen.avg_pool])
    @pytest.mark.parametrize("window, stride, padding", [(2, 2, "VALID"), (3, 2, "SAME"), (3, 1, "SAME")])
    def test_pools_with_ties(self, native, pool, window, stride, padding):
        x = jnp.round(normal(2, 7, 8, 3))  # many equal maxima

        def f(x):
            with jax.numpy_dtype_promotion("standard"):  # for Flax
                y = pool(x, (window,) * 2, (stride,) * 2, padding)
            return jnp.sum(y * normal(*y.shape))

        kind = "max_pool" if pool is linen.max_pool else "avg_pool"
        check(f, x)
        assert any(op.startswith(kind) for op in ops(jax.grad(f), x))

    def test_pool_of_channels_first(self, native):
        def f(x):
            y = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
            return jnp.sum(y * normal(*y.shape))

        check(f, normal(2, 3, 6, 6), wanted_ops=["max_pool_gradient"])

    def test_dense_and_cross_entropy_of_labels(self, native):
        def f(w, b, x, labels):
            logits = jnp.tanh(x @ w + b[None])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        args = normal(6, 10), normal(10), normal(4, 6), jnp.asarray([1, 0, 9, 3])
        both = jax.value_and_grad(f, (0, 1, 2))
        assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))
        assert {"dot", "pick"} <= set(ops(both, *args))
        check(lambda *floats: f(*floats, args[3]), *args[:3], wanted_ops=["dot", "pick"])

    def test_batch_norm_written_out(self, native):
        def f(x, w, scale, shift):
            y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
            mean = jnp.mean(y, (0, 1, 2), keepdims=True)
            variance = jnp.mean(jnp.square(y - mean), (0, 1, 2), keepdims=True)
            y = (y - mean) * lax.rsqrt(variance + 1e-5) * scale[None, None, None] + shift[None, None, None]
            return jnp.mean(jax.nn.relu(y) * normal(*y.shape))

        check(f, normal(4, 6, 6, 3), normal(3, 3, 3, 5), normal(5), normal(5), wanted_ops=[*CONVS, "chain"])

    def test_convolutions_of_three_axes_stay_in_jax(self, native):
        def f(x, w):
            y = lax.conv_general_dilated(
                mps.relu(x), w, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
            )
            return jnp.sum(mps.tanh(y))

        x, w = normal(1, 4, 4, 4, 2), normal(2, 2, 2, 2, 3)
        assert_same(jax.jit(mps.graph(f))(x, w), f(x, w))
        assert len(mps.graph(f).program(x, w)) == 2

    def test_elementwise_code_is_left_to_xla(self, native):
        f = lambda x: jnp.sum(jnp.sin(x) * 2.0 + x)  # noqa: E731
        assert not mps.graph(f).program(normal(64, 64))
        assert_same(mps.graph(f)(normal(64, 64)), f(normal(64, 64)))

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision(self, native, dtype):
        def f(x, w):
            y = jax.nn.relu(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC))
            return jnp.mean(linen.max_pool(y, (2, 2), (2, 2)).astype(jnp.float32))

        both = jax.value_and_grad(f, (0, 1))
        args = normal(2, 6, 6, 3).astype(dtype), normal(3, 3, 3, 4).astype(dtype)
        assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args), 3e-2)


class CNN(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.BatchNorm(use_running_average=False)(linen.Conv(4, (3, 3), use_bias=False)(x)))
        x = linen.avg_pool(x, (2, 2), (2, 2))
        x = linen.max_pool(linen.relu(linen.Conv(8, (3, 3))(x)), (2, 2), (2, 2))
        x = linen.Dropout(0.5, deterministic=False)(linen.relu(linen.Dense(16)(x.reshape(x.shape[0], -1))))
        return linen.Dense(5)(x)


class TestTraining:
    def test_flax_cnn_with_adamw(self, native):
        model, rule = CNN(), optax.adamw(1e-2)
        x, labels = normal(6, 8, 8, 1), jnp.arange(6) % 5

        def step(state, key):
            variables, slots = state

            def loss(params):
                full = {**variables, "params": params}
                logits, new = model.apply(full, x, rngs={"dropout": key}, mutable=["batch_stats"])
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

            (value, new), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            updates, slots = rule.update(gradients, slots, variables["params"])
            return ({**new, "params": optax.apply_updates(variables["params"], updates)}, slots), value

        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # for Flax and optax
            variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
            states = [(variables, rule.init(variables["params"]))] * 2
            steps = jax.jit(mps.graph(step)), jax.jit(step)
            for i in range(5):
                (got, a), (wanted, b) = (f(s, jax.random.key(i)) for f, s in zip(steps, states, strict=True))
                states = [got, wanted]
                assert_same(a, b)
            assert_same(got, wanted, 1e-3)
            assert len(mps.graph(step).program(got, jax.random.key(0))) == 1

    def test_flax_lstm(self, native):
        model, x = linen.RNN(linen.OptimizedLSTMCell(8)), normal(3, 5, 4)

        def loss(params, x):
            return jnp.mean(jnp.square(model.apply(params, x)))

        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            params = model.init(jax.random.key(0), x)
            both = jax.value_and_grad(loss, (0, 1))
            assert_same(jax.jit(mps.graph(both))(params, x), jax.jit(both)(params, x))

    def test_own_ops_and_optimizer(self, native):
        rule = mps.optim.adam(1e-2)
        x, labels = normal(4, 6, 6, 2), jnp.arange(4)

        def loss(params):
            y = mps.max_pool(mps.conv(x, params["conv"], neuron="relu"), 2)
            logits = mps.dense(y.reshape(4, -1), params["dense"])
            return jnp.mean(mps.losses.softmax_cross_entropy(logits, labels))

        def step(params, slots):
            value, gradients = jax.value_and_grad(loss)(params)
            updates, slots = rule.update(gradients, slots, params)
            return optax.apply_updates(params, updates), slots, value

        got = wanted = {"conv": normal(3, 3, 2, 4), "dense": normal(36, 5)}
        a = b = rule.init(got)
        for _ in range(3):
            got, a, v = jax.jit(mps.graph(step))(got, a)
            wanted, b, w = jax.jit(step)(wanted, b)
            assert_same((v, a), (w, b))
        assert_same(got, wanted)
        assert len(mps.graph(step).program(got, a)) == 1

    def test_fusion_changes_no_value(self, native):
        def f(x, w):
            y = jax.nn.softmax(jnp.tanh(x @ w) * 2.0 - 1.0, -1)
            return jnp.sum(mps.relu(y) * jnp.log(y + 1.0), 0)

        x, w = normal(5, 6), normal(6, 7)
        apart = mps.graph(f, fuse=False)
        assert_same(apart(x, w), mps.graph(f)(x, w), 1e-6)
        assert len(apart.program(x, w)[0].program.nodes) > len(mps.graph(f).program(x, w)[0].program.nodes)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_complementary_error_function(native, dtype):
    x = jnp.concatenate(
        [jnp.linspace(-12, 12, 4001), jnp.asarray([0.0, -0.0, 1.0, -1.0, 2.0, jnp.inf, -jnp.inf, jnp.nan])]
    )
    f = lambda x: (lax.erfc(x), jax.nn.gelu(x, approximate=False), mps.relu(x))  # noqa: E731
    x = x.astype(dtype)
    # In half precision XLA keeps digits between ops, to which the tails of gelu are sensitive.
    relative, absolute = (1e-5, 1e-37) if dtype == jnp.float32 else (3e-2, 4e-3)
    for got, wanted in zip(jax.jit(mps.graph(f))(x), jax.jit(f)(x), strict=True):
        np.testing.assert_allclose(*(np.asarray(a, np.float64) for a in (got, wanted)), relative, absolute)
    if dtype == jnp.float32:
        with jax.enable_x64(True):
            true = np.asarray(lax.erfc(jnp.asarray(x, jnp.float64)))
        got = np.asarray(jax.jit(mps.graph(f))(x)[0], np.float64)
        np.testing.assert_allclose(got, true, rtol=1e-5, atol=1e-37)  # the exponential of a rounded square
    assert len(mps.graph(f).program(x)) == 1
    check(lambda x: jnp.sum(jax.nn.gelu(mps.relu(x), approximate=False)), normal(7, 9))
