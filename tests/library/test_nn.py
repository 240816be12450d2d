"""The layers: shapes, parameters, transformations, running statistics, and a small network that learns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mps as mps
from jax_mps import nn

KEY = jax.random.key(0)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
    "layer, shape, params, output",
    [
        (nn.Conv(8, 3), (2, 7, 6, 4), {"w": (3, 3, 4, 8), "b": (8,)}, (2, 7, 6, 8)),
        (nn.Conv(8, (2, 3), strides=2, padding="VALID"), (2, 7, 6, 4), {"w": (2, 3, 4, 8), "b": (8,)}, (2, 3, 2, 8)),
        (nn.Conv(8, 3, groups=4, bias=False), (2, 7, 6, 4), {"w": (3, 3, 1, 8)}, (2, 7, 6, 8)),
        (nn.Conv(8, 5, strides=5), (2, 20, 6), {"w": (5, 6, 8), "b": (8,)}, (2, 4, 8)),
        (nn.Dense(10), (2, 5), {"w": (5, 10), "b": (10,)}, (2, 10)),
        (nn.Dense(10, bias=False), (2, 3, 5), {"w": (5, 10)}, (2, 3, 10)),
        (nn.MaxPool(2), (2, 7, 6, 4), {}, (2, 3, 3, 4)),
        (nn.MaxPool(3, strides=2, padding="SAME"), (2, 7, 6, 4), {}, (2, 4, 3, 4)),
        (nn.AvgPool((2, 3)), (2, 7, 6, 4), {}, (2, 3, 2, 4)),
        (nn.BatchNorm(), (2, 3, 3, 4), dict.fromkeys(("gamma", "beta", "mean", "variance"), (4,)), (2, 3, 3, 4)),
        (nn.Dropout(0.8), (2, 3), {}, (2, 3)),
        (nn.Flatten(), (2, 3, 4, 5), {}, (2, 60)),
        (nn.Neuron("elu", 0.5), (2, 3), {}, (2, 3)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Layer) else "",
)
def test_shapes(layer, shape, params, output):
    made, told = layer.init(KEY, shape)
    assert {k: v.shape for k, v in made.items()} == params
    assert tuple(told) == output == layer.apply(made, normal(*shape)).shape
    assert layer.apply(made, normal(*shape), key=KEY, training=True).shape == output
    y, moved = layer.apply_training(made, normal(*shape), key=KEY)
    assert y.shape == output and jax.tree.structure(moved) == jax.tree.structure(made)


def test_initializers():
    uniform = nn.Conv(50, 3).init(KEY, (1, 8, 8, 40))[0]["w"]
    limit = np.sqrt(6 / (9 * 40 + 9 * 50))
    assert 0.99 * limit < np.abs(uniform).max() <= limit
    normals = nn.Dense(300, initializer=nn.he_normal).init(KEY, (1, 200))[0]["w"]
    assert np.std(normals) == pytest.approx(np.sqrt(2 / 200), rel=0.02)
    assert nn.Dense(3, dtype=jnp.bfloat16).init(KEY, (1, 4))[0]["w"].dtype == jnp.bfloat16


def test_layers_are_the_functions():
    x, conv = normal(2, 6, 6, 3), nn.Conv(4, 3, strides=2, neuron="relu")
    params, _ = conv.init(KEY, x.shape)
    wanted = mps.conv(x, params["w"], params["b"], strides=2, neuron="relu")
    np.testing.assert_array_equal(conv.apply(params, x), wanted)
    np.testing.assert_array_equal(nn.Neuron("leaky_relu", 0.3).apply({}, x), mps.leaky_relu(x, 0.3))


def test_batch_norm_statistics():
    layer, x = nn.BatchNorm(epsilon=1e-3, momentum=0.8), normal(64, 5) * 3 + 2
    params, _ = layer.init(KEY, x.shape)
    y, moved = layer.apply_training(params, x)
    np.testing.assert_allclose(np.mean(y, 0), 0, atol=1e-5)
    np.testing.assert_allclose(moved["mean"], 0.2 * np.mean(x, 0), rtol=1e-5)
    np.testing.assert_allclose(moved["variance"], 0.8 + 0.2 * np.var(x, 0), rtol=1e-5)
    for _ in range(60):
        _, moved = layer.apply_training(moved, x)
    np.testing.assert_allclose(layer.apply(moved, x), y, atol=1e-4)
    np.testing.assert_array_equal(layer.apply(params, x, training=True), y)


def test_dropout_needs_a_key_in_training_only():
    x = jnp.ones((50, 40))
    assert nn.Dropout().apply({}, x) is x
    with pytest.raises(ValueError, match=r"nn\.Dropout: training needs a key, but got None\. Pass key="):
        nn.Dropout().apply({}, x, training=True)
    dropped = nn.Dropout(0.8).apply({}, x, key=KEY, training=True)
    assert set(np.unique(dropped)) == {0.0, np.float32(1.25)} and abs(float(jnp.mean(dropped > 0)) - 0.8) < 0.05


def test_equal_layers_in_a_sequence_draw_different_numbers():
    net = nn.Sequential(nn.Dense(4), nn.Dropout(), nn.Dropout(), nn.Dense(4))
    params, _ = net.init(KEY, (2, 4))
    assert not np.array_equal(params[0]["w"], params[3]["w"])
    twice = net.apply(({"w": jnp.eye(4)}, {}, {}, {"w": jnp.eye(4)}), jnp.ones((500, 4)), key=KEY, training=True)
    assert abs(float(jnp.mean(twice > 0)) - 0.25) < 0.05  # 0.5 if the masks were the same


def test_the_running_statistics_have_no_gradient_and_a_network_learns():
    net = nn.Sequential(
        nn.Conv(8, 3, bias=False),
        nn.BatchNorm(neuron="relu"),
        nn.MaxPool(2),
        nn.Flatten(),
        nn.Dropout(0.9),
        nn.Dense(2),
    )
    x = normal(64, 6, 6, 1)
    labels = jnp.asarray(np.mean(x, (1, 2, 3)) > 0, jnp.int32)
    targets = jax.nn.one_hot(labels, 2)
    params, shape = net.init(KEY, x.shape)
    assert shape == (64, 2)

    def loss(params, key):
        logits, moved = net.apply_training(params, x, key=key)
        return mps.losses.softmax_cross_entropy(logits, targets), moved

    gradients = jax.grad(loss, has_aux=True)(params, KEY)[0]
    assert not np.any(gradients[1]["mean"]) and not np.any(gradients[1]["variance"])
    assert np.any(gradients[1]["gamma"]) and np.any(gradients[0]["w"])

    @jax.jit
    def step(params, key):
        (value, moved), gradients = jax.value_and_grad(loss, has_aux=True)(params, key)
        return jax.tree.map(lambda p, g: p - 0.1 * g, moved, gradients), value

    for i in range(80):
        params, value = step(params, jax.random.fold_in(KEY, i))
    assert value < 0.3
    predicted = jnp.argmax(jax.jit(net.apply)(params, x), 1)
    assert np.mean(predicted == labels) > 0.9
