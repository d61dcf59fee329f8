"""The cost model: counts each layer's crossbars and actions, and prices them.

    counts (a window) ──▶ actions (an inference) ──▶ x component table ──▶ energy
    counts ──▶ area, latency

Every function takes NumPy arrays or traced ones. With NumPy arrays, counts are int64 and costs are
float64. With traced arrays, counts are int32 and products of counts are float32. Reports use NumPy
arrays, because their counts are exact. Formulas, units and sources: docs/cost_model.md.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from apq_jax.hardware import Chip
from apq_jax.hardware.chip import ceil_div, ceil_log2, get_namespace
from apq_jax.types import Array, Layer

_SCALE_BITS = 32  # stored per output channel: a 16-bit multiplier and a 16-bit offset
_OUTPUT_BITS = 16  # moved per output, as in ISAAC


class Counts(NamedTuple):
    """Counts of every layer, [..., L] whole numbers; a window is one of the P output positions.

    Copies of replicated layers are not counted. Every scheme has the same fields. A pruned
    network's counts are tables [L, K, S] over keep levels and slices 1 .. S; `look_up_counts` takes
    a policy's counts [..., L] from them.
    """

    crossbars: Array  # occupied, at least 1 per layer
    slots: Array  # operation-unit slots that the weights would use if crossbars had no edges
    units: Array  # reads of operation units per window; no unit crosses a crossbar's edge
    fullest: Array  # reads per window of the fullest crossbar, one after the other
    drives: Array  # wordlines driven per window and step
    columns: Array  # bitlines converted per window and step
    cells: Array  # cells with weights, read per window and step
    outputs: Array  # partial sums added to output registers per window
    row_groups: Array  # sets of inputs, each counted per window and step (offset weights)
    index_bits: Array  # index bits stored, read once per window


class LayerCost(NamedTuple):
    """The cost of every layer, [..., L], with the copies of replicated layers.

    `sum_costs` adds the layers up.
    """

    crossbars: Array
    imas: Array  # allocated to the layer; layers share no IMA
    slots: Array
    index_bits: Array
    memory_um2: Array  # area of the memory for the index and the scales
    energy_nj: Array  # one inference
    latency_us: Array  # one inference
    adc_nj: Array  # the conversions' part of the energy


class Cost(NamedTuple):
    """The cost of the network, [...]."""

    crossbars: Array
    allocated: Array  # crossbars of all allocated IMAs
    slots: Array
    index_bits: Array
    area_mm2: Array  # the second of the next two if `chip.rounded`, else the first
    area_pro_rata_mm2: Array  # IMAs and tiles in proportion to crossbars
    area_rounded_mm2: Array  # whole IMAs per layer and whole tiles, with their idle parts
    energy_nj: Array  # one inference
    latency_us: Array  # one inference, layer after layer
    period_us: Array  # between two inferences: of the slowest layer if layers are pipelined
    bottleneck: Array  # index of the slowest layer


def count_slices(weight_bits: Array, chip: Chip) -> Array:
    """Counts the cells of a weight of q bits: S = ⌈q/c⌉, [...] as `weight_bits`.

    In differential pairs S = 2 max(1, ⌈(q - 1)/c⌉).
    """
    xp = get_namespace(weight_bits + chip.cell_bits)
    pairs = 2 * xp.maximum(ceil_div(weight_bits - 1, chip.cell_bits), 1)
    return xp.where(chip.differential == 1, pairs, ceil_div(weight_bits, chip.cell_bits))


def count_dense_layer(layer: Layer, weight_bits: Array, chip: Chip) -> Counts:
    """Counts an unpruned layer at weight bits q [...]; operation units end at a crossbar's edge.

    ISAAC's mapping puts slices side by side: γ ⌈R/X_r⌉ ⌈C S/X_c⌉ crossbars. Small groups lie
    block-diagonally, min(⌊X_r/R⌋, ⌊X_c/(C S)⌋) per crossbar; one unit reads
    min(⌊h/R⌋, ⌊w/(C S)⌋) of them at once. MNSIM's mapping stores each bit plane in crossbars of
    its own, never cuts a channel's k x k window and keeps groups apart: q ⌈C/X_c⌉ ⌈C_in/⌊X_r/k²⌋⌉
    crossbars per group, twice as many in differential pairs. `chip.mnsim` chooses the mapping. The
    index is one bit for each bitline that may be flipped.
    """
    slices = count_slices(weight_bits, chip)
    planes = weight_bits * (1 + chip.differential)
    window = int(np.prod(layer.kernel, dtype=np.int64))
    size = layer.groups, layer.rows, layer.columns
    return count_full_matrices(*size, window, slices, planes, chip)


def count_full_matrices(
    groups: int, rows: int, columns: int, window: int, slices: Array, planes: Array, chip: Chip
) -> Counts:
    """Counts `groups` full matrices of `rows` x `columns` weights; see `count_dense_layer`.

    Args:
      groups, rows, columns: the matrices, as in `Layer`.
      window: rows of one input channel, k x k; 1 for a matrix product.
      slices: cells of a weight in ISAAC's mapping, [...].
      planes: bit planes of a weight in MNSIM's mapping, [...].
      chip: may be traced.
    """
    xp = get_namespace(slices + chip.crossbar_rows)
    h, w = chip.unit_rows, chip.unit_columns
    x_r, x_c = chip.crossbar_rows, chip.crossbar_columns
    mnsim = chip.mnsim == 1
    whole_windows = xp.where(window <= x_r, x_r // window * window, x_r)
    strip = xp.where(mnsim, whole_windows, x_r)  # rows of a full crossbar
    bitlines = xp.where(mnsim, columns, columns * slices)  # of a plane
    planes = xp.where(mnsim, planes, 1)

    def count_units(length: Array, side: Array, unit: Array) -> Array:
        # Units start anew at every crossbar edge, because no unit may cross one.
        return length // side * ceil_div(side, unit) + ceil_div(length % side, unit)

    units_down, units_across = count_units(rows, strip, h), count_units(bitlines, x_c, w)
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
    """Counts an unpruned network at weight bits [..., L]; returns counts [..., L]."""
    xp = get_namespace(weight_bits + chip.cell_bits)
    counts = [count_dense_layer(layer, weight_bits[..., i], chip) for i, layer in enumerate(layers)]
    return Counts(*(xp.stack(fields, axis=-1) for fields in zip(*counts, strict=True)))


def count_survivors(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Counts the True entries of each row group: each layer's [K, γ, G, C] to [K, γ G] int32."""
    return [mask.sum(axis=-1, dtype=np.int32).reshape(len(mask), -1) for mask in masks]


def tabulate_column_vectors(
    layers: tuple[Layer, ...], survivors: list[Array], height: int, chip: Chip, slices: int
) -> Counts:
    """Counts a network pruned by column vectors, for all keep levels and slices 1 .. S: [L, K, S].

    Row group g takes u_g = ⌈s_g S / w⌉ units for its s_g survivors; a crossbar has
    ⌊X_r/h⌋ ⌊X_c/w⌋ slots for units.

    Args:
      layers: the network's layers.
      survivors: from `count_survivors`.
      height: rows h of a unit, for which the masks were made, instead of `chip.unit_rows`; static.
      chip: may be traced.
      slices: largest number of slices S; static.
    """
    xp = get_namespace(survivors[0] + chip.unit_columns)
    all_slices = np.arange(1, slices + 1)
    slots = (chip.crossbar_rows // height) * (chip.crossbar_columns // chip.unit_columns)
    layer_counts = []
    for layer, layer_survivors in zip(layers, survivors, strict=True):
        s = xp.asarray(layer_survivors)[:, :, None]  # [K, γ G, 1]
        group_rows = np.tile(_count_group_rows(layer, height), layer.groups)[:, None]
        units = ceil_div(s * all_slices, chip.unit_columns)  # [K, γ G, S]
        total, vectors = units.sum(axis=1), s.sum(axis=1)  # [K, S], [K, 1]
        groups = layer.groups * layer.count_row_groups(height)
        # The index says which columns a row group holds, by their count and a list or by a bitmap,
        # whichever is shorter; one bit says which of the two, and one bit per bitline whether it
        # is flipped.
        list_bits = vectors * ceil_log2(layer.columns) + groups * layer.columns.bit_length()
        survivor_bits = xp.minimum(list_bits, groups * layer.columns) + 1
        flip_bits = chip.flipped * vectors * all_slices
        crossbars = xp.maximum(ceil_div(total, slots), 1)
        counts = Counts(
            crossbars=crossbars,
            slots=total,
            units=total,
            fullest=ceil_div(total, crossbars),
            drives=(group_rows * units).sum(axis=1),
            columns=vectors * all_slices,
            cells=(group_rows * s).sum(axis=1) * all_slices,
            outputs=vectors + 0 * all_slices,
            row_groups=(s > 0).sum(axis=1) + 0 * all_slices,
            index_bits=total * ceil_log2(groups) + survivor_bits + flip_bits,
        )
        layer_counts.append(counts)
    return Counts(*(xp.stack(fields) for fields in zip(*layer_counts, strict=True)))


def _count_group_rows(layer: Layer, height: int) -> np.ndarray:
    """Counts the rows of each row group of one matrix, [G]; only the last may have fewer."""
    return np.minimum(height, layer.rows - height * np.arange(layer.count_row_groups(height)))


def look_up_counts(tables: Counts, chip: Chip, level: Array, weight_bits: Array) -> Counts:
    """Looks up a policy's counts [..., L], by its level and weight bits, in tables [L, K, S].

    Raises:
      ValueError: weight bits take more slices than the tables have; not checked in a trace.
    """
    layers = np.arange(tables.crossbars.shape[0])
    slices = count_slices(weight_bits, chip)
    xp = get_namespace(slices + tables.crossbars[0, 0, 0])
    if xp is np and not 1 <= np.min(slices) <= np.max(slices) <= tables.crossbars.shape[-1]:
        raise ValueError(
            f"weight bits of {np.min(slices)} to {np.max(slices)} slices; the tables have 1 to "
            f"{tables.crossbars.shape[-1]}"
        )
    return Counts(*(xp.asarray(table)[layers, level, slices - 1] for table in tables))


def count_copies(layers: tuple[Layer, ...], chip: Chip) -> Array:
    """Counts the copies of every layer, min(replication, ⌈P / min P⌉): [L]."""
    positions = np.asarray([layer.positions for layer in layers])
    xp = get_namespace(chip.replication)
    return xp.minimum(chip.replication, ceil_div(positions, positions.min()))


def count_actions(
    layers: tuple[Layer, ...], counts: Counts, chip: Chip, input_bits: Array
) -> dict[str, Array]:
    """Counts each component's actions in one inference: [..., L] by the name in `Components`.

    Components without a charged action are left out. Actions are int64 on the host and float32 in
    a trace, because they may pass 2^31.
    """
    n, positions = _widen(counts), np.asarray([layer.positions for layer in layers])
    steps = _widen_like(counts.units, ceil_div(input_bits, chip.dac_bits))
    bits = _widen_like(counts.units, input_bits + 0 * counts.units)
    offset, flipped = 1 - chip.differential, chip.flipped
    inputs = np.asarray([layer.groups * layer.rows for layer in layers])
    outputs = np.asarray([layer.groups * layer.columns for layer in layers])
    moved = inputs * bits + outputs * _OUTPUT_BITS
    window = {
        "array": steps * n.cells,
        "dac": steps * n.drives,
        "sample_hold": steps * n.columns,
        "adc": steps * n.columns,
        # Adds up the steps, subtracts each output's offset and turns flipped bitlines back.
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
    return {name: positions * per_window for name, per_window in window.items()}


def count_activations(
    layers: tuple[Layer, ...], counts: Counts, chip: Chip, input_bits: Array
) -> Array:
    """Counts the reads of operation units in one inference, P ⌈a/d⌉ `counts.units`: [..., L]."""
    positions = np.asarray([layer.positions for layer in layers])
    steps = _widen_like(counts.units, ceil_div(input_bits, chip.dac_bits))
    return positions * steps * _widen(counts).units


def _widen_like(count: Array, x: Array) -> Array:
    """Converts x to the type of products of counts, int64 on the host and float32 in a trace."""
    return np.asarray(x, np.int64) if isinstance(count, np.ndarray) else x.astype(jnp.float32)


def _widen(counts: Counts) -> Counts:
    return Counts(*(_widen_like(count, count) for count in counts))


def compute_energy(
    layers: tuple[Layer, ...],
    counts: Counts,
    chip: Chip,
    input_bits: Array,
    adc_bits: Array | None = None,
) -> dict[str, Array]:
    """Computes the energy of one inference, nJ: [..., L] by component, as in `count_actions`.

    Conversions that stop after `adc_bits` [..., L] cost less; None: they run to the end.
    """
    actions = count_actions(layers, counts, chip, input_bits)
    energy_nj = {name: count * (chip.energy_pj[name] * 1e-3) for name, count in actions.items()}
    if adc_bits is not None:
        energy_nj["adc"] = energy_nj["adc"] * (1.0 - chip.adc_saved[adc_bits - 1])
    return energy_nj


def compute_latency(
    layers: tuple[Layer, ...], counts: Counts, chip: Chip, input_bits: Array
) -> Array:
    """Computes every layer's latency, us, [..., L].

    ⌈P / copies⌉ ⌈a/d⌉ (reads of the fullest crossbar) t, where t is `chip.cycle_ns`.
    """
    positions = np.asarray([layer.positions for layer in layers])
    windows = ceil_div(positions, count_copies(layers, chip))  # of the copy with the most
    steps = ceil_div(input_bits, chip.dac_bits)
    cycles = _widen_like(counts.units, windows + 0 * counts.units) * steps * counts.fullest
    return cycles * (chip.cycle_ns * 1e-3)


def compute_layer_costs(
    layers: tuple[Layer, ...],
    counts: Counts,
    chip: Chip,
    input_bits: Array,
    adc_bits: Array | None = None,
) -> LayerCost:
    """Computes the cost of every layer, [..., L]; `adc_bits` as in `compute_energy`."""
    xp = get_namespace(counts.units)
    replicas = count_copies(layers, chip)
    crossbars = counts.crossbars * replicas
    scales = np.asarray([layer.groups * layer.columns * _SCALE_BITS for layer in layers])
    index_bits = counts.index_bits * replicas
    memory = (index_bits + scales * replicas) * chip.memory_bit_um2
    parts = compute_energy(layers, counts, chip, input_bits, adc_bits)
    zeros = 0 * (counts.units + input_bits)  # broadcasts costs that input bits do not change
    layer_cost = LayerCost(
        crossbars + zeros,
        ceil_div(crossbars, chip.crossbars_per_ima) + zeros,
        counts.slots * replicas + zeros,
        index_bits + zeros,
        memory + zeros,
        sum(parts.values()),
        compute_latency(layers, counts, chip, input_bits),
        parts["adc"],
    )
    return LayerCost(*(xp.asarray(field) for field in layer_cost))


def compute_area(layer_cost: LayerCost, chip: Chip) -> Array:
    """Computes every layer's area with its share of IMAs and tiles, mm2, [..., L]."""
    return (layer_cost.memory_um2 + layer_cost.crossbars * _compute_share_um2(chip)) * 1e-6


def _compute_share_um2(chip: Chip) -> Array:
    """Computes the area of a crossbar with its share of an IMA and a tile, um2."""
    ima = chip.ima_um2 + chip.tile_um2 / chip.imas_per_tile
    return chip.crossbar_um2 + ima / chip.crossbars_per_ima


def sum_costs(layer_cost: LayerCost, chip: Chip) -> Cost:
    """Sums the layers' costs [..., L] to the network's [...]."""
    xp = get_namespace(layer_cost.crossbars)
    crossbars, imas = layer_cost.crossbars.sum(axis=-1), layer_cost.imas.sum(axis=-1)
    memory = layer_cost.memory_um2.sum(axis=-1)
    in_proportion = (memory + crossbars * _compute_share_um2(chip)) * 1e-6
    # A tile is paid with all of its IMAs and crossbars, because idle ones take area, too.
    tile = chip.imas_per_tile * chip.crossbars_per_ima * _compute_share_um2(chip)
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
    """Computes the network's cost, [...]; `adc_bits` as in `compute_energy`."""
    return sum_costs(compute_layer_costs(layers, counts, chip, input_bits, adc_bits), chip)
