"""Formats a run's figures and names as several reports have them.

`result` is the content of result.json throughout.
"""

from collections.abc import Iterable
from typing import Any

from apq_jax.data import compute_standard_error
from apq_jax.metrics import INDEX_BITS, Metric
from apq_jax.report.document import Part


def format_accuracy(accuracy: float, images: int) -> str:
    """Formats an accuracy in [0, 1] and its standard error over so many images: "98.0 ± 1.4 %"."""
    return f"{100 * accuracy:.1f} ± {100 * compute_standard_error(accuracy, images):.1f} %"


def format_ratio(base: float, cost: float) -> str:
    """Formats how many times the cost fits into the base's cost: "8.00x"."""
    return f"{base / cost:.2f}x"


def build_costs(
    words: tuple[str, str],
    dense: dict[str, Any],
    cost: dict[str, Any],
    metrics: Iterable[Metric],
) -> Part:
    """Builds a table of a policy's costs beside the unpruned network's, a row a metric.

    Args:
      words: for the unpruned network and for the policy, in the head.
      dense, cost: as in `format_costs`.
      metrics: the costs to write.
    """
    base, policy = words
    head = ["", f"{base} 16", f"{base} 8", policy, f"over {base} 8", f"over {base} 16"]
    return Part(head, [[metric.words, *format_costs(dense, cost, metric)] for metric in metrics])


def format_costs(dense: dict[str, Any], cost: dict[str, Any], metric: Metric) -> list[str]:
    """Formats one cost as a row: unpruned at 16 bits, at 8 bits, the policy, and two ratios.

    The ratios are the unpruned cost at 8 bits and at 16 bits over the policy's.

    Args:
      dense: costs of the unpruned network by bits, `dense` or `dense_isaac` of result.json.
      cost: costs of the policy.
      metric: which cost to write; the ratios of index bits stay empty.
    """
    base_16, base_8, value = (costs[metric.field] for costs in (dense["16"], dense["8"], cost))
    cells = [format(figure, metric.format) for figure in (base_16, base_8, value)]
    if metric is INDEX_BITS:
        return [*cells, "", ""]
    return [*cells, format_ratio(base_8, value), format_ratio(base_16, value)]


def describe_verdict(result: dict[str, Any], meets: str, misses: str) -> str:
    """Says whether the chosen policy meets its limits; without limits, that it is the front's knee.

    Args:
      result: result.json.
      meets: the verb if it meets them.
      misses: the verb if it does not.
    """
    if not result["limits"]:
        return "is the knee of the front"
    verb = meets if result["best"]["meets_limit"] else misses
    return f"{verb} the limit{'s' if len(result['limits']) > 1 else ''}"


def count_points_lost(result: dict[str, Any], split: str) -> float:
    """Returns the percentage points of accuracy that the chosen policy loses to the float network.

    Args:
      result: result.json.
      split: "search", "validation" (its selection half) or "test".
    """
    name = f"{split}_accuracy"
    return float(100 * (result["float"][name] - result["best"][name]))


def read_scheme(result: dict[str, Any]) -> str:
    """Returns the name of the run's scheme; results without one are of "column_vector"."""
    return str(result["config"].get("scheme", "column_vector"))


def read_layer_names(result: dict[str, Any]) -> list[str]:
    """Returns the names of the run's layers, shortened by `shorten_names`."""
    return shorten_names([layer["name"] for layer in result["layers"]])


def shorten_names(names: list[str]) -> list[str]:
    """Cuts off the parts that all paths share at either end: params/conv1/kernel becomes conv1.

    At least one part stays. A single name stays whole.
    """
    paths = [name.split("/") for name in names]
    while len(paths) > 1 and all(len(p) > 1 and p[0] == paths[0][0] for p in paths):
        paths = [p[1:] for p in paths]
    while len(paths) > 1 and all(len(p) > 1 and p[-1] == paths[0][-1] for p in paths):
        paths = [p[:-1] for p in paths]
    return ["/".join(p) for p in paths]
