"""Loops in the section graph: steps of training by scan, and recurrent cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from common import Bench, blocking, normal

import jax_mps as mps


def many(
    engines_of: Callable[..., Any], step: Callable[..., Any], state: Any, batch: tuple[Any, ...], count: int = 20
) -> Bench:
    """`count` steps by one scan, against as many calls."""
    batches = jax.tree.map(lambda a: jnp.stack([a] * count), batch)

    def scan(state: Any, batches: Any) -> Any:
        state, losses = jax.lax.scan(lambda state, batch: step(state, *batch), state, batches)
        return state, losses[-1]

    engines = engines_of(scan, state, (batches,))
    single = engines_of(step, state, batch)["jax_mps"]
    engines["single calls"] = lambda: [single() for _ in range(count)]
    del engines["unfused"]
    return Bench(f"{count} of these steps by scan", engines, rounds=3)


def recurrent() -> Iterator[Bench]:
    """Recurrent cells by scan: the value and the gradient of a loss."""
    from flax import linen as nn

    for cell in (nn.OptimizedLSTMCell, nn.GRUCell):
        net, x = nn.RNN(cell(200)), jnp.asarray(normal(32, 20, 64))
        params = net.init(jax.random.key(0), x)

        def loss(params: Any, net: Any = net, x: Any = x) -> Any:
            return jnp.mean(jnp.square(net.apply(params, x)))

        both = jax.value_and_grad(loss)
        engines = {"jax_mps": blocking(mps.graph(both), params), "xla": blocking(both, params)}
        yield Bench(f"Flax {cell.__name__} by scan 32x20x64 -> 200, gradient", engines)
