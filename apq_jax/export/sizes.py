"""Heights and widths of layers, which a `Layer` does not hold: other tools' files need them."""

import math
from typing import Any, NamedTuple

import jax

from apq_jax.network import products
from apq_jax.network.capture import Network, forward
from apq_jax.network.jaxpr import Params
from apq_jax.system.errors import InputError
from apq_jax.types import Layer


class Size(NamedTuple):
    """Of one example; all whole numbers. A matrix product of P positions is P x 1, its window 1."""

    height: int  # of the input, without padding
    width: int
    out_height: int  # P of other tools
    out_width: int  # Q


Sizes = tuple[Size, ...]


def same_sizes(layers: tuple[Layer, ...]) -> Sizes:
    """Sizes by assumption, [L]: squares, padded so that the input is `stride` times the output.

    This holds for VGG and for ResNet on CIFAR, not for windows without padding: where the network
    itself is there, `traced_sizes` assumes nothing.

    Raises:
      InputError: positions of a convolution are no square.
    """
    found = []
    for layer in layers:
        if not layer.kernel:
            found.append(Size(layer.positions, 1, layer.positions, 1))
            continue
        high, wide = _two(layer, layer.stride)
        side = math.isqrt(layer.positions)
        if side**2 != layer.positions:
            raise InputError(
                f"{layer.name}: {layer.positions} positions are no square; allowed: a square, or "
                "sizes of the network itself (traced_sizes)"
            )
        found.append(Size(side * high, side * wide, side, side))
    return tuple(found)


def traced_sizes(network: Network, params: Params) -> Sizes:
    """Sizes as the network runs, [L]; nothing is computed.

    Args:
      network: from `capture`.
      params: its parameters; shapes and types are looked at.

    Raises:
      InputError: a layer is used more than once with different sizes, dilated, or neither a matrix
        product nor a convolution over two axes.
    """
    found: dict[int, Size] = {}

    def look(index: int, product: products.Product, x: jax.Array, weight: jax.Array) -> jax.Array:
        layer = network.layers[index]
        size = _size(layer, product, x)
        if found.setdefault(index, size) != size:
            raise InputError(f"{layer.name}: used with different sizes; allowed: one")
        return product.fold(product.multiply(x, product.matrix(weight)))

    def run(params: Params, x: jax.Array) -> jax.Array:
        return forward(network, params, x, look)

    jax.eval_shape(run, params, network.example)
    return tuple(found[index] for index in range(len(network.layers)))


def _size(layer: Layer, product: Any, x: jax.Array) -> Size:
    if not isinstance(product, products.Convolution):
        return Size(layer.positions, 1, layer.positions, 1)
    _two(layer, layer.kernel)
    if set(product.dilation) != {1}:
        raise InputError(f"{layer.name}: dilation {product.dilation}; allowed: 1")
    height, width = (x.shape[axis] for axis in product.lhs_spec[2:])
    out_height, out_width = (product.out_shape[axis] for axis in product.out_spec[2:])
    if layer.positions != out_height * out_width:
        raise InputError(f"{layer.name}: used more than once; allowed: once")
    return Size(height, width, out_height, out_width)


def window(layer: Layer) -> tuple[int, int]:
    """Height and width of its window, 1 x 1 of a matrix product.

    Raises:
      InputError: a convolution that is not over two axes.
    """
    return _two(layer, layer.kernel) if layer.kernel else (1, 1)


def strides(layer: Layer) -> tuple[int, int]:
    """Its steps down and across, 1 and 1 of a matrix product; raises as `window`."""
    return _two(layer, layer.stride) if layer.kernel else (1, 1)


def channels(layer: Layer) -> int:
    """Input channels of one group, C."""
    return layer.rows // math.prod(layer.kernel)


def pooled(layers: tuple[Layer, ...], sizes: Sizes) -> tuple[bool, ...]:
    """Whether what a layer puts out is made smaller before the next layer has it, [L].

    Told by the sizes: positions put out against those taken in, of a classifier its rows over the
    channels before it. The last layer is not.
    """
    found = []
    for at, after in enumerate(layers[1:]):
        out, next_in = layers[at].groups * layers[at].columns, sizes[at + 1]
        taken = next_in.height * next_in.width
        if not after.kernel and after.positions == 1:
            taken = after.groups * after.rows // out
        found.append(0 < taken < sizes[at].out_height * sizes[at].out_width)
    return (*found, False)


def _two(layer: Layer, numbers: tuple[int, ...]) -> tuple[int, int]:
    if len(numbers) != 2:
        raise InputError(f"{layer.name}: a window over {len(numbers)} axes; allowed: two")
    return numbers[0], numbers[1]
