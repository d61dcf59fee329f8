"""The page of a sweep, of rows made by hand."""

from typing import Any

import numpy as np
import pytest

from apq_jax.metrics import SEARCHED
from apq_jax.report import html
from apq_jax.report.document import Note, Table
from apq_jax.sweep import report

FIELDS = ["accelerator.unit_rows", "accelerator.unit_columns", "limits.slots"]


def row(rows: int, columns: int, energy: float, area: float = 1.0, **more: Any) -> dict[str, Any]:
    usual = {"limits.slots": 0.0, "meets_limits": 1, "points_lost": 0.25, "latency_us": 9.0}
    costs = {"slots": 100, "crossbars": 7, "area_mm2": area, "energy_nj": energy}
    return {FIELDS[0]: rows, FIELDS[1]: columns, **usual, **costs, **more}


def tables(document: report.Document) -> dict[str, Table]:
    blocks = [block for section in document.sections for block in section.blocks]
    return {block.title: block for block in blocks if isinstance(block, Table)}


def test_shares_of_fields_that_multiply() -> None:
    # ln energy = 3 a + b with a, b in {0, 1}: variances 9 and 1 of 10.
    rows = [row(a, b, float(np.exp(3 * a + b))) for a in (0, 1) for b in (0, 1)]
    shares = report.compute_shares(rows, FIELDS[:2])
    assert shares["energy_nj"] == pytest.approx({FIELDS[0]: 0.9, FIELDS[1]: 0.1})
    assert shares["area_mm2"] == {FIELDS[0]: 0.0, FIELDS[1]: 0.0}  # all alike


def test_what_fields_do_together_is_in_no_share() -> None:
    rows = [row(a, b, float(np.exp(a ^ b))) for a in (0, 1) for b in (0, 1)]
    assert report.compute_shares(rows, FIELDS[:2])["energy_nj"] == pytest.approx(
        {FIELDS[0]: 0.0, FIELDS[1]: 0.0}
    )


def test_the_best_of_each_limit_and_the_front() -> None:
    rows = [
        row(4, 8, 30.0, 1.0),
        row(9, 8, 20.0, 2.0),
        row(9, 4, 20.0, 3.0),  # no less of anything than the one before
        row(4, 4, 1.0, 0.1, meets_limits=0),
        row(4, 16, 50.0, 4.0, **{"limits.slots": 90.0}),
    ]
    named = tables(report.build_report(rows, FIELDS, "net on data"))
    assert named.keys() == {"limits.slots 0", "limits.slots 90", "On the front", "Shares"}
    least = {line[0]: line[1:3] for line in named["limits.slots 0"].parts[0].body}
    assert least["least energy"] == ["9", "8"]
    assert least["least area"] == ["4", "8"]
    assert [line[1:3] for line in named["On the front"].parts[0].body] == [["4", "8"], ["9", "8"]]


def test_of_equal_costs_the_one_that_loses_less_is_the_best() -> None:
    rows = [row(4, 8, 5.0), row(9, 8, 5.0, points_lost=0.125)]
    named = tables(report.build_report(rows, FIELDS, "net on data"))
    assert named["Of all"].parts[0].body[3][:2] == ["least energy", "9"]


def test_where_no_search_meets_its_limits_the_page_says_so() -> None:
    document = report.build_report([row(4, 8, 5.0, meets_limits=0)], FIELDS, "net on data")
    assert [type(block) for block in document.lead][-1] is Note
    assert "nothing to compare" in html.render_html(document)


@pytest.mark.parametrize("names", [(4, 9), ("joint", "apq"), (4.0, 9.5)])
def test_a_page_is_written_of_any_values(names: tuple[Any, Any]) -> None:
    rng = np.random.default_rng(0)
    rows = [
        row(rows, columns, float(rng.uniform(1, 9)), float(rng.uniform(1, 9)))
        for rows in names
        for columns in (4, 8, 16)
    ]
    text = html.render_html(report.build_report(rows, FIELDS, "net on data"))
    assert text.count("<svg") == 2  # the front, and the one pair
    for metric in SEARCHED:
        assert metric.short_words in text


def test_one_point_is_a_page_without_comparisons() -> None:
    text = html.render_html(report.build_report([row(4, 8, 5.0)], FIELDS, "net on data"))
    assert "one point" in text
    assert "Which fields matter" not in text


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.01914, "0.019"), (1.234, "1.23"), (864.2, "864"), (5789.0, "5.8k"), (123456.0, "123k")],
)
def test_numbers_are_brief_in_cells(value: float, words: str) -> None:
    assert report._format_brief(value) == words
