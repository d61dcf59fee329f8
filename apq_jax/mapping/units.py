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

    @property
    def filled(self) -> np.ndarray:
        """Whether each bitline of each unit is used: [U, w] bool."""
        return self.outputs != NONE

    @property
    def starts(self) -> np.ndarray:
        """Whether each bitline holds a weight's first slice: [U, w] bool, one per output."""
        return (self.slices == 0) & self.filled

    def split(self, size: int) -> Iterator["Units"]:
        """Splits the units into views of at most `size`, because all cells at once take memory."""
        for start in range(0, len(self.bank), size):
            yield Units(*(field[start : start + size] for field in self))


class LayerMap(NamedTuple):
    """A layer in its crossbars; a bank is the list of inputs that drive a unit's wordlines."""

    layer: Layer
    weight_bits: int
    input_bits: int
    cells: np.ndarray  # [crossbars, X_r, X_c] uint8
    banks: np.ndarray  # [banks, h] int32, the layer's rows, group x R + row, of each bank
    units: Units
    adc_bits: int = 0  # bits after which conversions stop; 0: the accelerator's resolution

    def count_lines(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts the wordlines and the bitlines that each unit uses: [U] each."""
        return (self.banks != NONE).sum(axis=1)[self.units.bank], self.units.filled.sum(axis=1)

    def compute_bitline_weights(self, accelerator: Accelerator) -> np.ndarray:
        """Computes the factors of the bitlines' sums in their outputs, ±2^(c s): [U, w] int32.

        The factor of an unused bitline is 0. In differential pairs even slices add and odd ones
        subtract. A one-bit offset weight is twice its cell, less one, so its factor is 2.
        """
        significance = self.units.slices.astype(np.int64)
        bits = accelerator.cell_bits
        if accelerator.signed == "differential":
            weight = 2 ** (bits * (significance // 2)) * (1 - 2 * (significance % 2))
        else:
            weight = 2 ** (bits * significance) * (2 if self.weight_bits == 1 else 1)
        return np.where(self.units.filled, weight, 0).astype(np.int32)

    def compute_offset(self, accelerator: Accelerator) -> int:
        """Computes the offset that is added to each weight: 2^(q-1); 1 at one bit, 0 in pairs.

        A partial sum is too large by the offset times the sum of its inputs.
        """
        if accelerator.signed == "differential":
            return 0
        return 1 if self.weight_bits == 1 else 2 ** (self.weight_bits - 1)

    def read_cells(self) -> np.ndarray:
        """Returns the units' cells: [U, h, w] uint8, 0 on unused wordlines and bitlines."""
        units, inputs = self.units, self.banks[self.units.bank]
        _, height, width = self.cells.shape
        # Clips the places of unused lines, because they may lie beyond the crossbar's edge.
        rows = np.minimum(units.wordline[:, None] + np.arange(inputs.shape[1]), height - 1)
        columns = np.minimum(units.bitline[:, None] + np.arange(units.outputs.shape[1]), width - 1)
        cells = self.cells[units.crossbar[:, None, None], rows[:, :, None], columns[:, None, :]]
        used = (inputs != NONE)[:, :, None] & units.filled[:, None, :]
        return np.where(used, cells, 0).astype(np.uint8)


def locate_cells(banks: np.ndarray, units: Units) -> tuple[tuple, tuple]:
    """Locates the N cells that units use, first in the units, then in the crossbars.

    Args:
      banks: [banks, h], of the layer.
      units: U of the layer's units.

    Returns:
      Indices (unit, wordline, bitline) into [U, h, w], and indices (crossbar, wordline, bitline)
      into the layer's cells; each is [N].
    """
    used = (banks[units.bank] != NONE)[:, :, None] & units.filled[:, None, :]
    unit, row, column = np.nonzero(used)
    place = units.crossbar[unit], units.wordline[unit] + row, units.bitline[unit] + column
    return (unit, row, column), place


def compute_max_level(weight_bits: int) -> int:
    """Computes the largest level of a weight: 2^(q-1) - 1; 1 at one bit."""
    return max(2 ** (weight_bits - 1) - 1, 1)


def sums_fit(layer: Layer, weight_bits: int, input_bits: int) -> bool:
    """Tells whether the layer's sums stay below 2^31; int32 parts of a sum may wrap round."""
    return layer.rows * compute_max_level(weight_bits) * (2**input_bits - 1) < 2**31
