"""A node of each op that means something, and the text of a program of one node."""

from __future__ import annotations

GEOMETRY = {"strides": [1, 2], "padding": [[1, 1], [0, 1]]}
CONV = {**GEOMETRY, "dilation": [1, 2], "groups": 1}
POOL = {**GEOMETRY, "window": [3, 2], "dilation": [1, 1]}
AVERAGE = {**GEOMETRY, "window": [3, 2], "count_padding": False}
RELU = ["relu", 0.0, 0.0, 0.0]
NORM = {"epsilon": 1e-5, "neuron": RELU}
KEY = {"generator": "threefry2x32", "partitionable": True}
RULE = {"apply": False, "regularization": "none"}
SIGMOID, TANH = ["sigmoid", 0.0, 0.0, 0.0], ["tanh", 1.0, 1.0, 0.0]
CELL = {"reverse": False, "recompute": False}
LSTM = {**CELL, "neurons": [SIGMOID, TANH, TANH]}
GRU = {**CELL, "neurons": [SIGMOID, TANH], "reset": "before", "p": 1.0, "flip": False}
MGU = {**CELL, "neurons": [SIGMOID, TANH], "p": 1.0, "flip": False}
RNN = {**CELL, "neurons": [TANH]}
CHAIN = {
    "shape": [4, 3],
    "strides": [[3, 1], [0, 1]],
    "offsets": [0, 0],
    "code": ["add 0 1"],
    "outputs": [["store", 2]],
}
C = "f32[3]"  # a number for each channel


def _cell(name, gates, states, attributes):
    """Operands and results of the three ops of a cell: batch 2, 5 steps, 3 inputs, 4 hidden units."""
    y, state, matrices = "f32[2,5,4]", "f32[2,4]", [f"f32[3,{4 * gates}]", f"f32[4,{4 * gates}]", f"f32[{4 * gates}]"]
    operands = ["f32[2,5,3]", "s32[2]", *[state] * states, *matrices]
    kept = ["f32[5,2,4]"] * (states - 1) + [f"f32[5,2,{4 * gates}]"]
    results = [y, *[state] * states]
    gradients = [operands[0], *operands[2:]]
    yield name, operands, results, attributes
    yield f"{name}_training", operands, results + kept, attributes
    wanted = {**attributes, "wanted": [True] * len(gradients)}
    yield f"{name}_gradient", [*results, *operands, y, *kept], gradients, wanted


# A node of each op that means something, as op, operands, results, attributes.
NODES = [
    ("neuron", ["f32[2,3]"], ["f32[2,3]"], {"neuron": RELU}),
    ("neuron_gradient", ["f32[2,3]"] * 2, ["f32[2,3]"], {"neuron": RELU}),
    ("prelu", ["f32[2,3]", C], ["f32[2,3]"], {}),
    ("prelu_gradient", ["f32[2,3]", "f32[2,3]", C], ["f32[2,3]", C], {}),
    ("conv", ["f32[2,7,6,3]", "f32[3,2,3,4]"], ["f32[2,7,3,4]"], {**CONV, "neuron": RELU}),
    ("conv_data_gradient", ["f32[2,7,3,4]", "f32[3,2,3,4]"], ["f32[2,7,6,3]"], {**CONV, "spatial": [7, 6]}),
    ("conv_weight_gradient", ["f32[2,7,6,3]", "f32[2,7,3,4]"], ["f32[3,2,3,4]"], {**CONV, "window": [3, 2]}),
    ("dense", ["f32[2,3]", "f32[3,4]"], ["f32[2,4]"], {"neuron": RELU}),
    ("dense_data_gradient", ["f32[2,4]", "f32[3,4]"], ["f32[2,3]"], {}),
    ("dense_weight_gradient", ["f32[2,3]", "f32[2,4]"], ["f32[3,4]"], {}),
    ("dot", ["f32[5,2,3]", "f32[5,3,4]"], ["f32[5,2,4]"], {"batch": [[0], [0]], "contract": [[2], [1]]}),
    ("bias_gradient", ["f32[4,3]"], [C], {}),
    ("max_pool", ["f32[2,7,6,3]"], ["f32[2,7,3,3]"], POOL),
    ("max_pool_taps", ["f32[2,7,6,3]"], ["f32[2,7,3,3]", "u8[2,7,3,3]"], POOL),
    ("max_pool_gradient", ["f32[2,7,3,3]", "u8[2,7,3,3]"], ["f32[2,7,6,3]"], {**POOL, "spatial": [7, 6]}),
    ("max_pool_pick", ["f32[2,7,6,3]", "s32[2,7,3,3]"], ["f32[2,7,3,3]"], POOL),
    ("avg_pool", ["f32[2,7,6,3]"], ["f32[2,7,3,3]"], AVERAGE),
    ("avg_pool_gradient", ["f32[2,7,3,3]"], ["f32[2,7,6,3]"], {**AVERAGE, "spatial": [7, 6]}),
    ("l2_pool", ["f32[2,7,6,3]"], ["f32[2,7,3,3]"], {**GEOMETRY, "window": [3, 2]}),
    (
        "l2_pool_gradient",
        ["f32[2,7,3,3]", "f32[2,7,6,3]", "f32[2,7,3,3]"],
        ["f32[2,7,6,3]"],
        {**GEOMETRY, "window": [3, 2]},
    ),
    ("batch_norm", ["f32[4,3]", C, C], ["f32[4,3]", C, C], NORM),
    ("batch_norm_gradient", ["f32[4,3]", C, C, "f32[4,3]", C, C, C, C], ["f32[4,3]", C, C], NORM),
    ("batch_norm_inference", ["f32[4,3]", C, C, C, C], ["f32[4,3]"], NORM),
    ("batch_norm_inference_gradient", ["f32[4,3]", "f32[4,3]", C, C, C, C], ["f32[4,3]", C, C], NORM),
    ("softmax", ["f32[4,3]"], ["f32[4,3]"], {}),
    ("log_softmax", ["f32[4,3]"], ["f32[4,3]"], {}),
    ("softmax_gradient", ["f32[4,3]"] * 2, ["f32[4,3]"], {}),
    ("log_softmax_gradient", ["f32[4,3]"] * 2, ["f32[4,3]"], {}),
    ("softmax_cross_entropy", ["f32[4,3]", "s32[4]"], ["f32[4]"] * 3, {"smoothing": 0.1}),
    (
        "softmax_cross_entropy_gradient",
        ["f32[4]", "f32[4,3]", "f32[4,3]", "f32[4]", "f32[4]"],
        ["f32[4,3]"],
        {"smoothing": 0.1},
    ),
    ("dropout", ["f32[4,3]", "u32[2]"], ["f32[4,3]"], {**KEY, "keep_probability": 0.5, "mask_shape": [4, 1]}),
    ("random_bits", ["u32[2]"], ["u32[4,3]"], {**KEY, "shape": [4, 3]}),
    ("sgd", ["f32[7]", *["f32[5]", "f32[2]"] * 2], ["f32[5]", "f32[2]"] * 2, {**RULE, "states": 1, "nesterov": True}),
    (
        "rmsprop",
        ["f32[12]", *["f32[5]", "f32[2]"] * 3],
        ["f32[5]", "f32[2]"] * 2,
        {"apply": True, "regularization": "l2", "states": 1, "nesterov": False, "centered": False},
    ),
    (
        "adam",
        ["f32[13]", *["f32[5]", "f32[2]"] * 4],
        ["f32[5]", "f32[2]"] * 3,
        {**RULE, "apply": True, "states": 2, "nesterov": True},
    ),
    ("pad", ["f32[4,3]", "f32[]"], ["f32[7,6]"], {"config": [[1, 2, 0], [2, -1, 1]]}),
    ("concatenate", ["f32[4,3]", "f32[4,2]"], ["f32[4,5]"], {"axis": 1}),
    ("cumulative", ["f32[4,3]"], ["f32[4,3]"], {"axis": 1, "kind": "sum", "reverse": False}),
    ("pick", ["f32[4,3]", "s32[4]"], ["f32[4]"], {}),
    ("pick_gradient", ["f32[4]", "s32[4]"], ["f32[4,3]"], {"classes": 3}),
    ("chain", ["f32[4,3]", "f32[3]"], ["f32[4,3]"], CHAIN),
    ("reshape", ["f32[4,3]"], ["f32[2,6]"], {}),
    ("part", ["f32[12]"], ["f32[2,3]"], {"start": 6}),
    *_cell("lstm", 4, 2, LSTM),
    *_cell("gru", 3, 1, GRU),
    *_cell("mgu", 2, 1, MGU),
    *_cell("rnn", 1, 1, RNN),
]


def _value(value):
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def text_of(op, operands, results, attributes):
    """The program of one node; the node stands on its last line but one."""
    names = [f"%{i}: {t}" for i, t in enumerate([*operands, *results])]
    n = len(operands)
    head = f"input {', '.join(names[:n])}\n" if n else ""
    words = ", ".join(f"{k}={_value(v)}" for k, v in attributes.items())
    node = f"{', '.join(names[n:])} = {op}({', '.join(f'%{i}' for i in range(n))}) {{{words}}}"
    return f"{head}{node}\nreturn {', '.join(f'%{n + i}' for i in range(len(results)))}"
