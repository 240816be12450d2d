"""The optimizers: against optax, and against the printed formulas in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_common import (
    EACH,
    STEPS,
    assert_trees_near,
    by_step,
    by_update,
    each,
    gradients_of,
    optim,
    params_of,
    schedule,
)

import jax_mps as mps


@pytest.fixture(autouse=True)
def optax_promotes():
    """optax's own transformations do not run under strict promotion; ours do, see test_strict_promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


AS_OPTAX = {
    "sgd": (optim.sgd(0.1), optax.sgd(0.1)),
    "sgd, momentum": (optim.sgd(0.1, 0.9), optax.sgd(0.1, 0.9)),
    "sgd, nesterov": (optim.sgd(0.1, 0.9, True), optax.sgd(0.1, 0.9, True)),
    "sgd, schedule": (optim.sgd(schedule, 0.9), optax.sgd(schedule, 0.9)),
    "sgd, traced rate": (optim.sgd(jnp.float32(0.1), jnp.float32(0.9)), optax.sgd(0.1, 0.9)),
    "sgd, tensorflow": (optim.sgd(schedule, 0.9, variant="tensorflow"), optax.sgd(schedule, 0.9)),
    "adam": (optim.adam(0.1), optax.adam(0.1)),
    "adam, all numbers": (optim.adam(0.1, 0.8, 0.95, 1e-3, 1e-2), optax.adam(0.1, 0.8, 0.95, 1e-3, 1e-2)),
    "adam, schedule": (optim.adam(schedule), optax.adam(schedule)),
    "nadam": (optim.adam(0.1, nesterov=True), optax.nadam(0.1)),
    "amsgrad": (optim.adam(0.1, b2=0.9, amsgrad=True), optax.amsgrad(0.1, b2=0.9)),
    "rmsprop": (optim.rmsprop(0.1), optax.rmsprop(0.1)),
    "rmsprop, scale": (optim.rmsprop(0.1, 0.8, 1e-2, 1.0), optax.rmsprop(0.1, 0.8, 1e-2, 1.0)),
    "rmsprop, eps outside": (optim.rmsprop(0.1, eps_in_sqrt=False), optax.rmsprop(0.1, eps_in_sqrt=False)),
    "rmsprop, centered": (optim.rmsprop(0.1, centered=True), optax.rmsprop(0.1, centered=True)),
    "rmsprop, momentum": (optim.rmsprop(schedule, momentum=0.9), optax.rmsprop(schedule, momentum=0.9)),
    "rmsprop, nesterov": (
        optim.rmsprop(0.1, momentum=0.9, nesterov=True),
        optax.rmsprop(0.1, momentum=0.9, nesterov=True),
    ),
    "rmsprop, centered momentum": (
        optim.rmsprop(0.1, centered=True, momentum=0.9),
        optax.rmsprop(0.1, centered=True, momentum=0.9),
    ),
    "rmsprop, centered nesterov": (
        optim.rmsprop(0.1, centered=True, momentum=0.9, nesterov=True),
        optax.rmsprop(0.1, centered=True, momentum=0.9, nesterov=True),
    ),
    "rmsprop, bias correction": (optim.rmsprop(0.1, bias_correction=True), optax.rmsprop(0.1, bias_correction=True)),
    "l2": (
        optim.adam(0.1, regularization="l2", regularization_scale=0.3),
        optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1)),
    ),
    "clip": (optim.sgd(0.1, gradient_clip=(-1.0, 1.0)), optax.chain(optax.clip(1.0), optax.sgd(0.1))),
    "rescale": (optim.sgd(0.1, gradient_rescale=0.25), optax.chain(optax.scale(0.25), optax.sgd(0.1))),
}


@pytest.mark.parametrize("name", AS_OPTAX)
@pytest.mark.parametrize("advance", [by_update, by_step])
def test_as_optax(device, name, advance):
    ours, theirs = AS_OPTAX[name]
    assert_trees_near(advance(ours, params_of()), by_update(theirs, params_of()))


@pytest.mark.skipif(mps.device() != "cpu", reason="where XLA computes updates alone")
@pytest.mark.parametrize("name", AS_OPTAX)
def test_updates_move_no_more_memory_than_optax(name):
    def moved(optimizer):
        def train(gradients, state, params):
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        params = jnp.ones((300, 400))
        compiled = jax.jit(train).lower(params, optimizer.init(params), params).compile()
        return compiled.cost_analysis()["bytes accessed"] / params.nbytes

    ours, theirs = map(moved, AS_OPTAX[name])
    assert 3 <= ours <= theirs + 0.01


@pytest.mark.parametrize("name", ["sgd, nesterov", "adam", "rmsprop, centered momentum"])
def test_float64(name):
    with jax.enable_x64(True):
        ours, theirs = AS_OPTAX[name]
        params = params_of(jnp.float64)
        assert_trees_near(by_update(ours, params), by_update(theirs, params), 1e-9, 1e-9)


# The formulas as they are printed, in float64: g, w, state of any arrays, t from 1 -> w.
def sgd_mps(g, w, s, t, lr=0.1, momentum=0.9):
    s["m"] = momentum * s["m"] + lr(t) * g
    return w - s["m"]


def adam_mps(g, w, s, t, lr=0.1, b1=0.9, b2=0.9, eps=0.05):
    s["m"], s["v"] = b1 * s["m"] + (1 - b1) * g, b2 * s["v"] + (1 - b2) * g * g
    return w - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * s["m"] / (np.sqrt(s["v"]) + eps)


def amsgrad_mps(g, w, s, t, lr=0.1, b1=0.9, b2=0.9, eps=0.05):
    s["m"], s["v"] = b1 * s["m"] + (1 - b1) * g, b2 * s["v"] + (1 - b2) * g * g
    s["x"] = np.maximum(s["x"], s["v"])
    return w - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * s["m"] / (np.sqrt(s["x"]) + eps)


def rmsprop_mps(g, w, s, t, lr=0.1, decay=0.8, eps=0.05):
    s["v"] = decay * s["v"] + (1 - decay) * g * g
    return w - lr * g / (np.sqrt(s["v"]) + eps)


def rmsprop_tensorflow(g, w, s, t, decay=0.8, momentum=0.9, eps=0.05, centered=False):
    s["v"] = decay * s["v"] + (1 - decay) * g * g
    s["x"] = decay * s["x"] + (1 - decay) * g
    spread = s["v"] - s["x"] ** 2 if centered else s["v"]
    s["m"] = momentum * s["m"] + schedule64(t) * g / np.sqrt(spread + eps)
    return w - s["m"]


def preprocessed(g, w, kind):
    return np.clip(g, -1.5, 1.0) * 0.5 + 0.3 * (np.sign(w) if kind == "l1" else w)


def schedule64(t):
    return 0.1 / t


PRINTED = {
    "sgd mps": (optim.sgd(lambda n: 0.1 / (n + 1), 0.9, variant="mps"), functools.partial(sgd_mps, lr=schedule64)),
    "adam mps": (optim.adam(0.1, 0.9, 0.9, 0.05, variant="mps"), adam_mps),
    "adam tensorflow": (optim.adam(0.1, 0.9, 0.9, 0.05, variant="tensorflow"), adam_mps),
    "amsgrad mps": (optim.adam(0.1, 0.9, 0.9, 0.05, amsgrad=True, variant="mps"), amsgrad_mps),
    "rmsprop mps": (optim.rmsprop(0.1, 0.8, 0.05, variant="mps"), rmsprop_mps),
    "rmsprop tensorflow": (
        optim.rmsprop(lambda n: 0.1 / (n + 1), 0.8, 0.05, momentum=0.9, variant="tensorflow"),
        rmsprop_tensorflow,
    ),
    "rmsprop tensorflow, centered": (
        optim.rmsprop(lambda n: 0.1 / (n + 1), 0.8, 0.05, centered=True, momentum=0.9, variant="tensorflow"),
        functools.partial(rmsprop_tensorflow, centered=True),
    ),
    **{
        f"preprocessing {kind}": (
            optim.sgd(
                0.1,
                regularization=kind,
                regularization_scale=0.3,
                gradient_clip=(-1.5, 1.0),
                gradient_rescale=0.5,
            ),
            lambda g, w, s, t, kind=kind: w - 0.1 * preprocessed(g, w, kind),
        )
        for kind in ("l1", "l2")
    },
}


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.parametrize("advance", [by_update, by_step])
def test_printed_formulas(device, name, advance):
    ours, formula = PRINTED[name]
    start = params_of()
    wanted = []
    for i, w in enumerate(jax.tree.leaves(start)):
        w, s = np.asarray(w, np.float64), dict.fromkeys("mvx", 0.0)
        for k in range(STEPS):
            w = formula(np.asarray(jax.tree.leaves(gradients_of(start, k))[i], np.float64), w, s, k + 1)
        wanted.append(w)
    for got, w in zip(jax.tree.leaves(advance(ours, start)), wanted, strict=True):
        np.testing.assert_allclose(got, w, rtol=3e-5, atol=3e-5)


@each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_half_precision(native, name, dtype):
    """One step from the same rounded numbers: only the rounding of the results differs from float32."""
    optimizer = EACH[name]()
    half = params_of(dtype)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    gradients = gradients_of(half, 1)
    wide_gradients = jax.tree.map(lambda x: x.astype(jnp.float32), gradients)
    got, state = jax.jit(functools.partial(optim.step, optimizer))(gradients, optimizer.init(half), half)
    wanted, _ = optim.step(optimizer, wide_gradients, optimizer.init(wide), wide)
    assert_trees_near(got, jax.tree.map(lambda x: x.astype(dtype), wanted), 0, 0)
    updates, new_state = jax.jit(optimizer.update)(gradients, optimizer.init(half))
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, half)
    assert jax.tree.map(lambda x: x.dtype, new_state) == jax.tree.map(lambda x: x.dtype, optimizer.init(half))
    assert_trees_near(state, new_state, 0, 0)


def test_mixed_precision(native):
    half = params_of(jnp.bfloat16)
    for optimizer in (optim.adam(0.1, mu_dtype=jnp.float32), optim.sgd(0.1, 0.9, accumulator_dtype=jnp.float32)):
        state = optimizer.init(half)
        kept = state.mu if hasattr(state, "mu") else state.trace
        assert kept["w"].dtype == jnp.float32
        updates, _ = optimizer.update(gradients_of(half, 0), state)
        assert updates["w"].dtype == jnp.float32  # as optax: the widest of gradient and state
        params, new = optim.step(optimizer, gradients_of(half, 0), state, half)
        assert params["w"].dtype == jnp.bfloat16
        assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    state = optim.adam(0.1).init(params_of())  # float32 state, bfloat16 gradients and parameters
    params, new = optim.step(optim.adam(0.1), gradients_of(half, 0), state, half)
    assert params["w"].dtype == jnp.bfloat16 and new.nu["w"].dtype == jnp.float32
    assert optim.adam(0.1, mu_dtype="bfloat16").init(params_of()).mu["w"].dtype == jnp.bfloat16


@each
def test_one_native_call(native, name):
    optimizer = EACH[name]()
    params = params_of()
    updates_run_on = "xla" if native == "cpu" else native  # which fuses what applies them
    forms = (
        (optimizer.update, updates_run_on),
        (functools.partial(optim.step, optimizer), native),
        (mps.graph(optimizer.update), native),
    )
    for function, device in forms:
        rows = mps.explain(function, params, optimizer.init(params), params)
        rows = [r for r in rows if r.op in ("sgd", "adam", "rmsprop")]
        assert [(r.count, r.device) for r in rows] == [(1, device)]
        assert (device != "xla") or "mps.optim.step is one call" in rows[0].implementation


@each
def test_nonfinite_gradients_as_in_the_meaning(name):
    params = {"w": jnp.array([1.0, -1.0, 0.0, 2.0, jnp.nan, jnp.inf])}
    gradients = {"w": jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0, 1.0, 1.0])}
    options = dict(regularization="l1", regularization_scale=0.1, gradient_clip=(-jnp.inf, 5.0))
    optimizer = EACH[name](**options)
    results = []
    for device in ("cpu", "reference"):
        with mps.set_device(device):
            results.append(optim.step(optimizer, gradients, optimizer.init(params), params))
    assert_trees_near(*results)


@each
def test_donated_is_in_place_and_undonated_is_kept(native, name):
    optimizer = EACH[name]()
    function = lambda p, s, g: optim.step(optimizer, g, s, p)  # noqa: E731
    params = {"w": jnp.ones((300, 100)), "b": jnp.ones(7)}
    gradients = gradients_of(params, 0)
    wanted = jax.jit(function)(params, optimizer.init(params), gradients)
    np.testing.assert_array_equal(params["w"], 1)
    step = jax.jit(function, donate_argnums=(0, 1))
    compiled = step.lower(params, optimizer.init(params), gradients).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 10_000
    params, state = jax.tree.map(jnp.copy, (params, optimizer.init(params)))
    addresses = lambda tree: [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree) if x.size > 1]  # noqa: E731
    before = addresses((params, state))
    got = step(params, state, gradients)
    assert addresses(got) == before
    assert_trees_near(got, wanted, 0, 0)


@each
def test_repeats_bit_for_bit(native, name):
    params = {"w": jnp.linspace(-1, 1, 200_003)}
    first = by_step(EACH[name](), params, 3)
    for _ in range(5):
        np.testing.assert_array_equal(by_step(EACH[name](), params, 3)["w"], first["w"])
