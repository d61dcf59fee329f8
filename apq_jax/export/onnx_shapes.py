"""JAX primitives that move values without computing, as ONNX operators."""

from typing import Any

import numpy as np

from apq_jax.export.onnx_call import Call, get_operand, list_result
from apq_jax.export.onnx_graph import (
    Data,
    Graph,
    Known,
    Sizes,
    UnsupportedError,
    Value,
    collapse_batch,
    wrap_tensor,
)


@list_result
def add_reshape(graph: Graph, call: Call) -> Data:
    if call.params["dimensions"] is not None:
        raise UnsupportedError("reshape with dimensions")
    return graph.reshaped(get_operand(call), call.sizes[0])


@list_result
def add_squeeze(graph: Graph, call: Call) -> Data:
    """squeeze and expand_dims."""
    return graph.reshaped(get_operand(call), call.sizes[0])


@list_result
def add_transpose(graph: Graph, call: Call) -> Data:
    return get_operand(call).transposed(tuple(call.params["permutation"]))


@list_result
def add_broadcast(graph: Graph, call: Call) -> Data:
    x, (sizes,) = get_operand(call), call.sizes
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
    return wrap_tensor(graph.node("Expand", graph.plain(x), graph.ints(wanted)), sizes, x.dtype)


@list_result
def add_concatenate(graph: Graph, call: Call) -> Data:
    names = [graph.plain(value) for value in call.values]
    axis = call.params["dimension"]
    return wrap_tensor(graph.node("Concat", *names, axis=axis), call.sizes[0], call.dtypes[0])


@list_result
def add_stack(graph: Graph, call: Call) -> Data:
    axis, (sizes,) = call.params["axis"], call.sizes
    one_each = Sizes(*((*shape[:axis], 1, *shape[axis + 1 :]) for shape in sizes))
    names = []
    for value in call.values:
        data = wrap_tensor(graph.plain(value), value.sizes, call.dtypes[0])
        names.append(graph.plain(graph.reshaped(data, one_each)))
    return wrap_tensor(graph.node("Concat", *names, axis=axis), sizes, call.dtypes[0])


def add_unstack(graph: Graph, call: Call) -> list[Value]:
    x, axis = get_operand(call), call.params["axis"]
    each = [1] * len(call.sizes)
    one_each = Sizes(*((*shape[:axis], 1, *shape[axis + 1 :]) for shape in x.sizes))
    parts = _split_axis(graph, x, axis, each, [one_each] * len(each))
    return [graph.reshaped(part, sizes) for part, sizes in zip(parts, call.sizes, strict=True)]


def add_split(graph: Graph, call: Call) -> list[Value]:
    return [
        *_split_axis(
            graph, get_operand(call), call.params["axis"], call.params["sizes"], call.sizes
        )
    ]


def _split_axis(graph: Graph, x: Data, axis: int, lengths: Any, sizes: list[Sizes]) -> list[Data]:
    if axis in x.sizes.free:
        raise UnsupportedError("the batch split")
    inputs = graph.plain(x), graph.ints(lengths)
    names = graph.parts("Split", inputs, len(sizes), axis=axis)
    return [wrap_tensor(*of, x.dtype) for of in zip(names, sizes, strict=True)]


@list_result
def add_tile(graph: Graph, call: Call) -> Data:
    x, repeats = get_operand(call), call.params["reps"]
    if any(repeats[k] != 1 for k in x.sizes.free):
        raise UnsupportedError("data repeated along the batch")
    return wrap_tensor(
        graph.node("Tile", graph.plain(x), graph.ints(repeats)), call.sizes[0], x.dtype
    )


@list_result
def add_gather(graph: Graph, call: Call) -> Data:
    """Of known places along one axis; the axes that number them stand in its stead."""
    (x, places), params, (sizes,) = call.values, call.params, call.sizes
    numbers, taken = params["dimension_numbers"], params["slice_sizes"]
    if isinstance(x, Known) or isinstance(places, Data) or len(numbers.start_index_map) != 1:
        raise UnsupportedError("gather of other than known places along one axis")
    (axis,), index = numbers.start_index_map, collapse_batch(places, ())[..., 0]
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
    return wrap_tensor(graph.node("Gather", graph.plain(x), indices, axis=axis), sizes, x.dtype)


def _add_slice(
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
    return wrap_tensor(graph.node("Slice", graph.plain(x), *inputs), sizes, x.dtype)


@list_result
def add_slice(graph: Graph, call: Call) -> Data:
    x, params = get_operand(call), call.params
    steps = params["strides"] or [1] * len(x.order)
    bounds = list(params["start_indices"]), list(params["limit_indices"])
    return _add_slice(graph, x, *bounds, list(steps), call.sizes[0])


@list_result
def add_dynamic_slice(graph: Graph, call: Call) -> Data:
    x, *places = call.values
    starts = [collapse_batch(place, ()) for place in places if isinstance(place, Known)]
    if isinstance(x, Known) or len(starts) < len(places):
        raise UnsupportedError("dynamic_slice at a place that depends on data")
    sizes, begin = call.params["slice_sizes"], []
    for start, size, taken in zip(starts, x.sizes.small, sizes, strict=True):
        begin.append(min(max(int(start), 0), size - taken))  # as JAX clamps it
    ends = [start + taken for start, taken in zip(begin, sizes, strict=True)]
    return _add_slice(graph, x, begin, ends, [1] * len(begin), call.sizes[0])


@list_result
def add_reverse(graph: Graph, call: Call) -> Data:
    x, axes = get_operand(call), call.params["dimensions"]
    if {*axes} & {*x.sizes.free}:
        raise UnsupportedError("the batch reversed")
    ends = [np.iinfo(np.int64).min] * len(axes)
    inputs = [graph.ints(v) for v in ([-1] * len(axes), ends, axes, [-1] * len(axes))]
    return wrap_tensor(graph.node("Slice", graph.plain(x), *inputs), x.sizes, x.dtype)


@list_result
def add_pad(graph: Graph, call: Call) -> Data:
    x, value = call.values
    edges = call.params["padding_config"]
    if isinstance(x, Known) or isinstance(value, Data) or any(inner for _, _, inner in edges):
        raise UnsupportedError("pad between elements, or with data")
    if any(low or high for k, (low, high, _) in enumerate(edges) if k in x.sizes.free):
        raise UnsupportedError("the batch padded")
    edges = [(low, high) for low, high, _ in edges]
    return wrap_tensor(
        pad_tensor(graph, graph.plain(x), edges, value.small), call.sizes[0], x.dtype
    )


def pad_tensor(graph: Graph, tensor: str, edges: list[tuple[int, int]], value: Any) -> str:
    """The tensor with `value` around it; negative edges are cut off."""
    if not any(map(any, edges)):
        return tensor
    pads = [low for low, _ in edges] + [high for _, high in edges]
    return graph.node("Pad", tensor, graph.ints(pads), graph.constant(value))
