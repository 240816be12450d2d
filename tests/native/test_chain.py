"""The chain op, driven by program text, against lax and numpy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from native import INTS, NAN, SPECIAL, chain, program, row_major
from setting import METAL, examples

from jax_mps import ffi


def pairs(values):
    a, b = np.meshgrid(values, values, indexing="ij")
    return a.ravel(), b.ravel()


def floats(n=3000):
    rng = np.random.default_rng(0)
    return np.concatenate([SPECIAL, rng.normal(size=n) * 10.0 ** rng.integers(-6, 3, n)]).astype(np.float32)


UNARY = {
    "neg": lax.neg,
    "abs": lax.abs,
    "sign": lax.sign,
    "square": lax.square,
    "floor": lax.floor,
    "ceil": lax.ceil,
    "round_half_away": lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO),
    "round_half_even": lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
    "exp": lax.exp,
    "exp2": lax.exp2,
    "log": lax.log,
    "log1p": lax.log1p,
    "expm1": lax.expm1,
    "tanh": lax.tanh,
    "logistic": lax.logistic,
    "sqrt": lax.sqrt,
    "rsqrt": lax.rsqrt,
    "cbrt": lax.cbrt,
    "sin": lax.sin,
    "cos": lax.cos,
    "tan": lax.tan,
    "erf": lax.erf,
    "erf_inv": lax.erf_inv,
}
BINARY = {
    "add": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": lax.div,
    "rem": lax.rem,
    "max": lax.max,
    "min": lax.min,
    "pow": lax.pow,
    "atan2": lax.atan2,
}
COMPARE = {"eq": lax.eq, "ne": lax.ne, "lt": lax.lt, "le": lax.le, "gt": lax.gt, "ge": lax.ge}
LOGIC = {"and": lax.bitwise_and, "or": lax.bitwise_or, "xor": lax.bitwise_xor}
SHIFT = {
    "shift_left": lax.shift_left,
    "shift_right_logical": lax.shift_right_logical,
    "shift_right_arithmetic": lax.shift_right_arithmetic,
}


def one(code, *operands, dtype=None):
    """One instruction over whole arrays: by itself, and as two steps in a row, which may become machine code."""
    n, dtype = len(operands), dtype or operands[0].dtype
    (y,) = chain(operands[0].shape, operands, [code], [["store", n]], [dtype])
    for again in chain(operands[0].shape, operands, [code] * 2, [["store", n], ["store", n + 1]], [dtype] * 2):
        np.testing.assert_array_equal(again, y)
    return y


def assert_near(y, expected, rtol=0.0):
    y, expected = np.asarray(y), np.asarray(expected)
    if y.dtype == np.float32:
        denormal = 1.2e-38 if METAL else 0  # kept there, flushed by XLA
        np.testing.assert_allclose(y, expected, rtol=rtol, atol=1e-37 if rtol else denormal)
    else:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    x = floats()
    with jax.enable_x64(True), np.errstate(over="ignore"):  # lax in float64 is the judge of elementary functions
        expected = np.asarray(UNARY[name](jnp.asarray(x, jnp.float64))).astype(np.float32)
    assert_near(one(f"{name} 0", x), expected, rtol=1e-6)
    inner = np.abs(x) < 1e30
    assert_near(one(f"{name} 0", x[:29])[inner[:29]], np.asarray(UNARY[name](x[:29]))[inner[:29]], rtol=1e-5)


@pytest.mark.parametrize("name", ["neg", "abs", "sign", "square"])
def test_unary_integer(name):
    assert_near(one(f"{name} 0", INTS), UNARY[name](INTS))


@pytest.mark.parametrize("name", [*BINARY, *COMPARE])
def test_binary(name):
    a, b = pairs(SPECIAL)
    f = BINARY.get(name) or COMPARE[name]
    assert_near(
        one(f"{name} 0 1", a, b, dtype=np.dtype(bool) if name in COMPARE else None),
        f(jnp.asarray(a), jnp.asarray(b)),
        rtol=2e-6 if name in ("pow", "atan2", "div") else 0,
    )


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "rem", "max", "min", *COMPARE, *LOGIC, *SHIFT])
@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_binary_integer(name, dtype):
    a, b = pairs(INTS.astype(np.int64).astype(dtype))
    f = (BINARY | COMPARE | LOGIC | SHIFT)[name]
    expected = f(jnp.asarray(a), jnp.asarray(b))
    assert_near(one(f"{name} 0 1", a, b, dtype=expected.dtype), expected)


@pytest.mark.parametrize("name", [*LOGIC, "eq", "ne", "lt", "ge"])
def test_logic(name):
    a, b = pairs(np.array([False, True]))
    assert_near(one(f"{name} 0 1", a, b), (LOGIC | COMPARE)[name](jnp.asarray(a), jnp.asarray(b)))
    assert_near(one("not 0", a), ~a)
    assert_near(one("not 0", INTS), ~INTS)


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint32", "bool"])
def test_conversions(dtype):
    short = {"float32": "f32", "int32": "s32", "uint32": "u32", "bool": "pred"}
    for x in (SPECIAL, INTS, INTS.astype(np.uint32), np.array([True, False])):
        expected = lax.convert_element_type(jnp.asarray(x), dtype)
        assert_near(one(f"convert_{short[dtype]} 0", x, dtype=expected.dtype), expected)
        if x.dtype != bool and dtype != "bool":
            y = one(f"bitcast_{short[dtype]} 0", x, dtype=np.dtype(dtype))
            np.testing.assert_array_equal(y.view(np.int32), x.view(np.int32))


def test_the_rest():
    x = floats()
    np.testing.assert_array_equal(one("is_finite 0", x, dtype=np.dtype(bool)), np.isfinite(x))
    low, high = np.full_like(x, -1), np.full_like(x, 2)
    assert_near(one("clamp 1 0 2", x, low, high), lax.clamp(low, x, high))
    assert_near(one("select 0 1 2", x > 0, low, x, dtype=x.dtype), np.where(x > 0, x, low))
    for n in (-3, -1, 0, 1, 2, 3, 7, 10):
        assert_near(one(f"integer_pow 0 {n}", SPECIAL), lax.integer_pow(jnp.asarray(SPECIAL), n), rtol=1e-6)
    for name, dtype in (("bf16", ml_dtypes.bfloat16), ("f16", np.float16)):
        with np.errstate(over="ignore"):
            assert_near(one(f"round_{name} 0", x), x.astype(dtype).astype(np.float32))
            (y,) = chain(x.shape, [x], [], [["store", 0]], [dtype])
            assert_near(y.astype(np.float32), x.astype(dtype).astype(np.float32))
        half = np.where(np.abs(x) < 6e4, x, 0).astype(dtype)
        assert_near(one("neg 0", half, dtype=np.dtype(np.float32)), -half.astype(np.float32))


@pytest.mark.parametrize("scalar", ["first", "second", "both"])
@pytest.mark.parametrize("name", ["add", "sub", "div", "max", "lt", "pow"])
def test_scalar_operands(name, scalar):
    x = np.linspace(0.5, 3, 2500, dtype=np.float32)
    line = {"first": f"{name} 1 0", "second": f"{name} 0 1", "both": f"{name} 1 2"}[scalar]
    a = x if scalar == "second" else np.float32(1.25)
    b = {"first": x, "second": np.float32(1.25), "both": np.float32(2.5)}[scalar]
    expected = (BINARY | COMPARE)[name](*np.broadcast_arrays(a, b))
    code = ["const 1.25", "const 2.5", line]
    (y,) = chain(x.shape, [x], code, [["store", 3]], [expected.dtype])
    assert_near(y, np.broadcast_to(expected, x.shape), rtol=1e-6)


REDUCE = {"sum": np.sum, "max": np.max, "min": np.min}


@st.composite
def chains(draw):
    """Shapes, strides, code and outputs; values are small integers, so that every sum is exact."""
    rank = draw(st.integers(0, 5))
    sizes = st.one_of(st.integers(1, 5), st.sampled_from([7, 16, 33, 64, 130]))
    shape = [draw(sizes) for _ in range(rank)]
    while np.prod(shape, dtype=np.int64) > 60_000:
        shape[int(np.argmax(shape))] = draw(st.integers(1, 9))
    if rank and draw(st.integers(0, 5)) == 0:
        shape = [1] * (rank - 1) + [draw(st.integers(900, 40_000))]
    seed = np.random.default_rng(draw(st.integers(0, 2**31)))
    operands, strides, offsets, views = [], [], [], []
    for _ in range(draw(st.integers(1, 3))):
        kept = [draw(st.booleans()) for _ in shape]
        if draw(st.booleans()):
            kept = [True] * rank
        memory = [d for d, k in zip(shape, kept, strict=True) if k]
        order = draw(st.permutations(range(len(memory)))) if draw(st.booleans()) else list(range(len(memory)))
        step, grown = draw(st.sampled_from([1, 1, 1, 2])), [memory[axis] for axis in order]
        grown[-1:] = [size * step for size in grown[-1:]]
        dtype = draw(st.sampled_from([np.float32, np.float32, np.float32, ml_dtypes.bfloat16, np.float16]))
        offset = draw(st.sampled_from([0, 0, 3]))
        flat = seed.integers(-4, 5, int(np.prod(grown, dtype=np.int64)) + offset).astype(dtype)
        by_axis = dict(zip(order, row_major(grown), strict=True))
        if order:
            by_axis[order[-1]] *= step
        it = iter(range(len(memory)))
        row = [by_axis[next(it)] if k else 0 for k in kept]
        view = np.lib.stride_tricks.as_strided(flat[offset:], shape, [s * flat.itemsize for s in row])
        operands.append(flat)
        strides.append(row)
        offsets.append(offset)
        views.append(view.astype(np.float32))
    values, code, live = list(views), [], list(range(len(views)))
    for _ in range(draw(st.integers(0, 9))):
        pick = lambda: draw(st.sampled_from(live))  # noqa: E731
        kind = draw(st.sampled_from(["add", "sub", "mul", "max", "select", "const", "iota", "neg", "clamp", "gt"]))
        if kind == "const":
            line, y = "const 2.0", np.float32(2)
        elif kind == "iota" and rank:
            axis = draw(st.integers(0, rank - 1))
            values.append(np.arange(shape[axis], dtype=np.int32).reshape([-1 if a == axis else 1 for a in range(rank)]))
            code.append(f"iota {axis}")
            line, y = f"convert_f32 {len(values) - 1}", values[-1].astype(np.float32)
        elif kind in ("select", "gt"):
            a, b = pick(), pick()
            values.append(values[a] > values[b])
            code.append(f"gt {a} {b}")
            no, yes = pick(), pick()
            line, y = f"select {len(values) - 1} {no} {yes}", np.where(values[-1], values[yes], values[no])
        elif kind == "clamp":
            a, b, c = pick(), pick(), pick()
            line, y = f"clamp {a} {b} {c}", np.minimum(np.maximum(values[b], values[a]), values[c])
        elif kind == "neg" or kind == "iota":
            a = pick()
            line, y = f"neg {a}", -values[a]
        else:
            a, b = pick(), pick()
            line = f"{kind} {a} {b}"
            y = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum}[kind](values[a], values[b])
        if np.abs(y).max() > 200:  # the sums must stay below 2^24
            line, y = "const 1.0", np.float32(1)
        live.append(len(values))
        values.append(y)
        code.append(line)
    outputs, expected = [], []
    for _ in range(draw(st.integers(1, 3))):
        r = draw(st.sampled_from(live[-3:] + live[:1]))
        value = np.broadcast_to(values[r], shape).astype(np.float32)
        kind = draw(st.sampled_from(["store", "sum", "max", "min"]))
        axes = [axis for axis in range(rank) if draw(st.booleans())]
        outputs.append(["store", r] if kind == "store" else [kind, r, axes])
        expected.append(value if kind == "store" else REDUCE[kind](value, axis=tuple(axes)))
    return shape, operands, strides, offsets, code, outputs, expected


@pytest.mark.parametrize(
    "operands", [8, 24]
)  # 24 values, computed and alive at once, are too many for the vector registers
@pytest.mark.parametrize("n", [15, 16, 4099])
def test_more_values_than_vector_registers(operands, n):
    x = np.random.default_rng(0).integers(-9, 9, (operands, n)).astype(np.float32)
    code = [f"{op} {i}" for op in ("neg", "square") for i in range(operands)]
    code.append(f"add {operands} {2 * operands}")
    for i in range(operands - 1, 0, -1):
        code += [f"multiply {operands + i} {2 * operands + i}".replace("multiply", "mul")]
        code.append(f"add {operands + len(code) - 2} {operands + len(code) - 1}")
    outputs = [["store", operands + len(code) - 1], ["sum", operands + len(code) - 1, [0]]]
    y, total = chain((n,), list(x), code, outputs, [np.float32] * 2)
    expected = -x[0] + x[0] ** 2 + (-(x[1:] ** 3)).sum(0)
    np.testing.assert_array_equal(y, expected)
    assert total == expected.sum(dtype=np.float64)


@settings(max_examples=examples(300), deadline=None)
@given(chains())
def test_random(case):
    shape, operands, strides, offsets, code, outputs, expected = case
    results = chain(shape, operands, code, outputs, [np.float32] * len(outputs), strides=strides, offsets=offsets)
    for y, e in zip(results, expected, strict=True):
        np.testing.assert_array_equal(y, e)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((50_176, 64), [0]), ((333, 4096), [0]), ((4096, 333), [1]), ((40, 70_000), [1]), ((64, 100_000), [0]),
     ((30, 40, 50), [1]), ((30, 40, 50), [0, 2]), ((16, 8, 9, 10, 6), [0, 2, 4]), ((300_000,), [0]), ((9, 3), [0]),
     ((20_000, 3), [0]), ((20_000, 3), [1]), ((7, 5000, 3), [0, 1])],
)  # fmt: skip
def test_reductions(shape, axes):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    outputs = [["sum", 0, axes], ["max", 0, axes], ["min", 1, axes], ["store", 1]]
    total, top, least, stored = chain(shape, [x], ["square 0"], outputs, [np.float32] * 4)
    scale = np.sqrt(np.prod([shape[a] for a in axes]))
    np.testing.assert_allclose(total, x.sum(axis=tuple(axes), dtype=np.float64), rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_array_equal(top, x.max(axis=tuple(axes)))
    np.testing.assert_array_equal(least, (x * x).min(axis=tuple(axes)))
    np.testing.assert_array_equal(stored, x * x)


def test_reductions_of_other_types():
    x = np.arange(-3000, 3000, dtype=np.int32).reshape(60, 100)
    total, top = chain(x.shape, [x], [], [["sum", 0, [0]], ["max", 0, [1]]], [np.int32] * 2)
    np.testing.assert_array_equal(total, x.sum(0))
    np.testing.assert_array_equal(top, x.max(1))
    u = x.astype(np.uint32)
    np.testing.assert_array_equal(chain(x.shape, [u], [], [["max", 0, [0, 1]]], [np.uint32])[0], u.max())
    some, every = chain(x.shape, [x > 0], [], [["max", 0, [1]], ["min", 0, [1]]], [bool] * 2)
    np.testing.assert_array_equal(some, (x > 0).any(1))
    np.testing.assert_array_equal(every, (x > 0).all(1))
    (half,) = chain((60, 100), [np.ones((60, 100), np.float16)], [], [["sum", 0, [0]]], [np.float16])
    np.testing.assert_array_equal(half, np.full(100, 60, np.float16))


def test_sum_of_ones():
    n = 10_000_019
    for axes, shape in (([0], (n,)), ([0], (n // 8, 8))):
        (y,) = chain(shape, [np.float32(1)], [], [["sum", 0, axes]], [np.float32], strides=[[0] * len(shape)])
        np.testing.assert_allclose(y, shape[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("shape", [(5, 1000), (1000, 5), (5000,)])
def test_nan_reaches_extremes(kind, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x.ravel()[[0, 777]] = NAN
    for axes in ([0], [len(shape) - 1]):
        (y,) = chain(shape, [x], [], [[kind, 0, axes]], [np.float32])
        np.testing.assert_array_equal(y, REDUCE[kind](x, axis=tuple(axes)))


def test_results_repeat():
    x = np.random.default_rng(3).normal(size=(5000, 33)).astype(np.float32)
    g = np.random.default_rng(4).normal(size=(33,)).astype(np.float32)
    outputs = [["store", 3], ["sum", 3, [0]], ["sum", 3, [1]], ["sum", 3, [0, 1]]]
    args = (x.shape, [x, g], ["mul 0 1", "tanh 2"], outputs, [np.float32] * 4)
    first = chain(*args, strides=[[33, 1], [0, 1]])
    for _ in range(200):
        for a, b in zip(first, chain(*args, strides=[[33, 1], [0, 1]]), strict=True):
            assert a.tobytes() == b.tobytes()


def test_many_registers():
    x = np.arange(3000, dtype=np.float32)
    code = [f"add {i} 0" for i in range(60)]  # all live at the end
    outputs = [["store", i + 1] for i in range(60)]
    for i, y in enumerate(chain(x.shape, [x], code, outputs, [np.float32] * 60)):
        np.testing.assert_array_equal(y, x * (i + 2))


@pytest.mark.parametrize(
    ("code", "outputs", "expected"),
    [
        (["add 0 1"], [["store", 2]], lambda x, y: [x + y]),
        (["add 0 1", "mul 0 1"], [["store", 2], ["store", 3]], lambda x, y: [x + y, x * y]),
        (["add 0 1"], [["store", 2], ["store", 0]], lambda x, y: [x + y, x]),
        (["add 0 1"], [["store", 1], ["store", 0]], lambda x, y: [y, x]),
        (
            ["add 0 1", "sub 0 1"],
            [["store", 2], ["store", 3], ["sum", 0, [0, 1]]],
            lambda x, y: [x + y, x - y, x.sum()],
        ),
    ],
)
@pytest.mark.parametrize("shape", [(3, 5), (3000, 7)])
def test_results_in_the_operands_memory(shape, code, outputs, expected):
    x, y = (np.random.default_rng(i).integers(-8, 9, shape).astype(np.float32) for i in range(2))
    types = [jax.ShapeDtypeStruct(shape if o[0] == "store" else (), np.float32) for o in outputs]
    strides = [row_major(shape)] * 2
    text = program("chain", [x, y], types, shape=shape, strides=strides, offsets=[0, 0], code=code, outputs=outputs)
    aliases = {i: i for i, o in enumerate(outputs[:2]) if o[0] == "store"}
    call = jax.ffi.ffi_call("jax_mps", tuple(types), input_output_aliases=aliases)
    ffi.native()
    results = jax.jit(lambda x, y: call(x, y, program=text), donate_argnums=tuple(aliases))(
        jnp.array(x, copy=True), jnp.array(y, copy=True)
    )
    for r, e in zip(results, expected(x, y), strict=True):
        np.testing.assert_array_equal(r, e)
