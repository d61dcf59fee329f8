"""The cost model against numbers worked out by hand, and against plain loops."""

import dataclasses
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax import crossbar
from apq_jax.compression.prices import build_prices, look_up_costs, move_to_device
from apq_jax.crossbar import Counts
from apq_jax.hardware import PRESETS, Accelerator, Chip
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.types import Layer, Policy

ISAAC_OU = Accelerator()  # 9 x 8 units, 128 x 128 crossbars, 2-bit cells, 1-bit DACs
CHIP = ISAAC_OU.chip()
CONV = Layer("conv", 1, 576, 64, 100, (3, 3), (1, 1))  # 64 row groups of 9 rows
RAGGED = Layer("ragged", 2, 25, 6, 10, (5, 5), (1, 1))  # row groups of 9, 9 and 7 rows
LAYERS = (CONV, RAGGED)
LENET = WORKLOADS["lenet5"]
PROPERTY = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


def masks() -> list[np.ndarray]:
    """Levels: unpruned; a few survivors; one."""
    conv = np.zeros((3, 1, 64, 64), bool)
    conv[0] = True
    conv[1, 0, 0] = True  # 64 survivors in the first row group,
    conv[1, 0, 1, 10:15] = True  # 5 in the second,
    conv[1, 0, 63, 7] = True  # 1 in the last
    conv[2, 0, 0, 0] = True
    ragged = np.zeros((3, 2, 3, 6), bool)
    ragged[0] = True
    ragged[1, 0, 0, :2] = True  # 2 survivors of 9 rows,
    ragged[1, 1, 2, 3:] = True  # 3 of 7 rows
    ragged[2, 0, 2, 5] = True
    return [conv, ragged]


SURVIVORS = crossbar.count_survivors(masks())
TABLES = crossbar.tabulate_column_vectors(LAYERS, SURVIVORS, 9, CHIP, 4)


def both(value: int) -> np.ndarray:
    return np.full(2, value)


def counted(level: int, weight_bits: int, chip: Chip = CHIP, tables: Counts = TABLES) -> Counts:
    return crossbar.look_up_counts(tables, chip, both(level), both(weight_bits))


def listed(counts: Counts) -> dict[str, list[int]]:
    return {name: np.asarray(value).tolist() for name, value in counts._asdict().items()}


# --- column-vectors ------------------------------------------------------------------------------


def test_counts_of_a_pruned_layer() -> None:
    """Eight bits are 4 slices, so a unit of 8 columns holds 2 weights of each row group."""
    assert listed(counted(1, 8)) == {
        "crossbars": [1, 1],
        "slots": [32 + 3 + 1, 1 + 2],
        "units": [36, 3],
        "fullest": [36, 3],
        "drives": [36 * 9, 1 * 9 + 2 * 7],
        "columns": [70 * 4, 5 * 4],
        "cells": [70 * 9 * 4, (2 * 9 + 3 * 7) * 4],
        "outputs": [70, 5],
        "row_groups": [3, 2],
        # Which of 64 (6) row groups each unit reads, lists of columns with their lengths (0 to 64:
        # 7 bits), one mode bit.
        "index_bits": [36 * 6 + 70 * 6 + 64 * 7 + 1, 3 * 3 + 5 * 3 + 6 * 3 + 1],
    }


def test_three_bits_take_two_slices() -> None:
    counts = listed(counted(1, 3))
    assert counts["units"] == [16 + 2 + 1, 1 + 1]
    assert counts["drives"] == [19 * 9, 9 + 7]
    assert counts["columns"] == [140, 10]
    assert counts == listed(counted(1, 4))


def test_counts_of_an_unpruned_layer() -> None:
    """64 x 64 x 4 / 8 units; 14 x 16 slots a crossbar; a bitmap is shorter than the list."""
    counts = listed(counted(0, 8))
    assert counts["units"] == [2048, 6 * 3]
    assert counts["crossbars"] == [10, 1]
    assert counts["fullest"] == [205, 18]
    assert counts["index_bits"] == [2048 * 6 + 4096 + 1, 18 * 3 + 36 + 1]


def test_a_single_survivor_takes_a_crossbar() -> None:
    counts = listed(counted(2, 1))
    assert (counts["crossbars"], counts["units"]) == ([1, 1], [1, 1])
    assert (counts["drives"], counts["cells"], counts["columns"]) == ([9, 7], [9, 7], [1, 1])


SHAPES = st.tuples(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 7), st.integers(1, 9)
)


@PROPERTY
@hypothesis.given(SHAPES, st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 4))
def test_column_vectors_agree_with_a_loop(
    shape: tuple[int, ...], seed: int, bits: int, cell_bits: int
) -> None:
    """Cells are streamed one by one into units that a row group fills alone."""
    groups, rows, columns, height, width = shape
    height = min(height, rows)
    layer = Layer("any", groups, rows, columns, 3, (), ())
    count = layer.count_row_groups(height)
    mask = np.random.default_rng(seed).random((1, groups, count, columns)) < 0.4
    accelerator = Accelerator(
        crossbar_rows=40,
        crossbar_columns=24,
        unit_rows=height,
        unit_columns=width,
        cell_bits=cell_bits,
    )
    chip, slices = accelerator.chip(), accelerator.slices(bits)
    tables = crossbar.tabulate_column_vectors(
        (layer,), crossbar.count_survivors([mask]), height, chip, accelerator.slices(8)
    )
    counts = crossbar.look_up_counts(tables, chip, np.asarray([0]), np.asarray([bits]))
    units = drives = cells = outputs = alive = 0
    for group in range(groups):
        for block in range(count):
            high = min(height, rows - block * height)
            stream = [
                (column, index)
                for column in range(columns)
                if mask[0, group, block, column]
                for index in range(slices)
            ]
            here = len({place // width for place in range(len(stream))})
            units, drives = units + here, drives + here * high
            cells, outputs = cells + high * len(stream), outputs + len(stream) // slices
            alive += bool(stream)
    slots = (40 // height) * (24 // width)
    crossbars = max(-(-units // slots), 1)
    expected = {
        "crossbars": crossbars,
        "slots": units,
        "units": units,
        "fullest": -(-units // crossbars),
        "drives": drives,
        "columns": outputs * slices,
        "cells": cells,
        "outputs": outputs,
        "row_groups": alive,
    }
    assert {name: getattr(counts, name).item() for name in expected} == expected


# --- the dense network ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "crossbars", "slots", "units"),
    [
        # rows 25, 150 = 128 + 22, 400 = 3 x 128 + 16, 120, 84; columns x 4 slices 24, 64, 480, 336,
        # 40; the units of 150 rows are ⌈150/9⌉ = 17 on end but 15 + 3 in two crossbars.
        (8, [1, 2, 16, 3, 1], [9, 136, 2700, 588, 50], [9, 18 * 8, 47 * 60, 588, 50]),
        (16, [1, 2, 32, 6, 1], [18, 272, 5400, 1176, 100], [18, 18 * 16, 47 * 120, 1176, 100]),
    ],
)
def test_dense_lenet(bits: int, crossbars: list[int], slots: list[int], units: list[int]) -> None:
    counts = listed(crossbar.count_dense(LENET, np.full(5, bits), CHIP))
    assert counts["crossbars"] == crossbars
    assert counts["slots"] == slots
    assert counts["units"] == units
    assert counts["index_bits"] == [0] * 5


def test_dense_events_are_cut_at_the_crossbars() -> None:
    """150 rows x 16 columns at 8 bits: strips of 128 and 22 rows, 8 units of 8 columns across."""
    assert listed(crossbar.count_dense(LENET[1:2], np.asarray([8]), CHIP)) == {
        "crossbars": [2],
        "slots": [136],
        "units": [144],
        "fullest": [15 * 8],
        "drives": [150 * 8],
        "columns": [18 * 64],
        "cells": [2400 * 4],
        "outputs": [18 * 16],
        "row_groups": [18],
        "index_bits": [0],
    }


@pytest.mark.parametrize(
    ("groups", "rows", "columns", "crossbars", "fullest"),
    [
        (32, 9, 1, 3, 14),  # ⌊128 / 9⌋ = 14 on a diagonal of 128 rows
        (10, 9, 1, 1, 10),
        (8, 9, 12, 4, 2 * 6),  # 48 bitlines each: two beside each other, six units each
        (2, 100, 1, 2, 12),  # no room beside
        (2, 130, 1, 4, 15),  # larger than a crossbar: two each
    ],
)
def test_dense_groups_lie_block_diagonally(
    groups: int, rows: int, columns: int, crossbars: int, fullest: int
) -> None:
    layer = Layer("grouped", groups, rows, columns, 1, (3, 3), (1, 1))
    counts = crossbar.count_dense((layer,), np.asarray([8]), CHIP)
    assert (counts.crossbars[0], counts.fullest[0]) == (crossbars, fullest)


def test_whole_crossbar_reads() -> None:
    """On ISAAC a unit is a crossbar: as many units as crossbars, one turn each."""
    isaac = PRESETS["isaac"].chip()
    counts = crossbar.count_dense(LENET, np.full(5, 8), isaac)
    assert counts.crossbars.tolist() == counts.units.tolist() == [1, 2, 16, 3, 1]
    assert counts.fullest.tolist() == [1] * 5
    assert counts.drives.tolist() == [25, 150, 400 * 4, 120 * 3, 84]
    assert counts.columns.tolist() == [24, 2 * 64, 4 * 480, 336, 40]
    assert counts.index_bits.tolist() == counts.columns.tolist()  # whether each is flipped


def test_mnsim_holds_a_plane_a_crossbar() -> None:
    """64 channels of 3 x 3: ⌊128/9⌋ = 14 channels of 126 rows, 5 strips; 8 planes; pairs 16."""
    mnsim = dataclasses.replace(ISAAC_OU, mapping="mnsim")
    counts = crossbar.count_dense((CONV,), np.asarray([8]), mnsim.chip())
    assert counts.crossbars.tolist() == [8 * 1 * 5]
    # 4 strips of 126 rows, 14 units each, and one of 72 rows, 8 units; 64 bitlines, 8 units.
    assert counts.units.tolist() == [8 * (4 * 14 + 8) * 8]
    pairs = dataclasses.replace(mnsim, signed="differential").chip()
    assert crossbar.count_dense((CONV,), np.asarray([8]), pairs).crossbars.tolist() == [80]
    wide = Layer("fc", 1, 300, 200, 1, (), ())
    assert crossbar.count_dense((wide,), np.asarray([4]), mnsim.chip()).crossbars.tolist() == [
        4 * 2 * 3
    ]


@PROPERTY
@hypothesis.given(SHAPES, st.integers(1, 16), st.integers(1, 4), st.booleans())
def test_dense_agrees_with_a_loop(
    shape: tuple[int, ...], bits: int, cell_bits: int, differential: bool
) -> None:
    """Every cell of one group is put into its crossbar and unit, one by one."""
    _, rows, columns, height, width = shape
    accelerator = Accelerator(
        crossbar_rows=13,
        crossbar_columns=11,
        unit_rows=height,
        unit_columns=width,
        cell_bits=cell_bits,
        signed="differential" if differential else "offset",
    )
    slices = accelerator.slices(bits)
    layer = Layer("any", 1, rows, columns, 3, (), ())
    counts = crossbar.count_dense((layer,), np.asarray([bits]), accelerator.chip())
    units: dict[tuple[int, ...], set[tuple[int, int]]] = {}
    for row in range(rows):
        for column in range(columns * slices):
            array, (r, c) = (row // 13, column // 11), (row % 13, column % 11)
            units.setdefault((*array, r // height, c // width), set()).add((row, column))
    inside = [len({r for r, _ in cells}) for cells in units.values()]
    across = [len({c for _, c in cells}) for cells in units.values()]
    arrays = [key[:2] for key in units]
    expected = {
        "crossbars": len(set(arrays)),
        "units": len(units),
        "fullest": max(arrays.count(array) for array in arrays),
        "drives": sum(inside),
        "columns": sum(across),
        "cells": rows * columns * slices,
    }
    if len(set(arrays)) == 1:
        del expected["fullest"]  # of one crossbar that is not full
        assert counts.fullest.item() == len(units)
    assert {name: getattr(counts, name).item() for name in expected} == expected


@pytest.mark.parametrize(
    ("bits", "cell_bits", "offset", "pairs"),
    [(1, 2, 1, 2), (2, 2, 1, 2), (3, 2, 2, 2), (8, 2, 4, 8), (8, 1, 8, 14), (8, 4, 2, 4)],
)
def test_slices(bits: int, cell_bits: int, offset: int, pairs: int) -> None:
    for signed, slices in (("offset", offset), ("differential", pairs)):
        accelerator = dataclasses.replace(ISAAC_OU, cell_bits=cell_bits, signed=signed)
        assert accelerator.slices(bits) == slices
        assert crossbar.count_slices(np.asarray(bits), accelerator.chip()) == slices
        assert crossbar.count_slices(jnp.asarray(bits), accelerator.chip()) == slices


# --- cost ----------------------------------------------------------------------------------------


def test_energy_by_hand() -> None:
    """The pruned 3x3 layer at 8 and 8 bits: pJ a window, 100 windows, nJ."""
    energy = crossbar.compute_energy(LAYERS, counted(1, 8), CHIP, both(8))
    moved = 576 * 8 + 64 * 16  # bits of inputs and outputs
    window = {
        "array": 8 * 2520 * 30 / 16384,
        "dac": 8 * 324 * 0.417,
        "sample_hold": 8 * 280 * 0.001,
        "adc": 8 * 280 * 0.3125625,  # five bits: 1.667 x (32 / 6) / (256 / 9)
        "shift_add": 8 * 280 * 0.021 + 70 * 0.021,
        "input_register": 8 * 324 * 0.12,
        "output_register": 70 * 0.0225,
        "input_count": 8 * 3 * 0.021,
        "output_scale": 64 * 0.6,
        "index_memory": 1085 * 0.12,
        "edram": moved * 20.45 / 256,
        "bus": moved * 0.054,
        "router": 64 * 16 * 20.74 / 256,
    }
    assert {name: value[0] for name, value in energy.items()} == pytest.approx(
        {name: 100 * pj / 1000 for name, pj in window.items()}, rel=1e-9
    )


def test_differential_pairs_need_no_correction_and_flipped_columns_one_more() -> None:
    pairs = dataclasses.replace(ISAAC_OU, signed="differential").chip()
    tables = crossbar.tabulate_column_vectors(LAYERS, SURVIVORS, 9, pairs, 8)
    counts = counted(1, 8, pairs, tables)  # 2 ⌈7/2⌉ = 8 slices
    assert counts.columns.tolist() == [70 * 8, 5 * 8]
    actions = crossbar.count_actions(LAYERS, counts, pairs, both(8))
    assert actions["input_count"].tolist() == [0, 0]
    assert actions["shift_add"].tolist() == [100 * 8 * 560, 10 * 8 * 40]
    flipped = dataclasses.replace(ISAAC_OU, flipped_columns=True).chip()
    actions = crossbar.count_actions(LAYERS, counted(1, 8), flipped, both(8))
    assert actions["shift_add"].tolist() == [100 * (8 * 280 + 70 + 280), 10 * (8 * 20 + 5 + 20)]


def test_latency_and_area_by_hand() -> None:
    counts = counted(1, 8)
    # windows x steps x units x 100 ns
    np.testing.assert_allclose(
        crossbar.compute_latency(LAYERS, counts, CHIP, both(3)),
        [100 * 3 * 36 * 0.1, 10 * 3 * 3 * 0.1],
    )
    # array, five-bit ADC, 128 DACs, 128 sample-and-holds, 1/8 IMA, 1/96 tile: um2
    own, ima, tile = 25 + 477 + 21.25 + 5, 3110, 214850
    memory = 0.128 * np.asarray([1085 + 64 * 32, 43 + 12 * 32])
    layer_cost = crossbar.compute_layer_costs(LAYERS, counts, CHIP, both(3))
    np.testing.assert_allclose(
        crossbar.compute_area(layer_cost, CHIP), (own + ima / 8 + tile / 96 + memory) * 1e-6
    )
    cost = crossbar.sum_costs(layer_cost, CHIP)
    assert cost.area_mm2 == cost.area_pro_rata_mm2
    # One whole tile: 12 IMAs of 8 crossbars each, most of them idle.
    whole = 12 * (8 * own + ima) + tile + memory.sum()
    assert cost.area_rounded_mm2 == pytest.approx(whole * 1e-6)
    assert cost.allocated == 16  # a layer shares no IMA
    rounded = dataclasses.replace(ISAAC_OU, round_hierarchy=True).chip()
    assert crossbar.sum_costs(layer_cost, rounded).area_mm2 == cost.area_rounded_mm2


def test_pipeline_and_bottleneck() -> None:
    counts = counted(1, 8)
    cost = crossbar.compute_cost(LAYERS, counts, CHIP, both(8))
    assert cost.latency_us == pytest.approx(100 * 8 * 3.6 + 10 * 8 * 0.3)
    assert cost.period_us == pytest.approx(100 * 8 * 3.6)
    assert cost.bottleneck == 0
    apart = dataclasses.replace(ISAAC_OU, pipelined=False).chip()
    assert crossbar.compute_cost(LAYERS, counts, apart, both(8)).period_us == cost.latency_us


def test_replicas_share_the_windows() -> None:
    """100 windows against 10: up to ten copies of the first layer, four are allowed."""
    four = dataclasses.replace(ISAAC_OU, replication=4).chip()
    assert crossbar.count_copies(LAYERS, four).tolist() == [4, 1]
    many_copies = dataclasses.replace(ISAAC_OU, replication=99).chip()
    assert crossbar.count_copies(LAYERS, many_copies).tolist() == [10, 1]
    once, copied = (
        crossbar.compute_layer_costs(LAYERS, counted(1, 8), chip, both(8)) for chip in (CHIP, four)
    )
    assert copied.crossbars.tolist() == [4, 1]
    assert copied.slots.tolist() == [144, 3]
    assert copied.latency_us.tolist() == pytest.approx([25 * 8 * 3.6, 10 * 8 * 0.3])
    np.testing.assert_array_equal(copied.energy_nj, once.energy_nj)


def test_two_bit_dacs_halve_the_steps() -> None:
    bits = np.asarray([8, 7])
    once = crossbar.compute_latency(LAYERS, counted(1, 8), CHIP, bits)
    wider = dataclasses.replace(ISAAC_OU, dac_bits=2).chip()
    half = crossbar.compute_latency(LAYERS, counted(1, 8), wider, bits)
    np.testing.assert_allclose(half / once, [4 / 8, 4 / 7])
    # An input's bits are read once, however many of them a step drives.
    for chip in (CHIP, wider):
        actions = crossbar.count_actions(LAYERS, counted(1, 8), chip, bits)["input_register"]
        assert actions.tolist() == [100 * 324 * 8, 10 * (1 * 9 + 2 * 7) * 7]


def test_activations_pass_31_bits_exactly() -> None:
    layers = (Layer("large", 1, 9 * 1000, 8 * 1000, 10**6, (), ()),)
    counts = crossbar.count_dense(layers, np.asarray([2]), CHIP)
    steps = crossbar.count_activations(layers, counts, CHIP, np.asarray([8]))
    # 9000 rows: 70 strips of 15 units and 40 rows of 5; 8000 bitlines: 1000 units.
    assert steps.dtype == np.int64
    assert steps.tolist() == [10**6 * 8 * (70 * 15 + 5) * 1000]
    actions = crossbar.count_actions(layers, counts, CHIP, np.asarray([8]))
    assert all(np.issubdtype(value.dtype, np.integer) for value in actions.values())


# --- batched -------------------------------------------------------------------------------------


def policies(count: int) -> Policy:
    rng = np.random.default_rng(0)
    shape = count, 2
    return Policy(
        *(rng.integers(low, high, shape) for low, high in ((0, 3), (1, 9), (1, 9), (1, 6)))
    )


def traced(chip: Chip) -> Chip:
    return jax.tree.map(jnp.asarray, chip)


def test_a_look_up_is_the_cost() -> None:
    prices = build_prices(LAYERS, TABLES, CHIP, 8, 8)
    batch = policies(50)
    costs = look_up_costs(prices, batch)
    counts = crossbar.look_up_counts(TABLES, CHIP, batch.level, batch.weight_bits)
    expected = crossbar.compute_cost(LAYERS, counts, CHIP, batch.input_bits, batch.adc_bits)
    for name in expected._fields:
        np.testing.assert_allclose(getattr(costs, name), getattr(expected, name), rtol=1e-12)
    whole = crossbar.compute_cost(LAYERS, counts, CHIP, batch.input_bits)
    dear = look_up_costs(prices, batch._replace(adc_bits=None))
    np.testing.assert_allclose(dear.energy_nj, whole.energy_nj, rtol=1e-12)
    assert (dear.energy_nj > costs.energy_nj).any()
    assert (dear.energy_nj >= costs.energy_nj).all()
    on_device = jax.jit(look_up_costs)(move_to_device(prices), jax.tree.map(jnp.asarray, batch))
    for name in expected._fields:
        value = getattr(on_device, name)
        whole = np.issubdtype(getattr(expected, name).dtype, np.integer)
        assert value.dtype == (jnp.int32 if whole else jnp.float32), name
        np.testing.assert_allclose(
            value, getattr(expected, name), rtol=0 if whole else 1e-6, err_msg=name
        )


def test_many_accelerators_compile_once() -> None:
    """Crossbar size, unit width, cells, converters, DACs and areas are traced."""
    many = [
        dataclasses.replace(
            ISAAC_OU,
            crossbar_rows=rows,
            crossbar_columns=rows,
            unit_columns=width,
            cell_bits=cell,
            dac_bits=dac,
            adc_bits=bits,
            signed=signed,
            replication=copies,
        )
        for rows, width, cell, dac, bits, signed, copies in (
            (128, 8, 2, 1, 0, "offset", 1),
            (64, 16, 1, 2, 3, "differential", 3),
            (256, 5, 4, 1, 4, "offset", 100),
        )
    ]
    traces = 0

    @jax.jit
    def costs(chip: Chip, batch: Policy) -> crossbar.Cost:
        nonlocal traces
        traces += 1
        tables = crossbar.tabulate_column_vectors(LAYERS, SURVIVORS, 9, chip, 14)
        prices = build_prices(LAYERS, tables, chip, 8, 8)
        return look_up_costs(prices, batch)

    batch = policies(20)
    for accelerator in many:
        chip = accelerator.chip()
        tables = crossbar.tabulate_column_vectors(LAYERS, SURVIVORS, 9, chip, 14)
        counts = crossbar.look_up_counts(tables, chip, batch.level, batch.weight_bits)
        expected = crossbar.compute_cost(LAYERS, counts, chip, batch.input_bits, batch.adc_bits)
        cost = costs(traced(chip), jax.tree.map(jnp.asarray, batch))
        for name in expected._fields:
            whole = np.issubdtype(getattr(expected, name).dtype, np.integer)
            np.testing.assert_allclose(
                getattr(cost, name),
                getattr(expected, name),
                rtol=0 if whole else 1e-5,
                err_msg=name,
            )
    assert traces == 1


def test_bits_that_the_tables_lack_are_refused() -> None:
    for bits in (0, 9):
        with pytest.raises(ValueError, match="slices; the tables have 1 to 4"):
            counted(1, bits)


def test_a_traced_accelerator_takes_tables_of_the_host() -> None:
    chip = traced(CHIP)
    computed = jax.jit(lambda chip: build_prices(LAYERS, TABLES, chip, 8, 8))(chip)
    expected = build_prices(LAYERS, TABLES, CHIP, 8, 8)
    np.testing.assert_array_equal(computed.whole, expected.whole)
    np.testing.assert_allclose(computed.real, expected.real, rtol=1e-5)


def test_vmap_over_accelerators_agrees() -> None:
    widths = [4, 8, 16]
    chips = [dataclasses.replace(ISAAC_OU, unit_columns=width).chip() for width in widths]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *chips)

    def dense_units(chip: Chip) -> Any:
        return crossbar.count_dense(LENET, jnp.full(5, 8), chip)

    computed = jax.vmap(dense_units)(stacked)
    for index, chip in enumerate(chips):
        expected = crossbar.count_dense(LENET, np.full(5, 8), chip)
        jax.tree.map(
            lambda a, b, index=index: np.testing.assert_array_equal(a[index], b), computed, expected
        )
