"""The neurons (activations) of MPS: one table, one op, one function for each name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_mps._types import NeuronName
from jax_mps.ops import _check
from jax_mps.ops._number import along_last, widen
from jax_mps.primitive import op

Spec = tuple[str, float, float, float]  # name, a, b, c: how a neuron stands in programs


class _Row(NamedTuple):
    function: Callable[..., Any]  # of x, a, b, c
    defaults: tuple[float, float, float]


def _base(c: float) -> float:
    return 1.0 if c == -1 else math.log(c)


# Not JAX's own gradient of abs: it is 1 at 0, and what it makes of softsign cancels where x is large.
@jax.custom_jvp
def _absolute(x: Any) -> Any:
    return jnp.abs(x)


_absolute.defjvps(lambda dx, y, x: jnp.sign(x) * dx)


@jax.custom_jvp
def _softsign(x: Any) -> Any:
    return x / (1 + jnp.abs(x))


_softsign.defjvps(lambda dx, y, x: dx / jnp.square(1 + _absolute(x)))


def _unit(t: Any) -> Any:
    # Not jnp.clip, whose gradient at 0 and 1 is halved.
    return jnp.where(t < 0, 0, jnp.where(t > 1, 1, t))


_NEURONS = {
    "none": _Row(lambda x, a, b, c: x, (0, 0, 0)),
    "relu": _Row(lambda x, a, b, c: _leaky(x, a), (0, 0, 0)),
    "linear": _Row(lambda x, a, b, c: a * x + b, (1, 0, 0)),
    "sigmoid": _Row(lambda x, a, b, c: jax.nn.sigmoid(x), (0, 0, 0)),
    "hard_sigmoid": _Row(lambda x, a, b, c: _unit(a * x + b), (0.2, 0.5, 0)),
    "tanh": _Row(lambda x, a, b, c: a * jnp.tanh(b * x), (1, 1, 0)),
    "absolute": _Row(lambda x, a, b, c: _absolute(x), (0, 0, 0)),
    "softplus": _Row(lambda x, a, b, c: a * jax.nn.softplus(b * x), (1, 1, 0)),
    "softsign": _Row(lambda x, a, b, c: _softsign(x), (0, 0, 0)),
    "elu": _Row(lambda x, a, b, c: jnp.where(x > 0, x, a * jnp.expm1(jnp.where(x > 0, 0, x))), (1, 0, 0)),
    "relun": _Row(lambda x, a, b, c: jnp.where(_leaky(x, a) >= b, b, _leaky(x, a)), (0, 6, 0)),
    "power": _Row(lambda x, a, b, c: (a * x + b) ** c if c else jnp.ones_like(x), (1, 0, 1)),
    "exponential": _Row(lambda x, a, b, c: jnp.exp((a * x + b) * _base(c)), (1, 0, -1)),
    "logarithm": _Row(lambda x, a, b, c: jnp.log(a * x + b) / _base(c), (1, 0, -1)),
    "gelu": _Row(lambda x, a, b, c: jax.nn.gelu(x, approximate=False), (0, 0, 0)),
}
_ALIASES = {name.replace("_", ""): name for name in _NEURONS}


def _leaky(x: Any, a: float) -> Any:
    # NaN stays NaN, and -infinity with a = 0 becomes 0.
    return jnp.where(x <= 0, a * x if a else 0, x)


def neuron_meaning(x: Any, neuron: Spec) -> Any:
    """f(x), computed in float32 for half-precision x."""
    name, a, b, c = neuron
    wide = widen(x)
    return _NEURONS[name].function(wide, a, b, c).astype(x.dtype)


neuron_op = op("neuron", batch=[0], vmap="prepend")(neuron_meaning)


@op("neuron_gradient", batch=[0, 1], vmap="prepend")
def neuron_gradient_op(dy: Any, x: Any, *, neuron: Spec) -> Any:
    """dy * f'(x)."""
    return jax.vjp(lambda x: neuron_meaning(x, neuron), x)[1](dy)[0]


@neuron_op.gradient
def _(residuals: Any, cotangents: Any, *, neuron: Spec) -> tuple[Any]:
    (x,), _ = residuals
    return (neuron_gradient_op(cotangents[0], x, neuron=neuron),)


@op("prelu", batch=[0], vmap="prepend")
def prelu_op(x: Any, slopes: Any) -> Any:
    """x where it is positive, else slopes * x."""
    return jnp.where(x > 0, x, along_last(slopes, x.ndim) * x)


@op("prelu_gradient")
def prelu_gradient_op(dy: Any, x: Any, slopes: Any) -> tuple[Any, Any]:
    """The gradients of x and slopes."""
    dx, dslopes = jax.vjp(prelu_op.meaning, widen(x), widen(slopes))[1](widen(dy))
    return dx.astype(x.dtype), dslopes.astype(slopes.dtype)


@prelu_op.gradient
def _(residuals: Any, cotangents: Any) -> Any:
    return prelu_gradient_op(cotangents[0], *residuals[0])


def fused_forward(run: Callable[[Spec | None], Any], neuron: Spec | None) -> tuple[Any, Any]:
    """Under differentiation: `run(neuron)`, and the array from which `neuron_gradient_op` reads the mask.

    relu's can be read off its output; for any other neuron the op runs without it, and the neuron after.
    """
    if neuron is None:
        return run(None), None
    if neuron[0] == "relu" and neuron[1] >= 0:
        y = run(neuron)
        return y, y
    x = run(None)
    return neuron_op(x, neuron=neuron), x


def spec(op_name: str, value: Any) -> Spec | None:
    """A neuron as a user gives it to another op: None, "relu", or ("leaky_relu", 0.1) with its a, b, c."""
    if value is None:
        return None
    if not isinstance(value, str | tuple | list) or not value or not isinstance(value[0], str):
        known = str(getattr(value, "__name__", "")).replace("_", "") in (*_ALIASES, "leakyrelu")
        name = f'"{value.__name__}"' if known else 'its name, as in neuron="relu"'
        rule = 'neuron must be None, a name such as "relu", or a name with its numbers'
        remedy = f"Pass {name}, or apply the function to the result."
        _check.fail(op_name, rule, _check.told(value), remedy, TypeError)
    name, *numbers = (value,) if isinstance(value, str) else value
    if len(numbers) > 3:
        _check.fail(op_name, "a neuron has at most three numbers, a, b and c", f"{len(numbers)} of them", "Leave some.")
    keys = dict(zip("abc", numbers, strict=False))
    result = _spec(op_name, name, **keys)
    return None if result[0] == "none" else result


def _spec(op_name: str, name: Any, a: float | None = None, b: float | None = None, c: float | None = None) -> Spec:
    key = str(name).lower().replace("_", "")
    if key == "leakyrelu":
        key, a = "relu", 0.01 if a is None else a
    if key == "prelu":
        _check.fail(op_name, "a neuron of numbers", "'prelu', which learns its slopes", "Use mps.prelu(x, slopes).")
    if key not in _ALIASES:
        known = ", ".join([*_NEURONS, "leaky_relu"])
        _check.fail(op_name, f"neuron must be one of {known}", _check.told(name), "Check the spelling.")
    row = _NEURONS[_ALIASES[key]]
    given = zip("abc", (a, b, c), row.defaults, strict=True)
    values = [float(default) if v is None else _check.number(op_name, n, v) for n, v, default in given]
    if _ALIASES[key] in ("exponential", "logarithm") and values[2] != -1 and (values[2] <= 0 or values[2] == 1):
        _check.fail(op_name, "the base c must be positive and not 1, or -1 for e", values[2], "Check c.")
    return (_ALIASES[key], *values)  # type: ignore[return-value]


def neuron(
    x: ArrayLike, name: NeuronName, a: float | None = None, b: float | None = None, c: float | None = None
) -> jax.Array:
    """Applies one of MPS's neurons to each element.

    ============  ==========================================  ============
    name          f(x)                                        defaults
    ============  ==========================================  ============
    none          x
    relu          x > 0 ? x : a x                             a=0
    linear        a x + b                                     a=1, b=0
    sigmoid       1 / (1 + exp(-x))
    hard_sigmoid  clamp(a x + b, 0, 1)                        a=.2, b=.5
    tanh          a tanh(b x)                                 a=1, b=1
    absolute      abs(x)
    softplus      a log(1 + exp(b x))                         a=1, b=1
    softsign      x / (1 + abs(x))
    elu           x > 0 ? x : a (exp(x) - 1)                  a=1
    relun         min(x > 0 ? x : a x, b)                     a=0, b=6
    power         (a x + b) ** c                              a=1, b=0, c=1
    exponential   c ** (a x + b), c = -1 for e                a=1, b=0, c=-1
    logarithm     log(a x + b) in base c, c = -1 for e        a=1, b=0, c=-1
    gelu          x (1 + erf(x / sqrt 2)) / 2
    ============  ==========================================  ============

    The 16th, PReLU, learns its slopes: see `prelu`. Derivatives are the true ones; at a kink of relu, prelu and elu the
    lower side's, as in jax.nn.relu (MPS's header gives the upper side's), of relun also 0 at b, of hard_sigmoid a
    where a x + b is 0 or 1, and of absolute 0, these two as in MPS's header.

    Args:
        x: an array of any shape; float32, float16 or bfloat16 (other floating dtypes run on XLA).
        name: from the table; "leaky_relu" is relu with a = 0.01.
        a, b, c: the parameters.

    Returns:
        An array like x.

    Raises:
        ValueError: for an unknown name or a parameter that is not finite.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.neuron(jnp.array([-1.0, 7.0]), "relun").tolist()
        [0.0, 6.0]

    Reference: MPSCNNNeuron, MPSNNNeuronDescriptor.
    """
    x = _check.floating("neuron", "x", x)
    return neuron_op(x, neuron=_spec("neuron", name, a, b, c))


def prelu(x: ArrayLike, slopes: ArrayLike) -> jax.Array:
    """x where it is positive, else its channel's slope times x; the slopes have a gradient too.

    Equivalent to::

        jnp.where(x > 0, x, slopes * x)

    Args:
        x: [..., channels].
        slopes: [channels], of x's dtype.

    Returns:
        An array like x.

    Raises:
        ValueError: if slopes is not one number a channel.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> mps.prelu(jnp.array([[-2.0, 2.0]]), jnp.array([0.5, 0.5])).tolist()
        [[-1.0, 2.0]]

    Reference: MPSCNNNeuronPReLU; He et al., "Delving deep into rectifiers", 2015.
    """
    x = _check.floating("prelu", "x", x)
    slopes = _check.same_dtype("prelu", "slopes", slopes, x)
    if x.ndim == 0:
        _check.fail("prelu", "x must have a channel axis", "a scalar", "Reshape x.")
    _check.shape("prelu", "slopes", slopes, x.shape[-1:], "Pass one slope for each channel.")
    return prelu_op(x, slopes)


class _Named(Protocol):
    """A function of one neuron."""

    def __call__(
        self, x: ArrayLike, a: float | None = None, b: float | None = None, c: float | None = None
    ) -> jax.Array: ...


def _named(name: NeuronName, signature: str) -> _Named:
    def function(x: ArrayLike, a: float | None = None, b: float | None = None, c: float | None = None) -> jax.Array:
        return neuron(x, name, a, b, c)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"The neuron {name}({signature}) of each element of x; see `neuron` for formula and errors."
    return function


relu = _named("relu", "x, a=0")
leaky_relu = _named("leaky_relu", "x, a=0.01")
linear = _named("linear", "x, a=1, b=0")
sigmoid = _named("sigmoid", "x")
hard_sigmoid = _named("hard_sigmoid", "x, a=0.2, b=0.5")
tanh = _named("tanh", "x, a=1, b=1")
absolute = _named("absolute", "x")
softplus = _named("softplus", "x, a=1, b=1")
softsign = _named("softsign", "x")
elu = _named("elu", "x, a=1")
relun = _named("relun", "x, a=0, b=6")
power = _named("power", "x, a=1, b=0, c=1")
exponential = _named("exponential", "x, a=1, b=0, c=-1")
logarithm = _named("logarithm", "x, a=1, b=0, c=-1")
gelu = _named("gelu", "x")
