"""What is wrong with a call of a recurrent layer or an image copy, the call, the error, its words."""

from __future__ import annotations

import jax.numpy as jnp

import jax_mps as mps
from jax_mps import nn

_x, _w, _r = jnp.ones((2, 4, 3)), jnp.ones((3, 20)), jnp.ones((5, 20))
_w3, _r3 = jnp.ones((3, 15)), jnp.ones((5, 15))
_h = jnp.ones((2, 5))


def _lstm(**options):
    return mps.lstm(**{"x": _x, "w": _w, "r": _r, **options})


def _gru(**options):
    return mps.gru(**{"x": _x, "w": _w3, "r": _r3, **options})


RECURRENT = [
    (
        "rank of x",
        lambda: _lstm(x=_h),
        ValueError,
        r"^lstm: x must be \[batch, time, features\], but got \(2, 5\)\. Re",
    ),
    ("integers", lambda: _lstm(x=jnp.ones((2, 4, 3), int)), TypeError, r"^lstm: x must be floating, but got int32"),
    (
        "shape of r",
        lambda: _lstm(r=_r3),
        ValueError,
        r"^lstm: r must have shape \(H, 4H\), but got \(5, 15\)\. Put the",
    ),
    (
        "shape of r, one gate",
        lambda: mps.rnn(_x, _w, _r),
        ValueError,
        r"^rnn: r must have shape \(H, H\), but got \(5, 20",
    ),
    (
        "shape of w",
        lambda: _gru(w=_w),
        ValueError,
        r"^gru: w must have shape \(3, 15\), but got \(3, 20\)\. Check the feat",
    ),
    (
        "shape of b",
        lambda: _lstm(b=jnp.ones(5)),
        ValueError,
        r"^lstm: b must have shape \(20,\), but got \(5,\)\. Pass one",
    ),
    (
        "dtype of r",
        lambda: _lstm(r=_r.astype(jnp.float16)),
        TypeError,
        r"^lstm: r must have the dtype of x, float32, but",
    ),
    (
        "dtype of h0",
        lambda: _lstm(h0=_h.astype(jnp.float16)),
        TypeError,
        r"^lstm: h0 must have the dtype of x, float32",
    ),
    (
        "shape of h0",
        lambda: _gru(h0=_h[:1]),
        ValueError,
        r"^gru: h0 must have shape \(2, 5\), but got \(1, 5\)\. Pass one",
    ),
    ("shape of c0", lambda: _lstm(c0=_h[0]), ValueError, r"^lstm: c0 must have shape \(2, 5\), but got \(5,\)"),
    ("peephole", lambda: _lstm(peephole=_h), ValueError, r"^lstm: peephole must have shape \(3, 5\), but got \(2, 5\)"),
    (
        "peephole matrices",
        lambda: _lstm(peephole=jnp.ones((3, 5, 4))),
        ValueError,
        r"^lstm: peephole must have shape \(3, 5, 5\), but got \(3, 5, 4\)\. Check the number of units",
    ),
    (
        "memory",
        lambda: _gru(memory=_h),
        ValueError,
        r"^gru: memory must have shape \(5, 5\), but got \(2, 5\)\. Check the number of units",
    ),
    (
        "memory after",
        lambda: _gru(memory=jnp.ones((5, 5)), reset="after"),
        ValueError,
        r'^gru: memory goes with reset="before", but got reset="after"\. Drop memory, or reset before',
    ),
    (
        "lengths",
        lambda: _lstm(lengths=jnp.ones(3, int)),
        ValueError,
        r"^lstm: lengths must have shape \(2,\), but got \(3,",
    ),
    (
        "floating lengths",
        lambda: _lstm(lengths=_h[:, 0]),
        TypeError,
        r"^lstm: lengths must be integers, but got float32\.",
    ),
    ("reverse", lambda: _lstm(reverse="yes"), ValueError, r"^lstm: reverse must be one of False, True, but got 'yes'"),
    (
        "neuron",
        lambda: mps.rnn(_x, _w[:, :5], _r[:, :5], neuron="sin"),
        ValueError,
        r"^rnn: neuron must be one of none,",
    ),
    (
        "reset",
        lambda: _gru(reset="never"),
        ValueError,
        r"^gru: reset must be one of 'before', 'after', but got 'never'",
    ),
    (
        "recurrent bias before",
        lambda: _gru(recurrent_bias=jnp.ones(5)),
        ValueError,
        r'^gru: recurrent_bias goes with reset="after", but got reset="before"\. Add it to b, or reset after',
    ),
    (
        "recurrent bias",
        lambda: _gru(recurrent_bias=jnp.ones(4), reset="after"),
        ValueError,
        r"^gru: recurrent_bias must have shape \(5,\), but got \(4,\)",
    ),
    ("p", lambda: _gru(gate_p_norm=0), ValueError, r"^gru: gate_p_norm must be positive, but got 0\.0\. Use 1"),
    ("flip", lambda: _gru(flip_output_gates=2), ValueError, r"^gru: flip_output_gates must be one of False, True, but"),
    ("p of mgu", lambda: mps.mgu(_x, _w, _r, gate_p_norm="x"), TypeError, r"^mgu: gate_p_norm must be a number, but"),
    (
        "direction",
        lambda: nn.GRU(5, direction="both").apply((), _x),
        ValueError,
        r"^nn\.GRU: direction must be one of 'forward', 'backward', 'concatenate', 'add', but got 'both'",
    ),
]
IMAGE = [
    (
        "rank of image",
        lambda: mps.image_to_matrix(_h),
        ValueError,
        r"^image_to_matrix: x must be \[batch, height, width, channels\] or .* but got \(2, 5\)\. Reshape x",
    ),
    ("layout", lambda: mps.image_to_matrix(_x, layout="NHWC"), ValueError, r"layout must be one of 'CHW', 'HWC', but"),
    (
        "layout back",
        lambda: mps.matrix_to_image(_h, (5, 1), layout=""),
        ValueError,
        r"^matrix_to_image: layout must be",
    ),
    (
        "shape",
        lambda: mps.matrix_to_image(_h, (5,)),
        ValueError,
        r"^matrix_to_image: shape must be \(height, width, cha",
    ),
    (
        "size",
        lambda: mps.matrix_to_image(_h, (2, 2)),
        ValueError,
        r"x must have shape \(batch, 4\), but got \(2, 5\)\. Che",
    ),
]
FAMILIES = {"recurrent": RECURRENT, "image": IMAGE}
