"""A layer's operation units in its crossbars, and what their cells hold."""

from typing import NamedTuple

import numpy as np

from apq_jax.hardware import Accelerator
from apq_jax.types import Layer

NONE = -1  # a wordline or bitline that is not used


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


def compute_max_level(weight_bits: int) -> int:
    """The largest level, 2^(q-1) - 1; 1 at one bit."""
    return max(2 ** (weight_bits - 1) - 1, 1)


def sums_fit(layer: Layer, weight_bits: int, input_bits: int) -> bool:
    """Whether no accumulator of the layer can pass 2^31: they are int32, parts may wrap round."""
    return layer.rows * compute_max_level(weight_bits) * (2**input_bits - 1) < 2**31


def compute_bitline_weights(
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


def compute_offset(weight_bits: int, accelerator: Accelerator) -> int:
    """What comes off a partial sum for each unit of input, 2^(q-1); 1 at one bit, 0 in pairs."""
    if accelerator.signed == "differential":
        return 0
    return 1 if weight_bits == 1 else 2 ** (weight_bits - 1)


def read_cells(found: LayerMap) -> np.ndarray:
    """The cells that the units' used wordlines and bitlines meet in, [U, h, w] uint8."""
    units, inputs = found.units, found.banks[found.units.bank]
    _, high, wide = found.cells.shape
    rows = np.minimum(units.wordline[:, None] + np.arange(inputs.shape[1]), high - 1)
    columns = np.minimum(units.bitline[:, None] + np.arange(units.outputs.shape[1]), wide - 1)
    read = found.cells[units.crossbar[:, None, None], rows[:, :, None], columns[:, None, :]]
    used = (inputs != NONE)[:, :, None] & (units.outputs != NONE)[:, None, :]
    return np.where(used, read, 0).astype(np.uint8)
