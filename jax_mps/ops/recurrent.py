"""Recurrent layers over whole sequences: LSTM, GRU, MGU and the single-gate RNN."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_mps._types import Neuron
from jax_mps.ops import _check
from jax_mps.ops._recurrent import GRU, LSTM, MGU, RNN, Ops
from jax_mps.ops.neuron import Spec, spec


def _neuron(op: str, value: Any) -> Spec:
    return spec(op, value) or ("none", 0.0, 0.0, 0.0)


def _optional(op: str, name: str, value: Any, shape: tuple[int, ...], x: jax.Array, remedy: str) -> jax.Array:
    if value is None:
        return jnp.zeros(shape, x.dtype)
    value = _check.same_dtype(op, name, value, x)
    _check.shape(op, name, value, shape, remedy)
    return value


def _lengths(op: str, lengths: Any, x: jax.Array) -> jax.Array:
    if lengths is None:
        return jnp.full(x.shape[:1], x.shape[1], jnp.int32)
    lengths = _check.array(op, "lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        _check.fail(op, "lengths must be integers", lengths.dtype, "Pass the number of steps of each row.", TypeError)
    _check.shape(op, "lengths", lengths, x.shape[:1], "Pass one number of steps for each row of x.")
    return lengths.astype(jnp.int32)


def _run(
    ops: Ops,
    x: Any,
    w: Any,
    r: Any,
    b: Any,
    states: tuple[Any, ...],
    lengths: Any,
    extras: dict[str, tuple[Any, tuple[int | None, ...]]],
    attributes: dict[str, Any],
) -> tuple[jax.Array, ...]:
    """Checks what all cells share, and runs; `extras`: name to the array and its shape (None: units)."""
    name, gates = ops.cell.name, ops.cell.gates
    x = _check.floating(name, "x", x)
    if x.ndim != 3:
        _check.fail(name, "x must be [batch, time, features]", x.shape, "Reshape x, or add the axis that is missing.")
    w, r = (_check.same_dtype(name, n, v, x) for n, v in (("w", w), ("r", r)))
    if r.ndim != 2 or r.shape[1] != gates * r.shape[0]:
        many = "H" if gates == 1 else f"{gates}H"
        rule = f"r must have shape (H, {many})"
        _check.fail(name, rule, r.shape, "Put the gates beside each other in the last axis.")
    hidden = r.shape[0]
    _check.shape(name, "w", w, (x.shape[2], r.shape[1]), "Check the features of x and the gates of r.")
    b = _optional(name, "b", b, (r.shape[1],), x, "Pass one bias for each gate of each unit; add up a pair of them.")
    state_shape = (x.shape[0], hidden)
    states = tuple(
        _optional(name, f"{n}0", v, state_shape, x, "Pass one state for each row of x.")
        for n, v in zip("hc", states, strict=False)
    )
    arrays = [
        _optional(name, n, v, tuple(a or hidden for a in axes), x, "Check the number of units.")
        for n, (v, axes) in extras.items()
    ]
    for flag in ("reverse", "recompute"):
        attributes[flag] = _check.flag(name, flag, attributes[flag])
    return ops.forward(x, _lengths(name, lengths, x), *states, w, r, b, *arrays, **attributes)


def lstm(
    x: ArrayLike,
    w: ArrayLike,
    r: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
    *,
    peephole: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    recompute: bool = False,
    gate_neuron: Neuron = "sigmoid",
    cell_neuron: Neuron = "tanh",
    output_neuron: Neuron = "tanh",
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Runs a long short-term memory over whole sequences.

    With the gates i, f, g, o side by side in w, r and b::

        i, f, g = s(x w_i + h r_i + p_i c + b_i), s(x w_f + h r_f + p_f c + b_f), t(x w_g + h r_g + b_g)
        c' = f c + i g
        o = s(x w_o + h r_o + p_o c' + b_o)
        h' = o t(c')

    Equivalent to::

        def step(state, x):
            h, c = state
            i, f, g, o = jnp.split(x @ w + h @ r + b, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h
        (h, c), y = lax.scan(step, (h0, c0), jnp.moveaxis(x, 1, 0))
        y = jnp.moveaxis(y, 0, 1)

    Args:
        x: [batch, time, features]; float32, float16 or bfloat16 (others run on XLA).
        w: [features, 4 units], of x's dtype, like all arrays but lengths.
        r: [units, 4 units].
        b: None or [4 units].
        h0, c0: None (zeros) or [batch, units]: the states to start from. The last states of a chunk of a sequence,
            given to the next, carry it on.
        peephole: None or [3, units]: p_i, p_f, p_o; or matrices [3, units, units], by which each gate sees the whole
            cell: c @ p_i in place of p_i c. The output gate sees the new cell, as in MPS.
        lengths: None or [batch] integers: rows end after so many steps and keep their state from there on, in y too.
            A row of length 0 keeps its first state. With `reverse`, a row starts at its own last step, and y is h0
            beyond it.
        reverse: go from the last step to the first; y stays in the order of x.
        recompute: for the gradient, keep one number a unit and step (the cell) instead of five, and compute the gates
            again.
        gate_neuron, cell_neuron, output_neuron: s and the two t, any of `neuron`'s. Sigmoid and tanh without matrices
            of peepholes are the fastest: their steps go through one pass, all others through a product and the rest.

    Returns:
        y [batch, time, units], the h of every step, and the last (h, c), each [batch, units]; all differentiable.

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> y, (h, c) = mps.lstm(jnp.ones((2, 5, 3)), jnp.zeros((3, 16)), jnp.zeros((4, 16)), jnp.ones(16))
        >>> y.shape, h.shape, bool(jnp.all(y[:, -1] == h))
        ((2, 5, 4), (2, 4), True)

    Reference: MPSLSTMDescriptor, MPSRNNMatrixTrainingLayer; Hochreiter and Schmidhuber, "Long short-term memory", 1997.
    """
    neurons = tuple(_neuron("lstm", n) for n in (gate_neuron, cell_neuron, output_neuron))
    extras: Any = {}
    if peephole is not None:
        axes = (3, None, None) if _check.array("lstm", "peephole", peephole).ndim == 3 else (3, None)
        extras = {"peephole": (peephole, axes)}
    attributes = {"neurons": neurons, "reverse": reverse, "recompute": recompute}
    y, h, c = _run(LSTM, x, w, r, b, (h0, c0), lengths, extras, attributes)
    return y, (h, c)


def gru(
    x: ArrayLike,
    w: ArrayLike,
    r: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    reset: Literal["before", "after"] = "before",
    recurrent_bias: ArrayLike | None = None,
    memory: ArrayLike | None = None,
    gate_p_norm: float = 1.0,
    flip_output_gates: bool = False,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    recompute: bool = False,
    gate_neuron: Neuron = "sigmoid",
    cell_neuron: Neuron = "tanh",
) -> tuple[jax.Array, jax.Array]:
    """Runs gated recurrent units over whole sequences.

    With the gates z (update), r (reset) and n (candidate) side by side in w, r and b, and p = gate_p_norm::

        z, r = s(x w_z + h r_z + b_z), s(x w_r + h r_r + b_r)
        n = t(x w_n + (r h) r_n + b_n)             reset "before"; with memory, + (z h) memory
        n = t(x w_n + r (h r_n + b2) + b_n)        reset "after"
        h' = (1 - z**p)**(1/p) n + z h             or, with flip_output_gates, (1 - z**p)**(1/p) h + z n

    PyTorch, Flax and cuDNN have reset "after"; MPS and the original paper "before".

    Equivalent to (reset "before", p = 1)::

        def step(h, x):
            z, r = jnp.split(jax.nn.sigmoid(x @ w[:, :2*H] + h @ r_[:, :2*H] + b[:2*H]), 2, axis=-1)
            n = jnp.tanh(x @ w[:, 2*H:] + (r * h) @ r_[:, 2*H:] + b[2*H:])
            h = (1 - z) * n + z * h
            return h, h
        h, y = lax.scan(step, h0, jnp.moveaxis(x, 1, 0))

    Args:
        x: [batch, time, features]; float32, float16 or bfloat16 (others run on XLA).
        w: [features, 3 units], of x's dtype, like all arrays but lengths.
        r: [units, 3 units].
        b: None or [3 units].
        h0: None (zeros) or [batch, units].
        reset: "before" or "after": where the reset gate stands.
        recurrent_bias: None or [units], b2; for reset "after" only.
        memory: None or [units, units], by which what the update gate keeps of the state enters the candidate too; for
            reset "before" only. MPS's unit of two matrices: r_n is its recurrent, this its input gate's one.
        gate_p_norm: p, positive.
        flip_output_gates: whether z keeps the old state (False) or takes the new one.
        lengths, reverse, recompute: as for `lstm`; with recompute the gradient keeps y alone.
        gate_neuron, cell_neuron: s and t, any of `neuron`'s; sigmoid and tanh without memory are the fastest.

    Returns:
        y [batch, time, units], the h of every step, and the last h [batch, units]; both differentiable.

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> y, h = mps.gru(jnp.ones((2, 5, 3)), jnp.zeros((3, 12)), jnp.zeros((4, 12)), reset="after")
        >>> y.shape, h.shape
        ((2, 5, 4), (2, 4))

    Reference: MPSGRUDescriptor; Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014.
    """
    attributes = _gated("gru", gate_neuron, cell_neuron, gate_p_norm, flip_output_gates, reverse, recompute)
    attributes["reset"] = _check.choice("gru", "reset", reset, ("before", "after"))
    if reset == "before" and recurrent_bias is not None:
        _check.fail("gru", 'recurrent_bias goes with reset="after"', 'reset="before"', "Add it to b, or reset after.")
    if reset == "after" and memory is not None:
        _check.fail("gru", 'memory goes with reset="before"', 'reset="after"', "Drop memory, or reset before.")
    extras: Any = {"recurrent_bias": (recurrent_bias, (None,))} if reset == "after" else {}
    if memory is not None:
        extras = {"memory": (memory, (None, None))}
    y, h = _run(GRU, x, w, r, b, (h0,), lengths, extras, attributes)
    return y, h


def mgu(
    x: ArrayLike,
    w: ArrayLike,
    r: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    gate_p_norm: float = 1.0,
    flip_output_gates: bool = False,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    recompute: bool = False,
    gate_neuron: Neuron = "sigmoid",
    cell_neuron: Neuron = "tanh",
) -> tuple[jax.Array, jax.Array]:
    """Runs minimally gated units over whole sequences: a GRU whose one gate also resets.

    With the gates z and n side by side in w, r and b, and p = gate_p_norm::

        z = s(x w_z + h r_z + b_z)
        n = t(x w_n + (z h) r_n + b_n)
        h' = (1 - z**p)**(1/p) n + z h             or, with flip_output_gates, (1 - z**p)**(1/p) h + z n

    Equivalent to (p = 1)::

        def step(h, x):
            z = jax.nn.sigmoid(x @ w[:, :H] + h @ r[:, :H] + b[:H])
            n = jnp.tanh(x @ w[:, H:] + (z * h) @ r[:, H:] + b[H:])
            h = (1 - z) * n + z * h
            return h, h
        h, y = lax.scan(step, h0, jnp.moveaxis(x, 1, 0))

    Args:
        x: [batch, time, features]; float32, float16 or bfloat16 (others run on XLA).
        w: [features, 2 units], of x's dtype, like all arrays but lengths.
        r: [units, 2 units].
        b: None or [2 units].
        h0: None (zeros) or [batch, units].
        gate_p_norm, flip_output_gates, gate_neuron, cell_neuron: as for `gru`; the paper's unit has flipped gates.
        lengths, reverse, recompute: as for `lstm`; with recompute the gradient keeps y alone.

    Returns:
        y [batch, time, units], the h of every step, and the last h [batch, units]; both differentiable.

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> y, h = mps.mgu(jnp.ones((2, 5, 3)), jnp.zeros((3, 8)), jnp.zeros((4, 8)), flip_output_gates=True)
        >>> y.shape, h.shape
        ((2, 5, 4), (2, 4))

    Reference: MPSGRUDescriptor with a memory weight in place of the output gate's recurrent one; Zhou et al., "Minimal
    gated unit for recurrent neural networks", 2016.
    """
    attributes = _gated("mgu", gate_neuron, cell_neuron, gate_p_norm, flip_output_gates, reverse, recompute)
    y, h = _run(MGU, x, w, r, b, (h0,), lengths, {}, attributes)
    return y, h


def rnn(
    x: ArrayLike,
    w: ArrayLike,
    r: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    neuron: Neuron = "tanh",
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    recompute: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Runs a recurrent network of a single gate over whole sequences.

    h' = f(x w + h r + b).

    Equivalent to::

        def step(h, x):
            h = f(x @ w + h @ r + b)
            return h, h
        h, y = lax.scan(step, h0, jnp.moveaxis(x, 1, 0))

    Args:
        x: [batch, time, features]; float32, float16 or bfloat16 (others run on XLA).
        w: [features, units], of x's dtype, like all arrays but lengths.
        r: [units, units].
        b: None or [units].
        h0: None (zeros) or [batch, units].
        neuron: f, any of `neuron`'s.
        lengths, reverse, recompute: as for `lstm`; with recompute the gradient keeps y alone.

    Returns:
        y [batch, time, units], the h of every step, and the last h [batch, units]; both differentiable.

    Raises:
        ValueError, TypeError: for shapes, dtypes or options that break these rules.

    Example:
        >>> import jax.numpy as jnp, jax_mps as mps
        >>> y, h = mps.rnn(jnp.ones((1, 3, 1)), jnp.ones((1, 1)), jnp.ones((1, 1)), neuron="none")
        >>> y.tolist()
        [[[1.0], [2.0], [3.0]]]

    Reference: MPSRNNSingleGateDescriptor.
    """
    attributes = {"neurons": (_neuron("rnn", neuron),), "reverse": reverse, "recompute": recompute}
    y, h = _run(RNN, x, w, r, b, (h0,), lengths, {}, attributes)
    return y, h


def _gated(op: str, gate: Any, cell: Any, p: float, flip: bool, reverse: bool, recompute: bool) -> dict[str, Any]:
    p = _check.number(op, "gate_p_norm", p)
    if p <= 0:
        _check.fail(op, "gate_p_norm must be positive", p, "Use 1 for the plain gates.")
    flip = _check.flag(op, "flip_output_gates", flip)
    neurons = (_neuron(op, gate), _neuron(op, cell))
    return {"neurons": neurons, "p": p, "flip": flip, "reverse": reverse, "recompute": recompute}
