"""Heights and widths of layers, which other tools' files need and a `Layer` does not hold."""

import math
from typing import Any, NamedTuple

import jax

from apq_jax.network import products
from apq_jax.network.capture import Network, forward
from apq_jax.network.jaxpr import Params
from apq_jax.system.errors import InputError
from apq_jax.types import Layer


class Size(NamedTuple):
    """A layer's input and output for one example, in pixels.

    A matrix product of P positions has P x 1 pixels on both sides.
    """

    height: int  # of the input, without padding
    width: int
    out_height: int  # other tools' P
    out_width: int  # other tools' Q


Sizes = tuple[Size, ...]


class Workload(NamedTuple):
    """A network's layers and a policy for them; [L] each."""

    name: str  # of the network
    layers: tuple[Layer, ...]
    sizes: Sizes
    keep: tuple[float, ...]  # ratio of weights kept, in (0, 1]
    weight_bits: tuple[int, ...]
    input_bits: tuple[int, ...]  # of unsigned inputs


def assume_sizes(layers: tuple[Layer, ...]) -> Sizes:
    """Returns sizes, [L], for square images padded to `stride` times the output.

    The assumption holds for VGG and for ResNet on CIFAR, but not for windows without padding.
    `trace_sizes` needs no assumption, but the network itself.

    Raises:
      InputError: a convolution's positions are no square, or its window is not over two axes.
    """
    sizes = []
    for layer in layers:
        if not layer.kernel:
            sizes.append(Size(layer.positions, 1, layer.positions, 1))
            continue
        down, across = _require_two(layer, layer.stride)
        side = math.isqrt(layer.positions)
        if side**2 != layer.positions:
            raise InputError(
                f"{layer.name}: {layer.positions} positions are no square; allowed: a square, or "
                "sizes of the network itself (trace_sizes)"
            )
        sizes.append(Size(side * down, side * across, side, side))
    return tuple(sizes)


def trace_sizes(network: Network, params: Params) -> Sizes:
    """Returns the sizes with which the network runs, [L]; computes only shapes.

    Args:
      network: from `capture`.
      params: the network's parameters, or their shapes and dtypes.

    Raises:
      InputError: a layer is used more than once with different sizes, dilated, or neither a matrix
        product nor a convolution over two axes.
    """
    sizes: dict[int, Size] = {}

    def note(index: int, product: products.Product, x: jax.Array, weight: jax.Array) -> jax.Array:
        layer = network.layers[index]
        size = _find_size(layer, product, x)
        if sizes.setdefault(index, size) != size:
            raise InputError(f"{layer.name}: used with different sizes; allowed: one")
        return product.fold(product.multiply(x, product.to_matrix(weight)))

    def run(params: Params, x: jax.Array) -> jax.Array:
        return forward(network, params, x, note)

    jax.eval_shape(run, params, network.example)
    return tuple(sizes[index] for index in range(len(network.layers)))


def _find_size(layer: Layer, product: Any, x: jax.Array) -> Size:
    if not isinstance(product, products.Convolution):
        return Size(layer.positions, 1, layer.positions, 1)
    _require_two(layer, layer.kernel)
    if set(product.dilation) != {1}:
        raise InputError(f"{layer.name}: dilation {product.dilation}; allowed: 1")
    height, width = (x.shape[axis] for axis in product.lhs_spec[2:])
    out_height, out_width = (product.out_shape[axis] for axis in product.out_spec[2:])
    if layer.positions != out_height * out_width:
        raise InputError(f"{layer.name}: used more than once; allowed: once")
    return Size(height, width, out_height, out_width)


def get_window(layer: Layer) -> tuple[int, int]:
    """Returns the window's height and width; (1, 1) for a matrix product.

    Raises:
      InputError: the convolution is not over two axes.
    """
    return _require_two(layer, layer.kernel) if layer.kernel else (1, 1)


def get_strides(layer: Layer) -> tuple[int, int]:
    """Returns the window's steps down and across; (1, 1) for a matrix product.

    Raises:
      InputError: the convolution is not over two axes.
    """
    return _require_two(layer, layer.stride) if layer.kernel else (1, 1)


def count_channels(layer: Layer) -> int:
    """Returns the input channels of one group, C."""
    return layer.rows // math.prod(layer.kernel)


def find_pooled(layers: tuple[Layer, ...], sizes: Sizes) -> tuple[bool, ...]:
    """Returns whether a pooling follows each layer, [L]; none follows the last.

    A pooling follows where the next layer takes in fewer pixels than the layer puts out. The
    pixels that a classifier takes in are its rows over the layer's output channels.
    """
    pooled = []
    for index, after in enumerate(layers[1:]):
        outputs, next_size = layers[index].groups * layers[index].columns, sizes[index + 1]
        pixels = next_size.height * next_size.width
        if not after.kernel and after.positions == 1:
            pixels = after.groups * after.rows // outputs
        pooled.append(0 < pixels < sizes[index].out_height * sizes[index].out_width)
    return (*pooled, False)


def _require_two(layer: Layer, lengths: tuple[int, ...]) -> tuple[int, int]:
    """Returns the lengths along both axes of a window."""
    if len(lengths) != 2:
        raise InputError(f"{layer.name}: a window over {len(lengths)} axes; allowed: two")
    return lengths[0], lengths[1]
