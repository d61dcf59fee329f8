"""Checks every index, cell and weight of a layer's map, before anything relies on it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from apq_jax.hardware import Accelerator
from apq_jax.mapping.units import NONE, LayerMap, compute_max_level, locate_cells
from apq_jax.system.errors import InputError, make_one_line


def need(right: Any, field: str, value: Any, allowed: str) -> None:
    """Raises an InputError "field: value; allowed: ..." unless `right` is true."""
    if not right:
        raise InputError(f"{make_one_line(field)}: {make_one_line(value)}; allowed: {allowed}")


def check_layer_map(
    layer_map: LayerMap, arrays: dict[str, np.ndarray], accelerator: Accelerator
) -> None:
    """Checks a layer's map; `arrays`, the file's, must have the right types and shapes already.

    Raises:
      InputError: an index is out of range; units overlap or make no read; a weight is missing,
        held twice or outside its bits.
    """
    _check_ranges(layer_map, arrays, accelerator)
    _check_places(layer_map)
    _check_weights(layer_map, accelerator)


def _check_ranges(
    layer_map: LayerMap, arrays: dict[str, np.ndarray], accelerator: Accelerator
) -> None:
    layer, units, banks = layer_map.layer, layer_map.units, layer_map.banks
    slices = accelerator.slices(layer_map.weight_bits)
    for name, low, high in (
        ("cells", 0, 2**accelerator.cell_bits - 1),
        ("banks", NONE, layer.groups * layer.rows - 1),
        ("read", 0, len(units.bank) - 1),
        ("crossbar", 0, len(layer_map.cells) - 1),
        ("wordline", 0, accelerator.crossbar_rows - 1),
        ("bitline", 0, accelerator.crossbar_columns - 1),
        ("bank", 0, len(banks) - 1),
        ("outputs", NONE, layer.groups * layer.columns - 1),
        ("slices", 0, slices - 1),
        ("flipped", 0, int(accelerator.flipped_columns)),
    ):
        values = arrays[name]
        outside = (values < low) | (values > high)
        if outside.any():
            need(False, name, values[outside][0], f"{low} to {high}")
    for name, lines in (("banks", banks), ("outputs", units.outputs)):
        leading = np.arange(lines.shape[1]) < (lines != NONE).sum(axis=1)[:, None]
        need(((lines != NONE) == leading).all(), name, "a gap", "what is used comes first")
    unused = len(layer_map.cells) > max(len(np.unique(units.crossbar)), 1)
    need(not unused, "cells", "a crossbar without units", "none")
    if not len(units.bank):
        return
    filled, (wordlines, bitlines) = units.filled, layer_map.count_lines()
    bottom = (units.wordline + wordlines).max()
    need(bottom <= accelerator.crossbar_rows, "wordline", bottom, "inside its crossbar")
    right_edge = (units.bitline + bitlines).max()
    need(right_edge <= accelerator.crossbar_columns, "bitline", right_edge, "inside its crossbar")
    _check_reads(layer_map, wordlines, bitlines)
    # An output takes inputs of its own group only.
    group = banks[:, 0] // layer.rows
    mixed = (banks != NONE) & (banks // layer.rows != group[:, None])
    need(not mixed.any(), "banks", "inputs of several groups", "of one")
    same = ~filled | (units.outputs // layer.columns == group[units.bank][:, None])
    need(same.all(), "outputs", "of another group than its inputs", "the same group")
    # A bank holds each slice of an output's weights once, or none of them.
    bank = np.broadcast_to(units.bank[:, None], filled.shape)[filled].astype(np.int64)
    pair = bank * (layer.groups * layer.columns) + units.outputs[filled]
    pair_slice = pair * slices + units.slices[filled]
    need(len(np.unique(pair_slice)) == len(pair_slice), "slices", "held twice", "once each")
    complete = len(np.unique(pair)) * slices == len(pair_slice)
    need(complete, "slices", "missing of a weight", f"all {slices}")


def _check_weights(layer_map: LayerMap, accelerator: Accelerator) -> None:
    """Checks that each weight is held once and is a level of its bits."""
    layer, places, parts = layer_map.layer, [], []
    for part in _split(layer_map):
        units = part.units
        column, row = units.outputs[:, None, :], layer_map.banks[units.bank][:, :, None]
        used = (column != NONE) & (row != NONE)
        weight = part.compute_bitline_weights(accelerator)
        cells = part.read_cells().astype(np.int32)
        cells = np.where(units.flipped[:, None, :], 2**accelerator.cell_bits - 1 - cells, cells)
        # A row is of one group, so its number and the column in the group tell weights apart.
        places.append((row.astype(np.int64) * layer.columns + column % layer.columns)[used])
        parts.append((cells * weight[:, None, :])[used])
    if not places:
        return
    flat = np.concatenate(places)
    _, place, cell_counts = np.unique(flat, return_inverse=True, return_counts=True)
    levels = np.bincount(place, np.concatenate(parts)).astype(np.int64)
    slices = accelerator.slices(layer_map.weight_bits)
    need((cell_counts <= slices).all(), "banks", "a row held twice for an output", "once")
    levels -= layer_map.compute_offset(accelerator)
    max_level = compute_max_level(layer_map.weight_bits)
    outside = np.abs(levels) > max_level
    if outside.any():
        need(False, "cells", f"a weight of {levels[outside][0]}", f"{-max_level} to {max_level}")


def _check_reads(layer_map: LayerMap, wordlines: np.ndarray, bitlines: np.ndarray) -> None:
    """Checks that units of one read lie on one diagonal of one crossbar, no larger than a unit.

    `wordlines` and `bitlines` count the lines that each unit uses, [U].
    """
    units = layer_map.units
    step = np.diff(units.read, prepend=-1)
    need(((step == 0) | (step == 1)).all(), "read", "out of order", "0, 1, ..")
    first = np.flatnonzero(step)
    before = np.flatnonzero(step == 0) - 1
    after = before + 1
    right = units.crossbar[before] == units.crossbar[after]
    right &= units.wordline[before] + wordlines[before] <= units.wordline[after]
    right &= units.bitline[before] + bitlines[before] <= units.bitline[after]
    need(right.all(), "read", "of units that are not on a diagonal", "one crossbar, one diagonal")
    for start, used, limit, name in (
        (units.wordline, wordlines, layer_map.banks.shape[1], "wordlines"),
        (units.bitline, bitlines, units.outputs.shape[1], "bitlines"),
    ):
        span = (start + used) - start[first][units.read]
        need((span <= limit).all(), "read", f"{span.max()} {name}", f"up to {limit}")


def _split(layer_map: LayerMap) -> Iterator[LayerMap]:
    """Splits a map into maps of fewer units, of about 4 million cells."""
    cells = layer_map.banks.shape[1] * layer_map.units.outputs.shape[1]
    for units in layer_map.units.split(max((1 << 22) // cells, 1)):
        yield layer_map._replace(units=units)


def _check_places(layer_map: LayerMap) -> None:
    """Checks that no cell belongs to two units, and that cells of no unit are 0."""
    taken = np.zeros(layer_map.cells.shape, np.uint8)
    for part in _split(layer_map):
        _, place = locate_cells(layer_map.banks, part.units)
        flat = np.ravel_multi_index(place, taken.shape)
        right = len(np.unique(flat)) == len(flat) and not taken.reshape(-1)[flat].any()
        need(right, "units", "two on one cell", "none that overlap")
        taken[place] = 1
    need(not layer_map.cells[taken == 0].any(), "cells", "not 0 outside the units", "0")
