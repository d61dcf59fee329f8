"""A sweep's table comes back as it was written, or is refused in one line."""

import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apq_jax.config import Config
from apq_jax.hardware import Accelerator
from apq_jax.metrics import METRICS
from apq_jax.sweep import table
from apq_jax.sweep.points import Point
from apq_jax.system.errors import InputError

POINTS = [
    Point({"seed": seed, "search.strategy": name}, Accelerator(), Config())
    for seed, name in ((1, "joint"), (2, "apq"), (3, "joint"))
]


def row(index: int, cost: float) -> dict[str, Any]:
    costs = dict.fromkeys(METRICS, cost)
    return {**POINTS[index].values, "meets_limits": 1, "points_lost": -0.25, **costs, "bits": "2 3"}


@given(st.floats(1e-9, 1e9) | st.integers(1, 2**60))
def test_rows_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, cost: float) -> None:
    path = tmp_path_factory.mktemp("table") / "sweep.csv"
    missed = {**POINTS[1].values, "meets_limits": 0, "note": 'least "7", or 0'}
    rows = {2: row(2, cost), 1: missed}
    path.write_text(table.format_csv(rows))
    assert table.read_rows(path, POINTS) == rows
    assert table.format_csv(table.read_rows(path, POINTS)) == path.read_text()
    assert [line[0] for line in path.read_text().splitlines()] == ["s", "1", "2"]


def test_no_table_has_no_rows(tmp_path: pathlib.Path) -> None:
    assert table.read_rows(tmp_path / "none.csv", POINTS) == {}
    (tmp_path / "empty.csv").write_text("")
    assert table.read_rows(tmp_path / "empty.csv", POINTS) == {}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("0,1,joint", "3,1,joint", "row 2: search: '3'; allowed: 0 to 2"),
        ("0,1,joint", "-0,1,joint", "row 2: search: '-0'; allowed: 0 to 2"),
        ("0,1,joint", "0,2,joint", "row 2: seed: '2'; allowed: '1', search 0's"),
        ("0,1,joint", "0,1,apq", "search.strategy: 'apq'; allowed: 'joint', search 0's"),
        ("0,1,joint,1", "0,1,joint,2", "meets_limits: '2'; allowed: a number from 0 to 1"),
        ("-0.25", "inf", "points_lost: 'inf'; allowed: a number"),
        ("12.5", "none", "slots: 'none'; allowed: a number"),
        ("12.5", "-12.5", "slots: '-12.5'; allowed: a number"),
        (",2 3", "", "row 2: allowed: as many values as there are names"),
        ("2 3", "2 3,4", "row 2: allowed: as many values as there are names"),
        ("2 3", '"2', "not a table"),
    ],
)
def test_bad_tables_are_one_line(tmp_path: pathlib.Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "sweep.csv"
    text = table.format_csv({0: row(0, 12.5)})
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        table.read_rows(path, POINTS)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1
