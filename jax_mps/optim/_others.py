"""The leaves that no kernel takes, integers and complex numbers: as optax has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

# (gradients, {state's name: leaves}) -> (updates, {state's name: new leaves})
Rule = Callable[[list[Any], dict[str, Any]], tuple[list[Any], dict[str, Any]]]


def through(transformation: optax.GradientTransformation, leaves: list[Any], fields: dict[str, Any]) -> Any:
    """One update of an optax transformation whose state has these fields, where it has them: (updates, fields)."""
    state = transformation.init(leaves)
    state = state._replace(**{name: value for name, value in fields.items() if name in state._fields})
    updates, state = transformation.update(leaves, state)
    return updates, fields | {name: value for name, value in state._asdict().items() if name in fields}


def chained(*transformations: optax.GradientTransformation | None) -> Rule:
    """The rule of one after the other; None is left out."""

    def rule(leaves: list[Any], fields: dict[str, Any]) -> Any:
        new = fields
        for transformation in transformations:
            if transformation is not None:  # each reads the state as it was
                leaves, after = through(transformation, leaves, fields)
                new = new | {name: value for name, value in after.items() if value is not fields[name]}
        return leaves, new

    return rule


def is_floating(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))
