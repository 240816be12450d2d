"""The section rnn: recurrent layers forward and backward, and the memory that a gradient takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from common import Bench, blocking, normal
from jax import lax

import jax_mps as mps

try:
    import torch
except ImportError:
    torch = None

SHAPES = [(32, 20, 64, 200), (32, 20, 64, 512), (32, 200, 64, 200), (32, 2000, 64, 200)]  # batch, time, inputs, units


def _lstm_step(h: Any, c: Any, z: Any, r: Any) -> Any:
    i, f, g, o = jnp.split(z + h @ r, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru_step(h: Any, c: Any, z: Any, r: Any) -> Any:
    n, q = h.shape[1], h @ r
    update, reset = jnp.split(jax.nn.sigmoid(z[:, : 2 * n] + q[:, : 2 * n]), 2, -1)
    return (1 - update) * jnp.tanh(z[:, 2 * n :] + reset * q[:, 2 * n :]) + update * h, c


def _scan(step: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, w: Any, r: Any, b: Any) -> Any:
        zero = jnp.zeros((x.shape[0], r.shape[0]), x.dtype)

        def body(state: Any, z: Any) -> Any:
            h, c = step(*state, z, r)
            return (h, c), h

        _, y = lax.scan(body, (zero, zero), jnp.moveaxis(x @ w + b, 1, 0))
        return jnp.moveaxis(y, 0, 1)

    return run


CELLS = {
    "lstm": (4, lambda *a: mps.lstm(*a)[0], _scan(_lstm_step)),
    "gru": (3, lambda *a: mps.gru(*a, reset="after")[0], _scan(_gru_step)),
}


def _kept(shape: tuple[int, ...], recompute: bool) -> float:
    """Bytes that XLA keeps for the gradient of a loss of y: what training keeps, y and dy."""
    batch, time, inputs, units = shape
    operands = [
        jax.ShapeDtypeStruct(s, jnp.float32)
        for s in ((batch, time, inputs), (inputs, 4 * units), (units, 4 * units), (4 * units,))
    ]
    loss = lambda *a: jnp.sum(mps.lstm(*a, recompute=recompute)[0] ** 2)  # noqa: E731
    memory = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(*operands).compile().memory_analysis()
    return float(memory.temp_size_in_bytes)


def _memory() -> None:
    for shape in SHAPES[2:]:
        batch, time, _, units = shape
        parts = []
        for recompute in (False, True):
            kept = _kept(shape, recompute)
            numbers = kept / (4 * batch * time * units)
            parts.append(f"{kept / 1e6:.1f} MB ({numbers:.2f} numbers a unit and step)")
        name = "x".join(map(str, shape[:3]))
        print(f"  lstm {name} to {units}, kept for the gradient: {parts[0]}; with recompute {parts[1]}", flush=True)


def rnn() -> Iterator[Bench]:
    """LSTM and GRU against lax.scan under jit and PyTorch's own layers."""
    _memory()
    for cell, (gates, own, plain) in CELLS.items():
        for batch, time, inputs, units in SHAPES if cell == "lstm" else SHAPES[:2]:
            x, dy = normal(batch, time, inputs), normal(batch, time, units, seed=1)
            shapes = ((inputs, gates * units), (units, gates * units), (gates * units,))
            args = [jnp.asarray(v) for v in (x, *(normal(*s) / units**0.5 for s in shapes))]
            forward, both, first = {}, {}, {}
            for name, f in (("jax_mps", own), ("xla", plain)):
                forward[name] = blocking(f, *args)
                both[name] = blocking(lambda dy, *a, f=f: jax.vjp(f, *a)[1](dy), jnp.asarray(dy), *args)
                first[name] = blocking(
                    lambda dy, x, *a, f=f: jax.vjp(lambda *a: f(x, *a), *a)[1](dy), jnp.asarray(dy), *args
                )
            if cell == "lstm" and time >= 200:
                again = lambda *a: mps.lstm(*a, recompute=True)[0]  # noqa: E731
                both["recompute"] = blocking(lambda dy, *a, f=again: jax.vjp(f, *a)[1](dy), jnp.asarray(dy), *args)
            if torch:
                layer = getattr(torch.nn, cell.upper())(inputs, units, batch_first=True)
                xt, dyt = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

                def run(layer: Any = layer, x: Any = xt) -> None:
                    with torch.no_grad():
                        layer(x)

                def train(layer: Any = layer, dy: Any = dyt, x: Any = xt) -> None:
                    layer.zero_grad()
                    x.grad = None
                    layer(x)[0].backward(dy)

                forward["torch"], both["torch"] = run, train
                first["torch"] = functools.partial(train, x=xt.detach().clone())
            flops = 2.0 * batch * time * gates * units * (inputs + units)
            name = f"{cell} {batch}x{time}x{inputs} to {units}"
            rounds = 3 if time > 1000 else 0
            yield Bench(f"{name}, forward", forward, "forward", flops=flops, rounds=rounds)
            yield Bench(f"{name}, forward and backward", both, "forward and backward", flops=3 * flops, rounds=rounds)
            if time < 200:
                yield Bench(f"{name}, without the inputs' gradient", first, "without the inputs' gradient")
