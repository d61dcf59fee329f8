"""The chosen policy in its crossbars, and the proof that they compute the quantized network."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax import crossbar
from apq_jax.compression import compressed, converters
from apq_jax.compression.plan import weight_masks
from apq_jax.data.scoring import accuracy, run_in_chunks
from apq_jax.hardware import adc
from apq_jax.mapping import Mapping, Scales, count_layer_map, datapath, map_layer
from apq_jax.pipeline.prepared import Prepared
from apq_jax.types import Policy

_CURVE_IMAGES = 100, 1000  # least and most
_CURVE_SUMS = 10**9  # analogue sums to execute a point with: seconds, not minutes


def mapped(prepared: Prepared, policy: Policy, network: compressed.Compressed) -> Mapping:
    """A policy's network in its crossbars, packed by the configured scheme."""
    # The convention of the dense network matters only to schemes that are not searched with it.
    accelerator = dataclasses.replace(prepared.accelerator, mapping="isaac")
    scheme = prepared.config.scheme
    packing = "sre" if scheme == "sre_weights" else scheme  # the same, of other blocks
    masks = weight_masks(prepared.subject.plan, policy)
    maps = []
    for at, (layer, found, mask) in enumerate(
        zip(prepared.network.layers, network, masks, strict=True)
    ):
        bits = int(policy.weight_bits[at]), int(policy.input_bits[at])
        levels = np.asarray(found.levels, np.int32)
        one = map_layer(layer, levels, np.asarray(mask), *bits, packing, accelerator)
        stops = 0 if policy.adc_bits is None else int(policy.adc_bits[at])
        maps.append(one._replace(adc_bits=stops))
    scales = (Scales(*(np.asarray(getattr(x, n)) for n in Scales._fields)) for x in network)
    return Mapping(accelerator, packing, tuple(maps), tuple(scales), _digital(prepared))


def _digital(prepared: Prepared) -> dict[str, np.ndarray]:
    """Parameters that no crossbar holds, by name."""
    names = {layer.name for layer in prepared.network.layers}
    leaves = jax.tree_util.tree_leaves_with_path(prepared.subject.params)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {name: np.asarray(leaf) for name, leaf in found.items() if name not in names}


class Proof(NamedTuple):
    """What executing a mapping showed."""

    mismatches: int  # accumulators that differ from the quantized network's
    compared: int
    images: int
    same_class: int  # images that the whole executed network gives the same class
    levels_differ: int  # input levels on the way there that differ, by ties of rounding
    scales_agree: bool  # all of them, bit for bit
    counts_agree: bool  # crossbars, units, index bits and actions with the cost model's


def prove(
    prepared: Prepared,
    policy: Policy,
    network: compressed.Compressed,
    mapping: Mapping,
    parts: datapath.Parts,
    images: np.ndarray,
) -> Proof:
    """Executes the mapping on images and compares every accumulator of every layer."""
    arguments = (
        prepared.network,
        prepared.subject.params,
        network,
        parts,
        mapping.accelerator,
        jnp.asarray(images),
    )
    checks, whole = datapath.check_layers(*arguments), datapath.compare_end_to_end(*arguments)
    chip = prepared.accelerator.chip()
    level, bits = (np.asarray(x, np.int64) for x in (policy.level, policy.weight_bits))
    expected = crossbar.look_up_counts(prepared.tables, chip, level, bits)
    actions = crossbar.count_actions(
        prepared.network.layers, expected, chip, np.asarray(policy.input_bits, np.int64)
    )
    costed = {**expected._asdict(), **actions}
    found = (
        count_layer_map(one, mapping.scheme, mapping.accelerator)
        | datapath.count_performed_actions(one, mapping.accelerator)
        for one in mapping.maps
    )
    return Proof(
        sum(one.mismatches for one in checks),
        sum(one.compared for one in checks),
        len(images),
        whole.same_class,
        whole.levels_differ,
        scales_agree=all(
            np.array_equal(value, getattr(layer, name))
            for layer, scales in zip(network, mapping.scales, strict=True)
            for name, value in scales._asdict().items()
        ),
        counts_agree=all(
            value == costed[name][at] for at, one in enumerate(found) for name, value in one.items()
        ),
    )


class AdcPoint(NamedTuple):
    """A network with converters of so many bits."""

    bits: int
    accuracy: float  # executed
    images: int  # that it was executed on
    energy_nj: float
    area_mm2: float


def adc_curve(
    prepared: Prepared,
    policy: Policy,
    network: compressed.Compressed,
    parts: datapath.Parts,
    images: np.ndarray,
    labels: np.ndarray,
) -> list[AdcPoint]:
    """Accuracy of the executed data path and cost, from lossless converters down to one bit.

    The same in all layers, whatever the policy's are; the scales stay as they are. Where lossless
    is more than a converter can have, from the most that it can. Of the images the first ones, as
    many as take seconds.
    """
    layers, step = prepared.network.layers, 100
    each = sum(
        path.steps * banks.outputs.size * layer.positions
        for (path, banks), layer in zip(parts, layers, strict=True)
    )
    count = int(np.clip(_CURVE_SUMS // max(each, 1), *_CURVE_IMAGES))
    images, labels = images[:count], labels[:count]
    level, weight_bits, input_bits = (np.asarray(x, np.int64) for x in policy[:3])
    points = []
    for bits in range(min(prepared.accelerator.lossless_adc_bits, adc.MAX_BITS), 0, -1):
        one = dataclasses.replace(prepared.accelerator, adc_bits=bits)
        converter = converters.converter(one)
        params = prepared.subject.params
        run = functools.partial(datapath.apply, prepared.network, params, network, parts, converter)
        logits = run_in_chunks(run, images, step)
        counts = crossbar.look_up_counts(prepared.tables, one.chip(), level, weight_bits)
        cost = crossbar.compute_cost(layers, counts, one.chip(), input_bits)
        costs = float(cost.energy_nj), float(cost.area_mm2)
        points.append(AdcPoint(bits, accuracy(logits, labels), len(images), *costs))
    return points
