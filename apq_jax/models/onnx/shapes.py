"""ONNX's operators that reshape, move, cut, join or look up values.

For the functions' arguments and errors see `apq_jax.models.onnx.operators`.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.models.onnx import values
from apq_jax.models.onnx.values import Call, Value, is_known, normalise_axis, read_integers
from apq_jax.models.onnx.windows import MAX_PADDED


def concat(call: Call, *parts: Value) -> Value:
    axis = normalise_axis(call.attributes["axis"], parts[0].ndim)
    if not is_known(*parts):
        return jnp.concatenate(parts, axis=axis)
    values.check_known_size([sum(part.size for part in parts)])
    return np.concatenate(parts, axis=axis)


def split(call: Call, x: Value, sizes: Value = None) -> tuple[Value, ...]:
    axis = normalise_axis(call.get("axis", 0), x.ndim)
    length, count = x.shape[axis], call.outputs
    if sizes is not None:
        lengths = read_integers(sizes, "split")
    elif call.get("split"):
        lengths = call.get("split")
    else:
        if call.get("num_outputs", count) != count:
            raise ValueError(f"num_outputs {call.get('num_outputs')} with {count} outputs")
        each = -(-length // count)
        lengths = [min(each, length - each * index) for index in range(count)]
    if len(lengths) != count or min(lengths) < 0 or sum(lengths) != length:
        raise ValueError(f"split {lengths} of {length} into {count}")
    before = (slice(None),) * axis
    ends = [int(end) for end in np.cumsum(lengths)]
    return tuple(x[(*before, slice(end - n, end))] for n, end in zip(lengths, ends, strict=True))


def slice_axes(
    call: Call,
    x: Value,
    starts: Value = None,
    ends: Value = None,
    axes: Value = None,
    steps: Value = None,
) -> Value:
    if call.opset < 10:
        starts, ends = call.attributes["starts"], call.attributes["ends"]
    else:
        starts, ends = read_integers(starts, "starts"), read_integers(ends, "ends")
    axes = _read_axes(call, axes, 10)
    axes = range(len(starts)) if axes is None else axes
    steps = None if steps is None else read_integers(steps, "steps")
    slices = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        slices[normalise_axis(axis, x.ndim)] = slice(start, end, step)
    return x[tuple(slices)]


def reshape(call: Call, x: Value, shape: Value) -> Value:
    sizes = read_integers(shape, "shape")
    if not call.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def expand(call: Call, x: Value, shape: Value) -> Value:
    sizes = np.broadcast_shapes(x.shape, tuple(read_integers(shape, "shape")))
    if is_known(x):
        return np.broadcast_to(x, values.check_known_size(sizes))
    return jnp.broadcast_to(x, sizes)


def flatten(call: Call, x: Value) -> Value:
    axis = call.get("axis", 1)
    axis = axis if axis == x.ndim else normalise_axis(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(call: Call, x: Value) -> Value:
    return x.transpose(tuple(call.get("perm") or range(x.ndim)[::-1]))


def _read_axes(call: Call, axes: Value, since: int) -> list[int] | None:
    """Returns a node's axes: the attribute before operator set `since`, then the input; or None."""
    if call.opset < since:
        return call.get("axes")
    return None if axes is None else read_integers(axes, "axes")


def squeeze(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = _read_axes(call, axes, 13)
    if chosen is None:
        return x.squeeze()
    return x.squeeze(tuple(normalise_axis(axis, x.ndim) for axis in chosen))


def unsqueeze(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = _read_axes(call, axes, 13)
    if chosen is None:
        raise ValueError("no axes")
    rank = x.ndim + len(chosen)
    places = {normalise_axis(axis, rank) for axis in chosen}
    if len(places) != len(chosen):
        raise ValueError(f"axes {chosen}")
    sizes = iter(x.shape)
    return x.reshape([1 if axis in places else next(sizes) for axis in range(rank)])


def pad(call: Call, x: Value, pads: Value = None, fill: Value = None, axes: Value = None) -> Value:
    counts = call.attributes["pads"] if call.opset < 11 else read_integers(pads, "pads")
    if call.opset < 11:
        fill = call.get("value", 0.0)
    chosen = list(range(x.ndim)) if axes is None else read_integers(axes, "axes")
    if len(counts) != 2 * len(chosen):
        raise ValueError(f"{len(counts)} pads for {len(chosen)} axes")
    edges = [(0, 0)] * x.ndim
    for index, axis in enumerate(chosen):
        edges[normalise_axis(axis, x.ndim)] = (counts[index], counts[index + len(chosen)])
    sizes = [n + low + high for n, (low, high) in zip(x.shape, edges, strict=True)]
    if min(sizes, default=0) < 0 or math.prod(sizes) > x.shape[0] * MAX_PADDED:
        raise ValueError(f"pads make {x.shape} to {tuple(sizes)}")
    if call.get("mode", "constant") == "constant":
        value = jnp.asarray(0 if fill is None else np.reshape(fill, ()), x.dtype)
        return lax.pad(x, value, [(low, high, 0) for low, high in edges])
    return jnp.pad(x, edges, mode=call.get("mode"))


def reduce_mean(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = _read_axes(call, axes, 18)
    if not chosen and call.get("noop_with_empty_axes", 0):
        return x
    along = tuple(normalise_axis(axis, x.ndim) for axis in chosen) if chosen else None
    return jnp.mean(x, axis=along, keepdims=bool(call.get("keepdims", 1)))


def constant_of_shape(call: Call, shape: Value) -> Value:
    value = call.get("value", np.zeros(1, np.float32))
    sizes = values.check_known_size(read_integers(shape, "shape"))
    return np.full(sizes, value.reshape(()), value.dtype)


def shape(call: Call, x: Value) -> Value:
    return np.array(x.shape[call.get("start", 0) : call.get("end")], np.int64)


def gather(call: Call, x: Value, indices: Value) -> Value:
    axis = normalise_axis(call.get("axis", 0), x.ndim)
    if not is_known(indices) or indices.dtype.kind not in "iu":
        raise ValueError("indices computed from data; allowed: known without data")
    if indices.size and not -x.shape[axis] <= indices.min() <= indices.max() < x.shape[axis]:
        raise ValueError(f"indices outside an axis of {x.shape[axis]}")
    if is_known(x):
        values.check_known_size([indices.size, *x.shape[:axis], *x.shape[axis + 1 :]])
        return np.asarray(np.take(x, indices, axis))
    return jnp.take(x, (indices % x.shape[axis]).astype(np.int32), axis, mode="clip")
