"""How each scheme packs what survives: crossbars, units and index bits, counted on the host."""

from typing import NamedTuple

import numpy as np

from apq_jax import crossbar
from apq_jax.compression.pruning import Block
from apq_jax.crossbar import Counts, ceil_div
from apq_jax.hardware import Accelerator
from apq_jax.types import Layer

_STRIP_BITS = 8  # the blocks of pim_prune and sre are those of 8-bit weights, whatever the bits


def _width(count: int) -> int:
    """Bits that tell `count` things apart, ⌈log2 count⌉."""
    return (count - 1).bit_length()


def _listed(kept: int, count: int) -> int:
    """Bits that say which `kept` of `count`.

    Their number and a list, or a bitmap, and one bit that says which.
    """
    return min(count.bit_length() + kept * _width(count), count) + 1


def _lists(kept: list[int], count: int, flips: int) -> int:
    """Bits of lists of so many of `count`, each with its length, and of flipped bitlines."""
    return sum(count.bit_length() + each * _width(count) for each in kept) + flips


def _summed(parts: list[Counts]) -> Counts:
    """Matrices that share no crossbar."""
    if not parts:
        return Counts(1, *(0,) * 9)
    found = Counts(*(np.sum(field) for field in zip(*parts, strict=True)))
    return found._replace(fullest=max(part.fullest for part in parts))


class Diagonal(NamedTuple):
    """How matrices, each with inputs and outputs of its own, share crossbars."""

    beside: int  # matrices in a crossbar; 0: the largest is larger than one
    at_once: int  # of these, so many lie in one unit and are read together
    rows: int  # of the largest: the n-th of a crossbar begins n times as far down
    bitlines: int  # and across


def plan_diagonal(shapes: list[tuple[int, int]], accelerator: Accelerator) -> Diagonal:
    """Of matrices of rows x bitlines, block by block as large as the largest; [] takes nothing."""
    a = accelerator
    rows = max((high for high, _ in shapes), default=1)
    bitlines = max((wide for _, wide in shapes), default=1)
    beside = min(a.crossbar_rows // rows, a.crossbar_columns // bitlines)
    at_once = max(min(a.unit_rows // rows, a.unit_columns // bitlines), 1)
    return Diagonal(beside, min(at_once, max(beside, 1)), rows, bitlines)


def _on_diagonals(parts: list[Counts], place: Diagonal) -> Counts:
    """Matrices that each fit in a crossbar, in their order."""
    found = _summed(parts)
    if not parts:
        return found
    crossbars = [parts[at : at + place.beside] for at in range(0, len(parts), place.beside)]
    # Where one unit holds several, each of them is one read of its own.
    turns = [
        ceil_div(len(some), place.at_once)
        if place.at_once > 1
        else sum(int(part.units) for part in some)
        for some in crossbars
    ]
    return found._replace(crossbars=len(crossbars), units=sum(turns), fullest=max(turns))


def _matrices(
    layer: Layer, shapes: list[tuple[int, int]], bits: int, accelerator: Accelerator
) -> Counts:
    """Dense packing of matrices of rows x columns; empty ones go."""
    chip, slices = accelerator.chip(), np.int64(accelerator.slices(bits))
    planes = np.int64(bits * (1 + int(chip.differential)))
    window = int(np.prod(layer.kernel, dtype=np.int64))
    shapes = [(rows, columns) for rows, columns in shapes if rows * columns]
    parts = [
        crossbar.count_full_matrices(1, *shape, window, slices, planes, chip) for shape in shapes
    ]
    place = plan_diagonal([(rows, columns * int(slices)) for rows, columns in shapes], accelerator)
    if accelerator.mapping == "mnsim" or not place.beside:
        return _summed(parts)
    return _on_diagonals(parts, place)


def count_dense(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    del mask
    return crossbar.count_dense_layer(layer, np.int64(bits), accelerator.chip())


def count_filters(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Whole output channels go; the rest are packed densely, with a list of them."""
    kept = mask.any(axis=1).sum(axis=1)  # [γ]
    found = _matrices(layer, [(layer.rows, int(wide)) for wide in kept], bits, accelerator)
    index = _listed(int(kept.sum()), layer.groups * layer.columns)
    return found._replace(index_bits=found.index_bits + index)


def count_channels(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Whole input channels go, each a window of rows."""
    window = int(np.prod(layer.kernel, dtype=np.int64))
    rows = mask.any(axis=2).sum(axis=1)  # [γ]
    found = _matrices(layer, [(int(high), layer.columns) for high in rows], bits, accelerator)
    channels = int(rows.sum()) // window
    index = _listed(channels, layer.groups * layer.rows // window)
    return found._replace(index_bits=found.index_bits + index)


def count_strip_columns(accelerator: Accelerator) -> int:
    """Logical columns of a crossbar at 8 bits, ⌊X_c / S⌋."""
    return max(accelerator.crossbar_columns // accelerator.slices(_STRIP_BITS), 1)


def count_sre_columns(accelerator: Accelerator, slices: int) -> int:
    """Logical columns of a unit in `sre`, ⌊w / S⌋; of a weight wider than a unit, 1."""
    return max(accelerator.unit_columns // slices, 1)


def count_strips_beside(layer: Layer, slices: int, accelerator: Accelerator) -> int:
    """Strips of `pim_prune` that lie side by side from a crossbar's first wordline on."""
    width = min(count_strip_columns(accelerator), layer.columns)
    return max(accelerator.crossbar_columns // (width * slices), 1)


def count_pim_prune(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Row segments of each strip of columns go, the rest pack upward; an input index a segment.

    With fewer bits, or few columns, a strip is narrower than a crossbar: as many as fit lie beside
    each other, those of like height together, and are read in turn; or block-diagonally where
    that holds more.
    """
    a, slices, width = accelerator, accelerator.slices(bits), count_strip_columns(accelerator)
    strips = []  # (rows kept, logical columns)
    for group in mask:
        for start in range(0, layer.columns, width):
            part = group[:, start : start + width]
            strips.append((int(part.any(axis=1).sum()), part.shape[1]))
    strips = sorted((one for one in strips if one[0]), reverse=True)
    lists = layer.groups * ceil_div(layer.columns, width)
    parts = [_strip(kept, wide, slices, a) for kept, wide in strips]
    flips = sum(int(part.index_bits) for part in parts)
    kept_rows = [kept for kept, _ in strips]
    index = _lists(kept_rows + [0] * (lists - len(strips)), layer.rows, flips)
    place, beside = (
        plan_diagonal([(kept, wide * slices) for kept, wide in strips], a),
        count_strips_beside(layer, slices, a),
    )
    if place.beside > beside:
        return _on_diagonals(parts, place)._replace(index_bits=index)
    bundles = [parts[start : start + beside] for start in range(0, len(parts), beside)]
    found = _summed(parts)
    if not parts:
        return found._replace(index_bits=index)
    return found._replace(
        crossbars=sum(max(part.crossbars for part in bundle) for bundle in bundles),
        fullest=max(sum(part.fullest for part in bundle) for bundle in bundles),
        index_bits=index,
    )


def count_pim_prune_columns(
    layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator
) -> Counts:
    """Column segments of each strip of rows go, the rest pack left; an output index a segment."""
    a, slices = accelerator, accelerator.slices(bits)
    strips = []
    for group in mask:
        for start in range(0, layer.rows, a.crossbar_rows):
            part = group[start : start + a.crossbar_rows]
            strips.append((part.shape[0], int(part.any(axis=0).sum())))
    all_kept = [kept for _, kept in strips]
    strips = [(rows, kept) for rows, kept in strips if kept]
    parts = [_strip(rows, kept, slices, a) for rows, kept in strips]
    place = plan_diagonal([(rows, kept * slices) for rows, kept in strips], a)
    found = _on_diagonals(parts, place) if place.beside else _summed(parts)
    flips = sum(int(part.index_bits) for part in parts)
    return found._replace(index_bits=_lists(all_kept, layer.columns, flips))


def _strip(rows: int, columns: int, slices: int, accelerator: Accelerator) -> Counts:
    """A full matrix in crossbars of its own, ISAAC's mapping."""
    isaac = accelerator.chip()._replace(mnsim=np.int64(0))
    return crossbar.count_full_matrices(1, rows, columns, 1, np.int64(slices), np.int64(1), isaac)


def count_sre(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Rows of a unit's columns that are all zero go, the rest pack upward; an index a row."""
    a, slices = accelerator, accelerator.slices(bits)
    wide = count_sre_columns(a, slices)
    units = drives = columns = cells = outputs = groups = 0
    rows = []  # kept of each unit's columns
    for group in mask:
        for start in range(0, layer.columns, wide):
            part = group[:, start : start + wide]
            kept, width = int(part.any(axis=1).sum()), part.shape[1]
            down, across = ceil_div(kept, a.unit_rows), ceil_div(width * slices, a.unit_columns)
            units += down * across
            drives += kept * across
            columns += down * width * slices
            cells += kept * width * slices
            outputs += down * width
            groups += down
            rows.append(kept)
    crossbars = max(ceil_div(units, a.unit_slots), 1)
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
        index_bits=_lists(rows, layer.rows, int(a.flipped_columns) * columns),
    )


def count_column_vectors(
    layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator
) -> Counts:
    """Column-vectors go; the rest of a row group are streamed into its units."""
    chip, slices = accelerator.chip(), accelerator.slices(bits)
    height = accelerator.unit_rows
    count = layer.count_row_groups(height)
    padding = ((0, 0), (0, count * height - layer.rows), (0, 0))
    blocks = np.pad(mask, padding).reshape(layer.groups, count, height, layer.columns)
    survivors = crossbar.count_survivors([np.asarray(blocks.any(axis=2))[None]])
    tables = crossbar.tabulate_column_vectors((layer,), survivors, height, chip, slices)
    return Counts(*(field[0, 0, slices - 1] for field in tables))


def build_channel_block(layer: Layer, accelerator: Accelerator) -> Block:
    return Block(int(np.prod(layer.kernel, dtype=np.int64)), layer.columns)


def build_sre_block(layer: Layer, accelerator: Accelerator) -> Block:
    return Block(1, count_sre_columns(accelerator, accelerator.slices(_STRIP_BITS)))
