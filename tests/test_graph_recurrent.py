"""LSTMs and GRUs that other libraries write by scan run as this library's; what only looks like one stays a loop."""

from __future__ import annotations

import functools
import itertools

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from test_graph import assert_same, normal

import jax_mps as mps
from jax_mps.graph import fingerprint
from jax_mps.graph.affine import Range, reshaped

BATCH, TIME, INPUTS, UNITS = 3, 5, 4, 6
sigmoid = jax.nn.sigmoid


def text(function, *args):
    return mps.graph(function).program(*args).text()


def loss_of(function):
    """A scalar that depends on all results."""
    return lambda *args: sum((jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(function(*args))), start=jnp.float32(0.0))


def check(op, function, *args):
    """The values, and the gradients of all arguments; all by `op`, without a loop."""
    assert_same(jax.jit(mps.graph(function))(*args), jax.jit(function)(*args))
    found = text(function, *args)
    assert (f" = {op}(" in found or f" = {op}_training(" in found) and " = loop(" not in found, found
    both = jax.value_and_grad(loss_of(function), tuple(range(len(args))))
    assert_same(jax.jit(mps.graph(both))(*args), jax.jit(both)(*args))
    found = text(both, *args)
    assert f" = {op}_training(" in found and f" = {op}_gradient(" in found and " = loop(" not in found, found
    assert "scan[" not in str(jax.make_jaxpr(mps.graph(both))(*args))


def stays(function, *args, words, gradient=True):
    """Neither it nor its gradient is a recurrent op, explain tells why, and the values are those of JAX."""
    both = jax.value_and_grad(loss_of(function), tuple(range(len(args))))
    for f in (function, both)[: 1 + gradient]:
        assert_same(jax.jit(mps.graph(f))(*args), jax.jit(f)(*args))
        rows = mps.explain(mps.graph(f), *args)
        assert not {"lstm", "gru", "lstm_training", "gru_training"} & {row.op for row in rows}
        told = [f"{row.implementation} {row.made_of}" for row in rows if row.op in ("scan", "loop")]
        assert any("no mps.lstm or mps.gru: " in t for t in told), rows
    assert any(words in t for t in told), told


FLAX = {linen.LSTMCell: "lstm", linen.OptimizedLSTMCell: "lstm", linen.GRUCell: "gru"}


class TestFlax:
    @pytest.fixture(autouse=True)
    def promotion(self):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield

    def net(self, cell, **options):
        net, x = linen.RNN(cell(UNITS), **options), normal(BATCH, TIME, INPUTS)
        return net, net.init(jax.random.key(0), x), x

    @pytest.mark.parametrize("options", [{}, {"reverse": True, "keep_order": True}, {"return_carry": True}], ids=str)
    @pytest.mark.parametrize("cell", FLAX, ids=lambda c: c.__name__)
    def test_rnn(self, native, cell, options):
        net, params, x = self.net(cell, **options)
        check(FLAX[cell], net.apply, params, x)

    @pytest.mark.parametrize("cell", FLAX, ids=lambda c: c.__name__)
    def test_first_state_and_last_output(self, native, cell):
        net, params, x = self.net(cell)
        h = normal(BATCH, UNITS)
        first = h if cell is linen.GRUCell else (h + 1.0, h)
        last = lambda params, x, first: net.apply(params, x, initial_carry=first)[:, -1]  # noqa: E731
        check(FLAX[cell], last, params, x, first)

    def test_sequences_of_different_lengths(self, native):
        net, params, x = self.net(linen.LSTMCell)
        lengths = jnp.array([2, 5, 1])
        f = lambda params, x: net.apply(params, x, seq_lengths=lengths)  # noqa: E731
        check("lstm", f, params, x)

    def test_layers_in_both_directions(self, native):
        class Net(linen.Module):
            @linen.compact
            def __call__(self, x):
                x = linen.Bidirectional(linen.RNN(linen.LSTMCell(UNITS)), linen.RNN(linen.GRUCell(UNITS)))(x)
                return linen.RNN(linen.OptimizedLSTMCell(UNITS))(x)[:, -1]

        x = normal(BATCH, TIME, INPUTS)
        params = Net().init(jax.random.key(0), x)
        check("lstm", Net().apply, params, x)
        both = jax.grad(loss_of(Net().apply))
        assert [text(both, params, x).count(f" = {op}_gradient(") for op in ("lstm", "gru")] == [2, 1]

    @pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell], ids=lambda c: c.__name__)
    def test_nnx(self, native, cell):
        net = nnx.RNN(cell(INPUTS, UNITS, rngs=nnx.Rngs(0)))
        definition, params, rest = nnx.split(net, nnx.Param, ...)

        def f(params, x):
            return nnx.merge(definition, params, rest)(x, rngs=nnx.Rngs(0))

        check("gru" if cell is nnx.GRUCell else "lstm", f, params, normal(BATCH, TIME, INPUTS))

    @pytest.mark.parametrize("cell", FLAX, ids=lambda c: c.__name__)
    def test_ten_steps_of_training(self, native, cell):
        net, params, x = self.net(cell)
        rule, target = optax.adam(1e-2), normal(BATCH, TIME, UNITS)

        def step(params, slots):
            value, gradients = jax.value_and_grad(lambda p: jnp.mean((net.apply(p, x) - target) ** 2))(params)
            updates, slots = rule.update(gradients, slots)
            return optax.apply_updates(params, updates), slots, value

        assert f" = {FLAX[cell]}_gradient(" in text(step, params, rule.init(params))
        runs = []
        for f in (jax.jit(step), jax.jit(mps.graph(step))):
            state, values = (params, rule.init(params)), []
            for _ in range(10):
                *state, value = f(*state)
                values.append(value)
            runs.append((state[0], values))
        assert_same(runs[1], runs[0])
        assert runs[0][1][-1] < runs[0][1][0]

    def test_steps_of_training_by_scan(self, native):
        net, params, _ = self.net(linen.OptimizedLSTMCell)

        def step(params, x):
            value, gradients = jax.value_and_grad(lambda p: jnp.mean(net.apply(p, x) ** 2))(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value

        f, xs = lambda params, xs: lax.scan(step, params, xs), normal(4, BATCH, TIME, INPUTS)
        assert_same(jax.jit(mps.graph(f))(params, xs), jax.jit(f)(params, xs))
        found = text(f, params, xs)
        assert found.count(" = loop(") == 1 and " = lstm_gradient(" in found


def run(cell, xs, state, **options):
    """A cell of Equinox over a sequence: the last state and all h."""

    def body(state, x):
        state = cell(x, state)
        return state, jax.tree.leaves(state)[0]

    return lax.scan(body, state, xs, **options)


def batched(cell, xs, state):
    return jax.vmap(functools.partial(run, cell))(xs, state)


def over_axis_1(cell, xs, state):
    return jax.vmap(functools.partial(run, cell), (1, 0), 1)(jnp.swapaxes(xs, 0, 1), state)


def twice_batched(cell, xs, state):
    return jax.vmap(functools.partial(batched, cell))(
        jnp.stack([xs, -xs]), jax.tree.map(lambda a: a[None] + ONES, state)
    )


def single(cell, xs, state):
    return run(cell, xs[0], jax.tree.map(lambda a: a[0], state))


def one_row(cell, xs, state):
    return batched(cell, xs[:1], jax.tree.map(lambda a: a[:1], state))


def shared_state(cell, xs, state):
    return jax.vmap(lambda xs: run(cell, xs, jax.tree.map(lambda a: a[0], state)))(xs)


def batched_cell(cell, xs, state):
    return run(jax.vmap(cell), jnp.swapaxes(xs, 0, 1), state, reverse=True)


def unrolled(cell, xs, state):
    return run(jax.vmap(cell), jnp.swapaxes(xs, 0, 1), state, unroll=3)


def one_step(cell, xs, state):
    return run(jax.vmap(cell), xs[None, :, 0], state)


def checkpointed_step(cell, xs, state):
    return run(jax.checkpoint(lambda x, state: jax.vmap(cell)(x, state)), jnp.swapaxes(xs, 0, 1), state)


def checkpointed(cell, xs, state):
    return jax.checkpoint(lambda cell, xs, state: run(jax.vmap(cell), jnp.swapaxes(xs, 0, 1), state))(cell, xs, state)


def half_of_squares(cell, xs, state):
    """The cotangent of y is y."""
    return jnp.arcsin(jnp.tanh(jnp.sum(run(jax.vmap(cell), jnp.swapaxes(xs, 0, 1), state)[1] ** 2) / 2))


def results_twice(cell, xs, state):
    last, ys = batched(cell, xs, state)
    return last, ys, ys * 2.0, jnp.sum(ys, 1)


ONES = jnp.asarray([0.0, 1.0])[:, None, None]
FORMS = [
    batched,
    over_axis_1,
    twice_batched,
    single,
    one_row,
    shared_state,
    batched_cell,
    unrolled,
    one_step,
    checkpointed_step,
    checkpointed,
    half_of_squares,
    results_twice,
]


class TestEquinox:
    @pytest.mark.parametrize(
        "kind, form",
        [*itertools.product(["lstm", "gru"], FORMS), ("gru without bias", batched), ("gru without bias", single)],
        ids=lambda v: v if isinstance(v, str) else v.__name__,
    )
    def test_forms(self, native, kind, form):
        make = eqx.nn.LSTMCell if kind == "lstm" else eqx.nn.GRUCell
        cell = make(INPUTS, UNITS, use_bias="without" not in kind, key=jax.random.key(0))
        params, rest = eqx.partition(cell, eqx.is_array)
        h = normal(BATCH, UNITS)
        state = (h, h + 1.0) if kind == "lstm" else h
        f = lambda params, xs, state: form(eqx.combine(params, rest), xs, state)  # noqa: E731
        check(kind[:4].strip(), f, params, normal(BATCH, TIME, INPUTS), state)

    def test_checkpoints_keep_less(self, native):
        cell = eqx.nn.LSTMCell(INPUTS, UNITS, key=jax.random.key(0))
        h = normal(BATCH, UNITS)
        gradient = lambda form: jax.grad(lambda xs: loss_of(form)(cell, xs, (h, h)))  # noqa: E731
        recompute = [
            "recompute=true" in text(gradient(f), normal(BATCH, TIME, INPUTS))
            for f in (checkpointed_step, batched_cell)
        ]
        assert recompute == [True, False]

    def test_ensembles_stay_loops(self, native):
        cells = eqx.filter_vmap(lambda key: eqx.nn.GRUCell(INPUTS, UNITS, key=key))(
            jax.random.split(jax.random.key(0), 2)
        )
        params, rest = eqx.partition(cells, eqx.is_array)

        def f(params, xs, h):
            return eqx.filter_vmap(lambda cell: batched(cell, xs, h))(eqx.combine(params, rest))

        stays(f, params, normal(BATCH, TIME, INPUTS), normal(BATCH, UNITS), words="gates are sums of products")


PARAMS = {"w": normal(INPUTS, 4 * UNITS) * 0.5, "r": normal(UNITS, 4 * UNITS) * 0.4, "b": normal(4 * UNITS)}
STATE = (normal(BATCH, UNITS), normal(BATCH, UNITS, seed=1))
XS = normal(TIME, BATCH, INPUTS)


def scanned(body, **options):
    return lambda params, state, xs: lax.scan(functools.partial(body, params), state, xs, **options)


def lstm(gates, carry, *, s=sigmoid, t=jnp.tanh):
    (h, c), (i, f, g, o) = carry, gates
    c = s(f) * c + s(i) * t(g)
    h = s(o) * t(c)
    return (h, c), h


def sums(p, carry, x):
    return x @ p["w"] + carry[0] @ p["r"] + p["b"][None]


def with_step(step):
    return lambda p, carry, x: step(jnp.split(sums(p, carry, x), 4, -1), carry)


def concatenated(p, carry, x):
    z = jnp.concatenate([carry[0], x], -1) @ jnp.concatenate([p["r"], p["w"]]) + p["b"][None]
    return lstm(jnp.split(z, 4, -1), carry)


def joined_sigmoids(p, carry, x):
    z = sums(p, carry, x)
    i, f, o = jnp.split(sigmoid(z[:, : 3 * UNITS]), 3, -1)
    c = f * carry[1] + i * jnp.tanh(z[:, 3 * UNITS :])
    return ((h := o * jnp.tanh(c)), c), h


def in_another_shape(p, carry, x):
    z = sums(p, carry, x).reshape(BATCH, 4, UNITS)
    return lstm([z[:, k] for k in (2, 0, 1, 3)], carry)


def transposed(p, carry, x):
    z = p["w"].T @ x.T + p["r"].T @ carry[0].T + p["b"][:, None]
    return lstm([a.T for a in jnp.split(z, 4, 0)], carry)


def exchanged_carry(p, carry, x):
    (h, c), y = lstm(jnp.split(sums(p, carry[::-1], x), 4, -1), carry[::-1])
    return (c, h), y


SAME = {
    "gates i, f, g, o": with_step(lstm),
    "gates o, g, i, f": with_step(lambda z, carry: lstm([z[k] for k in (2, 3, 1, 0)], carry)),
    "a bias of the forget gate": with_step(lambda z, carry: lstm((z[0], z[1] + 1.0, z[2], z[3]), carry)),
    "1 / (1 + exp(-x))": with_step(functools.partial(lstm, s=lambda x: 1 / (1 + jnp.exp(-x)))),
    "exp(x) / (1 + exp(x))": with_step(functools.partial(lstm, s=lambda x: jnp.exp(x) / (1 + jnp.exp(x)))),
    "(1 + tanh(x / 2)) / 2": with_step(functools.partial(lstm, s=lambda x: 0.5 * (1 + jnp.tanh(0.5 * x)))),
    "one product": concatenated,
    "one sigmoid": joined_sigmoids,
    "in another shape": in_another_shape,
    "transposed": transposed,
    "the carry as (c, h)": exchanged_carry,
}


def without_forgetting(gates, carry):
    (h, c), (i, _, g, o) = carry, gates
    c = c + sigmoid(i) * jnp.tanh(g)
    return ((h := sigmoid(o) * jnp.tanh(c)), c), h


def coupled_step(gates, carry):
    (h, c), (_, f, g, o) = carry, gates
    c = sigmoid(f) * c + (1 - sigmoid(f)) * jnp.tanh(g)
    return ((h := sigmoid(o) * jnp.tanh(c)), c), h


def clipped(gates, carry):
    (h, c), (i, f, g, o) = carry, gates
    c = jnp.clip(sigmoid(f) * c + sigmoid(i) * jnp.tanh(g), -50.0, 50.0)
    return ((h := sigmoid(o) * jnp.tanh(c)), c), h


def peephole(gates, carry):
    i, f, g, o = gates
    return lstm((i, f + 0.5 * carry[1], g, o), carry)


def almost(gates, carry):
    (h, c), y = lstm(gates, carry)
    return (h, c * (1 - 2.0**-23)), y


def masked(gates, carry):
    (h, c), y = lstm(gates, carry)
    return (h * np.float32([[1, 1, 1, 1, 1, 0]]), c), y


def normalised(gates, carry):
    centred = [z - jnp.mean(z, -1, keepdims=True) for z in gates]
    return lstm([z * lax.rsqrt(jnp.mean(z * z, -1, keepdims=True) + 1e-6) for z in centred], carry)


def other_result(gates, carry):
    (h, c), y = lstm(gates, carry)
    return (h, c), y + 1e-9 * c


def swapped_states(gates, carry):
    (h, c), y = lstm(gates, carry)
    return (c, h), y


NEAR = {
    "no forgetting": (without_forgetting, "3 of its gates are sums of products"),
    "coupled gates": (coupled_step, "3 of its gates are sums of products"),
    "clipped": (clipped, "its new cell is not sigmoid(f) c + sigmoid(i) tanh(g)"),
    "relu": (functools.partial(lstm, t=jax.nn.relu), "3 of its gates are sums of products"),
    "hard sigmoid": (functools.partial(lstm, s=jax.nn.hard_sigmoid), "of its gates are sums of products"),
    "a peephole": (peephole, "3 of its gates are sums of products"),
    "a factor beside one": (almost, "its new "),
    "a mask": (masked, "its new state is not sigmoid(o) tanh(c)"),
    "layer norm": (normalised, "0 of its gates are sums of products"),
    "another result": (other_result, "results of its body other than the states are read"),
    "the states exchanged": (swapped_states, "its new cell is not sigmoid(f) c + sigmoid(i) tanh(g)"),
}


class TestByHand:
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("form", SAME)
    def test_the_same_cell(self, native, form, reverse):
        state = STATE[::-1] if "(c, h)" in form else STATE
        check("lstm", scanned(SAME[form], reverse=reverse), PARAMS, state, XS)

    @pytest.mark.parametrize("form", NEAR)
    def test_near_misses(self, native, form):
        step, words = NEAR[form]
        stays(scanned(with_step(step)), PARAMS, STATE, XS, words=words)

    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("reset", ["after"])  # before: its reset gate is under a product, and not found yet
    def test_gru(self, native, reset, flip):
        def body(p, h, x):
            w, r, b = (p[k][..., : 3 * UNITS] for k in ("w", "r", "b"))
            zr = sigmoid((x @ w + b[None])[:, : 2 * UNITS] + h @ r[:, : 2 * UNITS])
            z, gate = zr[:, UNITS:], zr[:, :UNITS]
            new, inner = (x @ w + b[None])[:, 2 * UNITS :], r[:, 2 * UNITS :]
            n = jnp.tanh(new + (gate * (h @ inner + 0.5) if reset == "after" else (gate * h) @ inner))
            h = z * n + (1 - z) * h if flip else n - z * (n - h)
            return h, h

        check("gru", scanned(body), PARAMS, STATE[0], XS)
        found = text(scanned(body), PARAMS, STATE[0], XS)
        assert f'reset="{reset}"' in found and f"flip={str(flip).lower()}" in found

    def test_both_states_of_all_steps(self, native):
        f = scanned(with_step(lambda z, carry: ((new := lstm(z, carry)[0]), new)))
        assert_same(jax.jit(mps.graph(f))(PARAMS, STATE, XS), jax.jit(f)(PARAMS, STATE, XS))
        assert " = lstm_training(" in text(f, PARAMS, STATE, XS)
        only_h = lambda *args: f(*args)[1][0]  # noqa: E731  # no gradient flows into c
        check("lstm", only_h, PARAMS, STATE, XS)
        both = jax.grad(loss_of(f))
        assert_same(jax.jit(mps.graph(both))(PARAMS, STATE, XS), both(PARAMS, STATE, XS))

    @pytest.mark.parametrize(
        "length, dtype, words", [(0, "float32", "it is empty"), (3, "float16", "not all of float32")]
    )
    def test_other_sequences_stay(self, native, length, dtype, words):
        params, state, xs = jax.tree.map(lambda a: a.astype(dtype), (PARAMS, STATE, normal(length, BATCH, INPUTS)))
        rows = mps.explain(mps.graph(scanned(with_step(lstm))), params, state, xs)
        assert any(words in f"{row.implementation} {row.made_of}" for row in rows)

    def test_projections_made_before_the_loop_stay_there(self, native):
        def f(p, state, xs):
            return lax.scan(lambda carry, z: lstm(jnp.split(z + carry[0] @ p["r"], 4, -1), carry), state, xs @ p["w"])

        stays(f, PARAMS, STATE, XS, words="an input or a state enters it without a product")

    def test_gradients_of_graphs_tell_why_they_are_loops(self, native):
        loss = loss_of(scanned(with_step(lstm)))
        gradient = jax.grad(mps.graph(loss))
        assert_same(gradient(PARAMS, STATE, XS), jax.grad(loss)(PARAMS, STATE, XS))
        rows = mps.explain(gradient, PARAMS, STATE, XS)
        assert any("graph it together with its gradient" in f"{row.implementation} {row.made_of}" for row in rows)

    def test_second_derivatives_have_the_values_of_jax(self, native):
        f = lambda h: loss_of(scanned(with_step(lstm)))(PARAMS, (h, STATE[1]), XS)  # noqa: E731
        twice = jax.grad(lambda h: jnp.sum(jax.grad(f)(h) ** 2))
        assert_same(jax.jit(mps.graph(twice))(STATE[0]), jax.jit(twice)(STATE[0]))

    def test_without_a_kernel_the_loop_stays(self, native, monkeypatch):
        from jax_mps.primitive import Op

        placement = Op.placement

        def refuse(self, *args):
            return ("", "no such kernel") if self.name.startswith("lstm") else placement(self, *args)

        monkeypatch.setattr(Op, "placement", refuse)
        stays(scanned(with_step(lstm)), PARAMS, STATE, XS, words="no such kernel")


class TestFingerprint:
    """Equal functions agree, and different ones do not."""

    X, Y = fingerprint.random((4, 5), 1), fingerprint.random((4, 5), 2)

    @pytest.mark.parametrize(
        "f, g, equal",
        [
            (lambda x, y: (x + y) * (x - y), lambda x, y: x * x - jnp.square(y), True),
            (lambda x, y: x / y, lambda x, y: x * y**-1, True),
            (lambda x, y: x * 0.3, lambda x, y: x * jnp.float32(0.3), True),
            (lambda x, y: x * 0.3, lambda x, y: x * np.nextafter(np.float32(0.3), np.float32(1)), False),
            (lambda x, y: sigmoid(x), lambda x, y: 1 - sigmoid(-x), True),
            (lambda x, y: jnp.tanh(x), lambda x, y: (1 - jnp.exp(-2 * x)) / (1 + jnp.exp(-2 * x)), True),
            (lambda x, y: jnp.tanh(x), lambda x, y: -jnp.tanh(-x), True),
            (lambda x, y: jnp.tanh(x), lambda x, y: jnp.sin(x), False),
            (lambda x, y: x, lambda x, y: jnp.clip(x, -1e30, 1e30), False),
            (lambda x, y: x @ y.T, lambda x, y: jnp.einsum("jk,ik->ij", y, x), True),
            (lambda x, y: jnp.sum(x @ y.T, 0), lambda x, y: jnp.sum(x, 0) @ y.T, True),
            (lambda x, y: x.reshape(5, 4), lambda x, y: x.T, False),
            (lambda x, y: jnp.pad(x, 1)[1:-1, 1:-1], lambda x, y: jnp.concatenate([x[:1], x[1:]]), True),
        ],
    )
    def test_functions(self, f, g, equal):
        (a,), (b,) = (fingerprint.of_function(h, [self.X, self.Y]) for h in (f, g))
        assert fingerprint.same(a, b) == equal

    def test_long_sums_are_exact(self):
        x = np.full((1, 20000), fingerprint.PRIME - 1)
        (got,) = fingerprint.of_function(lambda x: x @ x.T, [x])
        assert got.item() == 20000 % fingerprint.PRIME


class TestViews:
    """What a range of an array is in another shape."""

    @pytest.mark.parametrize(
        "shape, view, into, wanted",
        [
            ((2, 3, 4), (Range(0, 0, 2), 1, Range("unit", 0, 4)), (2, 12), (Range(0, 0, 2), Range("unit", 4, 4))),
            ((2, 12), (Range(0, 0, 2), Range("unit", 8, 4)), (2, 3, 4), (Range(0, 0, 2), 2, Range("unit", 0, 4))),
            ((2, 12), (Range(0, 0, 2), Range("unit", 2, 4)), (2, 3, 4), None),
            ((2, 12), (Range(0, 0, 2), Range("unit", 0, 3)), (2, 3, 4), (Range(0, 0, 2), 0, Range("unit", 0, 3))),
            ((2, 4, 3), (Range(0, 0, 2), Range("unit", 0, 4), 1), (2, 12), None),
            ((6, 1), (Range("unit", 1, 3), 0), (1, 6), (0, Range("unit", 1, 3))),
            ((6,), (Range("unit", 0, 6),), (6, 1, 1), (Range("unit", 0, 6), 0, 0)),
            ((2, 3), (Range(0, 0, 2), Range("unit", 0, 3)), (6,), None),
            ((2, 6), (1, Range("unit", 3, 3)), (4, 3), (3, Range("unit", 0, 3))),
        ],
    )
    def test_reshaped(self, shape, view, into, wanted):
        found = reshaped(view, shape, into)
        assert found == wanted
        if found is not None:
            x = np.arange(np.prod(shape)).reshape(shape)
            taken = lambda a, v: a[tuple(slice(e.start, e.start + e.size) if isinstance(e, Range) else e for e in v)]  # noqa: E731
            np.testing.assert_array_equal(taken(x, view), taken(x.reshape(into), found))
