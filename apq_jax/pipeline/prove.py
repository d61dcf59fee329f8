"""Maps the chosen policy to crossbars, and proves that they compute the quantized network."""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from apq_jax import crossbar
from apq_jax.compression import converters
from apq_jax.compression.compressed import Compressed
from apq_jax.compression.plan import expand_weight_masks
from apq_jax.data.scoring import compute_accuracy, run_in_chunks
from apq_jax.hardware import adc
from apq_jax.mapping import Mapping, Scales, count_layer_map, datapath, map_layer
from apq_jax.pipeline.prepared import Prepared
from apq_jax.system import pytrees
from apq_jax.types import Policy

_CURVE_IMAGES = 100, 1000  # fewest and most of a point
_CURVE_SUMS = 10**9  # analogue sums of a point, so that it takes seconds, not minutes
IMAGES = 50  # executed at a time, and of the proof, so that the same programs serve both


def map_to_crossbars(prepared: Prepared, policy: Policy, compressed: Compressed) -> Mapping:
    """Packs a policy's compressed network into crossbars, by the configured scheme.

    Args:
      prepared: from `prepare`.
      policy: [L] fields.
      compressed: the policy's integer network.

    Returns:
      The mapping. It also holds the parameters that no crossbar holds, such as biases.
    """
    # The layout of dense matrices does not matter here, because `prepare` refuses the schemes that
    # depend on it with any other layout than isaac.
    accelerator = dataclasses.replace(prepared.accelerator, mapping="isaac")
    scheme = prepared.config.scheme
    packing = "sre" if scheme == "sre_weights" else scheme  # both pack alike; their blocks differ
    masks = expand_weight_masks(prepared.subject.plan, policy)
    maps = []
    for index, (layer, integers, mask) in enumerate(
        zip(prepared.network.layers, compressed, masks, strict=True)
    ):
        bits = int(policy.weight_bits[index]), int(policy.input_bits[index])
        levels = np.asarray(integers.levels, np.int32)
        layer_map = map_layer(layer, levels, np.asarray(mask), *bits, packing, accelerator)
        adc_bits = 0 if policy.adc_bits is None else int(policy.adc_bits[index])
        maps.append(layer_map._replace(adc_bits=adc_bits))
    scales = (Scales(*(np.asarray(getattr(x, n)) for n in Scales._fields)) for x in compressed)
    in_crossbars = {layer.name for layer in prepared.network.layers}
    leaves = pytrees.flatten_leaves(prepared.subject.params).items()
    digital = {name: leaf for name, leaf in leaves if name not in in_crossbars}
    return Mapping(accelerator, packing, tuple(maps), tuple(scales), digital)


class Proof(NamedTuple):
    """The comparison of an executed mapping with the quantized network and the cost model."""

    mismatches: int  # accumulators that differ from the quantized network's
    compared: int  # accumulators
    images: int
    same_class: int  # images to which the executed network gives the quantized one's class
    levels_differ: int  # input levels that differ in that execution, because rounding has ties
    scales_agree: bool  # whether all scales are equal, bit for bit
    counts_agree: bool  # whether crossbars, units, index bits and actions are the cost model's


def prove(
    prepared: Prepared,
    policy: Policy,
    compressed: Compressed,
    mapping: Mapping,
    parts: datapath.Parts,
    images: np.ndarray,
) -> Proof:
    """Executes the mapping, and compares it with the quantized network and the cost model.

    It compares every accumulator of every layer on the images and on random inputs, the classes of
    the images, all scales, and the counts of parts and actions. Differences are in the result; they
    raise nothing.

    Args:
      prepared: from `prepare`.
      policy: [L] fields.
      compressed: the policy's integer network.
      mapping: the policy's crossbars, from `map_to_crossbars`.
      parts: the mapping's data paths, from `datapath.build_parts`.
      images: [N, ...].
    """
    network, params, chip = prepared.network, prepared.subject.params, prepared.accelerator.chip()
    arguments = network, params, compressed, parts, mapping.accelerator, jnp.asarray(images)
    checks, whole = datapath.check_layers(*arguments), datapath.compare_end_to_end(*arguments)
    level, weight_bits, input_bits = (np.asarray(x, np.int64) for x in policy[:3])
    expected = crossbar.look_up_counts(prepared.tables, chip, level, weight_bits)
    actions = crossbar.count_actions(network.layers, expected, chip, input_bits)
    modelled = {**expected._asdict(), **actions}
    counts = (
        count_layer_map(layer_map, mapping.scheme, mapping.accelerator)
        | datapath.count_performed_actions(layer_map, mapping.accelerator)
        for layer_map in mapping.maps
    )
    return Proof(
        sum(check.mismatches for check in checks),
        sum(check.compared for check in checks),
        len(images),
        whole.same_class,
        whole.levels_differ,
        scales_agree=all(
            np.array_equal(value, getattr(layer, name))
            for layer, scales in zip(compressed, mapping.scales, strict=True)
            for name, value in scales._asdict().items()
        ),
        counts_agree=all(
            count == modelled[name][index]
            for index, layer_counts in enumerate(counts)
            for name, count in layer_counts.items()
        ),
    )


class AdcPoint(NamedTuple):
    """A network's accuracy and cost if every converter has `bits` bits."""

    bits: int
    accuracy: float  # of the executed data path, a fraction of 1
    images: int  # on how many it was executed
    energy_nj: float
    area_mm2: float


def measure_adc_curve(
    prepared: Prepared,
    policy: Policy,
    compressed: Compressed,
    parts: datapath.Parts,
    images: np.ndarray,
    labels: np.ndarray,
) -> list[AdcPoint]:
    """Measures accuracy and cost for converters from lossless ones down to one bit.

    All layers have converters of the same bits, whatever the policy's are; the scales stay. The
    curve starts at `adc.MAX_BITS` if lossless converters would need more. The accuracy is of the
    first images only, 100 to 1000 of them, because a point should take seconds.

    Args:
      prepared, policy, compressed, parts: as in `prove`.
      images: [N, ...].
      labels: [N] int.

    Returns:
      A point for each number of bits, the largest first.
    """
    network, params = prepared.network, prepared.subject.params
    sums = sum(
        path.steps * banks.outputs.size * layer.positions
        for (path, banks), layer in zip(parts, network.layers, strict=True)
    )
    count = int(np.clip(_CURVE_SUMS // max(sums, 1), *_CURVE_IMAGES)) // IMAGES * IMAGES
    images, labels = images[:count], labels[:count]
    level, weight_bits, input_bits = (np.asarray(x, np.int64) for x in policy[:3])
    points = []
    for bits in range(min(prepared.accelerator.lossless_adc_bits, adc.MAX_BITS), 0, -1):
        accelerator = dataclasses.replace(prepared.accelerator, adc_bits=bits)
        converter, chip = converters.build_converter(accelerator), accelerator.chip()
        run = functools.partial(datapath.apply, network, params, compressed, parts, converter)
        logits = run_in_chunks(run, images, IMAGES)
        counts = crossbar.look_up_counts(prepared.tables, chip, level, weight_bits)
        cost = crossbar.compute_cost(network.layers, counts, chip, input_bits)
        costs = float(cost.energy_nj), float(cost.area_mm2)
        points.append(AdcPoint(bits, compute_accuracy(logits, labels), len(images), *costs))
    return points
