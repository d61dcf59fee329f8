"""Reads and checks the result.json and search.csv of a finished run."""

import csv
import hashlib
import io
import json
import pathlib
from typing import Any

import numpy as np

from apq_jax.metrics import METRICS
from apq_jax.system.errors import InputError, make_one_line
from apq_jax.system.files import hash_file, read_text

Rows = dict[str, np.ndarray]  # the columns of search.csv by name, [N] each
SCHEMA = 5  # of result.json
_MAX_RESULT, _MAX_ROWS = 64 << 20, 1 << 30  # bytes of result.json and search.csv
NEEDED: tuple[str, ...] = (  # fields that result.json must have
    "config",
    "versions",
    "seed",
    "command",
    "interrupted",
    "data",
    "network",
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
    "files",
    "sha256",
)


def read_run(folder: pathlib.Path) -> tuple[dict[str, Any], Rows]:
    """Reads a run's result.json, and the columns of search.csv by name, [N] float64 each.

    Raises:
      InputError: a file is missing, damaged, changed or lacks a field; a needed column has a value
        that is not finite, or a cost not above 0; or the number of rows is not
        `search.evaluations`.
    """
    result = read_result(folder / "result.json")
    require_own_files(folder, result, "search.csv")
    rows = _read_rows(folder / "search.csv")
    count, evaluations = len(rows["reward"]), result["search"].get("evaluations")
    if count != evaluations:
        raise InputError(
            f"{folder / 'search.csv'}: {count} rows; allowed: those of result.json's "
            f"search.evaluations, {evaluations}"
        )
    return result, rows


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads a result.json, whose digest tells whether its values are those that the run wrote.

    Raises:
      InputError: the file is missing, no JSON or of another schema than SCHEMA; a field of NEEDED
        is missing; a value was changed; or `search` or `files` is no section.
    """
    text = read_text(path, _MAX_RESULT)
    try:
        result = json.loads(text)
        digest = hash_result(result) if isinstance(result, dict) else ""
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({make_one_line(error)})") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema: {schema!r}; allowed: {SCHEMA}")
    for name in NEEDED:
        if name not in result:
            raise InputError(f"{path}: {name}: missing")
    if result["sha256"] != digest:
        raise InputError(f"{path}: sha256: its fields have changed; allowed: as the run wrote them")
    for name in ("search", "files"):
        if not isinstance(result[name], dict):
            raise InputError(f"{path}: {name}: {result[name]!r:.40}; allowed: fields and values")
    return result


def hash_result(result: dict[str, Any]) -> str:
    """Returns the SHA-256 (hex) of a result's fields but `sha256`, as sorted JSON."""
    fields = {name: value for name, value in result.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def require_own_files(folder: pathlib.Path, result: dict[str, Any], *names: str) -> None:
    """Raises InputError if one of the files is not the one that the run of `result` wrote."""
    for name in names:
        if result["files"].get(name) != hash_file(folder / name):
            raise InputError(
                f"{folder / name}: not the file that the run of result.json wrote; allowed: the "
                "files of one run, unchanged"
            )


def _read_rows(path: pathlib.Path) -> Rows:
    text = io.StringIO(read_text(path, _MAX_ROWS), newline="")
    try:
        lines = list(csv.reader(text))
        head, body = lines[0], np.asarray(lines[1:], np.float64)
        rows = dict(zip(head, body.T, strict=True))
    except (csv.Error, ValueError, IndexError) as error:
        raise InputError(f"{path}: is not a table of numbers ({make_one_line(error)})") from error
    for name in ("seed", "reward", "accuracy", "expected_accuracy", "feasible", *METRICS):
        if name not in rows:
            raise InputError(f"{path}: {name}: no such column")
        if not np.isfinite(rows[name]).all() or (name in METRICS and rows[name].min() <= 0):
            words = "above 0" if name in METRICS else "finite"
            raise InputError(f"{path}: {name}: has values that are not {words}")
    return rows
