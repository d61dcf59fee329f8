"""The cost model: whole-number counts a layer, the actions that follow, what they cost.

    counts (a window) ──▶ actions (an inference) ──▶ x component table ──▶ energy
    counts ──▶ area, latency

Every function works on NumPy arrays, where numbers are int64 and float64 and exact, and on traced
ones, where counts are int32 and products of counts float32. What is reported comes from the host.
Formulas, units and sources: docs/cost_model.md.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from apq_jax.hardware import Chip
from apq_jax.types import Array, Layer

_SCALE_BITS = 32  # stored an output channel: 16-bit multiplier and offset
_OUTPUT_BITS = 16  # moved an output, as in ISAAC


class Counts(NamedTuple):
    """Of every layer, [..., L] whole numbers; a window is one of the P output positions.

    The same fields hold for every scheme. Of a pruned network they form tables, [L, K, S], over
    keep levels and slices 1 .. S, from which `counts_of` takes a policy's.
    """

    crossbars: Array  # occupied, at least 1 a layer
    slots: Array  # operation-unit slots used, were crossbars endless
    units: Array  # reads of operation units a window, none across a crossbar's edge
    fullest: Array  # units of the fullest crossbar, read in turn
    drives: Array  # wordlines driven a window and step
    columns: Array  # bitlines converted a window and step
    cells: Array  # that hold weights, read a window and step
    outputs: Array  # partial sums added to an output register a window
    row_groups: Array  # sets of inputs, counted a window and step (offset weights)
    index_bits: Array  # stored, and read once a window


class LayerCost(NamedTuple):
    """What the cost of a network is summed from; [..., L]."""

    crossbars: Array  # with the copies of replicated layers
    imas: Array  # that they are allocated; a layer shares none
    slots: Array
    index_bits: Array
    memory_um2: Array  # index and scales
    energy_nj: Array  # one inference
    latency_us: Array  # one inference
    adc_nj: Array  # the conversions' part of the energy


class Cost(NamedTuple):
    """Of the network; [...]."""

    crossbars: Array
    allocated: Array  # crossbars of the IMAs taken
    slots: Array
    index_bits: Array
    area_mm2: Array  # as the accelerator counts it: one of the next two
    area_pro_rata_mm2: Array  # IMAs and tiles in proportion to crossbars
    area_rounded_mm2: Array  # whole IMAs a layer, whole tiles, with what of them is idle
    energy_nj: Array  # one inference
    latency_us: Array  # one inference, layer after layer
    period_us: Array  # between two inferences: the slowest layer's where layers work at once
    bottleneck: Array  # index of the slowest layer


def _xp(x: Any) -> Any:
    """The namespace of an array, NumPy or JAX."""
    return x.__array_namespace__() if hasattr(x, "__array_namespace__") else np


def ceil_div(a: Any, b: Any) -> Any:
    """⌈a / b⌉ of whole numbers."""
    return -(-a // b)


def count_slices(weight_bits: Array, chip: Chip) -> Array:
    """Cells a weight, S: ⌈q/c⌉; in differential pairs 2 max(1, ⌈(q - 1)/c⌉)."""
    xp = _xp(weight_bits + chip.cell_bits)
    pairs = 2 * xp.maximum(ceil_div(weight_bits - 1, chip.cell_bits), 1)
    return xp.where(chip.differential == 1, pairs, ceil_div(weight_bits, chip.cell_bits))


def count_dense_layer(layer: Layer, weight_bits: Array, chip: Chip) -> Counts:
    """An unpruned layer at weight bits [...]: operation units are cut at the crossbars' edges.

    ISAAC's mapping, γ⌈R/X_r⌉⌈C S/X_c⌉ crossbars: slices side by side. Groups that fit beside each
    other lie block-diagonally, min(⌊X_r/R⌋, ⌊X_c/(C S)⌋) in a crossbar, and those that one unit
    covers, min(⌊h/R⌋, ⌊w/(C S)⌋), are read at once. MNSIM's: a plane a bit, a crossbar a plane, a
    channel's k x k window never cut: q ⌈C/X_c⌉ ⌈C_in/⌊X_r/k²⌋⌉, twice that in differential pairs;
    groups apart. There is no index but a bit for each bitline that may be flipped.
    """
    slices = count_slices(weight_bits, chip)
    planes = weight_bits * (1 + chip.differential)
    window = int(np.prod(layer.kernel, dtype=np.int64))
    return count_full_matrices(
        layer.groups, layer.rows, layer.columns, window, slices, planes, chip
    )


def count_full_matrices(
    groups: int, rows: int, columns: int, window: int, slices: Array, planes: Array, chip: Chip
) -> Counts:
    """So many full matrices of `rows` x `columns` weights, none of them 0; see `dense_layer`."""
    xp = _xp(slices + chip.crossbar_rows)
    h, w = chip.unit_rows, chip.unit_columns
    x_r, x_c = chip.crossbar_rows, chip.crossbar_columns
    mnsim = chip.mnsim == 1
    whole_windows = xp.where(window <= x_r, x_r // window * window, x_r)
    strip = xp.where(mnsim, whole_windows, x_r)  # rows of a full crossbar
    bitlines = xp.where(mnsim, columns, columns * slices)  # of a plane
    planes = xp.where(mnsim, planes, 1)

    def cut(length: Array, at: Array, unit: Array) -> Array:
        return length // at * ceil_div(at, unit) + ceil_div(length % at, unit)

    units_down, units_across = cut(rows, strip, h), cut(bitlines, x_c, w)
    tiles = ceil_div(rows, strip) * ceil_div(bitlines, x_c)
    beside = xp.minimum(x_r // rows, x_c // bitlines)
    beside = xp.where(mnsim, 1, xp.clip(beside, 1, groups))
    at_once = xp.clip(xp.minimum(h // rows, w // bitlines), 1, beside)
    full, rest = groups // beside, groups % beside
    reads = full * ceil_div(beside, at_once) + ceil_div(rest, at_once)
    crossbars = xp.where(tiles == 1, ceil_div(groups, beside), groups * tiles) * planes
    in_first = ceil_div(xp.minimum(rows, strip), h) * ceil_div(xp.minimum(bitlines, x_c), w)
    copies = groups * planes
    counts = Counts(
        crossbars=crossbars,
        slots=copies * ceil_div(rows, h) * ceil_div(bitlines, w),
        units=reads * planes * units_down * units_across,
        fullest=in_first * ceil_div(beside, at_once),
        drives=copies * rows * units_across,
        columns=copies * units_down * bitlines,
        cells=copies * rows * bitlines,
        outputs=groups * units_down * columns,
        row_groups=groups * units_down,
        index_bits=chip.flipped * copies * units_down * bitlines,
    )
    return Counts(*xp.broadcast_arrays(*(xp.asarray(field) for field in counts)))


def count_dense(layers: tuple[Layer, ...], weight_bits: Array, chip: Chip) -> Counts:
    """The unpruned network at weight bits [..., L]: [..., L]."""
    xp = _xp(weight_bits + chip.cell_bits)
    found = [
        count_dense_layer(layer, weight_bits[..., at], chip) for at, layer in enumerate(layers)
    ]
    return Counts(*(xp.stack(fields, axis=-1) for fields in zip(*found, strict=True)))


def count_survivors(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Survivors of every row group, [K, γ G] int32 a layer, of column-vectors [K, γ, G, C] bool."""
    return [mask.sum(axis=-1, dtype=np.int32).reshape(len(mask), -1) for mask in masks]


def tabulate_column_vectors(
    layers: tuple[Layer, ...],
    survivors: list[Array],
    height: int,
    chip: Chip,
    slices: int,
) -> Counts:
    """The column-vector scheme at every keep level and slices 1 .. S: [L, K, S].

    u_g = ⌈s_g S / w⌉ units of row group g; they fill ⌊X_r/h⌋ ⌊X_c/w⌋ slots a crossbar.

    Args:
      layers: the network's.
      survivors: from `survivors_of`.
      height: rows h of a unit, for which the masks were made; static.
      chip: may be traced.
      slices: most slices; static.
    """
    xp = _xp(survivors[0] + chip.unit_columns)
    each = np.arange(1, slices + 1)
    slots = (chip.crossbar_rows // height) * (chip.crossbar_columns // chip.unit_columns)
    rows = []
    for layer, found in zip(layers, survivors, strict=True):
        s = xp.asarray(found)[:, :, None]  # [K, γ G, 1]
        group_rows = np.tile(_group_rows(layer, height), layer.groups)[:, None]
        units = ceil_div(s * each, chip.unit_columns)  # [K, γ G, S]
        total, kept = units.sum(axis=1), s.sum(axis=1)
        groups = layer.groups * layer.count_row_groups(height)
        # Which columns a row group holds: their number and a list, or a bitmap, and one bit that
        # says which. A bit a bitline says whether it is flipped.
        number = groups * layer.columns.bit_length()
        listed = kept * (layer.columns - 1).bit_length() + number
        listed = xp.minimum(listed, groups * layer.columns) + 1 + chip.flipped * kept * each
        crossbars = xp.maximum(ceil_div(total, slots), 1)
        counts = Counts(
            crossbars=crossbars,
            slots=total,
            units=total,
            fullest=ceil_div(total, crossbars),
            drives=(group_rows * units).sum(axis=1),
            columns=kept * each,
            cells=(group_rows * s).sum(axis=1) * each,
            outputs=kept + 0 * each,
            row_groups=(s > 0).sum(axis=1) + 0 * each,
            index_bits=total * (groups - 1).bit_length() + listed,
        )
        rows.append(counts)
    return Counts(*(xp.stack(fields) for fields in zip(*rows, strict=True)))


def _group_rows(layer: Layer, height: int) -> np.ndarray:
    """Rows of each row group of one matrix, [G]: `height`, but for the last."""
    return np.minimum(height, layer.rows - height * np.arange(layer.count_row_groups(height)))


def look_up_counts(tables: Counts, chip: Chip, level: Array, weight_bits: Array) -> Counts:
    """A policy's counts [..., L] from tables [L, K, S].

    Raises:
      ValueError: on the host, bits of more slices than the tables have.
    """
    layers = np.arange(tables.crossbars.shape[0])
    slices = count_slices(weight_bits, chip)
    xp = _xp(slices + tables.crossbars[0, 0, 0])
    if xp is np and not 1 <= np.min(slices) <= np.max(slices) <= tables.crossbars.shape[-1]:
        raise ValueError(
            f"weight bits of {np.min(slices)} to {np.max(slices)} slices; the tables have 1 to "
            f"{tables.crossbars.shape[-1]}"
        )
    return Counts(*(xp.asarray(table)[layers, level, slices - 1] for table in tables))


def count_copies(layers: tuple[Layer, ...], chip: Chip) -> Array:
    """Replicas of every layer, min(replication, ⌈P / least P⌉): [L]."""
    positions = np.asarray([layer.positions for layer in layers])
    xp = _xp(chip.replication)
    return xp.minimum(chip.replication, ceil_div(positions, positions.min()))


def count_actions(
    layers: tuple[Layer, ...], counts: Counts, chip: Chip, input_bits: Array
) -> dict[str, Array]:
    """How often each component acts in one inference, by its name in the table: [..., L].

    Whole numbers on the host; float32 where counts are traced, for they may pass 2^31.
    """
    n, positions = _real(counts), np.asarray([layer.positions for layer in layers])
    steps = _like(counts.units, ceil_div(input_bits, chip.dac_bits))
    bits = _like(counts.units, input_bits + 0 * counts.units)
    offset, flipped = 1 - chip.differential, chip.flipped
    inputs = np.asarray([layer.groups * layer.rows for layer in layers])
    outputs = np.asarray([layer.groups * layer.columns for layer in layers])
    moved = inputs * bits + outputs * _OUTPUT_BITS
    window = {
        "array": steps * n.cells,
        "dac": steps * n.drives,
        "sample_hold": steps * n.columns,
        "adc": steps * n.columns,
        # A partial sum is freed of its offset; a bitline that is held flipped is turned back.
        "shift_add": steps * n.columns + offset * n.outputs + flipped * n.columns,
        "input_register": bits * n.drives,
        "output_register": n.outputs + 0 * bits,
        "input_count": offset * steps * n.row_groups,
        "output_scale": outputs + 0 * bits,
        "index_memory": n.index_bits + 0 * bits,
        "edram": moved,
        "bus": moved,
        "router": outputs * _OUTPUT_BITS + 0 * bits,
    }
    return {name: positions * number for name, number in window.items()}


def count_activations(
    layers: tuple[Layer, ...], counts: Counts, chip: Chip, input_bits: Array
) -> Array:
    """Operation units read in one inference, P ⌈a/d⌉ Σ_g u_g: [..., L]; see `actions`."""
    positions = np.asarray([layer.positions for layer in layers])
    steps = _like(counts.units, ceil_div(input_bits, chip.dac_bits))
    return positions * steps * _real(counts).units


def _like(count: Array, x: Array) -> Array:
    """x in the type that products of counts are formed in."""
    return np.asarray(x, np.int64) if isinstance(count, np.ndarray) else x.astype(jnp.float32)


def _real(counts: Counts) -> Counts:
    return Counts(*(_like(count, count) for count in counts))


def compute_energy(
    layers: tuple[Layer, ...],
    counts: Counts,
    chip: Chip,
    input_bits: Array,
    adc_bits: Array | None = None,
) -> dict[str, Array]:
    """Energy of one inference by component and layer, nJ: actions times the table; [..., L].

    Where conversions stop after `adc_bits` [..., L], they cost less.
    """
    actions_ = count_actions(layers, counts, chip, input_bits)
    found = {name: number * (chip.energy_pj[name] * 1e-3) for name, number in actions_.items()}
    if adc_bits is not None:
        found["adc"] = found["adc"] * (1.0 - chip.adc_saved[adc_bits - 1])
    return found


def compute_latency(
    layers: tuple[Layer, ...], counts: Counts, chip: Chip, input_bits: Array
) -> Array:
    """Of every layer, us: ⌈P / copies⌉ ⌈a/d⌉ (units of the fullest crossbar) t; [..., L]."""
    positions = ceil_div(
        np.asarray([layer.positions for layer in layers]), count_copies(layers, chip)
    )
    steps = ceil_div(input_bits, chip.dac_bits)
    turns = _like(counts.units, positions + 0 * counts.units) * steps * counts.fullest
    return turns * (chip.cycle_ns * 1e-3)


def compute_layer_costs(
    layers: tuple[Layer, ...],
    counts: Counts,
    chip: Chip,
    input_bits: Array,
    adc_bits: Array | None = None,
) -> LayerCost:
    """What the network's cost is summed from, of every layer; `adc_bits` as in `energy`."""
    xp = _xp(counts.units)
    replicas = count_copies(layers, chip)
    crossbars = counts.crossbars * replicas
    scales = np.asarray([layer.groups * layer.columns * _SCALE_BITS for layer in layers])
    index_bits = counts.index_bits * replicas
    memory = (index_bits + scales * replicas) * chip.memory_bit_um2
    parts = compute_energy(layers, counts, chip, input_bits, adc_bits)
    wide = 0 * (counts.units + input_bits)  # what is the same at every number of input bits
    found = LayerCost(
        crossbars + wide,
        ceil_div(crossbars, chip.crossbars_per_ima) + wide,
        counts.slots * replicas + wide,
        index_bits + wide,
        memory + wide,
        sum(parts.values()),
        compute_latency(layers, counts, chip, input_bits),
        parts["adc"],
    )
    return LayerCost(*(xp.asarray(field) for field in found))


def compute_area(layer_cost: LayerCost, chip: Chip) -> Array:
    """Area of every layer, mm2, with its part of IMAs and tiles in proportion: [..., L]."""
    return (layer_cost.memory_um2 + layer_cost.crossbars * _share_um2(chip)) * 1e-6


def _share_um2(chip: Chip) -> Array:
    """A crossbar with its part of an IMA and a tile."""
    ima = chip.ima_um2 + chip.tile_um2 / chip.imas_per_tile
    return chip.crossbar_um2 + ima / chip.crossbars_per_ima


def sum_costs(layer_cost: LayerCost, chip: Chip) -> Cost:
    """The network's cost from its layers'."""
    xp = _xp(layer_cost.crossbars)
    crossbars, imas = layer_cost.crossbars.sum(axis=-1), layer_cost.imas.sum(axis=-1)
    memory = layer_cost.memory_um2.sum(axis=-1)
    in_proportion = (memory + crossbars * _share_um2(chip)) * 1e-6
    # What is bought: a tile with all of its IMAs and crossbars, used or not.
    tile = chip.imas_per_tile * chip.crossbars_per_ima * _share_um2(chip)
    whole = (memory + ceil_div(imas, chip.imas_per_tile) * tile) * 1e-6
    latency_us = layer_cost.latency_us.sum(axis=-1)
    slowest = layer_cost.latency_us.max(axis=-1)
    return Cost(
        crossbars=crossbars,
        allocated=imas * chip.crossbars_per_ima,
        slots=layer_cost.slots.sum(axis=-1),
        index_bits=layer_cost.index_bits.sum(axis=-1),
        area_mm2=xp.where(chip.rounded == 1, whole, in_proportion),
        area_pro_rata_mm2=in_proportion,
        area_rounded_mm2=whole,
        energy_nj=layer_cost.energy_nj.sum(axis=-1),
        latency_us=latency_us,
        period_us=xp.where(chip.pipelined == 1, slowest, latency_us),
        bottleneck=layer_cost.latency_us.argmax(axis=-1),
    )


def compute_cost(
    layers: tuple[Layer, ...],
    counts: Counts,
    chip: Chip,
    input_bits: Array,
    adc_bits: Array | None = None,
) -> Cost:
    """The network's cost: [...]; `adc_bits` as in `energy`."""
    return sum_costs(compute_layer_costs(layers, counts, chip, input_bits, adc_bits), chip)
