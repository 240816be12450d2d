"""Training kernels in the manner of Metal Performance Shaders, for JAX."""

from jax_mps import config, interop, losses, nn, optim
from jax_mps._accelerate import accelerate
from jax_mps._device import device, set_device
from jax_mps._explain import Explanation, explain
from jax_mps.compiler.graph import graph
from jax_mps.ffi import CacheInfo, cache_info, clear_cache, set_cache_limit
from jax_mps.ops.conv import conv, conv_transpose
from jax_mps.ops.dense import dense
from jax_mps.ops.dropout import dropout
from jax_mps.ops.image_matrix import image_to_matrix, matrix_to_image
from jax_mps.ops.neuron import (
    absolute,
    elu,
    exponential,
    gelu,
    hard_sigmoid,
    leaky_relu,
    linear,
    logarithm,
    neuron,
    power,
    prelu,
    relu,
    relun,
    sigmoid,
    softplus,
    softsign,
    tanh,
)
from jax_mps.ops.norm import batch_norm, batch_norm_inference, update_running_statistics
from jax_mps.ops.pool import avg_pool, l2_pool, max_pool
from jax_mps.ops.recurrent import gru, lstm, mgu, rnn
from jax_mps.ops.softmax import log_softmax, softmax

__version__ = "0.1.0"
__all__ = [
    "CacheInfo",
    "Explanation",
    "absolute",
    "accelerate",
    "avg_pool",
    "batch_norm",
    "batch_norm_inference",
    "cache_info",
    "clear_cache",
    "config",
    "conv",
    "conv_transpose",
    "dense",
    "device",
    "dropout",
    "elu",
    "explain",
    "exponential",
    "gelu",
    "graph",
    "gru",
    "hard_sigmoid",
    "image_to_matrix",
    "interop",
    "l2_pool",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logarithm",
    "losses",
    "lstm",
    "matrix_to_image",
    "max_pool",
    "mgu",
    "neuron",
    "nn",
    "optim",
    "power",
    "prelu",
    "relu",
    "relun",
    "rnn",
    "set_cache_limit",
    "set_device",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
    "update_running_statistics",
]

config.from_environment()


def __dir__() -> list[str]:
    """The public names, and no module that only happens to be here."""
    return [*__all__, "__doc__", "__name__", "__version__"]
