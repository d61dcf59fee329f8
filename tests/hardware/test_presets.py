"""Presets: closure on published figures."""

import dataclasses

import pytest
from helpers.accelerators import ISAAC_OU

from apq_jax.hardware import (
    PRESETS,
    Accelerator,
    build_matching_isaac,
    load,
    preset,
)
from apq_jax.system.errors import InputError


def test_isaac_closes_on_its_published_table() -> None:
    """ISCA 2016: IMA 24.08 mW and 0.01312 mm2, tile 329.8 and 0.3723, chip 65.8 W and 85.4."""
    totals = PRESETS["isaac"].totals()
    assert totals["ima"] == (pytest.approx(24.08, abs=5e-3), pytest.approx(0.01312, abs=5e-6))
    assert totals["tile"] == (pytest.approx(329.8, abs=0.05), pytest.approx(0.3723, abs=5e-5))
    assert totals["chip"] == (pytest.approx(65_800, abs=50), pytest.approx(85.4, abs=0.05))


def test_operation_units_change_the_converters_alone() -> None:
    """Eight 5-bit ADCs of 0.375 mW and 477 um2 in the place of 2 mW and 1200 um2."""
    isaac, units = PRESETS["isaac"].totals()["ima"], PRESETS["isaac_ou"].totals()["ima"]
    assert units[0] - isaac[0] == pytest.approx(8 * (0.375 - 2.0), abs=5e-3)
    assert units[1] - isaac[1] == pytest.approx(8 * (477 - 1200) * 1e-6)
    assert PRESETS["isaac_ou"] == Accelerator()


def test_sre_closes_on_its_converter() -> None:
    """16 x 16 units of 2-bit cells: SRE's 6-bit ADC of 0.6425 mW."""
    sre = PRESETS["sre"]
    assert sre.adc_resolution == 6
    assert sre.adc_pj * sre.adc_gsps == pytest.approx(0.6425, abs=1e-3)
    isaac = PRESETS["isaac"].totals()["ima"][0]
    assert sre.totals()["ima"][0] == pytest.approx(isaac - 8 * (2 - 0.6425), abs=0.01)


def test_puma_closes_on_its_simulators_constants() -> None:
    """Summed by hand: a core of two matrices of 8 crossbars, 4 ADCs; a tile of 8 cores."""
    puma = PRESETS["puma"]
    assert (puma.adc_resolution, puma.adc_um2) == (8, 1200)
    assert puma.adc_pj * 1.2 == pytest.approx(2.0)
    core = 16 * (0.3 + 128 * 0.003896875 + 128 * 9.7e-6) + 4 * 2.0
    core += 2 * (0.05 + 1.74 + 0.2) + 0.9 + 2.772 + 0.25 + 7.595
    core_mm2 = 16 * (25 + 128 * 0.167 + 128 * 40 / 1024) + 4 * 1200
    core_mm2 += 2 * (60 + 780 + 780) + 3920 + 11597 + 3262.5 + 16128
    assert puma.totals()["ima"] == (pytest.approx(core), pytest.approx(core_mm2 * 1e-6))
    tile = 8 * core + 9.06 + 3.5 + 16.54 / 4 + 8 * 0.26 + 9.14 + 0.525
    tile_mm2 = 8 * core_mm2 + 86000 + 90000 + 47000 / 4 + 8 * 300 + 4400 + 1450
    assert puma.totals()["tile"] == (pytest.approx(tile), pytest.approx(tile_mm2 * 1e-6))


def test_every_number_has_a_source() -> None:
    for accelerator in PRESETS.values():
        for field in dataclasses.fields(accelerator.components):
            component = getattr(accelerator.components, field.name)
            assert component.source
            assert component.action
            assert component.node_nm == 32


def test_isaac_beside_an_accelerator_is_worked_alike() -> None:
    assert build_matching_isaac(ISAAC_OU) == PRESETS["isaac"]
    mine = dataclasses.replace(
        PRESETS["sre"], read_ns=20.0, adc_law="table", replication=4, cell_bits=1, pipelined=False
    )
    assert build_matching_isaac(mine) == dataclasses.replace(
        PRESETS["isaac"], read_ns=20.0, adc_law="table", replication=4, pipelined=False
    )


def test_presets() -> None:
    assert preset("isaac_ou") == ISAAC_OU
    with pytest.raises(InputError, match=r"'nope'; allowed: .*isaac_ou"):
        preset("nope")
    assert load("puma") == PRESETS["puma"]
    with pytest.raises(InputError, match=r"'nope'; allowed: .*or a \.toml file"):
        load("nope")
