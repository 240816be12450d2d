"""Bad input: every message names the op, the rule, what came and the remedy; its words are tested."""

from __future__ import annotations

import errors_first_use
import errors_nn
import errors_norm
import errors_optim
import errors_recurrent
import jax
import jax.numpy as jnp
import pytest
from process import python

import jax_mps as mps


def zeros(*shape, dtype=jnp.float32):
    return jnp.zeros(shape, dtype)


X, W = zeros(2, 8, 8, 3), zeros(3, 3, 3, 8)

# What is wrong, the call, the error, its words.
DEVICE = [
    (
        "device",
        lambda: mps.set_device("gpu"),
        ValueError,
        r"set_device: the device must be one of auto, metal, cpu, ref",
    ),
    ("no metal", lambda: mps.set_device("metal"), ValueError, r"no Metal device. Use 'cpu'"),
    (
        "cache limit",
        lambda: mps.set_cache_limit(0),
        ValueError,
        r"set_cache_limit: programs must be at least 1, but got 0",
    ),
]
CONV = [
    (
        "channels of w",
        lambda: mps.conv(X, zeros(3, 3, 4, 8)),
        ValueError,
        r"conv: w must have shape \(H, W, in/groups, out\) with in/groups = 3, but got \(3, 3, 4, 8\)\. "
        r"Check groups=1 or the channel axis of w \(HWIO\)\.",
    ),
    ("rank of x", lambda: mps.conv(zeros(8, 8), W), ValueError, r"conv: x must be \[batch, height, width, channels\]"),
    ("rank of w", lambda: mps.conv(X, zeros(3, 3, 8)), ValueError, r"conv: w must have shape .* but got \(3, 3, 8\)"),
    (
        "1-D w",
        lambda: mps.conv(zeros(2, 8, 3), zeros(3, 4, 8)),
        ValueError,
        r"\(W, in/groups, out\) with in/groups = 3",
    ),
    (
        "integer x",
        lambda: mps.conv(zeros(2, 8, 8, 3, dtype=jnp.int32), W),
        TypeError,
        r"x must be floating, but got int32",
    ),
    (
        "dtype of w",
        lambda: mps.conv(X, W.astype(jnp.float16)),
        TypeError,
        r"conv: w must have the dtype of x, float32, but got float16\. Cast one",
    ),
    ("dtype of b", lambda: mps.conv(X, W, zeros(8, dtype=jnp.bfloat16)), TypeError, r"b must have the dtype of x"),
    ("shape of b", lambda: mps.conv(X, W, zeros(7)), ValueError, r"conv: b must have shape \(8,\), but got \(7,\)"),
    ("padding word", lambda: mps.conv(X, W, padding="FULL"), ValueError, r'padding must be "SAME", "VALID" .*\'FULL\''),
    ("padding pairs", lambda: mps.conv(X, W, padding=[(1, 1)]), ValueError, r"Pass 2 pairs or one of the words"),
    ("padding type", lambda: mps.conv(X, W, padding=3), ValueError, r"padding must be .* but got 3"),
    (
        "groups of x",
        lambda: mps.conv(X, W, groups=2),
        ValueError,
        r"conv: groups must divide x's 3 channels, but got 2",
    ),
    ("groups of w", lambda: mps.conv(X, zeros(3, 3, 1, 8), groups=3), ValueError, r"groups must divide w's 8 output"),
    ("groups", lambda: mps.conv(X, W, groups=0), ValueError, r"groups must be an integer .* at least 1, but got 0"),
    ("stride", lambda: mps.conv(X, W, strides=-1), ValueError, r"conv: strides must be .* at least 1, but got -1"),
    ("strides", lambda: mps.conv(X, W, strides=(1, 2, 1)), ValueError, r"strides must be an integer or 2 of them"),
    ("dilation", lambda: mps.conv(X, W, dilation=0.5), ValueError, r"dilation must be an integer .* but got 0.5"),
    ("neuron", lambda: mps.conv(X, W, neuron="mish"), ValueError, r"conv: neuron must be one of none, relu.*'mish'"),
    ("prelu", lambda: mps.conv(X, W, neuron="prelu"), ValueError, r"Use mps.prelu\(x, slopes\)"),
    (
        "neuron number",
        lambda: mps.conv(X, W, neuron=("elu", float("nan"))),
        ValueError,
        r"a must be finite, but got nan",
    ),
    (
        "window",
        lambda: mps.conv(X, zeros(9, 9, 3, 1), padding="VALID"),
        ValueError,
        r"window must fit the padded input",
    ),
    ("empty window", lambda: mps.conv(X, zeros(0, 3, 3, 1)), ValueError, r"conv: the window must not be empty"),
    (
        "accumulator",
        lambda: mps.conv(X, W, accumulator="double"),
        ValueError,
        r"accumulator must be one of 'float', 'h",
    ),
    ("transpose", lambda: mps.conv_transpose(X, zeros(3, 3, 4, 8)), ValueError, r"conv_transpose: w must have shape"),
]
DENSE = [
    (
        "shape of w",
        lambda: mps.dense(zeros(2, 3), zeros(4, 5)),
        ValueError,
        r"dense: w must have shape \(in, out\) with",
    ),
    ("scalar", lambda: mps.dense(jnp.float32(1), zeros(1, 5)), ValueError, r"dense: x must have shape \(\.\.\., in\)"),
    ("bias", lambda: mps.dense(zeros(2, 3), zeros(3, 5), zeros(4)), ValueError, r"one bias for each column of w"),
]
NEURON = [
    (
        "name",
        lambda: mps.neuron(X, "swish"),
        ValueError,
        r"neuron: neuron must be one of .*, but got 'swish'\. Check the",
    ),
    ("number", lambda: mps.elu(X, float("inf")), ValueError, r"neuron: a must be finite, but got inf"),
    ("not a number", lambda: mps.elu(X, "one"), TypeError, r"a must be a number, but got 'one'"),
    ("base", lambda: mps.exponential(X, 1.0, 0.0, -2.0), ValueError, r"the base c must be positive and not 1"),
    ("slopes", lambda: mps.prelu(X, zeros(4)), ValueError, r"prelu: slopes must have shape \(3,\), but got \(4,\)"),
    ("scalar", lambda: mps.prelu(jnp.float32(1), zeros(1)), ValueError, r"prelu: x must have a channel axis"),
]
IMAGE = zeros(1, 4, 4, 2)
POOL = [
    (
        "pool of integers",
        lambda: mps.max_pool(jnp.ones((1, 4, 4, 2), int), 2),
        TypeError,
        "max_pool: x must be floating",
    ),
    ("pool of a matrix", lambda: mps.avg_pool(jnp.ones((4, 4)), 2), ValueError, r"avg_pool: x must be \[batch, height"),
    (
        "pool of volumes",
        lambda: mps.l2_pool(IMAGE[None], 2),
        ValueError,
        r"l2_pool: x must be .* got \(1, 1, 4, 4, 2\)",
    ),
    (
        "empty window",
        lambda: mps.max_pool(IMAGE, 0),
        ValueError,
        "max_pool: window must be an integer or 2 of them, each at",
    ),
    ("window of 3 axes", lambda: mps.avg_pool(IMAGE, (2, 2, 2)), ValueError, r"window must .* got \(2, 2, 2\)"),
    ("window of a fraction", lambda: mps.max_pool(IMAGE, 1.5), ValueError, "window must be an integer"),
    (
        "pool with stride 0",
        lambda: mps.max_pool(IMAGE, 2, strides=0),
        ValueError,
        "strides must be .* at least 1, but got 0",
    ),
    ("pool with dilation 0", lambda: mps.max_pool(IMAGE, 2, dilation=(1, 0)), ValueError, "max_pool: dilation must be"),
    (
        "padding misspelt",
        lambda: mps.avg_pool(IMAGE, 2, padding="SAMEE"),
        ValueError,
        'padding must be "SAME", "VALID" or',
    ),
    ("one padding for 2 axes", lambda: mps.l2_pool(IMAGE, 2, padding=[(1, 1)]), ValueError, "l2_pool: padding must be"),
    (
        "window above the image",
        lambda: mps.max_pool(IMAGE, 5),
        ValueError,
        "the window must fit .* Use a smaller window",
    ),
    (
        "dilated window above the image",
        lambda: mps.max_pool(IMAGE, 3, dilation=2),
        ValueError,
        r"a window of \(5, 5\) over",
    ),
    (
        "max over padding alone",
        lambda: mps.max_pool(IMAGE, 2, padding=((2, 0), (0, 0))),
        ValueError,
        r"max_pool: every window must hold a pixel of x, but got .*\(4, 4\) .* Pad less than the window",
    ),
    (
        "dilated max over padding alone",
        lambda: mps.max_pool(IMAGE[:, :1, :1], 2, strides=1, dilation=2, padding=((1, 1), (1, 1))),
        ValueError,
        "max_pool: every window must hold a pixel of x",
    ),
    (
        "count_padding of a word",
        lambda: mps.avg_pool(IMAGE, 2, count_padding="yes"),
        ValueError,
        "count_padding must be one",
    ),
]
FAMILIES = {"device": DEVICE, "conv": CONV, "dense": DENSE, "neuron": NEURON, "pool": POOL}
FAMILIES.update(errors_optim.FAMILIES)
FAMILIES.update(errors_norm.FAMILIES)
FAMILIES.update(errors_recurrent.FAMILIES)
FAMILIES.update(errors_nn.FAMILIES)
FAMILIES.update(errors_first_use.FAMILIES)
ROWS = [pytest.param(*row[1:], id=f"{family}: {row[0]}") for family, rows in FAMILIES.items() for row in rows]


@pytest.mark.parametrize(("call", "error", "words"), ROWS)
def test_words(call, error, words):
    with pytest.raises(error, match=words):
        call()
    with pytest.raises(error, match=words):  # at trace time, before any device is touched
        jax.jit(call)()


def test_environment_variable():
    run = python("-c", "import jax_mps; jax_mps.device()", check=False, JAX_MPS_DEVICE="tpu")
    assert "JAX_MPS_DEVICE: the device must be one of auto" in run.stderr and run.returncode == 1
