"""Recurrent weights of PyTorch, Flax and Keras as those of jax_mps.nn, and back.

`from_*` give what `jax_mps.nn`'s LSTM, GRU and RNN keep for one direction of one layer, {"w", "r", "b"} and with a GRU
that resets after the product (PyTorch's, Flax's, and Keras's by default: `nn.GRU(units, reset="after")`) also
"recurrent_bias"; `to_*` give the peer's names. PyTorch's functions take whole stacks. Of two biases that are only ever
summed, `from_*` gives the sum, and `to_*` gives it as the first and zeros as the second.

==========  =======================================  ===========================================
peer        gates side by side                       biases
==========  =======================================  ===========================================
PyTorch     LSTM i, f, g, o; GRU r, z, n; rows       two for each gate
Flax        by name, or (nnx) as PyTorch, columns    one; GRU: one more for n, by h (linen)
Keras       LSTM i, f, c, o; GRU z, r, h; columns    one; GRU with reset_after: two
jax_mps     LSTM i, f, g, o; GRU z, r, n; columns    one; GRU with reset "after": one more for n
==========  =======================================  ===========================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_mps._types import Tensor
from jax_mps.ops import _check

__all__ = ["from_flax", "from_keras", "from_torch", "to_flax", "to_keras", "to_torch"]
Cell = Literal["lstm", "gru", "rnn"]
Weights = dict[str, jax.Array]  # of one direction of one layer
_GATES = {"lstm": "ifgo", "gru": "zrn", "rnn": "h"}


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)


def _cell(op: str, cell: str) -> str:
    return str(_check.choice(op, "cell", cell, tuple(_GATES)))


def _array(value: Any) -> jax.Array:
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value  # PyTorch's
    return _check.array("interop", "a weight", np.asarray(value))


def _named(op: str, weights: Any, names: Sequence[str], remedy: str) -> None:
    """`weights` must map these names."""
    if not isinstance(weights, Mapping) or any(n not in weights for n in names):
        got = f"a dict of {', '.join(map(str, weights))}" if isinstance(weights, Mapping) else _check.told(weights)
        _check.fail(op, f"weights must be a dict with {', '.join(names) or 'arrays'}", got, remedy, TypeError)


def _of_cell(op: str, cell: str, w: jax.Array, r: jax.Array) -> None:
    """w [features, gates * units] and r [units, gates * units] of this cell."""
    gates = len(_GATES[cell])
    if w.ndim != 2 or r.ndim != 2 or r.shape[1] != gates * r.shape[0] or w.shape[1] != r.shape[1]:
        rule = f"a {cell} must have matrices of {gates} gates, [features, {gates} units] and [units, {gates} units]"
        _check.fail(op, rule, f"{w.shape} and {r.shape}", "Check cell; projections and peepholes are not taken.")


def _swap(array: jax.Array) -> jax.Array:
    """The first two of three gates in the last axis change places: r, z, n and z, r, n."""
    r, z, n = jnp.split(array, 3, axis=-1)
    return jnp.concatenate([z, r, n], -1)


def from_torch(cell: Cell, weights: Mapping[str, ArrayLike | Tensor]) -> tuple[dict[str, Weights], ...]:
    """The params of an nn.LSTM, nn.GRU or nn.RNN of this package from a PyTorch module's `state_dict()`.

    Every layer and direction is taken; a bidirectional module is `direction="concatenate"` here.

    Args:
        cell: "lstm", "gru" (for `reset="after"`) or "rnn".
        weights: PyTorch's names to tensors or arrays.

    Raises:
        ValueError: for another cell or where a name is missing.

    Example:
        >>> import numpy as np
        >>> from jax_mps import interop
        >>> params = interop.from_torch("rnn", {"weight_ih_l0": np.ones((4, 3)), "weight_hh_l0": np.ones((4, 4))})
        >>> {name: value.shape for name, value in params[0]["forward"].items()}
        {'w': (3, 4), 'r': (4, 4)}
    """
    _cell("from_torch", cell)
    _named("from_torch", weights, (), "Pass module.state_dict().")
    layers: list[dict[str, Weights]] = []
    while f"weight_ih_l{len(layers)}" in weights:
        suffixes = {"forward": f"l{len(layers)}", "backward": f"l{len(layers)}_reverse"}
        layers.append(
            {d: _one_from_torch(cell, weights, s) for d, s in suffixes.items() if f"weight_ih_{s}" in weights}
        )
    if not layers:
        _check.fail("from_torch", "weights must have weight_ih_l0", list(weights), "Pass a state_dict().")
    return tuple(layers)


def _one_from_torch(cell: str, weights: Mapping[str, Any], suffix: str) -> Weights:
    names = [f"weight_ih_{suffix}", f"weight_hh_{suffix}"]
    if f"bias_ih_{suffix}" in weights:
        names += [f"bias_ih_{suffix}", f"bias_hh_{suffix}"]
    _named("from_torch", weights, names, "Pass the whole state_dict().")
    w, r = _array(weights[names[0]]).T, _array(weights[names[1]]).T
    _of_cell("from_torch", cell, w, r)
    biases = []
    if f"bias_ih_{suffix}" in weights:
        biases = [_array(weights[f"bias_{kind}_{suffix}"]) for kind in ("ih", "hh")]
    return _joined(cell, w, r, biases)


def _joined(cell: str, w: jax.Array, r: jax.Array, biases: Sequence[jax.Array], ordered: bool = False) -> Weights:
    """Of PyTorch's order unless `ordered` is ours; `biases` none, one (of the inputs) or two."""
    if cell == "gru" and not ordered:
        w, r, biases = _swap(w), _swap(r), [_swap(b) for b in biases]
    if not biases:
        return {"w": w, "r": r}
    first, second = biases if len(biases) == 2 else (biases[0], jnp.zeros_like(biases[0]))
    if cell != "gru":
        return {"w": w, "r": r, "b": first + second}
    units = r.shape[0]
    summed = first + second.at[2 * units :].set(0)
    return {"w": w, "r": r, "b": summed, "recurrent_bias": second[2 * units :]}


def _parted(weights: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The two biases, in our order."""
    first = weights["b"]
    second = jnp.zeros_like(first)
    if "recurrent_bias" in weights:
        second = second.at[-weights["recurrent_bias"].size :].set(weights["recurrent_bias"])
    return first, second


def to_torch(cell: Cell, params: Sequence[Mapping[str, Mapping[str, jax.Array]]]) -> dict[str, np.ndarray]:
    """PyTorch's names and arrays of the params of an nn.LSTM, nn.GRU (reset "after") or nn.RNN of this package.

    `module.load_state_dict({name: torch.from_numpy(array) ...})` takes them.
    """
    _cell("to_torch", cell)
    remedy = "Pass the params of the whole layer, what its init gave."
    if not isinstance(params, tuple | list) or not all(isinstance(layer, Mapping) for layer in params):
        rule = 'params must be a tuple with a dict {"forward": weights} for each layer'
        _check.fail("to_torch", rule, _check.told(params), remedy, TypeError)
    result = {}
    for i, layer in enumerate(params):
        for direction, weights in layer.items():
            _ours("to_torch", cell, weights, remedy)
            suffix = f"l{i}" + ("_reverse" if direction == "backward" else "")
            arrays = {"weight_ih": weights["w"].T, "weight_hh": weights["r"].T}
            if "b" in weights:
                arrays["bias_ih"], arrays["bias_hh"] = _parted(weights)
            for name, array in arrays.items():
                if cell == "gru":
                    array = _swap(array.T).T
                result[f"{name}_{suffix}"] = np.array(array)
    return result


def from_keras(cell: Cell, weights: Sequence[ArrayLike]) -> Weights:
    """One direction of one layer from the `get_weights()` of a Keras LSTM, GRU or SimpleRNN.

    A GRU's bias of two rows is that of reset_after=True (`reset="after"` here), of one row that of False.
    """
    _cell("from_keras", cell)
    if not isinstance(weights, tuple | list) or len(weights) not in (2, 3):
        got = f"{len(weights)} arrays" if isinstance(weights, tuple | list) else _check.told(weights)
        rule = "weights must be [kernel, recurrent_kernel] or with bias"
        _check.fail("from_keras", rule, got, "Pass layer.get_weights() of one direction.")
    w, r, *bias = map(_array, weights)
    _of_cell("from_keras", cell, w, r)
    if cell == "gru" and bias and bias[0].ndim == 1:
        return {"w": w, "r": r, "b": bias[0]}
    biases = list(bias[0]) if bias and bias[0].ndim == 2 else bias
    return _joined(cell, w, r, biases, ordered=True)


def to_keras(cell: Cell, weights: Mapping[str, jax.Array]) -> list[np.ndarray]:
    """What `set_weights` of a Keras LSTM, GRU or SimpleRNN takes; a "recurrent_bias" makes two rows of biases."""
    _cell("to_keras", cell)
    _ours("to_keras", cell, weights, 'Pass those of one direction, params[0]["forward"].')
    result = [weights["w"], weights["r"]]
    if "b" in weights:
        result.append(jnp.stack(_parted(weights)) if "recurrent_bias" in weights else weights["b"])
    return [np.array(a) for a in result]


# Flax's names: linen's (LSTM, GRU, RNN), where "i" is of the inputs and "h" of the state.
_LINEN = {"lstm": ("i", "f", "g", "o"), "gru": ("z", "r", "n"), "rnn": ("",)}


def from_flax(cell: Cell, params: Mapping[str, Mapping[str, ArrayLike]]) -> Weights:
    """One direction of one layer from the params of a Flax cell.

    Args:
        cell: "lstm" (LSTMCell, OptimizedLSTMCell), "gru" (GRUCell; for `reset="after"`) or "rnn" (SimpleCell).
        params: linen's `variables["params"]`, or `nnx.to_pure_dict(nnx.state(cell, nnx.Param))`.

    Flax's MGUCell adds its recurrent product after the gate and so is no `mps.mgu`.
    """
    _cell("from_flax", cell)
    remedy = "Pass variables['params'] of the cell."
    _named("from_flax", params, (), remedy)
    if "dense_h" in params:  # nnx, gates side by side
        _named("from_flax", params, ("dense_i",), remedy)
        inputs, state = params["dense_i"], params["dense_h"]
        for part in (inputs, state):
            _named("from_flax", part, ("kernel",), remedy)
        _of_cell("from_flax", cell, _array(inputs["kernel"]), _array(state["kernel"]))
        none = jnp.zeros(_array(state["kernel"]).shape[1])
        biases = [_array(part["bias"]) if "bias" in part else none for part in (inputs, state)]
        return _joined(cell, _array(inputs["kernel"]), _array(state["kernel"]), biases)
    names = [[f"{side}{gate}" for gate in _LINEN[cell]] for side in "ih"]
    names[0] = [f"{name}_" if f"{name}_" in params else name for name in names[0]]  # nnx writes if_
    missing = [name for side in names for name in side if name not in params]
    if missing:
        _check.fail(
            "from_flax", f"params must have {', '.join(missing)}", list(params), f"Pass those of a {cell} cell."
        )
    for name in (name for side in names for name in side):
        _named("from_flax", params[name], ("kernel",), remedy)
    w, r = (jnp.concatenate([_array(params[n]["kernel"]) for n in side], 1) for side in names)
    units = r.shape[0]
    biases = [
        jnp.concatenate([_array(params[n]["bias"]) if "bias" in params[n] else jnp.zeros(units) for n in side])
        for side in names
    ]
    return _joined(cell, w, r, biases, ordered=True)


def to_flax(cell: Cell, weights: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    """The params of linen's LSTMCell or OptimizedLSTMCell, GRUCell or SimpleCell."""
    _cell("to_flax", cell)
    _ours("to_flax", cell, weights, 'Pass those of one direction, params[0]["forward"].')
    gates = _LINEN[cell]
    split = {name: jnp.split(weights[name], len(gates), axis=1) for name in "wr"}
    first, second = _parted(weights if "b" in weights else {**weights, "b": jnp.zeros(weights["w"].shape[1])})
    biases = [jnp.split(b, len(gates)) for b in (first, second)]
    result = {}
    for i, gate in enumerate(gates):
        result[f"i{gate}"], result[f"h{gate}"] = {"kernel": split["w"][i]}, {"kernel": split["r"][i]}
        result[f"h{gate}" if cell == "lstm" else f"i{gate}"]["bias"] = biases[0][i]
        if cell == "gru" and gate == "n":
            result["hn"]["bias"] = biases[1][i]
    return result


def _ours(op: str, cell: str, weights: Any, remedy: str) -> None:
    """Weights of one direction of one layer of this package, with nothing that the other library lacks."""
    for name in ("peephole", "memory"):
        if isinstance(weights, Mapping) and name in weights:
            _check.fail(op, f"weights must have no {name}", "one", "The other library's cell has none.")
    _named(op, weights, ("w", "r"), remedy)
    _of_cell(op, cell, weights["w"], weights["r"])
