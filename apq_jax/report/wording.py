"""Figures and words of a run that more than one report has."""

from typing import Any

from apq_jax.data import compute_standard_error
from apq_jax.metrics import INDEX_BITS, Metric


def format_accuracy(accuracy: float, images: int) -> str:
    """Formats an accuracy, a fraction of so many images, with its standard error, in percent."""
    return f"{100 * accuracy:.1f} ± {100 * compute_standard_error(accuracy, images):.1f} %"


def format_ratio(base: float, cost: float) -> str:
    """Formats how many times less a cost is than the base's."""
    return f"{base / cost:.2f}x"


def format_costs(dense: dict[str, Any], cost: dict[str, Any], metric: Metric) -> list[str]:
    """Formats a row of the answer: dense 16, dense 8, policy, over dense 8, over dense 16.

    Args:
      dense: costs of the unpruned network by bits, `dense` or `dense_isaac` of result.json.
      cost: of the policy.
      metric: which cost to write; index bits have no ratios.
    """
    base_16, base_8, value = (costs[metric.field] for costs in (dense["16"], dense["8"], cost))
    cells = [format(figure, metric.format) for figure in (base_16, base_8, value)]
    if metric is INDEX_BITS:
        return [*cells, "", ""]
    return [*cells, format_ratio(base_8, value), format_ratio(base_16, value)]


def describe_verdict(result: dict[str, Any], meets: str, misses: str) -> str:
    """Says whether the chosen policy meets its limits, or how it was chosen without limits.

    Args:
      result: result.json.
      meets: the verb where it meets them.
      misses: the verb where it does not.
    """
    if not result["limits"]:
        return "is the knee of the front"
    verb = meets if result["best"]["meets_limit"] else misses
    return f"{verb} the limit{'s' if len(result['limits']) > 1 else ''}"


def count_points_lost(result: dict[str, Any], split: str) -> float:
    """Counts the points that the chosen policy loses on "search", "validation" or "test"."""
    name = f"{split}_accuracy"
    return float(100 * (result["float"][name] - result["best"][name]))


def read_scheme(result: dict[str, Any]) -> str:
    """Reads by which scheme weights were pruned and packed; older results do not say it."""
    return str(result["config"].get("scheme", "column_vector"))


def read_layer_names(result: dict[str, Any]) -> list[str]:
    """Reads the names of the layers, shortened."""
    return shorten_names([layer["name"] for layer in result["layers"]])


def shorten_names(names: list[str]) -> list[str]:
    """Cuts off what paths share at either end: params/conv1/kernel becomes conv1."""
    paths = [name.split("/") for name in names]
    while len(paths) > 1 and all(len(p) > 1 and p[0] == paths[0][0] for p in paths):
        paths = [p[1:] for p in paths]
    while len(paths) > 1 and all(len(p) > 1 and p[-1] == paths[0][-1] for p in paths):
        paths = [p[:-1] for p in paths]
    return ["/".join(p) for p in paths]
