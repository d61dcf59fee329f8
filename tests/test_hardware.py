"""Accelerators: closure on published figures, the converters' laws, files, bad input."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax.hardware import (
    PRESETS,
    Accelerator,
    Component,
    Components,
    adc,
    build_matching_isaac,
    dumps,
    load,
    loads,
    preset,
)
from apq_jax.hardware.__main__ import main
from apq_jax.system.errors import InputError

ISAAC_OU = Accelerator()


# --- closure -------------------------------------------------------------------------------------


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
    for one in PRESETS.values():
        for field in dataclasses.fields(one.components):
            component = getattr(one.components, field.name)
            assert component.source
            assert component.action
            assert component.node_nm == 32


# --- converters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "energies", "areas"),
    [
        # 0.225, 0.375, 0.643, 1.125, 2.0 mW at 1.2 GS/s.
        ("saberi", {4: 0.1875, 5: 0.3125, 6: 0.5358, 7: 0.9375, 8: 1.667}, {3: 180.5, 5: 477}),
        ("table", {3: 0.59, 4: 0.79, 5: 0.99, 8: 1.67, 9: 1.97, 11: 2.57}, {4: 361, 9: 1828}),
        ("linear", {4: 0.8333, 8: 1.6667}, {3: 1200, 8: 1200}),
        ("exponential", {4: 0.1042, 8: 1.667, 10: 6.668}, {4: 75, 8: 1200, 9: 2400}),
    ],
)
def test_laws_by_hand(law: adc.Law, energies: dict[int, float], areas: dict[int, float]) -> None:
    for bits, expected in energies.items():
        found = adc.compute_energy_pj(law, np.asarray(bits), 1.667, 1.2, 32.0)
        assert found == pytest.approx(expected, rel=2e-3), bits
    for bits, expected in areas.items():
        found = adc.compute_area_um2(law, np.asarray(bits), 1200.0, 1.2, 32.0)
        assert found == pytest.approx(expected), bits


def test_the_survey_at_a_gigasample() -> None:
    """hwcomponents-adc at 4 bits, 1 GS/s and 32 nm: 0.74 pJ a conversion and 4964 um2."""
    bits = np.asarray(4)
    assert adc.compute_energy_pj("survey", bits, 0.0, 1.0, 32.0) == pytest.approx(0.74, abs=5e-3)
    assert adc.compute_area_um2("survey", bits, 0.0, 1.0, 32.0) == pytest.approx(4964, abs=1)


@pytest.mark.parametrize("law", adc.LAWS)
def test_laws_may_be_traced(law: adc.Law) -> None:
    bits = np.arange(1, 15)
    for what, point in ((adc.compute_energy_pj, 1.667), (adc.compute_area_um2, 1200.0)):
        expected = what(law, bits, point, 1.2, 32.0)
        found = what(law, jnp.asarray(bits), point, 1.2, 32.0)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert (np.diff(expected[3:]) >= 0).all()
        assert (np.asarray(expected[3:]) > 0).all()


@pytest.mark.parametrize(
    ("rows", "cell_bits", "dac_bits", "bits"),
    [(1, 1, 1, 1), (4, 2, 1, 4), (5, 2, 1, 4), (6, 2, 1, 5), (9, 2, 2, 7), (128, 2, 1, 9)],
)
def test_lossless_adc_bits(rows: int, cell_bits: int, dac_bits: int, bits: int) -> None:
    one = dataclasses.replace(ISAAC_OU, unit_rows=rows, cell_bits=cell_bits, dac_bits=dac_bits)
    assert one.adc_resolution == bits
    assert 2**bits > rows * (2**cell_bits - 1) * (2**dac_bits - 1) >= 2 ** (bits - 1)


def test_flipped_columns_save_a_bit() -> None:
    assert PRESETS["isaac"].adc_resolution == 8
    assert dataclasses.replace(PRESETS["isaac"], flipped_columns=False).adc_resolution == 9


def test_fewer_bits_than_lossless_are_noted() -> None:
    three = dataclasses.replace(ISAAC_OU, adc_bits=3)
    assert three.adc_pj == pytest.approx(0.1172, rel=1e-3)
    extrapolated, lossy = three.notes()
    assert "extrapolates to the 3 bits" in extrapolated
    assert "3 bits lose what 5-bit ones keep" in lossy
    assert ISAAC_OU.notes() == []


def test_figures_of_the_default_accelerator() -> None:
    assert ISAAC_OU.adc_resolution == 5  # 9 rows x 3 = 27 < 32
    assert ISAAC_OU.unit_slots == 14 * 16
    assert ISAAC_OU.cycle_ns == 100.0  # 8 conversions at 1.2 GS/s take 6.7 ns


def test_slow_converters_set_the_cycle() -> None:
    slow = dataclasses.replace(ISAAC_OU, unit_columns=128)
    assert slow.cycle_ns == pytest.approx(128 / 1.2)
    assert dataclasses.replace(slow, adcs=2.0).cycle_ns == 100.0
    assert dataclasses.replace(slow, adcs=0.25).cycle_ns == pytest.approx(4 * 128 / 1.2)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("crossbar_rows", 0, "a whole number, 1 to 4096"),
        ("crossbar_rows", -128, "a whole number, 1 to 4096"),
        ("crossbar_columns", 10**12, "a whole number, 1 to 4096"),
        ("cell_bits", 5, "a whole number, 1 to 4"),
        ("cell_bits", True, "a whole number, 1 to 4"),
        ("dac_bits", 0, "a whole number, 1 to 8"),
        ("unit_rows", 129, "a whole number, 1 to 128 (crossbar_rows)"),
        ("unit_columns", 2.5, "a whole number, 1 to 128 (crossbar_columns)"),
        ("crossbar_rows", 10**401, "a whole number, 1 to 4096"),
        ("read_ns", 10**401, "a number, 0.1 to 1e+06"),
        ("components", None, "Components"),
        ("name", "a|b", "1 to 80 letters, digits, spaces and . _ + - ( )"),
        ("name", "\U0001f600", "1 to 80 letters, digits, spaces and . _ + - ( )"),
        ("adc_bits", 6, "up to 5, which is lossless"),
        ("adcs", "one", "a number, 0.0078125 to 1024"),
        ("adcs", float("nan"), "a number, 0.0078125 to 1024"),
        ("read_ns", float("inf"), "a number, 0.1 to 1e+06"),
        ("replication", 0, "a whole number, 1 to 65536"),
        ("crossbars_per_ima", -1, "a whole number, 1 to 4096"),
        ("imas_per_tile", 0, "a whole number, 1 to 4096"),
        ("adc_law", "moore", "saberi, table, linear, exponential, survey"),
        ("signed", "twos", "offset, differential"),
        ("mapping", 3, "isaac, mnsim"),
        ("pipelined", 1, "true or false"),
        ("name", "", "1 to 80 letters, digits, spaces and . _ + - ( )"),
    ],
)
def test_bad_fields_are_named(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        dataclasses.replace(ISAAC_OU, **{field: value})
    assert str(caught.value) == f"accelerator.{field}: {value!r}; allowed: {allowed}"


def free(field: str) -> Components:
    """Components that cost nothing."""
    parts = {
        part.name: dataclasses.replace(getattr(Components(), part.name), **{field: 0})
        for part in dataclasses.fields(Components)
    }
    return Components(**parts)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"skipping": "value"}, "accelerator.skipping: 'value' with offset weights, whose zero"),
        (
            {"flipped_columns": True, "signed": "differential"},
            "accelerator.flipped_columns: True with differential weights",
        ),
        (
            {"crossbar_rows": 4096, "unit_rows": 4096, "cell_bits": 4},
            "accelerator.unit_rows: 4096 rows of 4-bit cells and 1-bit inputs need a 16-bit ADC",
        ),
        (
            {"components": Components(dac=dataclasses.replace(Components().dac, number=64))},
            "accelerator.components.dac.number: 64; allowed: 0, for the geometry decides",
        ),
        (
            {"components": free("area_um2")},
            "accelerator.components: areas of 0 throughout; allowed: any above 0",
        ),
        (
            {"components": free("energy_pj")},
            "accelerator.components: energies of 0 throughout; allowed: any above 0",
        ),
    ],
)
def test_fields_that_make_no_sense_together(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match="; allowed: ") as caught:
        dataclasses.replace(ISAAC_OU, **changes)
    assert str(caught.value).startswith(says)
    assert dataclasses.replace(ISAAC_OU, skipping="value", signed="differential")
    large = {"crossbar_rows": 4096, "unit_rows": 4096, "cell_bits": 4}
    assert dataclasses.replace(ISAAC_OU, **large, adc_bits=9).adc_resolution == 9


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dac_bits": 2}, "A wordline driven at 2 bits"),
        ({"read_ns": 10.0}, "The array reads for 10 ns at the energy of ISAAC's 100 ns"),
        ({"mapping": "mnsim"}, "a bit plane a crossbar"),
        ({"skipping": "value", "signed": "differential"}, "are not skipped"),
        (
            {
                "adc_law": "table",
                "components": Components(adc=dataclasses.replace(Components().adc, energy_pj=1.0)),
            },
            "The law `table` takes energies from its table",
        ),
    ],
)
def test_what_a_reader_must_know_is_noted(changes: dict[str, Any], says: str) -> None:
    (note,) = dataclasses.replace(ISAAC_OU, **changes).notes()
    assert says in note


def test_isaac_beside_an_accelerator_is_worked_alike() -> None:
    assert build_matching_isaac(ISAAC_OU) == PRESETS["isaac"]
    mine = dataclasses.replace(
        PRESETS["sre"], read_ns=20.0, adc_law="table", replication=4, cell_bits=1, pipelined=False
    )
    assert build_matching_isaac(mine) == dataclasses.replace(
        PRESETS["isaac"], read_ns=20.0, adc_law="table", replication=4, pipelined=False
    )


def test_areas_by_component_add_up() -> None:
    for one in PRESETS.values():
        parts = one.area_um2(3, 2, 1)
        expected = 3 * one.crossbar_um2 + 2 * one.ima_um2 + one.tile_um2
        assert sum(parts.values()) == pytest.approx(expected)
        assert parts["adc"] == pytest.approx(3 * one.adcs * one.adc_um2)
        assert parts["bus"] == one.components.bus.area_um2


def test_bases_that_read_whole_crossbars_go_on_doing_so() -> None:
    found = loads("base = 'isaac'\ncrossbar_rows = 64\ncrossbar_columns = 256", "x")
    assert (found.unit_rows, found.unit_columns) == (64, 256)
    stated = loads("base = 'isaac'\ncrossbar_rows = 256\nunit_rows = 32", "x")
    assert (stated.unit_rows, stated.unit_columns) == (32, 128)
    with pytest.raises(InputError, match=r"x: unit_rows: 9; allowed: .* 1 to 4 \(crossbar_rows\)"):
        loads("crossbar_rows = 4", "x")


@pytest.mark.parametrize(
    ("field", "value"),
    [("area_um2", -1.0), ("energy_pj", float("nan")), ("power_mw", 1e30), ("number", "2")],
)
def test_bad_components(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^{field}: .*; allowed: a number, 0 to "):
        dataclasses.replace(Components().adc, **{field: value})


def test_presets() -> None:
    assert preset("isaac_ou") == ISAAC_OU
    with pytest.raises(InputError, match=r"'nope'; allowed: .*isaac_ou"):
        preset("nope")
    assert load("puma") == PRESETS["puma"]
    with pytest.raises(InputError, match=r"'nope'; allowed: .*or a \.toml file"):
        load("nope")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_file_is_read_as_it_was_written(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(dumps(PRESETS[name]))
    assert load(str(path)) == PRESETS[name]


def test_a_file_says_what_differs(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "sre"\nunit_columns = 8\nadcs = 2\n[components.adc]\nenergy_pj = 1\nsource = "me"\n'
    )
    found = load(str(path))
    expected = dataclasses.replace(PRESETS["sre"], name="mine", unit_columns=8, adcs=2.0)
    parts = dataclasses.replace(
        expected.components,
        adc=dataclasses.replace(expected.components.adc, energy_pj=1, source="me"),
    )
    assert found == dataclasses.replace(expected, components=parts)
    assert type(found.adcs) is float


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("unit_rows = 0", "unit_rows: 0; allowed: a whole number, 1 to 128"),
        ("unit_rows = 'nine'", "unit_rows: 'nine'; allowed: a whole number"),
        ("adcs = nan", "adcs: nan; allowed: a number"),
        ("crossbar_rows = 99999999999999999999", "is not TOML (a whole number of more than 64"),
        ("unit_row = 9", "unit_row: unknown; allowed: base, name, crossbar_rows"),
        ("base = 'mine'", "base: 'mine'; allowed: isaac_ou"),
        ("base = ['isaac']", "base: ['isaac']; allowed: isaac_ou"),
        ("components = 3", "components: 3; allowed: tables"),
        ("[components.dca]\narea_um2 = 1", "components.dca: unknown; allowed: array, dac"),
        ("[components]\nadc = 3", "components.adc: 3; allowed: a table"),
        ("[components.adc]\narea = 1", "components.adc.area: unknown; allowed: area_um2"),
        ("[components.adc]\narea_um2 = -1", "components.adc.area_um2: -1; allowed: a number"),
        ("[components.adc]\nsource = 1", "components.adc.source: 1; allowed: text"),
        ("[components.adc]\nnumber = 3", "components.adc.number: 3; allowed: 0, for the geometry"),
        ("read_ns = " + "9" * 401, "is not TOML (a whole number of more than 64 bits)"),
        ("[components.adc]\narea_um2 = 0x" + "f" * 9000, "is not TOML (a whole number of more"),
        ("unit_rows = ", "is not TOML"),
        ("a = " + "[" * 5000, "is "),
    ],
)
def test_bad_files_are_one_line(
    content: str, says: str, tmp_path: pathlib.Path, capsys: Any
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    assert main([str(path)]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert printed.startswith(f"apq_jax.hardware: {path}: {says}")


def test_files_that_are_not_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bad\.toml: is not TOML"):
        load(str(path))
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        load(str(tmp_path / "none.toml"))
    path.write_bytes(b"#" * (1 << 20) + b"\n#")
    with pytest.raises(InputError, match=r"bad\.toml: larger than"):
        load(str(path))


# --- command line --------------------------------------------------------------------------------


def test_command_line_lists_shows_and_writes(tmp_path: pathlib.Path, capsys: Any) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    for word in (*PRESETS, "24.08", "0.3723", "65.8"):
        assert word in printed
    assert main(["isaac"]) == 0
    printed = capsys.readouterr().out
    for field in dataclasses.fields(Components):
        assert field.name in printed
    path = tmp_path / "mine.toml"
    assert main(["isaac", "--toml", str(path)]) == 0
    assert load(str(path)) == PRESETS["isaac"]
    assert main(["isaac", "--toml", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["--toml", str(path)]) == 2
    assert main(["isaac", "--toml", str(tmp_path / "mine.json")]) == 2


def test_components_are_hashable() -> None:
    assert hash(Accelerator()) == hash(dataclasses.replace(Accelerator()))
    assert isinstance(Components().adc, Component)
