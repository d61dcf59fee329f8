"""Places the units of every scheme in crossbars, as `scheme_counts` counts them."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from apq_jax.hardware import Accelerator
from apq_jax.hardware.chip import ceil_div
from apq_jax.mapping.scheme_counts import (
    Diagonal,
    count_sre_columns,
    count_strip_columns,
    count_strips_beside,
    cut_strips,
    plan_diagonal,
)
from apq_jax.mapping.units import NONE, Units


class _Region(NamedTuple):
    """A rectangle of a crossbar: r wordlines with an input each, n bitlines with an output each."""

    crossbar: int
    wordline: int  # the first one
    bitline: int  # the first one
    strip: int  # regions of one strip have the same inputs and share its banks
    inputs: np.ndarray  # [r]
    outputs: np.ndarray  # [n]
    slices: np.ndarray  # [n]
    joins: bool = False  # whether it is read together with the region before it


def pack(
    mask: np.ndarray, slices: int, scheme: str, accelerator: Accelerator
) -> tuple[np.ndarray, Units]:
    """Packs a layer's surviving weights into operation units.

    Args:
      mask: [γ, R, C] bool, survivors, in the scheme's blocks.
      slices: bitlines of a weight.
      scheme: one of PACKERS, or "column_vector".
      accelerator: with `mapping = "isaac"`.

    Returns:
      The layer's banks [banks, h] int32, and its units, none of them flipped.
    """
    if scheme == "column_vector":
        return _stream_column_vectors(mask, slices, accelerator)
    return _cut_regions(PACKERS[scheme](mask, slices, accelerator), accelerator)


def _stream_column_vectors(
    mask: np.ndarray, slices: int, a: Accelerator
) -> tuple[np.ndarray, Units]:
    """Streams each row group's survivors in column order, slices least significant first.

    Element i of the stream is bitline i mod w of the row group's unit ⌊i/w⌋. Units spread evenly
    over the crossbars.
    """
    banks: list[np.ndarray] = []
    bank, outputs, slice_indices = [], [], []
    for columns, rows in cut_strips(mask.swapaxes(1, 2), a.unit_rows):
        stream, stream_slices = repeat_slices(columns, slices)
        outputs.append(fill_rows(stream, a.unit_columns))
        slice_indices.append(fill_rows(stream_slices, a.unit_columns, 0))
        bank.append(np.full(len(outputs[-1]), len(banks)))
        banks.extend(fill_rows(rows, a.unit_rows))
    fields = [np.concatenate(part) for part in (bank, outputs, slice_indices)]
    read = np.arange(len(fields[0]))
    places = _spread(read, len(read), a)
    return np.stack(banks).astype(np.int32), _build_units(read, *places, *fields)


def _spread(unit: Any, units: int, a: Accelerator) -> tuple[Any, Any, Any]:
    """Spreads `units` units evenly over crossbars; returns the place of the unit of index `unit`.

    The place is a crossbar, the first wordline and the first bitline.
    """
    crossbars = max(ceil_div(units, a.unit_slots), 1)
    crossbar, slot = divmod(unit, max(ceil_div(units, crossbars), 1))
    down, across = divmod(slot, a.crossbar_columns // a.unit_columns)
    return crossbar, down * a.unit_rows, across * a.unit_columns


def _build_units(*fields: np.ndarray) -> Units:
    """Builds units, none of them flipped, from the other fields of `Units` in their order."""
    *indices, slices = fields
    unflipped = np.zeros(slices.shape, bool)
    whole = (x.astype(np.int32) for x in indices)
    return Units._make((*whole, slices.astype(np.uint8), unflipped))


def fill_rows(values: np.ndarray, width: int, padding: int = NONE) -> np.ndarray:
    """Cuts values [n] into rows of `width`; `padding` fills the last row: [⌈n / width⌉, width]."""
    rows = ceil_div(len(values), width)
    padded = np.pad(values, (0, rows * width - len(values)), constant_values=padding)
    return padded.reshape(rows, width)


def _cut_regions(regions: Iterable[_Region], accelerator: Accelerator) -> tuple[np.ndarray, Units]:
    """Cuts regions into units, row by row of units."""
    h, w = accelerator.unit_rows, accelerator.unit_columns
    banks: list[np.ndarray] = []
    first_bank: dict[int, int] = {}  # by strip
    parts = []
    for region in regions:
        down, across = ceil_div(len(region.inputs), h), ceil_div(len(region.outputs), w)
        if region.strip not in first_bank:
            first_bank[region.strip] = len(banks)
            banks.extend(fill_rows(region.inputs, h))
        parts.append(
            (
                np.full(down * across, not region.joins),
                np.full(down * across, region.crossbar),
                np.repeat(region.wordline + h * np.arange(down), across),
                np.tile(region.bitline + w * np.arange(across), down),
                np.repeat(first_bank[region.strip] + np.arange(down), across),
                np.tile(fill_rows(region.outputs, w), (down, 1)),
                np.tile(fill_rows(region.slices, w, 0), (down, 1)),
            )
        )
    if not parts:
        empty = np.zeros(0)
        return np.zeros((0, h), np.int32), _build_units(*(empty,) * 5, *(np.zeros((0, w)),) * 2)
    starts_read, *fields = (np.concatenate(part) for part in zip(*parts, strict=True))
    return np.stack(banks).astype(np.int32), _build_units(np.cumsum(starts_read) - 1, *fields)


def repeat_slices(columns: np.ndarray, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outputs and slices of bitlines that hold whole weights side by side."""
    return np.repeat(columns, slices), np.tile(np.arange(slices), len(columns))


def _tile(
    first: int, strip: int, rows: np.ndarray, columns: np.ndarray, slices: int, a: Accelerator
) -> Iterator[_Region]:
    """Tiles a full matrix over crossbars from `first` on; each row of crossbars is a strip."""
    outputs, slice_indices = repeat_slices(columns, slices)
    across = ceil_div(len(outputs), a.crossbar_columns)
    for down, top in enumerate(range(0, len(rows), a.crossbar_rows)):
        for beside, left in enumerate(range(0, len(outputs), a.crossbar_columns)):
            part = slice(left, left + a.crossbar_columns)
            inputs = rows[top : top + a.crossbar_rows]
            crossbar = first + down * across + beside
            yield _Region(crossbar, 0, 0, strip + down, inputs, outputs[part], slice_indices[part])


def _place_on_diagonals(
    matrices: list[tuple[np.ndarray, np.ndarray]], slices: int, place: Diagonal
) -> Iterator[_Region]:
    """Places matrices of (rows, columns) that each fit in a crossbar by `plan_diagonal`."""
    for strip, (rows, columns) in enumerate(matrices):
        crossbar, step = divmod(strip, place.beside)
        corner = crossbar, step * place.rows, step * place.bitlines
        joins = step % place.at_once > 0
        yield _Region(*corner, strip, rows, *repeat_slices(columns, slices), joins)


def _place_matrices(
    matrices: list[tuple[np.ndarray, np.ndarray]], slices: int, a: Accelerator
) -> Iterator[_Region]:
    """Places full matrices of (rows, columns), block-diagonally if each fits in a crossbar."""
    matrices = [(rows, columns) for rows, columns in matrices if len(rows) and len(columns)]
    place = plan_diagonal([(len(rows), len(columns)) for rows, columns in matrices], slices, a)
    if place.beside:
        yield from _place_on_diagonals(matrices, slices, place)
        return
    first = strip = 0
    for rows, columns in matrices:
        yield from _tile(first, strip, rows, columns, slices, a)
        bitlines, down = len(columns) * slices, ceil_div(len(rows), a.crossbar_rows)
        first, strip = first + down * ceil_div(bitlines, a.crossbar_columns), strip + down


def _pack_kept(mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Region]:
    """Packs each group's matrix without its pruned rows or columns."""
    _, height, width = mask.shape
    matrices = []
    for group, survivors in enumerate(mask):
        rows, columns = (np.flatnonzero(survivors.any(axis=axis)) for axis in (1, 0))
        matrices.append((group * height + rows, group * width + columns))
    return _place_matrices(matrices, slices, a)


def _pack_strips_up(mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Region]:
    """Packs the rows of each strip of columns upward; narrow strips lie side by side."""
    width = count_strip_columns(a)
    strips = [(rows, columns) for rows, columns in cut_strips(mask, width) if len(rows)]
    # Sorted by height, because strips side by side take as many crossbars as the highest of them.
    strips.sort(key=lambda strip: (len(strip[0]), len(strip[1])), reverse=True)
    place = plan_diagonal([(len(rows), len(columns)) for rows, columns in strips], slices, a)
    beside = count_strips_beside(mask.shape[2], slices, a)
    if place.beside > beside:
        yield from _place_on_diagonals(strips, slices, place)
        return
    pitch = min(width, mask.shape[2]) * slices
    first = strip = 0
    for start in range(0, len(strips), beside):
        end = first
        for index, (rows, columns) in enumerate(strips[start : start + beside]):
            for region in _tile(first, strip, rows, columns, slices, a):
                end = max(end, region.crossbar + 1)
                yield region._replace(bitline=index * pitch)
            strip += ceil_div(len(rows), a.crossbar_rows)
        first = end


def _pack_strips_left(mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Region]:
    """Packs the columns of each strip of rows left."""
    strips = cut_strips(mask.swapaxes(1, 2), a.crossbar_rows)
    return _place_matrices([(rows, columns) for columns, rows in strips], slices, a)


def _pack_sre(mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Region]:
    """Packs the rows of each unit's columns upward; units spread evenly over the crossbars."""
    units: list[tuple[Any, ...]] = []
    strip = 0
    for rows, columns in cut_strips(mask, count_sre_columns(a, slices)):
        outputs, slice_indices = repeat_slices(columns, slices)
        for top in range(0, len(rows), a.unit_rows):
            inputs = rows[top : top + a.unit_rows]
            for start in range(0, len(outputs), a.unit_columns):
                part = slice(start, start + a.unit_columns)
                units.append((strip, inputs, outputs[part], slice_indices[part]))
            strip += 1
    for index, unit in enumerate(units):
        yield _Region(*_spread(index, len(units), a), *unit)


PACKERS = {  # of the schemes whose units are cut from regions; column-vectors are streamed
    "dense": _pack_kept,
    "filter": _pack_kept,
    "channel": _pack_kept,
    "pim_prune": _pack_strips_up,
    "pim_prune_columns": _pack_strips_left,
    "sre": _pack_sre,
}
