"""The worked example of docs/cost_model.md, number by number."""

import dataclasses
import re

import numpy as np
import pytest
from helpers import ROOT

from apq_jax import crossbar
from apq_jax.crossbar import Cost, Counts
from apq_jax.hardware import PRESETS, Accelerator, adc
from apq_jax.types import Layer

TEXT = (ROOT / "docs/cost_model.md").read_text()
SECTION = TEXT.partition("## A worked example")[2].partition("## In bulk")[0]
LAYERS = (Layer("conv", 1, 576, 64, 1024, (3, 3), (1, 1)),)
EIGHT = np.asarray([8])


def pruned(accelerator: Accelerator) -> tuple[Counts, Cost]:
    survivors = np.asarray([[26] * 38 + [25] * 26])
    chip = accelerator.chip()
    tables = crossbar.tabulate_column_vectors(LAYERS, [survivors], 9, chip, 4)
    counts = crossbar.look_up_counts(tables, chip, np.asarray([0]), np.asarray([4]))
    return counts, crossbar.compute_cost(LAYERS, counts, chip, EIGHT)


def unpruned(accelerator: Accelerator) -> tuple[Counts, Cost]:
    chip = accelerator.chip()
    counts = crossbar.count_dense(LAYERS, EIGHT, chip)
    return counts, crossbar.compute_cost(LAYERS, counts, chip, EIGHT)


def rows(head: str) -> list[list[str]]:
    table = SECTION.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]


def values() -> dict[str, float]:
    accelerator = PRESETS["isaac_ou"]
    chip = accelerator.chip()
    counts, cost = pruned(accelerator)
    dense, dense_cost = unpruned(accelerator)
    computed = {
        name.replace("_", " "): count.item()
        for name, count in crossbar.count_actions(LAYERS, counts, chip, EIGHT).items()
    }
    energy = crossbar.compute_energy(LAYERS, counts, chip, EIGHT)
    computed |= {f"{name.replace('_', ' ')}, nJ": nj.item() for name, nj in energy.items()}
    layer_cost = crossbar.compute_layer_costs(LAYERS, counts, chip, EIGHT)
    return computed | {
        "units of a row group": counts.units.item() / 64,
        "slots": cost.slots,
        "crossbars": cost.crossbars,
        "units in turn": counts.fullest.item(),
        "index bits": cost.index_bits,
        "unit activations": crossbar.count_activations(LAYERS, counts, chip, EIGHT).item(),
        "energy, nJ": cost.energy_nj,
        "latency, us": cost.latency_us,
        "memory, um2": layer_cost.memory_um2.item(),
        "crossbars, um2": 2 * accelerator.crossbar_um2,
        "area of a whole tile, mm2": cost.area_rounded_mm2,
        "area, mm2": cost.area_mm2,
        "dense crossbars, 8 bits": dense_cost.crossbars,
        "dense slots, 8 bits": dense_cost.slots,
        "dense units, 8 bits": dense.units.item(),
        "dense energy, 8 bits, nJ": dense_cost.energy_nj,
        "dense energy on isaac, 8 bits, nJ": unpruned(PRESETS["isaac"])[1].energy_nj,
    }


def test_every_number_of_the_table() -> None:
    table, computed = rows("| quantity | by hand | value |"), values()
    assert len(table) == 31
    for name, by_hand, value in table:
        assert float(value) == pytest.approx(computed[name], rel=2e-6), name
        if re.fullmatch(r"[\d .x/+()-]+", by_hand):  # sums that Python can do as well
            # Only digits and the signs of arithmetic are left by the pattern above.
            assert _sum(by_hand) == pytest.approx(float(value), rel=2e-6), name


def _sum(text: str) -> float:
    """Sums, products and quotients with brackets."""
    while "(" in text:
        text = re.sub(r"\(([^()]*)\)", lambda inner: repr(_sum(inner[1])), text)
    total = 0.0
    for term in text.split("+"):
        product, sign = 1.0, "x"
        for part in re.split(r"([x/])", term):
            if part in ("x", "/"):
                sign = part
            else:
                product = product * float(part) if sign == "x" else product / float(part)
        total += product
    return total


def test_the_sentence_after_it() -> None:
    computed = values()
    assert computed["dense crossbars, 8 bits"] / computed["crossbars"] == 5.0
    assert computed["dense slots, 8 bits"] / computed["slots"] == pytest.approx(4.57, abs=5e-3)
    energy = computed["energy, nJ"]
    assert computed["dense energy, 8 bits, nJ"] / energy == pytest.approx(4.56, abs=5e-3)
    assert computed["dense energy on isaac, 8 bits, nJ"] / energy == pytest.approx(0.90, abs=5e-3)
    for ratio in ("5.0 times", "4.57 times", "4.56 times", "0.90 times"):
        assert ratio in SECTION


def test_the_laws() -> None:
    table = rows("| law | ADC, pJ |")
    assert [law for law, *_ in table] == list(adc.LAWS)
    for law, *numbers in table:
        accelerator = dataclasses.replace(PRESETS["isaac_ou"], adc_law=law)
        isaac = dataclasses.replace(PRESETS["isaac"], adc_law=law)
        _, cost = pruned(accelerator)
        over = unpruned(accelerator)[1], unpruned(isaac)[1]
        expected = [
            accelerator.adc_pj,
            accelerator.adc_um2,
            *(other.energy_nj / cost.energy_nj for other in over),
            *(other.area_mm2 / cost.area_mm2 for other in over),
        ]
        for number, value in zip(numbers, expected, strict=True):
            digits = len(number.partition(".")[2])
            assert float(number) == pytest.approx(value, abs=0.51 * 10**-digits), law


def test_closure_as_printed() -> None:
    for line in TEXT.partition("| preset | crossbar |")[2].partition("\n\n")[0].splitlines()[2:]:
        name, *_, ima, tile, chip = (cell.strip(" `") for cell in line.strip("|").split("|"))
        totals = PRESETS[name.split("`")[0]].totals()
        for level, text, scale in (("ima", ima, 1), ("tile", tile, 1), ("chip", chip, 1e3)):
            power, area = (float(part.split()[0]) for part in text.split(", "))
            assert power == pytest.approx(totals[level][0] / scale, rel=2e-3), name
            assert area == pytest.approx(totals[level][1], rel=2e-3), name
