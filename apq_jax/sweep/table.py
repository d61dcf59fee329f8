"""Formats and reads sweep.csv, the table of a sweep, which has a row for each finished search.

A resumed sweep reads the table back.
"""

import csv
import io
import pathlib
from typing import Any, TypeAlias

from apq_jax.metrics import METRICS
from apq_jax.sweep.points import Point
from apq_jax.system.errors import InputError, make_one_line, quote_name
from apq_jax.system.files import read_text

_MAX_BYTES = 1 << 30
INDEX = "search"  # the first column, the point's index from 0
Row: TypeAlias = dict[str, Any]  # a number or a text by column; without INDEX


def format_csv(rows: dict[int, Row]) -> str:
    """Formats rows as CSV, in the order of their points' indices; missing values are empty.

    Args:
      rows: by index of the point.
    """
    lines = [{INDEX: index, **rows[index]} for index in sorted(rows)]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def read_rows(path: pathlib.Path, points: list[Point]) -> dict[int, Row]:
    """Reads the rows that `format_csv` wrote, by index of their point.

    A missing or empty file has no rows.

    Raises:
      InputError: the file cannot be read, a row is not of one of these points, or a cost or
        `meets_limits` is out of range.
    """
    try:
        text = read_text(path, _MAX_BYTES) if path.exists() else ""
        lines = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not a table ({make_one_line(error)})") from error
    rows = {}
    for line_number, line in enumerate(lines, start=2):
        try:
            index, row = _parse_row(line, points)
        except InputError as error:
            raise InputError(f"{path}: row {line_number}: {error}") from error
        rows[index] = row
    return rows


def _parse_row(line: dict[str, Any], points: list[Point]) -> tuple[int, Row]:
    """Returns the index of a line's point, and the row."""
    text, last = line.get(INDEX) or "", len(points) - 1
    index = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else last + 1
    if index > last:
        raise InputError(f"{INDEX}: {quote_name(text)!r}; allowed: 0 to {last}")
    if None in line or None in line.values():
        raise InputError("allowed: as many values as there are names")
    values = points[index].values
    for name, value in values.items():
        if line.get(name) != str(value):
            text = quote_name(line.get(name, ""))
            raise InputError(f"{name}: {text!r}; allowed: {str(value)!r}, search {index}'s")
    row = {name: _parse_value(value) for name, value in line.items() if value != ""}
    ranges: dict[str, tuple[float, float]] = {"meets_limits": (0, 1)}
    if row.get("meets_limits") == 1:
        ranges |= {"points_lost": (-100, 100)} | dict.fromkeys(METRICS, (1e-300, 1e300))
    for name, (low, high) in ranges.items():
        value = row.get(name)
        if not isinstance(value, int | float) or not low <= value <= high:
            text = quote_name(line.get(name, ""))
            raise InputError(f"{name}: {text!r}; allowed: a number from {low:g} to {high:g}")
    del row[INDEX]
    return index, {**row, **values}


def _parse_value(text: str) -> int | float | str:
    """Returns the value that a text was written from: a number if it formats to the same text."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text:
            return value
    return text
