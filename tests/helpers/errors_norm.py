"""What is wrong with a call of a norm, softmax or a loss, the call, the error, its words."""

from __future__ import annotations

import jax.numpy as jnp

import jax_mps as mps

_x, _c = jnp.ones((4, 3)), jnp.ones(3)


def _statistics(**options):
    return mps.update_running_statistics(_c, _c, _c, _c, **options)


# Normalisation

NORM = [
    (
        "batch norm: integers",
        lambda: mps.batch_norm(jnp.ones((4, 3), jnp.int32), _c, _c, epsilon=0.1),
        TypeError,
        r"^batch_norm: x must be floating, but got int32\. Convert it: x\.astype",
    ),
    (
        "batch norm: one axis",
        lambda: mps.batch_norm(_c, _c, _c, epsilon=0.1),
        ValueError,
        r"^batch_norm: x must be \[\.\.\., channels\] with at least two axes, but got \(3,\)\. Add the batch axis\.",
    ),
    (
        "batch norm: channels",
        lambda: mps.batch_norm(_x, jnp.ones(4), _c, epsilon=0.1),
        ValueError,
        r"^batch_norm: gamma must have shape \(3,\), but got \(4,\)\. Pass one number for each channel",
    ),
    (
        "batch norm: dtype of beta",
        lambda: mps.batch_norm(_x, _c, _c.astype(jnp.float16), epsilon=0.1),
        TypeError,
        r"^batch_norm: beta must have the dtype of x, float32, or float32, but got float16\. Cast it: beta\.astype",
    ),
    (
        "batch norm: epsilon",
        lambda: mps.batch_norm(_x, _c, _c, epsilon=-1e-3),
        ValueError,
        r"^batch_norm: epsilon must be at least 0, but got -0\.001\. 1e-5 is usual\.",
    ),
    (
        "batch norm: epsilon is an array",
        lambda: mps.batch_norm(_x, _c, _c, epsilon=_c),
        TypeError,
        r"^batch_norm: epsilon must be a number, but got .*\. Pass a Python float\.",
    ),
    (
        "batch norm: neuron",
        lambda: mps.batch_norm(_x, _c, _c, epsilon=0.1, neuron="rely"),
        ValueError,
        r"^batch_norm: neuron must be one of none, relu, .*, but got 'rely'\. Check the spelling\.",
    ),
    (
        "batch norm inference: shape of variance",
        lambda: mps.batch_norm_inference(_x, _c, jnp.ones(()), _c, _c, epsilon=0.1),
        ValueError,
        r"^batch_norm_inference: variance must have shape \(3,\), but got \(\)\. Pass one number for each channel",
    ),
    (
        "running statistics: momentum",
        lambda: _statistics(momentum=1.5),
        ValueError,
        r"^update_running_statistics: momentum must be from 0 to 1, but got 1\.5\. It is the share of the old value\.",
    ),
    (
        "running statistics: shapes",
        lambda: mps.update_running_statistics(_c, _c, _c, jnp.ones(4)),
        ValueError,
        r"^update_running_statistics: variance must have shape \(3,\), but got \(4,\)\. It must match running_variance",
    ),
]

# Softmax and its cross-entropy


def _loss(logits=_x, labels=jnp.zeros(4, jnp.int32), **options):  # noqa: B008
    return mps.losses.softmax_cross_entropy(logits, labels, **options)


SOFTMAX = [
    (
        "softmax: integers",
        lambda: mps.softmax(jnp.arange(3)),
        TypeError,
        r"^softmax: x must be floating, but got int32\. Convert it: x\.astype",
    ),
    (
        "log_softmax: axis",
        lambda: mps.log_softmax(_x, axis=2),
        ValueError,
        r"^log_softmax: axis must be one of x's 2 axes, but got 2 for shape \(4, 3\)\. Check axis\.",
    ),
    (
        "softmax: a scalar",
        lambda: mps.softmax(jnp.ones(())),
        ValueError,
        r"^softmax: axis must be one of x's 0 axes, but got -1 for shape \(\)\. Check axis\.",
    ),
    (
        "cross-entropy: reduction",
        lambda: _loss(reduction="average"),
        ValueError,
        r"^softmax_cross_entropy: reduction must be one of 'none', 'sum', .*, but got 'average'\. Check the spelling",
    ),
    (
        "cross-entropy: no classes",
        lambda: _loss(jnp.ones((4, 0))),
        ValueError,
        r"^softmax_cross_entropy: logits must be \[\.\.\., classes\], but got \(4, 0\)\. Pass at least one class\.",
    ),
    (
        "cross-entropy: integer one-hot labels",
        lambda: _loss(labels=jnp.ones((4, 3), jnp.int32)),
        ValueError,
        r"^softmax_cross_entropy: integer labels must have shape \(4,\), but got \(4, 3\)\. Pass one class",
    ),
    (
        "cross-entropy: shape of dense labels",
        lambda: _loss(labels=jnp.ones((4, 2))),
        ValueError,
        r"^softmax_cross_entropy: dense labels must have shape \(4, 3\), but got \(4, 2\)\. Pass one number for each",
    ),
    (
        "cross-entropy: dtype of labels",
        lambda: _loss(labels=jnp.ones((4, 3), jnp.float16)),
        TypeError,
        r"^softmax_cross_entropy: labels must be integers, or have the dtype of logits, float32, or float32, but got "
        r"float16\. Cast them with astype\.",
    ),
    (
        "cross-entropy: smoothing",
        lambda: _loss(label_smoothing=2),
        ValueError,
        r"^softmax_cross_entropy: label_smoothing must be from 0 to 1, but got 2\.0\. 0\.1 is usual\.",
    ),
    (
        "cross-entropy: shape of weight",
        lambda: _loss(weight=jnp.ones(3)),
        ValueError,
        r"^softmax_cross_entropy: weight must have shape \(4,\), but got \(3,\)\. Pass one number, or one for each",
    ),
]

FAMILIES = {"norm": NORM, "softmax": SOFTMAX}
