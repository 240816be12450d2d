"""accelerate and Keras, whose `fit` has no line where mps.graph could go."""

from __future__ import annotations

import os

import numpy as np
import pytest
from training_common import as_users_have_it  # noqa: F401

import jax_mps as mps

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((256, 16, 16, 3)).astype(np.float32)
LABELS = (IMAGES.mean((1, 2)) @ RANDOM.standard_normal((3, 4)).astype(np.float32)).argmax(-1)


def network():
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(IMAGES.shape[1:]),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.25),
            layers.Dense(4),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, metrics=["accuracy"])
    return model


class Losses(keras.callbacks.Callback):
    """The loss after every batch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(float(logs["loss"]))


def fitted(model):
    """The losses of an epoch, the result of `evaluate`, and of `predict`."""
    losses = Losses()
    model.fit(IMAGES, LABELS, batch_size=32, epochs=1, verbose=0, shuffle=False, callbacks=[losses])
    evaluated = model.evaluate(IMAGES, LABELS, batch_size=64, verbose=0)
    return losses.found, evaluated, model.predict(IMAGES[:32], verbose=0)


def programs():
    return mps.cache_info().misses


def test_fit(native):
    before = programs()
    losses, evaluated, predicted = fitted(network())
    assert programs() == before and len(losses) == 8
    with mps.accelerate():
        found, score, logits = fitted(network())
    assert programs() - before >= 3  # of fit, evaluate, predict
    np.testing.assert_allclose(found, losses, rtol=0, atol=1e-5)
    np.testing.assert_allclose(score, evaluated, rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, predicted, rtol=0, atol=1e-3)
    before = programs()
    off, _, _ = fitted(network())
    assert off == losses and programs() == before


def test_bits_of_graph(native):
    model = network()
    model.train_step = mps.graph(model.train_step)
    model.fit(IMAGES, LABELS, batch_size=32, verbose=0, shuffle=False, callbacks=[expected := Losses()])
    with mps.accelerate():
        network().fit(IMAGES, LABELS, batch_size=32, verbose=0, shuffle=False, callbacks=[found := Losses()])
    assert found.found == expected.found


def test_a_model_of_lstm(native):
    sequences = RANDOM.standard_normal((64, 12, 8)).astype(np.float32)

    def run():
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((12, 8)), keras.layers.LSTM(32), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
        model.fit(sequences, sequences[:, :, 0].sum(-1), batch_size=16, verbose=0, shuffle=False, callbacks=[Losses()])
        return [np.asarray(weight.value) for weight in model.weights]

    plain, before = run(), programs()
    with mps.accelerate():
        found = run()
    assert programs() > before
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
