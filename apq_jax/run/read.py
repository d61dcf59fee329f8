"""Reads and checks the result.json and search.csv of a finished run."""

import csv
import json
import pathlib
from typing import Any

import numpy as np

from apq_jax.metrics import METRICS
from apq_jax.system.errors import InputError

Rows = dict[str, np.ndarray]  # the columns of search.csv by name, [N] each
SCHEMA = 4  # of result.json
NEEDED: tuple[str, ...] = (  # fields that result.json must have
    "config",
    "versions",
    "seed",
    "command",
    "interrupted",
    "data",
    "float",
    "goal",
    "limits",
    "best",
    "dense",
    "dense_isaac",
    "ratios",
    "adc_laws",
    "mapping",
    "adc_curve",
    "notes",
    "accelerator",
    "layers",
    "search",
    "finetune",
    "front",
    "pareto",
)


def read_run(folder: pathlib.Path) -> tuple[dict[str, Any], Rows]:
    """Reads a run's result.json, and the columns of search.csv by name, [N] float64 each.

    Raises:
      InputError: a file is missing, damaged or lacks a field; a needed column has a value that is
        not finite, or a cost not above 0; or the number of rows is not `search.evaluations`.
    """
    result, rows = read_result(folder / "result.json"), _read_rows(folder / "search.csv")
    count, evaluations = len(rows["reward"]), result["search"].get("evaluations")
    if count != evaluations:
        raise InputError(
            f"{folder / 'search.csv'}: {count} rows; allowed: those of result.json's "
            f"search.evaluations, {evaluations}"
        )
    return result, rows


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads a result.json; checks its schema and that NEEDED's fields are there, not the values.

    Raises:
      InputError: the file is missing, no JSON or of another schema than SCHEMA; a field is missing;
        or `search` is no section.
    """
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema: {schema!r}; allowed: {SCHEMA}")
    for name in NEEDED:
        if name not in result:
            raise InputError(f"{path}: {name}: missing")
    if not isinstance(result["search"], dict):
        raise InputError(f"{path}: search: {result['search']!r:.40}; allowed: fields and values")
    return result


def _read_rows(path: pathlib.Path) -> Rows:
    try:
        with path.open(newline="") as file:
            lines = list(csv.reader(file))
        head, body = lines[0], np.asarray(lines[1:], np.float64)
        rows = dict(zip(head, body.T, strict=True))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: is not a table of numbers ({error})") from error
    for name in ("seed", "reward", "accuracy", "expected_accuracy", "feasible", *METRICS):
        if name not in rows:
            raise InputError(f"{path}: {name}: no such column")
        if not np.isfinite(rows[name]).all() or (name in METRICS and rows[name].min() <= 0):
            words = "above 0" if name in METRICS else "finite"
            raise InputError(f"{path}: {name}: has values that are not {words}")
    return rows
