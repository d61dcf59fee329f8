"""The schemes of pruning and packing, counted under one cost model; on the host.

In every scheme a mask of weights [γ, R, C] says which weights survive. The scheme decides which
blocks of weights are pruned together, and how the survivors are packed. docs/cost_model.md has the
formulas. apq_jax/crossbar.py has a form of `column_vector` and `dense` for compiled programs.
Every scheme can be searched: a Plan's masks are of its blocks, and `tabulate_counts` counts them.
"""

import numpy as np

from apq_jax import crossbar
from apq_jax.compression.pruning import Block, cut_into_blocks, expand_mask
from apq_jax.crossbar import Counts
from apq_jax.hardware import Accelerator
from apq_jax.mapping.scheme_counts import SCHEMES
from apq_jax.types import Layer

BY_MAPPING = ("dense", "filter", "channel")  # packed as dense matrices by `Accelerator.mapping`


def prune_blocks(
    layer: Layer, weights: np.ndarray, scheme: str, keep: float, accelerator: Accelerator
) -> np.ndarray:
    """Prunes all but the blocks with the largest mean square; returns survivors [γ, R, C] bool.

    Args:
      layer: its shape.
      weights: [γ, R, C].
      scheme: one of SCHEMES; `dense` prunes nothing.
      keep: share of the blocks that survive, in (0, 1]; at least one survives.
      accelerator: decides the size of the blocks.

    Raises:
      ValueError: `keep` is out of its range.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep: {keep!r}; allowed: more than 0, at most 1")
    if scheme == "dense":
        return np.ones(weights.shape, bool)
    block = SCHEMES[scheme].block(layer, accelerator)
    energy = cut_into_blocks(np.square(weights), block).sum(axis=(2, 4))
    size = cut_into_blocks(np.ones(weights.shape), block).sum(axis=(2, 4))
    score = energy / size
    count = max(round(keep * score.size), 1)
    survivors = np.zeros(score.size, bool)
    survivors[np.argsort(-score, axis=None, kind="stable")[:count]] = True
    return expand_mask(survivors.reshape(score.shape), block, layer.rows, layer.columns)


def count_packing(
    layers: tuple[Layer, ...],
    masks: list[np.ndarray],
    weight_bits: np.ndarray,
    scheme: str,
    accelerator: Accelerator,
) -> Counts:
    """Counts a pruned network, [L]; `crossbar.compute_cost` takes the counts.

    Args:
      layers: the network's layers.
      masks: survivors of each layer, [γ, R, C] bool, in the scheme's blocks.
      weight_bits: [L].
      scheme: one of SCHEMES.
      accelerator: any.
    """
    layer_counts = [
        SCHEMES[scheme].count_layer(layer, mask, int(bits), accelerator)
        for layer, mask, bits in zip(layers, masks, weight_bits, strict=True)
    ]
    return Counts(*(np.asarray(field, np.int64) for field in zip(*layer_counts, strict=True)))


def build_blocks(
    layers: tuple[Layer, ...], scheme: str, accelerator: Accelerator
) -> tuple[Block, ...]:
    """Builds each layer's block, the weights that are pruned together."""
    return tuple(SCHEMES[scheme].block(layer, accelerator) for layer in layers)


def tabulate_counts(
    layers: tuple[Layer, ...],
    masks: list[np.ndarray],
    scheme: str,
    accelerator: Accelerator,
    weight_bits: int,
) -> Counts:
    """Counts a network at every keep level and at slices 1 .. S: [L, K, S].

    Slices stand for bits, because a packing depends on the slices alone, unless crossbars hold bit
    planes.

    Args:
      layers: the network's layers.
      masks: survivors of each layer, [K, γ, I, J] bool, of the scheme's blocks.
      scheme: one of SCHEMES.
      accelerator: any.
      weight_bits: largest weight bits, of S slices.

    Raises:
      ValueError: a scheme of BY_MAPPING in another mapping than ISAAC's.
    """
    if scheme in BY_MAPPING and accelerator.mapping != "isaac":
        raise ValueError(f"mapping {accelerator.mapping!r} of scheme {scheme!r}; allowed: 'isaac'")
    max_slices = accelerator.slices(weight_bits)
    if scheme == "column_vector":
        height, chip = accelerator.unit_rows, accelerator.chip()
        return crossbar.tabulate_column_vectors(
            layers, crossbar.count_survivors(masks), height, chip, max_slices
        )
    # Bits of at least so many slices, because in pairs no bits have an odd number of slices.
    bits_of_slices = [
        next(bits for bits in range(1, weight_bits + 1) if accelerator.slices(bits) >= slices)
        for slices in range(1, max_slices + 1)
    ]

    def count_at_slices(layer: Layer, block: Block, mask: np.ndarray) -> list[Counts]:
        survivors = expand_mask(mask, block, layer.rows, layer.columns)
        return [
            SCHEMES[scheme].count_layer(layer, survivors, bits, accelerator)
            for bits in bits_of_slices
        ]

    blocks = build_blocks(layers, scheme, accelerator)
    counts = [
        [count_at_slices(layer, block, mask) for mask in level_masks]
        for layer, block, level_masks in zip(layers, blocks, masks, strict=True)
    ]
    return Counts(*np.moveaxis(np.asarray(counts, np.int64), -1, 0))


def choose_better(first: Counts, second: Counts) -> Counts:
    """Chooses each layer's packing of fewer crossbars, or of fewer units if they tie; [L]."""
    fewer = (second.crossbars < first.crossbars) | (
        (second.crossbars == first.crossbars) & (second.units < first.units)
    )
    return Counts(*(np.where(fewer, b, a) for a, b in zip(first, second, strict=True)))


def compute_utilisation(
    layers: tuple[Layer, ...], counts: Counts, weight_bits: np.ndarray, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """Computes how full the crossbars are, for ISAAC's mapping and one copy of each layer.

    Returns:
      [L] each, by name. Numbers: `cells_unused`; `slots_unused`; `padding_cells`, the unused cells
      of units in use, of which only those inside the crossbar count; `index_bits`. Shares:
      `cells_used`, of all cells; `index_overhead`, index bits over the bits of stored weights.
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
