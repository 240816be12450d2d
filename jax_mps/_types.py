"""The types of what public functions take and give, where more than one of them says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import jax
import numpy as np

Ints: TypeAlias = int | Sequence[int]  # one for all spatial axes, or one for each
Padding: TypeAlias = Literal["SAME", "VALID"] | Sequence[tuple[int, int]]
NeuronName: TypeAlias = Literal[
    "none",
    "relu",
    "leaky_relu",
    "linear",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "absolute",
    "softplus",
    "softsign",
    "elu",
    "relun",
    "power",
    "exponential",
    "logarithm",
    "gelu",
]
Neuron: TypeAlias = NeuronName | Sequence[str | float] | None  # a name, or a name with its parameters
Device: TypeAlias = Literal["metal", "cpu", "reference"]
DeviceName: TypeAlias = Literal["auto"] | Device
DType: TypeAlias = str | type | np.dtype
ShapeLike: TypeAlias = Sequence[int] | jax.Array | np.ndarray | jax.ShapeDtypeStruct  # a shape, or what has one
# A tree of arrays, as jax.tree has it, of the containers that layers and optimizers make.
ArrayTree: TypeAlias = jax.Array | np.ndarray | Mapping[str, "ArrayTree"] | Sequence["ArrayTree"] | None


class Tensor(Protocol):
    """PyTorch's arrays."""

    def detach(self) -> Tensor:
        """Without its gradient."""

    def cpu(self) -> Tensor:
        """In the host's memory."""

    def numpy(self) -> np.ndarray:
        """As an array of NumPy."""
