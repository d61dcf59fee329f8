"""Accelerator files: round trips, and every bad file refused in one line."""

import dataclasses
import pathlib
from typing import Any

import pytest

from apq_jax.hardware import (
    PRESETS,
    dumps,
    load,
)
from apq_jax.hardware.__main__ import main
from apq_jax.system.errors import InputError


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
    loaded = load(str(path))
    expected = dataclasses.replace(PRESETS["sre"], name="mine", unit_columns=8, adcs=2.0)
    parts = dataclasses.replace(
        expected.components,
        adc=dataclasses.replace(expected.components.adc, energy_pj=1, source="me"),
    )
    assert loaded == dataclasses.replace(expected, components=parts)
    assert type(loaded.adcs) is float


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
    with pytest.raises(InputError, match=r"bad\.toml: is not text in UTF-8"):
        load(str(path))
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        load(str(tmp_path / "none.toml"))
    path.write_bytes(b"#" * (1 << 20) + b"\n#")
    with pytest.raises(InputError, match=r"bad\.toml: 1,048,578 bytes; allowed: up to"):
        load(str(path))
