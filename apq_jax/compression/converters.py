"""Rounds the sums of every row group, input step and slice, as converters of few bits do.

A bitline's analogue sum is a whole number: h wordlines, each driven with d bits of an input, times
cells of c bits. A converter with fewer bits than the largest sum needs rounds the sum to a step of
2^(lossless - b). A sum does not depend on the operation unit that its bitline lies in, so the
rounding is computed without packing the policy; `datapath.execute` computes it unit by unit. A row
group of few rows has few patterns of inputs in a step, so their errors are tabulated.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from apq_jax.compression import pruning
from apq_jax.hardware import Accelerator

_MAX_PATTERN_BITS = 16  # of a row group's digits, of which all patterns are tabulated
_MAX_PATTERNS = 4  # times as many as windows
_STEPS = 4  # added at a time


class Converter(NamedTuple):
    """An analogue-to-digital converter (ADC); may be traced."""

    step: Any  # [] float32, the analogue sums' difference between two codes, a power of 2
    top: Any  # [] float32, the largest code


def build_converter(accelerator: Accelerator, bits: Any = None) -> Converter:
    """Builds the accelerator's converter, or the same converter stopped after `bits`, [] int.

    A step is 2^(lossless - b), so it is 1 if b bits are lossless.
    """
    bits = accelerator.adc_resolution if bits is None else bits
    return _build_converter(accelerator.lossless_adc_bits, bits)


def _build_converter(lossless: int, bits: Any) -> Converter:
    bits = jnp.asarray(bits, jnp.float32)
    return Converter(jnp.exp2(lossless - bits).round(), jnp.exp2(bits).round() - 1)


def convert(adc: Converter, sums: jax.Array) -> jax.Array:
    """Rounds analogue sums, whole numbers, to the nearest code's value, at most the largest."""
    return jnp.clip(jnp.round(sums / adc.step), 0, adc.top) * adc.step


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Cells:
    """How cells hold weights, and how converters read them. Static."""

    unit_rows: int  # h, rows of an operation unit
    cell_bits: int  # c, bits of a cell
    dac_bits: int  # d, bits of an input driven in one step
    differential: bool  # a column of positive and a column of negative cells; else an offset
    flipped: bool  # columns with large sums hold their complements
    lossless_bits: int  # ADC bits that hold the largest sum
    resolution: int  # ADC bits of the accelerator


def get_cells(accelerator: Accelerator) -> Cells:
    """Returns the fields of an accelerator that decide how its converters round sums."""
    return Cells(
        accelerator.unit_rows,
        accelerator.cell_bits,
        accelerator.dac_bits,
        accelerator.signed == "differential",
        accelerator.flipped_columns,
        accelerator.lossless_adc_bits,
        accelerator.adc_resolution,
    )


def simplify_cells(cells: Cells, adc_bits_searched: bool) -> Cells:
    """Returns the cells if converters may round, else one fixed value.

    The fixed value lets all accelerators with lossless converters share a compiled program.
    """
    if adc_bits_searched or cells.resolution < cells.lossless_bits:
        return cells
    return Cells(1, 1, 1, False, False, 1, 1)


class Reading(NamedTuple):
    """How lossy converters read a layer's sums."""

    cells: Cells
    survivors: jax.Array  # [γ, G, C] bool, column-vectors that are not pruned
    weight_bits: jax.Array  # [] int32
    adc_bits: jax.Array  # [] int32


def compute_conversion_errors(
    reading: Reading, levels: jax.Array, inputs: jax.Array, input_bits: jax.Array
) -> jax.Array:
    """Computes the errors that converters add to a layer's exact sums Σ u levels.

    Args:
      reading: of the layer.
      levels: [γ, R, C] int8.
      inputs: [γ, M, R] int32, unsigned levels u of M windows.
      input_bits: [] int32.

    Returns:
      [γ, M, C] int32; 0 with lossless converters.
    """
    cells, bits = reading.cells, reading.weight_bits
    c, d, h = cells.cell_bits, cells.dac_bits, cells.unit_rows
    groups, rows, columns = levels.shape
    weights = pruning.split_row_groups(levels.astype(jnp.int32), h)  # [γ, G, h, C]
    count = weights.shape[1]
    u = jnp.pad(inputs.astype(jnp.uint8), ((0, 0), (0, 0), (0, count * h - rows)))
    u = u.reshape(groups, -1, count, h)  # [γ, M, G, h]
    used = jnp.asarray(np.arange(count * h).reshape(count, h, 1) < rows)
    adc, top = _build_converter(cells.lossless_bits, reading.adc_bits), 2**c - 1
    slices = jnp.maximum(-(-(bits - cells.differential) // c), 1) * (1 + cells.differential)
    half = 2 ** jnp.maximum(bits - 1, 0)
    # The product is fastest in int8, but the digits of an 8-bit DAC do not fit.
    held = jnp.int8 if d < 8 else jnp.int32

    def slice_weights(weights: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns a slice's cells [γ, h, C] and the factor of their sum, as in `mapping.layers`."""
        if cells.differential:
            sign = 1 - 2 * (index % 2)
            value, place = jnp.maximum(weights * sign, 0), index // 2
        else:
            sign = jnp.where(bits == 1, 2, 1)
            value, place = jnp.where(bits == 1, (weights + 1) // 2, weights + half), index
        return (value >> (c * place)) & top, sign << (c * place)

    def compute_errors(digits: jax.Array, weights: jax.Array, used: jax.Array) -> jax.Array:
        """Computes the errors of a row group for the digits [γ, N, h] of one step: [γ, N, C]."""

        def add_slice(index: jax.Array, total: jax.Array) -> jax.Array:
            digit, factor = slice_weights(weights, index)
            digit = jnp.where(used, digit, 0)
            if cells.flipped:
                flipped = 2 * digit.sum(axis=1) > top * used.sum()  # [γ, C]
                digit = jnp.where(flipped[:, None] & used, top - digit, digit)
                factor = jnp.where(flipped, -factor, factor)
            axes = (((2,), (1,)), ((0,), (0,)))
            sums = lax.dot_general(
                digits.astype(held), digit.astype(held), axes, preferred_element_type=jnp.int32
            )
            error = convert(adc, sums.astype(jnp.float32)).astype(jnp.int32) - sums
            return total + error * jnp.broadcast_to(factor, (groups, columns))[:, None]

        zeros = jnp.zeros((groups, digits.shape[1], columns), jnp.int32)
        return lax.fori_loop(0, slices, add_slice, zeros)

    patterns = _list_patterns(h, d) if d * h <= _MAX_PATTERN_BITS else None
    if patterns is not None and len(patterns) > _MAX_PATTERNS * u.shape[1]:
        patterns = None

    # One row group at a time, because its sums alone are as many as the layer's outputs.
    def add_group(total: jax.Array, group: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        u, weights, used, alive = group  # [γ, M, h], [γ, h, C], [h, 1], [γ, C]

        def get_digits(step: ArrayLike) -> jax.Array:
            return (u.astype(jnp.int32) >> (d * step)) & (2**d - 1)

        if patterns is None:

            def add_step(step: jax.Array, total: jax.Array) -> jax.Array:
                errors = compute_errors(get_digits(step), weights, used)
                return total + (errors * alive[:, None] << (d * step))

            return lax.fori_loop(0, -(-input_bits // d), add_step, total), None

        # A step's error depends on the inputs by their pattern of digits alone.
        every = jnp.broadcast_to(patterns, (groups, *patterns.shape))
        table = compute_errors(every, weights, used) * alive[:, None]  # [γ, patterns, C]

        def add_steps(index: jax.Array, total: jax.Array) -> jax.Array:
            for step in (index * _STEPS + place for place in range(_STEPS)):
                pattern = (get_digits(step) << (d * np.arange(h))).sum(axis=2)  # [γ, M]
                pattern = lax.optimization_barrier(pattern)  # found once, not for every column
                total += jax.vmap(_look_up)(table, pattern) << (d * step)
            return total

        # The digits of steps behind the last one are 0, and so are their errors.
        return lax.fori_loop(0, -(-input_bits // (d * _STEPS)), add_steps, total), None

    parts = jnp.moveaxis(u, 2, 0), jnp.moveaxis(weights, 1, 0), used
    alive = jnp.moveaxis(reading.survivors, 1, 0).astype(jnp.int32)
    start = jnp.zeros((groups, u.shape[1], columns), jnp.int32)
    return lax.scan(add_group, start, (*parts, alive))[0]


def _list_patterns(rows: int, bits: int) -> np.ndarray:
    """Lists all patterns of the digits of `rows` inputs: [2^(bits rows), rows] int8."""
    patterns = np.arange(2 ** (bits * rows))[:, None] >> (bits * np.arange(rows))
    return (patterns & (2**bits - 1)).astype(np.int8 if bits < 8 else np.int32)


def _look_up(table: jax.Array, places: jax.Array) -> jax.Array:
    return table.at[places].get(mode="promise_in_bounds")
