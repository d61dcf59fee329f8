"""The cost model against numbers worked out by hand, and the accelerator's own figures."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax import crossbar
from apq_jax.files import InputError
from apq_jax.hardware import Accelerator, preset
from apq_jax.types import Layer, Policy

ISAAC_OU = Accelerator()  # 9 x 8 units, 128 x 128 crossbars, 2-bit cells, 1-bit DACs
CONV = Layer("conv", 1, 576, 64, 100, (3, 3), (1, 1))  # 64 row groups of 9 rows
RAGGED = Layer("ragged", 2, 25, 6, 10, (5, 5), (1, 1))  # row groups of 9, 9 and 7 rows
LENET = (
    Layer("conv1", 1, 25, 6, 784, (5, 5), (1, 1)),
    Layer("conv2", 1, 150, 16, 100, (5, 5), (1, 1)),
    Layer("fc1", 1, 400, 120, 1, (), ()),
    Layer("fc2", 1, 120, 84, 1, (), ()),
    Layer("fc3", 1, 84, 10, 1, (), ()),
)


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


TABLES = crossbar.build_tables((CONV, RAGGED), masks(), ISAAC_OU, 8)


def policy(level: int, weight_bits: int, input_bits: int) -> Policy:
    return Policy(*(np.full(2, value, np.int32) for value in (level, weight_bits, input_bits)))


def counted(level: int, weight_bits: int) -> dict[str, list[int]]:
    found = crossbar.counts((CONV, RAGGED), TABLES, ISAAC_OU, policy(level, weight_bits, 8))
    return {name: value.tolist() for name, value in found._asdict().items()}


def test_counts_of_a_pruned_layer() -> None:
    """Eight bits are 4 slices, so a unit of 8 columns holds 2 weights of each row group."""
    assert counted(1, 8) == {
        "crossbars": [1, 1],
        "slots": [32 + 3 + 1, 1 + 2],
        "units": [36, 3],
        "fullest": [36, 3],
        "drives": [36 * 9, 1 * 9 + 2 * 7],
        "columns": [70 * 4, 5 * 4],
        "cells": [70 * 9 * 4, (2 * 9 + 3 * 7) * 4],
        "survivors": [70, 5],
        "row_groups": [3, 2],
        # Which of 64 (6) row groups each unit reads, a list of columns, one mode bit.
        "index_bits": [36 * 6 + 70 * 6 + 1, 3 * 3 + 5 * 3 + 1],
    }


def test_three_bits_take_two_slices() -> None:
    found = counted(1, 3)
    assert found["units"] == [16 + 2 + 1, 1 + 1]
    assert found["drives"] == [19 * 9, 9 + 7]
    assert found["columns"] == [140, 10]
    assert found == counted(1, 4)


def test_counts_of_an_unpruned_layer() -> None:
    """64 x 64 x 4 / 8 units; 14 x 16 slots a crossbar; a bitmap is shorter than the list."""
    found = counted(0, 8)
    assert found["units"] == [2048, 6 * 3]
    assert found["crossbars"] == [10, 1]
    assert found["fullest"] == [205, 18]
    assert found["index_bits"] == [2048 * 6 + 4096 + 1, 18 * 3 + 36 + 1]


def test_a_single_survivor_takes_a_crossbar() -> None:
    found = counted(2, 1)
    assert (found["crossbars"], found["units"]) == ([1, 1], [1, 1])
    assert (found["drives"], found["cells"], found["columns"]) == ([9, 7], [9, 7], [1, 1])


def test_energy_by_hand() -> None:
    """The pruned 3x3 layer at 8 and 8 bits: pJ a window, 100 windows, nJ."""
    counts = crossbar.counts((CONV, RAGGED), TABLES, ISAAC_OU, policy(1, 8, 8))
    found = crossbar.energy((CONV, RAGGED), counts, ISAAC_OU, np.asarray([8, 8]))
    moved = 576 * 8 + 64 * 16  # bits of inputs and outputs
    window = {
        "array": 8 * 2520 * 30 / 16384,
        "dac": 8 * 324 * 0.417,
        "sample_hold": 8 * 280 * 0.001,
        "adc": 8 * 280 * 0.3125625,  # five bits: 1.667 x (32 / 6) / (256 / 9)
        "shift_add": 8 * 280 * 0.021,
        "input_register": 8 * 324 * 0.12,
        "output_register": 70 * 0.0225,
        "offset_correction": 8 * 3 * 0.021 + 70 * 0.021,
        "output_scale": 64 * 0.6,
        "index": 637 * 0.12,
        "edram": moved * 20.45 / 256,
        "bus": moved * 0.054,
        "router": 64 * 16 * 20.74 / 256,
    }
    assert {name: value[0] for name, value in found.items()} == pytest.approx(
        {name: 100 * pj / 1000 for name, pj in window.items()}, rel=1e-9
    )


def test_latency_and_area_by_hand() -> None:
    counts = crossbar.counts((CONV, RAGGED), TABLES, ISAAC_OU, policy(1, 8, 3))
    # windows x steps x units x 100 ns
    np.testing.assert_allclose(
        crossbar.latency((CONV, RAGGED), counts, ISAAC_OU, np.asarray([3, 3])),
        [100 * 3 * 36 * 0.1, 10 * 3 * 3 * 0.1],
    )
    # array, five-bit ADC, 128 DACs, 128 sample-and-holds, 1/8 IMA, 1/96 tile: um2
    one = 25 + 477 + 21.25 + 5 + 3110 / 8 + 214850 / 96
    memory = 0.128 * np.asarray([637 + 64 * 32, 25 + 12 * 32])
    np.testing.assert_allclose(
        crossbar.area((CONV, RAGGED), counts, ISAAC_OU), (one + memory) * 1e-6
    )


def test_two_bit_dacs_halve_the_steps() -> None:
    counts = crossbar.counts((CONV, RAGGED), TABLES, ISAAC_OU, policy(1, 8, 8))
    bits = np.asarray([8, 7])
    once = crossbar.latency((CONV, RAGGED), counts, ISAAC_OU, bits)
    wider = dataclasses.replace(ISAAC_OU, dac_bits=2)
    half = crossbar.latency((CONV, RAGGED), counts, wider, bits)
    np.testing.assert_allclose(half / once, [4 / 8, 4 / 7])


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
    found = crossbar.dense_counts(LENET, ISAAC_OU, np.full(5, bits))
    assert found.crossbars.tolist() == crossbars
    assert found.slots.tolist() == slots
    assert found.units.tolist() == units
    assert found.index_bits.tolist() == [0] * 5


def test_dense_events_are_cut_at_the_crossbars() -> None:
    """150 rows x 16 columns at 8 bits: strips of 128 and 22 rows, 8 units of 8 columns across."""
    found = crossbar.dense_counts(LENET[1:2], ISAAC_OU, np.asarray([8]))
    assert {name: value.tolist() for name, value in found._asdict().items()} == {
        "crossbars": [2],
        "slots": [136],
        "units": [144],
        "fullest": [15 * 8],
        "drives": [150 * 8],
        "columns": [18 * 64],
        "cells": [2400 * 4],
        "survivors": [18 * 16],
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
    found = crossbar.dense_counts((layer,), ISAAC_OU, np.asarray([8]))
    assert (found.crossbars[0], found.fullest[0]) == (crossbars, fullest)


def test_traced_agrees_with_the_host() -> None:
    layers = (CONV, RAGGED)
    rng = np.random.default_rng(0)
    policies = Policy(
        rng.integers(0, 3, (20, 2)), rng.integers(1, 9, (20, 2)), rng.integers(1, 9, (20, 2))
    )

    @jax.jit
    def traced(tables: crossbar.Tables, policies: Policy) -> Any:
        def one(policy: Policy) -> Any:
            counts = crossbar.counts(layers, tables, ISAAC_OU, policy)
            return counts, crossbar.cost(layers, counts, ISAAC_OU, policy.input_bits)

        return jax.vmap(one)(policies)

    counts, cost = traced(*jax.tree.map(jnp.asarray, (TABLES, policies)))
    host = crossbar.counts(layers, TABLES, ISAAC_OU, policies)
    for name in host._fields:
        assert getattr(counts, name).dtype == jnp.int32, name
        np.testing.assert_array_equal(getattr(counts, name), getattr(host, name), err_msg=name)
    expected = crossbar.cost(layers, host, ISAAC_OU, policies.input_bits)
    assert expected.energy_nj.dtype == np.float64
    for name in ("crossbars", "slots", "index_bits"):
        np.testing.assert_array_equal(getattr(cost, name), getattr(expected, name))
    for name in ("area_mm2", "energy_nj", "latency_us"):
        assert getattr(cost, name).dtype == jnp.float32
        np.testing.assert_allclose(getattr(cost, name), getattr(expected, name), rtol=1e-5)


def test_figures_of_the_default_accelerator() -> None:
    assert ISAAC_OU.adc_bits == 5  # 9 rows x 3 = 27 < 32
    assert ISAAC_OU.unit_slots == 14 * 16
    assert ISAAC_OU.cycle_ns == 100.0  # 8 conversions at 1.2 GS/s take 6.7 ns
    assert [ISAAC_OU.slices(bits) for bits in (1, 2, 3, 8, 16)] == [1, 1, 2, 4, 8]


@pytest.mark.parametrize(
    ("rows", "cell_bits", "dac_bits", "bits"),
    [(1, 1, 1, 1), (4, 2, 1, 4), (5, 2, 1, 4), (6, 2, 1, 5), (9, 2, 2, 7), (128, 2, 1, 9)],
)
def test_lossless_adc_bits(rows: int, cell_bits: int, dac_bits: int, bits: int) -> None:
    one = dataclasses.replace(ISAAC_OU, unit_rows=rows, cell_bits=cell_bits, dac_bits=dac_bits)
    assert one.adc_bits == bits
    assert 2**bits > rows * (2**cell_bits - 1) * (2**dac_bits - 1) >= 2 ** (bits - 1)


def test_slow_converters_set_the_cycle() -> None:
    slow = dataclasses.replace(ISAAC_OU, unit_columns=128)
    assert slow.cycle_ns == pytest.approx(128 / 1.2)
    assert dataclasses.replace(slow, adcs=2).cycle_ns == 100.0


def test_areas_close_on_the_published_table() -> None:
    """With ISAAC's 8-bit ADC: an IMA 0.0131 mm2, a tile of 12 of them 0.372 mm2."""
    isaac = dataclasses.replace(ISAAC_OU, unit_rows=64)
    assert isaac.adc_bits == 8
    c = isaac.components
    ima = 8 * (25 + 1200 + 128 * c.dac_um2 + 128 * c.sample_hold_um2) + c.ima_um2
    assert ima * 1e-6 == pytest.approx(0.01312, abs=5e-6)
    assert (12 * ima + c.tile_um2) * 1e-6 == pytest.approx(0.3723, abs=5e-5)
    # 96 crossbars are one tile, whatever layer they hold.
    ones = crossbar.Counts(*([np.asarray([0])] * 10))._replace(crossbars=np.asarray([96]))
    memory = 32 * 2 * 6 * c.memory_bit_um2 * 1e-6
    assert crossbar.area((RAGGED,), ones, isaac)[0] - memory == pytest.approx(0.3723, abs=5e-5)


def test_adc_tables() -> None:
    c = ISAAC_OU.components
    assert c.adc_pj(8) == pytest.approx(1.667)
    assert c.adc_pj(5) == pytest.approx(0.3125625)
    assert [c.adc_area_um2(bits) for bits in (2, 3, 4, 5, 9)] == [90.25, 180.5, 361, 477, 1828]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("crossbar_rows", 0, "1 to 4096"),
        ("crossbar_columns", 5000, "1 to 4096"),
        ("cell_bits", 5, "1 to 4"),
        ("dac_bits", 0, "1 to 8"),
        ("unit_rows", 129, "1 to 128"),
        ("unit_columns", 2.5, "1 to 128"),
        ("adcs", "one", "1 to 1024"),
        ("crossbars_per_ima", -1, "1 to 4096"),
        ("imas_per_tile", 0, "1 to 4096"),
    ],
)
def test_bad_fields_are_named(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        dataclasses.replace(ISAAC_OU, **{field: value})
    message = str(caught.value)
    assert "\n" not in message
    assert message == f"accelerator.{field}: {value!r}; allowed: {allowed}"


def test_an_adc_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"accelerator\.unit_rows: 128 .* 11-bit ADC; allowed"):
        dataclasses.replace(ISAAC_OU, unit_rows=128, cell_bits=4)


def test_presets() -> None:
    assert preset("isaac_ou") == ISAAC_OU
    with pytest.raises(InputError, match=r"'nope'; allowed: .*isaac_ou"):
        preset("nope")
