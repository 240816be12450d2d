"""Stacks of recurrent layers in one or both directions, with dropout between them and states that can be carried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

import jax_mps as mps
from jax_mps._types import ArrayTree, DType, Neuron, ShapeLike
from jax_mps.nn._checks import check_keep, check_weights, entries, one_for_each, told_shape
from jax_mps.nn.layers import Initializer, Layer, Shape, Weights, xavier_uniform
from jax_mps.ops import _check
from jax_mps.ops.neuron import spec

State = jax.Array | tuple[jax.Array, jax.Array]  # h, or (h, c)
_DIRECTIONS = {
    "forward": ("forward",),
    "backward": ("backward",),
    "concatenate": ("forward", "backward"),
    "add": ("forward", "backward"),
}


@dataclass(frozen=True)
class Recurrent(Layer):
    """What LSTM, GRU, MGU and RNN share: [batch, time, features] to [batch, time, units].

    Args:
        units: the size of the state.
        layers: how many lie on top of each other.
        direction: "forward", "backward", or both ways with the results beside each other ("concatenate": 2 units
            features) or summed ("add").
        keep_probability: of the dropout on what every layer but the last gives, in training.
        bias: whether there are biases; they begin at 0.
        recompute: for the gradient, compute the gates again instead of keeping them.
        initializer: of the weights; each gate's matrix counts by itself.
    """

    units: int
    layers: int = 1
    direction: Literal["forward", "backward", "concatenate", "add"] = "forward"
    keep_probability: float = 1.0
    bias: bool = True
    recompute: bool = False
    initializer: Initializer = xavier_uniform
    dtype: DType = jnp.float32

    _gates = 0  # of the cell

    def __post_init__(self) -> None:
        name = self._name()
        if not self._gates:
            _check.fail(
                name, "a layer must have a cell", "what the cells share", "Use nn.LSTM, nn.GRU, nn.MGU or nn.RNN."
            )
        check_weights(name, self, units=self.units, layers=self.layers)
        check_keep(name, self.keep_probability)
        self._directions()
        for field in fields(self):
            if field.name.endswith("neuron"):
                spec(name, getattr(self, field.name))

    def init(self, key: jax.Array, input_shape: ShapeLike) -> tuple[tuple[dict[str, Weights], ...], Shape]:
        """Params: for each layer {"forward": {"w", "r", "b"}, "backward": ...} with the directions that it has."""
        directions, name = self._directions(), self._name()
        key, input_shape = _check.key(name, key), told_shape(name, input_shape, 3, "[batch, time, features]")
        features, params = input_shape[-1], []
        for i in range(self.layers):
            keys = jax.random.split(jax.random.fold_in(key, i), len(directions))
            params.append({d: self._init_cell(k, features) for d, k in zip(directions, keys, strict=True)})
            features = self.units * (2 if self.direction == "concatenate" else 1)
        return tuple(params), (*input_shape[:-1], features)

    def apply(
        self, params: ArrayTree, x: jax.Array, *, key: jax.Array | None = None, training: bool = False
    ) -> jax.Array:
        """The last layer's states of every step."""
        return self.run(params, x, key=key, training=training)[0]

    def run(
        self,
        params: ArrayTree,
        x: jax.Array,
        states: Sequence[Mapping[str, State]] | None = None,
        *,
        lengths: ArrayLike | None = None,
        key: jax.Array | None = None,
        training: bool = False,
    ) -> tuple[jax.Array, tuple[dict[str, State], ...]]:
        """The last layer's states of every step, and the last states of every layer.

        Those, given as `states` with the next chunk of the sequences, carry them on (forward; the backward direction
        of a chunk cannot know the next one, and is best given none). `lengths`: [batch] steps of each row.
        """
        name, directions = self._name(), self._directions()
        drop = _check.flag(name, "training", training) and float(self.keep_probability) < 1 and self.layers > 1
        if drop and key is None:
            _check.fail(name, "training with dropout needs a key", "None", "Pass key=jax.random.key(step).")
        key = None if key is None else _check.key(name, key)
        params = one_for_each(name, params, self.layers)
        if states is not None and not _are_states(states, self.layers, directions):
            rule = f"states must be a tuple of {self.layers}, each a dict of {', '.join(directions)}"
            _check.fail(name, rule, _check.told(states), "Pass the second result of run.", TypeError)
        last: list[dict[str, Any]] = []
        for i, layer in enumerate(params):
            entries(name, layer, *directions)
            if i > 0 and drop and key is not None:
                x = mps.dropout(x, jax.random.fold_in(key, i), keep_probability=self.keep_probability)
            runs = {
                d: self._cell(
                    layer[d],
                    x,
                    None if states is None else states[i][d],
                    lengths=lengths,
                    reverse=d == "backward",
                    recompute=self.recompute,
                )
                for d in directions
            }
            outputs = [runs[d][0] for d in directions]
            if self.direction == "concatenate":
                x = jnp.concatenate(outputs, -1)
            else:
                x = outputs[0] + outputs[1] if self.direction == "add" else outputs[0]
            last.append({d: state for d, (_, state) in runs.items()})
        return x, tuple(last)

    def _name(self) -> str:
        return f"nn.{type(self).__name__}"

    def _directions(self) -> tuple[str, ...]:
        return _DIRECTIONS[_check.choice(self._name(), "direction", self.direction, tuple(_DIRECTIONS))]

    def _init_cell(self, key: jax.Array, features: int) -> dict[str, jax.Array]:
        units, columns = self.units, self._gates * self.units
        key_w, key_r = jax.random.split(key)
        params = {
            "w": self.initializer(key_w, (features, columns), features, units, self.dtype),
            "r": self.initializer(key_r, (units, columns), units, units, self.dtype),
        }
        return {**params, "b": jnp.zeros(columns, self.dtype)} if self.bias else params

    def _cell(self, params: dict[str, jax.Array], x: jax.Array, state: Any, **options: Any) -> tuple[jax.Array, Any]:
        raise NotImplementedError

    def _own(self) -> dict[str, Any]:
        """What a cell has beside what all share: arguments of its op."""
        shared = {f.name for f in fields(Recurrent)}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}


def _are_states(states: Any, layers: int, directions: tuple[str, ...]) -> bool:
    if not isinstance(states, tuple | list) or len(states) != layers:
        return False
    return all(isinstance(state, Mapping) and set(directions) <= set(state) for state in states)


@dataclass(frozen=True)
class LSTM(Recurrent):
    """`mps.lstm`; its state is (h, c).

    With `peephole`, params have "peephole" too, at first 0: [3, units], or [3, units, units] with "matrices".
    """

    peephole: bool | Literal["matrices"] = False
    gate_neuron: Neuron = "sigmoid"
    cell_neuron: Neuron = "tanh"
    output_neuron: Neuron = "tanh"
    _gates = 4

    def _init_cell(self, key: jax.Array, features: int) -> dict[str, jax.Array]:
        peephole = _check.choice(self._name(), "peephole", self.peephole, (False, True, "matrices"))
        params, n = super()._init_cell(key, features), self.units
        shape = (3, n, n) if peephole == "matrices" else (3, n)
        return {**params, "peephole": jnp.zeros(shape, self.dtype)} if peephole else params

    def _cell(self, params: dict[str, jax.Array], x: jax.Array, state: Any, **options: Any) -> tuple[jax.Array, Any]:
        if state is not None and (not isinstance(state, tuple | list) or len(state) != 2):
            _check.fail(
                "nn.LSTM", "a state must be a pair (h, c)", _check.told(state), "Pass the second result of run."
            )
        h, c = (None, None) if state is None else state
        own = {**self._own(), "peephole": params.get("peephole")}
        w, r = entries(self._name(), params, "w", "r")
        return mps.lstm(x, w, r, params.get("b"), h, c, **own, **options)


@dataclass(frozen=True)
class GRU(Recurrent):
    """`mps.gru`; with reset "after" and a bias, params have "recurrent_bias" [units] too, at first 0.

    With `memory`, params have "memory" [units, units] too.
    """

    reset: Literal["before", "after"] = "before"
    memory: bool = False
    gate_p_norm: float = 1.0
    flip_output_gates: bool = False
    gate_neuron: Neuron = "sigmoid"
    cell_neuron: Neuron = "tanh"
    _gates = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.choice("nn.GRU", "reset", self.reset, ("before", "after"))
        if _check.flag("nn.GRU", "memory", self.memory) and self.reset == "after":
            _check.fail("nn.GRU", 'memory goes with reset "before"', 'reset "after"', "Leave one of them out.")

    def _init_cell(self, key: jax.Array, features: int) -> dict[str, jax.Array]:
        params, n = super()._init_cell(key, features), self.units
        if self.memory:
            params["memory"] = self.initializer(jax.random.fold_in(key, 0), (n, n), n, n, self.dtype)
        extra = {"recurrent_bias": jnp.zeros(self.units, self.dtype)}
        return {**params, **extra} if self.bias and self.reset == "after" else params

    def _cell(self, params: dict[str, jax.Array], x: jax.Array, state: Any, **options: Any) -> tuple[jax.Array, Any]:
        own = {**self._own(), "memory": params.get("memory"), "recurrent_bias": params.get("recurrent_bias")}
        w, r = entries(self._name(), params, "w", "r")
        return mps.gru(x, w, r, params.get("b"), state, **own, **options)


@dataclass(frozen=True)
class MGU(Recurrent):
    """`mps.mgu`."""

    gate_p_norm: float = 1.0
    flip_output_gates: bool = False
    gate_neuron: Neuron = "sigmoid"
    cell_neuron: Neuron = "tanh"
    _gates = 2

    def _cell(self, params: dict[str, jax.Array], x: jax.Array, state: Any, **options: Any) -> tuple[jax.Array, Any]:
        w, r = entries(self._name(), params, "w", "r")
        return mps.mgu(x, w, r, params.get("b"), state, **self._own(), **options)


@dataclass(frozen=True)
class RNN(Recurrent):
    """`mps.rnn`, of a single gate with any neuron."""

    neuron: Neuron = "tanh"
    _gates = 1

    def _cell(self, params: dict[str, jax.Array], x: jax.Array, state: Any, **options: Any) -> tuple[jax.Array, Any]:
        w, r = entries(self._name(), params, "w", "r")
        return mps.rnn(x, w, r, params.get("b"), state, **self._own(), **options)
