"""Builds the table of a run's answer for the terminal."""

from typing import Any

import rich.table

from apq_jax.data import compute_standard_error
from apq_jax.metrics import INDEX_BITS, SEARCHED
from apq_jax.report.wording import describe_verdict, format_costs


def build_summary(result: dict[str, Any]) -> rich.table.Table:
    """Builds the table of the chosen policy's costs and accuracies beside the unpruned network's.

    The table fits a terminal of 80 columns. Its title says whether the limits are met.

    Args:
      result: the content of result.json.
    """
    best, floats, data = result["best"], result["float"], result["data"]
    table = rich.table.Table(
        title=describe_verdict(result, "meets", "does NOT meet"),
        caption=f"select: {data['select']} validation images; test: {data['test']} images, once",
    )
    for head in ("", "dense 16", "dense 8", "chosen", "over 8", "over 16"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for metric in (*SEARCHED, INDEX_BITS):
        table.add_row(metric.short_words, *format_costs(result["dense"], best, metric))
    dense = f"{100 * result['dense']['8']['validation_accuracy']:.1f}"
    for words, split, images, unpruned in (
        ("select, %", "validation", data["select"], dense),
        ("test, %", "test", data["test"], ""),
    ):
        before, after = floats[f"{split}_accuracy"], best[f"{split}_accuracy"]
        table.add_row(
            words,
            f"float {100 * before:.1f}",
            unpruned,
            f"{100 * after:.1f}",
            f"{100 * (after - before):+.1f}",
            f"±{100 * compute_standard_error(after, images):.1f}",
        )
    return table
