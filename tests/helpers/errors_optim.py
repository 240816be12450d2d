"""What is wrong with a call of dropout or an optimizer, the call, the error, its words."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import jax_mps as mps

X = jnp.ones((2, 3))
KEY = jax.random.key(0)

# Dropout
DROPOUT = [
    (
        "dropout: keep_probability 0",
        lambda: mps.dropout(X, KEY, keep_probability=0),
        ValueError,
        r"dropout: keep_probability must be in \(0, 1\], but got 0.0. It is the part that is kept",
    ),
    (
        "dropout: keep_probability above 1",
        lambda: mps.dropout(X, KEY, keep_probability=1.5),
        ValueError,
        r"dropout: keep_probability must be in \(0, 1\], but got 1.5",
    ),
    (
        "dropout: keep_probability traced",
        lambda: jax.jit(lambda p: mps.dropout(X, KEY, keep_probability=p))(0.5),
        TypeError,
        "dropout: keep_probability must be a number, but got .* Pass a Python float",
    ),
    (
        "dropout: keep_probability NaN",
        lambda: mps.dropout(X, KEY, keep_probability=float("nan")),
        ValueError,
        "dropout: keep_probability must be finite, but got nan",
    ),
    (
        "dropout: integers",
        lambda: mps.dropout(jnp.arange(3), KEY, keep_probability=0.5),
        TypeError,
        "dropout: x must be floating, but got int32",
    ),
    (
        "dropout: no key",
        lambda: mps.dropout(X, 7, keep_probability=0.5),
        TypeError,
        r"dropout: key must be a JAX key, but got int32. Make one: jax.random.key\(0\)",
    ),
    (
        "dropout: many keys",
        lambda: mps.dropout(X, jax.random.split(KEY, 4), keep_probability=0.5),
        ValueError,
        r"dropout: key must be a single key, but got keys of shape \(4,\). Split and pass one",
    ),
    (
        "dropout: a raw key of another size",
        lambda: mps.dropout(X, jnp.zeros(3, jnp.uint32), keep_probability=0.5),
        ValueError,
        r"dropout: key must be a single key, but got uint32\[3\]",
    ),
    (
        "dropout: axis out of range",
        lambda: mps.dropout(X, KEY, keep_probability=0.5, broadcast_axes=(0, 2)),
        ValueError,
        r"dropout: broadcast_axes must be axes of x, which has 2, but got \(0, 2\)",
    ),
]

# Optimizers
W = {"w": jnp.ones(3)}
INTEGERS = {"w": jnp.arange(3)}
L2 = mps.optim.sgd(0.1, regularization="l2", regularization_scale=0.1)
ADAM = mps.optim.adam(0.1)
MPS_ADAM = mps.optim.adam(0.1, variant="mps")
COMPLEX = {"w": jnp.ones(3, jnp.complex64)}
CLIPPED = mps.optim.sgd(0.1, gradient_clip=(-1.0, 1.0))

OPTIM = [
    ("sgd: rate", lambda: mps.optim.sgd(-1), ValueError, "sgd: learning_rate must be at least 0, but got -1. Check"),
    (
        "sgd: no number",
        lambda: mps.optim.sgd("0.1"),
        TypeError,
        "sgd: learning_rate must be a number or a scalar array",
    ),
    (
        "sgd: a rate for each leaf",
        lambda: mps.optim.sgd(jnp.ones(2)),
        TypeError,
        r"sgd: learning_rate must be a number or a scalar array, but got an array of shape \(2,\)",
    ),
    (
        "sgd: momentum",
        lambda: mps.optim.sgd(0.1, momentum=1.0),
        ValueError,
        "sgd: momentum must be at least 0 and below 1, but got 1.0",
    ),
    ("sgd: nesterov", lambda: mps.optim.sgd(0.1, nesterov=True), ValueError, "sgd: nesterov needs momentum, but got"),
    (
        "sgd: dtype",
        lambda: mps.optim.sgd(0.1, 0.9, accumulator_dtype=jnp.int32),
        TypeError,
        "sgd: accumulator_dtype, if not None, must be a floating dtype, but got .*int32",
    ),
    (
        "adam: not finite",
        lambda: mps.optim.adam(float("nan")),
        ValueError,
        "adam: learning_rate must be finite, but got nan",
    ),
    (
        "adam: b2",
        lambda: mps.optim.adam(0.1, b2=1.5),
        ValueError,
        "adam: b2 must be at least 0 and below 1, but got 1.5",
    ),
    ("adam: eps", lambda: mps.optim.adam(0.1, eps=-1e-8), ValueError, "adam: eps must be at least 0, but got -1e-08"),
    (
        "adam: variant",
        lambda: mps.optim.adam(0.1, variant="torch"),
        ValueError,
        "adam: variant must be one of 'optax', 'mps', 'tensorflow', but got 'torch'",
    ),
    (
        "adam: nesterov",
        lambda: mps.optim.adam(0.1, nesterov=True, variant="mps"),
        ValueError,
        "adam: nesterov goes with the variant \"optax\" without amsgrad, but got variant='mps'",
    ),
    (
        "adam: regularization",
        lambda: mps.optim.adam(0.1, regularization="L2"),
        ValueError,
        "adam: regularization must be one of 'none', 'l1', 'l2', but got 'L2'",
    ),
    (
        "adam: clip",
        lambda: mps.optim.adam(0.1, gradient_clip=1.0),
        ValueError,
        r"adam: gradient_clip must be None or a \(min, max\) pair, but got 1.0",
    ),
    (
        "adam: clip the other way round",
        lambda: mps.optim.adam(0.1, gradient_clip=(1.0, -1.0)),
        ValueError,
        r"adam: gradient_clip must be \(min, max\) with min <= max, but got \(1.0, -1.0\)",
    ),
    (
        "rmsprop: decay",
        lambda: mps.optim.rmsprop(0.1, -0.1),
        ValueError,
        "rmsprop: decay must be at least 0 and below 1",
    ),
    (
        "rmsprop: what MPS lacks",
        lambda: mps.optim.rmsprop(0.1, momentum=0.9, variant="mps"),
        ValueError,
        "rmsprop: the variant 'mps' has no momentum, but got momentum=0.9. Use the variant \"optax\"",
    ),
    (
        "optim: no params",
        lambda: L2.update(W, L2.init(W)),
        ValueError,
        r'sgd: regularization "l2" needs params, but got None. Call update\(gradients, state, params\)',
    ),
    (
        "optim: another tree",
        lambda: ADAM.update(W, ADAM.init({"v": jnp.ones(3)})),
        ValueError,
        "adam: state must have the tree of the gradients, but got another one: .* Was init called",
    ),
    (
        "optim: another shape",
        lambda: ADAM.update({"w": jnp.ones(4)}, ADAM.init(W)),
        ValueError,
        r"adam: a leaf of state must have the shape of its gradient, \(4,\), but got \(3,\)",
    ),
    (
        "optim: integers",
        lambda: MPS_ADAM.update(INTEGERS, MPS_ADAM.init(W)),
        TypeError,
        "adam: the leaves of gradients must be floating, but got int32. Mask other leaves .* or use the variant",
    ),
    (
        "optim: complex and clipped",
        lambda: CLIPPED.update(COMPLEX, CLIPPED.init(COMPLEX)),
        TypeError,
        "sgd: gradient_clip takes real gradients, but got complex64. Clip before",
    ),
]

FAMILIES = {"dropout": DROPOUT, "optim": OPTIM}
