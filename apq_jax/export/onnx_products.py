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
    Sizes,
    UnsupportedError,
    collapse_batch,
    wrap_tensor,
)
from apq_jax.export.onnx_shapes import pad_tensor


def make_reduction(op: str) -> Primitive:
    def function(graph: Graph, call: Call) -> Data:
        x, axes = get_operand(call), [int(axis) for axis in call.params["axes"]]
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

    return list_result(function)


def make_pooling(op: str, outside: float) -> Primitive:
    """A pooling whose windows lie in all axes but two at the most."""

    def function(graph: Graph, call: Call) -> Data:
        x, params = get_operand(call), call.params
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
        name = graph.node(op, tensor, **attributes)
        back = tuple(int(k) for k in np.argsort(order))
        y = wrap_tensor(name, call.sizes[0].take(order)).transposed(back)
        if op == "MaxPool":
            return y
        return add_operator(graph, "Mul", call, y, make_scalar(math.prod(size)))  # the mean of each

    return list_result(function)


@list_result
def add_dot(graph: Graph, call: Call) -> Data:
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
            value = wrap_tensor(graph.plain(value), sizes)
        single = tuple((axis,) for axis in batch)
        parts.append(graph.reshaped(value.transposed(order), sizes.merged(*single, *groups)))
        frees.append(free)
    left, right = (part.sizes for part in parts)
    rank = len(left.small)
    sizes = Sizes(*((*a[:-1], b[-1]) for a, b in zip(left, right, strict=True)))
    assert len(sizes.small) == rank
    product = wrap_tensor(graph.node("MatMul", *(graph.plain(part) for part in parts)), sizes)
    return graph.reshaped(product, call.sizes[0])


@list_result
def add_convolution(graph: Graph, call: Call) -> Data:
    params, (image, weight) = call.params, call.values
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise UnsupportedError("a transposed convolution, or one grouped over its batch")
    if call.dtypes[0] != np.float32:
        raise UnsupportedError(f"conv_general_dilated of {call.dtypes[0]}")
    numbers = params["dimension_numbers"]
    if isinstance(image, Known):
        image = wrap_tensor(graph.plain(image), image.sizes)
    images = graph.plain(image.transposed(tuple(numbers.lhs_spec)))
    if isinstance(weight, Known):
        kernel = graph.constant(collapse_batch(weight, ()).transpose(numbers.rhs_spec))
    else:
        kernel = graph.plain(weight.transposed(tuple(numbers.rhs_spec)))
    window = Window(
        tuple(params["window_strides"]),
        tuple(params["padding"]),
        tuple(params["rhs_dilation"]),
        params["feature_group_count"],
    )
    name = add_conv(graph, images, kernel, window)
    out = tuple(numbers.out_spec)
    y = wrap_tensor(name, call.sizes[0].take(out))
    return y.transposed(tuple(int(k) for k in np.argsort(out)))


class Window(NamedTuple):
    """How a convolution's window moves."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


def add_conv(graph: Graph, images: str, kernel: str, window: Window, prefix: str = "") -> str:
    """Conv of images [N, C, ...]; outside of them is 0."""
    edges = [(int(low), int(high)) for low, high in window.padding]
    if any(low < 0 or high < 0 for low, high in edges):
        images = pad_tensor(graph, images, [(0, 0), (0, 0), *edges], np.float32(0))
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
