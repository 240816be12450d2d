"""The optimizers inside optax's wrappers, and JAX's transformations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_common import (
    EACH,
    assert_trees_near,
    by_step,
    by_update,
    each,
    optim,
    params_of,
    schedule,
)


@pytest.fixture(autouse=True)
def optax_promotes():
    """optax's own transformations do not run under strict promotion; ours do, see test_strict_promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_inject_hyperparams(native):
    pairs = [
        (optim.sgd, optax.sgd, {"learning_rate": 0.1, "momentum": 0.8}),
        (optim.adam, optax.adam, {"learning_rate": schedule, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-4}),
        (optim.rmsprop, optax.rmsprop, {"learning_rate": 0.1, "decay": 0.8, "eps": 1e-3, "momentum": 0.5}),
    ]
    for ours, theirs, options in pairs:
        wrapped = optax.inject_hyperparams(ours)(**options)
        assert_trees_near(by_update(wrapped, params_of()), by_update(theirs(**options), params_of()))
        assert_trees_near(by_step(wrapped, params_of()), by_update(theirs(**options), params_of()))
        hyperparams = wrapped.init(params_of()).hyperparams
        assert {"gradient_rescale", "regularization_scale", *options} <= set(hyperparams)


@each
def test_multi_steps(native, name):
    optimizer = optax.MultiSteps(EACH[name](), every_k_schedule=2)
    params = {"w": jnp.array([1.0, 2.0])}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    updates, state = update(params, state, params)
    np.testing.assert_array_equal(updates["w"], 0)
    updates, state = update(params, state, params)
    wanted, _ = EACH[name]().update(params, EACH[name]().init(params), params)
    assert_trees_near(updates, wanted)


@each
def test_masked_and_none(native, name):
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    optimizer = optax.masked(EACH[name](), {"a": True, "b": False})
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(params, state, params)
    wanted, _ = EACH[name]().update({"a": params["a"]}, EACH[name]().init({"a": params["a"]}))
    assert_trees_near(updates, {"a": wanted["a"], "b": params["b"]})
    missing = {"a": jnp.ones(3), "b": None}
    updates, state = EACH[name]().update(missing, EACH[name]().init(missing), missing)
    assert updates["b"] is None
    assert_trees_near(updates["a"], wanted["a"])
    full = EACH[name]().init(params)  # a gradient that is None leaves parameter and state as they are
    after, state = optim.step(EACH[name](), missing, full, params)
    np.testing.assert_array_equal(after["b"], params["b"])
    assert jax.tree.structure(state) == jax.tree.structure(full)


@each
def test_apply_if_finite_and_chain(native, name):
    optimizer = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), EACH[name]()), 3)
    params = {"w": jnp.array([1.0, 2.0])}
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)({"w": jnp.array([jnp.nan, 1.0])}, state, params)
    np.testing.assert_array_equal(updates["w"], 0)
    updates, state = jax.jit(optimizer.update)({"w": jnp.array([1.0, 1.0])}, state, params)
    assert np.all(np.asarray(updates["w"]) < 0)


@each
def test_map_params(native, name):
    optimizer = EACH[name]()
    params = params_of()
    state = optimizer.init(params)
    doubled = optax.tree.map_params(optimizer, lambda x: x + 1, state, transform_non_params=lambda x: x - 5)
    for field, value in doubled._asdict().items():
        if field == "count":
            assert value == -5
        elif value is not None:
            assert_trees_near(value, jax.tree.map(lambda x: x + 1, getattr(state, field)))


@each
def test_empty_scalar_and_extra_arguments(native, name):
    optimizer = EACH[name]()
    assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
    for empty in ({}, (), None):
        updates, state = optimizer.update(empty, optimizer.init(empty), empty, unexpected=1)
        assert updates == empty and optim.step(optimizer, empty, state, empty)[0] == empty
    updates, _ = optimizer.update(1.0, optimizer.init(1.0), 1.0, value=2.0)
    assert updates.shape == () and updates < 0


@each
def test_in_a_scan_and_a_cond(native, name):
    optimizer = EACH[name]()
    target = jnp.array([1.0, -1.0, 0.5])

    def body(carry, _):
        params, state = carry
        gradients = jax.grad(lambda p: jnp.sum((p - target) ** 2))(params)
        carry = jax.lax.cond(
            jnp.all(jnp.isfinite(gradients)), lambda: optim.step(optimizer, gradients, state, params), lambda: carry
        )
        return carry, None

    start = jnp.zeros(3)
    (params, state), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=100))((start, optimizer.init(start)))
    assert state.count == 100
    np.testing.assert_allclose(params, target, atol=0.15)


def test_vmap_and_derivative_of_the_rate(native):
    params, gradients = jnp.ones((3, 4)), jnp.arange(12.0).reshape(3, 4)
    optimizer = optim.adam(0.1)
    step = functools.partial(optim.step, optimizer)
    got, _ = jax.vmap(step)(gradients, jax.vmap(optimizer.init)(params), params)
    for i in range(3):
        assert_trees_near(got[i], step(gradients[i], optimizer.init(params[i]), params[i])[0])

    def after(rate):
        return jnp.sum(optim.step(optim.sgd(rate), gradients, optim.sgd(rate).init(params), params)[0])

    np.testing.assert_allclose(jax.grad(after)(0.1), -66.0)


def test_step_of_any_transformation(native):
    params = params_of()
    assert_trees_near(by_step(optax.lion(0.1), params), by_update(optax.lion(0.1), params))


def test_no_recompilation(native):
    optimizer = optim.adam(schedule)
    params = params_of()
    count = 0

    @jax.jit
    def step(gradients, state, params):
        nonlocal count
        count += 1
        return optim.step(optimizer, gradients, state, params)

    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state, params)
    assert count == 1


@each
def test_strict_promotion(native, name):
    with jax.numpy_dtype_promotion("strict"):
        by_step(EACH[name](gradient_rescale=jnp.bfloat16(0.5)), params_of(), 2)
        by_update(EACH[name](learning_rate=lambda count: jnp.float16(0.5)), params_of(), 2)
