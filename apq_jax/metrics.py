"""Every metric of a policy: its name, its words, its unit and its format."""

from typing import Any

METRICS = ("slots", "crossbars", "area_mm2", "energy_nj", "latency_us")
COSTS = (  # field of a cost, name of its ratio, words, format
    ("slots", "slots", "operation-unit slots", "{:,}"),
    ("crossbars", "crossbars", "crossbars", "{:,}"),
    ("area_mm2", "area", "area, mm²", "{:.4f}"),
    ("energy_nj", "energy", "energy an inference, nJ", "{:,.1f}"),
    ("latency_us", "latency", "latency of an inference, µs", "{:,.1f}"),
    ("index_bits", None, "index bits", "{:,}"),
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
