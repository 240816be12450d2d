"""Training steps of Haiku and Keras, where they are installed, and of code in their manner, where not: one region."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import optax
import pytest
from graph_common import NHWC, normal
from jax import lax
from training_common import as_users_have_it, check, descending  # noqa: F401

import jax_mps as mps

X, LABELS = normal(8, 12, 12, 3), jnp.arange(8) % 5


def regions(step, state):
    return len(mps.graph(step).program(state))


def moving(average, value, decay=0.9):
    """Haiku's moving average, without the bias towards zero."""
    hidden, count = average["hidden"] * decay + value * (1 - decay), average["count"] + 1
    return {"hidden": hidden, "count": count, "average": hidden / (1 - decay**count)}


def normalised(x, scale, offset, averages):
    """Batch norm as Haiku has it: the variance is the mean of squares without the square of the mean."""
    mean = jnp.mean(x, (0, 1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(x), (0, 1, 2), keepdims=True) - jnp.square(mean)
    y = (x - mean) * (scale * lax.rsqrt(variance + 1e-5)) + offset
    return y, [moving(a, v) for a, v in zip(averages, (mean, variance), strict=True)]


def test_in_the_manner_of_haiku(native):
    def network(params, averages):
        x, new = X, []
        for p, a in zip(params["convs"], averages, strict=True):
            x = lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=NHWC)
            x, a = normalised(x, p["scale"], p["offset"], a)
            x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
            new.append(a)
        return x.mean((1, 2)) @ params["w"] + params["b"], new

    def norm(c):
        return {
            "hidden": jnp.zeros((1, 1, 1, c)),
            "count": jnp.zeros((), jnp.int32),
            "average": jnp.zeros((1, 1, 1, c)),
        }

    rule = optax.adam(1e-2)

    def step(state):
        (params, averages), slots = state

        def loss(params):
            logits, new = network(params, averages)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), new

        (value, averages), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, slots = rule.update(gradients, slots)
        return ((optax.apply_updates(params, updates), averages), slots), value

    convs = [
        {"w": normal(3, 3, i, o) / 5, "scale": jnp.ones((1, 1, 1, o)), "offset": jnp.zeros((1, 1, 1, o))}
        for i, o in ((3, 8), (8, 16))
    ]
    params = {"convs": convs, "w": normal(16, 5) / 4, "b": jnp.zeros(5)}
    state = (params, [[norm(8), norm(8)], [norm(16), norm(16)]]), rule.init(params)
    check(step, state)
    assert regions(step, state) == 1


def test_in_the_manner_of_keras(native):
    """Depthwise filters, the exact gelu, one-hot labels, the variance by two passes."""

    def loss(params):
        x = lax.conv_general_dilated(
            X, params["depthwise"], (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=3
        )
        x = lax.conv_general_dilated(x, params["pointwise"], (1, 1), "VALID", dimension_numbers=NHWC)
        mean, variance = jnp.mean(x, (0, 1, 2), keepdims=True), jnp.var(x, (0, 1, 2), keepdims=True)
        inverse = lax.rsqrt(variance + 1e-3) * params["gamma"]
        x = jax.nn.silu(x * inverse + (params["beta"] - mean * inverse))
        x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0
        x = jax.nn.gelu(jnp.mean(x, (1, 2)) @ params["dense"], approximate=False)
        log_p = jax.nn.log_softmax(x @ params["head"])
        return jnp.mean(-jnp.sum(jax.nn.one_hot(LABELS, 5) * log_p, -1))

    shapes = {"depthwise": (3, 3, 1, 6), "pointwise": (1, 1, 6, 16), "dense": (16, 16), "head": (16, 5)}
    params = {name: normal(*shape) / 3 for name, shape in shapes.items()}
    params |= {"gamma": jnp.ones(16), "beta": jnp.zeros(16)}
    step, state = descending(loss, params, optax.adamw(1e-2))
    check(step, state)
    assert regions(step, state) == 1


@pytest.mark.filterwarnings("ignore")  # of what Haiku imports
def test_haiku(native):
    hk = pytest.importorskip("haiku")

    def network(x):
        for channels in (8, 16):
            x = hk.Conv2D(channels, 3, with_bias=False)(x)
            x = hk.max_pool(jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, True)), 2, 2, "SAME")
        return hk.nets.MLP([16, 5])(hk.LayerNorm(-1, True, True)(hk.avg_pool(x, 2, 2, "SAME").mean((1, 2))))

    pair, rule = hk.transform_with_state(network), optax.adam(1e-2)
    params, kept = pair.init(jax.random.key(0), X)

    def step(state):
        params, kept, slots = state

        def loss(params):
            logits, new = pair.apply(params, kept, None, X)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), new

        (value, kept), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, slots = rule.update(gradients, slots)
        return (optax.apply_updates(params, updates), kept, slots), value

    state = params, kept, rule.init(params)
    check(step, state)
    assert regions(step, state) == 1


@pytest.mark.filterwarnings("ignore")
def test_keras(native):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(X.shape[1:]),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.SeparableConv2D(16, 3, padding="same", activation="swish"),
            layers.AveragePooling2D(2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(16, activation="gelu"),
            layers.Dense(5),
        ]
    )
    criterion, rule = keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.optimizers.Adam(1e-2)
    rule.build(model.trainable_variables)

    def step(state):
        trainable, others, slots = state

        def loss(trainable):
            logits, new = model.stateless_call(trainable, others, X, training=True)
            return criterion(LABELS, logits), new

        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable)
        trainable, slots = rule.stateless_apply(slots, gradients, trainable)
        return (trainable, others, slots), value

    of = (model.trainable_variables, model.non_trainable_variables, rule.variables)
    state = tuple([v.value for v in variables] for variables in of)
    check(step, state)
    assert regions(step, state) == 1
