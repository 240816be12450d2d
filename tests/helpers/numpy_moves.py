"""JAX's primitives that move elements, and its products and windows, in NumPy: see `numpy_primitives`."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy_primitives import PRIMITIVES, is_float, primitive

__all__ = ["PRIMITIVES"]


@primitive("broadcast_in_dim")
def _broadcast(noise, types, params, x):
    shape, axes = params["shape"], params["broadcast_dimensions"]
    at = dict(zip(axes, x.shape, strict=True))
    return np.broadcast_to(x.reshape([at.get(a, 1) for a in range(len(shape))]), shape)


@primitive("reshape", "squeeze", "expand_dims")
def _reshape(noise, types, params, x):
    order = params.get("dimensions") if "new_sizes" in params else None  # of the axes before
    return (x if order is None else x.transpose(order)).reshape(types[0].shape)


@primitive("tile")
def _tile(noise, types, params, x):
    return np.tile(x, params["reps"])


@primitive("empty2")
def _empty(noise, types, params):
    floats = jnp.issubdtype(types[0].dtype, jnp.floating)
    return np.zeros(types[0].shape, np.float64 if floats else types[0].dtype)


@primitive("nextafter")
def _nextafter(noise, types, params, a, b):
    return np.nextafter(a.astype(np.float32), b.astype(np.float32)).astype(np.float64)


@primitive("transpose")
def _transpose(noise, types, params, x):
    return x.transpose(params["permutation"])


@primitive("slice")
def _slice(noise, types, params, x):
    strides = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return x[tuple(slice(*b) for b in bounds)]


@primitive("split")
def _split(noise, types, params, x):
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


@primitive("unstack")
def _unstack(noise, types, params, x):
    return list(np.moveaxis(x, params["axis"], 0))


@primitive("stack")
def _stack(noise, types, params, *x):
    return np.stack(x, params["axis"])


@primitive("concatenate")
def _concatenate(noise, types, params, *x):
    return np.concatenate(x, params["dimension"])


@primitive("pad")
def _pad(noise, types, params, x, value):
    y = np.full(types[0].shape, value, x.dtype)
    places = []
    for n, m, (low, _, inner) in zip(x.shape, y.shape, params["padding_config"], strict=True):
        at = low + np.arange(n) * (inner + 1)
        places.append((at, (at >= 0) & (at < m)))
    y[np.ix_(*(at[ok] for at, ok in places))] = x[np.ix_(*(ok for _, ok in places))]
    return y


@primitive("dot_general")
def _dot(noise, types, params, a, b):
    (ca, cb), (ba, bb) = params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left, right = [""] * a.ndim, [""] * b.ndim
    for i, j in itertools.chain(zip(ba, bb, strict=True), zip(ca, cb, strict=True)):
        left[i] = right[j] = next(letters)
    left = [c or next(letters) for c in left]
    right = [c or next(letters) for c in right]
    out = [left[i] for i in ba] + [c for i, c in enumerate(left) if i not in (*ba, *ca)]
    out += [c for j, c in enumerate(right) if j not in (*bb, *cb)]
    with np.errstate(all="ignore"):
        y = np.einsum(f"{''.join(left)},{''.join(right)}->{''.join(out)}", *noise.factors(a, b))
    return noise.zero_sign(y) if is_float(y) else y


@primitive("conv_general_dilated")
def _conv(noise, types, params, x, w):
    spec, groups = params["dimension_numbers"], params["feature_group_count"]
    batches = params["batch_group_count"]
    x, w = noise.factors(x.transpose(spec.lhs_spec), w.transpose(spec.rhs_spec))  # NC..., OI...
    config = [(0, 0, 0)] * 2 + [
        (lo, hi, d - 1) for (lo, hi), d in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    shape = [
        *x.shape[:2],
        *(n + lo + hi + (n - 1) * inner for n, (lo, hi, inner) in zip(x.shape[2:], config[2:], strict=True)),
    ]
    inside = None  # an infinite weight makes NaN of zeros of the padding, or not
    if noise.rng is not None and noise.rng.random() < 0.5:
        ones = np.ones(x.shape[2:])
        inside = (
            _pad(noise, [jax.ShapeDtypeStruct(shape[2:], np.float64)], {"padding_config": config[2:]}, ones, 0.0) > 0
        )
    x = _pad(noise, [jax.ShapeDtypeStruct(shape, np.float64)], {"padding_config": config}, x, 0.0)
    out = np.asarray(types[0].shape)[list(spec.out_spec)]
    y = np.zeros(out)
    many = max(groups, batches)
    xs = np.split(x, groups, 1) if groups > 1 else np.split(x, batches, 0)
    with np.errstate(all="ignore"):
        for g, (part, filters) in enumerate(zip(xs, np.split(w, many, 0), strict=True)):
            channels = slice(g * out[1] // many, (g + 1) * out[1] // many)
            for tap in itertools.product(*map(range, w.shape[2:])):
                steps = zip(tap, params["rhs_dilation"], params["window_strides"], out[2:], strict=True)
                places = [slice(t * d, t * d + (m - 1) * s + 1, s) for t, d, s, m in steps]
                seen = part[(..., *places)]
                if inside is None:
                    y[:, channels] += np.einsum("nc...,oc->no...", seen, filters[(..., *tap)])
                    continue
                at = np.expand_dims(inside[tuple(places)], (0, 1, 2))
                each = seen[:, None] * filters[(..., *tap)].reshape(1, *filters.shape[:2], *(1,) * (x.ndim - 2))
                y[:, channels] += np.where(at, each, 0.0).sum(2)
    return noise.zero_sign(y.transpose(np.argsort(spec.out_spec)))


def _windows(x, params, start):
    """The padded array as windows: [outputs..., taps...]."""
    size, strides = params["window_dimensions"], params["window_strides"]
    base = params.get("base_dilation") or (1,) * x.ndim
    gaps = params.get("window_dilation") or (1,) * x.ndim
    config = [(lo, hi, d - 1) for (lo, hi), d in zip(params["padding"], base, strict=True)]
    shape = [n + lo + hi + (n - 1) * inner for n, (lo, hi, inner) in zip(x.shape, config, strict=True)]
    x = _pad(None, [jax.ShapeDtypeStruct(shape, np.float64)], {"padding_config": config}, x, start)
    reach = [(k - 1) * d + 1 for k, d in zip(size, gaps, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach)
    return view[(*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in gaps))]


@primitive("reduce_window_sum")
def _window_sum(noise, types, params, x):
    with np.errstate(all="ignore"):
        return noise.zero_sign(_windows(noise.terms(x), params, 0.0).sum(tuple(range(x.ndim, 2 * x.ndim))))


@primitive("reduce_window_max")
def _window_max(noise, types, params, x):
    return noise.zero_sign(_windows(x, params, -np.inf).max(tuple(range(x.ndim, 2 * x.ndim))))


@primitive("select_and_scatter_add")
def _select_and_scatter(noise, types, params, dy, x):
    places = np.arange(x.size, dtype=np.float64).reshape(x.shape)
    seen, at = _windows(x, params, -np.inf), _windows(places, params, -1.0)
    seen, at = seen.reshape(*dy.shape, -1), at.reshape(*dy.shape, -1)
    chosen = np.take_along_axis(at, np.argmax(np.where(at < 0, -np.inf, seen), -1)[..., None], -1)[..., 0]
    y = np.zeros(x.size)
    np.add.at(y, chosen.astype(int).ravel(), noise.terms(dy).ravel())
    return noise.zero_sign(y.reshape(x.shape))


@primitive("dynamic_slice")
def _dynamic_slice(noise, types, params, x, *start):
    sizes = params["slice_sizes"]
    first = [int(np.clip(int(s), 0, n - k)) for s, n, k in zip(start, x.shape, sizes, strict=True)]
    return x[tuple(slice(f, f + k) for f, k in zip(first, sizes, strict=True))]


@primitive("dynamic_update_slice")
def _dynamic_update_slice(noise, types, params, x, update, *start):
    first = [int(np.clip(int(s), 0, n - k)) for s, n, k in zip(start, x.shape, update.shape, strict=True)]
    y = x.copy()
    y[tuple(slice(f, f + k) for f, k in zip(first, update.shape, strict=True))] = update
    return y


def _places(index, mapped, rank, batching, index_batching):
    """For each place of the indices: the first element of the slice, as the operand's axes have it."""
    for at in np.ndindex(index.shape[:-1]):
        first = [0] * rank
        for axis, value in zip(mapped, index[at], strict=True):
            first[axis] = int(value)
        for axis, own in zip(batching, index_batching, strict=True):
            first[axis] = at[own]
        yield at, first


@primitive("gather")
def _gather(noise, types, params, x, index):
    d, sizes, mode = params["dimension_numbers"], params["slice_sizes"], params["mode"]
    fills = mode == lax.GatherScatterMode.FILL_OR_DROP
    kept = [a for a in range(x.ndim) if a not in (*d.collapsed_slice_dims, *d.operand_batching_dims)]
    shape = types[0].shape
    batch = [a for a in range(len(shape)) if a not in d.offset_dims]
    fill = params["fill_value"]
    nothing = np.nan if is_float(x) else _filler(x.dtype)
    y = np.full(shape, nothing if fill is None else fill, x.dtype)
    for at, first in _places(index, d.start_index_map, x.ndim, d.operand_batching_dims, d.start_indices_batching_dims):
        inside = all(0 <= f <= n - k for f, n, k in zip(first, x.shape, sizes, strict=True))
        if fills and not inside:
            continue
        first = [int(np.clip(f, 0, n - k)) for f, n, k in zip(first, x.shape, sizes, strict=True)]
        part = x[tuple(slice(f, f + k) for f, k in zip(first, sizes, strict=True))]
        place = [slice(None)] * len(shape)
        for a, i in zip(batch, at, strict=True):
            place[a] = i
        y[tuple(place)] = part.reshape([sizes[a] for a in kept])
    return y


def _filler(dtype):
    if dtype.kind == "b":
        return True
    return np.iinfo(dtype).max if np.issubdtype(dtype, np.unsignedinteger) else np.iinfo(dtype).min


@primitive("scatter-add", "scatter")
def _scatter_add(noise, types, params, x, index, updates, adds=True):
    d, mode = params["dimension_numbers"], params["mode"]
    adds = params["update_jaxpr"] is not None
    y = x.copy()
    window = [a for a in range(x.ndim) if a not in (*d.inserted_window_dims, *d.operand_batching_dims)]
    scatter = [a for a in range(updates.ndim) if a not in d.update_window_dims]
    sizes = [1] * x.ndim
    for a, u in zip(window, d.update_window_dims, strict=True):
        sizes[a] = updates.shape[u]
    updates = noise.terms(updates) if is_float(updates) else updates
    batching = d.operand_batching_dims, d.scatter_indices_batching_dims
    for at, first in _places(index, d.scatter_dims_to_operand_dims, x.ndim, *batching):
        if mode == lax.GatherScatterMode.CLIP:
            first = [int(np.clip(f, 0, n - k)) for f, n, k in zip(first, x.shape, sizes, strict=True)]
        if not all(0 <= f <= n - k for f, n, k in zip(first, x.shape, sizes, strict=True)):
            continue
        place = [slice(None)] * updates.ndim
        for a, i in zip(scatter, at, strict=True):
            place[a] = i
        target = tuple(slice(f, f + k) for f, k in zip(first, sizes, strict=True))
        part = updates[tuple(place)].reshape(sizes)
        with np.errstate(all="ignore"):
            y[target] = y[target] + part if adds else part
    return noise.zero_sign(y) if is_float(y) and adds else y
