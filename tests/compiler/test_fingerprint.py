"""The proof that a loop is a cell: equations over a finite field, and views of arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mps.compiler.recognise.recurrent import fingerprint
from jax_mps.compiler.recognise.recurrent.gates import Range, reshaped

sigmoid = jax.nn.sigmoid


class TestFingerprint:
    """Equal functions agree, and different ones do not."""

    X, Y = fingerprint.random((4, 5), 1), fingerprint.random((4, 5), 2)

    @pytest.mark.parametrize(
        "f, g, equal",
        [
            (lambda x, y: (x + y) * (x - y), lambda x, y: x * x - jnp.square(y), True),
            (lambda x, y: x / y, lambda x, y: x * y**-1, True),
            (lambda x, y: x * 0.3, lambda x, y: x * jnp.float32(0.3), True),
            (lambda x, y: x * 0.3, lambda x, y: x * np.nextafter(np.float32(0.3), np.float32(1)), False),
            (lambda x, y: sigmoid(x), lambda x, y: 1 - sigmoid(-x), True),
            (lambda x, y: jnp.tanh(x), lambda x, y: (1 - jnp.exp(-2 * x)) / (1 + jnp.exp(-2 * x)), True),
            (lambda x, y: jnp.tanh(x), lambda x, y: -jnp.tanh(-x), True),
            (lambda x, y: jnp.tanh(x), lambda x, y: jnp.sin(x), False),
            (lambda x, y: x, lambda x, y: jnp.clip(x, -1e30, 1e30), False),
            (lambda x, y: x @ y.T, lambda x, y: jnp.einsum("jk,ik->ij", y, x), True),
            (lambda x, y: jnp.sum(x @ y.T, 0), lambda x, y: jnp.sum(x, 0) @ y.T, True),
            (lambda x, y: x.reshape(5, 4), lambda x, y: x.T, False),
            (lambda x, y: jnp.pad(x, 1)[1:-1, 1:-1], lambda x, y: jnp.concatenate([x[:1], x[1:]]), True),
        ],
    )
    def test_functions(self, f, g, equal):
        (a,), (b,) = (fingerprint.of_function(h, [self.X, self.Y]) for h in (f, g))
        assert fingerprint.same(a, b) == equal

    def test_long_sums_are_exact(self):
        x = np.full((1, 20000), fingerprint.PRIME - 1)
        (got,) = fingerprint.of_function(lambda x: x @ x.T, [x])
        assert got.item() == 20000 % fingerprint.PRIME


class TestViews:
    """What a range of an array is in another shape."""

    @pytest.mark.parametrize(
        "shape, view, into, wanted",
        [
            ((2, 3, 4), (Range(0, 0, 2), 1, Range("unit", 0, 4)), (2, 12), (Range(0, 0, 2), Range("unit", 4, 4))),
            ((2, 12), (Range(0, 0, 2), Range("unit", 8, 4)), (2, 3, 4), (Range(0, 0, 2), 2, Range("unit", 0, 4))),
            ((2, 12), (Range(0, 0, 2), Range("unit", 2, 4)), (2, 3, 4), None),
            ((2, 12), (Range(0, 0, 2), Range("unit", 0, 3)), (2, 3, 4), (Range(0, 0, 2), 0, Range("unit", 0, 3))),
            ((2, 4, 3), (Range(0, 0, 2), Range("unit", 0, 4), 1), (2, 12), None),
            ((6, 1), (Range("unit", 1, 3), 0), (1, 6), (0, Range("unit", 1, 3))),
            ((6,), (Range("unit", 0, 6),), (6, 1, 1), (Range("unit", 0, 6), 0, 0)),
            ((2, 3), (Range(0, 0, 2), Range("unit", 0, 3)), (6,), None),
            ((2, 6), (1, Range("unit", 3, 3)), (4, 3), (3, Range("unit", 0, 3))),
        ],
    )
    def test_reshaped(self, shape, view, into, wanted):
        found = reshaped(view, shape, into)
        assert found == wanted
        if found is not None:
            x = np.arange(np.prod(shape)).reshape(shape)
            taken = lambda a, v: a[tuple(slice(e.start, e.start + e.size) if isinstance(e, Range) else e for e in v)]  # noqa: E731
            np.testing.assert_array_equal(taken(x, view), taken(x.reshape(into), found))
