"""The recurrent cells, with the number of their gates, and weights for them."""

from __future__ import annotations

import functools

import jax
import numpy as np
from graph_common import normal

import jax_mps as mps

CELLS = {
    "lstm": (4, functools.partial(mps.lstm)),
    "gru": (3, functools.partial(mps.gru, reset="after")),
    "gru before": (3, functools.partial(mps.gru)),
    "mgu": (2, functools.partial(mps.mgu)),
    "rnn": (1, functools.partial(mps.rnn)),
}


def weights(gates, features, units):
    return (
        normal(features, gates * units) * 0.5,
        normal(units, gates * units) / units**0.5,
        normal(gates * units),
    )


def assert_near(got, wanted, tolerance=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), got, wanted)
