"""The Metal device as a whole: one command buffer a step, no leaks, the CPU device's numbers. Needs a build with it."""

import ctypes
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mps as mps
from jax_mps import ffi, nn

pytestmark = pytest.mark.skipif(
    os.environ.get("JAX_MPS_DEVICE") != "metal", reason="JAX_MPS_DEVICE=metal asks for the Metal device"
)


def information():
    return dict(ffi.native().metal_information())


def counted(name, run):
    """What `run` adds to a count of the device."""
    before = int(information()[name])
    run()
    return int(information()[name]) - before


@functools.cache
def simulator():
    """The simulated Metal's own counts, or None on a Mac."""
    loaded = Path("/proc/self/maps")
    lines = loaded.read_text().splitlines() if loaded.exists() else []
    paths = {line.split()[-1] for line in lines if "libmetal_sim" in line}
    return ctypes.CDLL(paths.pop()) if paths else None


def network():
    return nn.Sequential(
        nn.Conv(4, 5, neuron="relu"),
        nn.MaxPool(2),
        nn.Conv(8, 3, neuron="relu"),
        nn.MaxPool(2),
        nn.Flatten(),
        nn.Dense(32, neuron="relu"),
        nn.Dropout(0.5),
        nn.Dense(10),
    )


def training(size=12, batch=8):
    """A training step of a small network of the digits' kind, its state and its batches."""
    net, optimizer = network(), mps.optim.adam(3e-3)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, batch, size, size, 1), np.float32)
    labels = (np.abs(images).sum((2, 3, 4)) * 3).astype(np.int32) % 10
    params, _ = net.init(jax.random.key(0), (batch, size, size, 1))

    def step(params, state, images, labels, key):
        def loss(params):
            logits = net.apply(params, images, key=key, training=True)
            return mps.losses.softmax_cross_entropy(logits, labels, reduction="mean")

        value, gradients = jax.value_and_grad(loss)(params)
        return *mps.optim.step(optimizer, gradients, state, params), value

    return step, (params, optimizer.init(params)), list(zip(images, labels, strict=True))


def run(step, state, batches, count):
    params, optimizer_state = state
    losses = []
    for i in range(count):
        images, labels = batches[i % len(batches)]
        key = jax.random.fold_in(jax.random.key(1), i)
        params, optimizer_state, value = step(params, optimizer_state, images, labels, key)
        losses.append(float(value))
    return losses


@pytest.mark.parametrize("graphed", [False, True], ids=["ops", "graph"])
def test_trains_as_the_cpu_does(graphed):
    step, state, batches = training()
    curves = {}
    for device in ("metal", "cpu"):
        with mps.set_device(device):
            curves[device] = run(jax.jit(mps.graph(step) if graphed else step), state, batches, 60)
    np.testing.assert_allclose(curves["metal"], curves["cpu"], rtol=2e-3, atol=2e-3)
    assert np.mean(curves["metal"][-10:]) < curves["metal"][0]


def test_a_whole_step_is_one_command_buffer():
    step, state, batches = training()
    program = mps.graph(step).program(*state, *batches[0], jax.random.key(0))
    assert len(program) == 1
    assert program[0].text.startswith("device metal\n")
    compiled = jax.jit(mps.graph(step))
    run(compiled, state, batches, 1)
    assert counted("command_buffers", lambda: run(compiled, state, batches, 5)) == 5


def test_barriers_are_fewer_than_dispatches():
    step, state, batches = training()
    compiled = jax.jit(mps.graph(step))
    run(compiled, state, batches, 1)
    dispatches = counted("dispatches", lambda: run(compiled, state, batches, 1))
    barriers = counted("barriers", lambda: run(compiled, state, batches, 1))
    assert 0 < barriers < dispatches


def test_steps_leak_nothing():
    if simulator() is None:
        pytest.skip("counts the objects of the simulated Metal")
    simulator().metal_sim_live.restype = ctypes.c_long
    simulator().metal_sim_live_bytes.restype = ctypes.c_long
    net = mps.graph(lambda x, w: jnp.tanh(x @ w) * 0.5 + x)
    step = jax.jit(net)
    w = jnp.eye(8) * 0.5
    x = step(jnp.ones((4, 8)), w).block_until_ready()
    before = simulator().metal_sim_live(None), simulator().metal_sim_live_bytes()
    for _ in range(1000):
        x = step(x, w)
    x.block_until_ready()
    after = simulator().metal_sim_live(None), simulator().metal_sim_live_bytes()
    assert after == before


def test_repeats_bit_for_bit():
    step, state, batches = training()
    compiled = jax.jit(mps.graph(step))
    first = run(compiled, state, batches, 3)
    for _ in range(5):
        assert run(compiled, state, batches, 3) == first


def test_donated_state_is_updated_in_place():
    step = jax.jit(mps.graph(lambda s, g: {"w": s["w"] - 0.1 * g, "n": s["n"] + 1.0}), donate_argnums=0)
    state, wanted = {"w": jnp.ones(5000), "n": jnp.zeros(3)}, np.ones(5000, np.float32)
    for i in range(20):
        g = np.full(5000, i, np.float32)
        state, wanted = step(state, jnp.asarray(g)), wanted - np.float32(0.1) * g
    np.testing.assert_allclose(state["w"], wanted, rtol=1e-5)
    assert state["n"].tolist() == [20, 20, 20]


def test_explain_names_the_device():
    row = mps.explain(mps.relu, jnp.ones(8))[0]
    assert (row.device, row.implementation) == ("metal", "neuron")
    row = mps.explain(lambda x: mps.dropout(x, jax.random.key(0, impl="rbg"), keep_probability=0.5), jnp.ones(8))[0]
    assert row.device == "xla" and "threefry2x32 only" in row.implementation


def test_many_arrays_are_split_over_kernels():
    names = [f"x{i}" for i in range(70)]
    leaves = {n: jnp.full((6, 5), i, jnp.float32) for i, n in enumerate(names)}
    double = jax.jit(
        mps.graph(lambda leaves: {n: x * 2 + 1 for n, x in leaves.items()} | {"p": leaves["x0"] @ leaves["x1"].T})
    )
    got = double(leaves)
    for i, n in enumerate(names):
        assert np.all(np.asarray(got[n]) == 2 * i + 1)
