"""The cost model: whole-number action counts a layer, times what each action costs.

`counts` works on traced policies (int32) and, given NumPy arrays, on the host (int64); so does
`cost`, in float32 or float64. Reported figures come from the host. Formulas and sources:
docs/cost_model.md.
"""

from typing import Any, NamedTuple

import numpy as np

from apq_jax.hardware import Accelerator
from apq_jax.types import Array, Layer, Policy

_SCALE_BITS = 32  # stored an output channel: 16-bit multiplier and offset
_OUTPUT_BITS = 16  # moved an output, as in ISAAC


class Tables(NamedTuple):
    """What the column-vector scheme needs of every layer, built once for an accelerator."""

    units: Array  # [L, K, S] int32, Σ_g ⌈s_g S / w⌉ operation units at S = 1 .. slices
    drives: Array  # [L, K, S] int32, Σ_g rows_g ⌈s_g S / w⌉ wordlines of those units
    survivors: Array  # [L, K] int32, Σ_g s_g column-vectors
    cells: Array  # [L, K] int32, Σ_g rows_g s_g weights
    row_groups: Array  # [L, K] int32, row groups with a survivor


class Counts(NamedTuple):
    """Of every layer; [L] or [..., L] whole numbers, a window being one of P output positions."""

    crossbars: Array  # occupied, at least 1 a layer
    slots: Array  # operation-unit slots used
    units: Array  # operation units read a window (dense: cut at the crossbars' edges)
    fullest: Array  # units of the fullest crossbar, read in turn
    drives: Array  # wordlines driven a window and step
    columns: Array  # bitlines converted a window and step
    cells: Array  # cells read a window and step
    survivors: Array  # column-vectors, each one output update a window
    row_groups: Array  # whose inputs are counted, once a window and step
    index_bits: Array  # stored, and read once a window


class Cost(NamedTuple):
    """Of the network; [] or [...]."""

    crossbars: Array
    slots: Array
    index_bits: Array
    area_mm2: Array  # crossbars, their share of IMAs and tiles, index and scale memory
    energy_nj: Array  # one inference
    latency_us: Array  # one inference, layer after layer


def build_tables(
    layers: tuple[Layer, ...], masks: list[np.ndarray], accelerator: Accelerator, max_bits: int
) -> Tables:
    """Counts every layer's units at every keep level and slice count.

    Args:
      layers: the network's.
      masks: surviving column-vectors, [K, γ, G, C] bool a layer.
      accelerator: its unit size and cell bits.
      max_bits: largest number of weight bits.
    """
    slices = np.arange(1, accelerator.slices(max_bits) + 1)
    rows = []
    for layer, mask in zip(layers, masks, strict=True):
        height, levels = accelerator.unit_rows, mask.shape[0]
        group_rows = np.tile(_group_rows(layer, height), layer.groups)  # [γ G]
        survivors = mask.sum(axis=-1, dtype=np.int64).reshape(levels, -1)  # [K, γ G]
        units = _ceil(survivors[:, :, None] * slices, accelerator.unit_columns)  # [K, γ G, S]
        rows.append(
            (
                units.sum(axis=1),
                (group_rows[:, None] * units).sum(axis=1),
                survivors.sum(axis=1),
                (group_rows * survivors).sum(axis=1),
                (survivors > 0).sum(axis=1),
            )
        )
    return Tables(*(np.stack(column).astype(np.int32) for column in zip(*rows, strict=True)))


def _group_rows(layer: Layer, height: int) -> np.ndarray:
    """Rows of each row group of one matrix, [G]: `height`, but for the last."""
    return np.minimum(height, layer.rows - height * np.arange(layer.row_groups(height)))


def _ceil(a: Any, b: Any) -> Any:
    return -(-a // b)


def counts(
    layers: tuple[Layer, ...], tables: Tables, accelerator: Accelerator, policy: Policy
) -> Counts:
    """Action counts of the column-vector scheme for one policy, [L] each."""
    slices = _ceil(policy.weight_bits, accelerator.cell_bits)
    index = np.arange(len(layers))
    units = tables.units[index, policy.level, slices - 1]
    survivors = tables.survivors[index, policy.level]
    groups = [layer.groups * layer.row_groups(accelerator.unit_rows) for layer in layers]
    input_width = np.asarray([(group - 1).bit_length() for group in groups])
    output_width = np.asarray([(layer.columns - 1).bit_length() for layer in layers])
    bitmap = np.asarray([g * layer.columns for g, layer in zip(groups, layers, strict=True)])
    xp = units.__array_namespace__()
    crossbars = xp.maximum(_ceil(units, accelerator.unit_slots), 1)
    # Which row group feeds a unit; which columns it holds, as a list or a bitmap; one mode bit.
    index_bits = units * input_width + xp.minimum(survivors * output_width, bitmap) + 1
    return Counts(
        crossbars=crossbars,
        slots=units,
        units=units,
        fullest=_ceil(units, crossbars),
        drives=tables.drives[index, policy.level, slices - 1],
        columns=survivors * slices,
        cells=tables.cells[index, policy.level] * slices,
        survivors=survivors,
        row_groups=tables.row_groups[index, policy.level],
        index_bits=index_bits,
    )


def dense_counts(
    layers: tuple[Layer, ...], accelerator: Accelerator, weight_bits: np.ndarray
) -> Counts:
    """Action counts of the unpruned network in ISAAC's mapping, γ⌈R/X_r⌉⌈C S/X_c⌉ crossbars.

    Operation units are cut at the crossbars' edges. Groups that fit beside each other lie
    block-diagonally, min(⌊X_r/R⌋, ⌊X_c/(C S)⌋) in a crossbar. There is no index.

    Args:
      layers: the network's.
      accelerator: any.
      weight_bits: [L].
    """
    height, width = accelerator.unit_rows, accelerator.unit_columns
    x_r, x_c = accelerator.crossbar_rows, accelerator.crossbar_columns
    rows = []
    for layer, bits in zip(layers, weight_bits, strict=True):
        slices = accelerator.slices(int(bits))
        columns = layer.columns * slices
        beside = max(min(x_r // layer.rows, x_c // columns, layer.groups), 1)
        tiles = _ceil(layer.rows, x_r) * _ceil(columns, x_c)
        strips = [min(x_r, layer.rows - at) for at in range(0, layer.rows, x_r)]
        bands = [min(x_c, columns - at) for at in range(0, columns, x_c)]
        units_down = sum(_ceil(strip, height) for strip in strips)
        units_across = sum(_ceil(band, width) for band in bands)
        groups = layer.row_groups(height)
        rows.append(
            Counts(
                crossbars=_ceil(layer.groups, beside) if tiles == 1 else layer.groups * tiles,
                slots=layer.groups * groups * _ceil(columns, width),
                units=layer.groups * units_down * units_across,
                fullest=_ceil(strips[0], height) * _ceil(bands[0], width) * beside,
                drives=layer.groups * layer.rows * units_across,
                columns=layer.groups * units_down * columns,
                cells=layer.weights * slices,
                survivors=layer.groups * units_down * layer.columns,
                row_groups=layer.groups * units_down,
                index_bits=0,
            )
        )
    return Counts(*(np.asarray(column, np.int64) for column in zip(*rows, strict=True)))


def energy(
    layers: tuple[Layer, ...], counts: Counts, accelerator: Accelerator, input_bits: Array
) -> dict[str, Array]:
    """Energy of one inference by component and layer, nJ: name to [..., L]."""
    c = accelerator.components
    xp = counts.units.__array_namespace__()
    real = xp.asarray(0.0).dtype  # float64 on the host, float32 in a traced program
    n = Counts(*(xp.asarray(count, dtype=real) for count in counts))
    positions = np.asarray([layer.positions for layer in layers], real)
    inputs = np.asarray([layer.groups * layer.rows for layer in layers], real)
    outputs = np.asarray([layer.groups * layer.columns for layer in layers], real)
    steps = xp.asarray(_ceil(input_bits, accelerator.dac_bits), dtype=real)
    array_cells = accelerator.crossbar_rows * accelerator.crossbar_columns
    moved = inputs * xp.asarray(input_bits, dtype=real) + outputs * _OUTPUT_BITS
    window_pj = {
        "array": steps * n.cells * (c.array_read_pj / array_cells),
        "dac": steps * n.drives * c.dac_pj,
        "sample_hold": steps * n.columns * c.sample_hold_pj,
        "adc": steps * n.columns * c.adc_pj(accelerator.adc_bits),
        "shift_add": steps * n.columns * c.shift_add_pj,
        "input_register": steps * n.drives * accelerator.dac_bits * c.register_bit_pj,
        "output_register": n.survivors * c.output_update_pj,
        "offset_correction": steps * n.row_groups * c.count_pj + n.survivors * c.shift_add_pj,
        "output_scale": outputs * c.multiply_add_pj + 0 * steps,
        "index": n.index_bits * c.register_bit_pj,
        "edram": moved * c.edram_bit_pj,
        "bus": moved * c.bus_bit_pj,
        "router": outputs * _OUTPUT_BITS * c.router_bit_pj + 0 * steps,
    }
    return {name: positions * pj * 1e-3 for name, pj in window_pj.items()}


def layer_energy(
    layers: tuple[Layer, ...], counts: Counts, accelerator: Accelerator, input_bits: Array
) -> Array:
    """Energy of one inference by layer, nJ: the sum of `energy` over components, [..., L]."""
    parts: Array = energy(layers, counts, accelerator, input_bits).values()
    return sum(parts)


def latency(
    layers: tuple[Layer, ...], counts: Counts, accelerator: Accelerator, input_bits: Array
) -> Array:
    """Latency of every layer, us: P ⌈a/d⌉ (units of the fullest crossbar) t; [..., L]."""
    xp = counts.units.__array_namespace__()
    real = xp.asarray(0.0).dtype
    positions = np.asarray([layer.positions for layer in layers], real)
    steps = _ceil(input_bits, accelerator.dac_bits)
    return positions * xp.asarray(steps * counts.fullest, dtype=real) * accelerator.cycle_ns * 1e-3


def area(layers: tuple[Layer, ...], counts: Counts, accelerator: Accelerator) -> Array:
    """Area of every layer, mm2: [..., L]; IMAs and tiles in proportion to its crossbars."""
    c = accelerator.components
    cells = accelerator.crossbar_rows * accelerator.crossbar_columns
    ima = accelerator.crossbars_per_ima
    crossbar = (
        c.array_um2 * cells / 128**2
        + c.adc_area_um2(accelerator.adc_bits) * accelerator.adcs
        + c.dac_um2 * accelerator.crossbar_rows
        + c.sample_hold_um2 * accelerator.crossbar_columns
        + c.ima_um2 / ima
        + c.tile_um2 / (ima * accelerator.imas_per_tile)
    )
    scales = np.asarray([layer.groups * layer.columns * _SCALE_BITS for layer in layers])
    memory = (counts.index_bits + scales) * c.memory_bit_um2
    return (counts.crossbars * crossbar + memory) * 1e-6


def cost(
    layers: tuple[Layer, ...], counts: Counts, accelerator: Accelerator, input_bits: Array
) -> Cost:
    """The network's cost, summed over its layers."""
    return Cost(
        crossbars=counts.crossbars.sum(axis=-1),
        slots=counts.slots.sum(axis=-1),
        index_bits=counts.index_bits.sum(axis=-1),
        area_mm2=area(layers, counts, accelerator).sum(axis=-1),
        energy_nj=layer_energy(layers, counts, accelerator, input_bits).sum(axis=-1),
        latency_us=latency(layers, counts, accelerator, input_bits).sum(axis=-1),
    )
