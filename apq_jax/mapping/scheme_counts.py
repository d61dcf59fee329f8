"""Counts the crossbars, units and index bits of a pruned layer under each scheme, on the host.

Each `count_...` function takes a layer, its mask of survivors [γ, R, C] bool, the weight bits and
the accelerator, and returns whole numbers.
"""

from typing import NamedTuple

import numpy as np

from apq_jax import crossbar
from apq_jax.compression.pruning import Block
from apq_jax.crossbar import Counts, ceil_div, ceil_log2
from apq_jax.hardware import Accelerator
from apq_jax.types import Layer

_STRIP_BITS = 8  # pim_prune and sre have the blocks of 8-bit weights at any bits


def count_subset_bits(kept: int, count: int) -> int:
    """Counts the bits that say which `kept` of `count` things survive.

    They are the number of survivors and a list of them, or a bitmap, and one bit that says which.
    """
    return min(count_list_bits(1, kept, count), count) + 1


def count_list_bits(lists: int, kept: int, count: int) -> int:
    """Counts the bits of lists that hold `kept` of `count` things in all, each with its length."""
    return lists * count.bit_length() + kept * ceil_log2(count)


def _add_counts(parts: list[Counts]) -> Counts:
    """Adds the counts of matrices that share no crossbar; an empty list takes one."""
    if not parts:
        return Counts(1, *(0,) * 9)
    sums = Counts(*(np.sum(field) for field in zip(*parts, strict=True)))
    return sums._replace(fullest=max(part.fullest for part in parts))


class Diagonal(NamedTuple):
    """How matrices that share no input and no output lie block-diagonally in crossbars."""

    beside: int  # matrices per crossbar; 0 if the largest matrix does not fit in one
    at_once: int  # matrices that lie in one unit and are read together
    rows: int  # rows of a block: matrix n of a crossbar begins n times as far down
    bitlines: int  # bitlines of a block: it begins n times as far across


def plan_diagonal(shapes: list[tuple[int, int]], accelerator: Accelerator) -> Diagonal:
    """Plans a diagonal for matrices of (rows, bitlines); all blocks are as large as the largest."""
    a = accelerator
    rows = max((rows for rows, _ in shapes), default=1)
    bitlines = max((bitlines for _, bitlines in shapes), default=1)
    beside = min(a.crossbar_rows // rows, a.crossbar_columns // bitlines)
    at_once = max(min(a.unit_rows // rows, a.unit_columns // bitlines), 1)
    return Diagonal(beside, min(at_once, max(beside, 1)), rows, bitlines)


def _count_on_diagonals(parts: list[Counts], place: Diagonal) -> Counts:
    """Counts matrices that lie on diagonals in their order; each fits in a crossbar."""
    sums = _add_counts(parts)
    if not parts:
        return sums
    step = place.beside
    crossbars = [parts[start : start + step] for start in range(0, len(parts), step)]
    # Matrices that lie in one unit are read together, so their units are not summed.
    reads = [
        ceil_div(len(matrices), place.at_once)
        if place.at_once > 1
        else sum(int(part.units) for part in matrices)
        for matrices in crossbars
    ]
    return sums._replace(crossbars=len(crossbars), units=sum(reads), fullest=max(reads))


def _count_matrices(
    layer: Layer, shapes: list[tuple[int, int]], bits: int, accelerator: Accelerator
) -> Counts:
    """Counts matrices of (rows, columns) that are packed densely, without the empty ones."""
    chip, slices = accelerator.chip(), np.int64(accelerator.slices(bits))
    planes = np.int64(bits * (1 + int(chip.differential)))
    window = int(np.prod(layer.kernel, dtype=np.int64))
    shapes = [(rows, columns) for rows, columns in shapes if rows * columns]
    parts = [
        crossbar.count_full_matrices(1, *shape, window, slices, planes, chip) for shape in shapes
    ]
    place = plan_diagonal([(rows, columns * int(slices)) for rows, columns in shapes], accelerator)
    if accelerator.mapping == "mnsim" or not place.beside:
        return _add_counts(parts)
    return _count_on_diagonals(parts, place)


def count_dense(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts the whole layer, whatever the mask."""
    del mask
    return crossbar.count_dense_layer(layer, np.int64(bits), accelerator.chip())


def count_filters(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts the surviving output channels, packed densely, with an index of which survive."""
    kept = mask.any(axis=1).sum(axis=1)  # [γ]
    shapes = [(layer.rows, int(columns)) for columns in kept]
    counts = _count_matrices(layer, shapes, bits, accelerator)
    index = count_subset_bits(int(kept.sum()), layer.groups * layer.columns)
    return counts._replace(index_bits=counts.index_bits + index)


def count_channels(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts the surviving input channels, each a window of rows, as `count_filters` does."""
    window = int(np.prod(layer.kernel, dtype=np.int64))
    kept = mask.any(axis=2).sum(axis=1)  # [γ]
    shapes = [(int(rows), layer.columns) for rows in kept]
    counts = _count_matrices(layer, shapes, bits, accelerator)
    index = count_subset_bits(int(kept.sum()) // window, layer.groups * layer.rows // window)
    return counts._replace(index_bits=counts.index_bits + index)


def count_strip_columns(accelerator: Accelerator) -> int:
    """Counts the logical columns of a strip, those of a crossbar at 8 bits, ⌊X_c / S⌋."""
    return max(accelerator.crossbar_columns // accelerator.slices(_STRIP_BITS), 1)


def count_sre_columns(accelerator: Accelerator, slices: int) -> int:
    """Counts the logical columns of a unit in `sre`, ⌊w / S⌋, but 1 if a weight is wider."""
    return max(accelerator.unit_columns // slices, 1)


def count_strips_beside(layer: Layer, slices: int, accelerator: Accelerator) -> int:
    """Counts the strips of `pim_prune` that fit side by side in a crossbar."""
    width = min(count_strip_columns(accelerator), layer.columns)
    return max(accelerator.crossbar_columns // (width * slices), 1)


def count_pim_prune(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts strips of columns whose surviving rows pack upward, with an index per row.

    A strip of few bits or columns is narrower than a crossbar. Strips of like height then lie side
    by side, as many as fit, and are read one after the other; they lie block-diagonally instead if
    a crossbar holds more of them so.
    """
    a, slices, width = accelerator, accelerator.slices(bits), count_strip_columns(accelerator)
    strips = []  # (rows kept, logical columns)
    for group in mask:
        for start in range(0, layer.columns, width):
            part = group[:, start : start + width]
            strips.append((int(part.any(axis=1).sum()), part.shape[1]))
    index = count_list_bits(len(strips), sum(kept for kept, _ in strips), layer.rows)
    strips = sorted(((kept, columns) for kept, columns in strips if kept), reverse=True)
    parts = [_count_strip(kept, columns, slices, a) for kept, columns in strips]
    index += sum(int(part.index_bits) for part in parts)  # of flipped bitlines
    place = plan_diagonal([(kept, columns * slices) for kept, columns in strips], a)
    beside = count_strips_beside(layer, slices, a)
    if place.beside > beside:
        return _count_on_diagonals(parts, place)._replace(index_bits=index)
    bundles = [parts[start : start + beside] for start in range(0, len(parts), beside)]
    sums = _add_counts(parts)
    if not parts:
        return sums._replace(index_bits=index)
    return sums._replace(
        crossbars=sum(max(part.crossbars for part in bundle) for bundle in bundles),
        fullest=max(sum(part.fullest for part in bundle) for bundle in bundles),
        index_bits=index,
    )


def count_pim_prune_columns(
    layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator
) -> Counts:
    """Counts strips of rows whose surviving columns pack left, with an index per column."""
    a, slices = accelerator, accelerator.slices(bits)
    strips = []  # (rows, columns kept)
    for group in mask:
        for start in range(0, layer.rows, a.crossbar_rows):
            part = group[start : start + a.crossbar_rows]
            strips.append((part.shape[0], int(part.any(axis=0).sum())))
    index = count_list_bits(len(strips), sum(kept for _, kept in strips), layer.columns)
    strips = [(rows, kept) for rows, kept in strips if kept]
    parts = [_count_strip(rows, kept, slices, a) for rows, kept in strips]
    index += sum(int(part.index_bits) for part in parts)  # of flipped bitlines
    place = plan_diagonal([(rows, kept * slices) for rows, kept in strips], a)
    counts = _count_on_diagonals(parts, place) if place.beside else _add_counts(parts)
    return counts._replace(index_bits=index)


def _count_strip(rows: int, columns: int, slices: int, accelerator: Accelerator) -> Counts:
    """Counts a full matrix in crossbars of its own, in ISAAC's mapping."""
    isaac = accelerator.chip()._replace(mnsim=np.int64(0))
    return crossbar.count_full_matrices(1, rows, columns, 1, np.int64(slices), np.int64(1), isaac)


def count_sre(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts strips of a unit's columns whose surviving rows pack upward, with an index per row."""
    a, slices = accelerator, accelerator.slices(bits)
    width = count_sre_columns(a, slices)
    units = drives = columns = cells = outputs = groups = 0
    rows = []  # kept, of each strip
    for group in mask:
        for start in range(0, layer.columns, width):
            part = group[:, start : start + width]
            kept, bitlines = int(part.any(axis=1).sum()), part.shape[1] * slices
            down, across = ceil_div(kept, a.unit_rows), ceil_div(bitlines, a.unit_columns)
            units += down * across
            drives += kept * across
            columns += down * bitlines
            cells += kept * bitlines
            outputs += down * part.shape[1]
            groups += down
            rows.append(kept)
    crossbars = max(ceil_div(units, a.unit_slots), 1)
    flips = int(a.flipped_columns) * columns
    return Counts(
        crossbars=crossbars,
        slots=units,
        units=units,
        fullest=ceil_div(units, crossbars),
        drives=drives,
        columns=columns,
        cells=cells,
        outputs=outputs,
        row_groups=groups,
        index_bits=count_list_bits(len(rows), sum(rows), layer.rows) + flips,
    )


def count_column_vectors(
    layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator
) -> Counts:
    """Counts the surviving column-vectors of every row group, streamed into its units."""
    chip, slices = accelerator.chip(), accelerator.slices(bits)
    height = accelerator.unit_rows
    count = layer.count_row_groups(height)
    padding = ((0, 0), (0, count * height - layer.rows), (0, 0))
    blocks = np.pad(mask, padding).reshape(layer.groups, count, height, layer.columns)
    survivors = crossbar.count_survivors([np.asarray(blocks.any(axis=2))[None]])
    tables = crossbar.tabulate_column_vectors((layer,), survivors, height, chip, slices)
    return Counts(*(field[0, 0, slices - 1] for field in tables))


def build_channel_block(layer: Layer, accelerator: Accelerator) -> Block:
    """Builds the block of the channel scheme, an input channel's window of rows."""
    return Block(int(np.prod(layer.kernel, dtype=np.int64)), layer.columns)


def build_sre_block(layer: Layer, accelerator: Accelerator) -> Block:
    """Builds the block of the SRE scheme, a row of a unit's columns at 8 bits."""
    return Block(1, count_sre_columns(accelerator, accelerator.slices(_STRIP_BITS)))
