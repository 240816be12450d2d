"""The ops that graphs need, driven by program text: dot, pad, concatenate, pick."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.errors import JaxRuntimeError
from native import run

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "uint8", "bool"]


def integers(shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(jnp.dtype(dtype))


def dot(left, right, batch, contract, dtype=None):
    dtype = jnp.dtype(dtype or left.dtype)
    dims = (tuple(map(tuple, contract)), tuple(map(tuple, batch)))
    expected = np.asarray(lax.dot_general(jnp.asarray(left), jnp.asarray(right), dims, preferred_element_type=dtype))
    (y,) = run("dot", [left, right], [(expected.shape, dtype)], batch=batch, contract=contract)
    return y, expected


@pytest.mark.parametrize(
    ("left", "right", "batch", "contract"),
    [
        ((5, 7), (7, 9), [[], []], [[1], [0]]),
        ((150, 70), (70, 90), [[], []], [[1], [0]]),
        ((70, 150), (70, 90), [[], []], [[0], [0]]),
        ((150, 70), (90, 70), [[], []], [[1], [1]]),
        ((70, 150), (90, 70), [[], []], [[0], [1]]),
        ((8, 60, 70), (8, 70, 80), [[0], [0]], [[2], [1]]),
        ((60, 8, 70), (70, 80, 8), [[1], [2]], [[2], [0]]),
        ((3, 4, 50, 60), (3, 4, 60, 20), [[0, 1], [0, 1]], [[3], [2]]),
        ((3, 50, 4, 60), (3, 60, 4, 20), [[0, 2], [0, 2]], [[3], [1]]),
        ((30, 40, 50), (40, 50, 60), [[], []], [[1, 2], [0, 1]]),
        ((30, 40, 50), (50, 40, 60), [[], []], [[2, 1], [0, 1]]),
        ((40, 30, 50), (50, 60, 40), [[], []], [[0, 2], [2, 0]]),
        ((300,), (400,), [[], []], [[], []]),
        ((20, 30), (5, 6), [[], []], [[], []]),
        ((5000,), (5000,), [[], []], [[0], [0]]),
        ((300, 500), (500,), [[], []], [[1], [0]]),
        ((500,), (500, 300), [[], []], [[0], [0]]),
        ((500, 300), (500,), [[], []], [[0], [0]]),
        ((), (6,), [[], []], [[], []]),
        ((64, 1, 600), (64, 600, 1), [[0], [0]], [[2], [1]]),
        ((1, 600), (600, 500), [[], []], [[1], [0]]),
        ((64, 64), (64, 64), [[0, 1], [0, 1]], [[], []]),
        ((2, 3, 4, 5), (4, 3, 6, 2), [[1, 0], [1, 3]], [[2], [0]]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dot(left, right, batch, contract, dtype):
    y, expected = dot(integers(left, 1, dtype), integers(right, 2, dtype), batch, contract)
    np.testing.assert_allclose(
        y.astype(np.float32), expected.astype(np.float32), rtol=1e-2 if dtype != "float32" else 0
    )
    y, expected = dot(integers(left, 1, dtype), integers(right, 2, dtype), batch, contract, "float32")
    np.testing.assert_array_equal(y, expected)


@st.composite
def products(draw):
    sizes = {name: draw(st.sampled_from([1, 2, 3, 5, 8, 17])) for name in "abcdefgh"}
    names = draw(st.permutations("abcdefgh"))[: draw(st.integers(0, 6))]
    kinds = {name: draw(st.sampled_from(["batch", "contract", "left", "right"])) for name in names}
    left = draw(st.permutations([n for n in names if kinds[n] != "right"]))
    right = draw(st.permutations([n for n in names if kinds[n] != "left"]))
    axes = [[[s.index(n) for n in names if kinds[n] == kind] for s in (left, right)] for kind in ("batch", "contract")]
    return tuple(sizes[n] for n in left), tuple(sizes[n] for n in right), *axes


@settings(max_examples=100, deadline=None)
@given(products())
def test_random_dot(case):
    left, right, batch, contract = case
    y, expected = dot(integers(left, 1), integers(right, 2), batch, contract)
    np.testing.assert_array_equal(y, expected)


def test_dot_keeps_nan():
    x, w = integers((40, 50)), integers((50, 60))
    x[3, 4], w[7, 8] = np.nan, np.inf
    np.testing.assert_array_equal(*dot(x, w, [[], []], [[1], [0]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((4, 5), [[1, 2, 0], [0, 3, 0]]),
        ((4, 5), [[0, 0, 0], [0, 0, 0]]),
        ((4, 5), [[-1, -2, 0], [2, -1, 0]]),
        ((4, 5), [[1, 1, 2], [-2, -3, 1]]),
        ((4, 5), [[-4, 3, 0], [0, 0, 0]]),
        ((4,), [[3, -5, 0]]),
        ((300, 40, 6), [[2, 2, 0], [1, 1, 0], [0, 0, 0]]),
        ((30, 40, 6), [[0, 0, 0], [1, 1, 1], [0, 0, 2]]),
        ((50_000,), [[1, 1, 0]]),
        ((), []),
    ],
)
def test_pad(shape, config, dtype):
    x, value = integers(shape, 0, dtype), integers((), 5, dtype)
    expected = np.asarray(lax.pad(jnp.asarray(x), jnp.asarray(value), tuple(map(tuple, config))))
    (y,) = run("pad", [x, value], [(expected.shape, expected.dtype)], config=config)
    np.testing.assert_array_equal(y, expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 3)), max_size=4))
def test_random_pad(axes):
    shape = tuple(n for n, *_ in axes)
    config = [[low, max(high, 1 - low - n - (n - 1) * gap), gap] for n, low, high, gap in axes]
    x, value = integers(shape), np.float32(9)
    expected = np.asarray(lax.pad(jnp.asarray(x), value, tuple(map(tuple, config))))
    (y,) = run("pad", [x, value], [(expected.shape, "float32")], config=config)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shapes", "axis"),
    [(((3, 4), (5, 4)), 0), (((3, 4), (3, 1), (3, 7)), 1), (((200, 9, 3), (200, 50, 3)), 1), (((7,),), 0),
     (((100, 64), (100, 32), (100, 1)), 1), (((1,), (1,)), 0)],
)  # fmt: skip
def test_concatenate(shapes, axis, dtype):
    parts = [integers(shape, i, dtype) for i, shape in enumerate(shapes)]
    expected = np.concatenate(parts, axis)
    (y,) = run("concatenate", parts, [(expected.shape, expected.dtype)], axis=axis)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("shape", [(5,), (200, 10), (3, 4, 7), (3000, 64)])
def test_pick(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    index = rng.integers(-2, shape[-1] + 2, shape[:-1]).astype(np.int32)
    inside = (index >= 0) & (index < shape[-1])
    taken = np.take_along_axis(x, np.where(inside, index, 0)[..., None], -1)[..., 0]
    (y,) = run("pick", [x, index], [(index.shape, "float32")])
    np.testing.assert_array_equal(y, np.where(inside, taken, np.float32(np.nan)))
    dy = rng.normal(size=shape[:-1]).astype(np.float32)
    (dx,) = run("pick_gradient", [dy, index], [(shape, "float32")])
    hot = (index[..., None] == np.arange(shape[-1])) & inside[..., None]
    np.testing.assert_array_equal(dx, np.where(hot, dy[..., None], np.float32(0)))
    (half,) = run("pick", [x.astype(np.float16), index], [(index.shape, "float16")])
    np.testing.assert_array_equal(half, np.where(inside, taken.astype(np.float16), np.float16(np.nan)))


X = np.ones((4, 6), np.float32)
I4, ZERO = np.zeros(4, np.int32), np.float32(0)


@pytest.mark.parametrize(
    ("op", "operands", "result", "attributes", "words"),
    [
        ("dot", [X, X], (4, 4), {"batch": [[], []], "contract": [[1], [0]]}, "the same sizes"),
        ("dot", [X, X], (4, 4), {"batch": [[], []], "contract": [[2], [1]]}, "'contract' must be"),
        ("dot", [X, X], (4, 4), {"batch": [[], []], "contract": [[1], []]}, "'contract' must be"),
        ("dot", [X, X], (4, 4), {"batch": [[1], [1]], "contract": [[1], [1]]}, "axis 1 is given twice"),
        ("dot", [X, X], (4, 6), {"batch": [[], []], "contract": [[1], [1]]}, "must have shape f32\\[4,4\\]"),
        ("dot", [X, X], (4, 4), {"contract": [[1], [1]]}, "attribute 'batch' is missing"),
        ("pad", [X, X], (4, 6), {"config": [[0, 0, 0]] * 2}, "must have shape"),
        ("pad", [X, ZERO], (4, 6), {"config": [[0, 0, 0]]}, "one \\[low, high, interior\\] an axis"),
        ("pad", [X, ZERO], (4, 6), {"config": [[0, 1, 0], [0, 0, 0]]}, "must have shape f32\\[5,6\\]"),
        ("pad", [X, ZERO], (4, 6), {"config": [[0, 0, -1], [0, 0, 0]]}, "out of range"),
        ("pad", [X, np.int32(0)], (4, 6), {"config": [[0, 0, 0]] * 2}, "must be f32"),
        ("concatenate", [X, X], (8, 6), {"axis": 2}, "'axis' is out of range"),
        ("concatenate", [X, X], (9, 6), {"axis": 0}, "have 8 elements along the axis"),
        ("concatenate", [X, X], (8, 6), {"axis": 1}, "must have shape"),
        ("pick", [X, ZERO], (4,), {}, "must have shape"),
        ("pick", [X, np.zeros(4, np.float32)], (4,), {}, "the index must be s32"),
        ("pick", [X, I4], (6,), {}, "must have shape f32\\[4\\]"),
        ("pick_gradient", [I4.astype(np.float32), I4[:3]], (4, 6), {}, "must have shape"),
    ],
)
def test_errors(op, operands, result, attributes, words):
    with pytest.raises(JaxRuntimeError, match=f"{op}: .*{words}"):
        run(op, operands, [(result, "float32")], **attributes)


def test_products_repeat():
    x, w = (np.random.default_rng(i).normal(size=(300, 300)).astype(np.float32) for i in range(2))
    first, _ = dot(x, w, [[], []], [[1], [0]])
    for _ in range(100):
        (y,) = run("dot", [x, w], [((300, 300), "float32")], batch=[[], []], contract=[[1], [0]])
        assert y.tobytes() == first.tobytes()
