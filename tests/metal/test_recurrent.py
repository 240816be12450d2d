"""Recurrent layers and loops on the Metal device: its own kernels, one command buffer, the CPU device's numbers."""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import CELLS, assert_near, normal, weights
from jax import lax
from metal_common import counted, network, pytestmark, simulator  # noqa: F401

import jax_mps as mps
from jax_mps.doctor import report


def with_extra(call, name, *shape):
    """A cell with one more operand, of x's dtype; None in its shape is the units."""

    def run(x, w, r, b, **options):
        units = r.shape[0]
        extra = normal(*(n or units for n in shape), seed=3) / units**0.5
        return call(x, w, r, b, **{name: extra.astype(x.dtype)}, **options)

    return run


PEEPHOLE = {"lstm with peepholes": (4, with_extra(mps.lstm, "peephole", 3, None))}
MATRICES = {
    "lstm with matrices": (4, with_extra(mps.lstm, "peephole", 3, None, None)),
    "gru with memory": (3, with_extra(mps.gru, "memory", None, None)),
}
_OTHER = {"gate_neuron": "hard_sigmoid", "cell_neuron": ("tanh", 0.9, 0.7)}
OTHER = {
    "lstm of other neurons": (4, functools.partial(mps.lstm, **_OTHER, output_neuron="softsign")),
    "gru of other neurons": (3, functools.partial(mps.gru, **_OTHER, reset="after")),
    "gru of other neurons before": (3, functools.partial(mps.gru, **_OTHER)),
    "mgu of other neurons": (2, functools.partial(mps.mgu, **_OTHER)),
    "lstm of other neurons with matrices": (4, functools.partial(MATRICES["lstm with matrices"][1], **_OTHER)),
    "gru of other neurons with memory": (3, functools.partial(MATRICES["gru with memory"][1], **_OTHER)),
}
ALL = CELLS | PEEPHOLE | MATRICES | OTHER


def both(cell, **options):
    """Results of a cell and the gradients of its operands."""
    _, call = ALL[cell]

    def loss(*operands):
        y, last = call(*operands, **options)
        return sum(jnp.sum(jnp.sin(v.astype(jnp.float32))) for v in jax.tree.leaves((y, last))), (y, last)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))


def on_cpu(function, *operands):
    with mps.set_device("cpu"):
        return function(*operands)


class TestRecurrent:
    @pytest.mark.parametrize("recompute", [False, True])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16], ids=lambda d: d.__name__)
    @pytest.mark.parametrize("cell", ALL)
    def test_kernels(self, cell, dtype, recompute):
        gates, _ = ALL[cell]
        operands = [v.astype(dtype) for v in (normal(2, 3, 4), *weights(gates, 4, 5))]
        rows = [r for r in mps.explain(both(cell, recompute=recompute), *operands) if cell.split()[0] in r.op]
        assert {(r.op.split("_")[-1], r.device, r.implementation) for r in rows} == {
            ("training", "metal", "steps"),
            ("gradient", "metal", "steps"),
        }

    @pytest.mark.parametrize("batch", [3, 12, 40])  # one, two and four SIMD-groups of rows
    @pytest.mark.parametrize("cell", ALL)
    def test_as_the_cpu(self, cell, batch):
        gates, _ = ALL[cell]
        operands = normal(batch, 4, 19), *weights(gates, 19, 21)
        lengths = jnp.arange(batch) % 5
        f = both(cell, lengths=lengths, reverse=batch > 3, recompute=batch > 12)
        assert_near(f(*operands), on_cpu(f, *operands), 1e-4)

    @pytest.mark.parametrize("cell", ALL)
    def test_all_that_training_keeps(self, cell):
        """Of rows that have ended, too."""
        gates, call = ALL[cell]
        operands = normal(4, 5, 3), *weights(gates, 3, 6)
        found = list(report.findings(functools.partial(call, lengths=jnp.arange(4) + 1), operands))
        assert {f.op.split("_")[-1] for f in found if f.native} >= {"training", "gradient"}
        assert max(f.error for f in found) < 2e-6

    @pytest.mark.parametrize("cell", CELLS | MATRICES)
    def test_many_rows_go_in_chunks(self, cell):
        gates, call = ALL[cell]
        operands = normal(64, 90, 2), *weights(gates, 2, 3)
        for reverse in (False, True):
            f = jax.jit(functools.partial(call, reverse=reverse))
            assert_near(f(*operands), on_cpu(f, *operands), 1e-4)

    @pytest.mark.parametrize(
        "cell, launches",
        [("lstm", 1), ("gru before", 2), ("gru", 1), ("mgu", 2), ("rnn", 1), *((cell, 2) for cell in MATRICES)],
    )
    def test_launches_a_step_in_one_command_buffer(self, cell, launches):
        gates, call = ALL[cell]
        f, counts = jax.jit(call), []
        for steps in (10, 30):
            operands = normal(2, steps, 3), *weights(gates, 3, 5)
            jax.block_until_ready(f(*operands))
            once = lambda: jax.block_until_ready(f(*operands))  # noqa: E731, B023
            assert counted("command_buffers", once) == 1
            counts.append(counted("dispatches", once))
        assert counts[1] - counts[0] == 20 * launches

    def test_so_many_steps_run_elsewhere(self):
        operands = jnp.ones((1, 40_000, 1)), *weights(4, 1, 1)
        (row,) = [r for r in mps.explain(mps.lstm, *operands) if r.op == "lstm"]
        assert row.device == "xla" and "the kernels take up to 32768 steps" in row.implementation

    @pytest.mark.parametrize("layout", ["CHW", "HWC"])
    def test_images_and_matrices(self, layout):
        def f(x):
            rows = mps.image_to_matrix(x, layout=layout)
            return mps.matrix_to_image(mps.relu(rows), x.shape[1:], layout=layout) * 2.0

        for x in (normal(2, 3, 4, 5), normal(2, 7, 3)):
            np.testing.assert_allclose(jax.jit(mps.graph(f))(x), np.maximum(x, 0) * 2)
            assert {row.device for row in mps.explain(mps.graph(f), x)} == {"metal"}


class TestLoops:
    def test_steps_of_training_are_one_command_buffer(self):
        net, optimizer = network(), mps.optim.adam(3e-3)
        params, _ = net.init(jax.random.key(0), (8, 12, 12, 1))

        def step(state, batch):
            def loss(params):
                logits = net.apply(params, batch[0])
                return mps.losses.softmax_cross_entropy(logits, batch[1], reduction="mean")

            params, slots = state
            value, gradients = jax.value_and_grad(loss)(params)
            return mps.optim.step(optimizer, gradients, slots, params), value

        state, batches = (params, optimizer.init(params)), (normal(5, 8, 12, 12, 1), jnp.arange(40).reshape(5, 8) % 10)
        train = jax.jit(mps.graph(functools.partial(lax.scan, step)))
        _, values = train(state, batches)
        assert counted("command_buffers", lambda: jax.block_until_ready(train(state, batches))) == 1
        wanted = on_cpu(jax.jit(functools.partial(lax.scan, step)), state, batches)[1]
        np.testing.assert_allclose(values, wanted, rtol=1e-4)

    @pytest.mark.parametrize("length", [8191, 8193, 20_000])
    def test_long_loops_take_command_buffers_by_their_work(self, length):
        f = jax.jit(mps.graph(lambda x, n: lax.fori_loop(0, length, lambda i, c: mps.relu(c + n), x)))
        x, n = jnp.zeros(3), jnp.array([1.0, 0.5, -1.0])
        np.testing.assert_array_equal(f(x, n), [length, length / 2, 0])
        buffers = counted("command_buffers", lambda: jax.block_until_ready(f(x, n)))
        assert buffers == {8191: 1, 8193: 1, 20_000: 3}[length]  # of 100 ms, by estimate

    def test_iterations_that_do_not_depend_on_each_other(self):
        def f(xs, ys):
            _, zs = lax.scan(lambda _, x: (None, (mps.relu(x), mps.tanh(x) * 2.0)), None, xs * ys)
            return jax.tree.map(lambda z: z + ys, zs)  # the stacks lie in the heap

        xs, ys = normal(7, 5), normal(7, 5, seed=1)
        assert_near(jax.jit(mps.graph(f))(xs, ys), f(xs, ys))

    def test_scanned_cells_of_flax(self):
        linen = pytest.importorskip("flax.linen")
        net = linen.RNN(linen.OptimizedLSTMCell(5))
        x = normal(2, 6, 3)
        params = net.init(jax.random.key(0), x)
        loss = lambda p, x: jnp.sum(mps.tanh(net.apply(p, x)))  # noqa: E731
        step = jax.value_and_grad(loss, (0, 1))
        assert_near(jax.jit(mps.graph(step))(params, x), step(params, x), 1e-4)
        rows = mps.explain(mps.graph(step), params, x)
        cells = {row.op: row.device for row in rows if row.op.startswith("lstm")}
        assert cells == {"lstm_training": "metal", "lstm_gradient": "metal"}
        assert not {"scan", "loop"} & {row.op for row in rows}

    def test_loops_leak_nothing(self):
        if simulator() is None:
            pytest.skip("counts the objects of the simulated Metal")
        f = jax.jit(mps.graph(lambda c, xs: lax.scan(lambda c, x: (mps.tanh(c + x), c * 2.0), c, xs)))
        args = normal(4), normal(6, 4)
        jax.block_until_ready(f(*args))
        live = simulator().metal_sim_live
        before = live(None)
        for _ in range(100):
            jax.block_until_ready(f(*args))
        assert live(None) == before


@pytest.mark.slow
def test_activity_trains_as_the_cpu_does(activity):
    """The example's own training, one epoch of the exact network with a narrower LSTM."""
    groups = activity.split(activity.data.simulate(6, 4, 0), 0)
    options = argparse.Namespace(seed=0, batch=8, epochs=1, patience=1)
    curves = {}
    for device in ("metal", "cpu"):
        with mps.set_device(device):
            _, curves[device] = activity.train(activity.network(6, 24), groups, options)
    assert len(curves["metal"]["loss"]) == 2 and len(curves["metal"]["validation"]) == 1
    np.testing.assert_allclose(curves["metal"]["loss"], curves["cpu"]["loss"], rtol=1e-4)
