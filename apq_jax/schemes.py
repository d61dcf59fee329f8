"""What each scheme prunes, and what its packing counts, under one cost model; on the host.

A mask of weights [γ, R, C] says what survives, whatever the scheme; the scheme decides in which
blocks weights live or die together and how the survivors are packed. docs/cost_model.md has the
formulas. `column_vector` and `dense` have a form for compiled programs in apq_jax/crossbar.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from apq_jax import crossbar
from apq_jax.crossbar import Counts, ceil_div
from apq_jax.hardware import Accelerator
from apq_jax.types import Layer

_STRIP_BITS = 8  # the blocks of pim_prune and sre are those of 8-bit weights, whatever the bits


class Scheme(NamedTuple):
    """A way to prune and pack."""

    block: Callable[[Layer, Accelerator], tuple[int, int]]  # rows and columns that share a fate
    pack: Callable[[Layer, np.ndarray, int, Accelerator], Counts]  # (layer, mask, bits, ..) -> []


def block_mask(
    layer: Layer, weights: np.ndarray, scheme: str, keep: float, accelerator: Accelerator
) -> np.ndarray:
    """Survivors [γ, R, C] bool: the `keep` of the scheme's blocks with the largest mean square.

    Args:
      layer: its shape.
      weights: [γ, R, C].
      scheme: of SCHEMES.
      keep: share of the blocks, in (0, 1].
      accelerator: it decides the blocks.
    """
    high, wide = SCHEMES[scheme].block(layer, accelerator)
    down, across = ceil_div(layer.rows, high), ceil_div(layer.columns, wide)
    padding = ((0, 0), (0, down * high - layer.rows), (0, across * wide - layer.columns))
    shape = (layer.groups, down, high, across, wide)
    energy = np.pad(np.square(weights), padding).reshape(shape).sum(axis=(2, 4))
    size = np.pad(np.ones(weights.shape), padding).reshape(shape).sum(axis=(2, 4))
    score = energy / size
    count = max(round(keep * score.size), 1)
    chosen = np.zeros(score.size, bool)
    chosen[np.argsort(-score, axis=None, kind="stable")[:count]] = True
    mask = np.repeat(np.repeat(chosen.reshape(score.shape), high, axis=1), wide, axis=2)
    return mask[:, : layer.rows, : layer.columns]


def pack(
    layers: tuple[Layer, ...],
    masks: list[np.ndarray],
    weight_bits: np.ndarray,
    scheme: str,
    accelerator: Accelerator,
) -> Counts:
    """Counts of a pruned network, [L]; `crossbar.cost` takes them.

    Args:
      layers: the network's.
      masks: survivors, [γ, R, C] bool a layer, in the scheme's blocks.
      weight_bits: [L].
      scheme: of SCHEMES.
      accelerator: any.
    """
    found = [
        SCHEMES[scheme].pack(layer, mask, int(bits), accelerator)
        for layer, mask, bits in zip(layers, masks, weight_bits, strict=True)
    ]
    return Counts(*(np.asarray(field, np.int64) for field in zip(*found, strict=True)))


def better(first: Counts, second: Counts) -> Counts:
    """Layer by layer the packing of fewer crossbars; of as many, of fewer units; [L]."""
    fewer = (second.crossbars < first.crossbars) | (
        (second.crossbars == first.crossbars) & (second.units < first.units)
    )
    return Counts(*(np.where(fewer, b, a) for a, b in zip(first, second, strict=True)))


def utilisation(
    layers: tuple[Layer, ...], counts: Counts, weight_bits: np.ndarray, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """How full the crossbars are, [L]: whole numbers of cells, slots and bits, and two shares."""
    chip = accelerator.chip()
    cells = counts.crossbars * accelerator.crossbar_rows * accelerator.crossbar_columns
    slots = counts.crossbars * accelerator.unit_slots
    in_units = counts.units * accelerator.unit_rows * accelerator.unit_columns
    stored = counts.cells // crossbar.slices_of(np.asarray(weight_bits), chip) * weight_bits
    return {
        "cells_unused": cells - counts.cells,
        "slots_unused": np.maximum(slots - counts.units, 0),
        "padding_cells": in_units - counts.cells,  # of units that hold something
        "index_bits": counts.index_bits,
        "cells_used": counts.cells / cells,
        "index_overhead": counts.index_bits / np.maximum(stored, 1),
    }


# --- packings ------------------------------------------------------------------------------------


def _width(count: int) -> int:
    """Bits that tell `count` things apart, ⌈log2 count⌉."""
    return (count - 1).bit_length()


def _listed(kept: int, count: int) -> int:
    """Bits that say which `kept` of `count`: a list or a bitmap, and one bit that says which."""
    return min(kept * _width(count), count) + 1


def _summed(parts: list[Counts]) -> Counts:
    """Matrices that share no crossbar."""
    if not parts:
        return Counts(1, *(0,) * 9)
    found = Counts(*(np.sum(field) for field in zip(*parts, strict=True)))
    return found._replace(fullest=max(part.fullest for part in parts))


def _block_of_crossbars(
    layer: Layer, rows: np.ndarray, columns: np.ndarray, bits: int, accelerator: Accelerator
) -> Counts:
    """Dense packing of γ matrices of rows [γ] x columns [γ]; empty ones go."""
    chip = accelerator.chip()
    one = Layer(layer.name, 1, 0, 0, layer.positions, layer.kernel, layer.stride)
    slices, planes = accelerator.slices(bits), bits * (1 + int(chip.differential))
    parts, whole = [], []
    for r, c in zip(rows.tolist(), columns.tolist(), strict=True):
        if r * c:
            parts.append(crossbar._tiled(one, r, c, np.int64(slices), np.int64(planes), chip))
            whole.append((r, c))
    if not parts:
        return _summed([])
    found = _summed(parts)
    if len(parts) == layer.groups > 1 and len(set(whole)) == 1:  # block-diagonally
        r, c = whole[0]
        return crossbar._tiled(layer, r, c, np.int64(slices), np.int64(planes), chip)
    return found


def _dense(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    del mask
    return crossbar.dense_layer(layer, np.int64(bits), accelerator.chip())


def _filter(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Whole output channels go; the rest are packed densely, with a list of them."""
    kept = mask.any(axis=1).sum(axis=1)  # [γ]
    found = _block_of_crossbars(layer, np.full_like(kept, layer.rows), kept, bits, accelerator)
    return found._replace(index_bits=_listed(int(kept.sum()), layer.groups * layer.columns))


def _channel(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Whole input channels go, each a window of rows."""
    window = int(np.prod(layer.kernel, dtype=np.int64))
    rows = mask.any(axis=2).sum(axis=1)  # [γ]
    found = _block_of_crossbars(layer, rows, np.full_like(rows, layer.columns), bits, accelerator)
    channels = int(rows.sum()) // window
    return found._replace(index_bits=_listed(channels, layer.groups * layer.rows // window))


def strip_columns(accelerator: Accelerator) -> int:
    """Logical columns of a crossbar at 8 bits, ⌊X_c / S⌋."""
    return max(accelerator.crossbar_columns // accelerator.slices(_STRIP_BITS), 1)


def sre_columns(accelerator: Accelerator, slices: int) -> int:
    """Logical columns of a unit in `sre`, ⌊w / S⌋; of a weight wider than a unit, 1."""
    return max(accelerator.unit_columns // slices, 1)


def _cut(length: int, at: int, unit: int) -> int:
    """Units along `length` cells, none across a crossbar's edge."""
    return length // at * ceil_div(at, unit) + ceil_div(length % at, unit)


def _pim_prune(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Row segments of each strip of columns go, the rest pack upward; an input index a segment.

    With fewer bits a strip is narrower than a crossbar: as many as fit lie beside each other,
    those of like height together.
    """
    a, slices, strip = accelerator, accelerator.slices(bits), strip_columns(accelerator)
    parts = []
    for group in mask:
        found = []  # (rows kept, logical columns)
        for start in range(0, layer.columns, strip):
            part = group[:, start : start + strip]
            found.append((int(part.any(axis=1).sum()), part.shape[1]))
        found = sorted((one for one in found if one[0]), reverse=True)
        beside = max(a.crossbar_columns // (strip * slices), 1)
        for start in range(0, len(found), beside):
            bundle = found[start : start + beside]
            across = [_cut(wide * slices, a.crossbar_columns, a.unit_columns) for _, wide in bundle]
            down = [_cut(kept, a.crossbar_rows, a.unit_rows) for kept, _ in bundle]
            wide = max(ceil_div(width * slices, a.crossbar_columns) for _, width in bundle)
            crossbars = ceil_div(bundle[0][0], a.crossbar_rows) * wide
            parts.append(
                Counts(
                    crossbars=crossbars,
                    slots=sum(
                        ceil_div(kept, a.unit_rows) * ceil_div(width * slices, a.unit_columns)
                        for kept, width in bundle
                    ),
                    units=sum(d * n for d, n in zip(down, across, strict=True)),
                    fullest=sum(
                        ceil_div(min(kept, a.crossbar_rows), a.unit_rows)
                        * ceil_div(min(width * slices, a.crossbar_columns), a.unit_columns)
                        for kept, width in bundle
                    ),
                    drives=sum(k * n for (k, _), n in zip(bundle, across, strict=True)),
                    columns=sum(d * w * slices for d, (_, w) in zip(down, bundle, strict=True)),
                    cells=sum(kept * width * slices for kept, width in bundle),
                    outputs=sum(d * w for d, (_, w) in zip(down, bundle, strict=True)),
                    row_groups=sum(down),
                    index_bits=sum(kept for kept, _ in bundle) * _width(layer.rows),
                )
            )
    return _summed(parts)


def _pim_prune_columns(
    layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator
) -> Counts:
    """Column segments of each strip of rows go, the rest pack left; an output index a segment."""
    a, slices = accelerator, accelerator.slices(bits)
    parts = []
    for group in mask:
        for start in range(0, layer.rows, a.crossbar_rows):
            part = group[start : start + a.crossbar_rows]
            rows, kept = part.shape[0], int(part.any(axis=0).sum())
            if not kept:
                continue
            across = _cut(kept * slices, a.crossbar_columns, a.unit_columns)
            down = ceil_div(rows, a.unit_rows)
            first = ceil_div(min(kept * slices, a.crossbar_columns), a.unit_columns)
            parts.append(
                Counts(
                    crossbars=ceil_div(kept * slices, a.crossbar_columns),
                    slots=down * ceil_div(kept * slices, a.unit_columns),
                    units=down * across,
                    fullest=down * first,
                    drives=rows * across,
                    columns=down * kept * slices,
                    cells=rows * kept * slices,
                    outputs=down * kept,
                    row_groups=down,
                    index_bits=kept * _width(layer.columns),
                )
            )
    return _summed(parts)


def _sre(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Rows of a unit's columns that are all zero go, the rest pack upward; an index a row."""
    a, slices = accelerator, accelerator.slices(bits)
    wide = sre_columns(a, slices)
    units = drives = columns = cells = outputs = groups = index = 0
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
            index += kept * _width(layer.rows)
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
        index_bits=index,
    )


def _column_vector(layer: Layer, mask: np.ndarray, bits: int, accelerator: Accelerator) -> Counts:
    """Column-vectors go; the rest of a row group are streamed into its units."""
    chip, slices = accelerator.chip(), accelerator.slices(bits)
    height = accelerator.unit_rows
    count = layer.row_groups(height)
    padding = ((0, 0), (0, count * height - layer.rows), (0, 0))
    blocks = np.pad(mask, padding).reshape(layer.groups, count, height, layer.columns)
    survivors = crossbar.survivors_of([np.asarray(blocks.any(axis=2))[None]])
    tables = crossbar.column_vector_tables((layer,), survivors, height, chip, slices)
    return Counts(*(field[0, 0, slices - 1] for field in tables))


def _channel_block(layer: Layer, accelerator: Accelerator) -> tuple[int, int]:
    return int(np.prod(layer.kernel, dtype=np.int64)), layer.columns


def _sre_block(layer: Layer, accelerator: Accelerator) -> tuple[int, int]:
    return 1, sre_columns(accelerator, accelerator.slices(_STRIP_BITS))


SCHEMES: dict[str, Scheme] = {
    "dense": Scheme(lambda layer, _: (layer.rows, layer.columns), _dense),
    "filter": Scheme(lambda layer, _: (layer.rows, 1), _filter),
    "channel": Scheme(_channel_block, _channel),
    "pim_prune": Scheme(lambda _, accelerator: (1, strip_columns(accelerator)), _pim_prune),
    "pim_prune_columns": Scheme(
        lambda _, accelerator: (accelerator.crossbar_rows, 1), _pim_prune_columns
    ),
    "sre": Scheme(_sre_block, _sre),
    "sre_weights": Scheme(lambda layer, accelerator: (1, 1), _sre),
    "column_vector": Scheme(lambda _, accelerator: (accelerator.unit_rows, 1), _column_vector),
}
