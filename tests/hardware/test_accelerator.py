"""Accelerators: closure on published figures, the converters' laws, files, bad input."""

import dataclasses
import pathlib
import re
from typing import Any

import pytest
from helpers.accelerators import ISAAC_OU

from apq_jax.hardware import (
    PRESETS,
    Accelerator,
    Component,
    Components,
    load,
    loads,
)
from apq_jax.hardware.__main__ import main
from apq_jax.system.errors import InputError


@pytest.mark.parametrize(
    ("rows", "cell_bits", "dac_bits", "bits"),
    [(1, 1, 1, 1), (4, 2, 1, 4), (5, 2, 1, 4), (6, 2, 1, 5), (9, 2, 2, 7), (128, 2, 1, 9)],
)
def test_lossless_adc_bits(rows: int, cell_bits: int, dac_bits: int, bits: int) -> None:
    accelerator = dataclasses.replace(
        ISAAC_OU, unit_rows=rows, cell_bits=cell_bits, dac_bits=dac_bits
    )
    assert accelerator.adc_resolution == bits
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
        ("read_ns", 10**401, "a number, 0.1 to 1,000,000"),
        ("components", None, "Components"),
        ("name", "a|b", "1 to 80 letters, digits, spaces and . _ + - ( )"),
        ("name", "\U0001f600", "1 to 80 letters, digits, spaces and . _ + - ( )"),
        ("adc_bits", 6, "up to 5, which is lossless"),
        ("adcs", "one", "a number, 0.0078125 to 1024"),
        ("adcs", float("nan"), "a number, 0.0078125 to 1024"),
        ("read_ns", float("inf"), "a number, 0.1 to 1,000,000"),
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
    # Of a number of hundreds of digits the middle is cut out.
    says = re.sub("(10{79})0*(0{79};)", r"\1...\2", f"accelerator.{field}: {value!r}; allowed: ")
    assert str(caught.value) == says + allowed


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


def test_areas_by_component_add_up() -> None:
    for accelerator in PRESETS.values():
        parts = accelerator.area_um2(3, 2, 1)
        expected = 3 * accelerator.crossbar_um2 + 2 * accelerator.ima_um2 + accelerator.tile_um2
        assert sum(parts.values()) == pytest.approx(expected)
        assert parts["adc"] == pytest.approx(3 * accelerator.adcs * accelerator.adc_um2)
        assert parts["bus"] == accelerator.components.bus.area_um2


def test_bases_that_read_whole_crossbars_go_on_doing_so() -> None:
    loaded = loads("base = 'isaac'\ncrossbar_rows = 64\ncrossbar_columns = 256", "x")
    assert (loaded.unit_rows, loaded.unit_columns) == (64, 256)
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
    assert main(["isaac", "--toml", str(path)]) == 0  # again, because nothing is lost
    assert main(["puma", "--toml", str(path)]) == 2
    assert "is there already; allowed: a new file, or --overwrite" in capsys.readouterr().err
    assert load(str(path)) == PRESETS["isaac"]
    assert main(["puma", "--toml", str(path), "--overwrite"]) == 0
    assert load(str(path)) == PRESETS["puma"]
    assert main(["--toml", str(path)]) == 2
    assert main(["isaac", "--toml", str(tmp_path / "mine.json")]) == 2


def test_components_are_hashable() -> None:
    assert hash(Accelerator()) == hash(dataclasses.replace(Accelerator()))
    assert isinstance(Components().adc, Component)
