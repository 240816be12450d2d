"""What is timed: each section yields benches, each bench names its engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from busy import busy
from common import Bench, blocking, nchw, normal
from graph import graph
from jax import lax
from rnn import rnn

import jax_mps as mps

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

# The eight shapes (N, H, C, K, R, stride) of a digit network, ResNets and InceptionV3's stem.
CONV_SHAPES = [
    (32, 28, 1, 32, 5, 1),
    (32, 14, 32, 64, 5, 1),
    (16, 56, 64, 64, 3, 1),
    (16, 28, 128, 128, 3, 1),
    (16, 14, 256, 256, 3, 1),
    (16, 28, 256, 512, 1, 1),
    (8, 149, 32, 32, 3, 1),
    (8, 224, 3, 64, 7, 2),
]


def conv(dtypes: tuple[str, ...] = ("float32", "bfloat16")) -> Iterator[Bench]:
    """Forward, data gradient and weight gradient, each inside a jitted function."""
    for dtype in dtypes:
        for n, h, c, k, r, s in CONV_SHAPES:
            pad = ((r - 1) // 2,) * 2
            x, w = normal(n, h, h, c), normal(r, r, c, k) * 0.1
            xj, wj = jnp.asarray(x, dtype), jnp.asarray(w, dtype)

            def own(x: Any, w: Any, pad: Any = (pad, pad), s: int = s) -> Any:
                return mps.conv(x, w, strides=s, padding=pad)

            def plain(x: Any, w: Any, pad: Any = (pad, pad), s: int = s) -> Any:
                return lax.conv_general_dilated(x, w, (s, s), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

            y = plain(xj, wj)
            dy = jnp.asarray(normal(*y.shape, seed=1), dtype)
            flops = 2.0 * y.size * r * r * c
            runs: dict[str, dict[str, Callable[[], Any]]] = {"forward": {}, "data gradient": {}, "weight gradient": {}}
            for name, f in (("jax_mps", own), ("xla", plain)):
                runs["forward"][name] = blocking(f, xj, wj)
                runs["data gradient"][name] = blocking(lambda x, w, dy, f=f: jax.vjp(f, x, w)[1](dy)[0], xj, wj, dy)
                runs["weight gradient"][name] = blocking(lambda x, w, dy, f=f: jax.vjp(f, x, w)[1](dy)[1], xj, wj, dy)
            if torch:
                kind = getattr(torch, dtype)
                xt, dyt = nchw(x).to(kind), nchw(np.array(dy, np.float32)).to(kind)
                wt = torch.from_numpy(w.transpose(3, 2, 0, 1).copy()).to(kind)
                wt = wt.contiguous(memory_format=torch.channels_last)
                runs["forward"]["torch"] = lambda x=xt, w=wt, s=s, p=pad[0]: F.conv2d(x, w, stride=s, padding=p)

                def backward(mask: Any, x: Any = xt, w: Any = wt, dy: Any = dyt, s: int = s, p: int = pad[0]) -> Any:
                    return lambda: torch.ops.aten.convolution_backward(
                        dy, x, w, None, [s, s], [p, p], [1, 1], False, [0, 0], 1, mask
                    )

                runs["data gradient"]["torch"] = backward([True, False, False])
                runs["weight gradient"]["torch"] = backward([False, True, False])
            for kind_of_run, engines in runs.items():
                name = f"{kind_of_run} {n}x{h}x{h}x{c} {r}x{r}x{k}/{s} {dtype}"
                yield Bench(name, engines, f"{kind_of_run} {dtype}", flops=flops)


def overhead() -> Iterator[Bench]:
    """The cost of one custom call inside a jit: 100 in one function against 100 of XLA's own smallest ops."""
    x = jnp.ones(8, jnp.float32)

    def chain(f: Callable[[Any], Any], count: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for _ in range(count):
                x = f(x)
            return x

        return run

    for count in (1, 100):
        yield Bench(
            f"{count} calls on 8 elements",
            {
                "jax_mps": blocking(chain(lambda x: mps.linear(x, 0.5, 0.1), count), x),
                "xla": blocking(chain(lambda x: lax.optimization_barrier(x * 0.5 + 0.1), count), x),
            },
        )


def pool() -> Iterator[Bench]:
    """Max pool forward and backward."""
    for shape, window, stride in (
        ((64, 28, 28, 32), 2, 2),
        ((16, 112, 112, 64), 2, 2),
        ((16, 113, 113, 64), 3, 2),
    ):
        x = normal(*shape)
        out = (shape[1] - window) // stride + 1
        dy = normal(shape[0], out, out, shape[3], seed=1)

        def own(x: Any, k: int = window, s: int = stride) -> Any:
            return mps.max_pool(x, k, strides=s)

        def plain(x: Any, k: int = window, s: int = stride) -> Any:
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, k, k, 1), (1, s, s, 1), "VALID")

        forward, backward = {}, {}
        for name, f in (("jax_mps", own), ("xla", plain)):
            forward[name] = blocking(f, jnp.asarray(x))
            backward[name] = blocking(lambda x, dy, f=f: jax.vjp(f, x)[1](dy)[0], jnp.asarray(x), jnp.asarray(dy))
        if torch:
            xt, dyt = nchw(x).requires_grad_(), nchw(dy)
            plain_xt = xt.detach()
            forward["torch"] = lambda x=plain_xt, k=window, s=stride: F.max_pool2d(x, k, s)

            def torch_backward(x: Any = xt, dy: Any = dyt, k: int = window, s: int = stride) -> Any:
                return torch.autograd.grad(F.max_pool2d(x, k, s), x, dy)

            backward["torch"] = torch_backward
        name = f"{'x'.join(map(str, shape))} {window}x{window}/{stride}"
        yield Bench(f"max pool forward {name}", forward, bytes=4.0 * (x.size + dy.size))
        yield Bench(
            f"max pool forward and backward {name}", backward, "max pool backward", bytes=8.0 * (x.size + dy.size)
        )


def norm() -> Iterator[Bench]:
    """Batch norm with relu, forward and backward."""
    for shape in ((16, 56, 56, 64), (64, 28, 28, 32), (16, 14, 14, 256)):
        x, dy = normal(*shape), normal(*shape, seed=1)
        gamma, beta = normal(shape[-1], seed=2), normal(shape[-1], seed=3)

        def own(x: Any, gamma: Any, beta: Any) -> Any:
            return mps.batch_norm(x, gamma, beta, epsilon=1e-5, neuron="relu")[0]

        def plain(x: Any, gamma: Any, beta: Any) -> Any:
            mean = jnp.mean(x, (0, 1, 2))
            variance = jnp.mean(jnp.square(x - mean), (0, 1, 2))
            return jax.nn.relu((x - mean) * (gamma * lax.rsqrt(variance + 1e-5)) + beta)

        engines = {}
        arrays = [jnp.asarray(a) for a in (x, gamma, beta, dy)]
        for name, f in (("jax_mps", own), ("xla", plain)):

            def both(x: Any, g: Any, b: Any, dy: Any, f: Any = f) -> Any:
                y, pull = jax.vjp(f, x, g, b)
                return y, pull(dy)  # with y, or XLA would not compute it

            engines[name] = blocking(both, *arrays)
        if torch:
            xt, dyt = nchw(x).requires_grad_(), nchw(dy)
            gt, bt = (torch.from_numpy(a).requires_grad_() for a in (gamma, beta))

            def torch_run(x: Any = xt, g: Any = gt, b: Any = bt, dy: Any = dyt) -> Any:
                y = F.relu(F.batch_norm(x, None, None, g, b, True, 0.1, 1e-5))
                return y, torch.autograd.grad(y, (x, g, b), dy)

            engines["torch"] = torch_run
        # Least traffic: x twice and y once forward; x, dy twice and dx once backward.
        name = "batch norm + relu f+b " + "x".join(map(str, shape))
        yield Bench(name, engines, "batch norm", bytes=4.0 * x.size * 8)


def loss() -> Iterator[Bench]:
    """Softmax cross-entropy with integer labels, forward and backward."""
    for rows, classes in ((4096, 1000), (256, 32000), (64, 10)):
        x = normal(rows, classes)
        labels = np.random.default_rng(0).integers(0, classes, rows)

        def own(x: Any, labels: Any) -> Any:
            return mps.losses.softmax_cross_entropy(x, labels, reduction="mean")

        def plain(x: Any, labels: Any) -> Any:
            picked = jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], 1)
            return -jnp.mean(picked)

        arrays = jnp.asarray(x), jnp.asarray(labels, jnp.int32)
        engines = {
            "jax_mps": blocking(jax.value_and_grad(own), *arrays),
            "xla": blocking(jax.value_and_grad(plain), *arrays),
        }
        if torch:
            xt, lt = torch.from_numpy(x).requires_grad_(), torch.from_numpy(labels)
            engines["torch"] = lambda x=xt, t=lt: torch.autograd.grad(F.cross_entropy(x, t), x)
        yield Bench(f"softmax cross-entropy f+b {rows}x{classes}", engines, bytes=12.0 * x.size)


def optim() -> Iterator[Bench]:
    """Adam on 25 million parameters in 78 leaves, parameters and state donated."""
    import optax

    shapes = [(512, 1200)] * 39 + [(1200,)] * 38 + [(1000, 1000)]
    arrays = [normal(*s, seed=i) for i, s in enumerate(shapes)]
    count = sum(a.size for a in arrays)

    def run(optimizer: Any, apply: Callable[..., Any], made_inside: bool = False) -> Callable[[], Any]:
        params = [jnp.asarray(a) for a in arrays]
        gradients = [jnp.asarray(a) * 0.01 for a in arrays]
        held = [params, optimizer.init(params)]

        def one(params: Any, state: Any, gradients: Any) -> Any:
            if made_inside:  # as in training: by a kernel of the same step
                gradients = [mps.linear(g, 1.0) for g in gradients]
            return apply(optimizer, gradients, state, params)

        step = jax.jit(one, donate_argnums=(0, 1))

        def once() -> None:
            held[:] = step(*held, gradients)
            jax.block_until_ready(held[0])

        return once

    def updates(optimizer: Any, gradients: Any, state: Any, params: Any) -> Any:
        change, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, change), state

    theirs = {"xla": run(optax.adam(1e-3), updates)}
    if torch:
        leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
        for leaf, a in zip(leaves, arrays, strict=True):
            leaf.grad = torch.from_numpy(a * 0.01)
        theirs["torch"] = torch.optim.Adam(leaves, fused=True).step
    yield Bench("adam step, 25M", {"jax_mps": run(mps.optim.adam(1e-3), mps.optim.step), **theirs}, bytes=28.0 * count)
    inside = {
        "jax_mps": run(mps.optim.adam(1e-3), updates, made_inside=True),
        "xla": run(optax.adam(1e-3), updates, made_inside=True),
    }
    yield Bench("copy of gradients, adam update + apply, 25M", inside, bytes=44.0 * count)


def digits() -> Iterator[Bench]:
    """One training step of the digit network, batch 64, the classic widths, Adam."""
    import optax

    widths, batch = (32, 64, 1024), 64
    x, labels = normal(batch, 28, 28, 1), np.random.default_rng(0).integers(0, 10, batch)
    shapes = [
        (5, 5, 1, widths[0]), (widths[0],), (5, 5, widths[0], widths[1]), (widths[1],),
        (49 * widths[1], widths[2]), (widths[2],), (widths[2], 10), (10,),
    ]  # fmt: skip
    start = [normal(*s, seed=i) * np.float32(0.05 if len(s) > 1 else 0) for i, s in enumerate(shapes)]

    def own(p: Any, x: Any, labels: Any, key: Any) -> Any:
        x = mps.max_pool(mps.conv(x, p[0], p[1], neuron="relu"), 2)
        x = mps.max_pool(mps.conv(x, p[2], p[3], neuron="relu"), 2)
        x = mps.dense(x.reshape(batch, -1), p[4], p[5], neuron="relu")
        x = mps.dropout(x, key, keep_probability=0.5)
        return mps.losses.softmax_cross_entropy(mps.dense(x, p[6], p[7]), labels, reduction="mean")

    def plain(p: Any, x: Any, labels: Any, key: Any) -> Any:
        def conv(x: Any, w: Any, b: Any) -> Any:
            y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return lax.reduce_window(jax.nn.relu(y + b), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

        x = conv(conv(x, p[0], p[1]), p[2], p[3]).reshape(batch, -1)
        x = jax.nn.relu(x @ p[4] + p[5])
        x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x / 0.5, 0)
        picked = jnp.take_along_axis(jax.nn.log_softmax(x @ p[6] + p[7]), labels[:, None], 1)
        return -jnp.mean(picked)

    def run(
        loss: Callable[..., Any], optimizer: Any, apply: Callable[..., Any], whole: Callable[..., Any] = lambda f: f
    ) -> Callable[[], Any]:
        params = [jnp.asarray(a) for a in start]
        held = [params, optimizer.init(params), jax.random.key(0)]
        data = jnp.asarray(x), jnp.asarray(labels, jnp.int32)

        def step(params: Any, state: Any, key: Any) -> Any:
            key, now = jax.random.split(key)
            value, gradients = jax.value_and_grad(loss)(params, *data, now)
            params, state = apply(optimizer, gradients, state, params)
            return params, state, key, value

        jitted = jax.jit(whole(step), donate_argnums=(0, 1))

        def once() -> None:
            *held[:], value = jitted(*held)
            value.block_until_ready()

        return once

    def updates(optimizer: Any, gradients: Any, state: Any, params: Any) -> Any:
        change, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, change), state

    engines = {
        "jax_mps": run(own, mps.optim.adam(1e-3), mps.optim.step, mps.graph),
        "per op": run(own, mps.optim.adam(1e-3), mps.optim.step),
        "xla": run(plain, optax.adam(1e-3), updates),
    }
    if torch:
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, widths[0], 5, padding=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(widths[0], widths[1], 5, padding=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
            torch.nn.Flatten(), torch.nn.Linear(49 * widths[1], widths[2]), torch.nn.ReLU(),
            torch.nn.Dropout(0.5), torch.nn.Linear(widths[2], 10),
        ).to(memory_format=torch.channels_last)  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), fused=True)
        xt, lt = nchw(x), torch.from_numpy(labels)

        def torch_step() -> float:
            optimizer.zero_grad()
            value = F.cross_entropy(net(xt), lt)
            value.backward()
            optimizer.step()
            return value.item()

        engines["torch"] = torch_step
    macs = 784 * 25 * widths[0] + 196 * 25 * widths[0] * widths[1] + 49 * widths[1] * widths[2] + widths[2] * 10
    first = 784 * 25 * widths[0]  # the first layer needs no data gradient
    yield Bench(f"digits step, batch {batch}", engines, flops=2.0 * batch * (3 * macs - first))


SECTIONS: dict[str, Callable[[], Iterator[Bench]]] = {
    "conv": conv,
    "pool": pool,
    "norm": norm,
    "loss": loss,
    "optim": optim,
    "digits": digits,
    "graph": graph,
    "rnn": rnn,
    "overhead": overhead,
    "busy": busy,
}
