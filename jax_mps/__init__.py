"""Training kernels in the manner of Metal Performance Shaders, for JAX."""

from jax_mps import nn
from jax_mps.device import device, set_device
from jax_mps.explain import Explanation, explain
from jax_mps.ffi import CacheInfo, cache_info, clear_cache, set_cache_limit
from jax_mps.ops.conv import conv, conv_transpose
from jax_mps.ops.dense import dense
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

__version__ = "0.1.0"
