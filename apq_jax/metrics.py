"""Every metric of a policy: its names, its words, its unit and its format."""

from typing import Any, NamedTuple


class Metric(NamedTuple):
    """A cost of a policy, and how results and reports name and write it."""

    field: str  # in an Evaluation, in search.csv and in a cost of result.json
    ratio: str  # in the `ratios` of result.json; empty if it is not there
    words: str  # with the unit, for the head of a table or an axis
    short_words: str  # the same where space is scarce
    unit: str  # behind a number: "300 slots"
    format: str  # of a number, as `format` takes it


# The objective weighs these and limits bound them; arrays of costs are in this order.
SEARCHED = (
    Metric("slots", "slots", "operation-unit slots", "slots", "slots", ",.0f"),
    Metric("crossbars", "crossbars", "crossbars", "crossbars", "crossbars", ",.0f"),
    Metric("area_mm2", "area", "area, mm²", "area, mm²", "mm²", ".4f"),
    Metric(
        "energy_nj", "energy", "energy an inference, nJ", "energy, nJ", "nJ an inference", ",.1f"
    ),
    Metric(
        "latency_us",
        "latency",
        "latency of an inference, µs",
        "latency, µs",
        "µs an inference",
        ",.1f",
    ),
)
# Two ways to count the area; the accelerator's `round_hierarchy` says which is `area_mm2`.
AREAS = (
    Metric("area_pro_rata_mm2", "", "area pro rata, mm²", "area pro rata, mm²", "mm²", ".4f"),
    Metric(
        "area_rounded_mm2", "area_rounded", "area of whole tiles, mm²", "tiles, mm²", "mm²", ".4f"
    ),
)
PERIOD = Metric("period_us", "period", "between two inferences, µs", "period, µs", "µs", ",.1f")
INDEX_BITS = Metric("index_bits", "", "index bits", "index bits", "bits", ",.0f")

METRICS = tuple(metric.field for metric in SEARCHED)
COSTS = {metric.field: metric for metric in (*SEARCHED, *AREAS, PERIOD, INDEX_BITS)}
BITS = {"weight_bits": "weight bits", "input_bits": "input bits", "adc_bits": "ADC bits"}
ACCURACY_DROP = "accuracy_drop"  # the one limit that is not on a metric, in percentage points


def describe_goal(goal: str, limits: dict[str, float]) -> str:
    """Returns what a search looks for: "the cheapest policy that needs at most 300 slots".

    Args:
      goal: `config.search.goal`: "cost", "accuracy" or "front".
      limits: the largest value allowed, by a metric's field or `ACCURACY_DROP`; may be empty.
    """
    words = {
        "cost": "the cheapest policy",
        "accuracy": "the most accurate policy",
        "front": "the front of accuracy against cost",
    }[goal]
    return f"{words} that {describe_limits(limits)}" if limits else words


def describe_limits(limits: dict[str, float]) -> str:
    """Returns what limits allow: "needs at most 300 slots"; `limits` as in `describe_goal`."""
    return " and ".join(
        f"loses at most {limit:g} points of accuracy"
        if name == ACCURACY_DROP
        else f"needs at most {limit:g} {COSTS[name].unit}"
        for name, limit in limits.items()
    )


def describe_miss(miss: dict[str, Any]) -> str:
    """Returns by how much a limit is missed: "loses 1.5 points of accuracy, 1 allowed".

    For a metric: "needs 330 slots, 300 allowed (10 % more)".

    Args:
      miss: the fields of a `pareto.Miss`.
    """
    name, value, limit = miss["name"], miss["found"], miss["allowed"]
    if name == ACCURACY_DROP:
        return f"loses {value:.3g} points of accuracy, {limit:g} allowed"
    excess = 100 * (value / limit - 1)
    percent = format(excess, ",.0f" if excess >= 10 else ".2g")
    unit = COSTS[name].unit
    return f"needs {value:,.6g} {unit}, {limit:,.6g} allowed ({percent} % more)"
