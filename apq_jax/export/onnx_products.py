"""JAX reductions, poolings, products and convolutions as ONNX operators."""

import math
from typing import Any, NamedTuple

import numpy as np

from apq_jax.export.onnx_call import (
    Call,
    Primitive,
    add_operator,
    get_operand,
    list_result,
    make_scalar,
)
from apq_jax.export.onnx_graph import (
    Data,
    Graph,
    Known,
    Shape,
    UnsupportedError,
    collapse_batch,
    invert,
    wrap_tensor,
)
from apq_jax.export.onnx_shapes import pad_tensor


def make_reduction(op: str) -> Primitive:
    """Returns the translation of a reduction into an ONNX operator."""

    def add_reduction(graph: Graph, call: Call) -> Data:
        x, axes = get_operand(call), [int(axis) for axis in call.params["axes"]]
        if {*axes} & {*x.shape.batch_axes}:
            raise UnsupportedError("a reduction of the batch")
        # The tensor is reduced in its own layout, because that needs no transposition.
        tensor_axes = sorted(x.order[k] for k in axes)
        if op == "ReduceSum":  # takes its axes as an input since opset 13, the others since 18
            name = graph.add_node(op, x.tensor, graph.add_ints(tensor_axes), keepdims=0)
        else:
            name = graph.add_node(op, x.tensor, axes=tensor_axes, keepdims=0)
        remaining = [axis for k, axis in enumerate(x.order) if k not in axes]
        order = tuple(sorted(remaining).index(axis) for axis in remaining)
        return Data(name, order, call.shapes[0], call.dtypes[0])

    return list_result(add_reduction)


def make_pooling(op: str, outside: float) -> Primitive:
    """Returns the translation of a pooling whose windows leave out two axes at least.

    Args:
      op: "MaxPool" or "AveragePool"; a sum is the average times the window's size.
      outside: the value of padding.
    """

    def add_pooling(graph: Graph, call: Call) -> Data:
        x, params = get_operand(call), call.params
        size, stride = params["window_dimensions"], params["window_strides"]
        edges, dilation = params["padding"], params["window_dilation"]
        if any(step != 1 for step in params["base_dilation"]) or x.dtype != np.float32:
            raise UnsupportedError("a pooling with holes in its input, or of other than float32")
        if op == "AveragePool" and any(step != 1 for step in dilation):
            raise UnsupportedError("a sum of windows with holes")
        windows = zip(size, stride, map(tuple, edges), strict=True)
        unpooled = [k for k, window in enumerate(windows) if window == (1, 1, (0, 0))]
        if len(unpooled) < 2 or len(size) < 3 or not {*x.shape.batch_axes} <= {*unpooled}:
            raise UnsupportedError("a pooling of so many axes")
        # ONNX pools [N, C, ...]. The tensor's layout decides which axes become N and C, because
        # that saves transpositions.
        unpooled = sorted(unpooled, key=lambda k: x.order[k])[:2]
        spatial = sorted({*range(len(size))} - {*unpooled}, key=lambda k: x.order[k])
        order = (*unpooled, *spatial)
        pads = [edges[k] for k in spatial]
        tensor = graph.materialise(x.transpose(order))
        if any(min(pad) < 0 or max(pad) >= size[k] for k, pad in zip(spatial, pads, strict=True)):
            tensor = pad_tensor(graph, tensor, [(0, 0), (0, 0), *pads], np.float32(outside))
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
        name = graph.add_node(op, tensor, **attributes)
        y = wrap_tensor(name, call.shapes[0].take(order)).transpose(invert(order))
        if op == "MaxPool":
            return y
        return add_operator(graph, "Mul", call, y, make_scalar(math.prod(size)))

    return list_result(add_pooling)


@list_result
def add_dot(graph: Graph, call: Call) -> Data:
    if call.dtypes[0] != np.float32:
        raise UnsupportedError(f"dot_general of {call.dtypes[0]}")
    contracts, batches = call.params["dimension_numbers"]
    operands = []
    for k, (value, contract, batch) in enumerate(zip(call.values, contracts, batches, strict=True)):
        shape = value.shape
        if {*contract} & {*shape.batch_axes}:
            raise UnsupportedError("a product that sums over the batch")
        free = tuple(a for a in range(len(shape.small)) if a not in {*contract, *batch})
        groups = [free, tuple(contract)] if k == 0 else [tuple(contract), free]
        order = (*batch, *groups[0], *groups[1])
        if isinstance(value, Known):
            value = wrap_tensor(graph.materialise(value), shape)
        single = tuple((axis,) for axis in batch)
        operands.append(graph.reshape(value.transpose(order), shape.merge(*single, *groups)))
    left, right = operands
    dims = ((*a[:-1], b[-1]) for a, b in zip(left.shape, right.shape, strict=True))
    name = graph.add_node("MatMul", graph.materialise(left), graph.materialise(right))
    return graph.reshape(wrap_tensor(name, Shape(*dims)), call.shapes[0])


@list_result
def add_convolution(graph: Graph, call: Call) -> Data:
    params, (image, weight) = call.params, call.values
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise UnsupportedError("a transposed convolution, or one grouped over its batch")
    if call.dtypes[0] != np.float32:
        raise UnsupportedError(f"conv_general_dilated of {call.dtypes[0]}")
    numbers = params["dimension_numbers"]
    if isinstance(image, Known):
        image = wrap_tensor(graph.materialise(image), image.shape)
    images = graph.materialise(image.transpose(tuple(numbers.lhs_spec)))
    if isinstance(weight, Known):
        kernel = graph.add_constant(collapse_batch(weight, ()).transpose(numbers.rhs_spec))
    else:
        kernel = graph.materialise(weight.transpose(tuple(numbers.rhs_spec)))
    window = Window(
        tuple(params["window_strides"]),
        tuple(params["padding"]),
        tuple(params["rhs_dilation"]),
        params["feature_group_count"],
    )
    name = add_conv(graph, images, kernel, window)
    out = tuple(numbers.out_spec)
    return wrap_tensor(name, call.shapes[0].take(out)).transpose(invert(out))


class Window(NamedTuple):
    """How a convolution's window moves over the spatial axes."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


def add_conv(graph: Graph, images: str, kernel: str, window: Window, prefix: str = "") -> str:
    """Adds a Conv, zero outside of its images; returns its result's name.

    Args:
      graph: the graph.
      images: the tensor [N, C, ...].
      kernel: the tensor [C_out, C / groups, ...].
      window: strides, padding (negative edges crop), dilation and groups.
      prefix: of the node's name.
    """
    edges = [(int(low), int(high)) for low, high in window.padding]
    if any(low < 0 or high < 0 for low, high in edges):
        images = pad_tensor(graph, images, [(0, 0), (0, 0), *edges], np.float32(0))
        edges = [(0, 0)] * len(edges)
    return graph.add_node(
        "Conv",
        images,
        kernel,
        prefix=prefix,
        strides=[int(step) for step in window.stride],
        pads=[low for low, _ in edges] + [high for _, high in edges],
        dilations=[int(step) for step in window.dilation],
        group=int(window.groups),
    )
