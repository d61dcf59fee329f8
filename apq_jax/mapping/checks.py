"""Whether a layer's map is sound, before anything relies on it: every index, cell and weight."""

from typing import Any

import numpy as np

from apq_jax.hardware import Accelerator
from apq_jax.mapping.units import (
    NONE,
    LayerMap,
    Units,
    compute_bitline_weights,
    compute_max_level,
    compute_offset,
    read_cells,
)
from apq_jax.system.errors import InputError, in_one_line


def need(right: Any, field: str, value: Any, allowed: str) -> None:
    """Raises InputError that names the field, the value and what is allowed, unless it is right."""
    if not right:
        raise InputError(f"{in_one_line(field)}: {in_one_line(value)}; allowed: {allowed}")


def check_layer_map(one: LayerMap, arrays: dict[str, np.ndarray], accelerator: Accelerator) -> None:
    """Checks a map whose arrays, as the file has them, have the right types and shapes.

    Raises:
      InputError: an index is outside what it points into; units overlap or make no read; a weight
        is missing, held twice or outside its bits.
    """
    _check_ranges(one, arrays, accelerator)
    _check_places(one)
    _check_weights(one, accelerator)


def _check_ranges(one: LayerMap, arrays: dict[str, np.ndarray], accelerator: Accelerator) -> None:
    layer, units = one.layer, one.units
    slices = accelerator.slices(one.weight_bits)
    for name, least, most in (
        ("cells", 0, 2**accelerator.cell_bits - 1),
        ("banks", NONE, layer.groups * layer.rows - 1),
        ("read", 0, len(units.bank) - 1),
        ("crossbar", 0, len(one.cells) - 1),
        ("wordline", 0, accelerator.crossbar_rows - 1),
        ("bitline", 0, accelerator.crossbar_columns - 1),
        ("bank", 0, len(one.banks) - 1),
        ("outputs", NONE, layer.groups * layer.columns - 1),
        ("slices", 0, slices - 1),
        ("flipped", 0, int(accelerator.flipped_columns)),
    ):
        values = arrays[name]
        outside = (values < least) | (values > most)
        if outside.any():
            need(False, name, values[outside][0], f"{least} to {most}")
    for name, used in (("banks", one.banks), ("outputs", units.outputs)):
        first = np.arange(used.shape[1]) < (used != NONE).sum(axis=1)[:, None]
        need(((used != NONE) == first).all(), name, "a gap", "what is used comes first")
    unused = len(one.cells) > max(len(np.unique(units.crossbar)), 1)
    need(not unused, "cells", "a crossbar without units", "none")
    if not len(units.bank):
        return
    high = (one.banks != NONE).sum(axis=1)[units.bank]
    wide = (units.outputs != NONE).sum(axis=1)
    below = (units.wordline + high).max()
    need(below <= accelerator.crossbar_rows, "wordline", below, "inside its crossbar")
    right = (units.bitline + wide).max()
    need(right <= accelerator.crossbar_columns, "bitline", right, "inside its crossbar")
    _check_reads(one, high, wide)
    # An output takes inputs of its own group only.
    group = one.banks[:, 0] // layer.rows
    mixed = (one.banks != NONE) & (one.banks // layer.rows != group[:, None])
    need(not mixed.any(), "banks", "inputs of several groups", "of one")
    fed = group[units.bank][:, None]
    same = (units.outputs == NONE) | (units.outputs // layer.columns == fed)
    need(same.all(), "outputs", "of another group than its inputs", "the same group")
    # Every weight that is held has each of its slices once.
    filled = units.outputs != NONE
    bank = np.broadcast_to(units.bank[:, None], filled.shape)[filled].astype(np.int64)
    weight = bank * (layer.groups * layer.columns) + units.outputs[filled]
    parts = weight * slices + units.slices[filled]
    need(len(np.unique(parts)) == len(parts), "slices", "held twice", "once each")
    complete = len(np.unique(weight)) * slices == len(parts)
    need(complete, "slices", "missing of a weight", f"all {slices}")


def _check_weights(one: LayerMap, accelerator: Accelerator) -> None:
    """Each weight is held once, and is one of the bits' levels."""
    layer, places, parts = one.layer, [], []
    for start in range(0, len(one.units.bank), _step(one)):
        units = Units(*(field[start : start + _step(one)] for field in one.units))
        column, row = units.outputs[:, None, :], one.banks[units.bank][:, :, None]
        used = (column != NONE) & (row != NONE)
        weight = compute_bitline_weights(units.slices, units.outputs, one.weight_bits, accelerator)
        cells = read_cells(one._replace(units=units)).astype(np.int32)
        cells = np.where(units.flipped[:, None, :], 2**accelerator.cell_bits - 1 - cells, cells)
        # A row is of one group, so its number and the column in the group tell weights apart.
        places.append((row.astype(np.int64) * layer.columns + column % layer.columns)[used])
        parts.append((cells * weight[:, None, :])[used])
    if not places:
        return
    _, at, held = np.unique(np.concatenate(places), return_inverse=True, return_counts=True)
    levels = np.bincount(at, np.concatenate(parts)).astype(np.int64)
    slices = accelerator.slices(one.weight_bits)
    need((held <= slices).all(), "banks", "a row held twice for an output", "once")
    levels -= compute_offset(one.weight_bits, accelerator)
    most = compute_max_level(one.weight_bits)
    outside = np.abs(levels) > most
    if outside.any():
        need(False, "cells", f"a weight of {levels[outside][0]}", f"{-most} to {most}")


def _check_reads(one: LayerMap, high: np.ndarray, wide: np.ndarray) -> None:
    """Units of one read are of one crossbar and lie on a diagonal no larger than a unit.

    `high` and `wide` are the wordlines and bitlines that each unit uses, [U].
    """
    units = one.units
    step = np.diff(units.read, prepend=-1)
    need(((step == 0) | (step == 1)).all(), "read", "out of order", "0, 1, ..")
    first = np.flatnonzero(step)
    joins = step == 0
    before = np.flatnonzero(joins) - 1
    after = before + 1
    right = units.crossbar[before] == units.crossbar[after]
    right &= units.wordline[before] + high[before] <= units.wordline[after]
    right &= units.bitline[before] + wide[before] <= units.bitline[after]
    need(right.all(), "read", "of units that are not on a diagonal", "one crossbar, one diagonal")
    for start, used, most, name in (
        (units.wordline, high, one.banks.shape[1], "wordlines"),
        (units.bitline, wide, units.outputs.shape[1], "bitlines"),
    ):
        span = (start + used) - start[first][units.read]
        need((span <= most).all(), "read", f"{span.max()} {name}", f"up to {most}")


def _step(one: LayerMap) -> int:
    """Units whose cells are looked at at a time."""
    return max((1 << 22) // (one.banks.shape[1] * one.units.outputs.shape[1]), 1)


def _check_places(one: LayerMap) -> None:
    """No cell belongs to two units, and what belongs to none is 0."""
    units = one.units
    taken = np.zeros(one.cells.shape, np.uint8)
    for start in range(0, len(units.bank), _step(one)):
        part = Units(*(field[start : start + _step(one)] for field in units))
        used = (one.banks[part.bank] != NONE)[:, :, None] & (part.outputs != NONE)[:, None, :]
        unit, row, column = np.nonzero(used)
        place = (part.crossbar[unit], part.wordline[unit] + row, part.bitline[unit] + column)
        flat = np.ravel_multi_index(place, taken.shape)
        right = len(np.unique(flat)) == len(flat) and not taken.reshape(-1)[flat].any()
        need(right, "units", "two on one cell", "none that overlap")
        taken[place] = 1
    need(not one.cells[taken == 0].any(), "cells", "not 0 outside the units", "0")
