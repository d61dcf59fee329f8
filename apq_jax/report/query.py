"""What of a run is best within other limits: read from its files, nothing is searched."""

import pathlib
from typing import Any

import numpy as np

from apq_jax.metrics import (
    ACCURACY_DROP,
    BITS,
    COSTS,
    METRICS,
    describe_goal,
    describe_limits,
    describe_miss,
)
from apq_jax.problem import pareto
from apq_jax.report import markdown
from apq_jax.report.wording import shorten_names
from apq_jax.run.read import Rows, read_run
from apq_jax.system.errors import InputError


def answer_query(folder: pathlib.Path, limits: dict[str, float]) -> tuple[str, bool]:
    """The best policy that a run evaluated within limits, in words; whether there is one.

    With a limit on the accuracy that may be lost the cheapest, else the most accurate; where
    none is within the limits, the nearest (`archive.shortfall`).

    Args:
      folder: the run's.
      limits: by name, as `archive` has them; at least one.

    Raises:
      InputError: as `make`.
    """
    result, rows = read_run(folder)
    try:
        return _answer_of(folder, result, rows, limits)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{folder}: result.json or search.csv lacks {error}") from error


def _answer_of(
    folder: pathlib.Path, result: dict[str, Any], rows: Rows, limits: dict[str, float]
) -> tuple[str, bool]:
    dense = [result["dense"][bits] for bits in ("16", "8")]
    weights = {name: float(result["config"]["objective"][name]) for name in METRICS}
    gain = sum(weight * np.log(dense[1][name] / rows[name]) for name, weight in weights.items())
    full, expected = float(result["float"]["search_accuracy"]), rows["expected_accuracy"]
    found = {ACCURACY_DROP: 100 * (full - expected), **{name: rows[name] for name in METRICS}}
    goal = "cost" if ACCURACY_DROP in limits else "accuracy"
    wanted = (-gain, -expected) if goal == "cost" else (-expected, -gain)
    at = int(np.lexsort((*wanted[::-1], pareto.shortfall(found, limits)))[0])
    missed = pareto.find_misses(found, limits, at)
    costs = []
    for field, _, words, form in COSTS:
        if field in METRICS:
            # Counts are read as reals and written as the whole numbers that they are.
            cost = rows[field][at].item()
            cells = [form.format(c[field]) for c in dense]
            cells.append(form.format(int(cost) if field in ("slots", "crossbars") else cost))
            costs.append([words, *cells, *(f"{c[field] / cost:.2f}x" for c in dense[::-1])])
    names = [layer["name"] for layer in result["layers"]]
    bits = [field for field in BITS if f"{field}.{names[0]}" in rows]
    policy = [
        [
            short,
            f"{100 * rows[f'keep.{name}'][at]:.1f} %",
            *(f"{rows[f'{field}.{name}'][at]:.0f}" for field in bits),
        ]
        for name, short in zip(names, shorten_names(names), strict=True)
    ]
    count, number = f"{len(expected):,} evaluated policies", int(rows["evaluation"][at])
    said = f"Of {count} {describe_goal(goal, limits)} is evaluation {number}."
    if missed:
        words = "; ".join(describe_miss(miss._asdict()) for miss in missed)
        said = (
            f"None of {count} {describe_limits(limits)}. The nearest, evaluation {number}, {words}."
        )
    head = ["", "dense 16", "dense 8", "policy", "over dense 8", "over dense 16"]
    text = f"""{folder}: {said}

{markdown.render_table(head, costs)}

{markdown.render_table(["layer", "keep", *(BITS[field] for field in bits)], policy)}

Expected accuracy on the search half of validation ({result["data"]["search"]:,} images): \
{100 * expected[at]:.2f} %, {found[ACCURACY_DROP][at]:.2f} points
below the float network; measured on the same images: {100 * rows["accuracy"][at]:.2f} %. This is \
NOT a test
accuracy: the search chose by these images, and only the run's own result was tested."""
    return text, not missed
