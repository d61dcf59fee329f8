"""A compressed network as an ONNX model of opset 17: integers and scales, QDQ.

A mapped layer is what `evaluation.apply` computes, y = multiplier Σ u levels + offset:

    input    QuantizeLinear (uint8), Clip to 2^a - 1 where a < 8, DequantizeLinear
    weight   DequantizeLinear of the integer levels, an output channel at a time
    product  Conv or Gemm of both, in float32, and what is added to it

The input's scale is its own, s; the weight's is multiplier / s, so that the product has the
multiplier, which also holds what matched the output's moments. Since the dequantized input is
s (u - zero), what is added is offset + multiplier zero Σ levels; and what a convolution reads
outside of its input, u = zero, is 0. It is added by an operator of its own: ONNX Runtime rounds a
bias inside of a quantized Conv or Gemm to whole multiples of the scales' product, which this is
not. Everything else is written as the model has it.
"""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from apq_jax.compression.compressed import Compressed, CompressedLayer
from apq_jax.export.onnx_call import DTYPES, Call
from apq_jax.export.onnx_graph import (
    BATCHES,
    INPUT,
    OUTPUT,
    Data,
    Graph,
    Known,
    Sizes,
    UnsupportedError,
    Value,
    wrap_tensor,
)
from apq_jax.export.onnx_primitives import PRIMITIVES
from apq_jax.export.onnx_products import Window, add_conv
from apq_jax.models.onnx.file import INSTALL
from apq_jax.network import products
from apq_jax.network.capture import Network, build_visit
from apq_jax.network.jaxpr import Params, trace
from apq_jax.system.errors import InputError

OPSET, _IR = 17, 8  # of 2022; the newest operator that is used is Shape with a range, of opset 15


# A mapped layer in a jaxpr: what it is replaced by while the model is traced.
_LAYER = core.Primitive("apq_jax_layer")


@_LAYER.def_abstract_eval
def _infer_layer(x: Any, *, index: int, product: products.Product, shape: tuple[int, ...]) -> Any:
    return jax.core.ShapedArray(shape, np.dtype(np.float32))


def export(network: Network, params: Params, compressed: Compressed) -> Any:
    """The compressed network as an onnx.ModelProto of opset 17.

    Its input "images" is the network's, with any batch; its output "logits" is [batch, classes].
    Of a layer, `NAME/levels` are the integers of `compressed`, int8: [C_out, C_in/γ, kernel] of a
    convolution, [R, C] of a matrix product, [γ C, R] of one of several groups.

    Args:
      network, params: the model; parameters that are mapped are not looked at.
      compressed: its integers and scales.

    Raises:
      InputError: the package onnx is missing; converters lose something, which no ONNX operator
        does; or the model uses what cannot be written, all of which is named.
    """
    try:
        import onnx  # optional: only who writes such files needs it
    except ImportError as error:
        raise InputError(f"to write ONNX needs the package onnx: {INSTALL}") from error
    if any(layer.reading is not None for layer in compressed):
        raise InputError(
            "lossy converters: no ONNX operator loses what they do; allowed: a network whose "
            "converters are lossless"
        )
    graph = Graph()
    logits = _add_network(graph, network, params, compressed)
    tensor = graph.node("Identity", graph.plain(logits))
    graph.nodes[-1] = graph.nodes[-1]._replace(outputs=(OUTPUT,))
    assert tensor not in {name for node in graph.nodes for name in node.inputs}
    helper = onnx.helper
    shape = ("batch", *network.example.shape[1:])
    kind = DTYPES[str(network.example.dtype)]
    nodes = (
        helper.make_node(node.op, node.inputs, node.outputs, node.name, **node.attributes)
        for node in graph.nodes
    )
    tensors = (onnx.numpy_helper.from_array(value, name) for name, value in graph.tensors.items())
    body = helper.make_graph(
        list(nodes),
        "apq_jax",
        [helper.make_tensor_value_info(INPUT, kind, shape)],
        [
            helper.make_tensor_value_info(
                OUTPUT, DTYPES["float32"], ("batch", logits.sizes.small[1])
            )
        ],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(body, opset_imports=opsets, ir_version=_IR, producer_name="apq_jax")


def _add_network(graph: Graph, network: Network, params: Params, compressed: Compressed) -> Data:
    """Adds the network's nodes, and gives its logits."""
    small, large = (_trace_layers(network, params, batch) for batch in BATCHES)
    names = [[eqn.primitive.name for eqn in one.jaxpr.eqns] for one in (small, large)]
    if names[0] != names[1]:
        raise InputError("the model's operations depend on the size of the batch; allowed: not so")
    size = Sizes(*((batch, *network.example.shape[1:]) for batch in BATCHES))
    walk = _Walk(graph, network, compressed)
    walk.bind(small.jaxpr.invars, [wrap_tensor(INPUT, size, network.example.dtype)])
    consts = zip(small.consts, large.consts, strict=True)
    walk.bind(small.jaxpr.constvars, [Known(*pair) for pair in consts])
    needed = _find_needed(small.jaxpr)
    for at, pair in enumerate(zip(small.jaxpr.eqns, large.jaxpr.eqns, strict=True)):
        if at in needed:
            walk.add(*pair)
    if walk.refused:
        raise InputError(f"cannot be written as ONNX: {', '.join(sorted(walk.refused))}")
    logits = walk.read(small.jaxpr.outvars[0], large.jaxpr.outvars[0])
    if isinstance(logits, Known) or logits.dtype != np.float32:
        raise InputError("the logits are not float32 numbers that depend on the images")
    return logits


def _trace_layers(network: Network, params: Params, batch: int) -> Any:
    """The model's jaxpr, with an equation of `_LAYER` for each mapped operation."""

    def layer(index: int, product: products.Product, x: jax.Array, weight: jax.Array) -> jax.Array:
        def multiplied(x: jax.Array, weight: jax.Array) -> jax.Array:
            return product.fold(product.multiply(x, product.matrix(weight)))

        shape = jax.eval_shape(multiplied, x, weight).shape
        return _LAYER.bind(x, index=index, product=product, shape=shape)

    x = jax.ShapeDtypeStruct((batch, *network.example.shape[1:]), network.example.dtype)
    visit = build_visit(network, layer)
    return jax.make_jaxpr(lambda x: trace(network.apply_fn, params, x, visit))(x)


def _find_needed(jaxpr: Any) -> set[int]:
    """The equations that the results are made of."""
    wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    found = set()
    for at in reversed(range(len(jaxpr.eqns))):
        eqn = jaxpr.eqns[at]
        if wanted.isdisjoint(eqn.outvars):
            continue
        found.add(at)
        wanted.update(atom for atom in eqn.invars if not isinstance(atom, core.Literal))
    return found


class _Walk:
    """The values of a jaxpr, equation by equation; what cannot be written is gathered."""

    def __init__(self, graph: Graph, network: Network, compressed: Compressed) -> None:
        self.graph, self.network, self.compressed = graph, network, compressed
        self.values: dict[Any, Value] = {}
        self.refused: set[str] = set()

    def bind(self, variables: Iterable[Any], values: Iterable[Value]) -> None:
        self.values.update(zip(variables, values, strict=True))

    def read(self, small: Any, large: Any) -> Value:
        if isinstance(small, core.Literal):
            aval: Any = small.aval
            return Known(*(np.asarray(atom.val, aval.dtype) for atom in (small, large)))
        return self.values[small]

    def add(self, small: Any, large: Any) -> None:
        """Adds one equation, given as traced with either batch."""
        values = [self.read(*pair) for pair in zip(small.invars, large.invars, strict=True)]
        if all(isinstance(value, Known) for value in values):
            sides: Any = enumerate((small, large))
            found = [_evaluate(eqn, [value[k] for value in values]) for k, eqn in sides]
            return self.bind(small.outvars, [Known(*pair) for pair in zip(*found, strict=True)])
        avals = [one.aval for one in small.outvars]
        sizes = [Sizes(a.shape, b.aval.shape) for a, b in zip(avals, large.outvars, strict=True)]
        call = Call(small.params, values, sizes, [aval.dtype for aval in avals])
        try:
            return self.bind(small.outvars, self._results(small.primitive.name, call))
        except UnsupportedError as error:
            self.refused.add(str(error))
        # Whatever comes after it is looked at, too, so that all is named at once.
        dummies = [wrap_tensor(INPUT, *of) for of in zip(call.sizes, call.dtypes, strict=True)]
        self.bind(small.outvars, dummies)

    def _results(self, name: str, call: Call) -> list[Value]:
        if name == _LAYER.name:
            (x,) = call.values
            layer = self.network.layers[call.params["index"]]
            found = self.compressed[call.params["index"]]
            assert isinstance(x, Data)
            return [_add_layer(self.graph, f"{layer.name}/", found, x, call)]
        if name not in PRIMITIVES:
            raise UnsupportedError(name)
        for dtype in call.dtypes:
            if str(dtype) not in DTYPES:
                raise UnsupportedError(f"numbers of {dtype}")
        return PRIMITIVES[name](self.graph, call)


def _evaluate(eqn: Any, arguments: Iterable[Any]) -> list[Any]:
    results = eqn.primitive.bind(*map(jax.numpy.asarray, arguments), **eqn.params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _add_layer(graph: Graph, prefix: str, layer: CompressedLayer, x: Data, call: Call) -> Data:
    product = call.params["product"]
    if isinstance(product, products.Convolution):
        return _add_convolution(graph, prefix, layer, product, x, call.sizes[0])
    return _add_dot(graph, prefix, layer, product, x, call.sizes[0])


def _add_convolution(
    graph: Graph,
    prefix: str,
    layer: CompressedLayer,
    product: products.Convolution,
    x: Data,
    sizes: Sizes,
) -> Data:
    levels = np.asarray(layer.levels).swapaxes(1, 2)  # γ, C, R
    levels = levels.reshape(-1, levels.shape[2] // int(np.prod(product.kernel)), *product.kernel)
    images = _add_quantization(graph, prefix, layer, graph.plain(x.transposed(product.lhs_spec)))
    kernel = _add_weights(graph, prefix, layer, levels, 0)
    window = Window(product.stride, product.padding, product.dilation, product.groups)
    name = add_conv(graph, images, kernel, window, prefix)
    bias = _compute_bias(layer).reshape(-1, *(1 for _ in product.kernel))
    y = wrap_tensor(_add_bias(graph, prefix, name, bias), sizes.take(product.out_spec))
    return y.transposed(tuple(int(k) for k in np.argsort(product.out_spec)))


def _add_dot(
    graph: Graph,
    prefix: str,
    layer: CompressedLayer,
    product: products.Dot,
    x: Data,
    sizes: Sizes,
) -> Data:
    """A matrix product, of several groups at once where the weight has more axes."""
    groups, rows, columns = layer.levels.shape
    batch, free, contract = product.batch, product.free, product.contract
    x = x.transposed((*batch, *free, *contract))
    axes = tuple(range(len(x.order)))
    parts = axes[: len(batch)], axes[len(batch) : len(batch) + len(free)], axes[-len(contract) :]
    x = graph.reshaped(x, x.sizes.merged(*parts[1 - bool(batch) :]))
    shape = x.sizes
    data = _add_quantization(graph, prefix, layer, graph.plain(x))
    levels, bias = np.asarray(layer.levels), _compute_bias(layer)[:, None]
    if not batch:
        weights = _add_weights(graph, prefix, layer, levels[0], 1)
        name, bias = graph.node("Gemm", data, weights, prefix=prefix), bias[0, 0]
    else:  # scales of DequantizeLinear lie along one axis
        stacked = levels.swapaxes(1, 2).reshape(groups * columns, rows)
        weights = _add_weights(graph, prefix, layer, stacked, 0)
        weights = graph.node("Reshape", weights, graph.ints((groups, columns, rows)))
        weights = graph.node("Transpose", weights, perm=[0, 2, 1])
        name = graph.node("MatMul", data, weights, prefix=prefix)
    name = _add_bias(graph, prefix, name, bias)
    y = wrap_tensor(name, Sizes(*((*of[:-1], columns) for of in shape)))
    if product.weight_first:
        y = y.transposed((*range(len(y.order) - 2), len(y.order) - 1, len(y.order) - 2))
    return graph.reshaped(y, sizes)


def _add_bias(graph: Graph, prefix: str, tensor: str, bias: np.ndarray) -> str:
    return graph.node("Add", tensor, graph.constant(bias, f"{prefix}bias"), prefix=prefix)


def _add_quantization(graph: Graph, prefix: str, layer: CompressedLayer, tensor: str) -> str:
    """input_scale (u - zero), u = clip(round(x / input_scale) + zero, 0, 2^a - 1).

    QuantizeLinear rounds halves to even and clips to 255, so that clipping its levels to fewer is
    the same as clipping to these at once.
    """
    scale = graph.constant(np.float32(layer.input_scale), f"{prefix}input_scale")
    zero = graph.constant(np.uint8(layer.input_zero), f"{prefix}input_zero")
    levels = graph.node("QuantizeLinear", tensor, scale, zero, prefix=prefix)
    bits = int(layer.input_bits)
    if bits < 8:
        most = (graph.constant(np.uint8(value)) for value in (0, 2**bits - 1))
        levels = graph.node("Clip", levels, *most, prefix=prefix)
    return graph.node("DequantizeLinear", levels, scale, zero, prefix=prefix)


def _add_weights(
    graph: Graph, prefix: str, layer: CompressedLayer, levels: np.ndarray, axis: int
) -> str:
    """multiplier / input_scale times levels, whose output channels lie along `axis`."""
    scale = np.asarray(layer.multiplier, np.float64) / np.float64(layer.input_scale)
    return graph.node(
        "DequantizeLinear",
        graph.constant(levels, f"{prefix}levels"),
        graph.constant(scale.reshape(-1).astype(np.float32), f"{prefix}weight_scale"),
        prefix=prefix,
        axis=axis,
    )


def _compute_bias(layer: CompressedLayer) -> np.ndarray:
    """offset + multiplier zero Σ levels, [γ, C]."""
    sums = np.asarray(layer.levels, np.float64).sum(axis=1)
    multiplier, offset = (np.asarray(x, np.float64) for x in (layer.multiplier, layer.offset))
    return (offset + multiplier * float(layer.input_zero) * sums).astype(np.float32)
