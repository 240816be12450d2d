"""What is wrong with a layer, its params or another library's weights, the call, the error, its words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_mps import interop, nn

KEY, IMAGES, STEPS = jax.random.key(0), jnp.ones((2, 8, 8, 3)), jnp.ones((2, 9, 3))
NET = nn.Sequential(nn.Conv(4, 3, neuron="relu"), nn.MaxPool(2), nn.Flatten(), nn.Dense(10))
PARAMS, _ = NET.init(KEY, IMAGES.shape)
LSTM = nn.LSTM(5, layers=2)
CELLS, _ = LSTM.init(KEY, STEPS.shape)

MAKING = [
    (
        "a list of layers",
        lambda: nn.Sequential([nn.Dense(3)]),
        TypeError,
        r"^nn\.Sequential: layers must be layers of jax_mps\.nn, but got \[Dense\(.*\. A list is "
        r"unpacked, nn\.Sequential",
    ),
    (
        "a function for a layer",
        lambda: nn.Sequential(nn.Dense(3), jax.nn.relu),
        TypeError,
        r"but got the function relu\. .* an activation is nn\.Neuron\(name\)",
    ),
    ("a class for a layer", lambda: nn.Sequential(nn.Flatten), TypeError, r"but got the class Flatten"),
    (
        "no neuron's name",
        lambda: nn.Neuron(jax.nn.relu),
        TypeError,
        r"^nn\.Neuron: name must be a string, but got the fun",
    ),
    ("neuron misspelt", lambda: nn.Dense(10, neuron="rely"), ValueError, r"^nn\.Dense: neuron must be one of .*'rely'"),
    (
        "in and out",
        lambda: nn.Dense(3, 10),
        TypeError,
        r"^nn\.Dense: neuron must be None, a name .*, but got 10\. Pass",
    ),
    (
        "features",
        lambda: nn.Dense(10.0),
        ValueError,
        r"^nn\.Dense: features must be an integer of at least 1, but got 10\.0",
    ),
    (
        "channels",
        lambda: nn.Conv((8,), 3),
        ValueError,
        r"^nn\.Conv: channels must be an integer of at least 1, but got",
    ),
    ("groups", lambda: nn.Conv(8, 3, groups=0), ValueError, r"^nn\.Conv: groups must be an integer of at least 1"),
    ("units", lambda: nn.LSTM(-5), ValueError, r"^nn\.LSTM: units must be an integer of at least 1, but got -5"),
    ("layers", lambda: nn.GRU(5, 2.0), ValueError, r"^nn\.GRU: layers must be an integer of at least 1, but got 2\.0"),
    (
        "direction",
        lambda: nn.RNN(5, direction="both"),
        ValueError,
        r"^nn\.RNN: direction must be one of 'forward', .*'both'",
    ),
    (
        "a cell's neuron",
        lambda: nn.MGU(5, gate_neuron=jnp.tanh),
        TypeError,
        r"^nn\.MGU: neuron must be .* Pass \"tanh\"",
    ),
    (
        "reset",
        lambda: nn.GRU(5, reset="torch"),
        ValueError,
        r"^nn\.GRU: reset must be one of 'before', 'after', but got 't",
    ),
    ("memory", lambda: nn.GRU(5, reset="after", memory=True), ValueError, r'^nn\.GRU: memory goes with reset "before"'),
    (
        "no cell",
        lambda: nn.Recurrent(5),
        ValueError,
        r"^nn\.Recurrent: a layer must have a cell, .* Use nn\.LSTM, nn\.GRU",
    ),
    (
        "dtype",
        lambda: nn.Conv(8, 3, dtype=int),
        TypeError,
        r"^nn\.Conv: dtype must be a floating dtype, but got the class int",
    ),
    ("no dtype", lambda: nn.Dense(8, dtype="float33"), TypeError, r"^nn\.Dense: dtype must be .*, but got 'float33'"),
    ("bias", lambda: nn.Dense(8, bias="no"), ValueError, r"^nn\.Dense: bias must be one of False, True, but got 'no'"),
    (
        "JAX's initializer",
        lambda: nn.Dense(8, initializer=jax.nn.initializers.he_normal()),
        TypeError,
        r"^nn\.Dense: initializer must be a function of \(key, shape, fan_in, fan_out, dtype\), but got "
        r"the function init\. "
        r"One of JAX's fits as lambda key, shape, fan_in, fan_out, dtype: f\(key, shape, dtype\)",
    ),
    (
        "channels of a norm",
        lambda: nn.BatchNorm(64),
        ValueError,
        r"^nn\.BatchNorm: epsilon must be from 0 to 1, but got 64",
    ),
    (
        "dropout",
        lambda: nn.Dropout(2),
        ValueError,
        r"^nn\.Dropout: keep_probability must be in \(0, 1\], but got 2\. It is",
    ),
    (
        "dropout between",
        lambda: nn.LSTM(5, 2, keep_probability=None),
        TypeError,
        r"^nn\.LSTM: keep_probability must be a n",
    ),
]

INIT = [
    (
        "a number for a key",
        lambda: NET.init(0, IMAGES.shape),
        TypeError,
        r"^nn\.Sequential: key must be a JAX key, but got int32\. Make one: jax\.random\.key\(0\)",
    ),
    ("no key", lambda: nn.Dense(3).init(None, (2, 3)), TypeError, r"^nn\.Dense: key must be an array, but got None"),
    (
        "a generator of NumPy",
        lambda: LSTM.init(np.random.default_rng(0), STEPS.shape),
        TypeError,
        r"^nn\.LSTM: key must be an array, but got Generator",
    ),
    (
        "many keys",
        lambda: NET.init(jax.random.split(KEY, 2), IMAGES.shape),
        ValueError,
        r"^nn\.Sequential: key must be a single key, but got keys of shape \(2,\)",
    ),
    (
        "a batch of None",
        lambda: NET.init(KEY, (None, 8, 8, 3)),
        TypeError,
        r"^nn\.Sequential: input_shape must be a tuple of integers, none below 0, but got \(None, 8, 8, 3\)",
    ),
    ("a number for a shape", lambda: NET.init(KEY, 784), TypeError, r"input_shape must be a tuple of .*, but got 784"),
    ("a batch of -1", lambda: nn.MaxPool(2).init(KEY, (-1, 8, 8, 3)), TypeError, r"^nn\.MaxPool: input_shape must be"),
    (
        "rank for Conv",
        lambda: nn.Conv(8, 3).init(KEY, (2, 192)),
        ValueError,
        r"^nn\.Conv: input_shape must be \[batch, height, width, channels\] or .*, but got \(2, 192\)\. "
        r"It includes the b",
    ),
    (
        "rank for LSTM",
        lambda: LSTM.init(KEY, (9, 3)),
        ValueError,
        r"^nn\.LSTM: input_shape must be \[batch, time, feat",
    ),
    ("rank for BatchNorm", lambda: nn.BatchNorm().init(KEY, (3,)), ValueError, r"^nn\.BatchNorm: input_shape must be"),
    (
        "rank for Dense",
        lambda: nn.Dense(3).init(KEY, ()),
        ValueError,
        r"^nn\.Dense: input_shape must be \[\.\.\., features\]",
    ),
    (
        "an initializer's key",
        lambda: nn.he_normal(0, (3, 4), 3, 4, jnp.float32),
        TypeError,
        r"^nn\.he_normal: key must be",
    ),
]

APPLY = [
    (
        "the other order",
        lambda: NET.apply(IMAGES, PARAMS),
        TypeError,
        r"^nn\.Sequential: params must be a tuple with an entry for each of 4 layers, but got an array "
        r"of float32\[2, 8, 8, "
        r"3\]\. Pass the first result of init; the order is apply\(params, x\)",
    ),
    (
        "the whole of init",
        lambda: NET.apply((PARAMS, (2, 10)), IMAGES),
        TypeError,
        r"each of 4 layers, but got 2 of them",
    ),
    (
        "Flax's params",
        lambda: NET.apply({"params": PARAMS}, IMAGES),
        TypeError,
        r"each of 4 layers, but got \{'params'",
    ),
    (
        "another layer's params",
        lambda: nn.Dense(10).apply({"kernel": jnp.ones((3, 10))}, jnp.ones((2, 3))),
        TypeError,
        r"^nn\.Dense: params must be a dict with w, but got a dict of kernel\. Pass the first result of init",
    ),
    (
        "no params",
        lambda: nn.Conv(8, 3).apply((), IMAGES),
        TypeError,
        r"^nn\.Conv: params must be a dict with w, but got \(\)",
    ),
    (
        "no statistics",
        lambda: nn.BatchNorm().apply({}, IMAGES),
        TypeError,
        r"^nn\.BatchNorm: params must be a dict with mean, variance, gamma, beta, but got a dict of \. Pass",
    ),
    (
        "traced training",
        lambda: jax.jit(lambda t: NET.apply(PARAMS, IMAGES, training=t))(True),
        ValueError,
        r"^nn\.Sequential: training must be one of False, True, but got a traced value of .*\. It must "
        r"be known before trac",
    ),
    (
        "a number for dropout's key",
        lambda: nn.Sequential(nn.Dropout()).apply(({},), IMAGES, key=0, training=True),
        TypeError,
        r"^nn\.Sequential: key must be a JAX key, but got int32",
    ),
    (
        "a scalar",
        lambda: nn.Flatten().apply({}, 1.0),
        ValueError,
        r"^nn\.Flatten: x must have a batch axis, but got a scal",
    ),
    (
        "params of one layer",
        lambda: LSTM.apply(CELLS[0], STEPS),
        TypeError,
        r"^nn\.LSTM: params must be a tuple with an entry for each of 2 layers",
    ),
    (
        "params of another direction",
        lambda: nn.LSTM(5, 2, "add").apply(CELLS, STEPS),
        TypeError,
        r"^nn\.LSTM: params must be a dict with forward, backward, but got a dict of forward",
    ),
    (
        "a state alone",
        lambda: LSTM.run(CELLS, STEPS, jnp.ones((2, 5))),
        TypeError,
        r"^nn\.LSTM: states must be a tuple of 2, each a dict of forward, but got .*\. Pass the second result",
    ),
    (
        "a state of the GRU's kind",
        lambda: LSTM.run(CELLS, STEPS, ({"forward": jnp.ones((2, 5))},) * 2),
        ValueError,
        r"^nn\.LSTM: a state must be a pair \(h, c\), but got .* of float32\[2,5\]|float32\[2, 5\]",
    ),
]

_W, _R = np.ones((20, 3), np.float32), np.ones((20, 5), np.float32)
INTEROP = [
    (
        "a module",
        lambda: interop.from_torch("lstm", object()),
        TypeError,
        r"^from_torch: weights must be a dict with arrays, but got <object .*\. Pass module\.state_dict\(\)",
    ),
    (
        "half a module",
        lambda: interop.from_torch("lstm", {"weight_ih_l0": _W}),
        TypeError,
        r"^from_torch: weights must be a dict with weight_ih_l0, weight_hh_l0, but got a dict of "
        r"weight_ih_l0\. Pass the whole",
    ),
    (
        "another cell",
        lambda: interop.from_torch("gru", {"weight_ih_l0": _W, "weight_hh_l0": _R}),
        ValueError,
        r"^from_torch: a gru must have matrices of 3 gates, .*, but got \(3, 20\) and \(5, 20\)\. Check cell",
    ),
    ("no array", lambda: interop.from_keras("lstm", ["a", "b"]), TypeError, r"a weight must be an array"),
    (
        "a layer of Keras",
        lambda: interop.from_keras("lstm", object()),
        ValueError,
        r"^from_keras: weights must be \[kernel, recurrent_kernel\] or with bias, .* Pass layer\.get_weights\(\)",
    ),
    (
        "gates of Keras",
        lambda: interop.from_keras("lstm", [_W, _R]),
        ValueError,
        r"^from_keras: a lstm must have matrices of 4",
    ),
    (
        "nothing of Flax",
        lambda: interop.from_flax("lstm", None),
        TypeError,
        r"^from_flax: weights must be a dict .* got None",
    ),
    (
        "nnx by half",
        lambda: interop.from_flax("lstm", {"dense_h": {}}),
        TypeError,
        r"^from_flax: weights must .* with dense_i",
    ),
    (
        "nnx without kernel",
        lambda: interop.from_flax("lstm", {"dense_h": {"bias": 0}, "dense_i": {"kernel": _W}}),
        TypeError,
        r"^from_flax: weights must be a dict with kernel, but got a dict of bias",
    ),
    (
        "one layer",
        lambda: interop.to_torch("lstm", CELLS[0]),
        TypeError,
        r"^to_torch: params must be a tuple with a dict",
    ),
    (
        "cell to torch",
        lambda: interop.to_torch("gru", CELLS),
        ValueError,
        r"^to_torch: a gru must have matrices of 3 gates",
    ),
    (
        "all layers",
        lambda: interop.to_keras("lstm", CELLS),
        TypeError,
        r"^to_keras: .* Pass those of one direction, params\[0\]",
    ),
    (
        "a layer to Flax",
        lambda: interop.to_flax("lstm", CELLS[0]),
        TypeError,
        r"^to_flax: .* with w, r, but got a dict of f",
    ),
]

FAMILIES = {"nn": MAKING, "nn init": INIT, "nn apply": APPLY, "interop": INTEROP}
