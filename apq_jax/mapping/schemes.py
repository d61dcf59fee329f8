"""What each scheme prunes, and what its packing counts, under one cost model; on the host.

A mask of weights [γ, R, C] says what survives, whatever the scheme; the scheme decides in which
blocks weights live or die together and how the survivors are packed. docs/cost_model.md has the
formulas. `column_vector` and `dense` have a form for compiled programs in apq_jax/crossbar.py.
Every scheme can be searched: a Plan's masks are of its blocks, and `tables` counts them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from apq_jax import crossbar
from apq_jax.compression.pruning import Block, cut, weight_mask
from apq_jax.crossbar import Counts
from apq_jax.hardware import Accelerator
from apq_jax.mapping.scheme_counts import (
    build_channel_block,
    build_sre_block,
    count_channels,
    count_column_vectors,
    count_dense,
    count_filters,
    count_pim_prune,
    count_pim_prune_columns,
    count_sre,
    count_strip_columns,
)
from apq_jax.types import Layer

BY_MAPPING = ("dense", "filter", "channel")  # packed as `Accelerator.mapping` packs dense matrices


class Scheme(NamedTuple):
    """A way to prune and pack."""

    block: Callable[[Layer, Accelerator], Block]
    pack: Callable[[Layer, np.ndarray, int, Accelerator], Counts]  # (layer, mask, bits, ..) -> []
    kept: str  # what its blocks are, in words


def prune_blocks(
    layer: Layer, weights: np.ndarray, scheme: str, keep: float, accelerator: Accelerator
) -> np.ndarray:
    """Survivors [γ, R, C] bool: the `keep` of the scheme's blocks with the largest mean square.

    Args:
      layer: its shape.
      weights: [γ, R, C].
      scheme: of SCHEMES; of `dense` all survive.
      keep: share of the blocks, in (0, 1]; at least one stays.
      accelerator: it decides the blocks.

    Raises:
      ValueError: `keep` is out of its range.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep: {keep!r}; allowed: more than 0, at most 1")
    if scheme == "dense":
        return np.ones(weights.shape, bool)
    block = SCHEMES[scheme].block(layer, accelerator)
    energy = cut(np.square(weights), block).sum(axis=(2, 4))
    size = cut(np.ones(weights.shape), block).sum(axis=(2, 4))
    score = energy / size
    count = max(round(keep * score.size), 1)
    chosen = np.zeros(score.size, bool)
    chosen[np.argsort(-score, axis=None, kind="stable")[:count]] = True
    return weight_mask(chosen.reshape(score.shape), block, layer.rows, layer.columns)


def count_packing(
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


def build_blocks(
    layers: tuple[Layer, ...], scheme: str, accelerator: Accelerator
) -> tuple[Block, ...]:
    """What lives or dies together, a layer."""
    return tuple(SCHEMES[scheme].block(layer, accelerator) for layer in layers)


def tabulate_counts(
    layers: tuple[Layer, ...],
    masks: list[np.ndarray],
    scheme: str,
    accelerator: Accelerator,
    weight_bits: int,
) -> Counts:
    """Counts at every keep level and slices 1 .. S, those of `weight_bits`: [L, K, S].

    Bits decide a packing by their slices alone; but not where a crossbar holds a bit plane.

    Args:
      layers: the network's.
      masks: survivors, [K, γ, I, J] bool a layer, of the scheme's blocks.
      scheme: of SCHEMES.
      accelerator: any.
      weight_bits: most of a weight.

    Raises:
      ValueError: a scheme of BY_MAPPING in another mapping than ISAAC's.
    """
    if scheme in BY_MAPPING and accelerator.mapping != "isaac":
        raise ValueError(f"mapping {accelerator.mapping!r} of scheme {scheme!r}; allowed: 'isaac'")
    most = accelerator.slices(weight_bits)
    if scheme == "column_vector":
        height, chip = accelerator.unit_rows, accelerator.chip()
        return crossbar.tabulate_column_vectors(
            layers, crossbar.count_survivors(masks), height, chip, most
        )
    # Of slices that no bits have, in pairs, the next.
    bits = [
        next(bits for bits in range(1, weight_bits + 1) if accelerator.slices(bits) >= slices)
        for slices in range(1, most + 1)
    ]

    def row(layer: Layer, block: Block, mask: np.ndarray) -> list[Counts]:
        kept = weight_mask(mask, block, layer.rows, layer.columns)
        return [SCHEMES[scheme].pack(layer, kept, one, accelerator) for one in bits]

    blocks = build_blocks(layers, scheme, accelerator)
    found = [
        [row(layer, block, mask) for mask in at_levels]
        for layer, block, at_levels in zip(layers, blocks, masks, strict=True)
    ]
    return Counts(*np.moveaxis(np.asarray(found, np.int64), -1, 0))


def choose_better(first: Counts, second: Counts) -> Counts:
    """Layer by layer the packing of fewer crossbars; of as many, of fewer units; [L]."""
    fewer = (second.crossbars < first.crossbars) | (
        (second.crossbars == first.crossbars) & (second.units < first.units)
    )
    return Counts(*(np.where(fewer, b, a) for a, b in zip(first, second, strict=True)))


def compute_utilisation(
    layers: tuple[Layer, ...], counts: Counts, weight_bits: np.ndarray, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """How full the crossbars are, [L]: whole numbers of cells, slots and bits, and two shares.

    In ISAAC's mapping, of one copy of each layer. `padding_cells` are those of units that hold
    something; where a crossbar's edge cuts units, no more than the crossbars have.
    """
    chip = accelerator.chip()
    cells = counts.crossbars * accelerator.crossbar_rows * accelerator.crossbar_columns
    slots = counts.crossbars * accelerator.unit_slots
    in_units = counts.units * accelerator.unit_rows * accelerator.unit_columns
    stored = counts.cells // crossbar.count_slices(np.asarray(weight_bits), chip) * weight_bits
    return {
        "cells_unused": cells - counts.cells,
        "slots_unused": np.maximum(slots - counts.units, 0),
        "padding_cells": np.minimum(in_units, cells) - counts.cells,
        "index_bits": counts.index_bits,
        "cells_used": counts.cells / cells,
        "index_overhead": counts.index_bits / np.maximum(stored, 1),
    }


SCHEMES: dict[str, Scheme] = {
    "dense": Scheme(lambda layer, _: Block(layer.rows, layer.columns), count_dense, "layers"),
    "filter": Scheme(lambda layer, _: Block(layer.rows), count_filters, "filters"),
    "channel": Scheme(build_channel_block, count_channels, "input channels"),
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
    "sre": Scheme(build_sre_block, count_sre, "rows of units"),
    "sre_weights": Scheme(lambda *_: Block(1), count_sre, "weights"),
    "column_vector": Scheme(
        lambda _, accelerator: Block(accelerator.unit_rows), count_column_vectors, "column-vectors"
    ),
}
