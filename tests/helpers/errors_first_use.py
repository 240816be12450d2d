"""What a newcomer gets wrong anywhere (no array, a traced option, another layout): the call, the error, its words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import jax_mps as mps

X, W, LOGITS = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 8)), jnp.ones((4, 10))
STEPS, GATES, STATE = jnp.ones((2, 9, 3)), jnp.ones((3, 20)), jnp.ones((5, 20))
KEY = jax.random.key(0)
PARAMS = {"w": jnp.ones(3)}
ADAM, SGD = mps.optim.adam(0.1), mps.optim.sgd(0.1)

LAYOUT = [
    (
        "NCHW",
        lambda: mps.conv(jnp.ones((2, 3, 8, 8)), W),
        ValueError,
        r"^conv: w must have shape \(H, W, in/groups, out\) with in/groups = 8, but got \(3, 3, 3, 8\)\. "
        r"x is taken as NHWC, "
        r"so it has 8 channels; if it is NCHW, pass jnp\.moveaxis\(x, 1, -1\)\.",
    ),
    (
        "NCW",
        lambda: mps.conv_transpose(jnp.ones((2, 3, 8)), jnp.ones((5, 3, 4))),
        ValueError,
        r"^conv_transpose: w must .* x is taken as NWC, so it has 8 channels; if it is NCW, pass "
        r"jnp\.moveaxis\(x, 1, -1\)",
    ),
    (
        "OIHW",
        lambda: mps.conv(X, jnp.ones((16, 3, 5, 5))),
        ValueError,
        r"but got \(16, 3, 5, 5\)\. w is taken as HWIO; if it is OIHW, pass jnp\.transpose\(w, \(2, 3, 1, 0\)\)\.",
    ),
    (
        "one image",
        lambda: mps.conv(X[0], W),
        ValueError,
        r"^conv: with w of shape \(3, 3, 3, 8\), x must be \[batch, height, width, channels\], but got "
        r"\(8, 8, 3\)\. For one "
        r"image pass x\[None\]\.",
    ),
    (
        "pixels without end",
        lambda: mps.conv(X, W, padding=((2**62, 0), (0, 0))),
        ValueError,
        r"^conv: the padded input must have at most 2\*\*40 pixels, but got \(4611686018427387912, 8\)\. "
        r"Check strides and",
    ),
    (
        "strides without end",
        lambda: mps.conv_transpose(X, W, strides=2**30),
        ValueError,
        r"the result must have at most 2\*\*40",
    ),
    (
        "a stride above 32 bits",
        lambda: mps.max_pool(X, 2, strides=2**31),
        ValueError,
        r"strides must be at most 2147483647, bu",
    ),
]
NEURONS = [
    (
        "a function",
        lambda: mps.conv(X, W, neuron=jax.nn.relu),
        TypeError,
        r"^conv: neuron must be None, a name such as \"relu\", or a name with its numbers, but got the "
        r"function relu\. Pass "
        r"\"relu\", or apply the function to the result\.",
    ),
    (
        "a function of ours",
        lambda: mps.dense(X, W[0, 0], neuron=mps.leaky_relu),
        TypeError,
        r"dense: .*Pass \"leaky_relu\", or",
    ),
    (
        "another function",
        lambda: mps.batch_norm(X, X[0, 0, 0], X[0, 0, 0], epsilon=0.1, neuron=jax.nn.softmax),
        TypeError,
        r"^batch_norm: neuron must be .* but got the function softmax\. Pass its name, as in neuron=\"relu\", or apply",
    ),
    ("no name", lambda: mps.conv(X, W, neuron=()), TypeError, r"conv: neuron must be None, a name .*, but got \(\)"),
    (
        "four numbers",
        lambda: mps.conv(X, W, neuron=("elu", 1, 2, 3, 4)),
        ValueError,
        r"at most three numbers, a, b and c, but",
    ),
    (
        "its function's numbers",
        lambda: mps.elu(X, X),
        TypeError,
        r"neuron: a must be a number, but got an array of float32\[2",
    ),
]
ARRAYS = [
    (
        "None",
        lambda: mps.relu(None),
        TypeError,
        r"^neuron: x must be an array, but got None\. Check the order of the arguments",
    ),
    ("a word", lambda: mps.neuron("relu", X), TypeError, r"^neuron: x must be an array, but got 'relu'"),
    (
        "a dict",
        lambda: mps.conv(X, {"w": W}),
        TypeError,
        r"^conv: w must be an array, but got \{'w': Array\(.*\.\.\.\. Check",
    ),
    (
        "ragged",
        lambda: mps.max_pool([[1.0], [1.0, 2.0]], 2),
        TypeError,
        r"^max_pool: x must be an array, but got \[\[1\.0\], \[",
    ),
    (
        "a shape",
        lambda: mps.dense(jax.ShapeDtypeStruct((2, 3), jnp.float32), W),
        TypeError,
        r"dense: x must be an array, but",
    ),
    ("a word for b", lambda: mps.dense(X, W[0, 0], "relu"), TypeError, r"^dense: b must be an array, but got 'relu'"),
    (
        "no gamma",
        lambda: mps.batch_norm(X, None, None, epsilon=0.1),
        TypeError,
        r"^batch_norm: gamma must be an array, but got N",
    ),
    (
        "no labels",
        lambda: mps.losses.softmax_cross_entropy(LOGITS, None),
        TypeError,
        r"softmax_cross_entropy: labels must be an a",
    ),
    (
        "lengths",
        lambda: mps.lstm(STEPS, GATES, STATE, lengths="all"),
        TypeError,
        r"^lstm: lengths must be an array, but got 'all'",
    ),
    (
        "two states",
        lambda: mps.lstm(STEPS, GATES, STATE, None, (STEPS, X)),
        TypeError,
        r"^lstm: h0 must be an array, but got \(A",
    ),
    (
        "no key",
        lambda: mps.dropout(X, None, keep_probability=0.5),
        TypeError,
        r"^dropout: key must be an array, but got None",
    ),
    (
        "an image",
        lambda: mps.image_to_matrix("x.png"),
        TypeError,
        r"^image_to_matrix: x must be an array, but got 'x\.png'",
    ),
    (
        "a float as a word",
        lambda: mps.dropout(X, KEY, keep_probability="0.5"),
        TypeError,
        r"must be a number, but got '0\.5'",
    ),
]


def _traced(call, value):
    return lambda: jax.jit(call)(value)


STATIC = [
    (
        "keys",
        lambda: mps.conv(X, W, padding=jax.random.split(KEY, 3)),
        ValueError,
        r"conv: padding must be .* pair of integers for each spatial axis, but got ",
    ),
    (
        "strides",
        _traced(lambda s: mps.conv(X, W, strides=s), 2),
        ValueError,
        r"^conv: strides must be an integer or 2 of them, each at least 1, but got a traced value of "
        r"int32\[\]\. It must be known "
        r"before tracing: close over it, or name it in jit's static_argnames\.",
    ),
    (
        "a pair",
        _traced(lambda s: mps.max_pool(X, (s, s)), 2),
        ValueError,
        r"max_pool: window must be .* It must be known before",
    ),
    (
        "padding",
        _traced(lambda s: mps.conv(X, W, padding=((s, s), (s, s))), 2),
        ValueError,
        r"padding must be .* known before tr",
    ),
    (
        "axis",
        _traced(lambda a: mps.softmax(X, axis=a), 1),
        ValueError,
        r"^softmax: axis must be .* It must be known before tracing",
    ),
    (
        "flag",
        _traced(lambda f: mps.lstm(STEPS, GATES, STATE, reverse=f), True),
        ValueError,
        r"^lstm: reverse must be .* traced v",
    ),
    (
        "word",
        lambda: mps.rnn(STEPS, GATES, STATE, reverse=jnp.array([True])),
        ValueError,
        r"^rnn: r must have shape|reverse must",
    ),
    (
        "an array",
        lambda: mps.conv(X, W, strides=jnp.array([2, 2])),
        ValueError,
        r"strides must be an integer or 2 of them",
    ),
    (
        "axes",
        lambda: mps.dropout(X, KEY, keep_probability=0.5, broadcast_axes=1.0),
        ValueError,
        r"broadcast_axes must be axes of",
    ),
    (
        "a shape of floats",
        lambda: mps.matrix_to_image(LOGITS, (2.0, 5)),
        TypeError,
        r"shape must be a tuple of integers, none bel",
    ),
    (
        "a shape of one number",
        lambda: mps.matrix_to_image(LOGITS, 10),
        TypeError,
        r"shape must be a tuple of integers.* got 10",
    ),
    (
        "padding of floats",
        lambda: mps.conv(X, W, padding=((1.5, 1), (1, 1))),
        ValueError,
        r"padding must be .* but got \(\(1\.5",
    ),
]
LOSSES = [
    (
        "classes as floats",
        lambda: mps.losses.softmax_cross_entropy(LOGITS, np.zeros(4, np.float32)),
        ValueError,
        r"^softmax_cross_entropy: dense labels must have shape \(4, 10\), but got \(4,\)\. Classes must be integers: "
        r"labels\.astype\(jnp\.int32\)\.",
    ),
    (
        "weight",
        lambda: mps.losses.softmax_cross_entropy(LOGITS, [0] * 4, weight=1j),
        TypeError,
        r"weight must be real numbers, but got c",
    ),
]
OPTIM = [
    (
        "step's order",
        lambda: mps.optim.step(SGD, PARAMS, PARAMS, SGD.init(PARAMS)),
        ValueError,
        r"^optim\.step: state must be what optimizer\.init gave, but got a tree like the gradients\. The order is "
        r"step\(optimizer, gradients, state, params\)\.",
    ),
    (
        "update's order",
        lambda: ADAM.update(PARAMS, PARAMS, ADAM.init(PARAMS)),
        TypeError,
        r"^adam: state must be the AdamState that init gave, but got \{'w': .*\. The order is "
        r"step\(optimizer, gradients, state, "
        r"params\) and update\(gradients, state, params\)\.",
    ),
    (
        "a tuple",
        lambda: mps.optim.step(SGD, PARAMS, (), PARAMS),
        TypeError,
        r"^sgd: state must be the SgdState .* got \(\)\. The",
    ),
    (
        "another state",
        lambda: ADAM.update(PARAMS, SGD.init(PARAMS)),
        TypeError,
        r"^adam: state must be the AdamState that init",
    ),
    (
        "no optimizer",
        lambda: mps.optim.step(PARAMS, PARAMS, ADAM.init(PARAMS), ADAM),
        TypeError,
        r"^optim\.step: optimizer must be one, such as mps\.optim\.adam\(1e-3\), but got \{'w': .*\. The "
        r"order is step\(opt",
    ),
    (
        "not called",
        lambda: mps.optim.step(mps.optim.adam, PARAMS, (), PARAMS),
        TypeError,
        r"but got the function adam\. The order",
    ),
    (
        "a net",
        lambda: ADAM.init(mps.nn.Dense(3)),
        TypeError,
        r"^adam: the leaves of params must be arrays, but got Dense\(.*\. Pass",
    ),
    (
        "words",
        lambda: ADAM.update({"w": "a"}, ADAM.init(PARAMS)),
        TypeError,
        r"^adam: a leaf of gradients must be an array, but g",
    ),
    (
        "dtype",
        lambda: mps.optim.adam(0.1, mu_dtype="float33"),
        TypeError,
        r"mu_dtype, if not None, must be a floating dtype, but",
    ),
    (
        "flag",
        lambda: mps.optim.rmsprop(0.1, centered="yes"),
        ValueError,
        r"^rmsprop: centered must be one of False, True, but got",
    ),
    (
        "clip",
        lambda: mps.optim.sgd(0.1, gradient_clip=(None, 1.0)),
        TypeError,
        r"^sgd: gradient_clip must be .* Use math\.inf for n",
    ),
    ("rate above all", lambda: mps.optim.sgd(10**400), ValueError, r"^sgd: learning_rate must be finite, but got 1000"),
    (
        "a key for a rate",
        lambda: mps.optim.sgd(KEY),
        TypeError,
        r"^sgd: learning_rate must be a number or a scalar array",
    ),
    (
        "a layer for a dtype",
        lambda: mps.optim.adam(0.1, mu_dtype=mps.nn.Dense(3)),
        TypeError,
        r"mu_dtype, if not None, must be a floating dtype, but got Dense",
    ),
    (
        "schedule",
        lambda: mps.optim.adam(lambda count: jnp.ones(3)).update(PARAMS, ADAM.init(PARAMS)),
        TypeError,
        r"^adam: what learning_rate\(count\) gives must be a number or a scalar array, but got an array "
        r"of shape \(3,\)",
    ),
]
OTHERS = [
    (
        "explain",
        lambda: mps.explain(X),
        TypeError,
        r"^explain: function must be callable, but got an array of .* Pass it and then",
    ),
    (
        "cache",
        lambda: mps.set_cache_limit("10"),
        TypeError,
        r"^set_cache_limit: programs must be an integer, but got '10'\. 1024 is",
    ),
    ("cache of all", lambda: mps.set_cache_limit(2**70), TypeError, r"^set_cache_limit: programs must be an integer"),
]
FAMILIES = {"layout": LAYOUT, "neurons": NEURONS, "arrays": ARRAYS, "static": STATIC, "losses": LOSSES}
FAMILIES |= {"optim order": OPTIM, "others": OTHERS}
