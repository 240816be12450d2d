"""Calls back to Python and errors at run time: nothing of the kind runs while a graphed function is traced."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_common import assert_same, normal
from jax import lax
from jax.experimental import io_callback

import jax_mps as mps

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
THREE = np.float32(3.0)


@pytest.fixture(autouse=True)
def promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def by_pure(host, x):
    return jax.pure_callback(host, SCALAR, x, vmap_method="sequential")


def by_io(host, x):
    return io_callback(host, SCALAR, x)


def by_ordered_io(host, x):
    return io_callback(host, SCALAR, x, ordered=True)


def by_debug(host, x):
    def tell(x):
        host(x)

    jax.debug.callback(tell, x)
    return x * 2


def alone(call, host):
    return call(host, THREE)


def in_a_jit(call, host):
    return jax.jit(lambda: call(host, jnp.float32(1.0) + 2.0))()


def in_a_branch(call, host):
    return lax.cond(jnp.float32(1.0) > 0, lambda: call(host, THREE), lambda: jnp.float32(0.0))


def in_a_scan(call, host):
    return lax.scan(lambda c, _: (c + call(host, THREE), None), jnp.float32(0.0), None, length=1)[0]


@pytest.mark.parametrize("place", [alone, in_a_jit, in_a_branch, in_a_scan])
@pytest.mark.parametrize("call", [by_pure, by_io, by_ordered_io, by_debug])
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_calls_with_constants_wait_for_the_run(native, call, place, jit):
    calls = []

    def host(x):
        calls.append(float(x))
        return np.float32(2.0) * x

    f = lambda x: mps.relu(x) * place(call, host)  # noqa: E731
    g = jax.jit(mps.graph(f)) if jit else mps.graph(f)
    jax.make_jaxpr(g)(normal(2, 3))
    mps.graph(f).program(normal(2, 3))
    jax.effects_barrier()
    assert not calls
    for _ in range(2):
        assert_same(g(normal(2, 3)), jnp.maximum(normal(2, 3), 0.0) * 6.0)
    jax.effects_barrier()
    assert calls == [3.0, 3.0]


@pytest.mark.parametrize("call", [by_pure, by_io, by_ordered_io, by_debug])
def test_calls_under_jax_checks(native, call):
    said = []

    def host(x):
        said.append(float(x))
        return np.float32(x + 1)

    f = lambda x: mps.relu(call(host, x[0]) * x)  # noqa: E731
    with jax.enable_checks(True):
        y = jax.jit(mps.graph(f))(jnp.array([3.0, -1.0]))
        jax.effects_barrier()
    assert said == [3.0]
    np.testing.assert_array_equal(y, [18.0, 0.0] if call is by_debug else [12.0, 0.0])


def test_prints_of_constants(native, capfd):
    def f(x):
        jax.debug.print("three {}", jnp.float32(1.0) + 2.0)
        return mps.relu(x)

    traced = jax.jit(mps.graph(f)).lower(normal(2, 3)).compile()
    jax.effects_barrier()
    assert capfd.readouterr().out == ""
    traced(normal(2, 3))
    mps.graph(f)(normal(2, 3))
    jax.effects_barrier()
    assert capfd.readouterr().out == "three 3.0\n" * 2


TIMES = np.linspace(0.0, 1.0, 10).astype(np.float32)


def checked(x, sign=1.0):
    """A step's length, checked as a solver does: of constants, of what is traced, and of both."""
    length = eqx.error_if(TIMES[1] - jnp.asarray(TIMES)[0], sign * (TIMES[-1] - jnp.asarray(TIMES)[0]) < 0, "backwards")
    return eqx.error_if(mps.relu(x) * length, jnp.sum(x) > 1e6, "too large")


FORMS = {
    "value": lambda f: f,
    "gradient": lambda f: jax.grad(lambda x: jnp.sum(f(x) ** 2)),
    "vmap": lambda f: jax.vmap(f),
    "gradients": lambda f: jax.vmap(jax.grad(lambda x: jnp.sum(f(x) ** 2))),
}


@pytest.mark.parametrize("jit", [lambda f: f, eqx.filter_jit], ids=["eager", "jit"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inside", [True, False], ids=["graph of it", "it of graph"])
def test_errors_that_do_not_happen(native, form, inside, jit):
    f = mps.graph(FORMS[form](checked)) if inside else FORMS[form](mps.graph(checked))
    assert_same(jit(f)(normal(4, 3)), FORMS[form](checked)(normal(4, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_errors_that_happen(native, form):
    """Of a constant when the function is traced, as without graph; of a number at the run."""
    f = eqx.filter_jit(mps.graph(FORMS[form](checked)))
    jax.block_until_ready(f(normal(4, 3)))
    with pytest.raises(Exception, match="too large"):
        jax.block_until_ready(f(normal(4, 3) + 1e6))
    with pytest.raises(Exception, match="backwards"):
        jax.block_until_ready(eqx.filter_jit(mps.graph(FORMS[form](lambda x: checked(x, -1.0))))(normal(4, 3)))


@pytest.mark.filterwarnings("ignore")  # of what diffrax imports
def test_a_neural_differential_equation(native):
    """A solver's loop stays in JAX, and its errors are checked at the run."""
    diffrax = pytest.importorskip("diffrax")
    mlp = eqx.nn.MLP(2, 2, 32, 2, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(mlp, eqx.is_inexact_array)

    def loss(params, y0):
        field = diffrax.ODETerm(lambda t, y, net: jax.vmap(net)(y))
        solution = diffrax.diffeqsolve(
            field,
            diffrax.Tsit5(),
            t0=0.0,
            t1=1.0,
            dt0=0.1,
            y0=y0,
            args=eqx.combine(params, static),
            saveat=diffrax.SaveAt(ts=jnp.linspace(0.0, 1.0, 5)),
            stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-6),
        )
        return jnp.mean(solution.ys**2)

    step, y0 = jax.value_and_grad(loss), normal(8, 2)
    wanted = jax.jit(step)(params, y0)
    for got in (eqx.filter_jit(mps.graph(step))(params, y0), jax.jit(jax.value_and_grad(mps.graph(loss)))(params, y0)):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
