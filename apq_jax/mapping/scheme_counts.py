"""The schemes: their blocks, and their counts of crossbars, units and index bits; on the host.

A function that returns `Counts` takes a layer, its mask of survivors [γ, R, C] bool, the weight
bits and the accelerator. Its counts are whole numbers, of one layer.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from apq_jax import crossbar
from apq_jax.compression.pruning import Block, cut_into_blocks
from apq_jax.crossbar import Counts
from apq_jax.hardware import Accelerator
from apq_jax.hardware.chip import ceil_div, ceil_log2
from apq_jax.types import Layer

_STRIP_BITS = 8  # pim_prune and sre have the blocks of 8-bit weights at any bits


def count_subset_bits(kept: int, count: int) -> int:
    """Counts the bits of an index of the `kept` survivors among `count` things.

    The index is a list of the survivors with its length, or a bitmap if that is shorter. One more
    bit tells list from bitmap.
    """
    return min(count_list_bits(1, kept, count), count) + 1


def count_list_bits(lists: int, kept: int, count: int) -> int:
    """Counts the bits of `lists` lists with `kept` entries in all, each list with its length.

    An entry is one of `count` things.
    """
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


def plan_diagonal(shapes: list[tuple[int, int]], slices: int, accelerator: Accelerator) -> Diagonal:
    """Plans a diagonal for matrices of (rows, columns); all blocks are as large as the largest."""
    a = accelerator
    rows = max((rows for rows, _ in shapes), default=1)
    bitlines = max((columns * slices for _, columns in shapes), default=1)
    beside = min(a.crossbar_rows // rows, a.crossbar_columns // bitlines)
    at_once = max(min(a.unit_rows // rows, a.unit_columns // bitlines), 1)
    return Diagonal(beside, min(at_once, max(beside, 1)), rows, bitlines)


def cut_strips(mask: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts each group into strips of `width` columns, the last one narrower.

    Args:
      mask: [γ, R, C] bool, survivors.
      width: columns of a strip.

    Yields:
      The rows with survivors, group x R + row, and all columns, group x C + column, of each strip.
    """
    _, height, columns = mask.shape
    for group, survivors in enumerate(mask):
        for left in range(0, columns, width):
            strip = survivors[:, left : left + width]
            rows = np.flatnonzero(strip.any(axis=1))
            yield group * height + rows, group * columns + left + np.arange(strip.shape[1])


def _measure_strips(mask: np.ndarray, width: int) -> list[tuple[int, int]]:
    """Returns the numbers of rows and columns of each strip of `cut_strips`."""
    return [(len(rows), len(columns)) for rows, columns in cut_strips(mask, width)]


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
    layer: Layer,
    shapes: list[tuple[int, int]],
    index: int,
    bits: int,
    accelerator: Accelerator,
    mnsim: bool,
) -> Counts:
    """Counts matrices of (rows, columns) that are packed densely, without the empty ones.

    Args:
      layer: has the kernel of the matrices.
      shapes: of the matrices.
      index: index bits, which are added to the bits for flipped bitlines.
      bits: of the weights.
      accelerator: any.
      mnsim: whether crossbars hold bit planes, as in MNSIM's mapping.
    """
    chip = accelerator.chip()._replace(mnsim=np.int64(mnsim))
    slices, planes = accelerator.slices(bits), np.int64(bits * (1 + int(chip.differential)))
    window = int(np.prod(layer.kernel, dtype=np.int64))
    shapes = [(rows, columns) for rows, columns in shapes if rows * columns]
    parts = [
        crossbar.count_full_matrices(1, *shape, window, np.int64(slices), planes, chip)
        for shape in shapes
    ]
    place = plan_diagonal(shapes, slices, accelerator)
    on_diagonals = place.beside and not mnsim
    counts = _count_on_diagonals(parts, place) if on_diagonals else _add_counts(parts)
    return counts._replace(index_bits=counts.index_bits + index)


def count_dense(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts the whole layer, whatever the mask."""
    del mask
    return crossbar.count_dense_layer(layer, np.int64(bits), accelerator.chip())


def count_filters(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts the surviving output channels, packed densely, with an index of which survive."""
    kept = mask.any(axis=1).sum(axis=1)  # [γ]
    shapes = [(layer.rows, int(columns)) for columns in kept]
    index = count_subset_bits(int(kept.sum()), layer.groups * layer.columns)
    return _count_matrices(layer, shapes, index, bits, accelerator, accelerator.mapping == "mnsim")


def count_channels(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts the surviving input channels, packed densely, with an index of which survive.

    A channel is a window of rows.
    """
    window = int(np.prod(layer.kernel, dtype=np.int64))
    kept = mask.any(axis=2).sum(axis=1)  # [γ], rows
    shapes = [(int(rows), layer.columns) for rows in kept]
    index = count_subset_bits(int(kept.sum()) // window, layer.groups * layer.rows // window)
    return _count_matrices(layer, shapes, index, bits, accelerator, accelerator.mapping == "mnsim")


def count_strip_columns(accelerator: Accelerator) -> int:
    """Counts the logical columns of a strip, as many as a crossbar holds at 8 bits, ⌊X_c / S⌋."""
    return max(accelerator.crossbar_columns // accelerator.slices(_STRIP_BITS), 1)


def count_sre_columns(accelerator: Accelerator, slices: int) -> int:
    """Counts the logical columns of a unit in `sre`, ⌊w / S⌋, but 1 if a weight is wider."""
    return max(accelerator.unit_columns // slices, 1)


def count_strips_beside(columns: int, slices: int, accelerator: Accelerator) -> int:
    """Counts the strips of `pim_prune` that fit side by side in a crossbar.

    Args:
      columns: logical columns of a group; a strip has no more.
      slices: bitlines of a weight.
      accelerator: any.
    """
    width = min(count_strip_columns(accelerator), columns)
    return max(accelerator.crossbar_columns // (width * slices), 1)


def count_pim_prune(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts strips of columns whose surviving rows pack upward, with an index per row.

    A strip of few bits or columns is narrower than a crossbar. Strips of like height then lie side
    by side, as many as fit, and are read one after the other. If more of them fit in a crossbar
    block-diagonally, they lie so instead.
    """
    slices = accelerator.slices(bits)
    strips = _measure_strips(mask, count_strip_columns(accelerator))
    index = count_list_bits(len(strips), sum(rows for rows, _ in strips), layer.rows)
    strips = sorted(((rows, columns) for rows, columns in strips if rows), reverse=True)
    # Each strip is a full matrix in crossbars of its own, in ISAAC's mapping.
    isaac = accelerator.chip()._replace(mnsim=np.int64(0))
    parts = [
        crossbar.count_full_matrices(1, *strip, 1, np.int64(slices), np.int64(1), isaac)
        for strip in strips
    ]
    counts, place = _add_counts(parts), plan_diagonal(strips, slices, accelerator)
    beside = count_strips_beside(layer.columns, slices, accelerator)
    if place.beside > beside:
        counts = _count_on_diagonals(parts, place)
    elif parts:
        bundles = [parts[start : start + beside] for start in range(0, len(parts), beside)]
        counts = counts._replace(
            crossbars=sum(max(part.crossbars for part in bundle) for bundle in bundles),
            fullest=max(sum(part.fullest for part in bundle) for bundle in bundles),
        )
    return counts._replace(index_bits=counts.index_bits + index)


def count_pim_prune_columns(
    layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator
) -> Counts:
    """Counts strips of rows whose surviving columns pack left, with an index per column."""
    strips = _measure_strips(mask.swapaxes(1, 2), accelerator.crossbar_rows)  # (columns, rows)
    index = count_list_bits(len(strips), sum(columns for columns, _ in strips), layer.columns)
    shapes = [(rows, columns) for columns, rows in strips]
    return _count_matrices(layer, shapes, index, bits, accelerator, mnsim=False)


def count_sre(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Counts strips of a unit's columns whose surviving rows pack upward, with an index per row."""
    a, slices = accelerator, accelerator.slices(bits)
    strips = np.asarray(_measure_strips(mask, count_sre_columns(a, slices)), np.int64)
    rows, columns = strips.T
    bitlines = columns * slices
    down, across = ceil_div(rows, a.unit_rows), ceil_div(bitlines, a.unit_columns)
    units, unit_bitlines = int(np.sum(down * across)), int(np.sum(down * bitlines))
    crossbars = max(ceil_div(units, a.unit_slots), 1)
    flips = int(a.flipped_columns) * unit_bitlines
    return Counts(
        crossbars=crossbars,
        slots=units,
        units=units,
        fullest=ceil_div(units, crossbars),
        drives=int(np.sum(rows * across)),
        columns=unit_bitlines,
        cells=int(np.sum(rows * bitlines)),
        outputs=int(np.sum(down * columns)),
        row_groups=int(np.sum(down)),
        index_bits=count_list_bits(len(rows), int(rows.sum()), layer.rows) + flips,
    )


def count_column_vectors(
    layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator
) -> Counts:
    """Counts the surviving column-vectors of every row group, streamed into its units."""
    chip, slices = accelerator.chip(), accelerator.slices(bits)
    height = accelerator.unit_rows
    vectors = cut_into_blocks(mask, Block(height)).any(axis=(2, 4))  # [γ, G, C]
    survivors = crossbar.count_survivors([vectors[None]])
    tables = crossbar.tabulate_column_vectors((layer,), survivors, height, chip, slices)
    return Counts(*(field[0, 0, slices - 1] for field in tables))


class Scheme(NamedTuple):
    """A way to prune and pack: the blocks pruned together, and the counts of the packing."""

    block: Callable[[Layer, Accelerator], Block]
    count_layer: Callable[[Layer, np.ndarray, int, Accelerator], Counts]  # (layer, mask, bits, ..)
    block_name: str  # in words, plural


def _build_channel_block(layer: Layer, _: Accelerator) -> Block:
    """Builds an input channel's window of rows."""
    return Block(int(np.prod(layer.kernel, dtype=np.int64)), layer.columns)


def _build_sre_block(_: Layer, accelerator: Accelerator) -> Block:
    """Builds a row of a unit's columns at 8 bits."""
    return Block(1, count_sre_columns(accelerator, accelerator.slices(_STRIP_BITS)))


SCHEMES: dict[str, Scheme] = {
    "dense": Scheme(lambda layer, _: Block(layer.rows, layer.columns), count_dense, "layers"),
    "filter": Scheme(lambda layer, _: Block(layer.rows), count_filters, "filters"),
    "channel": Scheme(_build_channel_block, count_channels, "input channels"),
    "pim_prune": Scheme(
        lambda _, accelerator: Block(1, count_strip_columns(accelerator)),
        count_pim_prune,
        "rows of strips",
    ),
    "pim_prune_columns": Scheme(
        lambda _, accelerator: Block(accelerator.crossbar_rows),
        count_pim_prune_columns,
        "columns of strips",
    ),
    "sre": Scheme(_build_sre_block, count_sre, "rows of units"),
    "sre_weights": Scheme(lambda *_: Block(1), count_sre, "weights"),
    "column_vector": Scheme(
        lambda _, accelerator: Block(accelerator.unit_rows), count_column_vectors, "column-vectors"
    ),
}
