"""Pictures of the chosen policy: bits, crossbars and energy by layer, accuracy by ADC bits."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from apq_jax.mapping.schemes import SCHEMES
from apq_jax.report.figures import _BLUE, _COLOURS, _GREEN, _GREY, _ORANGE, _RED, _figure, _say
from apq_jax.report.wording import short_names
from apq_jax.run.read import Rows


def policy(result: dict[str, Any], rows: Rows) -> Figure:
    """Keep ratio and bits of every layer."""
    del rows
    layers = result["layers"]
    figure, (above, below) = _figure(rows=2, height=4.4)
    at, names = np.arange(len(layers)), short_names([layer["name"] for layer in layers])
    keep = [100 * layer["keep"] for layer in layers]
    bars = above.bar(at, keep, 0.6, color=_BLUE)
    _say(bars, [f"{name}: {value:.1f} % kept" for name, value in zip(names, keep, strict=True)])
    above.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
    kept = SCHEMES[result["config"].get("scheme", "column_vector")].kept
    above.set_ylabel(f"{kept} kept, %")
    above.set_ylim(0, 112)
    kinds = ("weight", _GREEN, "weights"), ("input", _ORANGE, "inputs"), ("adc", _BLUE, "ADCs")
    shown = [one for one in kinds if f"{one[0]}_bits" in layers[0]]
    width, most = 0.8 / len(shown), 8
    for number, (kind, color, label) in enumerate(shown):
        left = at + width * (number - (len(shown) - 1) / 2)
        values = [layer[f"{kind}_bits"] for layer in layers]
        most = max(most, *values)
        group = below.bar(left, values, width - 0.02, color=color, label=label)
        below.bar_label(group, fontsize=8, padding=1)
        _say(group, [f"{name}: {n} bits, {label}" for name, n in zip(names, values, strict=True)])
    below.set_ylabel("bits")
    below.set_ylim(0, 1.2 * most)
    below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    below.legend(frameon=False, ncols=3, loc="upper right", fontsize=9, bbox_to_anchor=(1, 1.18))
    for axis in (above, below):
        axis.grid(axis="x", visible=False)
        axis.set_xticks(at, names, rotation=0 if len(names) <= 8 else 60, parse_math=False)
    return figure


def crossbars(result: dict[str, Any], rows: Rows) -> Figure:
    """Crossbars and slots of every layer, dense and chosen."""
    del rows
    layers = result["layers"]
    figure, axes = _figure(columns=2, height=1.4 + 0.5 * len(layers))
    at, names = np.arange(len(layers)), short_names([layer["name"] for layer in layers])
    for axis, field in zip(axes, ("crossbars", "slots"), strict=True):
        dense = np.asarray([layer["dense_8"][field] for layer in layers])
        chosen = np.asarray([layer[field] for layer in layers])
        for values, shift, colour, label in (
            (dense, -0.2, _ORANGE, "dense, 8 bits"),
            (chosen, 0.2, _GREEN, "chosen"),
        ):
            bars = axis.barh(at + shift, values, 0.38, color=colour, label=label)
            axis.bar_label(bars, [f"{value:,}" for value in values], fontsize=8, padding=2)
            said = zip(names, values, strict=True)
            _say(bars, [f"{name}, {label}: {value:,} {field}" for name, value in said])
        high, low = max(dense.max(), chosen.max()), max(min(dense.min(), chosen.min()), 1)
        if high / low > 50:
            axis.set_xscale("log")
            axis.set_xlim(0.6 * low, 4 * high)
        else:
            axis.set_xlim(0, 1.2 * high)
        axis.set_yticks(at, names, parse_math=False)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("crossbars" if field == "crossbars" else "operation-unit slots")
    axes[1].set_yticklabels([])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def energy(result: dict[str, Any], rows: Rows) -> Figure:
    """Energy of one inference by component: dense on ISAAC, dense here, chosen."""
    del rows
    costs = {
        "dense 8 bits\non ISAAC": result["dense_isaac"]["8"],
        "dense 8 bits": result["dense"]["8"],
        "chosen": result["best"],
    }
    parts = [cost["energy_by_component_nj"] for cost in costs.values()]
    totals = [sum(part.values()) for part in parts]
    figure, (axis,) = _figure(height=2.6)
    _stack(axis, parts, [100 / total for total in totals], [name.split("\n")[0] for name in costs])
    for place, value in enumerate(totals):
        _beside(axis, 100, place, f"{value:,.0f} nJ")
    axis.set_yticks(range(len(costs)), list(costs))
    axis.set_xlim(0, 116)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.set_xlabel("energy of an inference, %")
    figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    return figure


def layer_energy(result: dict[str, Any], rows: Rows) -> Figure:
    """Energy of one inference by layer and component, chosen."""
    del rows
    layers = result["layers"]
    names = short_names([layer["name"] for layer in layers])
    parts = [layer["energy_by_component_nj"] for layer in layers]
    figure, (axis,) = _figure(height=1.5 + 0.3 * len(layers))
    _stack(axis, parts, [1.0] * len(parts), names)
    for place, part in enumerate(parts):
        total = sum(part.values())
        _beside(axis, total, place, f"{total:,.1f} nJ")
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_xlim(0, 1.15 * max(sum(part.values()) for part in parts))
    axis.set_xlabel("energy of an inference, nJ")
    figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    return figure


def _beside(axis: Axes, x: float, y: float, words: str) -> None:
    """Words right of a bar's end."""
    axis.annotate(words, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8)


def _stack(axis: Axes, parts: list[dict[str, float]], scale: list[float], names: list[str]) -> None:
    """A bar for each of `parts`, put together of its components, the smallest as one."""
    totals = [sum(part.values()) for part in parts]
    # Named are those that are a twentieth of some bar.
    named = [
        name
        for name in parts[0]
        if any(part[name] > 0.05 * total for part, total in zip(parts, totals, strict=True))
    ]
    shown = [[part[name] for part in parts] for name in named[: len(_COLOURS)]]
    rest = np.asarray(totals) - np.sum(shown, axis=0)
    at, left = np.arange(len(parts)), np.zeros(len(parts))
    for label, values, colour in (
        *zip(named, shown, _COLOURS, strict=False),
        ("other", rest, _GREY),
    ):
        widths, label = np.asarray(scale) * values, label.replace("_", " ")
        bars = axis.barh(at, widths, 0.6, left=left, color=colour, label=label)
        said = zip(names, values, totals, strict=True)
        _say(
            bars,
            [
                f"{name}, {label}: {value:,.4g} nJ, {100 * value / total:.1f} %"
                for name, value, total in said
            ],
        )
        left += widths
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)


def adc(result: dict[str, Any], rows: Rows) -> Figure:
    """Accuracy and energy of the chosen policy by bits of the converters."""
    del rows
    points = result["adc_curve"]
    figure, (accuracy, energy) = _figure(columns=2, height=2.8)
    bits = [point["bits"] for point in points]
    accuracy.plot(bits, [100 * point["accuracy"] for point in points], marker="o", color=_BLUE)
    all_seen = points[0]["images"] == result["data"]["select"]  # as the limit is of all
    if all_seen and "accuracy_drop" in result["limits"]:
        limit = 100 * result["float"]["validation_accuracy"] - result["limits"]["accuracy_drop"]
        accuracy.axhline(limit, color=_RED, linestyle="--", linewidth=1.2)
        below = (0, -12)
        accuracy.annotate("limit", (bits[-1], limit), below, textcoords="offset points", color=_RED)
    accuracy.set_ylabel("accuracy, selection half, %")
    energy.plot(bits, [point["energy_nj"] for point in points], marker="o", color=_GREEN)
    energy.set_ylabel("energy, nJ an inference")
    energy.set_ylim(0, 1.1 * max(point["energy_nj"] for point in points))
    for axis in (accuracy, energy):
        axis.set_xlabel("ADC bits")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
