"""JAX's primitives as ONNX operators of opset 17: those of an inference.

Every function takes the graph that it adds to and the `Call`, of whose values one at least depends
on the data, and gives the results. It raises `UnsupportedError` for what the operators do not have.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from apq_jax.interop.onnx_graph import (
    Data,
    Graph,
    Known,
    Sizes,
    UnsupportedError,
    Value,
    fresh,
    settled,
)

DTYPES: dict[str, int] = {  # of data: TensorProto.DataType
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "bool": 9,
}


class Call(NamedTuple):
    """An equation of a jaxpr."""

    params: dict[str, Any]
    values: list[Value]
    sizes: list[Sizes]  # of the results
    dtypes: list[Any]  # of the results


Primitive: TypeAlias = Callable[[Graph, Call], list[Value]]


def one(function: Callable[[Graph, Call], Data]) -> Primitive:
    """Of a function of one result."""

    @functools.wraps(function)
    def listed(graph: Graph, call: Call) -> list[Value]:
        return [function(graph, call)]

    return listed


# One number at a time.


def _elementwise(op: str) -> Primitive:
    return one(lambda graph, call: _apply(graph, op, call, *call.values))


def _apply(graph: Graph, op: str, call: Call, *values: Value, **attributes: Any) -> Data:
    """An operator whose result is shaped as the call's first."""
    dtype = attributes.pop("dtype", call.dtypes[0])
    return graph.elementwise(op, list(values), call.sizes[0], dtype, **attributes)


def number(value: float, dtype: Any = np.float32) -> Known:
    """A constant that is broadcast."""
    array = np.asarray(value, dtype)
    return Known(array, array)


def _is_number(value: Value, wanted: float) -> bool:
    return isinstance(value, Known) and bool((np.asarray(value.small) == wanted).all())


def _same(graph: Graph, call: Call) -> list[Value]:
    """Operations that change nothing in an inference."""
    return call.values


@one
def _max(graph: Graph, call: Call) -> Data:
    if call.dtypes[0] == np.float32:
        for x, other in (call.values, call.values[::-1]):
            if _is_number(other, 0.0) and isinstance(x, Data) and x.sizes == call.sizes[0]:
                return _apply(graph, "Relu", call, x)
    return _apply(graph, "Max", call, *call.values)


@one
def _rsqrt(graph: Graph, call: Call) -> Data:
    root = _apply(graph, "Sqrt", call, *call.values)
    return _apply(graph, "Reciprocal", call, root)


@one
def _square(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Mul", call, *2 * call.values)


@one
def _integer_pow(graph: Graph, call: Call) -> Data:
    (x,), exponent = call.values, call.params["y"]
    if exponent == 2:
        return _apply(graph, "Mul", call, x, x)
    return _apply(graph, "Pow", call, x, number(exponent, call.dtypes[0]))


@one
def _exp2(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Pow", call, number(2), *call.values)


@one
def _expm1(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Sub", call, _apply(graph, "Exp", call, *call.values), number(1))


@one
def _log1p(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Log", call, _apply(graph, "Add", call, *call.values, number(1)))


@one
def _erfc(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Sub", call, number(1), _apply(graph, "Erf", call, *call.values))


@one
def _remainder(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Mod", call, *call.values, fmod=1)  # with the sign of the first, as JAX


@one
def _round(graph: Graph, call: Call) -> Data:
    if int(call.params["rounding_method"]) != 1:
        raise UnsupportedError("round away from zero")
    return _apply(graph, "Round", call, *call.values)


@one
def _not_equal(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Not", call, _apply(graph, "Equal", call, *call.values))


@one
def _is_finite(graph: Graph, call: Call) -> Data:
    size = _apply(graph, "Abs", call, *call.values, dtype=np.dtype(np.float32))
    return _apply(graph, "Less", call, size, number(np.inf))


def _logical(op: str, name: str) -> Primitive:
    def function(graph: Graph, call: Call) -> Data:
        if call.dtypes[0] != np.bool_:
            raise UnsupportedError(f"{name} of {call.dtypes[0]}")
        return _apply(graph, op, call, *call.values)

    return one(function)


@one
def _select(graph: Graph, call: Call) -> Data:
    which, *cases = call.values
    dtype = np.asarray(which.small).dtype if isinstance(which, Known) else which.dtype
    if len(cases) != 2 or dtype != np.bool_:
        raise UnsupportedError("select_n of more than two cases")
    return _apply(graph, "Where", call, which, cases[1], cases[0])


@one
def _clamp(graph: Graph, call: Call) -> Data:
    low, x, high = call.values
    return _apply(graph, "Min", call, _apply(graph, "Max", call, x, low), high)


@one
def _convert(graph: Graph, call: Call) -> Data:
    (x,) = call.values
    if isinstance(x, Data) and x.dtype == call.dtypes[0]:
        return x
    return _apply(graph, "Cast", call, x, to=DTYPES[str(call.dtypes[0])])


# Shapes.


@one
def _reshape(graph: Graph, call: Call) -> Data:
    if call.params["dimensions"] is not None:
        raise UnsupportedError("reshape with dimensions")
    return graph.reshaped(_data(call), call.sizes[0])


@one
def _squeeze(graph: Graph, call: Call) -> Data:
    """squeeze and expand_dims."""
    return graph.reshaped(_data(call), call.sizes[0])


def _data(call: Call) -> Data:
    """The operand of an operation that has one."""
    value = call.values[0]
    assert isinstance(value, Data)
    return value


@one
def _transpose(graph: Graph, call: Call) -> Data:
    return _data(call).transposed(tuple(call.params["permutation"]))


@one
def _broadcast(graph: Graph, call: Call) -> Data:
    x, (sizes,) = _data(call), call.sizes
    at = {axis: k for k, axis in enumerate(call.params["broadcast_dimensions"])}
    stretched = Sizes(
        *(
            tuple(shape[at[k]] if k in at else 1 for k in range(len(sizes.small)))
            for shape in x.sizes
        )
    )
    x = graph.reshaped(x, stretched)
    if stretched == sizes:
        return x
    if stretched.free != sizes.free:
        raise UnsupportedError("data repeated along the batch")
    wanted = [1 if k in sizes.free else size for k, size in enumerate(sizes.small)]
    return fresh(graph.node("Expand", graph.plain(x), graph.ints(wanted)), sizes, x.dtype)


@one
def _concatenate(graph: Graph, call: Call) -> Data:
    names = [graph.plain(value) for value in call.values]
    axis = call.params["dimension"]
    return fresh(graph.node("Concat", *names, axis=axis), call.sizes[0], call.dtypes[0])


@one
def _stack(graph: Graph, call: Call) -> Data:
    axis, (sizes,) = call.params["axis"], call.sizes
    one_each = Sizes(*((*shape[:axis], 1, *shape[axis + 1 :]) for shape in sizes))
    names = []
    for value in call.values:
        data = fresh(graph.plain(value), value.sizes, call.dtypes[0])
        names.append(graph.plain(graph.reshaped(data, one_each)))
    return fresh(graph.node("Concat", *names, axis=axis), sizes, call.dtypes[0])


def _unstack(graph: Graph, call: Call) -> list[Value]:
    x, axis = _data(call), call.params["axis"]
    each = [1] * len(call.sizes)
    one_each = Sizes(*((*shape[:axis], 1, *shape[axis + 1 :]) for shape in x.sizes))
    parts = _parts(graph, x, axis, each, [one_each] * len(each))
    return [graph.reshaped(part, sizes) for part, sizes in zip(parts, call.sizes, strict=True)]


def _split(graph: Graph, call: Call) -> list[Value]:
    return [*_parts(graph, _data(call), call.params["axis"], call.params["sizes"], call.sizes)]


def _parts(graph: Graph, x: Data, axis: int, lengths: Any, sizes: list[Sizes]) -> list[Data]:
    if axis in x.sizes.free:
        raise UnsupportedError("the batch split")
    inputs = graph.plain(x), graph.ints(lengths)
    names = graph.parts("Split", inputs, len(sizes), axis=axis)
    return [fresh(*of, x.dtype) for of in zip(names, sizes, strict=True)]


@one
def _tile(graph: Graph, call: Call) -> Data:
    x, repeats = _data(call), call.params["reps"]
    if any(repeats[k] != 1 for k in x.sizes.free):
        raise UnsupportedError("data repeated along the batch")
    return fresh(graph.node("Tile", graph.plain(x), graph.ints(repeats)), call.sizes[0], x.dtype)


@one
def _gather(graph: Graph, call: Call) -> Data:
    """Of known places along one axis; the axes that number them stand in its stead."""
    (x, places), params, (sizes,) = call.values, call.params, call.sizes
    numbers, taken = params["dimension_numbers"], params["slice_sizes"]
    if isinstance(x, Known) or isinstance(places, Data) or len(numbers.start_index_map) != 1:
        raise UnsupportedError("gather of other than known places along one axis")
    (axis,), index = numbers.start_index_map, settled(places, ())[..., 0]
    rest = tuple(k for k in range(len(sizes.small)) if not axis <= k < axis + index.ndim)
    whole = all(
        size == of
        for k, (size, of) in enumerate(zip(taken, x.sizes.small, strict=True))
        if k != axis
    )
    plain = (numbers.collapsed_slice_dims, numbers.offset_dims) == ((axis,), rest)
    inside = index.size and index.min() >= 0 and index.max() < x.sizes.small[axis]
    if not (whole and plain and inside) or axis in x.sizes.free:
        raise UnsupportedError("gather of other than known places along one axis")
    indices = graph.constant(index.astype(np.int64))
    return fresh(graph.node("Gather", graph.plain(x), indices, axis=axis), sizes, x.dtype)


def _cut(
    graph: Graph, x: Data, starts: list[int], ends: list[int], steps: list[int], sizes: Sizes
) -> Data:
    """A slice; axes that are taken whole are left out, and the batch must be."""
    axes = [
        k for k, size in enumerate(x.sizes.small) if (starts[k], ends[k], steps[k]) != (0, size, 1)
    ]
    if {*axes} & {*x.sizes.free}:
        raise UnsupportedError("a slice of the batch")
    if not axes:
        return x
    settings = ([values[k] for k in axes] for values in (starts, ends))
    inputs = [graph.ints(values) for values in (*settings, axes, [steps[k] for k in axes])]
    return fresh(graph.node("Slice", graph.plain(x), *inputs), sizes, x.dtype)


@one
def _slice(graph: Graph, call: Call) -> Data:
    x, params = _data(call), call.params
    steps = params["strides"] or [1] * len(x.order)
    bounds = list(params["start_indices"]), list(params["limit_indices"])
    return _cut(graph, x, *bounds, list(steps), call.sizes[0])


@one
def _dynamic_slice(graph: Graph, call: Call) -> Data:
    x, *places = call.values
    starts = [settled(place, ()) for place in places if isinstance(place, Known)]
    if isinstance(x, Known) or len(starts) < len(places):
        raise UnsupportedError("dynamic_slice at a place that depends on data")
    sizes, begin = call.params["slice_sizes"], []
    for start, size, taken in zip(starts, x.sizes.small, sizes, strict=True):
        begin.append(min(max(int(start), 0), size - taken))  # as JAX clamps it
    ends = [start + taken for start, taken in zip(begin, sizes, strict=True)]
    return _cut(graph, x, begin, ends, [1] * len(begin), call.sizes[0])


@one
def _reverse(graph: Graph, call: Call) -> Data:
    x, axes = _data(call), call.params["dimensions"]
    if {*axes} & {*x.sizes.free}:
        raise UnsupportedError("the batch reversed")
    ends = [np.iinfo(np.int64).min] * len(axes)
    inputs = [graph.ints(v) for v in ([-1] * len(axes), ends, axes, [-1] * len(axes))]
    return fresh(graph.node("Slice", graph.plain(x), *inputs), x.sizes, x.dtype)


@one
def _pad(graph: Graph, call: Call) -> Data:
    x, value = call.values
    edges = call.params["padding_config"]
    if isinstance(x, Known) or isinstance(value, Data) or any(inner for _, _, inner in edges):
        raise UnsupportedError("pad between elements, or with data")
    if any(low or high for k, (low, high, _) in enumerate(edges) if k in x.sizes.free):
        raise UnsupportedError("the batch padded")
    edges = [(low, high) for low, high, _ in edges]
    return fresh(padded(graph, graph.plain(x), edges, value.small), call.sizes[0], x.dtype)


def padded(graph: Graph, tensor: str, edges: list[tuple[int, int]], value: Any) -> str:
    """The tensor with `value` around it; negative edges are cut off."""
    if not any(map(any, edges)):
        return tensor
    pads = [low for low, _ in edges] + [high for _, high in edges]
    return graph.node("Pad", tensor, graph.ints(pads), graph.constant(value))


# Reductions and pooling.


def _reduce(op: str) -> Primitive:
    def function(graph: Graph, call: Call) -> Data:
        x, axes = _data(call), [int(axis) for axis in call.params["axes"]]
        if {*axes} & {*x.sizes.free}:
            raise UnsupportedError("a reduction of the batch")
        # In the layout that the tensor has; which axes are left is then the same.
        kept = [k for k in range(len(x.order)) if k not in axes]
        places = sorted(x.order[k] for k in axes)
        left = sorted(x.order[k] for k in kept)
        if op == "ReduceSum":  # the first of them to take its axes as an input
            name = graph.node(op, x.tensor, graph.ints(places), keepdims=0)
        else:
            name = graph.node(op, x.tensor, axes=places, keepdims=0)
        order = tuple(left.index(x.order[k]) for k in kept)
        return Data(name, order, call.sizes[0], call.dtypes[0])

    return one(function)


def _pool(op: str, outside: float) -> Primitive:
    """A pooling whose windows lie in all axes but two at the most."""

    def function(graph: Graph, call: Call) -> Data:
        x, params = _data(call), call.params
        size, stride = params["window_dimensions"], params["window_strides"]
        edges, dilation = params["padding"], params["window_dilation"]
        if any(step != 1 for step in params["base_dilation"]) or x.dtype != np.float32:
            raise UnsupportedError("a pooling with holes in its input, or of other than float32")
        if op == "AveragePool" and any(step != 1 for step in dilation):
            raise UnsupportedError("a sum of windows with holes")
        windows = zip(size, stride, edges, strict=True)
        still = [k for k, of in enumerate(windows) if (*of[:2], *of[2]) == (1, 1, 0, 0)]
        if len(still) < 2 or len(size) < 3 or not {*x.sizes.free} <= {*still}:
            raise UnsupportedError("a pooling of so many axes")
        # As [N, C, ...]: the layout of the tensor decides which are spatial, if several could be.
        still = sorted(still, key=lambda k: x.order[k])[:2]
        spatial = sorted({*range(len(size))} - {*still}, key=lambda k: x.order[k])
        order = (*still, *spatial)
        pads = [edges[k] for k in spatial]
        tensor = graph.plain(x.transposed(order))
        if any(min(pad) < 0 or max(pad) >= size[k] for k, pad in zip(spatial, pads, strict=True)):
            tensor = padded(graph, tensor, [(0, 0), (0, 0), *pads], np.float32(outside))
            pads = [(0, 0)] * len(pads)
        attributes: dict[str, Any] = {
            "kernel_shape": [int(size[k]) for k in spatial],
            "strides": [int(stride[k]) for k in spatial],
            "pads": [int(low) for low, _ in pads] + [int(high) for _, high in pads],
        }
        if op == "MaxPool":
            attributes["dilations"] = [int(dilation[k]) for k in spatial]
        else:
            attributes["count_include_pad"] = 1
        name = graph.node(op, tensor, **attributes)
        back = tuple(int(k) for k in np.argsort(order))
        y = fresh(name, call.sizes[0].take(order)).transposed(back)
        if op == "MaxPool":
            return y
        return _apply(graph, "Mul", call, y, number(math.prod(size)))  # the mean of each

    return one(function)


# Products without weights on crossbars.


@one
def _dot(graph: Graph, call: Call) -> Data:
    if call.dtypes[0] != np.float32:
        raise UnsupportedError(f"dot_general of {call.dtypes[0]}")
    contracts, batches = call.params["dimension_numbers"]
    parts, frees = [], []
    for k, (value, contract, batch) in enumerate(zip(call.values, contracts, batches, strict=True)):
        sizes = value.sizes
        if {*contract} & {*sizes.free}:
            raise UnsupportedError("a product that sums over the batch")
        free = tuple(a for a in range(len(sizes.small)) if a not in {*contract, *batch})
        groups = [free, tuple(contract)] if k == 0 else [tuple(contract), free]
        order = (*batch, *groups[0], *groups[1])
        if isinstance(value, Known):
            value = fresh(graph.plain(value), sizes)
        single = tuple((axis,) for axis in batch)
        parts.append(graph.reshaped(value.transposed(order), sizes.merged(*single, *groups)))
        frees.append(free)
    left, right = (part.sizes for part in parts)
    rank = len(left.small)
    sizes = Sizes(*((*a[:-1], b[-1]) for a, b in zip(left, right, strict=True)))
    assert len(sizes.small) == rank
    product = fresh(graph.node("MatMul", *(graph.plain(part) for part in parts)), sizes)
    return graph.reshaped(product, call.sizes[0])


@one
def _convolution(graph: Graph, call: Call) -> Data:
    params, (image, weight) = call.params, call.values
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise UnsupportedError("a transposed convolution, or one grouped over its batch")
    if call.dtypes[0] != np.float32:
        raise UnsupportedError(f"conv_general_dilated of {call.dtypes[0]}")
    numbers = params["dimension_numbers"]
    if isinstance(image, Known):
        image = fresh(graph.plain(image), image.sizes)
    images = graph.plain(image.transposed(tuple(numbers.lhs_spec)))
    if isinstance(weight, Known):
        kernel = graph.constant(settled(weight, ()).transpose(numbers.rhs_spec))
    else:
        kernel = graph.plain(weight.transposed(tuple(numbers.rhs_spec)))
    window = Window(
        tuple(params["window_strides"]),
        tuple(params["padding"]),
        tuple(params["rhs_dilation"]),
        params["feature_group_count"],
    )
    name = convolve(graph, images, kernel, window)
    out = tuple(numbers.out_spec)
    y = fresh(name, call.sizes[0].take(out))
    return y.transposed(tuple(int(k) for k in np.argsort(out)))


class Window(NamedTuple):
    """How a convolution's window moves."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


def convolve(graph: Graph, images: str, kernel: str, window: Window, prefix: str = "") -> str:
    """Conv of images [N, C, ...]; outside of them is 0."""
    edges = [(int(low), int(high)) for low, high in window.padding]
    if any(low < 0 or high < 0 for low, high in edges):
        images = padded(graph, images, [(0, 0), (0, 0), *edges], np.float32(0))
        edges = [(0, 0)] * len(edges)
    return graph.node(
        "Conv",
        images,
        kernel,
        prefix=prefix,
        strides=[int(step) for step in window.stride],
        pads=[low for low, _ in edges] + [high for _, high in edges],
        dilations=[int(step) for step in window.dilation],
        group=int(window.groups),
    )


PRIMITIVES: dict[str, Primitive] = {
    **{
        name: _elementwise(op)
        for name, op in {
            "abs": "Abs",
            "add": "Add",
            "add_any": "Add",
            "ceil": "Ceil",
            "cos": "Cos",
            "div": "Div",
            "eq": "Equal",
            "erf": "Erf",
            "exp": "Exp",
            "floor": "Floor",
            "ge": "GreaterOrEqual",
            "gt": "Greater",
            "le": "LessOrEqual",
            "log": "Log",
            "logistic": "Sigmoid",
            "lt": "Less",
            "min": "Min",
            "mul": "Mul",
            "neg": "Neg",
            "pow": "Pow",
            "sign": "Sign",
            "sin": "Sin",
            "sqrt": "Sqrt",
            "sub": "Sub",
            "tanh": "Tanh",
        }.items()
    },
    **dict.fromkeys(("copy", "copy_p", "optimization_barrier", "sharding_constraint"), _same),
    "and": _logical("And", "and"),
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "erfc": _erfc,
    "exp2": _exp2,
    "expand_dims": _squeeze,
    "expm1": _expm1,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "log1p": _log1p,
    "max": _max,
    "ne": _not_equal,
    "not": _logical("Not", "not"),
    "or": _logical("Or", "or"),
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _pool("MaxPool", -np.inf),
    "reduce_window_sum": _pool("AveragePool", 0.0),
    "rem": _remainder,
    "reshape": _reshape,
    "rev": _reverse,
    "round": _round,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _same,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
    "xor": _logical("Xor", "xor"),
}
