"""Compresses a network to a policy, and runs the result: masked, quantized, in integers."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from apq_jax.compression import rounding
from apq_jax.compression.calibration import LayerStatistics, Statistics
from apq_jax.compression.converters import Cells, Reading, compute_conversion_errors
from apq_jax.compression.options import Recovery
from apq_jax.compression.plan import Plan, expand_weight_masks
from apq_jax.compression.quantization import quantize_input, quantize_weight, round_to_fixed_point
from apq_jax.network.capture import Network, Replacement, forward
from apq_jax.network.dot import matmul
from apq_jax.network.jaxpr import Params
from apq_jax.network.products import Product
from apq_jax.types import Policy


class CompressedLayer(NamedTuple):
    """A layer's integer weights, and the scales that turn its accumulators into outputs.

    y = multiplier * Σ_r u_r levels_rc + offset, where u are unsigned input levels. A weight is
    `weight_scale * levels`. The multiplier holds the weight scale, the input scale and the
    moment-matching scale; the offset holds the input's zero point and the moment-matching shift.
    Lossy converters round the sums before they are accumulated.
    """

    levels: jax.Array  # [γ, R, C] int8
    weight_scale: jax.Array  # [γ, C] float32
    input_scale: jax.Array  # [] float32
    input_zero: jax.Array  # [] float32, a whole number
    input_bits: jax.Array  # [] int32
    multiplier: jax.Array  # [γ, C] float32, fixed point
    offset: jax.Array  # [γ, C] float32, fixed point
    reading: Reading | None = None  # None: lossless converters


Compressed = tuple[CompressedLayer, ...]
Result = TypeVar("Result")


def quantize(
    plan: Plan, statistics: Statistics, cells: Cells, policy: Policy, scale_bits: int = 16
) -> Compressed:
    """Gathers a policy's weights from the Plan and rounds them; moments are not matched yet.

    Layers get a `reading` if the policy has ADC bits, or if the cells' converters are lossy.

    Args:
      plan, statistics: of all layers, or of the same part of them.
      cells: static.
      policy: [L] fields, for as many layers.
      scale_bits: of the fixed-point multipliers and offsets.
    """
    lossy = policy.adc_bits is not None or cells.resolution < cells.lossless_bits
    layers = []
    masks = expand_weight_masks(plan, policy)
    for index, (layer, measured, mask) in enumerate(zip(plan, statistics, masks, strict=True)):
        level, bits = policy.level[index], policy.weight_bits[index]
        input_bits = policy.input_bits[index]
        w = layer.weights[level]
        weight_scale = layer.scale[level, bits - 1]
        nearest = quantize_weight(w, mask, weight_scale, bits)
        few = layer.levels[level, jnp.minimum(bits, rounding.MAX_BITS) - 1]
        levels = jnp.where(bits <= rounding.MAX_BITS, few.astype(nearest.dtype), nearest)
        scale, zero = measured.input_scale[input_bits - 1], measured.input_zero[input_bits - 1]
        multiplier = round_to_fixed_point(scale * weight_scale, scale_bits)
        offset = round_to_fixed_point(-multiplier * zero * levels.sum(axis=1), scale_bits)
        reading = None
        if lossy:
            adc_bits = cells.resolution if policy.adc_bits is None else policy.adc_bits[index]
            reading = Reading(cells, layer.mask[level], bits, jnp.asarray(adc_bits))
        levels = levels.astype(jnp.int8)
        scales = weight_scale, scale, zero, input_bits, multiplier, offset
        # XLA would otherwise compute them anew for every output.
        scales = lax.optimization_barrier(scales)
        layers.append(CompressedLayer(levels, *scales)._replace(reading=reading))
    return tuple(layers)


def accumulate(layer: CompressedLayer, product: Product, x: jax.Array) -> jax.Array:
    """Computes Σ_r u_r levels_rc, exact except for lossy converters: [γ, M, C] int32.

    `x` is the float input, in the operation's own layout. Its levels are held as u - 128 in int8,
    because int8 has the fastest exact matrix product on the known backends; 128 Σ_r levels is added
    back.
    """

    def to_int8(x: jax.Array) -> jax.Array:
        u = quantize_input(x, layer.input_scale, layer.input_zero, layer.input_bits)
        return (u - 128).astype(jnp.int8)

    def isolate(x: jax.Array) -> jax.Array:
        # This branch is always taken. It only stops XLA's CPU backend from fusing the rounding
        # into the window extraction, which would repeat it once per window.
        return lax.cond(layer.input_bits > 0, to_int8, lambda x: jnp.zeros(x.shape, jnp.int8), x)

    held = lax.platform_dependent(x, cpu=isolate, default=to_int8) if product.kernel else to_int8(x)
    pad = (layer.input_zero - 128).astype(jnp.int8)
    shift = 128 * layer.levels.astype(jnp.int32).sum(axis=1, keepdims=True)
    if layer.reading is None:
        return product.multiply(held, layer.levels, pad) + shift
    rows = product.unfold(held, pad)
    sums = matmul(rows, layer.levels) + shift
    inputs = rows.astype(jnp.int32) + 128
    return sums + compute_conversion_errors(layer.reading, layer.levels, inputs, layer.input_bits)


def apply(network: Network, params: Params, compressed: Compressed, x: jax.Array) -> jax.Array:
    """Returns the logits [B, classes] of a compressed network for x [B, ...]."""
    return forward(network, params, x, build_replacement(dict(enumerate(compressed))))


def build_replacement(layers: Mapping[int, CompressedLayer]) -> Replacement:
    """Builds the replacement that runs each layer, found by its index, with its integers."""

    def replace(index: int, product: Product, x: jax.Array, _: jax.Array) -> jax.Array:
        return product.fold(rescale(layers[index], accumulate(layers[index], product, x)))

    return replace


def rescale(layer: CompressedLayer, sums: jax.Array) -> jax.Array:
    """Turns accumulators [γ, M, C] into outputs, float32."""
    return layer.multiplier[:, None] * sums.astype(jnp.float32) + layer.offset[:, None]


def match_moments(
    run: Callable[[Replacement], Result],
    layers: Mapping[int, CompressedLayer],
    statistics: Statistics,
    recovery: Recovery,
) -> tuple[Result, dict[int, CompressedLayer]]:
    """Gives each output channel of the layers the float layer's mean and deviation.

    Layers are matched in the order in which they run, each on the outputs of the layers matched
    before it. A constant channel takes multiplier 0 and the float mean.

    A layer with several uses has one multiplier and offset, from the outputs of all uses, which it
    first runs unmatched because its first uses come before its last ones are known. Matching it
    again on the outputs of the matched layer costs accuracy: a recurrent cell drifts with each
    round.

    Args:
      run: runs the training images through the layers with a given replacement.
      layers: from `quantize`, by index.
      statistics: from `calibrate`, of all layers of the network.
      recovery: static.

    Returns:
      What `run` returned last, and the matched layers by index.
    """

    def match(
        settled: dict[int, CompressedLayer],
    ) -> tuple[Result, dict[int, CompressedLayer], dict[int, CompressedLayer]]:
        """Matches all layers but the settled ones, and anew the layers with several uses."""
        matched, uses = {**layers, **settled}, dict[int, list[jax.Array]]()

        def fit(index: int) -> CompressedLayer:
            sums = jnp.concatenate(uses[index], axis=1)
            return _match_layer(layers[index], sums, statistics[index], recovery)

        def replace(index: int, product: Product, x: jax.Array, _: jax.Array) -> jax.Array:
            sums = accumulate(matched[index], product, x)
            uses.setdefault(index, []).append(sums)
            if index not in settled:
                matched[index] = fit(index)
            return product.fold(rescale(matched[index], sums))

        result = run(replace)
        return result, matched, {index: fit(index) for index in uses if len(uses[index]) > 1}

    result, matched, shared = match({})
    if shared:
        _, _, shared = match({index: layers[index] for index in shared})
        result, matched, _ = match(shared)
    return result, matched


def _match_layer(
    layer: CompressedLayer, sums: jax.Array, measured: LayerStatistics, recovery: Recovery
) -> CompressedLayer:
    """Sets multiplier and offset so that the outputs have the float layer's moments."""
    values = sums.astype(jnp.float32)
    mean, deviation = values.mean(axis=1), values.std(axis=1)
    scale = layer.input_scale * layer.weight_scale
    target = measured.output_deviation
    alive = (target > 0) & (deviation * scale > 1e-6 * target)
    ratio = target / jnp.where(alive, deviation * scale, 1.0)
    ratio = jnp.clip(ratio, 1 / recovery.max_scale, recovery.max_scale)
    multiplier = jnp.where(alive, scale * ratio, 0.0)
    multiplier = round_to_fixed_point(multiplier, recovery.scale_bits)
    offset = round_to_fixed_point(measured.output_mean - multiplier * mean, recovery.scale_bits)
    # XLA would otherwise compute them anew for every output.
    multiplier, offset = lax.optimization_barrier((multiplier, offset))
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
    """Compresses a network to a policy.

    Args:
      network, params: the model.
      plan, statistics: of all layers.
      images: training images [B, ...] on which moments are matched, if `recovery.match_moments`.
      cells, recovery: static.
      policy: [L] fields.
    """
    compressed = quantize(plan, statistics, cells, policy, recovery.scale_bits)
    if not recovery.match_moments:
        return compressed
    _, matched = match_moments(
        functools.partial(forward, network, params, images),
        dict(enumerate(compressed)),
        statistics,
        recovery,
    )
    return tuple(matched[index] for index in range(len(compressed)))
