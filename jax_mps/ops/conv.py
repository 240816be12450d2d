"""Convolution in one and two dimensions, its two gradients, and its transpose."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_mps._types import Ints, Neuron, Padding
from jax_mps.ops import _check, _crop
from jax_mps.ops._number import along_last, default_precision, precision_attribute, wide, widen
from jax_mps.ops.neuron import Spec, fused_forward, neuron_gradient_op, neuron_meaning, neuron_op, spec
from jax_mps.ops.reduce import bias_gradient_op
from jax_mps.primitive import op

_LAYOUTS = {3: ("NWC", "WIO", "NWC"), 4: ("NHWC", "HWIO", "NHWC")}


def _convolve(
    x: Any, w: Any, *, strides: Any, padding: Any, dilation: Any, groups: int, accumulator: str, precision: Any = None
) -> Any:
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=_LAYOUTS[x.ndim],
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=x.dtype if accumulator == "half" else wide(x.dtype),
    )


@op("conv", batch=[0], vmap="merge")
def conv_op(x: Any, w: Any, *b: Any, neuron: Spec | None, **geometry: Any) -> Any:
    """neuron(x * w + b)."""
    y = _convolve(x, w, **geometry)
    y = y + along_last(b[0].astype(y.dtype), y.ndim) if b else y
    return (y if neuron is None else neuron_meaning(y, neuron)).astype(x.dtype)


@op("conv_data_gradient", batch=[0], vmap="merge")
def conv_data_gradient_op(dy: Any, w: Any, *, spatial: tuple[int, ...], **geometry: Any) -> Any:
    """The transpose of the convolution in x; `spatial` is x's."""
    channels = w.shape[-2] * geometry["groups"]
    x = jax.ShapeDtypeStruct((dy.shape[0], *spatial, channels), wide(dy.dtype))
    w = w.astype(x.dtype)
    return jax.linear_transpose(lambda x: _convolve(x, w, **geometry), x)(dy.astype(x.dtype))[0].astype(dy.dtype)


@op("conv_weight_gradient")
def conv_weight_gradient_op(x: Any, dy: Any, *, window: tuple[int, ...], **geometry: Any) -> Any:
    """The transpose of the convolution in w; `window` is w's spatial size."""
    dtype = wide(x.dtype)
    w = jax.ShapeDtypeStruct((*window, x.shape[-1] // geometry["groups"], dy.shape[-1]), dtype)
    x = widen(x)
    return jax.linear_transpose(lambda w: _convolve(x, w, **geometry), w)(dy.astype(dtype))[0].astype(dy.dtype)


@conv_op.forward
def _(x: Any, w: Any, *b: Any, neuron: Spec | None, **geometry: Any) -> Any:
    y, mask = fused_forward(lambda neuron: conv_op(x, w, *b, neuron=neuron, **geometry), neuron)
    return y, (x, w, b, mask)


@conv_op.gradient
def _(residuals: Any, cotangents: Any, *, neuron: Spec | None, **geometry: Any) -> Any:
    x, w, b, mask = residuals
    dy = cotangents[0] if neuron is None else neuron_gradient_op(cotangents[0], mask, neuron=neuron)
    dx = conv_data_gradient_op(dy, w, spatial=x.shape[1:-1], **geometry)
    dw = conv_weight_gradient_op(x, dy, window=w.shape[:-2], **geometry)
    return (dx, dw, bias_gradient_op(dy)) if b else (dx, dw)


@conv_data_gradient_op.gradient
def _(residuals: Any, cotangents: Any, *, spatial: Any, **geometry: Any) -> Any:
    (dy, w), _ = residuals
    g = cotangents[0]
    return (
        conv_op(g, w, neuron=None, **geometry),
        conv_weight_gradient_op(g, dy, window=w.shape[:-2], **geometry),
    )


@conv_weight_gradient_op.gradient
def _(residuals: Any, cotangents: Any, *, window: Any, **geometry: Any) -> Any:
    (x, dy), _ = residuals
    g = cotangents[0]
    return (
        conv_data_gradient_op(dy, g, spatial=x.shape[1:-1], **geometry),
        conv_op(x, g, neuron=None, **geometry),
    )


# The three by any padding: kernels take none that is negative.


def convolution(x: Any, w: Any, *b: Any, padding: _crop.Pairs, **attributes: Any) -> Any:
    """`conv_op`, by negative padding of a part of x."""
    cut, padding = _crop.parts(padding)
    return conv_op(_crop.crop(x, cut), w, *b, padding=padding, **attributes)


def data_gradient(dy: Any, w: Any, *, spatial: tuple[int, ...], padding: _crop.Pairs, **attributes: Any) -> Any:
    """`conv_data_gradient_op`; zero at the pixels that negative padding cut away."""
    cut, padding = _crop.parts(padding)
    dx = conv_data_gradient_op(dy, w, spatial=_crop.sizes(spatial, cut), padding=padding, **attributes)
    return _crop.uncrop(dx, cut)


def weight_gradient(x: Any, dy: Any, *, padding: _crop.Pairs, **attributes: Any) -> Any:
    """`conv_weight_gradient_op`, by negative padding of a part of x."""
    cut, padding = _crop.parts(padding)
    return conv_weight_gradient_op(_crop.crop(x, cut), dy, padding=padding, **attributes)


def conv(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    padding: Padding = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    neuron: Neuron = None,
    accumulator: Literal["float", "half"] = "float",
) -> jax.Array:
    """Convolves images or sequences with a bank of filters, adds a bias and applies a neuron.

    y[n,i,j,o] = f(b[o] + sum over p, q, c of x[n, si*i + di*p - low_i, sj*j + dj*q - low_j, c] * w[p,q,c,o]):
    cross-correlation, zeros outside x.

    On the CPU, 3x3 and 5x5 filters of stride 1 over many channels take Winograd's minimal filtering, with 2.2 to 4
    times fewer multiplications. In float32 y is as exact as by plain sums; errors of the gradients stay below 1e-5 of
    the largest element (plain sums: 1e-6). A NaN also reaches results up to 3 pixels beyond its window.
    `jax.default_matmul_precision("highest")` around the call, or `JAX_MPS_WINOGRAD=0` in the environment, keeps to
    plain sums.

    Equivalent to::

        y = lax.conv_general_dilated(x, w, strides, padding, rhs_dilation=dilation,
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)
        y = f(y + b)

    Args:
        x: [batch, height, width, in] or [batch, width, in]; float32, float16 or bfloat16 (others run on XLA).
        w: [height, width, in/groups, out] or [width, in/groups, out], of x's dtype. PyTorch's OIHW is
            jnp.transpose(w, (2, 3, 1, 0)) here; as it stands it is refused unless its axes happen to fit.
        b: None or [out], of x's dtype.
        strides, dilation: one integer, or one for each spatial axis, at least 1.
        padding: "SAME" (output = ceil(input / stride), odd pixel at the high end), "VALID", or a (low, high) pair
            for each spatial axis; a negative number cuts pixels of x away.
        groups: in and out channels are cut into this many groups, each convolved by itself; groups = in is a
            depthwise convolution.
        neuron: None, a name such as "relu", or a name with its parameters such as ("leaky_relu", 0.1); see `neuron`.
        accumulator: "float" sums in float32; "half" lets a device keep the sums of float16 in float16, forward and in
            both gradients, which rounds each partial sum to 11 bits. The Metal device does; the CPU device and XLA
            keep float32 sums. It changes nothing for other dtypes.

    Returns:
        [batch, height', width', out] or [batch, width', out].

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.conv(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 8)), strides=2, neuron="relu").shape
        (1, 2, 2, 8)

    Reference: MPSCNNConvolution, MPSCNNConvolutionGradient; Lavin and Gray, Fast Algorithms for Convolutional Neural
    Networks, 2015.
    """
    x, w, attributes = _geometry("conv", x, w, strides, padding, dilation, groups, accumulator)
    operands = [x, w]
    if b is not None:
        operands.append(_bias("conv", b, x, w.shape[-1]))
    return convolution(*operands, neuron=spec("conv", neuron), **attributes)


def conv_transpose(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    padding: Padding = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    neuron: Neuron = None,
    accumulator: Literal["float", "half"] = "float",
) -> jax.Array:
    """The transpose of `conv` in its input, as an upsampling layer: spatial sizes grow by `strides`.

    Zeros are put between the pixels of x, and the result is convolved with the weights as given (not rotated).

    Equivalent to::

        y = lax.conv_transpose(x, w, strides, padding, rhs_dilation=dilation)
        y = f(y + b)

    with, for groups > 1, input channels [g*in/groups, (g+1)*in/groups) feeding output channels
    [g*out/groups, (g+1)*out/groups).

    Args:
        x: [batch, height, width, in] or [batch, width, in].
        w: [height, width, in/groups, out] or [width, in/groups, out], of x's dtype.
        b: None or [out].
        strides: the upsampling factor, one integer or one for each spatial axis.
        padding: "SAME" (output = input * stride), "VALID" (output = input * stride + max(window - stride, 0)), or the
            (low, high) padding of the zero-filled input for each spatial axis.
        dilation, groups, neuron, accumulator: as for `conv`.

    Returns:
        [batch, height', width', out] or [batch, width', out].

    Raises:
        ValueError, TypeError: as for `conv`.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.conv_transpose(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 8)), strides=2).shape
        (1, 8, 8, 8)

    Reference: MPSCNNConvolutionTranspose.
    """
    name = "conv_transpose"
    x, w, attributes = _geometry(name, x, w, strides, "VALID", dilation, groups, accumulator, check_window=False)
    rank, groups = x.ndim - 2, attributes["groups"]
    windows = _dilated(w.shape[:rank], attributes["dilation"])
    pairs = []
    for i, (k, s) in enumerate(zip(windows, attributes["strides"], strict=True)):
        if isinstance(padding, str) and padding.upper() == "SAME":
            total = k + s - 2
            low = k - 1 if s > k - 1 else -(-total // 2)
            pairs.append((low, total - low))
        elif isinstance(padding, str) and padding.upper() == "VALID":
            pairs.append((k - 1, k + s - 2 + max(k - s, 0) - (k - 1)))
        else:
            pairs.append(_check.padding(name, padding, x.shape[1:-1], windows, (1,) * rank)[i])
    # As the data gradient of a convolution whose kernel is rotated and has in and out swapped: its output is our input.
    spatial = tuple(
        (n - 1) * s + 1 + low + high - k + 1
        for n, s, (low, high), k in zip(x.shape[1:-1], attributes["strides"], pairs, windows, strict=True)
    )
    _check.pixels(name, "the result", spatial)
    if min(spatial) < 1:
        _check.fail(name, "the window must fit the padded input", f"output size {spatial}", 'Use padding="SAME".')
    attributes["padding"] = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(windows, pairs, strict=True))
    rotated = jnp.flip(w, tuple(range(rank)))
    window, (fan_in, out) = w.shape[:rank], w.shape[rank:]
    split = rotated.reshape(*window, fan_in, groups, out // groups)
    swapped = jnp.moveaxis(split, -1, rank).reshape(*window, out // groups, fan_in * groups)
    if groups > 1:  # the groups must be the outer part of the conv's output channels
        swapped = jnp.swapaxes(
            jnp.moveaxis(split, -1, rank).reshape(*window, out // groups, fan_in, groups), -1, -2
        ).reshape(*window, out // groups, fan_in * groups)
    y = data_gradient(x, swapped, spatial=spatial, **attributes)
    if b is not None:  # in float32, and so the sums of b's gradient
        y = (widen(y) + along_last(widen(_bias(name, b, x, out)), y.ndim)).astype(y.dtype)
    chosen = spec(name, neuron)
    return y if chosen is None else neuron_op(y, neuron=chosen)


def _dilated(window: Any, dilation: Any) -> tuple[int, ...]:
    return tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))


def _bias(name: str, b: Any, x: jax.Array, channels: int) -> jax.Array:
    b = _check.same_dtype(name, "b", b, x)
    _check.shape(name, "b", b, (channels,), "Pass one bias for each output channel of w.")
    return b


def _geometry(
    name: str,
    x: Any,
    w: Any,
    strides: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    accumulator: str,
    check_window: bool = True,
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    x = _check.floating(name, "x", x)
    w = _check.same_dtype(name, "w", w, x)
    if x.ndim not in _LAYOUTS:
        _check.fail(
            name, "x must be [batch, height, width, channels] or [batch, width, channels]", x.shape, "Add the axis."
        )
    if x.ndim == 3 and w.ndim == 4:
        rule = f"with w of shape {w.shape}, x must be [batch, height, width, channels]"
        _check.fail(name, rule, x.shape, "For one image pass x[None].")
    rank = x.ndim - 2
    groups = _check.count(name, "groups", groups)
    words = "(H, W, in/groups, out)" if rank == 2 else "(W, in/groups, out)"
    if x.shape[-1] % groups:
        _check.fail(name, f"groups must divide x's {x.shape[-1]} channels", groups, "Choose a divisor.")
    fan_in = x.shape[-1] // groups
    if w.ndim != x.ndim or w.shape[-2] != fan_in:
        _check.fail(
            name, f"w must have shape {words} with in/groups = {fan_in}", w.shape, _of_layout(x.shape, w.shape, groups)
        )
    if w.shape[-1] % groups:
        _check.fail(name, f"groups must divide w's {w.shape[-1]} output channels", groups, "Choose a divisor.")
    if 0 in w.shape[:rank]:
        _check.fail(name, "the window must not be empty", w.shape, "Check the shape of w.")
    strides = _check.integers(name, "strides", strides, rank)
    dilation = _check.integers(name, "dilation", dilation, rank)
    windows = _dilated(w.shape[:rank], dilation)
    pairs = _check.padding(name, padding, x.shape[1:-1], windows, strides)
    if check_window:
        _check.window_fits(name, x.shape[1:-1], windows, pairs)
        _crop.check(name, x.shape[1:-1], pairs)
    _check.choice(name, "accumulator", accumulator, ("float", "half"))
    attributes = {
        "strides": strides,
        "padding": pairs,
        "dilation": dilation,
        "groups": groups,
        "accumulator": accumulator if x.dtype == jnp.float16 else "float",
        **precision_attribute(default_precision()),
    }
    return x, w, attributes


def _of_layout(x: tuple[int, ...], w: tuple[int, ...], groups: int) -> str:
    """What to do about the shapes of x and w that do not go together: which of them looks like another layout."""
    rank = len(x) - 2
    layouts = ("NHWC", "NCHW", "HWIO") if rank == 2 else ("NWC", "NCW", "WIO")
    if len(w) == len(x) and x[1] == w[-2] * groups:
        channels_first = f"if it is {layouts[1]}, pass jnp.moveaxis(x, 1, -1)"
        return f"x is taken as {layouts[0]}, so it has {x[-1]} channels; {channels_first}."
    if len(w) == len(x) == 4 and w[1] * groups == x[-1] and w[2] == w[3]:
        return "w is taken as HWIO; if it is OIHW, pass jnp.transpose(w, (2, 3, 1, 0))."
    return f"Check groups={groups} or the channel axis of w ({layouts[2]})."
