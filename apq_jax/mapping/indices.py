"""Encodes the index memory of a column-vector layer bit by bit; `index_bits` is its length.

    mode, survivors of every row group, input index of every unit, flipped bitlines

Survivors of a row group are a count and a list of columns (mode 0) or a bitmap (mode 1); a layer
takes the shorter. Numbers have their most significant bit first. `decode` recovers the units,
because the packing rule (docs/datapath.md) follows from the survivors.
"""

import numpy as np

from apq_jax.hardware import Accelerator
from apq_jax.hardware.chip import ceil_log2
from apq_jax.mapping.packing import fill_rows, repeat_slices
from apq_jax.mapping.units import NONE, LayerMap
from apq_jax.types import Layer


def encode(layer_map: LayerMap, accelerator: Accelerator) -> np.ndarray:
    """Encodes the index of a layer that was mapped as `column_vector`: [bits] bool."""
    layer, units, banks = layer_map.layer, layer_map.units, len(layer_map.banks)
    unit, bitline = np.nonzero(units.starts)
    survivors = np.zeros((banks, layer.columns), bool)
    survivors[units.bank[unit], units.outputs[unit, bitline] % layer.columns] = True
    count_width, width = layer.columns.bit_length(), ceil_log2(layer.columns)
    if banks * count_width + int(survivors.sum()) * width < survivors.size:
        parts = [np.asarray([False])]
        for row in survivors:
            columns = np.flatnonzero(row)
            parts += [_to_bits(np.asarray([len(columns)]), count_width), _to_bits(columns, width)]
    else:
        parts = [np.asarray([True]), survivors.reshape(-1)]
    flips = units.flipped[units.filled] if accelerator.flipped_columns else np.zeros(0, bool)
    return np.concatenate([*parts, _to_bits(units.bank, ceil_log2(banks)), flips])


def decode(
    bits: np.ndarray, layer: Layer, weight_bits: int, accelerator: Accelerator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Decodes an index to the units' banks [U], outputs [U, w], slices [U, w] and flipped [U, w].

    Raises:
      ValueError: the bits are not an index of this layer.
    """
    row_groups = layer.count_row_groups(accelerator.unit_rows)
    banks, w = layer.groups * row_groups, accelerator.unit_columns
    slices = accelerator.slices(weight_bits)
    count_width, width = layer.columns.bit_length(), ceil_log2(layer.columns)
    left = np.asarray(bits, bool)

    def take(count: int) -> np.ndarray:
        nonlocal left
        if count > len(left):
            raise ValueError(f"index of {len(bits)} bits; {count - len(left)} more are needed")
        taken, left = left[:count], left[count:]
        return taken

    if take(1)[0]:
        rows = [np.flatnonzero(row) for row in take(banks * layer.columns).reshape(banks, -1)]
    else:
        rows = []
        for _ in range(banks):
            count = int(_to_numbers(take(count_width), count_width, 1)[0])
            rows.append(_to_numbers(take(count * width), width, count))
    outputs, slice_indices, expected = [], [], []
    for bank, columns in enumerate(rows):
        group = bank // row_groups
        stream, stream_slices = repeat_slices(columns + group * layer.columns, slices)
        outputs.append(fill_rows(stream, w))
        slice_indices.append(fill_rows(stream_slices, w, 0))
        expected += [bank] * len(outputs[-1])
    output = np.concatenate(outputs)
    bank_width = ceil_log2(banks)
    unit_banks = _to_numbers(take(len(expected) * bank_width), bank_width, len(expected))
    if not np.array_equal(unit_banks, expected):
        raise ValueError("input indices that do not fit the survivors")
    filled = output != NONE
    flipped = np.zeros(output.shape, bool)
    if accelerator.flipped_columns:
        flipped[filled] = take(int(filled.sum()))
    if len(left):
        raise ValueError(f"index of {len(bits)} bits; {len(left)} too many")
    return unit_banks, output, np.concatenate(slice_indices), flipped


def _to_bits(numbers: np.ndarray, width: int) -> np.ndarray:
    places = np.arange(width - 1, -1, -1)
    return (np.asarray(numbers, np.int64)[:, None] >> places & 1).astype(bool).reshape(-1)


def _to_numbers(bits: np.ndarray, width: int, count: int) -> np.ndarray:
    if width == 0:  # the only number is 0
        return np.zeros(count, int)
    return bits.reshape(-1, width) @ (1 << np.arange(width - 1, -1, -1))
