"""A run's result.json and search.csv, read and checked, and the words that say what was asked."""

import csv
import json
import pathlib
from typing import Any

import numpy as np

from apq_jax.environment import METRICS
from apq_jax.files import InputError
from apq_jax.pictures import Rows

SCHEMA = 4  # of the result.json that is read here
COSTS = (  # field of a cost, name of its ratio, words, format
    ("slots", "slots", "operation-unit slots", "{:,}"),
    ("crossbars", "crossbars", "crossbars", "{:,}"),
    ("area_mm2", "area", "area, mm²", "{:.4f}"),
    ("energy_nj", "energy", "energy an inference, nJ", "{:,.1f}"),
    ("latency_us", "latency", "latency of an inference, µs", "{:,.1f}"),
    ("index_bits", None, "index bits", "{:,}"),
)
NEEDED: tuple[str, ...] = (  # fields of result.json
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
BITS = {"weight_bits": "weight bits", "input_bits": "input bits", "adc_bits": "ADC bits"}
LOSSES = "accuracy_drop"  # the limit that is not a metric's
_UNITS = {
    "slots": "slots",
    "crossbars": "crossbars",
    "area_mm2": "mm²",
    "energy_nj": "nJ an inference",
    "latency_us": "µs an inference",
}


def read_run(folder: pathlib.Path) -> tuple[dict[str, Any], Rows]:
    """result.json and the columns of search.csv.

    Raises:
      InputError: either is missing, damaged or lacks a field.
    """
    result, rows = read_result(folder / "result.json"), _read_rows(folder / "search.csv")
    if len(rows["reward"]) != result["search"].get("evaluations"):
        raise InputError(
            f"{folder / 'search.csv'}: {len(rows['reward'])} rows; allowed: those of result.json's "
            f"search.evaluations, {result['search'].get('evaluations')}"
        )
    return result, rows


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """result.json.

    Raises:
      InputError: it is missing, damaged or lacks a field.
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


def goal_words(goal: str, limits: dict[str, float]) -> str:
    """What was asked for: "the cheapest policy that needs at most 300 slots"."""
    asked = {
        "cost": "the cheapest policy",
        "accuracy": "the most accurate policy",
        "front": "the front of accuracy against cost",
    }[goal]
    return f"{asked} that {limit_words(limits)}" if limits else asked


def limit_words(limits: dict[str, float]) -> str:
    """The limits alone: "needs at most 300 slots"."""
    return " and ".join(
        f"loses at most {most:g} points of accuracy"
        if name == LOSSES
        else f"needs at most {most:g} {_UNITS[name]}"
        for name, most in limits.items()
    )


def miss_words(miss: dict[str, Any]) -> str:
    """A limit that is not met: "loses 1.5 points of accuracy, 1 allowed"."""
    name, found, allowed = miss["name"], miss["found"], miss["allowed"]
    if name == LOSSES:
        return f"loses {found:.3g} points of accuracy, {allowed:g} allowed"
    more = 100 * (found / allowed - 1)
    percent = format(more, ",.0f" if more >= 10 else ".2g")
    return f"needs {found:,.6g} {_UNITS[name]}, {allowed:,.6g} allowed ({percent} % more)"
