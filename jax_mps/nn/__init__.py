"""Small functional layers: `init` makes a layer's parameters, `apply` uses them; nothing is kept in between.

::

    net = nn.Sequential(nn.Conv(32, 5, neuron="relu"), nn.MaxPool(2), nn.Flatten(), nn.Dense(10))
    params, output_shape = net.init(key, (64, 28, 28, 1))
    logits = net.apply(params, images)  # or net(params, images): a layer is a function of params and input

`init` takes a shape with the batch axis, or an array of it. Parameters are dicts of arrays (tuples of them for
`Sequential`), so jax.grad, optax and checkpoints take them as they are. Only `BatchNorm` knows more than its gradient
moves, the running statistics of evaluation: `apply_training` returns, beside y, the parameters with those statistics
moved, and is the same as `apply` for every other layer::

    def loss(params, key):
        logits, moved = net.apply_training(params, images, key=key)
        return mps.losses.softmax_cross_entropy(logits, labels), moved

    (value, params), gradients = jax.value_and_grad(loss, has_aux=True)(params, key)

The gradient of a running statistic is zero, so that an optimizer without weight decay leaves it alone.
"""

from jax_mps.nn.layers import (
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Initializer,
    Layer,
    MaxPool,
    Neuron,
    Params,
    Sequential,
    Shape,
    he_normal,
    xavier_uniform,
)
from jax_mps.nn.recurrent import GRU, LSTM, MGU, RNN, Recurrent

__all__ = [
    "GRU",
    "LSTM",
    "MGU",
    "RNN",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "Initializer",
    "Layer",
    "MaxPool",
    "Neuron",
    "Params",
    "Recurrent",
    "Sequential",
    "Shape",
    "he_normal",
    "xavier_uniform",
]


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
