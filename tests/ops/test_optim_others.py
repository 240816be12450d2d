"""Optimizers where float32 alone could go wrong: centred RMSProp's first steps, and leaves that no kernel takes."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_common import optim, schedule

STEPS = 12


@pytest.fixture(autouse=True)
def optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def gradients_of(kind, step, rng):
    base = np.array([1, -3, 0.01, 0.3, 0, 2], np.float32)
    if kind == "the same":
        return base
    if kind == "alike":
        return np.float32(base * (1 + 1e-3 * np.sin(7 * step + np.arange(base.size))))
    return np.float32(base * rng.standard_normal(base.size))


# The variance of gradients that are alike is lost in the difference of their mean square and their squared mean.
@pytest.mark.parametrize("kind", ["the same", "alike", "random"])
@pytest.mark.parametrize("bias_correction", [False, True])
def test_centered_rmsprop_as_optax_in_float64(device, kind, bias_correction):
    for inside, scale, momentum, decay in itertools.product((True, False), (0.0, 0.1), (None, 0.9), (0.9, 0.99)):
        options = dict(learning_rate=0.01, decay=decay, eps=1e-8 if inside else 1e-3, initial_scale=scale)
        options |= dict(eps_in_sqrt=inside, momentum=momentum, centered=True, bias_correction=bias_correction)
        ours, theirs = optim.rmsprop(**options), optax.rmsprop(**options)
        params = jnp.zeros(6)
        state, update, rng = ours.init(params), jax.jit(ours.update), np.random.default_rng(0)
        with jax.enable_x64(True):
            wanted_state = theirs.init(jnp.zeros(6, jnp.float64))
        for step in range(STEPS):
            g = gradients_of(kind, step, rng)
            updates, state = update(jnp.asarray(g), state, params)
            with jax.enable_x64(True):
                wanted, wanted_state = theirs.update(jnp.asarray(g, jnp.float64), wanted_state)
            assert np.isfinite(updates).all()
            wanted = np.where(np.isnan(wanted), updates, wanted)  # a root of less than 0, in float64, too
            np.testing.assert_allclose(updates, wanted, rtol=3e-4, atol=1e-9, err_msg=f"{options} step {step}")


TRANSFORMATIONS = {
    "sgd": (optim.sgd, optax.sgd, {}),
    "sgd schedule": (optim.sgd, optax.sgd, {"learning_rate": schedule, "momentum": 0.9, "nesterov": True}),
    "adam": (optim.adam, optax.adam, {"b1": 0.8, "eps_root": 1e-5}),
    "adam schedule": (optim.adam, optax.adam, {"learning_rate": schedule}),
    "nadam": (functools.partial(optim.adam, nesterov=True), optax.nadam, {}),
    "amsgrad": (functools.partial(optim.adam, amsgrad=True), optax.amsgrad, {}),
    "rmsprop": (optim.rmsprop, optax.rmsprop, {"momentum": 0.9}),
    "rmsprop centered": (optim.rmsprop, optax.rmsprop, {"centered": True, "momentum": 0.9, "nesterov": True}),
    "rmsprop corrected": (optim.rmsprop, optax.rmsprop, {"bias_correction": True, "initial_scale": 0.5}),
}


def leaves(rng, dtype):
    x = rng.standard_normal((5, 3)) * 4
    return jnp.asarray(x + 1j * rng.standard_normal((5, 3)) if dtype == "complex64" else x).astype(dtype)


@pytest.mark.parametrize("dtype", ["complex64", "int32", "mixed"])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_other_leaves_as_optax(native, name, dtype):
    of, theirs_of, options = TRANSFORMATIONS[name]
    options = {"learning_rate": 0.1} | options
    ours, theirs = of(**options), theirs_of(**options)
    dtypes = ["complex64", "float32", "int32"] if dtype == "mixed" else [dtype]
    rng = np.random.default_rng(0)
    params = [leaves(rng, d) for d in dtypes]
    state, wanted_state, stepped, stepped_state = ours.init(params), theirs.init(params), params, ours.init(params)
    wanted_params = params
    for step in range(4):
        g = [leaves(np.random.default_rng(step), d) for d in dtypes]
        updates, state = jax.jit(ours.update)(g, state, params)
        wanted, wanted_state = theirs.update(g, wanted_state, params)
        wanted_params = optax.apply_updates(wanted_params, wanted)
        stepped, stepped_state = optim.step(ours, g, stepped_state, stepped)
        for got, want in ((updates, wanted), (stepped, wanted_params)):
            for a, b, d in zip(got, want, dtypes, strict=True):
                assert a.dtype == b.dtype, (a.dtype, b.dtype)
                if d == "float32" and step == 0 and "centered" in options:
                    continue  # optax's float32 has lost its figures here
                np.testing.assert_allclose(a, b, rtol=2e-4, atol=1 if a.dtype == np.int32 else 1e-5)


def test_complex_leaves_of_the_preprocessing(native):
    w, g = (jnp.asarray([3 + 4j, -1j], jnp.complex64) * k for k in (1, 0.5))
    rescaled = optim.sgd(1.0, gradient_rescale=2.0, regularization="l2", regularization_scale=0.1)
    updates, _ = rescaled.update(g, rescaled.init(w), w)
    np.testing.assert_allclose(updates, -(2 * g + 0.1 * w), rtol=1e-6)
