"""The section graph: unmodified Flax + optax training steps, with and without the one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import graph_more
import jax
import jax.numpy as jnp
import loops
import numpy as np
from common import Bench, nchw, normal

import jax_mps as mps

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None


def graph() -> Iterator[Bench]:
    """Networks and steps written in Flax, Equinox and optax without a thought of jax_mps."""
    yield from _residual()
    yield from _digits()
    yield from loops.recurrent()
    yield from graph_more.graph_more()


def _engines(step: Callable[..., Any], state: Any, data: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
    """`step(state, *data)` -> (state, loss), compiled with graph, with graph but unfused, and without."""

    def run(function: Callable[..., Any]) -> Callable[[], Any]:
        compiled = jax.jit(function, donate_argnums=0)
        held = [jax.tree.map(jnp.copy, state)]

        def once() -> None:
            held[0], loss = compiled(held[0], *data)
            loss.block_until_ready()

        return once

    return {
        "jax_mps": run(mps.graph(step)),
        "xla": run(step),
        "unfused": run(mps.graph(step, fuse=False)),
    }


def _residual(n: int = 16, size: int = 56, channels: int = 64, compare: bool = True) -> Iterator[Bench]:
    import optax
    from flax import linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            y = nn.Conv(channels, (3, 3), use_bias=False)(x)
            y = nn.relu(nn.BatchNorm(use_running_average=False)(y))
            y = nn.Conv(channels, (3, 3), use_bias=False)(y)
            return nn.relu(x + nn.BatchNorm(use_running_average=False)(y))

    net = nn.Sequential([Block(), Block()])
    x = normal(n, size, size, channels)
    variables = net.init(jax.random.key(0), jnp.asarray(x))
    optimizer = optax.sgd(1e-3)
    params, statistics = variables["params"], variables["batch_stats"]

    def step(state: Any, x: Any) -> Any:
        params, statistics, moments = state

        def loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": statistics}
            y, new = net.apply(variables, x, mutable=["batch_stats"])
            return jnp.mean(jnp.square(y)), new["batch_stats"]

        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(params, updates), statistics, moments), value

    engines = _engines(step, (params, statistics, optimizer.init(params)), (jnp.asarray(x),))
    if torch and compare:

        class TorchBlock(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.convs = torch.nn.ModuleList(
                    torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)
                )
                self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(channels) for _ in range(2))

            def forward(self, x: Any) -> Any:
                y = F.relu(self.norms[0](self.convs[0](x)))
                return F.relu(x + self.norms[1](self.convs[1](y)))

        module = torch.nn.Sequential(TorchBlock(), TorchBlock()).to(memory_format=torch.channels_last)
        descent, xt = torch.optim.SGD(module.parameters(), 1e-3), nchw(x)

        def torch_step() -> float:
            descent.zero_grad()
            value = module(xt).square().mean()
            value.backward()
            descent.step()
            return float(value)

        engines["torch"] = torch_step
        compiled = _torch_compiled(module, xt)
        if compiled:
            engines["torch.compile"] = compiled
    convolution = 2.0 * n * size * size * 9 * channels * channels
    yield Bench("Flax residual stack 16x56x56x64", engines, flops=convolution * (4 * 3 - 1))


def _torch_compiled(module: Any, x: Any) -> Callable[[], float] | None:
    """A training step of a compiled copy of the module, or None with a word on why there is none."""
    import copy

    twin = copy.deepcopy(module)
    descent = torch.optim.SGD(twin.parameters(), 1e-3)
    try:
        fast = torch.compile(twin)
        fast(x).square().mean().backward()
    except Exception as reason:  # no compiler, no inductor, no Python headers
        print(f"  torch.compile does not run here: {str(reason).strip().splitlines()[0][:90]}")
        return None

    def once() -> float:
        descent.zero_grad()
        value = fast(x).square().mean()
        value.backward()
        descent.step()
        return float(value)

    return once


def _digits(batch: int = 64) -> Iterator[Bench]:
    import optax
    from flax import linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for width in (32, 64):
                x = nn.max_pool(nn.relu(nn.Conv(width, (5, 5))(x)), (2, 2), (2, 2))
            x = nn.relu(nn.Dense(1024)(x.reshape(x.shape[0], -1)))
            return nn.Dense(10)(nn.Dropout(0.5, deterministic=False)(x))

    net, optimizer = Network(), optax.adam(1e-3)
    x = jnp.asarray(normal(batch, 28, 28, 1))
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 10, batch), jnp.int32)
    params = net.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)

    def step(state: Any, x: Any, labels: Any) -> Any:
        params, moments, seed = state

        def loss(params: Any) -> Any:
            logits = net.apply(params, x, rngs={"dropout": jax.random.fold_in(jax.random.key(0), seed)})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, seed + 1), value

    state = params, optimizer.init(params), jnp.zeros((), jnp.int32)
    yield Bench(f"Flax digits step, batch {batch}", _engines(step, state, (x, labels)))
    yield loops.many(_engines, step, state, (x, labels))
