"""Images to matrices and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mps as mps


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 7, 3), (0, 2, 2, 1), (3, 1, 1, 1)])
def test_there_and_back(shape, layout):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    matrix = mps.image_to_matrix(x, layout=layout)
    assert matrix.shape == (shape[0], x[:1].size if shape[0] else 4)
    assert jnp.array_equal(mps.matrix_to_image(matrix, shape[1:], layout=layout), x)
    for row, image in zip(matrix, x, strict=True):
        ordered = np.moveaxis(np.asarray(image), -1, 0) if layout == "CHW" else image
        assert np.array_equal(row, np.ravel(ordered))
    gradient = jax.grad(lambda x: jnp.sum(mps.image_to_matrix(x, layout=layout) ** 2))(x)
    assert jnp.array_equal(gradient, 2 * x)


def test_jit_vmap_and_dtypes():
    x = jnp.arange(24, dtype=jnp.uint8).reshape(2, 3, 2, 2)
    stacked = jax.jit(jax.vmap(mps.image_to_matrix))(jnp.stack([x, x + 1]))
    assert stacked.dtype == jnp.uint8 and jnp.array_equal(stacked[1], mps.image_to_matrix(x + 1))
