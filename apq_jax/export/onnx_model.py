"""A compressed network as an ONNX model of opset 17: integers and scales, QDQ.

A mapped layer computes y = multiplier Σ u levels + offset, as `compression.compressed` does:

    input    QuantizeLinear (uint8), Clip to 2^a - 1 if a < 8, DequantizeLinear
    weight   DequantizeLinear of the integer levels, one scale an output channel
    product  Conv or Gemm of both in float32, then Add of a bias

The input keeps its own scale s. The weight's scale is multiplier / s, because the product must have
the multiplier, which also matches the output's moments. The dequantized input is s (u - zero), so
the bias is offset + multiplier zero Σ levels, and a convolution's padding, u = zero, is 0. The bias
is an Add of its own, because ONNX Runtime rounds a bias inside of a quantized Conv or Gemm to whole
multiples of the scales' product. All other operations are written as the model has them.
"""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from apq_jax.compression.compressed import Compressed, CompressedLayer
from apq_jax.export.onnx_call import DTYPES, Call, get_operand
from apq_jax.export.onnx_graph import (
    BATCHES,
    INPUT,
    OUTPUT,
    Data,
    Graph,
    Known,
    Shape,
    UnsupportedError,
    Value,
    invert,
    make_data,
)
from apq_jax.export.onnx_primitives import PRIMITIVES
from apq_jax.export.onnx_products import Window, add_conv
from apq_jax.models.onnx.file import INSTALL
from apq_jax.network.capture import Network, build_visit
from apq_jax.network.convolution import Convolution
from apq_jax.network.dot import Dot
from apq_jax.network.jaxpr import Params, trace
from apq_jax.network.products import Product
from apq_jax.system.errors import InputError

OPSET, _IR = 17, 8  # both of 2022; `Shape` with a range needs opset 15

# Stands for a mapped layer's operation in the jaxpr.
_LAYER = core.Primitive("apq_jax_layer")


@_LAYER.def_abstract_eval
def _infer_layer(x: Any, *, index: int, product: Product, shape: tuple[int, ...]) -> Any:
    return jax.core.ShapedArray(shape, np.dtype(np.float32))


def export(network: Network, params: Params, compressed: Compressed) -> Any:
    """Returns a compressed network as an onnx.ModelProto of opset 17.

    The model's input "images" is [batch, ...], laid out as the network's, for any batch; its output
    "logits" is [batch, classes]. A layer's initializer `NAME/levels` holds the layer's integers as
    int8: [C_out, C_in/γ, kernel] for a convolution, [R, C] for a matrix product, [γ C, R] for a
    matrix product of several groups.

    Args:
      network: from `capture`.
      params: the model's parameters; the values of mapped ones are ignored.
      compressed: the integers and scales of the mapped layers.

    Raises:
      InputError: the package onnx is missing; converters are lossy, which no ONNX operator
        expresses; the model's operations differ between batch sizes; its logits are not float32
        numbers that depend on the images; or it uses operations that cannot be written (the message
        names all of them).
    """
    try:
        import onnx  # optional, because only this function needs it
    except ImportError as error:
        raise InputError(f"to write ONNX needs the package onnx: {INSTALL}") from error
    if any(layer.reading is not None for layer in compressed):
        raise InputError(
            "lossy converters, which no ONNX operator expresses; allowed: a network whose "
            "converters are lossless"
        )
    graph = Graph()
    logits = _add_network(graph, network, params, compressed)
    tensor = graph.add_node("Identity", graph.materialise(logits))
    graph.nodes[-1] = graph.nodes[-1]._replace(outputs=(OUTPUT,))
    assert tensor not in {name for node in graph.nodes for name in node.inputs}
    helper = onnx.helper
    nodes = [
        helper.make_node(node.op, node.inputs, node.outputs, node.name, **node.attributes)
        for node in graph.nodes
    ]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in graph.tensors.items()]
    ends = [
        helper.make_tensor_value_info(name, DTYPES[str(dtype)], ("batch", *shape[1:]))
        for name, dtype, shape in (
            (INPUT, network.example.dtype, network.example.shape),
            (OUTPUT, logits.dtype, logits.shape.small),
        )
    ]
    body = helper.make_graph(nodes, "apq_jax", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(body, opset_imports=opsets, ir_version=_IR, producer_name="apq_jax")


def _add_network(graph: Graph, network: Network, params: Params, compressed: Compressed) -> Data:
    """Adds the network's nodes; returns the logits."""
    small, large = (_trace_layers(network, params, batch) for batch in BATCHES)
    names = [[eqn.primitive.name for eqn in traced.jaxpr.eqns] for traced in (small, large)]
    if names[0] != names[1]:
        raise InputError("the model's operations depend on the size of the batch; allowed: not so")
    shape = Shape(*((batch, *network.example.shape[1:]) for batch in BATCHES))
    walk = _Walk(graph, network, compressed)
    walk.bind(small.jaxpr.invars, [make_data(INPUT, shape, network.example.dtype)])
    consts = zip(small.consts, large.consts, strict=True)
    walk.bind(small.jaxpr.constvars, [Known(*pair) for pair in consts])
    needed = _find_needed(small.jaxpr)
    for index, pair in enumerate(zip(small.jaxpr.eqns, large.jaxpr.eqns, strict=True)):
        if index in needed:
            walk.add(*pair)
    if walk.refusals:
        raise InputError(f"cannot be written as ONNX: {', '.join(sorted(walk.refusals))}")
    logits = walk.read(small.jaxpr.outvars[0], large.jaxpr.outvars[0])
    if isinstance(logits, Known) or logits.dtype != np.float32:
        raise InputError("the logits are not float32 numbers that depend on the images")
    return logits


def _trace_layers(network: Network, params: Params, batch: int) -> Any:
    """Traces the model, with a `_LAYER` equation in place of each mapped operation."""

    def layer(index: int, product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
        def compute(x: jax.Array, weight: jax.Array) -> jax.Array:
            return product.fold(product.multiply(x, product.to_matrix(weight)))

        shape = jax.eval_shape(compute, x, weight).shape
        return _LAYER.bind(x, index=index, product=product, shape=shape)

    x = jax.ShapeDtypeStruct((batch, *network.example.shape[1:]), network.example.dtype)
    visit = build_visit(network, layer)
    return jax.make_jaxpr(lambda x: trace(network.apply_fn, params, x, visit))(x)


def _find_needed(jaxpr: Any) -> set[int]:
    """Returns the indices of the equations that the jaxpr's results depend on."""
    variables = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    needed = set()
    for index, eqn in reversed(list(enumerate(jaxpr.eqns))):
        if variables.isdisjoint(eqn.outvars):
            continue
        needed.add(index)
        variables.update(atom for atom in eqn.invars if not isinstance(atom, core.Literal))
    return needed


class _Walk:
    """Adds a jaxpr to a graph, equation by equation, and collects refusals."""

    def __init__(self, graph: Graph, network: Network, compressed: Compressed) -> None:
        self.graph, self.network, self.compressed = graph, network, compressed
        self.values: dict[Any, Value] = {}
        self.refusals: set[str] = set()  # operations that cannot be written

    def bind(self, variables: Iterable[Any], values: Iterable[Value]) -> None:
        """Sets the values of a jaxpr's variables."""
        self.values.update(zip(variables, values, strict=True))

    def read(self, small: Any, large: Any) -> Value:
        """Returns the value of a variable or literal, given as traced with each of `BATCHES`."""
        if isinstance(small, core.Literal):
            aval: Any = small.aval
            return Known(*(np.asarray(atom.val, aval.dtype) for atom in (small, large)))
        return self.values[small]

    def add(self, small: Any, large: Any) -> None:
        """Adds one equation, given as traced with each of `BATCHES`."""
        values = [self.read(*pair) for pair in zip(small.invars, large.invars, strict=True)]
        if all(isinstance(value, Known) for value in values):
            eqns: Any = enumerate((small, large))
            results = [_evaluate(eqn, [value[k] for value in values]) for k, eqn in eqns]
            return self.bind(small.outvars, [Known(*pair) for pair in zip(*results, strict=True)])
        pairs = zip(small.outvars, large.outvars, strict=True)
        shapes = [Shape(a.aval.shape, b.aval.shape) for a, b in pairs]
        call = Call(small.params, values, shapes, [atom.aval.dtype for atom in small.outvars])
        try:
            return self.bind(small.outvars, self._translate(small.primitive.name, call))
        except UnsupportedError as error:
            self.refusals.add(str(error))
        # The walk goes on with dummies, so that one message names all operations.
        types = zip(call.shapes, call.dtypes, strict=True)
        self.bind(small.outvars, [make_data(INPUT, shape, dtype) for shape, dtype in types])

    def _translate(self, name: str, call: Call) -> list[Value]:
        """Adds the nodes of a primitive's call; returns its results."""
        if name == _LAYER.name:
            index, product = call.params["index"], call.params["product"]
            add = _add_convolution if isinstance(product, Convolution) else _add_dot
            prefix = f"{self.network.layers[index].name}/"
            return [add(self.graph, prefix, self.compressed[index], call)]
        if name not in PRIMITIVES:
            raise UnsupportedError(name)
        for dtype in call.dtypes:
            if str(dtype) not in DTYPES:
                raise UnsupportedError(f"numbers of {dtype}")
        results = PRIMITIVES[name](self.graph, call)
        return results if isinstance(results, list) else [results]


def _evaluate(eqn: Any, arguments: Iterable[Any]) -> list[Any]:
    results = eqn.primitive.bind(*map(jax.numpy.asarray, arguments), **eqn.params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _add_convolution(graph: Graph, prefix: str, layer: CompressedLayer, call: Call) -> Data:
    """Adds a mapped convolution; its window may move over any number of axes."""
    product: Convolution = call.params["product"]
    levels = np.asarray(layer.levels).swapaxes(1, 2)  # γ, C, R
    levels = levels.reshape(-1, levels.shape[2] // int(np.prod(product.kernel)), *product.kernel)
    images = graph.materialise(get_operand(call).transpose(product.lhs_spec))
    images = _add_quantization(graph, prefix, layer, images)
    kernel = _add_weights(graph, prefix, layer, levels, 0)
    window = Window(product.stride, product.padding, product.dilation, product.groups)
    name = add_conv(graph, images, kernel, window, prefix)
    bias = _compute_bias(layer).reshape(-1, *(1 for _ in product.kernel))
    y = make_data(_add_bias(graph, prefix, name, bias), call.shapes[0].take(product.out_spec))
    return y.transpose(invert(product.out_spec))


def _add_dot(graph: Graph, prefix: str, layer: CompressedLayer, call: Call) -> Data:
    """Adds a mapped matrix product; several groups are one batched product."""
    product: Dot = call.params["product"]
    groups, rows, columns = layer.levels.shape
    batch, free, contract = product.batch, product.free, product.contract
    x, axes = get_operand(call), [free, contract]
    if batch:
        axes = [batch, *axes]
    x = graph.reshape(x.transpose((*batch, *free, *contract)), x.shape.merge(*axes))
    data = _add_quantization(graph, prefix, layer, graph.materialise(x))
    levels, bias = np.asarray(layer.levels), _compute_bias(layer)[:, None]
    if not batch:
        weights = _add_weights(graph, prefix, layer, levels[0], 1)
        name, bias = graph.add_node("Gemm", data, weights, prefix=prefix), bias[0, 0]
    else:  # groups and columns share an axis at first, because DequantizeLinear's scales lie on one
        stacked = levels.swapaxes(1, 2).reshape(groups * columns, rows)
        weights = _add_weights(graph, prefix, layer, stacked, 0)
        weights = graph.add_node("Reshape", weights, graph.add_ints((groups, columns, rows)))
        weights = graph.add_node("Transpose", weights, perm=[0, 2, 1])
        name = graph.add_node("MatMul", data, weights, prefix=prefix)
    name = _add_bias(graph, prefix, name, bias)
    y = make_data(name, Shape(*((*dims[:-1], columns) for dims in x.shape)))
    if product.weight_first:
        *leading, i, j = range(len(y.order))
        y = y.transpose((*leading, j, i))
    return graph.reshape(y, call.shapes[0])


def _add_bias(graph: Graph, prefix: str, tensor: str, bias: np.ndarray) -> str:
    return graph.add_node("Add", tensor, graph.add_constant(bias, f"{prefix}bias"), prefix=prefix)


def _add_quantization(graph: Graph, prefix: str, layer: CompressedLayer, tensor: str) -> str:
    """Adds input_scale (u - zero) with u = clip(round(x / input_scale) + zero, 0, 2^a - 1).

    QuantizeLinear rounds halves to even and clips to 255. A second clip to 2^a - 1 gives the same
    levels as one clip to 2^a - 1 does.
    """
    scale = graph.add_constant(np.float32(layer.input_scale), f"{prefix}input_scale")
    zero = graph.add_constant(np.uint8(layer.input_zero), f"{prefix}input_zero")
    levels = graph.add_node("QuantizeLinear", tensor, scale, zero, prefix=prefix)
    bits = int(layer.input_bits)
    if bits < 8:
        bounds = (graph.add_constant(np.uint8(level)) for level in (0, 2**bits - 1))
        levels = graph.add_node("Clip", levels, *bounds, prefix=prefix)
    return graph.add_node("DequantizeLinear", levels, scale, zero, prefix=prefix)


def _add_weights(
    graph: Graph, prefix: str, layer: CompressedLayer, levels: np.ndarray, axis: int
) -> str:
    """Adds multiplier / input_scale times levels, whose output channels lie along `axis`."""
    scale = np.asarray(layer.multiplier, np.float64) / np.float64(layer.input_scale)
    return graph.add_node(
        "DequantizeLinear",
        graph.add_constant(levels, f"{prefix}levels"),
        graph.add_constant(scale.reshape(-1).astype(np.float32), f"{prefix}weight_scale"),
        prefix=prefix,
        axis=axis,
    )


def _compute_bias(layer: CompressedLayer) -> np.ndarray:
    """Returns offset + multiplier zero Σ levels, [γ, C]."""
    sums = np.asarray(layer.levels, np.float64).sum(axis=1)
    multiplier, offset = (np.asarray(x, np.float64) for x in (layer.multiplier, layer.offset))
    return (offset + multiplier * float(layer.input_zero) * sums).astype(np.float32)
