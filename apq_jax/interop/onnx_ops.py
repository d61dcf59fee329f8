"""ONNX's operators as JAX functions: one each, of an inference.

A value that is known while the function is traced, such as a shape, is an np.ndarray and is
computed with NumPy; data and parameters are jax.Arrays. Weights are reshaped and transposed at most
before they meet data, so that `apq_jax.capture` finds them. Images are [N, C, H, W] or [N, C, L].

Every function takes the node's `Call` and its inputs, None where one is left out, and gives one
result, or a tuple. It may raise whatever NumPy and JAX raise of shapes that do not fit; its
caller names the node.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Value: TypeAlias = Any  # np.ndarray where known while tracing, else jax.Array

MOST_KNOWN = 1 << 20  # numbers of a value that is computed while tracing
MOST_PADDED = 1 << 28  # positions of a padded image
MOST_TAPS = 1 << 10  # positions of a window with holes
DTYPES: dict[int, Any] = {  # TensorProto.DataType: of tensors that are read, and of Cast
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}


class Node(NamedTuple):
    """An operation of a graph."""

    op: str
    name: str
    inputs: tuple[str, ...]  # "" where one is left out
    outputs: tuple[str, ...]
    attributes: dict[str, Any]  # numbers, texts, lists of numbers, arrays


class Call(NamedTuple):
    """What an operator knows beside its inputs."""

    attributes: dict[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


class Operator(NamedTuple):
    """What is supported of an operator."""

    function: Callable[..., Value]
    attributes: frozenset[str] = frozenset()
    outputs: int = 1  # whose values are given; more may be named but not used
    static: tuple[int, ...] = ()  # inputs that are settings rather than data


def is_known(*values: Value) -> bool:
    """Whether all are known while tracing."""
    return all(isinstance(value, np.ndarray) for value in values if value is not None)


def whole_numbers(value: Value, what: str) -> list[int]:
    """A known list of whole numbers, such as axes.

    Raises:
      ValueError: it depends on data or is something else.
    """
    if not is_known(value) or value is None:
        raise ValueError(f"{what}: computed from data; allowed: known without data")
    if value.dtype.kind not in "iu" or value.size > MOST_KNOWN:
        raise ValueError(f"{what}: {value.size} numbers of {value.dtype}; allowed: whole numbers")
    return [int(one) for one in value.reshape(-1)]


def refusals(op: str, attributes: dict[str, Any], opset: int) -> Iterator[str]:
    """Values of a node's attributes that are not supported, in words."""
    allowed: dict[str, tuple[Any, ...]] = {}
    if "auto_pad" in OPERATORS[op].attributes:
        allowed["auto_pad"] = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if op == "Pad":
        allowed["mode"] = ("constant", "reflect", "edge")
    if op == "MaxPool":
        allowed["storage_order"] = (0,)
    if op == "BatchNormalization":
        allowed["training_mode"] = (0,)
    if op == "Cast":
        allowed["to"] = tuple(DTYPES)
    if op == "Gelu":
        allowed["approximate"] = ("none", "tanh")
    for name, values in allowed.items():
        if name in attributes and attributes[name] not in values:
            found = str(attributes[name])[:40]
            yield f"attribute {name} = {found!r}; allowed: {', '.join(map(str, values))}"


def _known_size(shape: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    if min(shape, default=0) < 0 or math.prod(shape) > MOST_KNOWN:
        raise ValueError(f"a known value of shape {tuple(shape)}; allowed: {MOST_KNOWN} numbers")
    return tuple(shape)


# Convolutions and pooling.


class _Window(NamedTuple):
    """How a window moves, an entry an axis."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


def _window(
    call: Call, size: tuple[int, ...], kernel: tuple[int, ...], ceil_mode: bool = False
) -> _Window:
    """The window of a convolution or pooling over positions of `size`."""
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
        elif ceil_mode:
            out = -(-(size[axis] + low + high - reach) // stride[axis]) + 1
            if (out - 1) * stride[axis] >= size[axis] + low:  # it would begin in the padding
                out -= 1
            high = max(high, (out - 1) * stride[axis] + reach - size[axis] - low)
        padding.append((low, high))
    if math.prod(n + sum(pad) for n, pad in zip(size, padding, strict=True)) > MOST_PADDED:
        raise ValueError(f"pads make {size} larger than {MOST_PADDED} positions")
    return _Window(stride, dilation, tuple(padding))


def _conv(call: Call, x: Value, w: Value, b: Value = None) -> Value:
    rank = x.ndim - 2
    if rank not in (1, 2) or w.ndim != x.ndim:
        raise ValueError(f"input {x.shape}, weight {w.shape}; allowed: [N, C, L] or [N, C, H, W]")
    kernel = w.shape[2:]
    if tuple(call.get("kernel_shape") or kernel) != kernel:
        raise ValueError(f"kernel_shape {call.get('kernel_shape')}, weight {w.shape}")
    window = _window(call, x.shape[2:], kernel)
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
    return y if b is None else y + _by_channel(b, y)


def _by_channel(values: Value, x: Value) -> Value:
    """[C] so that it meets x [N, C, ...]."""
    if values.shape != x.shape[1:2]:
        raise ValueError(f"{values.shape} for {x.shape[1]} channels")
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def _max_pool(call: Call, x: Value) -> Value:
    kernel = tuple(call.attributes["kernel_shape"])
    window = _window(call, x.shape[2:], kernel, bool(call.get("ceil_mode", 0)))
    if set(window.dilation) != {1}:
        return _max_of_taps(x, kernel, window)
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, 1, *kernel),
        (1, 1, *window.stride),
        ((0, 0), (0, 0), *window.padding),
    )


def _max_of_taps(x: Value, kernel: tuple[int, ...], window: _Window) -> Value:
    """Pooling of windows with holes, of which `lax.reduce_window` has no gradient."""
    if math.prod(kernel) > MOST_TAPS:
        raise ValueError(f"kernel_shape {kernel} with dilations; allowed: {MOST_TAPS} positions")
    edges = [(low, high, 0) for low, high in ((0, 0), (0, 0), *window.padding)]
    x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), edges)
    best: Value = None
    for tap in np.ndindex(*kernel):
        where = [slice(None), slice(None)]
        spans = zip(x.shape[2:], kernel, window.stride, window.dilation, tap, strict=True)
        for size, taps, stride, dilation, at in spans:
            last = max(size - (taps - 1 - at) * dilation, 0)
            where.append(slice(at * dilation, last, stride))
        best = x[tuple(where)] if best is None else jnp.maximum(best, x[tuple(where)])
    return best


def _average_pool(call: Call, x: Value) -> Value:
    kernel, size = tuple(call.attributes["kernel_shape"]), x.shape[2:]
    window = _window(call, size, kernel, bool(call.get("ceil_mode", 0)))
    sums = lax.reduce_window(
        x,
        0.0,
        lax.add,
        (1, 1, *kernel),
        (1, 1, *window.stride),
        ((0, 0), (0, 0), *window.padding),
        window_dilation=(1, 1, *window.dilation),
    )
    # What ceil_mode adds to the padding never counts.
    padded = window.padding if call.get("auto_pad", "NOTSET") != "NOTSET" else _pads(call, size)
    counts: Any = np.ones((1, 1), np.float32)
    for axis, out in enumerate(sums.shape[2:]):
        low, high = padded[axis] if call.get("count_include_pad", 0) else (0, 0)
        starts = np.arange(out)[:, None] * window.stride[axis] - window.padding[axis][0]
        taps = starts + np.arange(kernel[axis]) * window.dilation[axis]
        counted = ((taps >= -low) & (taps < size[axis] + high)).sum(1)
        counts = counts[..., None] * np.maximum(counted, 1).astype(np.float32)
    return sums / counts


def _pads(call: Call, size: tuple[int, ...]) -> list[tuple[int, int]]:
    pads = list(call.get("pads") or [0] * 2 * len(size))
    return list(zip(pads[: len(size)], pads[len(size) :], strict=True))


def _global_pool(reduce: Callable[..., Value], call: Call, x: Value) -> Value:
    return reduce(x, axis=tuple(range(2, x.ndim)), keepdims=True)


def _lrn(call: Call, x: Value) -> Value:
    size = call.attributes["size"]
    if not 1 <= size <= MOST_PADDED:
        raise ValueError(f"size {size}; allowed: 1 or more")
    edges = [(0, 0)] * x.ndim
    edges[1] = ((size - 1) // 2, size // 2)
    window = [1] * x.ndim
    window[1] = size
    squares = lax.reduce_window(x * x, 0.0, lax.add, window, [1] * x.ndim, edges)
    scale = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * squares
    return x / scale ** call.get("beta", 0.75)


def _batch_norm(call: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> Value:
    factor = scale / jnp.sqrt(var + call.get("epsilon", 1e-5))
    return (x - _by_channel(mean, x)) * _by_channel(factor, x) + _by_channel(bias, x)


# Matrix products.


def _gemm(call: Call, a: Value, b: Value, c: Value = None) -> Value:
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"{a.shape} times {b.shape}; allowed: two matrices")
    y = jnp.matmul(a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b)
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    y = y if alpha == 1 else alpha * y
    if c is None or beta == 0:
        return y
    c = c if beta == 1 else beta * c
    if np.broadcast_shapes(c.shape, y.shape) != y.shape:
        raise ValueError(f"{c.shape} added to {y.shape}")
    return y + c


def _matmul(call: Call, a: Value, b: Value) -> Value:
    return jnp.matmul(a, b)


# One number at a time.


def _unary(function: Callable[..., Value], call: Call, x: Value) -> Value:
    return function(x)


def _leaky_relu(call: Call, x: Value) -> Value:
    return jnp.where(x >= 0, x, call.get("alpha", 0.01) * x)


def _elu(call: Call, x: Value) -> Value:
    return jax.nn.elu(x, call.get("alpha", 1.0))


def _prelu(call: Call, x: Value, slope: Value) -> Value:
    return jnp.where(x >= 0, x, slope * x)


def _hard_sigmoid(call: Call, x: Value) -> Value:
    return jnp.clip(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)


def _hard_swish(call: Call, x: Value) -> Value:
    return x * jnp.clip(x / 6 + 0.5, 0, 1)


def _gelu(call: Call, x: Value) -> Value:
    return jax.nn.gelu(x, approximate=call.get("approximate", "none") == "tanh")


def _clip(call: Call, x: Value, low: Value = None, high: Value = None) -> Value:
    if call.opset < 11:
        low, high = call.get("min"), call.get("max")
    lowest = x if low is None else jnp.maximum(x, np.reshape(low, ()))
    return lowest if high is None else jnp.minimum(lowest, np.reshape(high, ()))


def _binary(known: Callable[..., Any], traced: Callable[..., Any], call: Call, *of: Value) -> Value:
    """From left to right; where all are known, with NumPy."""
    first, *rest = of
    for value in rest:
        if is_known(first, value):
            _known_size(np.broadcast_shapes(first.shape, value.shape))
            first = np.asarray(known(first, value))
        else:
            first = traced(first, value)
    return first


def _known_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whole numbers are cut off towards 0."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)


def _softmax(function: Callable[..., Value], call: Call, x: Value) -> Value:
    if call.opset >= 13:
        return function(x, axis=call.get("axis", -1))
    axis = _axis(call.get("axis", 1), x.ndim)
    # As a matrix: the axes from `axis` on are one.
    rows = x.reshape(math.prod(x.shape[:axis]), -1)
    return function(rows, axis=-1).reshape(x.shape)


def _dropout(call: Call, x: Value, ratio: Value = None, training: Value = None) -> Value:
    if training is not None and (not is_known(training) or training.any()):
        raise ValueError("training_mode; allowed: false")
    return x


def _cast(call: Call, x: Value) -> Value:
    dtype = np.dtype(DTYPES[call.attributes["to"]])
    if is_known(x):
        return x.astype(dtype)
    if dtype != np.float32:
        raise ValueError(f"data cast to {dtype}; allowed: float32")
    return x.astype(jnp.float32)


# Shapes.


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def _numpy_or_jax(*values: Value) -> Any:
    return np if is_known(*values) else jnp


def _concat(call: Call, *parts: Value) -> Value:
    axis = _axis(call.attributes["axis"], parts[0].ndim)
    if is_known(*parts):
        _known_size([sum(part.size for part in parts)])
    return _numpy_or_jax(*parts).concatenate(parts, axis=axis)


def _split(call: Call, x: Value, sizes: Value = None) -> tuple[Value, ...]:
    axis = _axis(call.get("axis", 0), x.ndim)
    length, parts = x.shape[axis], call.outputs
    if sizes is not None:
        lengths = whole_numbers(sizes, "split")
    elif call.get("split"):
        lengths = call.get("split")
    else:
        if call.get("num_outputs", parts) != parts:
            raise ValueError(f"num_outputs {call.get('num_outputs')} with {parts} outputs")
        each = -(-length // parts)
        lengths = [min(each, length - each * part) for part in range(parts)]
    if len(lengths) != parts or min(lengths) < 0 or sum(lengths) != length:
        raise ValueError(f"split {lengths} of {length} into {parts}")
    ends = np.cumsum(lengths)
    where = (slice(None),) * axis
    spans = zip(lengths, ends, strict=True)
    return tuple(x[(*where, slice(int(end) - count, int(end)))] for count, end in spans)


def _slice(
    call: Call,
    x: Value,
    starts: Value = None,
    ends: Value = None,
    axes: Value = None,
    steps: Value = None,
) -> Value:
    if call.opset < 10:
        first, last = call.attributes["starts"], call.attributes["ends"]
        along, by = call.get("axes"), None
    else:
        first, last = whole_numbers(starts, "starts"), whole_numbers(ends, "ends")
        along = None if axes is None else whole_numbers(axes, "axes")
        by = None if steps is None else whole_numbers(steps, "steps")
    along = list(range(len(first))) if along is None else along
    where = [slice(None)] * x.ndim
    for axis, start, end, step in zip(along, first, last, by or [1] * len(first), strict=True):
        where[_axis(axis, x.ndim)] = slice(start, end, step)
    return x[tuple(where)]


def _reshape(call: Call, x: Value, shape: Value) -> Value:
    sizes = whole_numbers(shape, "shape")
    if not call.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(call: Call, x: Value) -> Value:
    axis = call.get("axis", 1)
    axis = axis if axis == x.ndim else _axis(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _transpose(call: Call, x: Value) -> Value:
    return x.transpose(tuple(call.get("perm") or range(x.ndim)[::-1]))


def _axes(call: Call, axes: Value, since: int) -> list[int] | None:
    """An attribute before the operator set `since`, then an input; None: not given."""
    if call.opset < since:
        given: list[int] | None = call.get("axes")
        return given
    return None if axes is None else whole_numbers(axes, "axes")


def _squeeze(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = _axes(call, axes, 13)
    if chosen is None:
        return x.squeeze()
    return x.squeeze(tuple(_axis(axis, x.ndim) for axis in chosen))


def _unsqueeze(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = _axes(call, axes, 13)
    if chosen is None:
        raise ValueError("no axes")
    rank = x.ndim + len(chosen)
    places = {_axis(axis, rank) for axis in chosen}
    if len(places) != len(chosen):
        raise ValueError(f"axes {chosen}")
    sizes = iter(x.shape)
    return x.reshape([1 if axis in places else next(sizes) for axis in range(rank)])


def _pad(call: Call, x: Value, pads: Value = None, fill: Value = None, axes: Value = None) -> Value:
    counts = call.attributes["pads"] if call.opset < 11 else whole_numbers(pads, "pads")
    if call.opset < 11:
        fill = call.get("value", 0.0)
    chosen = list(range(x.ndim)) if axes is None else whole_numbers(axes, "axes")
    if len(counts) != 2 * len(chosen):
        raise ValueError(f"{len(counts)} pads for {len(chosen)} axes")
    edges = [(0, 0)] * x.ndim
    for at, axis in enumerate(chosen):
        edges[_axis(axis, x.ndim)] = (counts[at], counts[at + len(chosen)])
    sizes = [n + low + high for n, (low, high) in zip(x.shape, edges, strict=True)]
    if min(sizes, default=0) < 0 or math.prod(sizes) > x.shape[0] * MOST_PADDED:
        raise ValueError(f"pads make {x.shape} to {tuple(sizes)}")
    if call.get("mode", "constant") == "constant":
        value = jnp.asarray(0 if fill is None else np.reshape(fill, ()), x.dtype)
        return lax.pad(x, value, [(low, high, 0) for low, high in edges])
    return jnp.pad(x, edges, mode=call.get("mode"))


def _reduce_mean(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = _axes(call, axes, 18)
    if not chosen and call.get("noop_with_empty_axes", 0):
        return x
    along = tuple(_axis(axis, x.ndim) for axis in chosen) if chosen else None
    return jnp.mean(x, axis=along, keepdims=bool(call.get("keepdims", 1)))


def _constant_of_shape(call: Call, shape: Value) -> Value:
    value = call.get("value", np.zeros(1, np.float32))
    return np.full(_known_size(whole_numbers(shape, "shape")), value.reshape(()), value.dtype)


def _shape(call: Call, x: Value) -> Value:
    return np.array(x.shape[call.get("start", 0) : call.get("end")], np.int64)


def _gather(call: Call, x: Value, indices: Value) -> Value:
    axis = _axis(call.get("axis", 0), x.ndim)
    if not is_known(indices) or indices.dtype.kind not in "iu":
        raise ValueError("indices computed from data; allowed: known without data")
    if indices.size and not -x.shape[axis] <= indices.min() <= indices.max() < x.shape[axis]:
        raise ValueError(f"indices outside an axis of {x.shape[axis]}")
    if is_known(x):
        _known_size([indices.size, *(n for at, n in enumerate(x.shape) if at != axis)])
        return np.asarray(np.take(x, indices, axis))
    return jnp.take(x, (indices % x.shape[axis]).astype(np.int32), axis, mode="clip")


def _identity(call: Call, x: Value) -> Value:
    return x


def _of(function: Callable[..., Value], *bound: Any, attributes: str = "") -> Operator:
    whole = functools.partial(function, *bound) if bound else function
    return Operator(whole, frozenset(attributes.split()))


_POOL = "auto_pad ceil_mode dilations kernel_shape pads strides"
OPERATORS: dict[str, Operator] = {
    "Abs": _of(_unary, jnp.abs),
    "Add": _of(_binary, np.add, jnp.add),
    "AveragePool": _of(_average_pool, attributes=f"{_POOL} count_include_pad"),
    "BatchNormalization": _of(_batch_norm, attributes="epsilon momentum training_mode"),
    "Cast": _of(_cast, attributes="to saturate round_mode"),
    "Clip": _of(_clip, attributes="min max")._replace(static=(1, 2)),
    "Concat": _of(_concat, attributes="axis"),
    "ConstantOfShape": _of(_constant_of_shape, attributes="value"),
    "Conv": _of(_conv, attributes="auto_pad dilations group kernel_shape pads strides"),
    "Div": _of(_binary, _known_divide, jnp.divide),
    "Dropout": _of(_dropout, attributes="ratio seed")._replace(static=(1, 2)),
    "Elu": _of(_elu, attributes="alpha"),
    "Erf": _of(_unary, jax.scipy.special.erf),
    "Exp": _of(_unary, jnp.exp),
    "Flatten": _of(_flatten, attributes="axis"),
    "Gather": _of(_gather, attributes="axis"),
    "Gelu": _of(_gelu, attributes="approximate"),
    "Gemm": _of(_gemm, attributes="alpha beta transA transB"),
    "GlobalAveragePool": _of(_global_pool, jnp.mean),
    "GlobalMaxPool": _of(_global_pool, jnp.max),
    "HardSigmoid": _of(_hard_sigmoid, attributes="alpha beta"),
    "HardSwish": _of(_hard_swish),
    "Identity": _of(_identity),
    "LRN": _of(_lrn, attributes="alpha beta bias size"),
    "LeakyRelu": _of(_leaky_relu, attributes="alpha"),
    "LogSoftmax": _of(_softmax, jax.nn.log_softmax, attributes="axis"),
    "MatMul": _of(_matmul),
    "Max": _of(_binary, np.maximum, jnp.maximum),
    "MaxPool": _of(_max_pool, attributes=f"{_POOL} storage_order"),
    "Min": _of(_binary, np.minimum, jnp.minimum),
    "Mul": _of(_binary, np.multiply, jnp.multiply),
    "Neg": _of(_unary, jnp.negative),
    "PRelu": _of(_prelu),
    "Pad": _of(_pad, attributes="mode pads value")._replace(static=(2,)),
    "ReduceMean": _of(_reduce_mean, attributes="axes keepdims noop_with_empty_axes"),
    "Relu": _of(_unary, jax.nn.relu),
    "Reshape": _of(_reshape, attributes="allowzero"),
    "Shape": _of(_shape, attributes="start end"),
    "Sigmoid": _of(_unary, jax.nn.sigmoid),
    "Slice": _of(_slice, attributes="axes ends starts"),
    "Softmax": _of(_softmax, jax.nn.softmax, attributes="axis"),
    "Split": _of(_split, attributes="axis num_outputs split")._replace(outputs=1 << 16),
    "Sqrt": _of(_unary, jnp.sqrt),
    "Squeeze": _of(_squeeze, attributes="axes"),
    "Sub": _of(_binary, np.subtract, jnp.subtract),
    "Sum": _of(_binary, np.add, jnp.add),
    "Tanh": _of(_unary, jnp.tanh),
    "Transpose": _of(_transpose, attributes="perm"),
    "Unsqueeze": _of(_unsqueeze, attributes="axes"),
}
