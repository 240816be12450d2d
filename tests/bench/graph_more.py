"""More of the section graph: what has nothing to gain, concatenation, compile time, peak memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from common import Bench, blocking, normal

import jax_mps as mps


def graph_more() -> Iterator[Bench]:
    """All of these."""
    yield from _nothing_to_gain()
    yield _optimizer()
    yield from _inception()
    yield _compile_time()
    _peak_memory()


def _stepping(loss: Callable[..., Any], params: Any, *data: Any, unfused: bool = False) -> dict[str, Callable[[], Any]]:
    """Engines that descend a loss of parameters and data."""

    def step(params: Any, *data: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, *data)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients), value

    def run(function: Callable[..., Any]) -> Callable[[], Any]:
        compiled = jax.jit(function, donate_argnums=0)
        held = [jax.tree.map(jnp.array, params)]

        def once() -> None:
            held[0], value = compiled(held[0], *data)
            value.block_until_ready()

        return once

    engines = {"jax_mps": run(mps.graph(step)), "xla": run(step)}
    return {**engines, "unfused": run(mps.graph(step, fuse=False))} if unfused else engines


def _nothing_to_gain() -> Iterator[Bench]:
    x, y = jnp.asarray(normal(256, 64)), jnp.asarray(normal(256, 64, seed=1))

    def elementwise(params: Any, x: Any, y: Any) -> Any:
        for scale, shift in params:
            x = jnp.tanh(x * scale + shift)
        return jnp.mean((x - y) ** 2)

    yield Bench("elementwise layers", _stepping(elementwise, [(jnp.ones(64), jnp.zeros(64))] * 6, x, y), "no gain")

    def dense(params: Any, x: Any, y: Any) -> Any:
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return jnp.mean((x @ params[-1] - y) ** 2)

    for rows, width in ((16, 16), (64, 64), (256, 64)):
        params = [
            jnp.asarray(normal(64, width) / 8),
            jnp.asarray(normal(width, width) / 8),
            jnp.asarray(normal(width, 64)),
        ]
        yield Bench(
            f"dense network, {rows} rows, {width} wide", _stepping(dense, params, x[:rows], y[:rows]), "no gain"
        )

    def convolutions(params: Any, x: Any) -> Any:
        for w in params:
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        return jnp.mean(x**2)

    for n, size, c in ((1, 8, 4), (2, 8, 8), (4, 14, 8)):
        params = [jnp.asarray(normal(3, 3, c, c) / 8, jnp.float32)] * 2
        image = jnp.asarray(normal(n, size, size, c))
        yield Bench(f"tiny convolutions {n}x{size}x{size}x{c}", _stepping(convolutions, params, image), "no gain")


def _optimizer(count: int = 60) -> Bench:
    """AdamW over many leaves, behind a relu of ours: with nothing but elementwise code, graph leaves it to XLA."""
    import optax

    rule = optax.adamw(1e-3)
    shapes = [(64,), (128,), (512,), (3, 3, 32, 32), (256,), (10,), (3, 3, 64, 64)]
    params = [jnp.asarray(normal(*shapes[i % len(shapes)])) for i in range(count - 1)]
    params.append(jnp.asarray(normal(3136, 256)))
    gradients = [0.1 * p for p in params]

    def step(relu: Callable[..., Any], state: Any, gradients: Any) -> Any:
        values, moments = state
        gradients = [relu(gradients[0]), *gradients[1:]]
        updates, moments = rule.update(gradients, moments, values)
        return optax.apply_updates(values, updates), moments

    def run(function: Callable[..., Any]) -> Callable[[], Any]:
        compiled = jax.jit(function, donate_argnums=0)
        held = [jax.tree.map(jnp.array, (params, rule.init(params)))]

        def once() -> None:
            held[0] = jax.block_until_ready(compiled(held[0], gradients))

        return once

    ours, theirs = partial(step, mps.relu), partial(step, jax.nn.relu)
    return Bench(f"AdamW over {count} leaves", {"jax_mps": run(mps.graph(ours)), "xla": run(theirs)}, "no gain")


def _inception(n: int = 16, size: int = 28, channels: int = 64) -> Iterator[Bench]:
    from flax import linen as nn

    class Inception(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            conv = lambda width, k, y: nn.relu(nn.Conv(width, (k, k))(y))  # noqa: E731
            pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME")
            towers = conv(32, 1, x), conv(64, 3, conv(32, 1, x)), conv(16, 5, conv(16, 1, x)), conv(16, 1, pooled)
            return jnp.concatenate(towers, -1)

    net = nn.Sequential([Inception(), Inception()])
    x = jnp.asarray(normal(n, size, size, channels))
    params = net.init(jax.random.key(0), x)
    loss = lambda params, x: jnp.mean(net.apply(params, x) ** 2)  # noqa: E731
    yield Bench("Inception blocks 16x28x28x64", _stepping(loss, params, x, unfused=True))
    engines = {"jax_mps": blocking(mps.graph(net.apply), params, x), "xla": blocking(net.apply, params, x)}
    engines["unfused"] = blocking(mps.graph(net.apply, without=("concat_in_place",)), params, x)
    yield Bench("Inception blocks, forward; unfused: concatenations copied", engines)


def _compile_time(layers: int = 100) -> Bench:
    """Tracing and planning a deep network against XLA's compilation of it."""
    params = [(jnp.asarray(normal(3, 3, 8, 8) / 8), jnp.zeros(8)) for _ in range(layers)]
    x = jnp.asarray(normal(4, 16, 16, 8))

    def network(params: Any, x: Any) -> Any:
        for w, b in params:
            y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x + y + b)
        return jnp.mean(x**2)

    step = jax.value_and_grad(network)
    engines = {
        "jax_mps": lambda: mps.graph(step).program(params, x),
        "xla": lambda: jax.jit(lambda *args: step(*args)).lower(params, x).compile(),
    }
    return Bench(f"trace and plan {layers} layers; XLA: compile", engines, rounds=2)


def _peak_memory() -> None:
    """Of one process each, beyond what it takes before the first step."""
    peaks = {}
    for engine in ("graph", "jit"):
        done = subprocess.run([sys.executable, __file__, engine], capture_output=True, text=True, check=True)
        peaks[engine] = float(done.stdout)
    ratio = peaks["graph"] / peaks["jit"]
    print(
        f"  peak memory of the residual stack's step: {peaks['graph']:.0f} MB with graph, {peaks['jit']:.0f} MB with"
        f" jax.jit ({ratio:.0%})"
    )


def _one_process(engine: str) -> None:
    from graph import _residual

    bench = next(iter(_residual(compare=False)))
    before = _peak()
    for _ in range(6):
        bench.engines["jax_mps" if engine == "graph" else "xla"]()
    print(_peak() - before)


def _peak() -> float:
    """The process's peak memory so far, in MB."""
    try:  # ru_maxrss of a child starts at its parent's on Linux
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    _one_process(sys.argv[1])
