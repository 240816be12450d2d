"""The recurrent cells, and for each of them three ops over whole sequences: forward, training and gradient.

One engine runs them all: the inputs' share of the gates for every step at once, then step after step the share of the
state before. Operands, in this order, of batch B, T steps, I inputs, H hidden units and k gates::

    x [B,T,I], lengths [B] int32, h0 [B,H] (and c0 [B,H] for the LSTM), w [I,kH], r [H,kH], b [kH], extras

Training is forward with what the gradient needs: the cells of every step [T,B,H] (LSTM) and, unless they are to be
computed again, the gates [T,B,gH], both with time first and in the dtype that sums are kept in. Where all neurons are
sigmoid and tanh, and no weights are matrices beside r, the gates are what the neurons give, of which the derivative
can be had; else what they take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_mps.ops._number import along_last, wide
from jax_mps.ops.neuron import neuron_meaning
from jax_mps.primitive import Op, op

Arrays = tuple[Any, ...]


class Cell(NamedTuple):
    """A cell: `step(state, z, r, extras, **attributes)` -> the new state, the gates [B,gH]; z is x w + b."""

    name: str
    gates: int
    states: int  # 1 (h) or 2 (h, c)
    step: Callable[..., tuple[Arrays, Any]]


class Ops(NamedTuple):
    """What runs a cell."""

    cell: Cell
    forward: Op
    training: Op
    gradient: Op


def _product(h: Any, r: Any) -> Any:
    return lax.dot(h, r)


def _is_plain(neurons: Any, matrices: bool = False) -> bool:
    gate, *others = neurons
    return not matrices and gate[0] == "sigmoid" and all(n[:3] == ("tanh", 1.0, 1.0) for n in others)


def _peep(c: Any, peephole: Any) -> Any:
    return _product(c, peephole) if peephole.ndim == 2 else along_last(peephole, 2) * c


def _lstm_step(state: Arrays, z: Any, r: Any, extras: Arrays, neurons: Any) -> tuple[Arrays, Any]:
    (h, c), (gate, cell, output) = state, neurons
    i, f, g, o = jnp.split(z + _product(h, r), 4, axis=1)
    pi, pf, po = extras[0] if extras else (None, None, None)
    i = i if pi is None else i + _peep(c, pi)
    f = f if pf is None else f + _peep(c, pf)
    new = neuron_meaning(f, gate) * c + neuron_meaning(i, gate) * neuron_meaning(g, cell)
    o = o if po is None else o + _peep(new, po)  # it sees the new cell
    sums = i, f, g, o
    gates = [neuron_meaning(v, n) for v, n in zip(sums, (gate, gate, cell, gate), strict=True)]
    is_plain = _is_plain(neurons, matrices=pi is not None and pi.ndim == 2)
    return (gates[3] * neuron_meaning(new, output), new), jnp.concatenate(gates if is_plain else sums, 1)


def _keep(z: Any, p: float) -> Any:
    return 1 - z if p == 1 else (1 - z**p) ** (1 / p)


def _blend(h: Any, z: Any, n: Any, p: float, flip: bool) -> Any:
    return _keep(z, p) * h + z * n if flip else _keep(z, p) * n + z * h


def _gru_step(
    state: Arrays, z: Any, r: Any, extras: Arrays, neurons: Any, reset: str, p: float, flip: bool
) -> tuple[Arrays, Any]:
    (h,), (gate, cell) = state, neurons
    size = h.shape[1]
    sums = z[:, : 2 * size] + _product(h, r[:, : 2 * size])
    gates = neuron_meaning(sums, gate)
    update, forget = jnp.split(gates, 2, axis=1)
    candidate, memory = r[:, 2 * size :], []
    if reset == "after":
        memory = [_product(h, candidate) + along_last(extras[0], 2)]
        v = z[:, 2 * size :] + forget * memory[0]
    else:
        v = z[:, 2 * size :] + _product(forget * h, candidate)
        v = v + _product(update * h, extras[0]) if extras else v
    n = neuron_meaning(v, cell)
    is_plain = _is_plain(neurons, matrices=reset == "before" and bool(extras))
    kept = [gates, *memory, n] if is_plain else [sums, *memory, v]
    return (_blend(h, update, n, p, flip),), jnp.concatenate(kept, 1)


def _mgu_step(state: Arrays, z: Any, r: Any, extras: Arrays, neurons: Any, p: float, flip: bool) -> tuple[Arrays, Any]:
    (h,), (gate, cell) = state, neurons
    size = h.shape[1]
    sums = z[:, :size] + _product(h, r[:, :size])
    update = neuron_meaning(sums, gate)
    v = z[:, size:] + _product(update * h, r[:, size:])
    n = neuron_meaning(v, cell)
    kept = [update, n] if _is_plain(neurons) else [sums, v]
    return (_blend(h, update, n, p, flip),), jnp.concatenate(kept, 1)


def _rnn_step(state: Arrays, z: Any, r: Any, extras: Arrays, neurons: Any) -> tuple[Arrays, Any]:
    z = z + _product(state[0], r)
    return (neuron_meaning(z, neurons[0]),), z  # the sum, not the neuron of it: any neuron's derivative can be had


def _scan(cell: Cell, *operands: Any, reverse: bool, **attributes: Any) -> tuple[Any, Arrays, Arrays, Any]:
    """All states of h [B,T,H], the last states, the states but h of every step, and the gates [T,B,gH]."""
    x, lengths, *rest = operands
    state, (w, r, b, *extras) = tuple(rest[: cell.states]), rest[cell.states :]
    z = lax.dot_general(x, w, (((2,), (0,)), ((), ()))) + along_last(b, 3)

    def step(state: Arrays, now: Any) -> Any:
        z, t = now
        new, gates = cell.step(state, z, r, tuple(extras), **attributes)
        alive = lax.expand_dims(t < lengths, (1,))
        new = tuple(jnp.where(alive, after, before) for after, before in zip(new, state, strict=True))
        return new, (new, gates)

    steps = (jnp.moveaxis(z, 1, 0), jnp.arange(x.shape[1], dtype=jnp.int32))
    last, ((h, *others), gates) = lax.scan(step, state, steps, reverse=reverse)
    return jnp.moveaxis(h, 0, 1), last, tuple(others), gates


def _widen(operands: Arrays) -> Arrays:
    return tuple(v.astype(wide(v.dtype)) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in operands)


def _narrow(values: Arrays, dtype: Any) -> Arrays:
    return tuple(v.astype(dtype) for v in values)


def _ops(cell: Cell) -> Ops:
    results = 1 + cell.states  # y and the last states

    @op(cell.name, batch=range(2 + cell.states), vmap="merge")
    def forward(*operands: Any, recompute: bool, **attributes: Any) -> Arrays:
        """The states h of all steps, and the last states; `recompute` is for the gradient."""
        y, last, _, _ = _scan(cell, *_widen(operands), **attributes)
        return _narrow((y, *last), operands[0].dtype)

    @op(f"{cell.name}_training")
    def training(*operands: Any, recompute: bool, **attributes: Any) -> Arrays:
        """Forward's results, then what the gradient needs of all steps."""
        y, last, others, gates = _scan(cell, *_widen(operands), **attributes)
        return *_narrow((y, *last), operands[0].dtype), *others, *(() if recompute else (gates,))

    @op(f"{cell.name}_gradient", partial=True)
    def gradient(*operands: Any, recompute: bool, **attributes: Any) -> Arrays:
        """The gradients of all operands but lengths, or of those that somebody reads.

        Takes the gradients of forward's results, forward's operands, then y and what training kept, which spares a
        kernel the steps of the forward pass.
        """
        kept = cell.states + (0 if recompute else 1)
        cotangents, inputs = operands[:results], operands[results : len(operands) - kept]
        x, lengths, *others = _widen(inputs)

        def run(x: Any, *others: Any) -> Arrays:
            y, last, _, _ = _scan(cell, x, lengths, *others, **attributes)
            return (y, *last)

        return _narrow(jax.vjp(run, x, *others)[1](_widen(cotangents)), inputs[0].dtype)

    @forward.forward
    def _(*operands: Any, **attributes: Any) -> Any:
        values = training(*operands, **attributes)
        return values[:results], (operands, values[0], values[results:])

    @forward.gradient
    def _(residuals: Any, cotangents: Any, **attributes: Any) -> Any:
        operands, y, kept = residuals
        dx, *others = gradient(*cotangents, *operands, y, *kept, **attributes)
        return dx, None, *others

    return Ops(cell, forward, training, gradient)


LSTM = _ops(Cell("lstm", 4, 2, _lstm_step))
GRU = _ops(Cell("gru", 3, 1, _gru_step))
MGU = _ops(Cell("mgu", 2, 1, _mgu_step))
RNN = _ops(Cell("rnn", 1, 1, _rnn_step))
