"""Packs a layer's integer weights into crossbars, and counts what it packed."""

import math

import numpy as np

from apq_jax.crossbar import ceil_div
from apq_jax.hardware import Accelerator
from apq_jax.mapping.packing import PACKERS, pack
from apq_jax.mapping.scheme_counts import count_sre_columns, count_strip_columns
from apq_jax.mapping.units import NONE, LayerMap, Units, compute_max_level, sums_fit
from apq_jax.types import Layer

MAPPED_SCHEMES = (*PACKERS, "column_vector")
_CHUNK = 65_536  # units whose cells are formed at a time


def map_layer(
    layer: Layer,
    levels: np.ndarray,
    mask: np.ndarray,
    weight_bits: int,
    input_bits: int,
    scheme: str,
    accelerator: Accelerator,
) -> LayerMap:
    """Packs a layer's integer weights.

    Args:
      layer: its shape.
      levels: [γ, R, C] int, within ±(2^(q-1) - 1), ±1 at one bit; 0 where `mask` is False.
      mask: [γ, R, C] bool, survivors, in the scheme's blocks.
      weight_bits: q.
      input_bits: a.
      scheme: of MAPPED.
      accelerator: with `mapping = "isaac"`.

    Raises:
      ValueError: the scheme has no mapping; levels are out of their range, or not 0 outside the
        mask; or a cell cannot hold a weight: with offsets of one bit there is no zero; or sums of
        the layer could pass 2^31.
    """
    if scheme not in MAPPED_SCHEMES or accelerator.mapping != "isaac":
        raise ValueError(
            f"scheme {scheme!r} in mapping {accelerator.mapping!r} has no image; allowed: "
            f"{', '.join(MAPPED_SCHEMES)} in mapping 'isaac'"
        )
    most = compute_max_level(weight_bits)
    if levels.dtype.kind not in "iu" or np.abs(levels.astype(np.int64)).max(initial=0) > most:
        raise ValueError(
            f"levels: {levels.dtype}, {levels.min(initial=0)} to {levels.max(initial=0)}; allowed: "
            f"whole numbers, {-most} to {most} with {weight_bits} bits"
        )
    if np.any(levels[~mask]):
        raise ValueError("levels: not 0 outside the mask; allowed: 0")
    if not sums_fit(layer, weight_bits, input_bits):
        raise ValueError(
            f"{layer.rows} rows of {weight_bits}-bit weights and {input_bits}-bit inputs: sums "
            "could pass 2^31; allowed: fewer rows or bits"
        )
    slices = accelerator.slices(weight_bits)
    banks, units = pack(layer, mask, slices, scheme, accelerator)
    count = int(units.crossbar.max(initial=0)) + 1
    cells = np.zeros((count, accelerator.crossbar_rows, accelerator.crossbar_columns), np.uint8)
    for start in range(0, len(units.crossbar), _CHUNK):
        part = Units(*(field[start : start + _CHUNK] for field in units))
        inputs = banks[part.bank]
        digits = _digits(layer, levels, inputs, part, weight_bits, accelerator)
        if accelerator.flipped_columns:
            top = 2**accelerator.cell_bits - 1
            used = inputs != NONE
            part.flipped[:] = 2 * digits.sum(axis=1) > top * used.sum(axis=1)[:, None]
            turned = np.where(used[:, :, None], top - digits, 0)
            digits = np.where(part.flipped[:, None, :], turned, digits)
        _write(cells, inputs, part, digits)
    return LayerMap(layer, weight_bits, input_bits, cells, banks, units)


def _stored(levels: np.ndarray, weight_bits: int) -> np.ndarray:
    """What offset cells hold of a level: w + 2^(q-1); at one bit (w + 1) / 2."""
    return (levels + 1) // 2 if weight_bits == 1 else levels + 2 ** (weight_bits - 1)


def _digits(
    layer: Layer,
    levels: np.ndarray,
    inputs: np.ndarray,
    units: Units,
    weight_bits: int,
    accelerator: Accelerator,
) -> np.ndarray:
    """Cells of the units [U, h, w] int32, before any is flipped."""
    row, column = inputs[:, :, None], units.outputs[:, None, :]
    used = (row != NONE) & (column != NONE)
    row, column = np.where(used, row, 0), np.where(used, column, 0)
    value = levels[row // layer.rows, row % layer.rows, column % layer.columns].astype(np.int32)
    number = units.slices[:, None, :].astype(np.int32)
    if accelerator.signed == "differential":
        sign = 1 - 2 * (number % 2)
        value, number = np.maximum(value * sign, 0), number // 2
    else:
        if weight_bits == 1 and np.any(used & (value == 0)):
            raise ValueError(
                "a weight of 0 has no cell among one-bit offset weights; allowed: more bits, "
                "differential pairs, or a mask without pruned weights inside its blocks"
            )
        value = _stored(value, weight_bits)
    digit = (value >> (accelerator.cell_bits * number)) & (2**accelerator.cell_bits - 1)
    return np.where(used, digit, 0)


def _write(cells: np.ndarray, inputs: np.ndarray, units: Units, digits: np.ndarray) -> None:
    used = (inputs != NONE)[:, :, None] & (units.outputs != NONE)[:, None, :]
    unit, row, column = np.nonzero(used)
    cells[units.crossbar[unit], units.wordline[unit] + row, units.bitline[unit] + column] = digits[
        unit, row, column
    ]


def count_layer_map(found: LayerMap, scheme: str, accelerator: Accelerator) -> dict[str, int]:
    """The counts of a window, taken from the units; names as in `crossbar.Counts`.

    They must equal what apq_jax/mapping/schemes.py counts without any unit. `slots` are among them
    only where they are the units: elsewhere they are defined for endless crossbars.
    """
    units, inputs = found.units, found.banks[found.units.bank]
    high = (inputs != NONE).sum(axis=1)  # wordlines that a unit drives
    wide = (units.outputs != NONE).sum(axis=1)
    sums = (units.slices == 0) & (units.outputs != NONE)
    _, first = np.unique(units.read, return_index=True)
    turns = np.bincount(units.crossbar[first], minlength=1)
    used = np.unique(units.bank)
    slots = {"slots": len(first)} if scheme in ("column_vector", "sre") else {}
    return slots | {
        "crossbars": len(found.cells),
        "units": len(first),
        "fullest": int(turns.max()),
        "drives": int(high.sum()),
        "columns": int(wide.sum()),
        "cells": int((high * wide).sum()),
        "outputs": int(sums.sum()),
        "row_groups": len(used),
        "index_bits": _index_bits(found, scheme, used, accelerator),
    }


def _index_bits(found: LayerMap, scheme: str, used: np.ndarray, accelerator: Accelerator) -> int:
    """Bits of the indices as they would be stored: see docs/mapping_format.md."""
    layer, units = found.layer, found.units
    filled = units.outputs != NONE
    kept = found.banks[used]
    rows = int((kept != NONE).sum())  # a strip's rows, over strips
    flips = int(filled.sum()) if accelerator.flipped_columns else 0

    def width(count: int) -> int:
        return (count - 1).bit_length()

    def listed(kept: int, count: int) -> int:
        return min(count.bit_length() + kept * width(count), count) + 1

    def lists(number: int, kept: int, count: int) -> int:
        return number * count.bit_length() + kept * width(count)

    if scheme == "column_vector":
        banks = len(found.banks)
        sums = int((filled & (units.slices == 0)).sum())
        survivors = min(lists(banks, sums, layer.columns), banks * layer.columns) + 1
        return flips + len(units.bank) * width(banks) + survivors
    if scheme == "filter":
        channels = len(np.unique(units.outputs[filled]))
        return flips + listed(channels, layer.groups * layer.columns)
    if scheme == "channel":
        window = math.prod(layer.kernel)
        channels = len(np.unique(kept[kept != NONE] // window))
        return flips + listed(channels, layer.groups * layer.rows // window)
    if scheme == "pim_prune_columns":
        # A strip's first bank has all of its columns.
        _, high, _ = found.cells.shape
        first = found.banks[units.bank, 0] % layer.rows % high == 0
        columns = int(((units.slices == 0) & filled)[first].sum())
        strips = layer.groups * ceil_div(layer.rows, high)
        return flips + lists(strips, columns, layer.columns)
    if scheme == "pim_prune":
        strips = layer.groups * ceil_div(layer.columns, count_strip_columns(accelerator))
        return flips + lists(strips, rows, layer.rows)
    if scheme == "sre":
        wide = count_sre_columns(accelerator, accelerator.slices(found.weight_bits))
        return flips + lists(layer.groups * ceil_div(layer.columns, wide), rows, layer.rows)
    return flips
