"""Training kernels in the manner of Metal Performance Shaders, for JAX."""

from jax_mps import config, interop, losses, nn, optim
from jax_mps.device import device, set_device
from jax_mps.explain import Explanation, explain
from jax_mps.ffi import CacheInfo, cache_info, clear_cache, set_cache_limit
from jax_mps.graph import graph
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

config.from_environment()
