"""What converters of few bits lose, in the sums of every row group, input step and slice.

A bitline's analogue sum is a whole number: of h wordlines, each driven with d bits of an input,
times cells of c bits. A converter with fewer bits than hold the largest sum rounds it to a step of
2^(lossless - b). Which unit a bitline lies in does not matter to its sum, so what a policy's
converters lose is known without packing it; `datapath.execute` finds the same, unit by unit.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.compression import pruning
from apq_jax.hardware import Accelerator


class Converter(NamedTuple):
    """An ADC; may be traced."""

    step: Any  # [] float32, analogue units between two codes, a power of 2
    top: Any  # [] float32, the largest code


def converter(accelerator: Accelerator, bits: Any = None) -> Converter:
    """The accelerator's converters, or the same that stop after other bits, [] int.

    With fewer bits than are lossless a step is 2^(lossless - b).
    """
    bits = accelerator.adc_resolution if bits is None else bits
    return _converter(accelerator.lossless_adc_bits, bits)


def _converter(lossless: int, bits: Any) -> Converter:
    bits = jnp.asarray(bits, jnp.float32)
    return Converter(jnp.exp2(lossless - bits).round(), jnp.exp2(bits).round() - 1)


def convert(adc: Converter, sums: jax.Array) -> jax.Array:
    """Analogue sums, whole numbers, to the nearest code, clipped at the largest, and back."""
    return jnp.clip(jnp.round(sums / adc.step), 0, adc.top) * adc.step


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Cells:
    """How weights are held and read. Static."""

    unit_rows: int  # h
    cell_bits: int  # c
    dac_bits: int  # d
    differential: bool
    flipped: bool
    lossless_bits: int
    resolution: int


def cells_of(accelerator: Accelerator) -> Cells:
    """What of an accelerator decides its sums."""
    return Cells(
        accelerator.unit_rows,
        accelerator.cell_bits,
        accelerator.dac_bits,
        accelerator.signed == "differential",
        accelerator.flipped_columns,
        accelerator.lossless_adc_bits,
        accelerator.adc_resolution,
    )


def deciding(cells: Cells, adc_bits_searched: bool) -> Cells:
    """The cells, or those that stand for all where converters lose nothing: one program does."""
    if adc_bits_searched or cells.resolution < cells.lossless_bits:
        return cells
    return Cells(1, 1, 1, False, False, 1, 1)


class Reading(NamedTuple):
    """How a layer's sums are read, where that loses something."""

    cells: Cells
    survivors: jax.Array  # [γ, G, C] bool, column-vectors that are there
    weight_bits: jax.Array  # [] int32
    adc_bits: jax.Array  # [] int32


def lost(
    reading: Reading, levels: jax.Array, inputs: jax.Array, input_bits: jax.Array
) -> jax.Array:
    """What reading a layer's sums through its converters adds to Σ u levels.

    Args:
      reading: the layer's.
      levels: [γ, R, C] int8.
      inputs: [γ, M, R] int32, unsigned levels u of M windows.
      input_bits: [] int32.

    Returns:
      [γ, M, C] int32; 0 with lossless converters.
    """
    cells, bits = reading.cells, reading.weight_bits
    c, d, h = cells.cell_bits, cells.dac_bits, cells.unit_rows
    groups, rows, columns = levels.shape
    weights = pruning.row_groups(levels.astype(jnp.int32), h)  # γ, G, h, C
    count = weights.shape[1]
    u = jnp.pad(inputs, ((0, 0), (0, 0), (0, count * h - rows)))
    u = u.reshape(groups, -1, count, h)  # γ, M, G, h
    used = jnp.asarray(np.arange(count * h).reshape(count, h, 1) < rows)
    adc, top = _converter(cells.lossless_bits, reading.adc_bits), 2**c - 1
    slices = jnp.maximum(-(-(bits - cells.differential) // c), 1) * (1 + cells.differential)
    half = 2 ** jnp.maximum(bits - 1, 0)
    # The product is fastest of int8, which the digits of an 8-bit DAC do not fit.
    held = jnp.int8 if d < 8 else jnp.int32

    def digits(weights: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cells [γ, h, C] of a slice, and what their sum counts: as `mapping.layers` has them."""
        if cells.differential:
            sign = 1 - 2 * (number % 2)
            value, place = jnp.maximum(weights * sign, 0), number // 2
        else:
            sign = jnp.where(bits == 1, 2, 1)
            value, place = jnp.where(bits == 1, (weights + 1) // 2, weights + half), number
        return (value >> (c * place)) & top, sign << (c * place)

    # A row group at a time: its sums alone are as many as the layer's outputs.
    def add_group(total: jax.Array, group: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        u, weights, used, alive = group  # [γ, M, h], [γ, h, C], [h, 1], [γ, C]

        def read(number: jax.Array, total: jax.Array) -> jax.Array:
            step, which = jnp.divmod(number, slices)
            digit, counts = digits(weights, which)
            digit = jnp.where(used, digit, 0)
            if cells.flipped:
                turned = 2 * digit.sum(axis=1) > top * used.sum()  # γ, C
                digit = jnp.where(turned[:, None] & used, top - digit, digit)
                counts = jnp.where(turned, -counts, counts)
            plane = (u >> (d * step)) & (2**d - 1)
            axes = (((2,), (1,)), ((0,), (0,)))
            sums = lax.dot_general(
                plane.astype(held), digit.astype(held), axes, preferred_element_type=jnp.int32
            )
            change = convert(adc, sums.astype(jnp.float32)).astype(jnp.int32) - sums
            return total + change * (counts * alive << (d * step))[:, None]

        return lax.fori_loop(0, -(-input_bits // d) * slices, read, total), None

    parts = jnp.moveaxis(u, 2, 0), jnp.moveaxis(weights, 1, 0), used
    alive = jnp.moveaxis(reading.survivors, 1, 0).astype(jnp.int32)
    start = jnp.zeros((groups, u.shape[1], columns), jnp.int32)
    return lax.scan(add_group, start, (*parts, alive))[0]
