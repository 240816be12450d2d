"""Every case of the table, on every device: value and gradient against float64, transformations, dtypes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, Case
from jax.test_util import check_grads
from op_common import as_tuple, cast, differentiable, operands_of, scalar

import jax_mps as mps

HALF_TOLERANCE = {jnp.float16: 4e-3, jnp.bfloat16: 3e-2}


@functools.cache
def values_and_gradients(case: Case):
    """One compilation of the whole is faster than one of each step."""
    argnums = differentiable(operands_of(case))
    return jax.jit(lambda *a: (as_tuple(case.function(*a)), jax.grad(scalar(case.function), argnums)(*a)))


@functools.cache
def truth(case_name: str):
    """Values and gradients in float64."""
    case = next(c for c in CASES if c.name == case_name)
    with jax.enable_x64(True):
        operands = cast(operands_of(case), jnp.float64)
        return jax.tree.map(np.asarray, values_and_gradients(case)(*operands))


def assert_near(got, wanted, tolerance):
    assert got.shape == wanted.shape
    error = np.abs(np.asarray(got, np.float64) - wanted)
    assert np.all(np.isfinite(error)) and error.max(initial=0) <= tolerance * max(1, np.abs(wanted).max(initial=0))


@pytest.mark.parametrize("case", CASES, ids=str)
class TestOp:
    def test_value_and_gradient(self, device, case):
        values, gradients = truth(case.name)
        operands = cast(operands_of(case), jnp.float32)
        got_values, got_gradients = values_and_gradients(case)(*operands)
        runs = [got_values] if device == "reference" else [got_values, as_tuple(case.function(*operands))]
        for got, wanted in ((got, wanted) for run in runs for got, wanted in zip(run, values, strict=True)):
            assert got.dtype in (jnp.float32, jnp.int32)
            assert_near(got, wanted, case.tolerance)
        for got, wanted in zip(got_gradients, gradients, strict=True):
            assert_near(got, wanted, 5 * case.tolerance)

    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=["float16", "bfloat16"])
    def test_half_precision(self, case, native, dtype):
        if not case.half:
            return
        operands = cast(operands_of(case), dtype)
        with jax.enable_x64(True):  # from the rounded operands: only the op's own rounding counts
            wide = cast(
                [np.asarray(x, np.float64) if x.dtype == dtype else np.asarray(x) for x in operands], jnp.float64
            )
            values, wanted_gradients = jax.tree.map(np.asarray, values_and_gradients(case)(*wide))
        got_values, gradients = values_and_gradients(case)(*operands)
        for got, wanted in zip(got_values, values, strict=True):
            assert got.dtype in (dtype, jnp.float32)
            assert_near(got, wanted, HALF_TOLERANCE[dtype])
        for got, wanted in zip(gradients, wanted_gradients, strict=True):
            assert got.dtype == dtype
            assert_near(got, wanted, 10 * HALF_TOLERANCE[dtype])

    def test_vmap(self, case, native):
        first, second = (cast(operands_of(case), jnp.float32) for _ in range(2))
        second = [x * 0.5 + 0.1 if jnp.issubdtype(x.dtype, jnp.floating) else x for x in second]
        axes = tuple(0 if i in case.batched else None for i in range(len(first)))
        stacked = [jnp.stack([a, b]) if axis == 0 else a for a, b, axis in zip(first, second, axes, strict=True)]
        mixed = [b if axis == 0 else a for a, b, axis in zip(first, second, axes, strict=True)]
        function = values_and_gradients(case)
        runs = jax.jit(jax.vmap(function, axes))(*stacked), function(*first), function(*mixed)
        for parts, tolerance in zip(zip(*runs, strict=True), (case.tolerance, 5 * case.tolerance), strict=True):
            for g, a, b in zip(*parts, strict=True):
                assert_near(g, np.stack([np.asarray(a, np.float64), np.asarray(b, np.float64)]), tolerance)

    def test_vmap_over_all_operands(self, case, native):
        operands = cast(operands_of(case), jnp.float32)
        got = as_tuple(jax.vmap(case.function)(*(x[None] for x in operands)))
        for g, wanted in zip(got, as_tuple(case.function(*operands)), strict=True):
            assert_near(g[0], np.asarray(wanted, np.float64), case.tolerance)

    def test_empty_batch(self, case, native):
        operands = cast(operands_of(case), jnp.float32)
        empty = [x[:0] if i in case.batched else x for i, x in enumerate(operands)]
        if not case.batched:
            return
        values, gradients = values_and_gradients(case)(*empty)
        assert any(v.size == 0 for v in values)
        for x, g in zip((empty[i] for i in differentiable(empty)), gradients, strict=True):
            assert g.shape == x.shape and np.all(np.isfinite(g))


@pytest.mark.parametrize("case", [c for c in CASES if c.order], ids=str)
def test_finite_differences(case):
    with jax.enable_x64(True):
        operands = cast(operands_of(case), jnp.float64)
        argnums = differentiable(operands)

        @jax.jit
        def of_floating(*some):
            rest = iter(some)
            return case.function(*(next(rest) if i in argnums else x for i, x in enumerate(operands)))

        check_grads(of_floating, [operands[i] for i in argnums], order=case.order, modes=["rev"], eps=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.kernels], ids=str)
def test_runs_in_native_kernels(case, native):
    operands = cast(operands_of(case), jnp.float32)
    table = mps.explain(jax.value_and_grad(scalar(case.function), differentiable(operands)), *operands)
    on_device = {row.op for row in table if row.device == native}
    assert on_device >= set(case.kernels)


@pytest.mark.parametrize("name", ["relu", "elu"])
def test_neurons_have_their_left_slope_at_zero(device, name):
    gradient = jax.grad(lambda x: jnp.sum(mps.neuron(x, name, a=0.25)))(jnp.zeros(20))
    np.testing.assert_array_equal(gradient, np.full(20, 0.25, np.float32))
