"""Where the units of every scheme lie, as apq_jax/mapping/schemes.py counts them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from apq_jax.crossbar import ceil_div
from apq_jax.hardware import Accelerator
from apq_jax.mapping.scheme_counts import (
    Diagonal,
    count_sre_columns,
    count_strip_columns,
    count_strips_beside,
    plan_diagonal,
)
from apq_jax.mapping.units import NONE, Units
from apq_jax.types import Layer


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


def pack(
    layer: Layer, mask: np.ndarray, slices: int, scheme: str, accelerator: Accelerator
) -> tuple[np.ndarray, Units]:
    """The banks [banks, h] of a layer and its units, none of them flipped.

    Args:
      layer: its shape.
      mask: [γ, R, C] bool, survivors, in the scheme's blocks.
      slices: bitlines of a weight.
      scheme: of PACKED, or "column_vector".
      accelerator: with `mapping = "isaac"`.
    """
    if scheme == "column_vector":
        return _column_vectors(layer, mask, slices, accelerator)
    return _cut(list(PACKERS[scheme](layer, mask, slices, accelerator)), accelerator)


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
    place = plan_diagonal(_shapes(matrices, slices), a)
    if place.beside:
        yield from _on_diagonals(matrices, slices, place)
        return
    first = strip = 0
    for rows, columns in matrices:
        yield from _tiles(first, strip, rows, columns, slices, a)
        bitlines, down = len(columns) * slices, ceil_div(len(rows), a.crossbar_rows)
        first, strip = first + down * ceil_div(bitlines, a.crossbar_columns), strip + down


def _kept(layer: Layer, mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Block]:
    """What is left of each group's matrix without the rows, or the columns, that are pruned."""
    matrices = []
    for group, survivors in enumerate(mask):
        rows, columns = (np.flatnonzero(survivors.any(axis=axis)) for axis in (1, 0))
        matrices.append((group * layer.rows + rows, group * layer.columns + columns))
    return _matrices(matrices, slices, a)


def _strips_up(layer: Layer, mask: np.ndarray, slices: int, a: Accelerator) -> Iterator[_Block]:
    """Rows of a strip of columns pack upward; narrow strips of like height lie side by side."""
    width, strips = count_strip_columns(a), []
    for group in range(layer.groups):
        for left in range(0, layer.columns, width):
            kept = np.flatnonzero(mask[group, :, left : left + width].any(axis=1))
            columns = np.arange(left, min(left + width, layer.columns))
            if len(kept):
                strips.append((group * layer.rows + kept, group * layer.columns + columns))
    strips.sort(key=lambda one: (len(one[0]), len(one[1])), reverse=True)
    place, beside = plan_diagonal(_shapes(strips, slices), a), count_strips_beside(layer, slices, a)
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
    wide, found, strip = count_sre_columns(a, slices), [], 0
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


PACKERS = {  # schemes whose units are cut from blocks; column-vectors are streamed
    "dense": _kept,
    "filter": _kept,
    "channel": _kept,
    "pim_prune": _strips_up,
    "pim_prune_columns": _strips_left,
    "sre": _sre,
}
