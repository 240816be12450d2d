"""Recurrent layers: what the table of cases cannot say."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import CELLS, assert_near, weights
from graph_common import normal

import jax_mps as mps
from jax_mps import interop, nn


@pytest.mark.parametrize("cell", CELLS)
def test_forward_kernel(native, cell):
    gates, run = CELLS[cell]
    table = mps.explain(run, normal(2, 3, 4), *weights(gates, 4, 5))
    assert {row.op for row in table if row.device == native} >= {cell.split()[0]}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_lengths_are_rows_cut(native, cell, reverse):
    gates, run = CELLS[cell]
    x, w, lengths = normal(4, 7, 3), weights(gates, 3, 5), [7, 0, 3, 1]
    y, last = run(x, *w, lengths=jnp.array(lengths), reverse=reverse)
    for row, n in enumerate(lengths):
        some_y, some_last = run(x[row : row + 1, :n], *w, reverse=reverse)
        assert_near(y[row : row + 1, :n], some_y)
        assert_near(jax.tree.map(lambda s: s[row : row + 1], last), some_last)  # noqa: B023
        h = last[0] if cell == "lstm" else last
        beyond = jnp.zeros_like(h[row]) if reverse else h[row]
        assert_near(y[row, n:], jnp.broadcast_to(beyond, y[row, n:].shape))


@pytest.mark.parametrize("cell", CELLS)
def test_reverse_is_flipped(native, cell):
    gates, run = CELLS[cell]
    x, w = normal(2, 6, 3), weights(gates, 3, 5)
    y, last = run(x, *w, reverse=True)
    flipped_y, flipped_last = run(x[:, ::-1], *w)
    assert_near((y, last), (flipped_y[:, ::-1], flipped_last))


@pytest.mark.parametrize("cell", CELLS)
def test_recompute_changes_nothing(native, cell):
    gates, run = CELLS[cell]
    operands = (normal(3, 9, 4), *weights(gates, 4, 6))
    loss = lambda *a, **k: jnp.sum(run(*a, **k)[0] ** 2)  # noqa: E731
    kept, again = (jax.grad(functools.partial(loss, recompute=r), (0, 1, 2, 3))(*operands) for r in (False, True))
    assert_near(kept, again)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_nan_stays(native, cell, where):
    gates, run = CELLS[cell]
    operands = [normal(2, 4, 3), *weights(gates, 3, 5)]
    bad = operands[where].at[(0,) * operands[where].ndim].set(jnp.nan)
    operands[where] = bad
    both = jax.jit(lambda *a: (run(*a)[0], jax.grad(lambda *a: jnp.sum(run(*a)[0]), (0, 1, 2, 3))(*a)))
    y, gradients = both(*operands)
    with mps.set_device("reference"):
        wanted, wanted_gradients = both(*operands)
    assert np.array_equal(np.isnan(y), np.isnan(wanted)) and np.isnan(y).any()
    for got, expected in zip(gradients, wanted_gradients, strict=True):
        assert np.array_equal(np.isnan(got), np.isnan(expected))


def test_large_sums_saturate(native):
    x = jnp.array([[[1e30], [-1e30], [jnp.inf]]])
    y, _ = mps.lstm(x, jnp.ones((1, 8)), jnp.zeros((2, 8)))
    assert np.all(np.isfinite(y))


def test_repeats_bit_for_bit(native):
    operands = (normal(5, 30, 8), *weights(4, 8, 40))
    run = jax.jit(jax.grad(lambda *a: jnp.sum(mps.lstm(*a)[0] ** 2), (0, 1, 2, 3)))
    first = run(*operands)
    for _ in range(3):
        assert all(bool(jnp.all(a == b)) for a, b in zip(first, run(*operands), strict=True))


# Sizes at which each thread goes through all steps of its rows alone, shares every step's columns with the others, and
# where neither rows nor units fill the vectors; with several chunks of steps.
@pytest.mark.parametrize("batch, time, units", [(33, 3, 45), (5, 2, 260), (2, 5, 100), (40, 24, 17)])
@pytest.mark.parametrize("cell", CELLS)
def test_partitions(native, cell, batch, time, units):
    gates, run = CELLS[cell]
    operands = (normal(batch, time, 3), *weights(gates, 3, units))
    lengths = jnp.asarray(np.random.default_rng(0).integers(0, time + 1, batch).clip(1), jnp.int32)

    def both(*a):
        y, pull = jax.vjp(lambda *a: run(*a, lengths=lengths, reverse=units == 45)[0], *a)
        return y, pull(jnp.cos(y))

    got = both(*operands)
    with mps.set_device("reference"):
        wanted = both(*operands)
    assert_near(got, wanted, 2e-4)


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_linear_in_time(native, recompute):
    def numbers(time):  # of a unit and step, beside y and dy
        shapes = ((8, time, 16), (16, 256), (64, 256), (256,))
        loss = lambda *a: jnp.sum(mps.lstm(*a, recompute=recompute)[0] ** 2)  # noqa: E731
        operands = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
        memory = jax.jit(jax.grad(loss, (1, 2, 3))).lower(*operands).compile().memory_analysis()
        return memory.temp_size_in_bytes / 4 / (8 * 64)

    if mps.device() != "cpu":
        pytest.skip("what XLA keeps is the same on every device")
    each = (numbers(600) - numbers(200)) / 400 - 2
    assert each <= (1.3 if recompute else 5.3)  # dx, which nobody asked for, is a quarter here


# Layers


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.MGU, nn.RNN])
@pytest.mark.parametrize("direction", ["forward", "backward", "concatenate", "add"])
def test_layer(device, layer, direction):
    net = layer(5, layers=2, direction=direction)
    params, shape = net.init(jax.random.key(0), (2, 6, 3))
    x = normal(2, 6, 3)
    y = net.apply(params, x)
    assert y.shape == shape == (2, 6, 10 if direction == "concatenate" else 5)
    forward, backward = (layer(5, direction=d) for d in ("forward", "backward"))
    for some in params:
        ways = [way.apply(({d: some[d]},), x) for d, way in (("forward", forward), ("backward", backward)) if d in some]
        x = jnp.concatenate(ways, -1) if direction == "concatenate" else sum(ways[1:], ways[0])
    assert_near(y, x)


@pytest.mark.parametrize("layer", [nn.LSTM(5, layers=2), nn.GRU(5, layers=2, reset="after"), nn.RNN(5, layers=2)])
def test_chunks_carry_on(device, layer):
    params, _ = layer.init(jax.random.key(0), (2, 9, 3))
    x = normal(2, 9, 3)
    whole, last = layer.run(params, x)
    first, states = layer.run(params, x[:, :4])
    second, states = layer.run(params, x[:, 4:], states)
    assert_near((jnp.concatenate([first, second], 1), states), (whole, last))


def test_dropout_between_layers(device):
    net = nn.LSTM(50, layers=2, keep_probability=0.5)
    params, _ = net.init(jax.random.key(0), (2, 4, 3))
    x, key = normal(2, 4, 3), jax.random.key(1)
    y = net.apply(params, x, key=key, training=True)
    between = nn.LSTM(50).apply(params[:1], x)
    between = mps.dropout(between, jax.random.fold_in(key, 1), keep_probability=0.5)
    assert_near(y, nn.LSTM(50).apply(params[1:], between))
    assert_near(net.apply(params, x), net.apply(params, x, key=key))
    with pytest.raises(ValueError, match=r"nn\.LSTM: training with dropout needs a key, but got None"):
        net.apply(params, x, training=True)


def test_peephole_layer(device):
    net = nn.LSTM(5, peephole=True, bias=False)
    params, _ = net.init(jax.random.key(0), (2, 4, 3))
    assert params[0]["forward"]["peephole"].shape == (3, 5) and "b" not in params[0]["forward"]
    assert net.apply(params, normal(2, 4, 3)).shape == (2, 4, 5)
    with pytest.raises(ValueError, match=r"nn\.LSTM: peephole must be one of False, True, 'matrices', but got 'full'"):
        nn.LSTM(5, peephole="full").init(jax.random.key(0), (2, 4, 3))


def test_layers_of_matrices_and_other_neurons(device):
    x, key = normal(2, 4, 3), jax.random.key(0)
    net = nn.LSTM(5, peephole="matrices", gate_neuron="hard_sigmoid", output_neuron="softsign")
    p = net.init(key, x.shape)[0][0]["forward"]
    assert p["peephole"].shape == (3, 5, 5)
    p["peephole"] = normal(3, 5, 5)
    options = {"gate_neuron": "hard_sigmoid", "output_neuron": "softsign", "peephole": p["peephole"]}
    assert_near(net.apply(({"forward": p},), x), mps.lstm(x, p["w"], p["r"], p["b"], **options)[0])
    net = nn.GRU(5, memory=True, cell_neuron="elu")
    p = net.init(key, x.shape)[0][0]["forward"]
    wanted = mps.gru(x, p["w"], p["r"], p["b"], memory=p["memory"], cell_neuron="elu")[0]
    assert_near(net.apply(({"forward": p},), x), wanted)
    net = nn.MGU(5, gate_neuron="hard_sigmoid", cell_neuron="elu")
    p = net.init(key, x.shape)[0][0]["forward"]
    wanted = mps.mgu(x, p["w"], p["r"], p["b"], gate_neuron="hard_sigmoid", cell_neuron="elu")[0]
    assert_near(net.apply(({"forward": p},), x), wanted)


# MPS's cells


NEURONS = [
    *("none", "relu", ("leaky_relu", 0.2), ("linear", 0.7, 0.1), "hard_sigmoid", "absolute", "softplus", "softsign"),
    *("elu", ("relun", 0.1, 1.5), ("exponential", 0.3, 0.1), "gelu", ("tanh", 0.8, 1.2)),
]


@pytest.mark.parametrize("first", range(len(NEURONS)))
@pytest.mark.parametrize("cell", CELLS)
def test_all_neurons(native, cell, first):
    """Each as each of the cell's neurons in turn, beside others: kernels against meaning, value and gradient."""
    gates, run = CELLS[cell]
    names = {"lstm": ("gate_neuron", "cell_neuron", "output_neuron"), "rnn": ("neuron",)}
    names = names.get(cell, ("gate_neuron", "cell_neuron"))
    neurons = {name: NEURONS[(first + i) % len(NEURONS)] for i, name in enumerate(names)}
    operands = (normal(3, 4, 3), *(0.5 * w for w in weights(gates, 3, 9)))

    @jax.jit
    def both(*a):
        y, pull = jax.vjp(lambda *a: run(*a, **neurons)[0], *a)
        return y, pull(jnp.cos(y))

    got = both(*operands)
    with mps.set_device("reference"):
        wanted = both(*operands)
    assert_near(got, wanted, 2e-4)


def test_unit_without_recurrent_matrix_is_the_mgu(native):
    """MPS's GRU with the update gate's matrix alone."""
    x, (w, r, b), memory, zero = normal(2, 5, 3), weights(3, 3, 5), normal(5, 5), jnp.zeros((5, 5))
    y, h = mps.gru(x, w, r.at[:, 10:].set(zero), b, memory=memory)
    only = lambda v: jnp.concatenate([v[..., :5], v[..., 10:]], -1)  # noqa: E731
    assert_near((y, h), mps.mgu(x, only(w), jnp.concatenate([r[:, :5], memory], 1), only(b)))


def test_diagonal_matrices_are_the_vectors(native):
    operands, peephole = (normal(2, 5, 3), *weights(4, 3, 5)), normal(3, 5)
    matrices = jax.vmap(jnp.diag)(peephole)
    assert_near(mps.lstm(*operands, peephole=matrices), mps.lstm(*operands, peephole=peephole))


# Weights of other libraries

linen = pytest.importorskip("flax.linen")
FLAX = {
    "lstm": (linen.OptimizedLSTMCell, lambda *a: mps.lstm(*a), {}),
    "gru": (linen.GRUCell, functools.partial(mps.gru, reset="after"), {}),
    "rnn": (linen.SimpleCell, mps.rnn, {}),
}


def call(run, x, params):
    rest = {k: v for k, v in params.items() if k == "recurrent_bias"}
    return run(x, params["w"], params["r"], params.get("b"), **rest)[0]


@pytest.mark.parametrize("cell", FLAX)
def test_flax_linen(native, cell):
    kind, run, _ = FLAX[cell]
    peer, x = linen.RNN(kind(5)), normal(2, 6, 3)
    params = peer.init(jax.random.key(0), x)["params"]["cell"]
    params = jax.tree.map(lambda p: normal(*p.shape), params)  # biases too
    ours = interop.from_flax(cell, params)
    assert_near(call(run, x, ours), peer.apply({"params": {"cell": params}}, x))
    assert_near(dict(interop.to_flax(cell, ours)), dict(params))


@pytest.mark.parametrize("kind", ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"])
def test_flax_nnx(native, kind):
    from flax import nnx

    cell = {"GRUCell": "gru", "SimpleCell": "rnn"}.get(kind, "lstm")
    peer, x = getattr(nnx, kind)(3, 5, rngs=nnx.Rngs(0)), normal(2, 6, 3)
    params = nnx.to_pure_dict(nnx.state(peer, nnx.Param))
    y = nnx.RNN(peer)(x)
    assert_near(call(FLAX[cell][1], x, interop.from_flax(cell, params)), y)


def test_flax_names_missing():
    with pytest.raises(ValueError, match=r"from_flax: params must have ii, if, .* Pass those of a lstm cell"):
        interop.from_flax("lstm", {"hf": {}})
    with pytest.raises(ValueError, match=r"from_torch: weights must have weight_ih_l0, but got \[\]"):
        interop.from_torch("lstm", {})
    with pytest.raises(ValueError, match=r"to_keras: cell must be one of 'lstm', 'gru', 'rnn', but got 'mgu'"):
        interop.to_keras("mgu", {})
    with pytest.raises(ValueError, match=r"to_torch: weights must have no peephole, but got one"):
        interop.to_torch("lstm", [{"forward": {"peephole": jnp.ones(3)}}])
    with pytest.raises(ValueError, match=r"to_torch: weights must have no memory, but got one"):
        interop.to_torch("gru", [{"forward": {"memory": jnp.ones((3, 3))}}])
    with pytest.raises(ValueError, match=r"from_keras: weights must be \[kernel, recurrent_kernel\] or with bias"):
        interop.from_keras("lstm", [])


@pytest.mark.parametrize("after", [False, True])
def test_keras_gru(native, after):
    units = 5
    kernel, recurrent, x = normal(3, 15), normal(5, 15) * 0.3, normal(2, 6, 3)
    bias = normal(2, 15) if after else normal(15)
    ours = interop.from_keras("gru", [kernel, recurrent, bias])
    y = call(functools.partial(mps.gru, reset="after" if after else "before"), x, ours)
    h = jnp.zeros((2, units))  # Keras's own formula, gates z, r, h
    for t in range(6):
        z, r, n = jnp.split(x[:, t] @ kernel + (bias[0] if after else bias)[None], 3, axis=1)
        uz, ur, un = jnp.split(recurrent, 3, axis=1)
        bz, br, bn = jnp.split(bias[1][None], 3, axis=1) if after else (0.0, 0.0, 0.0)
        z, r = jax.nn.sigmoid(z + h @ uz + bz), jax.nn.sigmoid(r + h @ ur + br)
        n = jnp.tanh(n + r * (h @ un + bn)) if after else jnp.tanh(n + (r * h) @ un)
        h = z * h + (1 - z) * n
        assert_near(y[:, t], h, 1e-4)
    back = interop.from_keras("gru", interop.to_keras("gru", ours))
    assert_near(back, ours)
    assert jax.tree.map(jnp.shape, interop.to_keras("gru", ours)) == [kernel.shape, recurrent.shape, bias.shape]


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_keras_is_our_layout(cell):
    gates = {"lstm": 4, "rnn": 1}[cell]
    arrays = [np.asarray(a) for a in weights(gates, 3, 5)]
    assert_near(interop.to_keras(cell, interop.from_keras(cell, arrays)), arrays)
    assert set(interop.from_keras(cell, arrays[:2])) == {"w", "r"}


# Against PyTorch


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_torch_stack(native, cell, bidirectional):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer = getattr(torch.nn, cell.upper())(3, 5, 2, batch_first=True, bidirectional=bidirectional)
    ours = {"lstm": nn.LSTM, "gru": functools.partial(nn.GRU, reset="after"), "rnn": nn.RNN}[cell]
    net = ours(5, layers=2, direction="concatenate" if bidirectional else "forward")
    params = interop.from_torch(cell, peer.state_dict())
    x, dy = np.array(normal(4, 7, 3)), normal(4, 7, 10 if bidirectional else 5, seed=1)
    y, pull = jax.vjp(net.apply, params, jnp.asarray(x))
    dparams, dx = pull(dy)
    xt = torch.from_numpy(x).requires_grad_()
    yt, _ = peer(xt)
    yt.backward(torch.from_numpy(np.array(dy)))
    assert_near((y, dx), (yt.detach().numpy(), xt.grad.numpy()), 1e-4)
    got = interop.to_torch(cell, dparams)
    for name, tensor in peer.named_parameters():
        if "bias_hh" not in name:  # summed with bias_ih here
            assert_near(got[name], tensor.grad.numpy(), 1e-4)
    back = getattr(torch.nn, cell.upper())(3, 5, 2, batch_first=True, bidirectional=bidirectional)
    back.load_state_dict({k: torch.from_numpy(v) for k, v in interop.to_torch(cell, params).items()})
    assert_near(back(xt)[0].detach().numpy(), yt.detach().numpy(), 1e-5)


def test_torch_lengths_and_states(native):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer = torch.nn.LSTM(3, 5, batch_first=True)
    params = interop.from_torch("lstm", peer.state_dict())[0]["forward"]
    x, h0, c0 = (np.array(normal(*s)) for s in ((3, 6, 3), (3, 5), (3, 5)))
    lengths = [6, 4, 2]
    y, (h, c) = mps.lstm(x, params["w"], params["r"], params["b"], h0, c0, lengths=jnp.array(lengths))
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.from_numpy(x), lengths, batch_first=True)
    yt, (ht, ct) = peer(packed, (torch.from_numpy(h0)[None], torch.from_numpy(c0)[None]))
    yt, _ = torch.nn.utils.rnn.pad_packed_sequence(yt, batch_first=True)
    for row, n in enumerate(lengths):
        assert_near(y[row, :n], yt[row, :n].detach().numpy())
    assert_near((h, c), (ht[0].detach().numpy(), ct[0].detach().numpy()))
