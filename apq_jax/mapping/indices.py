"""The index memory of a column-vector layer, bit by bit: what `index_bits` counts.

    mode, survivors of every row group, input index of every unit, flipped bitlines

Survivors are a number and a list of columns a row group (mode 0) or a bitmap (mode 1), whichever
is shorter; numbers have their most significant bit first. With the packing rule (docs/datapath.md)
the units follow: `decode` gives them back.
"""

import numpy as np

from apq_jax.crossbar import ceil_div
from apq_jax.hardware import Accelerator
from apq_jax.mapping.units import NONE, LayerMap
from apq_jax.types import Layer


def encode(found: LayerMap, accelerator: Accelerator) -> np.ndarray:
    """The index of a layer that was mapped as `column_vector`: [bits] bool."""
    layer, units = found.layer, found.units
    banks, filled = len(found.banks), units.outputs != NONE
    starts = filled & (units.slices == 0)
    bank = np.broadcast_to(units.bank[:, None], filled.shape)[starts]
    kept = np.zeros((banks, layer.columns), bool)
    kept[bank, units.outputs[starts] % layer.columns] = True
    number, width = layer.columns.bit_length(), _width(layer.columns)
    if banks * number + int(kept.sum()) * width < kept.size:
        survivors = [np.asarray([False])]
        for row in kept:
            columns = np.flatnonzero(row)
            survivors += [_bits(np.asarray([len(columns)]), number), _bits(columns, width)]
    else:
        survivors = [np.asarray([True]), kept.reshape(-1)]
    flips = units.flipped[filled] if accelerator.flipped_columns else np.zeros(0, bool)
    return np.concatenate([*survivors, _bits(units.bank, _width(banks)), flips])


def decode(
    bits: np.ndarray, layer: Layer, weight_bits: int, accelerator: Accelerator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The units' banks [U], outputs [U, w], slices [U, w] and flipped bitlines [U, w].

    Raises:
      ValueError: the bits are not an index of this layer.
    """
    banks = layer.groups * layer.count_row_groups(accelerator.unit_rows)
    slices, w = accelerator.slices(weight_bits), accelerator.unit_columns
    number, width = layer.columns.bit_length(), _width(layer.columns)
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
        rows = [_numbers(take(int(_numbers(take(number), number)[0]) * width), width)
                for _ in range(banks)]  # fmt: skip
    outputs, parts, first = [], [], []
    for bank, columns in enumerate(rows):
        units = ceil_div(len(columns) * slices, w)
        stream = np.full(units * w, NONE)
        group = bank // layer.count_row_groups(accelerator.unit_rows)
        stream[: len(columns) * slices] = np.repeat(columns + group * layer.columns, slices)
        place = np.zeros(units * w, int)
        place[: len(columns) * slices] = np.tile(np.arange(slices), len(columns))
        outputs.append(stream.reshape(units, w))
        parts.append(place.reshape(units, w))
        first += [bank] * units
    found = np.concatenate(outputs)
    bank_of = _numbers(take(len(first) * _width(banks)), _width(banks), len(first))
    if not np.array_equal(bank_of, first):
        raise ValueError("input indices that do not fit the survivors")
    flipped = np.zeros(found.shape, bool)
    if accelerator.flipped_columns:
        flipped[found != NONE] = take(int((found != NONE).sum()))
    if len(left):
        raise ValueError(f"index of {len(bits)} bits; {len(left)} too many")
    return bank_of, found, np.concatenate(parts), flipped


def _width(count: int) -> int:
    """Bits that tell `count` things apart."""
    return (count - 1).bit_length()


def _bits(numbers: np.ndarray, width: int) -> np.ndarray:
    places = np.arange(width - 1, -1, -1)
    return (np.asarray(numbers, np.int64)[:, None] >> places & 1).astype(bool).reshape(-1)


def _numbers(bits: np.ndarray, width: int, count: int | None = None) -> np.ndarray:
    if width == 0:  # there is but one thing to tell
        return np.zeros(count or 0, int)
    return bits.reshape(-1, width) @ (1 << np.arange(width - 1, -1, -1))
