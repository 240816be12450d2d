"""Bad chains and their words."""

import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from native import chain, run

X = np.ones((4, 6), np.float32)


def call(code=(), outputs=(("store", 0),), operands=(X,), dtypes=(np.float32,), **others):
    return chain((4, 6), list(operands), list(code), [list(o) for o in outputs], list(dtypes), **others)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"code": ["addd 0 0"]}, "unknown instruction 'addd'"),
        ({"code": ["add 0"]}, "'add' takes 2 operands, but has 1"),
        ({"code": ["add 0 1"]}, "register 1 is not defined"),
        ({"code": ["add 0 x"]}, "'x' is not a literal"),
        ({"code": ["add 0 -1"]}, "register -1 is not defined"),
        ({"code": [""]}, "a line is empty"),
        ({"code": ["const"]}, "'const' takes 1 operands"),
        ({"code": ["const_f64 1"]}, "unknown instruction 'const_f64'"),
        ({"code": ["const_s32 1", "add 0 1"]}, "operands of one type, but got f32 and s32"),
        ({"code": ["const_s32 1", "exp 1"]}, "exp takes f32, but got s32"),
        ({"code": ["and 0 0"]}, "and takes s32, u32 or pred, but got f32"),
        ({"code": ["select 0 0 0"]}, "select takes a pred first"),
        ({"code": ["iota 2"]}, "there is no axis 2"),
        ({"code": ["const_pred 1", "bitcast_s32 1"]}, "takes f32, s32 or u32, but got pred"),
        ({"code": ["const_pred 1"], "outputs": [["sum", 1, [0]]], "dtypes": [bool]}, "sum takes f32, s32 or u32"),
        ({"outputs": [["store", 7]]}, "register 7 is not defined"),
        ({"outputs": [["mean", 0, [0]]]}, "unknown output 'mean'"),
        ({"dtypes": [np.int32]}, "cannot become a result of type"),
        ({"operands": [X.astype(np.uint8)], "dtypes": [np.float32]}, "of type u32 cannot become a result of type f32"),
        ({"strides": [[6, 2]]}, "operand 0 of type f32\\[4,6\\] is read outside"),
        ({"strides": [[7, 1]]}, "is read outside"),
        ({"offsets": [1]}, "is read outside"),
        ({"offsets": [-1]}, "is read outside"),
        ({"strides": [[-6, 1]]}, "a stride must be at least 0"),
        ({"strides": [[2**62, 1]]}, "is read outside"),
        ({"strides": [[1]]}, "one entry for each axis"),
        ({"strides": [[6, 1], [6, 1]]}, "one entry for each of the 1 operands"),
    ],
)
def test_chain(arguments, words):
    with pytest.raises(JaxRuntimeError, match=words):
        call(**arguments)


@pytest.mark.parametrize(
    ("outputs", "result", "words"),
    [
        ([["sum", 0, [0]]], (4,), "must have shape"),
        ([["sum", 0, [2]]], (4, 6), "out of range"),
        ([["sum", 0, [0, 0]]], (6,), "given twice"),
        ([["sum", 0]], (6,), "an output must be"),
        ([["store"]], (4, 6), "an output must be"),
        ([], (4, 6), "one entry for each of the 1 results"),
        ([["store", 0]], (24,), "must have shape"),
    ],
)
def test_outputs(outputs, result, words):
    with pytest.raises(JaxRuntimeError, match=words):
        run("chain", [X], [(result, np.float32)], shape=[4, 6], strides=[[6, 1]], offsets=[0], code=[], outputs=outputs)


def test_missing_attribute():
    with pytest.raises(JaxRuntimeError, match="attribute 'code' is missing"):
        run("chain", [X], [((4, 6), np.float32)], shape=[4, 6], strides=[[6, 1]], offsets=[0], outputs=[["store", 0]])
