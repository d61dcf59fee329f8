"""Translates JAX primitives that move values without computing into ONNX operators.

Each add_... function is a translation, as `onnx_primitives` describes them; `PRIMITIVES` there says
which primitive it translates.
"""

from typing import Any

import numpy as np

from apq_jax.export.onnx_call import Call, get_operand
from apq_jax.export.onnx_graph import Data, Graph, Known, Shape, UnsupportedError, Value, make_data


def _apply(graph: Graph, op: str, x: Data, shape: Shape, *inputs: str, **attributes: Any) -> Data:
    """Adds an operator on `x`, whose other inputs are the given tensors; returns its result."""
    name = graph.add_node(op, graph.materialise(x), *inputs, **attributes)
    return make_data(name, shape, x.dtype)


def _set_axis(shape: Shape, axis: int, size: int) -> Shape:
    """Returns a shape with another size along one axis."""
    return Shape(*((*dims[:axis], size, *dims[axis + 1 :]) for dims in shape))


def add_reshape(graph: Graph, call: Call) -> Data:
    if call.params["dimensions"] is not None:
        raise UnsupportedError("reshape with dimensions")
    return graph.reshape(get_operand(call), call.shapes[0])


def add_squeeze(graph: Graph, call: Call) -> Data:
    """Translates both squeeze and expand_dims."""
    return graph.reshape(get_operand(call), call.shapes[0])


def add_transpose(graph: Graph, call: Call) -> Data:
    return get_operand(call).transpose(tuple(call.params["permutation"]))


def add_broadcast(graph: Graph, call: Call) -> Data:
    x, (shape,) = get_operand(call), call.shapes
    axes = {axis: k for k, axis in enumerate(call.params["broadcast_dimensions"])}
    rank = range(len(shape.small))
    x = graph.reshape(
        x, Shape(*(tuple(dims[axes[k]] if k in axes else 1 for k in rank) for dims in x.shape))
    )
    if x.shape == shape:
        return x
    if x.shape.batch_axes != shape.batch_axes:
        raise UnsupportedError("data repeated along the batch")
    dims = [1 if k in shape.batch_axes else size for k, size in enumerate(shape.small)]
    return _apply(graph, "Expand", x, shape, graph.add_ints(dims))


def add_concatenate(graph: Graph, call: Call) -> Data:
    names = [graph.materialise(value) for value in call.values]
    axis = call.params["dimension"]
    return make_data(graph.add_node("Concat", *names, axis=axis), call.shapes[0], call.dtypes[0])


def add_stack(graph: Graph, call: Call) -> Data:
    axis, (shape,) = call.params["axis"], call.shapes
    names = []
    for value in call.values:
        data = make_data(graph.materialise(value), value.shape, call.dtypes[0])
        names.append(graph.materialise(graph.reshape(data, _set_axis(shape, axis, 1))))
    return make_data(graph.add_node("Concat", *names, axis=axis), shape, call.dtypes[0])


def add_unstack(graph: Graph, call: Call) -> list[Value]:
    parts = _split_axis(graph, call, [1] * len(call.shapes))
    return [graph.reshape(part, shape) for part, shape in zip(parts, call.shapes, strict=True)]


def add_split(graph: Graph, call: Call) -> list[Value]:
    return [*_split_axis(graph, call, call.params["sizes"])]


def _split_axis(graph: Graph, call: Call, lengths: Any) -> list[Data]:
    """Adds the split of a call's operand into parts of the given lengths; returns the parts."""
    x, axis = get_operand(call), call.params["axis"]
    if axis in x.shape.batch_axes:
        raise UnsupportedError("the batch split")
    inputs = graph.materialise(x), graph.add_ints(lengths)
    names = graph.add_node_with_results("Split", inputs, len(lengths), axis=axis)
    shapes = (_set_axis(x.shape, axis, length) for length in lengths)
    return [make_data(name, shape, x.dtype) for name, shape in zip(names, shapes, strict=True)]


def add_tile(graph: Graph, call: Call) -> Data:
    x, repeats = get_operand(call), call.params["reps"]
    if any(repeats[k] != 1 for k in x.shape.batch_axes):
        raise UnsupportedError("data repeated along the batch")
    return _apply(graph, "Tile", x, call.shapes[0], graph.add_ints(repeats))


def add_gather(graph: Graph, call: Call) -> Data:
    """Translates a gather along one axis by known indices, whose axes replace it."""
    (x, indices), params, (shape,) = call.values, call.params, call.shapes
    numbers, slice_sizes = params["dimension_numbers"], params["slice_sizes"]
    refusal = UnsupportedError("gather of other than known places along one axis")
    if isinstance(x, Known) or isinstance(indices, Data) or len(numbers.start_index_map) != 1:
        raise refusal
    (axis,), index = numbers.start_index_map, indices.collapse()[..., 0]
    rest = tuple(k for k in range(len(shape.small)) if not axis <= k < axis + index.ndim)
    pairs = enumerate(zip(slice_sizes, x.shape.small, strict=True))
    whole = all(length == size for k, (length, size) in pairs if k != axis)
    plain = (numbers.collapsed_slice_dims, numbers.offset_dims) == ((axis,), rest)
    inside = index.size and index.min() >= 0 and index.max() < x.shape.small[axis]
    if not (whole and plain and inside) or axis in x.shape.batch_axes:
        raise refusal
    return _apply(graph, "Gather", x, shape, graph.add_constant(index.astype(np.int64)), axis=axis)


def _add_slice(
    graph: Graph, x: Data, starts: list[int], ends: list[int], steps: list[int], shape: Shape
) -> Data:
    """Adds a slice along the axes that it shortens, which must not include the batch."""
    axes = [
        k for k, size in enumerate(x.shape.small) if (starts[k], ends[k], steps[k]) != (0, size, 1)
    ]
    if {*axes} & {*x.shape.batch_axes}:
        raise UnsupportedError("a slice of the batch")
    if not axes:
        return x
    first, last, step = ([values[k] for k in axes] for values in (starts, ends, steps))
    inputs = [graph.add_ints(values) for values in (first, last, axes, step)]
    return _apply(graph, "Slice", x, shape, *inputs)


def add_slice(graph: Graph, call: Call) -> Data:
    x, params = get_operand(call), call.params
    steps = params["strides"] or [1] * len(x.order)
    bounds = list(params["start_indices"]), list(params["limit_indices"])
    return _add_slice(graph, x, *bounds, list(steps), call.shapes[0])


def add_dynamic_slice(graph: Graph, call: Call) -> Data:
    x, *indices = call.values
    known = [index.collapse() for index in indices if isinstance(index, Known)]
    if isinstance(x, Known) or len(known) < len(indices):
        raise UnsupportedError("dynamic_slice at a place that depends on data")
    starts, ends = [], []
    lengths = call.params["slice_sizes"]
    for start, size, length in zip(known, x.shape.small, lengths, strict=True):
        starts.append(min(max(int(start), 0), size - length))  # as JAX clamps it
        ends.append(starts[-1] + length)
    return _add_slice(graph, x, starts, ends, [1] * len(starts), call.shapes[0])


def add_reverse(graph: Graph, call: Call) -> Data:
    x, axes = get_operand(call), call.params["dimensions"]
    if {*axes} & {*x.shape.batch_axes}:
        raise UnsupportedError("the batch reversed")
    ends = [np.iinfo(np.int64).min] * len(axes)
    back = [-1] * len(axes)
    inputs = [graph.add_ints(values) for values in (back, ends, axes, back)]
    return _apply(graph, "Slice", x, x.shape, *inputs)


def add_pad(graph: Graph, call: Call) -> Data:
    x, value = call.values
    edges = call.params["padding_config"]
    if isinstance(x, Known) or isinstance(value, Data) or any(inner for _, _, inner in edges):
        raise UnsupportedError("pad between elements, or with data")
    if any(low or high for k, (low, high, _) in enumerate(edges) if k in x.shape.batch_axes):
        raise UnsupportedError("the batch padded")
    edges = [(low, high) for low, high, _ in edges]
    tensor = pad_tensor(graph, graph.materialise(x), edges, value.small)
    return make_data(tensor, call.shapes[0], x.dtype)


def pad_tensor(graph: Graph, tensor: str, edges: list[tuple[int, int]], value: Any) -> str:
    """Adds a Pad of a tensor; returns the result's name, or `tensor` if no edge is padded.

    Args:
      graph: the graph to add to.
      tensor: the tensor's name.
      edges: elements added before and after, for each axis; negative ones crop.
      value: the number that the added elements have, of the tensor's dtype.
    """
    if not any(map(any, edges)):
        return tensor
    pads = [low for low, _ in edges] + [high for _, high in edges]
    return graph.add_node("Pad", tensor, graph.add_ints(pads), graph.add_constant(value))
