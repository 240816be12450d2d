"""Apple's own kernels as candidates, on the simulated Metal: MPSMatrixMultiplication and MPSGraph's convolutions.

JAX_MPS_APPLE_KERNELS=1 takes them wherever they are offered; without it the module skips itself.
"""

import os

import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
from jax import lax
from process import python

import jax_mps as mps
from jax_mps import ffi

pytestmark = pytest.mark.skipif(
    os.environ.get("JAX_MPS_DEVICE") != "metal" or os.environ.get("JAX_MPS_APPLE_KERNELS") != "1",
    reason="JAX_MPS_APPLE_KERNELS=1 tests/metal_sim/run python -m pytest tests/metal/test_apple_kernels.py",
)
PRODUCT, CONVOLUTION = "MPSMatrixMultiplication", "MPSGraph"
TOLERANCE = {jnp.float32: 2e-5, jnp.float16: 1e-2, jnp.bfloat16: 6e-2}


def arrays(shapes, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape) / 2, dtype) for shape in shapes]


def implementations(function, *operands):
    return [row.implementation for row in mps.explain(function, *operands)]


def value_and_gradients(function, *operands):
    def loss(*operands):
        y = function(*operands)
        return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    gradients, y = jax.grad(loss, tuple(range(len(operands))), has_aux=True)(*operands)
    return [y, *gradients]


def assert_same_as_meaning(function, *operands):
    """Value and gradients are those of the ops' meanings on the same numbers."""
    got = value_and_gradients(function, *operands)
    with mps.set_device("reference"):
        wanted = value_and_gradients(function, *operands)
    for g, w in zip(got, wanted, strict=True):
        g, w = np.asarray(g, np.float32), np.asarray(w, np.float32)
        scale = max(1, np.abs(w).max())
        np.testing.assert_allclose(g / scale, w / scale, atol=TOLERANCE[operands[0].dtype.type])


CONVOLUTIONS = {  # x, w, attributes
    "same": ((2, 7, 6, 3), (3, 3, 3, 4), {}),
    "valid": ((1, 8, 8, 4), (3, 2, 4, 8), {"padding": "VALID"}),
    "strides": ((2, 9, 7, 2), (3, 3, 2, 6), {"strides": (2, 3)}),
    "stride_leaves_rows": ((1, 8, 8, 2), (3, 3, 2, 2), {"strides": 2, "padding": "VALID"}),
    "dilation": ((2, 9, 8, 2), (2, 3, 2, 4), {"dilation": (1, 2)}),
    "uneven_padding": ((1, 6, 6, 2), (3, 3, 2, 2), {"padding": ((2, 0), (0, 1))}),
    "wide_padding": ((1, 4, 4, 2), (2, 2, 2, 2), {"padding": ((3, 4), (5, 0)), "strides": 3}),
    "groups": ((2, 6, 6, 8), (3, 3, 4, 8), {"groups": 2}),
    "depthwise": ((2, 6, 6, 4), (3, 3, 1, 8), {"groups": 4}),
    "one_dimension": ((2, 12, 4), (3, 4, 4), {"strides": 2}),
    "everything": ((2, 9, 8, 4), (3, 2, 2, 6), {"strides": (2, 1), "dilation": (1, 3), "groups": 2}),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_and_gradients(name, dtype):
    x, w, attributes = CONVOLUTIONS[name]
    operands = arrays([x, w], dtype)

    def conv(x, w):
        return mps.conv(x, w, **attributes)

    gradients = jax.value_and_grad(lambda x, w: jnp.sum(conv(x, w)), (0, 1))
    assert implementations(gradients, *operands).count(CONVOLUTION) == 3
    assert_same_as_meaning(conv, *operands)


@pytest.mark.parametrize("neuron", [None, "relu", ("elu", 0.7)], ids=str)
def test_convolution_with_bias_and_neuron(neuron):
    operands = arrays([(2, 6, 5, 3), (3, 3, 3, 4), (4,)])
    assert_same_as_meaning(lambda x, w, b: mps.conv(x, w, b, neuron=neuron), *operands)
    assert_same_as_meaning(lambda x, w: mps.conv(x, w, neuron=neuron), *operands[:2])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("shape", [(8, 5, 6), (1, 7, 3), (4, 1, 4), (33, 65, 17)], ids=str)
def test_dense_and_gradients(shape, dtype):
    m, k, n = shape
    operands = arrays([(m, k), (k, n), (n,)], dtype)
    assert PRODUCT in implementations(mps.dense, *operands)
    assert_same_as_meaning(mps.dense, *operands)
    assert_same_as_meaning(lambda x, w, b: mps.dense(x, w, b, neuron="tanh"), *operands)


DOTS = {  # left, right, batch, contract; whether Apple's kernel takes them
    "plain": ((4, 6), (6, 5), [[], []], [[1], [0]], True),
    "left_transposed": ((6, 4), (6, 5), [[], []], [[0], [0]], True),
    "right_transposed": ((4, 6), (5, 6), [[], []], [[1], [1]], True),
    "both_transposed": ((6, 4), (5, 6), [[], []], [[0], [1]], True),
    "batch": ((3, 4, 6), (3, 6, 5), [[0], [0]], [[2], [1]], True),
    "batch_transposed": ((3, 6, 4), (3, 5, 6), [[0], [0]], [[1], [2]], True),
    "rows_far_apart": ((4, 3, 6), (6, 3, 5), [[1], [1]], [[2], [0]], False),
    "batch_inside": ((4, 6, 3), (6, 5, 3), [[2], [2]], [[1], [0]], False),
    "copied_first": ((2, 4, 3, 6), (2, 3, 6, 5), [[0, 2], [0, 1]], [[3], [2]], True),
    "vector": ((6,), (6, 5), [[], []], [[0], [0]], True),
    "outer": ((4,), (5,), [[], []], [[], []], True),
    "numbers": ((1, 1), (1, 1), [[], []], [[1], [0]], True),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("name", DOTS)
def test_dot(name, dtype):
    left, right, batch, contract, taken = DOTS[name]
    operands = [np.asarray(x, dtype) for x in arrays([left, right])]
    numbers = (tuple(map(tuple, contract)), tuple(map(tuple, batch)))
    wanted = np.asarray(lax.dot_general(*map(jnp.asarray, operands), numbers))
    result = jax.ShapeDtypeStruct(wanted.shape, dtype)
    text = ffi.text_for("metal", native.program("dot", operands, [result], batch=batch, contract=contract))
    assert ffi.implementations(text) == [PRODUCT] or not taken
    assert PRODUCT not in ffi.implementations(text) or taken
    (got,) = native.run("dot", operands, [(wanted.shape, dtype)], batch=batch, contract=contract)
    np.testing.assert_allclose(got, wanted, atol=TOLERANCE[dtype])


def test_what_apple_does_not_take_stays_with_us():
    x, w = arrays([(1, 6, 6, 4), (3, 3, 4, 4)], jnp.bfloat16)
    assert CONVOLUTION not in implementations(mps.conv, x, w)
    assert_same_as_meaning(mps.conv, x, w)
    x, w = arrays([(4, 8), (8, 4)], jnp.bfloat16)
    assert PRODUCT not in implementations(mps.dense, x, w)
    # Half-precision arrays of an odd size: blits copy whole words.
    x, w = arrays([(1, 3, 3, 1), (3, 3, 1, 1)], jnp.float16)
    assert CONVOLUTION not in implementations(mps.conv, x, w)
    assert_same_as_meaning(mps.conv, x, w)
    # Negative padding, as data gradients have it in a graph.
    x, w = (np.asarray(a) for a in arrays([(1, 6, 6, 2), (3, 3, 2, 2)]))
    padding = [[-1, 1], [1, 0]]
    wanted = np.asarray(lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")))
    words = {"strides": [1, 1], "padding": padding, "dilation": [1, 1], "groups": 1}
    (got,) = native.run("conv", [x, w], [(wanted.shape, np.float32)], **words)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def network(x, w1, b1, w2, w3, labels):
    """Kernels of ours and of Apple's in turn, whose intermediates lie in one heap."""
    y = mps.conv(x, w1, b1, neuron="relu")
    y = mps.max_pool(jnp.tanh(y), 2)
    y = mps.conv(y * 2, w2, strides=2)
    logits = mps.dense(y.reshape(y.shape[0], -1), w3)
    return mps.losses.softmax_cross_entropy(logits, labels, reduction="mean")


def step_and_operands():
    operands = arrays([(2, 8, 8, 3), (3, 3, 3, 4), (4,), (3, 3, 4, 8), (32, 10)])
    labels = jnp.asarray([3, 7], jnp.int32)
    return jax.value_and_grad(lambda *a: network(*a, labels), tuple(range(1, 5))), operands


def command_buffers():
    return int(ffi.native().metal_information()["command_buffers"])


@pytest.mark.parametrize("continues", [False, True], ids=["one_command_buffer", "commit_and_continue"])
def test_a_step_of_kernels_of_both(continues, monkeypatch):
    if continues:  # MPSGraph may commit the command buffer that it is given
        monkeypatch.setenv("METAL_SIM_CONTINUE", "1")
    step, operands = step_and_operands()
    assert {PRODUCT, CONVOLUTION} < set(implementations(mps.graph(step), *operands))
    compiled = jax.jit(mps.graph(step))
    got = jax.block_until_ready(compiled(*operands))
    before = command_buffers()
    jax.block_until_ready(compiled(*operands))
    assert command_buffers() - before == (6 if continues else 1)
    with mps.set_device("reference"):
        wanted = step(*operands)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-4)


PROGRAM = """
import jax.numpy as jnp, jax_mps as mps
x, w = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 1, 4))
print(mps.explain(lambda x, w: mps.conv(x, w, groups=4), x, w)[0].implementation)
print(mps.conv(x, w, groups=4)[0, 2, 2])
"""


def program(**environment):
    unset = {"JAX_MPS_APPLE_KERNELS": None, "JAX_MPS_AUTOTUNE": None}
    return python("-c", PROGRAM, **unset | environment).stdout


def test_nothing_of_apples_without_a_contest():
    assert program(JAX_MPS_AUTOTUNE="0") == "direct\n[9. 9. 9. 9.]\n"
    assert program(JAX_MPS_AUTOTUNE="0", JAX_MPS_APPLE_KERNELS="1") == "MPSGraph\n[9. 9. 9. 9.]\n"


def test_takes_part_in_the_contest(tmp_path):
    text = program(JAX_MPS_CACHE_DIR=str(tmp_path))
    (choices,) = tmp_path.glob("choices-*.tsv")
    chosen = choices.read_text().strip().split("\t")[1]
    assert chosen in ("MPSGraph", "direct")
    assert text == f"{chosen}\n[9. 9. 9. 9.]\n"
    # A choice on disk that the user no longer wants is not taken.
    assert program(JAX_MPS_CACHE_DIR=str(tmp_path), JAX_MPS_APPLE_KERNELS="0").startswith("direct\n")
