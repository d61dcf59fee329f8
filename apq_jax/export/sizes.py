"""Heights and widths of layers, which other tools' files need, but a `Layer` does not hold."""

import math
from typing import Any, NamedTuple

import jax

from apq_jax.network.capture import Network, forward
from apq_jax.network.convolution import Convolution
from apq_jax.network.jaxpr import Params
from apq_jax.network.products import Product
from apq_jax.system.errors import InputError
from apq_jax.types import Layer


class Size(NamedTuple):
    """Height and width of a layer's input and output for one image, in pixels.

    A matrix product of P positions takes in P x 1 pixels and puts out P x 1 pixels.
    """

    height: int  # of the input, without padding
    width: int
    out_height: int  # other tools' P
    out_width: int  # other tools' Q


Sizes = tuple[Size, ...]


class Workload(NamedTuple):
    """A network's L layers and a policy for them; each tuple has L entries."""

    name: str  # of the network
    layers: tuple[Layer, ...]
    sizes: Sizes
    keep: tuple[float, ...]  # fraction of the weights that is kept, in (0, 1]
    weight_bits: tuple[int, ...]
    input_bits: tuple[int, ...]  # inputs are unsigned


def assume_sizes(layers: tuple[Layer, ...]) -> Sizes:
    """Returns sizes for square images: each input is `stride` times as long as its output, [L].

    This is right for VGG and for ResNet on CIFAR, but wrong for windows without padding.
    `trace_sizes` assumes nothing, but needs the network itself.

    Raises:
      InputError: a convolution's positions are no square, or its window is not over two axes.
    """
    sizes = []
    for layer in layers:
        if not layer.kernel:
            sizes.append(Size(layer.positions, 1, layer.positions, 1))
            continue
        _, _, down, across = get_window(layer)
        side = math.isqrt(layer.positions)
        if side**2 != layer.positions:
            raise InputError(
                f"{layer.name}: {layer.positions} positions are no square; allowed: a square, or "
                "sizes of the network itself (trace_sizes)"
            )
        sizes.append(Size(side * down, side * across, side, side))
    return tuple(sizes)


def trace_sizes(network: Network, params: Params) -> Sizes:
    """Returns the sizes that the layers have when the network runs, [L]; computes only shapes.

    Args:
      network: from `capture`.
      params: the network's parameters, or their shapes and dtypes.

    Raises:
      InputError: a convolution is not over two axes, is dilated, or is used more than once.
    """
    sizes: dict[int, Size] = {}

    def note(index: int, product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
        sizes[index] = _find_size(network.layers[index], product, x)
        return product.fold(product.multiply(x, product.to_matrix(weight)))

    jax.eval_shape(lambda params, x: forward(network, params, x, note), params, network.example)
    return tuple(sizes[index] for index in range(len(network.layers)))


def _find_size(layer: Layer, product: Any, x: jax.Array) -> Size:
    if not isinstance(product, Convolution):
        return Size(layer.positions, 1, layer.positions, 1)
    get_window(layer)  # refuses other than two axes
    if set(product.dilation) != {1}:
        raise InputError(f"{layer.name}: dilation {product.dilation}; allowed: 1")
    height, width = (x.shape[axis] for axis in product.lhs_spec[2:])
    out_height, out_width = (product.out_shape[axis] for axis in product.out_spec[2:])
    if layer.positions != out_height * out_width:
        raise InputError(f"{layer.name}: used more than once; allowed: once")
    return Size(height, width, out_height, out_width)


def get_window(layer: Layer) -> tuple[int, int, int, int]:
    """Returns the window's height, width, step down and step across; ones for a matrix product.

    Raises:
      InputError: the convolution is not over two axes.
    """
    if not layer.kernel:
        return 1, 1, 1, 1
    if len(layer.kernel) != 2:
        raise InputError(f"{layer.name}: a window over {len(layer.kernel)} axes; allowed: two")
    (high, wide), (down, across) = layer.kernel, layer.stride
    return high, wide, down, across


def count_channels(layer: Layer) -> int:
    """Counts the input channels that one group of a layer reads, C."""
    return layer.rows // math.prod(layer.kernel)


def find_pooled(layers: tuple[Layer, ...], sizes: Sizes) -> tuple[bool, ...]:
    """Tells for each layer whether a pooling follows it, [L]; none follows the last.

    A pooling follows a layer if the next layer takes in fewer pixels than the layer puts out. A
    classifier takes in as many pixels as it has rows for each output channel of the layer before.
    """
    pooled = []
    for index, after in enumerate(layers[1:]):
        outputs, next_size = layers[index].groups * layers[index].columns, sizes[index + 1]
        pixels = next_size.height * next_size.width
        if not after.kernel and after.positions == 1:
            pixels = after.groups * after.rows // outputs
        pooled.append(0 < pixels < sizes[index].out_height * sizes[index].out_width)
    return (*pooled, False)
