"""The table of a sweep, sweep.csv: a row a search, written as they end and read to go on."""

import csv
import io
import pathlib
from typing import Any, TypeAlias

from apq_jax.metrics import METRICS
from apq_jax.sweep.points import Point
from apq_jax.system.errors import InputError, in_one_line, shown

NUMBER = "search"  # the first column: the point's place, from 0
Row: TypeAlias = dict[str, Any]


def format_csv(rows: dict[int, Row]) -> str:
    """Rows by number as csv, in order; a field that a row has not is empty."""
    lines = [{NUMBER: number, **rows[number]} for number in sorted(rows)]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def read_rows(path: pathlib.Path, points: list[Point]) -> dict[int, Row]:
    """The rows that `written` wrote, by number; none where there is no file or an empty one.

    Raises:
      InputError: the file cannot be read, or is no table of these points.
    """
    try:
        if not path.exists():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, strict=True))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table ({in_one_line(error)})") from error
    rows = {}
    for at, line in enumerate(lines, start=2):
        try:
            number, row = _parse_row(line, points)
        except InputError as error:
            raise InputError(f"{path}: row {at}: {error}") from error
        rows[number] = row
    return rows


def _parse_row(line: dict[str, Any], points: list[Point]) -> tuple[int, Row]:
    """A line's search and its row."""
    text, last = line.get(NUMBER) or "", len(points) - 1
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else last + 1
    if number > last:
        raise InputError(f"{NUMBER}: {shown(text)!r}; allowed: 0 to {last}")
    if None in line or None in line.values():
        raise InputError("allowed: as many values as there are names")
    values = points[number].values
    for name, value in values.items():
        if line.get(name) != str(value):
            said = shown(line.get(name, ""))
            raise InputError(f"{name}: {said!r}; allowed: {str(value)!r}, search {number}'s")
    found = {name: _parse_value(value) for name, value in line.items() if value != ""}
    checked: dict[str, tuple[float, float]] = {"meets_limits": (0, 1)}
    if found.get("meets_limits") == 1:
        checked |= {"points_lost": (-100, 100)} | dict.fromkeys(METRICS, (1e-300, 1e300))
    for name, (low, high) in checked.items():
        value = found.get(name)
        if not isinstance(value, int | float) or not low <= value <= high:
            said = shown(line.get(name, ""))
            raise InputError(f"{name}: {said!r}; allowed: a number from {low:g} to {high:g}")
    del found[NUMBER]
    return number, {**found, **values}


def _parse_value(text: str) -> int | float | str:
    """As it was written: a number only where it would be written so again."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text:
            return value
    return text
