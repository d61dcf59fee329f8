"""A layer's operation units and cells, and how weights are written in cells."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from apq_jax.hardware import Accelerator
from apq_jax.types import Layer

NONE = -1  # marks an unused wordline of a bank or an unused bitline of a unit


class Units(NamedTuple):
    """The operation units of a layer, in the order in which they are read."""

    read: np.ndarray  # [U] int32, index of the read; units of one read lie on one diagonal
    crossbar: np.ndarray  # [U] int32
    wordline: np.ndarray  # [U] int32, its first wordline
    bitline: np.ndarray  # [U] int32, its first bitline
    bank: np.ndarray  # [U] int32, the input index: the layer's bank that feeds the unit
    outputs: np.ndarray  # [U, w] int32, the output, group x C + column, that a bitline adds to
    slices: np.ndarray  # [U, w] uint8, the slice of the weights that a bitline holds
    flipped: np.ndarray  # [U, w] bool, whether a bitline's cells hold 2^c - 1 less the slice


class LayerMap(NamedTuple):
    """A layer in its crossbars; a bank is the list of inputs that drive a unit's wordlines."""

    layer: Layer
    weight_bits: int
    input_bits: int
    cells: np.ndarray  # [crossbars, X_r, X_c] uint8
    banks: np.ndarray  # [banks, h] int32, the layer's rows, group x R + row, of each bank
    units: Units
    adc_bits: int = 0  # bits after which conversions stop; 0: the accelerator's resolution


def split_units(units: Units, size: int) -> Iterator[Units]:
    """Splits units into views of at most `size` units, because all cells at once take memory."""
    for start in range(0, len(units.bank), size):
        yield Units(*(field[start : start + size] for field in units))


def compute_max_level(weight_bits: int) -> int:
    """Computes the largest level of a weight, 2^(q-1) - 1; 1 at one bit."""
    return max(2 ** (weight_bits - 1) - 1, 1)


def sums_fit(layer: Layer, weight_bits: int, input_bits: int) -> bool:
    """Returns whether the layer's sums stay below 2^31; int32 parts of a sum may wrap round."""
    return layer.rows * compute_max_level(weight_bits) * (2**input_bits - 1) < 2**31


def compute_bitline_weights(
    slices: np.ndarray, outputs: np.ndarray, weight_bits: int, accelerator: Accelerator
) -> np.ndarray:
    """Computes the factors of the bitlines' sums in their outputs, ±2^(c s); [U, w] int32.

    The factor of an unused bitline is 0. In differential pairs even slices add and odd ones
    subtract. A one-bit offset weight is twice its cell, less one.

    Args:
      slices, outputs: of `Units`.
      weight_bits: q.
      accelerator: of the map.
    """
    significance = slices.astype(np.int64)
    if accelerator.signed == "differential":
        weight = 2 ** (accelerator.cell_bits * (significance // 2)) * (1 - 2 * (significance % 2))
    else:
        weight = 2 ** (accelerator.cell_bits * significance) * (2 if weight_bits == 1 else 1)
    return np.where(outputs == NONE, 0, weight).astype(np.int32)


def compute_offset(weight_bits: int, accelerator: Accelerator) -> int:
    """Computes a weight's offset, 2^(q-1); 1 at one bit, 0 in pairs.

    A partial sum is too large by the offset times the sum of its inputs.
    """
    if accelerator.signed == "differential":
        return 0
    return 1 if weight_bits == 1 else 2 ** (weight_bits - 1)


def read_cells(layer_map: LayerMap) -> np.ndarray:
    """Returns the units' cells, [U, h, w] uint8; 0 on unused wordlines and bitlines."""
    units, inputs = layer_map.units, layer_map.banks[layer_map.units.bank]
    _, height, width = layer_map.cells.shape
    # Clips the places of unused lines, because they may lie beyond the crossbar's edge.
    rows = np.minimum(units.wordline[:, None] + np.arange(inputs.shape[1]), height - 1)
    columns = np.minimum(units.bitline[:, None] + np.arange(units.outputs.shape[1]), width - 1)
    cells = layer_map.cells[units.crossbar[:, None, None], rows[:, :, None], columns[:, None, :]]
    used = (inputs != NONE)[:, :, None] & (units.outputs != NONE)[:, None, :]
    return np.where(used, cells, 0).astype(np.uint8)
