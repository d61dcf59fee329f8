"""Translates JAX reductions, poolings, products and convolutions into ONNX operators.

`onnx_primitives` describes what a translation gets, returns and raises.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from apq_jax.export.onnx_call import Call, Primitive, add_operator, get_operand, make_scalar
from apq_jax.export.onnx_graph import Data, Graph, Known, Shape, UnsupportedError, invert, make_data
from apq_jax.export.onnx_shapes import pad_tensor


def make_reduction(op: str) -> Primitive:
    """Returns the translation of a reduction into the ONNX operator `op`, such as "ReduceMax"."""

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

    return add_reduction


def make_pooling(op: str, outside: float) -> Primitive:
    """Returns the translation of reduce_window: the maximum or the sum of each window.

    The translation raises UnsupportedError if fewer than two axes, or not the batch, have windows
    of size 1; for holes that ONNX lacks; and for other numbers than float32.

    Args:
      op: "MaxPool", or "AveragePool" for the sum, which is the average times the window's size.
      outside: the number that padding adds, the reduction's neutral element.
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
        y = make_data(name, call.shapes[0].take(order)).transpose(invert(order))
        if op == "MaxPool":
            return y
        return add_operator(graph, "Mul", call, y, make_scalar(math.prod(size)))

    return add_pooling


def add_dot(graph: Graph, call: Call) -> Data:
    """Translates dot_general; `onnx_model` writes the products of mapped layers itself."""
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
            value = make_data(graph.materialise(value), shape)
        single = tuple((axis,) for axis in batch)
        operands.append(graph.reshape(value.transpose(order), shape.merge(*single, *groups)))
    left, right = operands
    dims = ((*a[:-1], b[-1]) for a, b in zip(left.shape, right.shape, strict=True))
    name = graph.add_node("MatMul", graph.materialise(left), graph.materialise(right))
    return graph.reshape(make_data(name, Shape(*dims)), call.shapes[0])


def add_convolution(graph: Graph, call: Call) -> Data:
    """Translates conv_general_dilated; `onnx_model` writes mapped convolutions itself."""
    params, (image, weight) = call.params, call.values
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise UnsupportedError("a transposed convolution, or one grouped over its batch")
    if call.dtypes[0] != np.float32:
        raise UnsupportedError(f"conv_general_dilated of {call.dtypes[0]}")
    numbers = params["dimension_numbers"]
    if isinstance(image, Known):
        image = make_data(graph.materialise(image), image.shape)
    images = graph.materialise(image.transpose(tuple(numbers.lhs_spec)))
    if isinstance(weight, Known):
        kernel = graph.add_constant(weight.collapse().transpose(numbers.rhs_spec))
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
    return make_data(name, call.shapes[0].take(out)).transpose(invert(out))


class Window(NamedTuple):
    """How a convolution's window moves; one entry a spatial axis, except for the groups."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # before and after; negative numbers crop
    dilation: tuple[int, ...]
    groups: int  # of channels


def add_conv(graph: Graph, images: str, kernel: str, window: Window, prefix: str = "") -> str:
    """Adds a Conv, which pads with zeros; returns the name of its result [N, C_out, ...].

    Args:
      graph: the graph to add to.
      images: name of the tensor [N, C, ...].
      kernel: name of the tensor [C_out, C / groups, ...].
      window: how the kernel moves.
      prefix: what the node's name begins with.
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
