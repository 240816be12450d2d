"""Texts whose node contradicts its op: each rule of each op's checker refuses with words, on every device."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program_nodes import CONV, KEY, LSTM, NODES, NORM, POOL, RNN, RULE, C, text_of

from jax_mps import ffi

ELSEWHERE = {"loop"}  # tests/compiler/test_loops.py


def refused(op, operands, results, attributes):
    """The words with which a node is refused, after its line and op."""
    text = text_of(op, operands, results, attributes)
    line = 2 if operands else 1
    with pytest.raises(ValueError) as error:
        ffi.implementations(text)
    assert str(error.value).startswith((f"line {line}: {op}: ", f"{op}: ")), f"{error.value}\n{text}"
    return str(error.value)


by_op = pytest.mark.parametrize("op, operands, results, attributes", NODES, ids=[n[0] for n in NODES])


def test_every_op_of_every_device_is_checked_and_stands_here(native):
    ops = ffi.native().ops()
    checked = set(ops.pop("checked"))
    assert {"cpu", native} <= {*ops}
    for device, names in ops.items():
        assert set(names) <= checked, device
    assert checked == {n[0] for n in NODES} | ELSEWHERE


@by_op
def test_what_means_something_is_taken(native, op, operands, results, attributes):
    text = text_of(op, operands, results, attributes)
    if native == "metal" and op == "part":
        pytest.skip("the Metal device has none")
    assert len(ffi.implementations(ffi.text_for(native, text))) == 1


@by_op
def test_counts(native, op, operands, results, attributes):
    refused(op, operands[:-1], results, attributes)
    refused(op, [*operands, operands[-1]], results, attributes)
    refused(op, operands, [*results, results[-1]], attributes)
    refused(op, [], results, attributes)
    if len(results) > 1:
        refused(op, operands, results[:-1], attributes)


# What these have of a value is its bytes, its number of elements, or nothing.
ANY_RANK = {"reshape", "part", "sgd", "rmsprop", "adam", "random_bits", "dropout"}


def _changed(operands, results, i, change):
    values = [*operands, *results]
    values[i] = change(values[i])
    return values[: len(operands)], values[len(operands) :]


@by_op
def test_ranks(native, op, operands, results, attributes):
    for i in range(len(operands) + len(results)):
        if op in ANY_RANK or (op == "chain" and i < len(operands)):
            continue
        refused(op, *_changed(operands, results, i, lambda t: t.replace("[]", "[2]").replace("]", ",1]")), attributes)
        if "," in [*operands, *results][i]:
            refused(op, *_changed(operands, results, i, lambda t: re.sub(r",\d+]", "]", t)), attributes)


# Sums and picks are of as many rows or classes as there are.
ANY_SIZE = {("bias_gradient", 0), ("softmax_cross_entropy", 0), ("pick", 0), ("part", 0), ("chain", 0), ("chain", 1)}


@by_op
def test_shapes(native, op, operands, results, attributes):
    for i in range(len(operands) + len(results)):
        for change in (
            lambda t: re.sub(r"\[(\d+)", lambda m: f"[{int(m[1]) + 1}", t),  # the first axis is longer
            lambda t: re.sub(r"(\d+)\]", lambda m: f"{int(m[1]) + 1}]", t),  # the last one is
            lambda t: re.sub(r"(\d+)\]", "281474976710656]" if "," not in t else "4194304]", t),
        ):
            changed = _changed(operands, results, i, change)
            if changed != (operands, results) and (op, i) not in ANY_SIZE:
                refused(op, *changed, attributes)


@by_op
def test_dtypes(native, op, operands, results, attributes):
    for i in range(len(operands) + len(results)):
        for dtype in ("pred", "u32", "bf16"):
            values = [*operands, *results]
            halves_mix = dtype == "bf16" and values[i].startswith("f32")
            if values[i].startswith(dtype) or halves_mix or (op == "reshape" and dtype == "u32"):
                continue
            refused(op, *_changed(operands, results, i, lambda t, dtype=dtype: re.sub(r"^\w+", dtype, t)), attributes)


# Attributes that may be missing, or that are read with those of another kind.
OPTIONAL = {"neuron", "dilation", "spatial", "window", "wanted", "shape", "classes"}


def _optional(op, name):
    required = {"neuron": ("neuron", "neuron_gradient"), "shape": ("chain",)}
    if name == "window":
        return not op.endswith(("pool", "taps", "pool_gradient", "pick"))
    return name in OPTIONAL and op not in required.get(name, ())


@by_op
def test_attributes(native, op, operands, results, attributes):
    for name in attributes:
        rest = {k: v for k, v in attributes.items() if k != name}
        if not _optional(op, name) and (op, name) != ("dot", "batch"):
            assert f"attribute '{name}' is missing" in refused(op, operands, results, rest)
        wrong = 7 if isinstance(attributes[name], str) else "seven"
        assert f"'{name}'" in refused(op, operands, results, {**rest, name: wrong}) or name == "neuron"


def _numbers(value, path=()):
    """The places of the integers in an attribute."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _numbers(item, (*path, i))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path


def _with(value, path, number):
    if not path:
        return number
    return [_with(v, path[1:], number) if i == path[0] else v for i, v in enumerate(value)]


@by_op
@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), -(2**31), 2**62, 2**32])
def test_numbers_out_of_range(native, op, operands, results, attributes, number):
    for name, value in attributes.items():
        for path in _numbers(value):
            # A chain's stride along an axis of one step is free, and so on: none of these nodes has such an axis.
            refused(op, operands, results, {**attributes, name: _with(value, path, number)})


# Contradictions by hand, with the words that tell them.
MAX = ["f32[2,7,6,3]"], ["f32[2,7,3,3]"]
CONVOLVED = ["f32[2,7,6,3]", "f32[3,2,3,4]"], ["f32[2,7,3,4]"]
WRONG = [
    ("softmax", ["f32[4,3]"], ["f32[9,9]"], {}, "a value of type f32[4,3] must have shape f32[9,9]"),
    ("softmax", ["f32[4,3]"], ["u8[4,3]"], {}, "a value of type u8[4,3] must be f32"),
    ("softmax", ["f32[]"], ["f32[]"], {}, "softmax needs an axis of classes"),
    ("softmax_cross_entropy", ["f32[4,3]", "s32[3]"], ["f32[4]"] * 3, {"smoothing": 0}, "must have shape s32[4]"),
    ("softmax_cross_entropy", ["f32[4,3]", "f32[4]"], ["f32[4]"] * 3, {"smoothing": 0}, "must have shape f32[4,3]"),
    ("softmax_cross_entropy", ["f32[4,3]", "u32[4]"], ["f32[4]"] * 3, {"smoothing": 0}, "must be f32, bf16 or f16"),
    ("softmax_cross_entropy", ["bf16[4,3]", "s32[4]"], ["bf16[4]"] * 3, {"smoothing": 0}, "must be f32"),
    ("batch_norm", ["f32[3]", C, C], ["f32[3]", C, C], NORM, "x must have a channel axis after others"),
    ("batch_norm", ["f32[4,3]", "f32[1]", C], ["f32[4,3]", C, C], NORM, "must have shape f32[3]"),
    ("max_pool", ["f32[2,9]"], ["f32[2,9]"], POOL, "images [batch, spatial..., channels] of 1 or 2 spatial axes"),
    ("max_pool", ["f32[2,7,6,3]"], ["f32[2,7,4,3]"], POOL, "there are 3 windows along spatial axis 1"),
    ("max_pool", ["f32[2,7,6,3]"], ["f32[3,7,3,3]"], POOL, "the channels or batches of f32[2,7,6,3]"),
    ("max_pool", *MAX, {**POOL, "window": [3, 0]}, "a window must be positive, but got 0"),
    ("max_pool", *MAX, {**POOL, "window": [3]}, "the window must have 2 axes"),
    ("max_pool", *MAX, {**POOL, "strides": [1]}, "attribute 'strides' must have 2 numbers"),
    ("max_pool", *MAX, {**POOL, "strides": [0, 1]}, "strides and dilation must be positive"),
    (
        "max_pool",
        *MAX,
        {**POOL, "padding": [[2**63 - 1, 2**63 - 1], [0, 0]]},
        "padding must be within 2^30",
    ),
    (
        "max_pool",
        ["f32[1,1,1,1]"],
        ["f32[1,1,1,1]"],
        {"strides": [1, 1], "padding": [[2**29 - 1, 0], [2**29 - 1, 0]], "window": [2**29, 2**29]},
        "a window must have fewer than 2^30 pixels along an axis, and than 2^31 in all",
    ),
    ("max_pool", ["f32[1,1073741824,1]"], ["f32[1,1,1]"], {"strides": [1], "padding": [[0, 0]], "window": [1]},
     "an image must have fewer than 2^30 pixels along an axis"),
    (
        "max_pool_gradient",
        ["f32[1,1,1,1]", "u8[1,1,1,1]"],
        ["f32[1,17,17,1]"],
        {"strides": [1, 1], "padding": [[0, 0], [0, 0]], "window": [17, 17]},
        "the taps of a window of 289 pixels must be s32, or u8 for at most 256",
    ),
    ("conv", ["f32[2,7,6,3]", "f32[3,3,4]"], ["f32[2,7,3,4]"], CONV, "weights must be [window..., in / groups, out]"),
    ("conv", *CONVOLVED, {**CONV, "groups": 0}, "disagree with groups=0"),
    ("conv", ["f32[2,7,6,3]", "f32[3,2,3,4]", "f32[5]"], ["f32[2,7,3,4]"], CONV, "must have shape f32[4]"),
    ("conv", *CONVOLVED, {**CONV, "neuron": ["sine", 0, 0, 0]}, "unknown neuron"),
    ("dense", ["f32[2,3]", "f32[4,4]"], ["f32[2,4]"], {}, "a value of type f32[4,4] must have shape f32[3,4]"),
    ("dense", ["f32[2,3,1]", "f32[3,4]"], ["f32[2,4]"], {}, "a matrix product takes matrices, but got f32[2,3,1]"),
    ("dropout", ["f32[4]", "u32[2]"], ["f32[4]"], {**KEY, "keep_probability": 0.5, "mask_shape": [3]}, "broadcast to"),
    ("dropout", ["f32[4]", "u32[2]"], ["f32[4]"], {**KEY, "keep_probability": 0.5, "mask_shape": [4, 4]}, "more axes"),
    ("dropout", ["f32[4]", "u32[2]"], ["f32[4]"], {**KEY, "keep_probability": 0, "mask_shape": [4]}, "in (0, 1]"),
    ("random_bits", ["u32[2]"], ["u32[4]"], {**KEY, "shape": [5]}, "attribute 'shape' must be [4]"),
    ("sgd", ["f32[7]", "f32[5]"], ["f32[4]"], {**RULE, "states": 0, "nesterov": False}, "the streams of a leaf differ"),
    ("sgd", ["f32[6]", "f32[5]"], ["f32[5]"], {**RULE, "states": 0, "nesterov": False}, "expected 7 hyperparameters"),
    ("sgd", ["f32[7]", "f32[5]"], ["f32[5]"], {**RULE, "states": -1, "nesterov": False}, "do not match the states"),
    ("sgd", ["f32[7]", "f32[5]"], ["f32[5]"], {**RULE, "regularization": "l3", "states": 0, "nesterov": False}, "'l3'"),
    ("pad", ["f32[4]", "f32[]"], ["f32[4]"], {"config": [[2**62, -(2**62), 0]]}, "attribute 'config' is out of range"),
    ("pad", ["f32[4]", "f32[]"], ["f32[4]"], {"config": [[0, 0]]}, "must be one [low, high, interior] an axis"),
    ("concatenate", ["f32[4,3]"], ["f32[4,2]"], {"axis": 1}, "more elements along the axis than f32[4,2]"),
    ("concatenate", ["f32[4,3]"], ["f32[4,5]"], {"axis": 1}, "the operands have 3 elements along the axis"),
    ("pick", ["f32[]", "s32[]"], ["f32[]"], {}, "a value without axes has no rows"),
    ("pick_gradient", ["f32[4]", "s32[4]"], ["f32[4,3]"], {"classes": 4}, "'classes' must be the last axis"),
    ("part", ["f32[12]"], ["f32[2,3]"], {"start": 2**63 - 1}, "from element 9223372036854775807 is not within f32[12]"),
    ("reshape", ["f32[4]"], ["f32[5]"], {}, "a reshape keeps one operand's bytes, but f32[4] would be f32[5]"),
    (
        "lstm_gradient",
        *next((o, r) for n, o, r, _ in NODES if n == "lstm_gradient"),
        {**LSTM, "wanted": [True] * 5},
        "attribute 'wanted' must have 6 items",
    ),
]  # fmt: skip


@pytest.mark.parametrize("op, operands, results, attributes, words", WRONG, ids=[f"{i}" for i in range(len(WRONG))])
def test_words(native, op, operands, results, attributes, words):
    assert words in refused(op, operands, results, attributes)


PIXEL = {"strides": [1, 1], "padding": [[0, 0], [0, 0]], "dilation": [1, 1], "groups": 1}


class TestPrograms:
    """Rules that more than one statement breaks."""

    @pytest.mark.parametrize(
        "text, words",
        [
            ("input %0: f32[4]\n%1: f32[4] = nothing(%0)\nreturn %1", "line 2: nothing: there is no such op"),
            (
                "input %0: f32[4]\n%1: f32[2,2] @0 = reshape(%0)\n%2: f32[2,2] = softmax(%1)\nreturn %2",
                "line 2: reshape: lies where its operand does, and takes no offset",
            ),
            (
                "input %0: f32[4]\n%1: f32[4] @1152921504606846976 = softmax(%0)\n%2: f32[4] = softmax(%1)\nreturn %2",
                "line 2: offset 1152921504606846976 is out of range",
            ),
            (
                "input %0: f32[0,281474976710656,281474976710656]\nreturn %0",
                "line 1: dimension 281474976710656 out of range",
            ),
            ("input %0: f32[2]\n%1: f32[4,0|0] = softmax(%0)\nreturn %1", "line 2: rows 0 apart are out of range"),
        ],
    )
    def test_malformed(self, native, text, words):
        with pytest.raises(ValueError) as error:
            ffi.implementations(text)
        assert words in str(error.value)

    def test_a_body_is_checked_by_its_line(self, native):
        text = (
            "input %0: f32[4]\n%3: f32[4] = loop(%0) {carry=1, consts=0, in_place=[], length=3, reverse=false} do\n"
            "  input %1: f32[4]\n  %2: f32[5] = softmax(%1)\n  return %2\nend\nreturn %3"
        )
        with pytest.raises(ValueError, match=r"line 2: loop: a value of type f32\[4\] is f32\[5\] inside of the body"):
            ffi.implementations(text)
        inner = text.replace("%2: f32[5]", "%2: f32[4]").replace("softmax(%1)", "softmax(%1, %1)")
        with pytest.raises(ValueError, match="line 4: softmax: takes 1 operands and gives 1 results, but has 2 and 1"):
            ffi.implementations(inner)

    def test_slices_of_huge_loops(self, native):
        text = (
            "input %0: f32[1099511627776,256]\n"
            "%3: f32[1099511627776,256] = loop(%0) {carry=0, consts=0, in_place=[], length=1099511627776, "
            "reverse=false} do\n  input %1: f32[281474976710656]\n  return %1\nend\nreturn %3"
        )
        with pytest.raises(ValueError, match="line 2: loop: a value of type"):
            ffi.implementations(text)

    @pytest.mark.parametrize(
        "op, operands, results, attributes",
        [
            ("dense", ["f32[2,4294967296]", "f32[4294967296,4]"], ["f32[2,4]"], {}),
            ("dense_weight_gradient", ["f32[1,4294967296]", "f32[1,2]"], ["f32[4294967296,2]"], {}),
            ("dot", ["f32[2,4294967296]", "f32[4294967296]"], ["f32[2]"], {"batch": [[], []], "contract": [[1], [0]]}),
            ("conv", ["f32[1,1,1,4294967296]", "f32[1,1,4294967296,1]"], ["f32[1,1,1,1]"], PIXEL),
            ("rnn", ["f32[2,5,4294967296]", "s32[2]", "f32[2,4]", "f32[4294967296,4]", "f32[4,4]", "f32[4]"],
             ["f32[2,5,4]", "f32[2,4]"], RNN),
        ],
    )  # fmt: skip
    def test_arrays_that_kernels_cannot_count(self, native, op, operands, results, attributes):
        text = ffi.text_for(native, text_of(op, operands, results, attributes))
        words = {"cpu": "oneDNN takes arrays of fewer than", "metal": "kernels take up to"}[native]
        with pytest.raises(ValueError, match=rf"{op}: .*{words} 2\^31 elements"):
            ffi.implementations(text)

    def test_an_arena_that_there_is_no_memory_for(self, native):
        offset = 2**38 - 64
        text = f"input %0: f32[4]\n%1: f32[4] @{offset} = softmax(%0)\n%2: f32[4] = softmax(%1)\nreturn %2"
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=r"RESOURCE_EXHAUSTED: .*working memory of 274.9 GB does not fit"
        ):
            jax.block_until_ready(ffi.call(text, [jnp.ones(4)], [jax.ShapeDtypeStruct((4,), jnp.float32)]))


class TestValues:
    """What is only known at run time names no memory outside of the arrays."""

    EXTREME = (-(2**31), -1, 3, 256, 2**31 - 1)

    @staticmethod
    def run(native, node, *operands):
        types = [jax.ShapeDtypeStruct(tuple(map(int, re.findall(r"\d+", t[3:]))), jnp.float32) for t in node[2]]
        return [np.asarray(y) for y in ffi.call(ffi.text_for(native, text_of(*node)), list(operands), types)]

    @pytest.mark.parametrize("index", EXTREME)
    def test_labels(self, native, index):
        labels = jnp.asarray([0, index, 2, index], jnp.int32)
        node = next(n for n in NODES if n[0] == "softmax_cross_entropy")
        loss, maximum, _ = self.run(native, node, jnp.ones((4, 3)), labels)
        np.testing.assert_array_equal(np.isnan(loss), [False, True, False, True])
        np.testing.assert_array_equal(maximum, np.ones(4))
        node = ("softmax_cross_entropy_gradient", ["f32[4]", "f32[4,3]", "s32[4]", "f32[4]", "f32[4]"], ["f32[4,3]"],
                {"smoothing": 0.1})  # fmt: skip
        (dx,) = self.run(native, node, jnp.ones(4), jnp.ones((4, 3)), labels, jnp.ones(4), jnp.zeros(4))
        np.testing.assert_array_equal(np.isnan(dx).all(1), [False, True, False, True])

    @pytest.mark.parametrize("index", EXTREME)
    def test_picks(self, native, index):
        places = jnp.asarray([0, index, 2, index], jnp.int32)
        (y,) = self.run(
            native, ("pick", ["f32[4,3]", "s32[4]"], ["f32[4]"], {}), jnp.arange(12.0).reshape(4, 3), places
        )
        np.testing.assert_array_equal(y, [0, np.nan, 8, np.nan])
        node = ("pick_gradient", ["f32[4]", "s32[4]"], ["f32[4,3]"], {"classes": 3})
        (dx,) = self.run(native, node, jnp.ones(4), places)
        np.testing.assert_array_equal(dx, [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])

    @pytest.mark.parametrize("tap", [-(2**31), -1, 6, 255, 2**31 - 1])
    def test_taps(self, native, tap):
        pools = [n for n in NODES if n[0] in ("max_pool_gradient", "max_pool_pick")]
        for op, (first, taps), results, attributes in pools:
            node = (op, [first, taps.replace("u8", "s32")], results, attributes)
            shapes = [tuple(map(int, re.findall(r"\d+", t[3:]))) for t in node[1]]
            (y,) = self.run(native, node, jnp.ones(shapes[0]), jnp.full(shapes[1], tap, jnp.int32))
            np.testing.assert_array_equal(y, np.zeros(y.shape))

    @pytest.mark.parametrize("length", [-(2**31), -1, 0, 2**31 - 1])
    def test_lengths(self, native, length):
        node = next(n for n in NODES if n[0] == "rnn")
        operands = [jnp.ones((2, 5, 3)), jnp.asarray([5, length], jnp.int32), jnp.full((2, 4), 0.5)]
        operands += [jnp.ones((3, 4)), jnp.ones((4, 4)), jnp.ones(4)]
        _, last = self.run(native, node, *operands)
        np.testing.assert_array_equal(last[1] == 0.5, np.full(4, length <= 0))
