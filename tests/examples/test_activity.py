"""The activity classifier: its data, its size, and its training against a twin in plain JAX."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import jax_mps as mps

pytest.importorskip("tqdm")


def test_parameters(activity):
    params, shape = activity.network(6).init(jax.random.key(0), (2, 2000, 6))
    assert activity.size(params) == 277_222 and shape == (2, 20, 6)


def test_people_are_apart(activity):
    people = activity.data.simulate(8, 2, 0)
    groups = activity.split(people, 0)
    assert [len(g.labels) for g in groups] == [10, 2, 4]
    signals = np.concatenate([g.signals for g in groups])
    assert len(np.unique(signals[:, 0, 0])) == 16 and np.all(np.isfinite(signals))
    assert abs(groups.train.signals.mean()) < 1e-3
    again = activity.data.simulate(8, 2, 0)
    assert all(np.array_equal(a.signals, b.signals) for a, b in zip(people, again, strict=True))


def test_at_rest_gravity_is_what_is_measured(activity):
    data, rng = activity.data, np.random.default_rng(0)
    for name in ("sitting", "standing"):
        signal = data.bout(data.person(rng), name, 500, rng)
        assert abs(np.linalg.norm(signal[:, :3], axis=1).mean() - 1) < 0.1


def test_csv(activity, tmp_path):
    data = activity.data
    rows = ["person,activity,ax,ay,az,gx,gy,gz"]
    rows += [f"ann,{'rest' if i < 240 else 'walk'},{i},0,1,0,0,0" for i in range(2450)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    (tmp_path / "b.csv").write_text("\n".join([rows[0]] + [r.replace("ann", "bob") for r in rows[1:150]]))
    people, names = data.read(str(tmp_path))
    assert names == ("rest", "walk") and [len(p.labels) for p in people] == [2, 1]
    ann, bob = people
    assert ann.labels[0, :4].tolist() == [0, 0, 1, 1]  # 240 of rest: the third window's majority walks
    assert ann.weights.sum() == 24 and bob.weights.sum() == 1 and ann.signals[0, 7, 0] == 7
    (tmp_path / "c.csv").write_text("person,activity,ax\nx,y,1")
    with pytest.raises(ValueError, match=r"c\.csv: columns ay, az, gx, gy, gz are missing\. Write them"):
        data.read(str(tmp_path))
    (tmp_path / "c.csv").write_text(rows[0] + "\nx,y,1,2,3,4,5,six")
    with pytest.raises(ValueError, match=r"c\.csv, line 2: every channel must be a number"):
        data.read(str(tmp_path))
    with pytest.raises(ValueError, match=r"there must be files named \*\.csv, but there are none"):
        data.read(str(tmp_path / "none"))


def twin(params, x, key):
    """The classifier in training, in plain JAX; only the dropout masks are jax_mps's."""
    conv, _, recurrent, dense, norm, _, last = params

    def drop(x, layer, keep):
        return x * mps.dropout(jnp.ones_like(x), jax.random.fold_in(key, layer), keep_probability=keep)

    x = lax.conv_general_dilated(x, conv["w"], (100,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
    x = drop(jax.nn.relu(x + conv["b"][None, None]), 1, 0.8)
    weights = recurrent[0]["forward"]
    sums = x @ weights["w"] + weights["b"][None, None]

    def step(state, z):
        h, c = state
        i, f, g, o = jnp.split(z + h @ weights["r"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[0], weights["r"].shape[0]))
    _, y = lax.scan(step, (zero, zero), jnp.moveaxis(sums, 1, 0))
    x = jnp.moveaxis(y, 0, 1) @ dense["w"] + dense["b"][None, None]
    mean, variance = jnp.mean(x, (0, 1), keepdims=True), jnp.var(x, (0, 1), keepdims=True)
    x = (x - mean) * lax.rsqrt(variance + 1e-3) * norm["gamma"][None, None] + norm["beta"][None, None]
    return drop(jax.nn.relu(x), 5, 0.5) @ last["w"] + last["b"][None, None]


@pytest.mark.slow
def test_loss_curve_is_that_of_plain_jax(activity, native):
    net, optimizer, plain = activity.network(6), mps.optim.adam(1e-3), optax.adam(1e-3)
    train = activity.split(activity.data.simulate(8, 8, 1), 0).train
    params, _ = net.init(jax.random.key(3), train.signals[:1].shape)
    state = activity.State(params, optimizer.init(params), jax.random.key(4))
    step = activity.stepper(net, optimizer)

    @jax.jit
    def plain_step(params, state, key, signals, labels, weights):
        key, now = jax.random.split(key)

        def objective(params):
            each = optax.softmax_cross_entropy_with_integer_labels(twin(params, signals, now), labels)
            return jnp.sum(each * weights) / jnp.sum(weights)

        value, gradients = jax.value_and_grad(objective)(params)
        updates, state = plain.update(gradients, state)
        return optax.apply_updates(params, updates), state, key, value

    other, other_state, other_key = jax.tree.map(jnp.copy, params), plain.init(params), jax.random.key(4)
    ours, theirs = [], []
    rng = np.random.default_rng(0)
    for _ in range(50):
        batch = [jnp.asarray(a[rows]) for rows in [rng.choice(len(train.labels), 16, False)] for a in train]
        state, value = step(state, *batch)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
            other, other_state, other_key, other_value = plain_step(other, other_state, other_key, *batch)
        ours.append(float(value))
        theirs.append(float(other_value))
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    assert ours[-1] < 0.5 * ours[0]


@pytest.mark.slow
def test_example_runs(activity, native, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["--people", "8", "--each", "4", "--epochs", "2", "--units", "16", "--target", "10"]
    monkeypatch.setattr(sys, "argv", ["activity.py", *few])
    assert activity.main() == 0
    assert (tmp_path / "activity.png").stat().st_size > 10_000
    assert "accuracy on people not seen before" in capsys.readouterr().out
