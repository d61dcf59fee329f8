"""Draws the chosen policy: bits, crossbars and energy by layer, accuracy by ADC bits."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from apq_jax.mapping.schemes import SCHEMES
from apq_jax.metrics import ACCURACY_DROP, COSTS
from apq_jax.report.figures import BLUE, COLOURS, GREEN, GREY, ORANGE, RED, new_figure, set_words
from apq_jax.report.wording import read_layer_names, read_scheme


def draw_policy(result: dict[str, Any]) -> Figure:
    """Draws how much of every layer is kept, above, and the bits of every layer, below.

    Args:
      result: result.json, here and in the functions below.
    """
    layers, names = result["layers"], read_layer_names(result)
    figure, (above, below) = new_figure(rows=2, height=4.4)
    places = np.arange(len(layers))
    keep = [100 * layer["keep"] for layer in layers]
    bars = above.bar(places, keep, 0.6, color=BLUE)
    set_words(bars, (f"{name}: {x:.1f} % kept" for name, x in zip(names, keep, strict=True)))
    above.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
    above.set_ylabel(f"{SCHEMES[read_scheme(result)].block_name} kept, %")
    above.set_ylim(0, 112)
    kinds = ("weight", GREEN, "weights"), ("input", ORANGE, "inputs"), ("adc", BLUE, "ADCs")
    shown = [kind for kind in kinds if f"{kind[0]}_bits" in layers[0]]
    width, max_bits = 0.8 / len(shown), 8
    for index, (kind, colour, label) in enumerate(shown):
        left = places + width * (index - (len(shown) - 1) / 2)
        bits = [layer[f"{kind}_bits"] for layer in layers]
        max_bits = max(max_bits, *bits)
        bars = below.bar(left, bits, width - 0.02, color=colour, label=label)
        below.bar_label(bars, fontsize=8, padding=1)
        set_words(bars, (f"{name}: {n} bits, {label}" for name, n in zip(names, bits, strict=True)))
    below.set_ylabel("bits")
    below.set_ylim(0, 1.2 * max_bits)
    below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    below.legend(frameon=False, ncols=3, loc="upper right", fontsize=9, bbox_to_anchor=(1, 1.18))
    for axis in (above, below):
        axis.grid(axis="x", visible=False)
        axis.set_xticks(places, names, rotation=0 if len(names) <= 8 else 60, parse_math=False)
    return figure


def draw_crossbars(result: dict[str, Any]) -> Figure:
    """Draws the crossbars and slots of every layer, unpruned at 8 bits beside the chosen policy."""
    layers, names = result["layers"], read_layer_names(result)
    figure, axes = new_figure(columns=2, height=1.4 + 0.5 * len(layers))
    places = np.arange(len(layers))
    for axis, metric in zip(axes, (COSTS["crossbars"], COSTS["slots"]), strict=True):
        dense = [layer["dense_8"][metric.field] for layer in layers]
        chosen = [layer[metric.field] for layer in layers]
        for values, shift, colour, label in (
            (dense, -0.2, ORANGE, "dense, 8 bits"),
            (chosen, 0.2, GREEN, "chosen"),
        ):
            bars = axis.barh(places + shift, values, 0.38, color=colour, label=label)
            counts = [format(value, metric.format) for value in values]
            axis.bar_label(bars, counts, fontsize=8, padding=2)
            words = zip(names, counts, strict=True)
            set_words(bars, (f"{name}, {label}: {count} {metric.unit}" for name, count in words))
        high, low = max(dense + chosen), max(min(dense + chosen), 1)
        if high / low > 50:
            axis.set_xscale("log")
            axis.set_xlim(0.6 * low, 4 * high)
        else:
            axis.set_xlim(0, 1.2 * high)
        axis.set_yticks(places, names, parse_math=False)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(metric.words)
    axes[1].set_yticklabels([])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_energy(result: dict[str, Any]) -> Figure:
    """Draws each component's share of an inference's energy, in three bars.

    The bars are the unpruned network at 8 bits on ISAAC, the same on the run's accelerator, and the
    chosen policy.
    """
    costs = {
        "dense 8 bits\non ISAAC": result["dense_isaac"]["8"],
        "dense 8 bits": result["dense"]["8"],
        "chosen": result["best"],
    }
    energies = [cost["energy_by_component_nj"] for cost in costs.values()]
    names = [name.split("\n")[0] for name in costs]
    figure, axis = _stack_bars(2.6, energies, [100.0] * len(costs), names, ",.0f")
    axis.set_yticklabels(list(costs))
    axis.set_xlim(0, 116)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.set_xlabel("energy of an inference, %")
    return figure


def draw_layer_energy(result: dict[str, Any]) -> Figure:
    """Draws the energy of every layer of the chosen policy by component."""
    names = read_layer_names(result)
    energies = [layer["energy_by_component_nj"] for layer in result["layers"]]
    totals = [sum(energy.values()) for energy in energies]
    figure, axis = _stack_bars(1.5 + 0.3 * len(names), energies, totals, names, ",.1f")
    axis.set_xlim(0, 1.15 * max(totals))
    axis.set_xlabel(COSTS["energy_nj"].words)
    return figure


def draw_adc_curve(result: dict[str, Any]) -> Figure:
    """Draws accuracy and energy of the chosen policy against the bits of its converters.

    The run must have measured them: `adc_curve` of the result has a point at least.
    """
    points = result["adc_curve"]
    figure, (accuracy, energy) = new_figure(columns=2, height=2.8)
    bits = [point["bits"] for point in points]
    accuracy.plot(bits, [100 * point["accuracy"] for point in points], marker="o", color=BLUE)
    # The limit is on all images, so it is drawn only where the curve was measured on all.
    if points[0]["images"] == result["data"]["select"] and ACCURACY_DROP in result["limits"]:
        limit = 100 * result["float"]["validation_accuracy"] - result["limits"][ACCURACY_DROP]
        accuracy.axhline(limit, color=RED, linestyle="--", linewidth=1.2)
        below = (0, -12)
        accuracy.annotate("limit", (bits[-1], limit), below, textcoords="offset points", color=RED)
    accuracy.set_ylabel("accuracy, selection half, %")
    energies = [point["energy_nj"] for point in points]
    energy.plot(bits, energies, marker="o", color=GREEN)
    energy.set_ylabel(COSTS["energy_nj"].words)
    energy.set_ylim(0, 1.1 * max(energies))
    for axis in (accuracy, energy):
        axis.set_xlabel("ADC bits")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _stack_bars(
    height: float,
    energies: list[dict[str, float]],
    lengths: list[float],
    names: list[str],
    form: str,
) -> tuple[Figure, Axes]:
    """Draws a bar for each energy, stacked of its components; small components are one, "other".

    Args:
      height: of the figure, in inches.
      energies: by component, nJ.
      lengths: of the bars.
      names: of the bars.
      form: of the energies beside the bars, as `format` takes it.
    """
    figure, (axis,) = new_figure(height=height)
    totals = [sum(energy.values()) for energy in energies]
    scales = np.asarray(lengths) / totals
    # A component is named if it is a twentieth of some bar.
    named = [
        component
        for component in energies[0]
        if any(e[component] > 0.05 * total for e, total in zip(energies, totals, strict=True))
    ][: len(COLOURS)]
    stacks = [np.asarray([energy[name] for energy in energies]) for name in named]
    others = np.asarray(totals) - np.sum(stacks, axis=0)
    places, left = np.arange(len(energies)), np.zeros(len(energies))
    parts = zip([*named, "other"], [*stacks, others], [*COLOURS[: len(named)], GREY], strict=True)
    for component, values, colour in parts:
        widths, label = scales * values, component.replace("_", " ")
        bars = axis.barh(places, widths, 0.6, left=left, color=colour, label=label)
        words = (
            f"{name}, {label}: {value:,.4g} nJ, {100 * value / total:.1f} %"
            for name, value, total in zip(names, values, totals, strict=True)
        )
        set_words(bars, words)
        left += widths
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8}
    for place, length, total in zip(places, lengths, totals, strict=True):
        axis.annotate(f"{total:{form}} nJ", (length, place), (4, 0), **beside)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_yticks(places, names, parse_math=False)
    figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    return figure, axis
