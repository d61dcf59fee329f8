"""Figures and words of a run that more than one report has."""

from typing import Any

from apq_jax.data import standard_error
from apq_jax.metrics import COSTS, goal_words

# Both areas in place of the one that the objective counts.
_AREAS = (
    ("area_pro_rata_mm2", "area pro rata, mm²", "{:.4f}"),
    ("area_rounded_mm2", "area of whole tiles, mm²", "{:.4f}"),
)


def percent(accuracy: float, count: int) -> str:
    """An accuracy of so many images with its standard error."""
    return f"{100 * accuracy:.1f} ± {100 * standard_error(accuracy, count):.1f} %"


def times(cost: dict[str, Any], base: dict[str, Any], field: str) -> str:
    """How many times less a cost is than the base's."""
    return f"{base[field] / cost[field]:.2f}x"


def costs(result: dict[str, Any], areas: bool = False) -> list[list[str]]:
    """Rows of the answer: words, dense 16, dense 8, chosen, over dense 8, over dense 16.

    Args:
      result: of the run.
      areas: the area both pro rata and of whole tiles, not that of the objective alone.
    """
    best, dense = result["best"], [result["dense"][bits] for bits in ("16", "8")]
    table = []
    for field, ratio, words, form in COSTS:
        fields = _AREAS if areas and field == "area_mm2" else ((field, words, form),)
        for name, said, shown in fields:
            cells = [shown.format(cost[name]) for cost in (*dense, best)]
            over = ["", ""] if ratio is None else [times(best, d, name) for d in dense[::-1]]
            table.append([said, *cells, *over])
    return table


def verdict(result: dict[str, Any], meets: str, misses: str) -> str:
    """Whether the limits are met, or what was chosen without any."""
    if not result["limits"]:
        return "is the knee of the front"
    words = meets if result["best"]["meets_limit"] else misses
    return f"{words} the limit{'s' if len(result['limits']) > 1 else ''}"


def asked(result: dict[str, Any]) -> str:
    """What was asked, in words."""
    return goal_words(result["goal"], result["limits"])


def lost(result: dict[str, Any], split: str) -> float:
    """Points that the chosen policy loses on a split, "search", "validation" or "test"."""
    name = f"{split}_accuracy"
    return float(100 * (result["float"][name] - result["best"][name]))


def scheme_of(result: dict[str, Any]) -> str:
    """How weights were pruned and packed."""
    return str(result["config"].get("scheme", "column_vector"))  # older results have none


def short_names(names: list[str]) -> list[str]:
    """Paths of parameters without what they share: params/conv1/kernel is conv1."""
    parts = [name.split("/") for name in names]
    while len(parts) > 1 and all(len(p) > 1 and p[0] == parts[0][0] for p in parts):
        parts = [p[1:] for p in parts]
    while len(parts) > 1 and all(len(p) > 1 and p[-1] == parts[0][-1] for p in parts):
        parts = [p[:-1] for p in parts]
    return ["/".join(p) for p in parts]
