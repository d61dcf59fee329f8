"""Where every weight lies: operation units in crossbars, their inputs, outputs and slices."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from apq_jax.crossbar import ceil_div
from apq_jax.hardware import Accelerator
from apq_jax.schemes import Diagonal, diagonal, sre_columns, strip_columns, strips_beside
from apq_jax.types import Layer

MAPPED = ("dense", "column_vector", "sre", "filter", "channel", "pim_prune", "pim_prune_columns")
NONE = -1  # a wordline or bitline that is not used
_CHUNK = 65_536  # units whose cells are formed at a time


class Units(NamedTuple):
    """The operation units of a layer, in the order in which they are read."""

    read: np.ndarray  # [U] int32, 0 ..; units of one read, on one diagonal, are read at once
    crossbar: np.ndarray  # [U] int32
    wordline: np.ndarray  # [U] int32, the first one
    bitline: np.ndarray  # [U] int32, the first one
    bank: np.ndarray  # [U] int32, the input index: which of the layer's banks feeds it
    outputs: np.ndarray  # [U, w] int32, the column, group x C + column, that a bitline adds to
    slices: np.ndarray  # [U, w] uint8, which slice of the weight a bitline holds
    flipped: np.ndarray  # [U, w] bool, whether it is held as 2^c - 1 less its cells


class LayerMap(NamedTuple):
    """A layer in its crossbars."""

    layer: Layer
    weight_bits: int
    input_bits: int
    cells: np.ndarray  # [crossbars, X_r, X_c] uint8
    banks: np.ndarray  # [banks, h] int32, the rows of the layer, group x R + row, of each bank
    units: Units
    adc_bits: int = 0  # after which its conversions stop; 0: the accelerator's resolution


class _Block(NamedTuple):
    """A part of a crossbar whose wordlines share a list of inputs and bitlines one of outputs."""

    crossbar: int
    wordline: int
    bitline: int
    strip: int  # blocks of one strip of inputs share its banks
    inputs: np.ndarray  # [r]
    outputs: np.ndarray  # [n]
    slices: np.ndarray  # [n]
    joins: bool = False  # the read of the block before it


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
    if scheme not in MAPPED or accelerator.mapping != "isaac":
        raise ValueError(
            f"scheme {scheme!r} in mapping {accelerator.mapping!r} has no image; allowed: "
            f"{', '.join(MAPPED)} in mapping 'isaac'"
        )
    most = most_level(weight_bits)
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
    if scheme == "column_vector":
        banks, units = _column_vectors(layer, mask, slices, accelerator)
    else:
        blocks = {
            "dense": _dense,
            "filter": _filter,
            "channel": _channel,
            "pim_prune": _strips_up,
            "pim_prune_columns": _strips_left,
            "sre": _sre,
        }[scheme]
        banks, units = _cut(list(blocks(layer, mask, slices, accelerator)), accelerator)
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


def most_level(weight_bits: int) -> int:
    """The largest level, 2^(q-1) - 1; 1 at one bit."""
    return max(2 ** (weight_bits - 1) - 1, 1)


def sums_fit(layer: Layer, weight_bits: int, input_bits: int) -> bool:
    """Whether no accumulator of the layer can pass 2^31: they are int32, parts may wrap round."""
    return layer.rows * most_level(weight_bits) * (2**input_bits - 1) < 2**31


def _stored(levels: np.ndarray, weight_bits: int) -> np.ndarray:
    """What offset cells hold of a level: w + 2^(q-1); at one bit (w + 1) / 2."""
    return (levels + 1) // 2 if weight_bits == 1 else levels + 2 ** (weight_bits - 1)


def slice_weights(
    slices: np.ndarray, outputs: np.ndarray, weight_bits: int, accelerator: Accelerator
) -> np.ndarray:
    """What a bitline's sum counts in its output, int32: ±2^(c s); 0 where it is not used.

    In differential pairs even slices add and odd ones subtract. A one-bit offset weight is twice
    its cell, less one.
    """
    number = slices.astype(np.int64)
    if accelerator.signed == "differential":
        weight = 2 ** (accelerator.cell_bits * (number // 2)) * (1 - 2 * (number % 2))
    else:
        weight = 2 ** (accelerator.cell_bits * number) * (2 if weight_bits == 1 else 1)
    return np.where(outputs == NONE, 0, weight).astype(np.int32)


def offset_of(weight_bits: int, accelerator: Accelerator) -> int:
    """What comes off a partial sum for each unit of input, 2^(q-1); 1 at one bit, 0 in pairs."""
    if accelerator.signed == "differential":
        return 0
    return 1 if weight_bits == 1 else 2 ** (weight_bits - 1)


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


def cells_of(found: LayerMap) -> np.ndarray:
    """The cells that the units' used wordlines and bitlines meet in, [U, h, w] uint8."""
    units, inputs = found.units, found.banks[found.units.bank]
    _, high, wide = found.cells.shape
    rows = np.minimum(units.wordline[:, None] + np.arange(inputs.shape[1]), high - 1)
    columns = np.minimum(units.bitline[:, None] + np.arange(units.outputs.shape[1]), wide - 1)
    read = found.cells[units.crossbar[:, None, None], rows[:, :, None], columns[:, None, :]]
    used = (inputs != NONE)[:, :, None] & (units.outputs != NONE)[:, None, :]
    return np.where(used, read, 0).astype(np.uint8)


# --- packings, as apq_jax/schemes.py counts them -------------------------------------------------


def _column_vectors(
    layer: Layer, mask: np.ndarray, slices: int, accelerator: Accelerator
) -> tuple[np.ndarray, Units]:
    """The survivors of a row group are streamed in column order, slices least significant first.

    Element i of the stream is bitline i mod w of the row group's unit ⌊i/w⌋. Units spread evenly
    over the crossbars.
    """
    a, h, w = accelerator, accelerator.unit_rows, accelerator.unit_columns
    banks: list[np.ndarray] = []
    bank, outputs, numbers = [], [], []
    for group in range(layer.groups):
        for start in range(0, layer.rows, h):
            alive = np.flatnonzero(mask[group, start : start + h].any(axis=0))
            stream = np.repeat(alive + group * layer.columns, slices)
            place = np.tile(np.arange(slices), len(alive))
            count = ceil_div(len(stream), w)
            outputs.append(_filled(stream, count * w).reshape(count, w))
            numbers.append(_filled(place, count * w, 0).reshape(count, w))
            rows = np.arange(start, min(start + h, layer.rows)) + group * layer.rows
            bank.append(np.full(count, len(banks)))
            banks.append(_filled(rows, h))
    found = [np.concatenate(part) for part in (bank, outputs, numbers)]
    number = np.arange(len(found[0]))
    crossbars = max(ceil_div(len(number), a.unit_slots), 1)
    crossbar, slot = np.divmod(number, max(ceil_div(len(number), crossbars), 1))
    down, across = np.divmod(slot, a.crossbar_columns // w)
    places = crossbar, down * h, across * w
    return np.stack(banks).astype(np.int32), _units(number, *places, *found)


def _units(
    read: np.ndarray,
    crossbar: np.ndarray,
    wordline: np.ndarray,
    bitline: np.ndarray,
    bank: np.ndarray,
    outputs: np.ndarray,
    slices: np.ndarray,
) -> Units:
    return Units(
        read.astype(np.int32),
        crossbar.astype(np.int32),
        wordline.astype(np.int32),
        bitline.astype(np.int32),
        bank.astype(np.int32),
        outputs.astype(np.int32),
        slices.astype(np.uint8),
        np.zeros(outputs.shape, bool),
    )


def _filled(x: np.ndarray, length: int, value: int = NONE) -> np.ndarray:
    return np.pad(x, (0, length - len(x)), constant_values=value)


def _cut(blocks: list[_Block], accelerator: Accelerator) -> tuple[np.ndarray, Units]:
    """Blocks as units, row by row of units."""
    h, w = accelerator.unit_rows, accelerator.unit_columns
    banks: list[np.ndarray] = []
    begin: dict[int, int] = {}  # a strip's first bank
    parts = []
    for block in blocks:
        down, across = ceil_div(len(block.inputs), h), ceil_div(len(block.outputs), w)
        if block.strip not in begin:
            begin[block.strip] = len(banks)
            banks.extend(_filled(block.inputs, down * h).reshape(down, h))
        parts.append(
            (
                np.full(down * across, not block.joins),
                np.full(down * across, block.crossbar),
                np.repeat(block.wordline + h * np.arange(down), across),
                np.tile(block.bitline + w * np.arange(across), down),
                np.repeat(begin[block.strip] + np.arange(down), across),
                np.tile(_filled(block.outputs, across * w).reshape(across, w), (down, 1)),
                np.tile(_filled(block.slices, across * w, 0).reshape(across, w), (down, 1)),
            )
        )
    if not parts:
        none = np.zeros(0)
        return np.zeros((0, h), np.int32), _units(*(none,) * 5, *(np.zeros((0, w)),) * 2)
    begins, *fields = (np.concatenate(part) for part in zip(*parts, strict=True))
    return np.stack(banks).astype(np.int32), _units(np.cumsum(begins) - 1, *fields)


def _bitlines(columns: np.ndarray, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Output and slice of the bitlines that hold whole weights side by side."""
    return np.repeat(columns, slices), np.tile(np.arange(slices), len(columns))


def _tiles(
    first: int, strip: int, rows: np.ndarray, columns: np.ndarray, slices: int, a: Accelerator
) -> Iterator[_Block]:
    """A full matrix over crossbars from `first` on, row by row of crossbars; a strip each row."""
    outputs, numbers = _bitlines(columns, slices)
    across = ceil_div(len(outputs), a.crossbar_columns)
    for down, top in enumerate(range(0, len(rows), a.crossbar_rows)):
        for beside, left in enumerate(range(0, len(outputs), a.crossbar_columns)):
            part = slice(left, left + a.crossbar_columns)
            inputs = rows[top : top + a.crossbar_rows]
            crossbar = first + down * across + beside
            yield _Block(crossbar, 0, 0, strip + down, inputs, outputs[part], numbers[part])


def _on_diagonals(
    matrices: list[tuple[np.ndarray, np.ndarray]], slices: int, place: Diagonal
) -> Iterator[_Block]:
    """Matrices of (rows, columns) that each fit in a crossbar; see `schemes.diagonal`."""
    for number, (rows, columns) in enumerate(matrices):
        crossbar, at = divmod(number, place.beside)
        where = crossbar, at * place.rows, at * place.bitlines
        joins = at % place.at_once > 0
        yield _Block(*where, number, rows, *_bitlines(columns, slices), joins)


def _shapes(matrices: list[tuple[np.ndarray, np.ndarray]], slices: int) -> list[tuple[int, int]]:
    return [(len(rows), len(columns) * slices) for rows, columns in matrices]


def _matrices(
    matrices: list[tuple[np.ndarray, np.ndarray]], slices: int, a: Accelerator
) -> Iterator[_Block]:
    """Full matrices of (rows, columns), block-diagonally where each fits in a crossbar."""
    matrices = [(rows, columns) for rows, columns in matrices if len(rows) and len(columns)]
    place = diagonal(_shapes(matrices, slices), a)
    if place.beside:
        yield from _on_diagonals(matrices, slices, place)
        return
    first = strip = 0
    for rows, columns in matrices:
        yield from _tiles(first, strip, rows, columns, slices, a)
        bitlines, down = len(columns) * slices, ceil_div(len(rows), a.crossbar_rows)
        first, strip = first + down * ceil_div(bitlines, a.crossbar_columns), strip + down


def _dense(layer: Layer, mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Block]:
    return _matrices(
        [
            (
                group * layer.rows + np.arange(layer.rows),
                group * layer.columns + np.arange(layer.columns),
            )
            for group in range(layer.groups)
        ],
        slices,
        a,
    )


def _filter(layer: Layer, mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Block]:
    matrices = []
    for group in range(layer.groups):
        kept = np.flatnonzero(mask[group].any(axis=0))
        rows = np.arange(layer.rows)
        matrices.append((group * layer.rows + rows, group * layer.columns + kept))
    return _matrices(matrices, slices, a)


def _channel(layer: Layer, mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Block]:
    matrices = []
    for group in range(layer.groups):
        kept = np.flatnonzero(mask[group].any(axis=1))
        columns = np.arange(layer.columns)
        matrices.append((group * layer.rows + kept, group * layer.columns + columns))
    return _matrices(matrices, slices, a)


def _strips_up(layer: Layer, mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Block]:
    """Rows of a strip of columns pack upward; narrow strips of like height lie side by side."""
    width, strips = strip_columns(a), []
    for group in range(layer.groups):
        for left in range(0, layer.columns, width):
            kept = np.flatnonzero(mask[group, :, left : left + width].any(axis=1))
            columns = np.arange(left, min(left + width, layer.columns))
            if len(kept):
                strips.append((group * layer.rows + kept, group * layer.columns + columns))
    strips.sort(key=lambda one: (len(one[0]), len(one[1])), reverse=True)
    place, beside = diagonal(_shapes(strips, slices), a), strips_beside(layer, slices, a)
    if place.beside > beside:
        yield from _on_diagonals(strips, slices, place)
        return
    pitch = min(width, layer.columns) * slices
    first = strip = 0
    for start in range(0, len(strips), beside):
        taken = first
        for at, (rows, columns) in enumerate(strips[start : start + beside]):
            for block in _tiles(first, strip, rows, columns, slices, a):
                taken = max(taken, block.crossbar + 1)
                yield block._replace(bitline=at * pitch)
            strip += ceil_div(len(rows), a.crossbar_rows)
        first = taken


def _strips_left(layer: Layer, mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Block]:
    """Columns of a strip of rows pack left."""
    strips = []
    for group in range(layer.groups):
        for top in range(0, layer.rows, a.crossbar_rows):
            kept = np.flatnonzero(mask[group, top : top + a.crossbar_rows].any(axis=0))
            rows = np.arange(top, min(top + a.crossbar_rows, layer.rows))
            strips.append((group * layer.rows + rows, group * layer.columns + kept))
    return _matrices(strips, slices, a)


def _sre(layer: Layer, mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Block]:
    """A unit's columns keep their own rows; units spread evenly over the crossbars."""
    wide, found, strip = sre_columns(a, slices), [], 0
    for group in range(layer.groups):
        for left in range(0, layer.columns, wide):
            kept = np.flatnonzero(mask[group, :, left : left + wide].any(axis=1))
            columns = np.arange(left, min(left + wide, layer.columns))
            outputs, numbers = _bitlines(group * layer.columns + columns, slices)
            for top in range(0, len(kept), a.unit_rows):
                rows = group * layer.rows + kept[top : top + a.unit_rows]
                for start in range(0, len(outputs), a.unit_columns):
                    part = slice(start, start + a.unit_columns)
                    found.append((strip, rows, outputs[part], numbers[part]))
                strip += 1
    crossbars = max(ceil_div(len(found), a.unit_slots), 1)
    each = max(ceil_div(len(found), crossbars), 1)
    for number, block in enumerate(found):
        crossbar, slot = divmod(number, each)
        down, across = divmod(slot, a.crossbar_columns // a.unit_columns)
        yield _Block(crossbar, down * a.unit_rows, across * a.unit_columns, *block)


# --- what a mapping counts -----------------------------------------------------------------------


def counted(found: LayerMap, scheme: str, accelerator: Accelerator) -> dict[str, int]:
    """The counts of a window, taken from the units; names as in `crossbar.Counts`.

    They must equal what apq_jax/schemes.py counts without any unit. `slots` are not among them but
    where they are the units: elsewhere they are defined for endless crossbars.
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
        strips = layer.groups * ceil_div(layer.columns, strip_columns(accelerator))
        return flips + lists(strips, rows, layer.rows)
    if scheme == "sre":
        wide = sre_columns(accelerator, accelerator.slices(found.weight_bits))
        return flips + lists(layer.groups * ceil_div(layer.columns, wide), rows, layer.rows)
    return flips
