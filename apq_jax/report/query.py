"""Answers which of a run's policies is best within other limits, from its files alone."""

import pathlib
from typing import Any

import numpy as np

from apq_jax import metrics
from apq_jax.metrics import ACCURACY_DROP, METRICS
from apq_jax.problem import pareto
from apq_jax.report import wording
from apq_jax.report.markdown import render_table
from apq_jax.run.read import Rows, read_run
from apq_jax.system.errors import InputError, escape, make_plain


def answer_query(folder: pathlib.Path, limits: dict[str, float]) -> tuple[str, bool]:
    """Finds the best of a run's evaluated policies within limits.

    The best is the cheapest by the run's objective if the accuracy is limited, else the one with
    the most expected accuracy. If no policy is within the limits, it is the nearest
    (`pareto.shortfall`).

    Args:
      folder: of the run.
      limits: the largest value allowed, by metric or `ACCURACY_DROP`; at least one.

    Returns:
      The answer as Markdown, with the policy's costs, layers and accuracy; and whether the policy
      is within the limits.

    Raises:
      InputError: result.json or search.csv is missing, damaged or lacks a field.
    """
    result, rows = read_run(folder)
    try:
        index, misses = _choose(result, rows, limits)
        goal = metrics.describe_goal("cost" if ACCURACY_DROP in limits else "accuracy", limits)
        count, evaluation = len(rows["evaluation"]), int(rows["evaluation"][index])
        answer = f"Of {count:,} evaluated policies {goal} is evaluation {evaluation}."
        if misses:
            excesses = "; ".join(metrics.describe_miss(miss._asdict()) for miss in misses)
            answer = (
                f"None of {count:,} evaluated policies {metrics.describe_limits(limits)}. The "
                f"nearest, evaluation {evaluation}, {excesses}."
            )
        text = f"{make_plain(folder)}: {answer}\n\n{_describe(result, rows, index)}"
        return escape(text), not misses
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{folder}: result.json or search.csv lacks {error}") from error


def _choose(
    result: dict[str, Any], rows: Rows, limits: dict[str, float]
) -> tuple[int, tuple[pareto.Miss, ...]]:
    """Returns the index of the best evaluation, or of the nearest, and the limits it misses."""
    dense, weights = result["dense"]["8"], result["config"]["objective"]
    gain = sum(float(weights[name]) * np.log(dense[name] / rows[name]) for name in METRICS)
    values = {name: rows[name] for name in METRICS}
    values[ACCURACY_DROP] = _count_points_lost(result, rows)
    expected = rows["expected_accuracy"]
    keys = (-gain, -expected) if ACCURACY_DROP in limits else (-expected, -gain)
    # The last key of lexsort decides first.
    index = int(np.lexsort((*keys[::-1], pareto.shortfall(values, limits)))[0])
    return index, pareto.find_misses(values, limits, index)


def _count_points_lost(result: dict[str, Any], rows: Rows) -> np.ndarray:
    """Returns the percentage points that each of N evaluations is expected to lose: [N]."""
    return 100 * (float(result["float"]["search_accuracy"]) - rows["expected_accuracy"])


def _describe(result: dict[str, Any], rows: Rows, index: int) -> str:
    """Describes the evaluation at `index`: its costs, its layers and its accuracy."""
    cost = {name: rows[name][index].item() for name in METRICS}
    costs = wording.build_costs(("dense", "policy"), result["dense"], cost, metrics.SEARCHED)
    names = [layer["name"] for layer in result["layers"]]
    bits = [field for field in metrics.BITS if f"{field}.{names[0]}" in rows]
    policy = [
        [
            short_name,
            f"{100 * rows[f'keep.{name}'][index]:.1f} %",
            *(f"{rows[f'{field}.{name}'][index]:.0f}" for field in bits),
        ]
        for name, short_name in zip(names, wording.read_layer_names(result), strict=True)
    ]
    expected, measured = (100 * rows[name][index] for name in ("expected_accuracy", "accuracy"))
    points_lost = _count_points_lost(result, rows)[index]
    head = ["layer", "keep", *(metrics.BITS[field] for field in bits)]
    return f"""{render_table(*costs)}

{render_table(head, policy)}

Expected accuracy on the search half of validation ({result["data"]["search"]:,} images): \
{expected:.2f} %, {points_lost:.2f} points
below the float network; measured on the same images: {measured:.2f} %. This is NOT a test
accuracy: the search chose by these images, and only the run's own result was tested."""
