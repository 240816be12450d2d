"""Programs as text: golden texts, texts with errors, random damage, several nodes, wrong buffers, the cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from native import f32

import jax_mps as mps
from jax_mps import ffi
from jax_mps.ir.program import Program

RELU = '{neuron=["relu",0,0,0]}'
CONV = "{dilation=[1,1], groups=1, padding=[[1,1],[1,1]], strides=[1,1]}"


def normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape), jnp.float32)


class TestText:
    def test_of_op(self):
        attributes = {"strides": (1, 2), "padding": ((0, 1), (2, 3)), "neuron": ("relu", 0.0, 1e-05, -1), "bias": None}
        operands = [f32(2, 8, 8, 3), jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.bfloat16)]
        program = Program.of_op("conv", operands, [f32(2, 8, 4, 4)], attributes)
        assert program.text() == (
            "input %0: f32[2,8,8,3], %1: bf16[3,3,3,4]\n"
            '%2: f32[2,8,4,4] = conv(%0, %1) {neuron=["relu",0.0,1e-05,-1], padding=[[0,1],[2,3]], strides=[1,2]}\n'
            "return %2"
        )

    def test_several_results_and_every_dtype(self):
        dtypes = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint32, jnp.uint8, jnp.bool_]
        values = [jax.ShapeDtypeStruct((), d) for d in dtypes]
        assert Program.of_op("op", values[:4], values[4:], {"a": True, "b": ()}).text() == (
            "input %0: f32[], %1: bf16[], %2: f16[], %3: s32[]\n"
            "%4: u32[], %5: u8[], %6: pred[] = op(%0, %1, %2, %3) {a=true, b=[]}\n"
            "return %4, %5, %6"
        )

    def test_no_operands(self):
        assert Program.of_op("op", [], [f32(3)], {}).text() == "%0: f32[3] = op()\nreturn %0"

    def test_what_programs_lack(self):
        with pytest.raises(TypeError, match="programs have no dtype float64"):
            Program.of_op("op", [np.zeros(3)], [], {})
        with pytest.raises(TypeError, match="a tuple of them, but got"):
            Program.of_op("op", [], [], {"a": {}}).text()


# Each text with the words that tell what is wrong with it, and where.
MALFORMED = [
    ("", "the program has no 'return' line"),
    ("input %0: f32[2]", "the program has no 'return' line"),
    ("hello", "line 1: expected '%' at 'hello'"),
    ("return", "line 1: expected '%' at 'return'"),
    ("return %0", "line 1: %0 is not defined"),
    ("input %0: f32[2]\nreturn %0,", "line 2: expected '%' at the end of the line"),
    ("input %0: f32[2]\nreturn %0 %0", "line 2: unexpected text at '%0'"),
    ("input %0: f32[2]\nreturn %0\ninput %1: f32[2]", "line 3: statement after 'return'"),
    ("input %0: f32[2], %0: f32[2]\nreturn %0", "line 1: %0 is defined twice"),
    ("input 0: f32[2]\nreturn %0", "line 1: expected '%' at '0: f32[2]'"),
    ("input %0 f32[2]\nreturn %0", "line 1: expected ':' at 'f32[2]'"),
    ("input %x: f32[2]\nreturn %0", "line 1: expected an integer at 'x: f32[2]'"),
    ("input %99999999999: f32[2]\nreturn %0", "line 1: value number out of range"),
    ("input %0: f33[2]\nreturn %0", "line 1: unknown dtype 'f33'"),
    ("input %0: f32\nreturn %0", "line 1: expected '[' at the end of the line"),
    ("input %0: f32[2\nreturn %0", "line 1: expected ',' at the end of the line"),
    ("input %0: f32[2;3]\nreturn %0", "line 1: expected ',' at ';3]'"),
    ("input %0: f32[-1]\nreturn %0", "line 1: dimension -1 out of range"),
    ("input %0: f32[281474976710656,2]\nreturn %0", "line 1: dimension 2 out of range"),
    ("input %0: f32[99999999999999999999]\nreturn %0", "line 1: expected an integer"),
    ("input %0: f32[2] @0\nreturn %0", "line 1: unexpected text at '@0'"),
    ("input %0: f32[2]\n\0\nreturn %0", "line 2: expected '%'"),
    (f"input %0: f32[2]\n\n%1: f32[2] = neuron(%1) {RELU}\nreturn %1", "line 3: a node reads its own result"),
    (f"input %0: f32[2]\n%1: f32[2] = neuron(%7) {RELU}\nreturn %1", "line 2: %7 is not defined"),
    (f"input %0: f32[2]\n%1: f32[2] @-64 = neuron(%0) {RELU}\nreturn %0", "line 2: offset -64 is not a multiple of 64"),
    (f"input %0: f32[2]\n%1: f32[2] @7 = neuron(%0) {RELU}\nreturn %0", "line 2: offset 7 is not a multiple of 64"),
    (f"input %0: f32[2]\n%1: f32[2] = neuron(%0) {RELU}\nreturn %0", "an intermediate of type f32[2] has no offset"),
    ("input %0: f32[2]\n%1: f32[2] neuron(%0)\nreturn %1", "line 2: expected '=' at 'neuron(%0)'"),
    ("input %0: f32[2]\n%1: f32[2] = (%0)\nreturn %1", "line 2: expected a name at '(%0)'"),
    ("input %0: f32[2]\n%1: f32[2] = neuron(%0\nreturn %1", "line 2: expected ',' at the end of the line"),
    ("input %0: f32[2]\n%1: f32[2] = neuron(%0) {a}\nreturn %1", "line 2: expected '=' at '}'"),
    ("input %0: f32[2]\n%1: f32[2] = neuron(%0) {a=?}\nreturn %1", "line 2: expected an attribute value at '?}'"),
    ("input %0: f32[2]\n%1: f32[2] = neuron(%0) {a=1 b=2}\nreturn %1", "line 2: expected ',' at 'b=2}'"),
    ('input %0: f32[2]\n%1: f32[2] = neuron(%0) {a="x}\nreturn %1', "line 2: string without end"),
    (
        f"input %0: f32[2]\n%1: f32[2] = neuron(%0) {{a={'[' * 40}\nreturn %1",
        "line 2: attribute lists nested too deeply",
    ),
    ("input %0: f32[2]\n%1: f32[2] = nothing(%0)\nreturn %1", "line 2: nothing: there is no such op"),
    ("input %0: f32[2]\n%1: f32[2] = neuron(%0)\nreturn %1", "line 2: neuron: attribute 'neuron' is missing"),
    (
        'input %0: f32[2]\n%1: f32[2] = neuron(%0) {neuron="relu"}\nreturn %1',
        "line 2: neuron: attribute 'neuron' must be a list",
    ),
    (
        'input %0: f32[2]\n%1: f32[2] = neuron(%0) {neuron=["sine",0,0,0]}\nreturn %1',
        "line 2: neuron: unknown neuron 'sine'",
    ),
    (f"%0: f32[2] = neuron() {RELU}\nreturn %0", "line 1: neuron: "),
    (f"input %0: f32[2]\n%1: f32[9] = neuron(%0) {RELU}\nreturn %1", "line 2: neuron: "),
    (f"input %0: f32[2], %1: f32[2]\n%2: f32[2] = neuron(%0, %1) {RELU}\nreturn %2", "line 2: neuron: "),
    ("input %0: f32[2,3]\n%1: f32[2] = bias_gradient(%0)\nreturn %1", "line 2: bias_gradient: "),
    ("input %0: f32[]\n%1: f32[] = bias_gradient(%0)\nreturn %1", "line 2: bias_gradient: "),
    ("input %0: f32[2,3]\n%1: f32[2,3] = prelu(%0, %0)\nreturn %1", "line 2: prelu: "),
    (f"input %0: f32[1,4,4,2]\n%1: f32[1,4,4,2] = conv(%0) {CONV}\nreturn %1", "line 2: conv: "),
    (
        f"input %0: f32[1,4,4,2], %1: f32[3,3,2,2]\n%2: f32[1,4,4,2] = conv(%0, %1, %1, %1) {CONV}\nreturn %2",
        "line 2: conv: ",
    ),
    (
        f"input %0: f32[4], %1: f32[3,3,2,2]\n%2: f32[1,4,4,2] = conv(%0, %1) {CONV}\nreturn %2",
        "line 2: conv: ",
    ),
    (
        "input %0: f32[1,4,4,2], %1: f32[3,3,2,2]\n%2: f32[1,4,4,2] = conv(%0, %1) "
        "{dilation=[1,1], groups=0, padding=[[1,1],[1,1]], strides=[1,1]}\nreturn %2",
        "line 2: conv: ",
    ),
]


@pytest.mark.parametrize("text, words", MALFORMED, ids=[str(i) for i in range(len(MALFORMED))])
def test_malformed_text(text, words, native):
    with pytest.raises(ValueError) as refused:
        ffi.implementations(text)
    assert words in str(refused.value)
    with pytest.raises(jax.errors.JaxRuntimeError) as refused:
        jax.block_until_ready(ffi.call(text, [], [f32(2)]))
    assert "INVALID_ARGUMENT: jax_mps: " in str(refused.value) and words in str(refused.value)


# Conv with a bias, a neuron, the column sum: two intermediates in the arena, and one result returned twice.
SEVERAL = f"""input %0: f32[2,6,5,3], %1: f32[3,3,3,4], %2: f32[4]
%3: f32[2,6,5,4] @0 = conv(%0, %1, %2) {CONV}
%4: f32[2,6,5,4] @1024 = neuron(%3) {{neuron=["tanh",1.0,1.0,0]}}
%5: f32[4] = bias_gradient(%4)
return %5, %0, %5"""
OPERANDS = [(2, 6, 5, 3), (3, 3, 3, 4), (4,)]
RESULTS = [(4,), (2, 6, 5, 3), (4,)]
TOKENS = ["%0", "%4", "f32", "bf16", "s32", "[", "]", "{", "}", "@64", "@0", "=", ",", "0", "1", "3", "-1", "7", "\n"]
TOKENS += ["conv", "neuron", "prelu", "prelu_gradient", "conv_data_gradient", "input ", "return ", '"', "99999999999"]


class TestSeveralNodes:
    def test_values(self, native):
        operands = [normal(*s) for s in OPERANDS]
        assert len(ffi.implementations(SEVERAL)) == 3
        total, same, again = ffi.call(SEVERAL, operands, [f32(*s) for s in RESULTS])
        wanted = jnp.tanh(mps.conv(*operands, padding="SAME")).sum((0, 1, 2))
        np.testing.assert_allclose(total, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(total, again)
        np.testing.assert_array_equal(same, operands[0])

    def test_an_intermediate_that_is_also_returned(self, native):
        text = f"input %0: f32[8]\n%1: f32[8] = neuron(%0) {RELU}\n%2: f32[8] = neuron_gradient(%1, %0) {RELU}\n"
        x = normal(8)
        first, second = ffi.call(text + "return %1, %2", [x], [f32(8), f32(8)])
        np.testing.assert_array_equal(first, np.maximum(x, 0))
        np.testing.assert_array_equal(second, np.maximum(x, 0))

    def test_offsets_are_used_again(self, native):
        steps = "".join(
            f'%{i + 1}: f32[999] @{i % 2 * 4032} = neuron(%{i}) {{neuron=["linear",1.0,1.0,0]}}\n' for i in range(99)
        )
        last = '%100: f32[999] = neuron(%99) {neuron=["linear",2.0,0,0]}\nreturn %100'
        (y,) = ffi.call(f"input %0: f32[999]\n{steps}{last}", [jnp.arange(999.0)], [f32(999)])
        np.testing.assert_array_equal(y, 2 * (np.arange(999.0) + 99))

    def test_inputs_only(self, native):
        got = ffi.call("input %0: f32[3], %1: f32[3]\nreturn %1, %0, %1", [jnp.zeros(3), jnp.ones(3)], [f32(3)] * 3)
        np.testing.assert_array_equal(np.stack(got), [[1] * 3, [0] * 3, [1] * 3])

    def test_more_operands_than_the_inline_arrays_hold(self, native):
        inputs = ", ".join(f"%{i}: f32[]" for i in range(200))
        text = f"input {inputs}\nreturn {', '.join(f'%{i}' for i in reversed(range(200)))}"
        got = ffi.call(text, [jnp.float32(i) for i in range(200)], [f32()] * 200)
        np.testing.assert_array_equal(np.stack(got), np.arange(200)[::-1])

    def test_under_jit_and_concurrently(self, native):
        operands = [normal(*s) for s in OPERANDS]

        @jax.jit
        def twenty(*operands):
            return [
                ffi.call(SEVERAL, [operands[0] * i, *operands[1:]], [f32(*s) for s in RESULTS])[0] for i in range(20)
            ]

        for i, y in enumerate(twenty(*operands)):
            alone = ffi.call(SEVERAL, [operands[0] * i, *operands[1:]], [f32(*s) for s in RESULTS])[0]
            np.testing.assert_array_equal(y, alone)


class TestBuffers:
    """The call's buffers must be those of the text."""

    @pytest.mark.parametrize(
        "operands, results, words",
        [
            ([(2, 6, 5, 3), (3, 3, 3, 4), (5,)], RESULTS, "a buffer of 20 bytes is bound to f32[4]"),
            ([(1, 6, 5, 3), (3, 3, 3, 4), (4,)], RESULTS, "a buffer of 360 bytes is bound to f32[2,6,5,3]"),
            (OPERANDS, [(3,), (2, 6, 5, 3), (4,)], "a buffer of 12 bytes is bound to f32[4]"),
            (OPERANDS, [(4,), (2, 6, 5, 3), ()], "a buffer of 4 bytes is bound to f32[4]"),
            (OPERANDS[:2], RESULTS, "takes 3 inputs and gives 3 outputs, but the call has 2 and 3"),
            (OPERANDS, RESULTS[:1], "takes 3 inputs and gives 3 outputs, but the call has 3 and 1"),
            ([], [], "takes 3 inputs and gives 3 outputs, but the call has 0 and 0"),
        ],
    )
    def test_wrong(self, native, operands, results, words):
        # Without results XLA would drop the call, so one that has none here runs by its side effect's absence.
        if not results:
            results, words = [()], words.replace("0 and 0", "0 and 1")
        with pytest.raises(jax.errors.JaxRuntimeError) as refused:
            jax.block_until_ready(ffi.call(SEVERAL, [normal(*s) for s in operands], [f32(*s) for s in results]))
        assert "INVALID_ARGUMENT" in str(refused.value) and words in str(refused.value)


@st.composite
def damaged(draw):
    text = SEVERAL
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 6)))
        put = draw(st.one_of(st.sampled_from(TOKENS), st.just(""), st.text('%@[]{}(),:="0123456789 \nfs', max_size=4)))
        text = text[:at] + put + text[end:]
    return text


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=damaged())
@example(text=SEVERAL.replace("groups=1", "groups=0"))
@example(text=SEVERAL.replace("groups=1", "groups=-3"))
@example(text=SEVERAL.replace("strides=[1,1]", "strides=[0,1]"))
@example(text=SEVERAL.replace("dilation=[1,1]", "dilation=[0,-7]"))
@example(text=SEVERAL.replace("%4: f32[2,6,5,4]", "%4: f32[200000,6,5,4]"))
@example(text=SEVERAL.replace("%4: f32[2,6,5,4]", "%4: f32[9999999,99999,99,1]"))
@example(text=SEVERAL.replace("%3: f32[2,6,5,4] @0", "%3: f32[2,6,5,4] @281474976710656"))
def test_damaged_text_is_refused_or_runs(text):
    mps.set_device("cpu")
    try:
        names = ffi.implementations(text)
    except ValueError as refused:
        assert str(refused)
        return
    assert isinstance(names, list)
    try:
        jax.block_until_ready(ffi.call(text, [jnp.ones(s) for s in OPERANDS], [f32(*s) for s in RESULTS]))
    except jax.errors.JaxRuntimeError as refused:
        assert "jax_mps: " in str(refused)


class TestCache:
    @pytest.fixture(autouse=True)
    def own_limit(self, native):
        before = mps.cache_info().limit
        mps.clear_cache()
        yield
        mps.set_cache_limit(before)

    @staticmethod
    def text(n):
        return f"input %0: f32[{n}]\n%1: f32[{n}] = neuron(%0) {RELU}\nreturn %1"

    def test_counts(self):
        assert mps.cache_info()[:2] == (0, 0) and mps.cache_info()[3:] == (0, 0, 0)
        for _ in range(3):
            for n in (1, 2):
                ffi.implementations(self.text(n))
        info = mps.cache_info()
        assert (info.count, info.hits, info.misses) == (2, 4, 2)
        assert info.bytes > len(self.text(1))

    def test_the_least_recently_used_goes_first(self):
        mps.set_cache_limit(3)
        for n in (1, 2, 3, 1, 4):  # 4 takes the place of 2
            ffi.implementations(self.text(n))
        assert mps.cache_info().count == 3
        misses = mps.cache_info().misses
        for n in (1, 3, 4):
            ffi.implementations(self.text(n))
        assert mps.cache_info().misses == misses
        ffi.implementations(self.text(2))
        assert mps.cache_info().misses == misses + 1

    def test_bound_over_many_shapes(self):
        mps.set_cache_limit(10)
        sizes = []
        for n in range(1, 100):
            ffi.implementations(self.text(n))
            sizes.append(mps.cache_info().bytes)
        assert mps.cache_info().count == 10
        assert max(sizes) < 1.1 * sizes[9]

    def test_a_lower_limit_drops_at_once_and_programs_come_back(self):
        for n in range(1, 9):
            ffi.implementations(self.text(n))
        mps.set_cache_limit(2)
        assert mps.cache_info().count == 2 and mps.cache_info().limit == 2
        (y,) = ffi.call(self.text(1), [-jnp.ones(1)], [f32(1)])
        assert y == 0

    def test_the_arena_is_kept_and_given_back(self):
        text = (
            f"input %0: f32[9999]\n%1: f32[9999] @0 = neuron(%0) {RELU}\n%2: f32[9999] = neuron(%1) {RELU}\nreturn %2"
        )
        jax.block_until_ready(ffi.call(text, [jnp.ones(9999)], [f32(9999)]))
        assert mps.cache_info().arena_bytes >= 4 * 9999
        mps.clear_cache()
        assert mps.cache_info()[:2] == (0, 0) and mps.cache_info().arena_bytes == 0

    def test_refused_programs_are_not_kept(self):
        for _ in range(3):
            with pytest.raises(ValueError):
                ffi.implementations("return %0")
        assert mps.cache_info().count == 0

    def test_limit_below_one(self):
        with pytest.raises(
            ValueError, match=r"set_cache_limit: programs must be at least 1, but got 0\. Use clear_cache"
        ):
            mps.set_cache_limit(0)
