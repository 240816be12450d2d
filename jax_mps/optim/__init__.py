"""Optimizers in optax's form, each one native call for the whole parameter tree."""

from jax_mps.optim._adam import AdamState, adam
from jax_mps.optim._rmsprop import RmspropState, rmsprop
from jax_mps.optim._sgd import SgdState, sgd
from jax_mps.optim._transform import FusedTransformation, step

__all__ = [
    "AdamState",
    "FusedTransformation",
    "RmspropState",
    "SgdState",
    "adam",
    "rmsprop",
    "sgd",
    "step",
]


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
