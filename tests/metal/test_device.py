"""The Metal device as a whole: one command buffer a step, no leaks, the CPU device's numbers. Needs a build with it."""

import ctypes
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metal_common import counted, information, network, pytestmark, simulator  # noqa: F401
from setting import ROOT

import jax_mps as mps
from jax_mps import nn


def copied(tree):
    """Its arrays anew, to be donated."""
    return jax.tree.map(jnp.copy, tree)


def training(size=12, batch=8, net=None):
    """A training step of a small network of the digits' kind, its state and its batches."""
    net, optimizer = net or network(), mps.optim.adam(3e-3)
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


@pytest.mark.slow
def test_digits_train_as_on_the_cpu():
    """The example's network at a small width, on its digits, for a few hundred steps."""
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    path = ROOT / "examples/digits.py"
    spec = importlib.util.spec_from_file_location("digits", path)
    digits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(digits)
    data, _ = digits.load(seed=0)
    step, state, _ = training(28, 8, digits.network(2))
    order = np.random.default_rng(0).permutation(len(data.labels))[:1424].reshape(-1, 8)
    batches = [(data.images[batch], data.labels[batch]) for batch in order]
    curves = {}
    for device in ("metal", "cpu"):
        with mps.set_device(device):
            curves[device] = run(jax.jit(mps.graph(step), donate_argnums=(0, 1)), copied(state), batches, 200)
    # Rounding grows from step to step.
    np.testing.assert_allclose(curves["metal"][:50], curves["cpu"][:50], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(curves["metal"], curves["cpu"], rtol=2e-2, atol=2e-2)
    assert np.mean(curves["metal"][-20:]) < 0.7 * np.mean(curves["metal"][:5])


def test_sums_in_half_where_the_caller_allows():
    x, w = (
        jnp.asarray(np.random.default_rng(0).standard_normal(s), jnp.float16) for s in ((2, 8, 8, 8), (3, 3, 8, 16))
    )
    row = mps.explain(lambda x, w: mps.conv(x, w, accumulator="half"), x, w)[0]
    assert row.device == "metal" and row.implementation.endswith("sums in half")
    wanted = np.asarray(mps.conv(x, w), np.float32)
    for tile in (mps.conv, lambda x, w, **options: mps.conv(x, w, b=jnp.zeros(16, jnp.float16), **options)):
        np.testing.assert_allclose(np.asarray(tile(x, w, accumulator="half"), np.float32), wanted, atol=0.1)
    gradient = jax.grad(lambda x: jnp.sum(mps.conv(x, w, accumulator="half").astype(jnp.float32)))(x)
    assert np.all(np.isfinite(np.asarray(gradient)))


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
    net, optimizer = nn.Sequential(nn.Dense(4, neuron="relu"), nn.Dense(3)), mps.optim.adam(1e-2)
    images, labels = jnp.asarray(np.random.default_rng(0).standard_normal((5, 6)), jnp.float32), jnp.arange(5) % 3

    def step(params, state):
        def loss(params):
            return mps.losses.softmax_cross_entropy(net.apply(params, images), labels, reduction="mean")

        value, gradients = jax.value_and_grad(loss)(params)
        return *mps.optim.step(optimizer, gradients, state, params), value

    params, _ = net.init(jax.random.key(0), images.shape)
    state, first, counts = optimizer.init(params), None, []
    step = jax.jit(mps.graph(step), donate_argnums=(0, 1))
    for i in range(1010):
        params, state, value = step(params, state)
        value.block_until_ready()
        first = first or float(value)
        if i in (9, 1009):
            counts.append((simulator().metal_sim_live(None), simulator().metal_sim_live_bytes()))
    assert counts[0] == counts[1]
    assert float(value) < 0.1 * first


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
