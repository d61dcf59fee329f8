"""ONNX's operators over windows and channels of images: convolution, pooling, normalisation.

For the functions' arguments and errors see `apq_jax.models.onnx.operators`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.models.onnx.values import Call, Value

MAX_PADDED = 1 << 28  # positions of a padded image
MAX_TAPS = 1 << 10  # positions of a dilated window


class _Window(NamedTuple):
    """How a window moves over an image; every field has an entry for each axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # with the padding that auto_pad or ceil_mode adds


def _read_window(call: Call, size: tuple[int, ...], kernel: tuple[int, ...]) -> _Window:
    """Returns the window of a convolution or pooling over an image of `size`.

    Raises:
      ValueError: the attributes do not fit each other, or the padded image is too large.
    """
    rank = len(size)
    stride = tuple(call.get("strides") or [1] * rank)
    dilation = tuple(call.get("dilations") or [1] * rank)
    pads = list(call.get("pads") or [0] * 2 * rank)
    if not len(stride) == len(dilation) == len(kernel) == rank or len(pads) != 2 * rank:
        raise ValueError(f"strides, dilations, pads or kernel_shape do not fit {rank} axes")
    if min(*stride, *dilation, *kernel) < 1 or min(pads) < 0:
        raise ValueError("strides, dilations and kernel_shape are 1 or more, pads 0 or more")
    auto, padding = call.get("auto_pad", "NOTSET"), []
    for axis in range(rank):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        low, high = pads[axis], pads[rank + axis]
        if auto != "NOTSET":
            low = high = 0
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out = -(-size[axis] // stride[axis])
            total = max((out - 1) * stride[axis] + reach - size[axis], 0)
            low, high = total // 2, total - total // 2
            if auto == "SAME_LOWER":
                low, high = high, low
        elif call.get("ceil_mode", 0):
            out = -(-(size[axis] + low + high - reach) // stride[axis]) + 1
            if (out - 1) * stride[axis] >= size[axis] + low:  # a window that starts in the padding
                out -= 1
            high = max(high, (out - 1) * stride[axis] + reach - size[axis] - low)
        padding.append((low, high))
    if math.prod(n + sum(pad) for n, pad in zip(size, padding, strict=True)) > MAX_PADDED:
        raise ValueError(f"pads make {size} larger than {MAX_PADDED} positions")
    return _Window(kernel, stride, dilation, tuple(padding))


def conv(call: Call, x: Value, w: Value, b: Value = None) -> Value:
    rank = x.ndim - 2
    if rank not in (1, 2) or w.ndim != x.ndim:
        raise ValueError(f"input {x.shape}, weight {w.shape}; allowed: [N, C, L] or [N, C, H, W]")
    kernel = w.shape[2:]
    if tuple(call.get("kernel_shape") or kernel) != kernel:
        raise ValueError(f"kernel_shape {call.get('kernel_shape')}, weight {w.shape}")
    window = _read_window(call, x.shape[2:], kernel)
    axes = "HW"[:rank]
    y = lax.conv_general_dilated(
        x,
        w,
        window.stride,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"NC{axes}", f"OI{axes}", f"NC{axes}"),
        feature_group_count=call.get("group", 1),
    )
    return y if b is None else y + _align_channels(b, y)


def _align_channels(values: Value, x: Value) -> Value:
    """Reshapes [C] so that it broadcasts against x [N, C, ...]."""
    if values.shape != x.shape[1:2]:
        raise ValueError(f"{values.shape} for {x.shape[1]} channels")
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def max_pool(call: Call, x: Value) -> Value:
    window = _read_window(call, x.shape[2:], tuple(call.attributes["kernel_shape"]))
    dilated = set(window.dilation) != {1}
    return _pool_dilated(x, window) if dilated else _reduce(x, window, -jnp.inf, lax.max)


def _reduce(x: Value, window: _Window, start: float, combine: Callable[..., Value]) -> Value:
    """Combines the pixels of each window of images x [N, C, ...], beginning with `start`."""
    return lax.reduce_window(
        x,
        start,
        combine,
        window_dimensions=(1, 1, *window.kernel),
        window_strides=(1, 1, *window.stride),
        padding=((0, 0), (0, 0), *window.padding),
        window_dilation=(1, 1, *window.dilation),
    )


def _pool_dilated(x: Value, window: _Window) -> Value:
    """Computes a dilated max pooling tap by tap, because `lax.reduce_window` has no gradient."""
    kernel = window.kernel
    if math.prod(kernel) > MAX_TAPS:
        raise ValueError(f"kernel_shape {kernel} with dilations; allowed: {MAX_TAPS} positions")
    edges = [(low, high, 0) for low, high in ((0, 0), (0, 0), *window.padding)]
    x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), edges)
    maximum: Value = None
    for tap in np.ndindex(*kernel):
        slices = [slice(None), slice(None)]
        axes = zip(x.shape[2:], kernel, window.stride, window.dilation, tap, strict=True)
        for size, taps, stride, dilation, index in axes:
            end = max(size - (taps - 1 - index) * dilation, 0)
            slices.append(slice(index * dilation, end, stride))
        values = x[tuple(slices)]
        maximum = values if maximum is None else jnp.maximum(maximum, values)
    return maximum


def average_pool(call: Call, x: Value) -> Value:
    size, rank = x.shape[2:], x.ndim - 2
    window = _read_window(call, size, tuple(call.attributes["kernel_shape"]))
    sums, padding = _reduce(x, window, 0.0, lax.add), window.padding
    if call.get("auto_pad", "NOTSET") == "NOTSET":  # padding that ceil_mode adds never counts
        pads = call.get("pads") or [0] * 2 * rank
        padding = tuple(zip(pads[:rank], pads[rank:], strict=True))
    counts: Any = np.ones((1, 1), np.float32)
    for axis, out in enumerate(sums.shape[2:]):
        low, high = padding[axis] if call.get("count_include_pad", 0) else (0, 0)
        starts = np.arange(out)[:, None] * window.stride[axis] - window.padding[axis][0]
        taps = starts + np.arange(window.kernel[axis]) * window.dilation[axis]
        count = ((taps >= -low) & (taps < size[axis] + high)).sum(1)
        counts = counts[..., None] * np.maximum(count, 1).astype(np.float32)
    return sums / counts


def global_pool(reduce: Callable[..., Value], call: Call, x: Value) -> Value:
    return reduce(x, axis=tuple(range(2, x.ndim)), keepdims=True)


def lrn(call: Call, x: Value) -> Value:
    size = call.attributes["size"]
    if not 1 <= size <= MAX_PADDED:
        raise ValueError(f"size {size}; allowed: 1 or more")
    rest = x.ndim - 2
    edges = [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * rest]
    window, strides = [1, size, *[1] * rest], [1] * x.ndim
    squares = lax.reduce_window(x * x, 0.0, lax.add, window, strides, edges)
    scale = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * squares
    return x / scale ** call.get("beta", 0.75)


def batch_norm(call: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> Value:
    factor = scale / jnp.sqrt(var + call.get("epsilon", 1e-5))
    return (x - _align_channels(mean, x)) * _align_channels(factor, x) + _align_channels(bias, x)
