"""Maps a layer's integer weights to crossbars, and counts the result unit by unit."""

import math

import numpy as np

from apq_jax.hardware import Accelerator
from apq_jax.hardware.chip import ceil_div, ceil_log2
from apq_jax.mapping import scheme_counts
from apq_jax.mapping.packing import PACKERS, pack
from apq_jax.mapping.scheme_counts import count_list_bits, count_subset_bits
from apq_jax.mapping.units import NONE, LayerMap, Units, compute_max_level, locate_cells, sums_fit
from apq_jax.types import Layer

MAPPED_SCHEMES = (*PACKERS, "column_vector")
_CHUNK = 65_536  # units whose cells are in memory at a time


def map_layer(
    layer: Layer,
    levels: np.ndarray,
    mask: np.ndarray,
    weight_bits: int,
    input_bits: int,
    scheme: str,
    accelerator: Accelerator,
) -> LayerMap:
    """Places a layer's integer weights in crossbar cells; flips bitlines if columns are flipped.

    Args:
      layer: its shape.
      levels: [γ, R, C] int, within ±(2^(q-1) - 1), ±1 at one bit; 0 where `mask` is False.
      mask: [γ, R, C] bool, survivors, in the scheme's blocks.
      weight_bits: q.
      input_bits: a.
      scheme: one of MAPPED_SCHEMES.
      accelerator: with `mapping = "isaac"`.

    Returns:
      The map, whose `adc_bits` are 0, the accelerator's.

    Raises:
      ValueError: the scheme cannot be mapped; levels are out of range, or not 0 outside the mask;
        a weight that gets a cell, pruned or not, is 0 in one-bit offset form, which has no 0; or
        sums of the layer could pass 2^31.
    """
    if scheme not in MAPPED_SCHEMES or accelerator.mapping != "isaac":
        raise ValueError(
            f"scheme {scheme!r} in mapping {accelerator.mapping!r} has no image; allowed: "
            f"{', '.join(MAPPED_SCHEMES)} in mapping 'isaac'"
        )
    limit = compute_max_level(weight_bits)
    if levels.dtype.kind not in "iu" or np.abs(levels.astype(np.int64)).max(initial=0) > limit:
        raise ValueError(
            f"levels: {levels.dtype}, {levels.min(initial=0)} to {levels.max(initial=0)}; allowed: "
            f"whole numbers, {-limit} to {limit} with {weight_bits} bits"
        )
    if np.any(levels[~mask]):
        raise ValueError("levels: not 0 outside the mask; allowed: 0")
    if not sums_fit(layer, weight_bits, input_bits):
        raise ValueError(
            f"{layer.rows} rows of {weight_bits}-bit weights and {input_bits}-bit inputs: sums "
            "could pass 2^31; allowed: fewer rows or bits"
        )
    banks, units = pack(mask, accelerator.slices(weight_bits), scheme, accelerator)
    count = int(units.crossbar.max(initial=0)) + 1
    cells = np.zeros((count, accelerator.crossbar_rows, accelerator.crossbar_columns), np.uint8)
    for part in units.split(_CHUNK):
        inputs = banks[part.bank]
        digits = _cut_digits(layer, levels, inputs, part, weight_bits, accelerator)
        if accelerator.flipped_columns:
            top = 2**accelerator.cell_bits - 1
            used = inputs != NONE
            # Flips a bitline whose digits sum to more than half of the maximum, so that one
            # converter bit less is enough. `part` is a view, so this writes to `units`.
            part.flipped[:] = 2 * digits.sum(axis=1) > top * used.sum(axis=1)[:, None]
            complement = np.where(used[:, :, None], top - digits, 0)
            digits = np.where(part.flipped[:, None, :], complement, digits)
        inside, places = locate_cells(banks, part)
        cells[places] = digits[inside]
    return LayerMap(layer, weight_bits, input_bits, cells, banks, units)


def _cut_digits(
    layer: Layer,
    levels: np.ndarray,
    inputs: np.ndarray,
    units: Units,
    weight_bits: int,
    accelerator: Accelerator,
) -> np.ndarray:
    """Cuts the units' levels into cells, [U, h, w] int32, before any bitline is flipped.

    `inputs` are the rows that feed the units, [U, h].
    """
    row, column = inputs[:, :, None], units.outputs[:, None, :]
    used = (row != NONE) & (column != NONE)
    row, column = np.where(used, row, 0), np.where(used, column, 0)
    value = levels[row // layer.rows, row % layer.rows, column % layer.columns].astype(np.int32)
    significance = units.slices[:, None, :].astype(np.int32)
    if accelerator.signed == "differential":
        # Even slices hold positive weights and odd ones negative weights.
        sign = 1 - 2 * (significance % 2)
        value, significance = np.maximum(value * sign, 0), significance // 2
    else:
        if weight_bits == 1 and np.any(used & (value == 0)):
            raise ValueError(
                "a weight of 0 has no cell among one-bit offset weights; allowed: more bits, "
                "differential pairs, or a mask without pruned weights inside its blocks"
            )
        # At one bit, a weight of -1 is a cell of 0.
        value = (value + 1) // 2 if weight_bits == 1 else value + 2 ** (weight_bits - 1)
    digit = (value >> (accelerator.cell_bits * significance)) & (2**accelerator.cell_bits - 1)
    return np.where(used, digit, 0)


def count_layer_map(layer_map: LayerMap, scheme: str, accelerator: Accelerator) -> dict[str, int]:
    """Counts what one window of a mapped layer uses; names as in `crossbar.Counts`.

    Units that are read together count once. The counts must equal the counts that
    apq_jax/mapping/schemes.py forms without any unit. `slots` are left out unless the scheme's
    slots are its units, because other schemes count slots as if no crossbar ended.
    """
    units, (wordlines, bitlines) = layer_map.units, layer_map.count_lines()
    _, first = np.unique(units.read, return_index=True)
    reads = np.bincount(units.crossbar[first], minlength=1)
    used_banks = np.unique(units.bank)
    slots = {"slots": len(first)} if scheme in ("column_vector", "sre") else {}
    return slots | {
        "crossbars": len(layer_map.cells),
        "units": len(first),
        "fullest": int(reads.max()),
        "drives": int(wordlines.sum()),
        "columns": int(bitlines.sum()),
        "cells": int((wordlines * bitlines).sum()),
        "outputs": int(units.starts.sum()),
        "row_groups": len(used_banks),
        "index_bits": _count_index_bits(layer_map, scheme, used_banks, accelerator),
    }


def _count_index_bits(
    layer_map: LayerMap, scheme: str, used_banks: np.ndarray, accelerator: Accelerator
) -> int:
    """Counts the bits of the indices as they would be stored: see docs/mapping_format.md."""
    layer, units = layer_map.layer, layer_map.units
    inputs = layer_map.banks[used_banks]
    inputs = inputs[inputs != NONE]  # the rows of all strips
    flips = int(units.filled.sum()) if accelerator.flipped_columns else 0
    if scheme == "column_vector":
        banks, vectors = len(layer_map.banks), int(units.starts.sum())
        list_bits = count_list_bits(banks, vectors, layer.columns)
        survivors = min(list_bits, banks * layer.columns) + 1
        return flips + len(units.bank) * ceil_log2(banks) + survivors
    if scheme == "filter":
        channels = len(np.unique(units.outputs[units.filled]))
        return flips + count_subset_bits(channels, layer.groups * layer.columns)
    if scheme == "channel":
        window = math.prod(layer.kernel)
        channels = len(np.unique(inputs // window))
        return flips + count_subset_bits(channels, layer.groups * layer.rows // window)
    if scheme == "pim_prune_columns":
        # Only the first bank of a strip is counted, because it has all of the strip's columns.
        height = layer_map.cells.shape[1]
        first = layer_map.banks[units.bank, 0] % layer.rows % height == 0
        columns = int(units.starts[first].sum())
        strips = layer.groups * ceil_div(layer.rows, height)
        return flips + count_list_bits(strips, columns, layer.columns)
    if scheme == "pim_prune":
        width = scheme_counts.count_strip_columns(accelerator)
        strips = layer.groups * ceil_div(layer.columns, width)
        return flips + count_list_bits(strips, len(inputs), layer.rows)
    if scheme == "sre":
        slices = accelerator.slices(layer_map.weight_bits)
        width = scheme_counts.count_sre_columns(accelerator, slices)
        strips = layer.groups * ceil_div(layer.columns, width)
        return flips + count_list_bits(strips, len(inputs), layer.rows)
    return flips
