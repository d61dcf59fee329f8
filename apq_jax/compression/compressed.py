"""The masked, quantized, integer forward pass of a policy's network."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from apq_jax.compression import converters, quantization
from apq_jax.compression.calibration import LayerStatistics, Statistics
from apq_jax.compression.converters import Cells, Reading
from apq_jax.compression.options import Recovery
from apq_jax.compression.plan import Plan, weight_masks
from apq_jax.network import products
from apq_jax.network.capture import Network, Replacement, forward
from apq_jax.network.jaxpr import Params
from apq_jax.types import Policy


class CompressedLayer(NamedTuple):
    """A layer's integers and what turns its accumulators into outputs.

    y = multiplier * Σ_r u_r levels_rc + offset, u unsigned input levels. The weight of `levels`
    is `weight_scale * levels`; the multiplier holds it, the input scale and the moment-matching
    scale; the offset holds the input's zero and the moment-matching shift. Where the converters
    lose something, the accumulators are of the sums that they have rounded.
    """

    levels: jax.Array  # [γ, R, C] int8
    weight_scale: jax.Array  # [γ, C] float32
    input_scale: jax.Array  # [] float32
    input_zero: jax.Array  # [] float32, whole
    input_bits: jax.Array  # [] int32
    multiplier: jax.Array  # [γ, C] float32, fixed point
    offset: jax.Array  # [γ, C] float32, fixed point
    reading: Reading | None = None  # None: lossless converters


Compressed = tuple[CompressedLayer, ...]


def quantize(
    plan: Plan, statistics: Statistics, cells: Cells, policy: Policy, scale_bits: int = 16
) -> Compressed:
    """A policy's integer network, before its moments are matched: a gather, then rounding."""
    lossy = policy.adc_bits is not None or cells.resolution < cells.lossless_bits
    layers = []
    masks = weight_masks(plan, policy)
    for index, (layer, seen, mask) in enumerate(zip(plan, statistics, masks, strict=True)):
        level, bits = policy.level[index], policy.weight_bits[index]
        input_bits = policy.input_bits[index]
        w = layer.weights[level]
        weight_scale = layer.scale[level, bits - 1]
        levels = quantization.quantize_weight(w, mask, weight_scale, bits)
        scale, zero = seen.input_scale[input_bits - 1], seen.input_zero[input_bits - 1]
        multiplier = quantization.fixed_point(scale * weight_scale, scale_bits)
        offset = quantization.fixed_point(-multiplier * zero * levels.sum(axis=1), scale_bits)
        reading = None
        if lossy:
            adc_bits = cells.resolution if policy.adc_bits is None else policy.adc_bits[index]
            reading = Reading(cells, layer.mask[level], bits, jnp.asarray(adc_bits))
        levels = levels.astype(jnp.int8)
        scales = weight_scale, scale, zero, input_bits, multiplier, offset
        layers.append(CompressedLayer(levels, *scales, reading))
    return tuple(layers)


def accumulate(layer: CompressedLayer, product: products.Product, x: jax.Array) -> jax.Array:
    """Σ_r u_r levels_rc, exact but for what the converters lose: [γ, M, C] int32.

    Inputs are held as u - 128 in int8, the fastest exact matrix product on the backends we know;
    128 Σ_r levels is added back.
    """

    def levels(x: jax.Array) -> jax.Array:
        u = quantization.quantize_input(x, layer.input_scale, layer.input_zero, layer.input_bits)
        return (u - 128).astype(jnp.int8)

    def apart(x: jax.Array) -> jax.Array:
        # Always taken: no fusion crosses a branch. XLA's CPU backend would round anew for every
        # window that a value is in.
        return lax.cond(layer.input_bits > 0, levels, lambda x: jnp.zeros(x.shape, jnp.int8), x)

    has_windows = bool(product.kernel)
    held = lax.platform_dependent(x, cpu=apart, default=levels) if has_windows else levels(x)
    pad = (layer.input_zero - 128).astype(jnp.int8)
    back = 128 * layer.levels.astype(jnp.int32).sum(axis=1, keepdims=True)
    if layer.reading is None:
        return product.multiply(held, layer.levels, pad) + back
    rows = product.unfold(held, pad)
    sums = products.matmul(rows, layer.levels) + back
    inputs = rows.astype(jnp.int32) + 128
    return sums + converters.lost(layer.reading, layer.levels, inputs, layer.input_bits)


def apply(network: Network, params: Params, compressed: Compressed, x: jax.Array) -> jax.Array:
    """Logits [B, classes] of the compressed network for x [B, ...]."""
    return forward(network, params, x, applying(dict(enumerate(compressed))))


def applying(layers: Mapping[int, CompressedLayer]) -> Replacement:
    """Computes with the integers of these layers, by index."""

    def replace(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        del weight
        return product.fold(scaled(layers[index], accumulate(layers[index], product, x)))

    return replace


def scaled(layer: CompressedLayer, sums: jax.Array) -> jax.Array:
    return layer.multiplier[:, None] * sums.astype(jnp.float32) + layer.offset[:, None]


def match_moments(
    network: Network,
    params: Params,
    compressed: Compressed,
    statistics: Statistics,
    images: jax.Array,
    recovery: Recovery,
) -> Compressed:
    """Gives each output channel of every layer the float layer's mean and deviation.

    Layers are matched in the order in which they run, each on the outputs of those already
    matched. A channel that is constant takes multiplier 0 and the float mean.

    Args:
      network, params: the model.
      compressed: from `quantize`.
      statistics: from `calibrate`.
      images: training images, [B, ...].
      recovery: static.
    """
    matched = dict(enumerate(compressed))
    forward(network, params, images, matching(matched, statistics, recovery))
    return tuple(matched[index] for index in range(len(matched)))


def matching(
    layers: dict[int, CompressedLayer], statistics: Statistics, recovery: Recovery
) -> Replacement:
    """Computes as `applying`, and matches each layer in its place the first time that it runs."""
    done: set[int] = set()

    def replace(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        del weight
        sums = accumulate(layers[index], product, x)
        if index not in done:
            done.add(index)
            layers[index] = _matched(layers[index], sums, statistics[index], recovery)
        return product.fold(scaled(layers[index], sums))

    return replace


def _matched(
    layer: CompressedLayer, sums: jax.Array, seen: LayerStatistics, recovery: Recovery
) -> CompressedLayer:
    values = sums.astype(jnp.float32)
    mean, deviation = values.mean(axis=1), values.std(axis=1)
    plain = layer.input_scale * layer.weight_scale
    target = seen.output_deviation
    alive = (target > 0) & (deviation * plain > 1e-6 * target)
    ratio = target / jnp.where(alive, deviation * plain, 1.0)
    ratio = jnp.clip(ratio, 1 / recovery.max_scale, recovery.max_scale)
    multiplier = jnp.where(alive, plain * ratio, 0.0)
    multiplier = quantization.fixed_point(multiplier, recovery.scale_bits)
    offset = quantization.fixed_point(seen.output_mean - multiplier * mean, recovery.scale_bits)
    return layer._replace(multiplier=multiplier, offset=offset)


def compress(
    network: Network,
    params: Params,
    plan: Plan,
    statistics: Statistics,
    images: jax.Array,
    cells: Cells,
    recovery: Recovery,
    policy: Policy,
) -> Compressed:
    """A policy's network, moments matched on training `images` where `recovery` says so."""
    compressed = quantize(plan, statistics, cells, policy, recovery.scale_bits)
    if not recovery.match_moments:
        return compressed
    return match_moments(network, params, compressed, statistics, images, recovery)
