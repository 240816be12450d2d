"""Values and gradients against PyTorch, where it is installed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mps as mps

torch = pytest.importorskip("torch")
F = torch.nn.functional


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def nchw(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).requires_grad_()


def nhwc(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def assert_near(got, wanted, tolerance=2e-5):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize(("strides", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (1, 2, 4)])
def test_torch_convolution(native, strides, dilation, groups):
    x, w, b = normal(2, 9, 10, 4), normal(3, 3, 4 // groups, 8), normal(8)
    pad = (dilation, dilation)
    y, pull = jax.vjp(
        lambda x, w, b: mps.conv(x, w, b, strides=strides, padding=(pad, pad), dilation=dilation, groups=groups),
        *map(jnp.asarray, (x, w, b)),
    )
    xt, bt = nchw(x), torch.from_numpy(b).requires_grad_()
    wt = torch.from_numpy(w.transpose(3, 2, 0, 1).copy()).requires_grad_()
    yt = F.conv2d(xt, wt, bt, strides, dilation, dilation, groups)
    dy = normal(*y.shape, seed=1)
    yt.backward(nchw(dy).detach())
    dx, dw, db = pull(jnp.asarray(dy))
    assert_near(y, nhwc(yt))
    assert_near(dx, nhwc(xt.grad))
    assert_near(dw, wt.grad.permute(2, 3, 1, 0).numpy())
    assert_near(db, bt.grad.numpy())


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_torch_pooling(native, kind):
    x = normal(2, 9, 10, 5)
    y, pull = jax.vjp(lambda x: getattr(mps, f"{kind}_pool")(x, 3, strides=2), jnp.asarray(x))
    xt = nchw(x)
    yt = getattr(F, f"{kind}_pool2d")(xt, 3, 2)
    dy = normal(*y.shape, seed=1)
    yt.backward(nchw(dy).detach())
    assert_near(y, nhwc(yt))
    assert_near(pull(jnp.asarray(dy))[0], nhwc(xt.grad))


def test_torch_batch_norm(native):
    x, gamma, beta = normal(4, 6, 7, 8) * 3 + 5, normal(8), normal(8, seed=1)
    y, pull = jax.vjp(lambda *a: mps.batch_norm(*a, epsilon=1e-5)[0], *map(jnp.asarray, (x, gamma, beta)))
    xt, gt, bt = nchw(x), torch.from_numpy(gamma).requires_grad_(), torch.from_numpy(beta).requires_grad_()
    yt = F.batch_norm(xt, None, None, gt, bt, True, 0.1, 1e-5)
    dy = normal(*y.shape, seed=2)
    yt.backward(nchw(dy).detach())
    assert_near(y, nhwc(yt))
    for got, wanted in zip(pull(jnp.asarray(dy)), (nhwc(xt.grad), gt.grad.numpy(), bt.grad.numpy()), strict=True):
        assert_near(got, wanted, 1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_torch_cross_entropy(native, smoothing):
    x, labels = normal(7, 11), np.array([0, 10, 3, 3, 7, 1, 5])
    value, gradient = jax.value_and_grad(mps.losses.softmax_cross_entropy)(
        jnp.asarray(x), jnp.asarray(labels, jnp.int32), label_smoothing=smoothing
    )
    xt = torch.from_numpy(x).requires_grad_()
    loss = F.cross_entropy(xt, torch.from_numpy(labels), label_smoothing=smoothing)
    loss.backward()
    assert_near(value, loss.detach().numpy())
    assert_near(gradient, xt.grad.numpy())


# Not amsgrad: PyTorch takes the maximum before the bias correction, optax (and so we) after it.
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: mps.optim.adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
        (lambda: mps.optim.sgd(0.01, 0.9), lambda p: torch.optim.SGD(p, 0.01, 0.9)),
        (lambda: mps.optim.sgd(0.01, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.01, 0.9, nesterov=True)),
    ],
    ids=["adam", "momentum", "nesterov"],
)
def test_torch_optimizers(native, ours, theirs):
    weights, gradients = [normal(5, 4), normal(3)], [[normal(5, 4, seed=i), normal(3, seed=i)] for i in range(5)]
    optimizer, params = ours(), [jnp.asarray(w) for w in weights]
    state = optimizer.init(params)
    leaves = [torch.from_numpy(w.copy()).requires_grad_() for w in weights]
    peer = theirs(leaves)
    for step in gradients:
        params, state = mps.optim.step(optimizer, [jnp.asarray(g) for g in step], state, params)
        for leaf, g in zip(leaves, step, strict=True):
            leaf.grad = torch.from_numpy(g)
        peer.step()
    for got, wanted in zip(params, leaves, strict=True):
        assert_near(got, wanted.detach().numpy())
