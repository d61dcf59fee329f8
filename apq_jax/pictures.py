"""The pictures of a report, drawn from a result and the rows of its search.csv.

What a mark stands for is set as its URL, from which `svg` makes what is shown under the pointer.
"""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from apq_jax.schemes import SCHEMES

# Okabe and Ito's colours, which colour-blind readers tell apart.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8C8C8C"
_SKY, _PINK, _YELLOW, _BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
_COLOURS = (_BLUE, _ORANGE, _GREEN, _RED, _SKY, _PINK, _YELLOW, _BLACK)
_METRICS = {"crossbars": "crossbars", "slots": "slots", "energy_nj": "nJ"}
_MANY = 400  # points that are drawn one by one; more are an image in a vector picture

Rows = dict[str, np.ndarray]  # a column of search.csv each


def _figure(columns: int = 1, rows: int = 1, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.grid(color="#E5E5E5", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cloud(axis: Axes, x: np.ndarray, y: np.ndarray, **marks: Any) -> None:
    axis.scatter(x, y, linewidths=0, rasterized=len(x) > _MANY, **marks)


def _say(bars: BarContainer, words: list[str]) -> None:
    for bar, one in zip(bars, words, strict=True):
        bar.set_url(one)


def progress(result: dict[str, Any], rows: Rows) -> Figure:
    """Reward of every evaluation and the best so far, of each seed."""
    figure, (axis,) = _figure()
    reward, seed = rows["reward"], rows["seed"]
    number = np.zeros(len(reward), int)  # of an evaluation in its own search
    curves = []
    for one in np.unique(seed):
        own = np.flatnonzero(seed == one)
        number[own] = np.arange(1, len(own) + 1)
        # What meets the limits is better, whatever the reward.
        meets = rows["feasible"][own] > 0
        best = np.maximum.accumulate(np.where(meets, reward[own], -np.inf))
        any_reward = np.maximum.accumulate(reward[own])
        curves.append(np.where(np.isfinite(best), best, any_reward))
    # The few far below the limit would flatten the rest: they lie on the bottom edge.
    floor = min(float(np.quantile(reward, 0.1)), min(float(best[-1]) for best in curves) - 1.0)
    below = reward < floor
    _cloud(axis, number[~below], reward[~below], s=9, color=_BLUE, alpha=0.45)
    _cloud(axis, number[below], np.full(below.sum(), floor), s=12, marker="v", color=_GREY)
    width = 2.0 if len(curves) == 1 else 1.2
    drops = result["search"]["drops"]
    # Rewards of several limits are not to be compared: none of them is the best.
    for best in [] if drops else curves:
        steps, heights = np.arange(1, len(best) + 1), np.maximum(best, floor)
        axis.step(steps, heights, where="post", color=_RED, linewidth=width)
        axis.annotate(
            "best so far" if len(curves) == 1 else "best so far, each seed",
            (number.max(), max(float(best[-1]) for best in curves)),
            (0, 5),
            textcoords="offset points",
            ha="right",
            color=_RED,
        )
    config = result["config"]
    # Whether one came after the other: neither was fixed.
    varied = [
        any(np.ptp(values) > 0 for name, values in rows.items() if kind in name)
        for kind in ("keep.", "_bits.")
    ]
    places, words = _limits_between(drops, config["search"]["episodes"]), "limit | next limit"
    if result["search"]["strategy"] == "apq" and not drops and all(varied):
        # The agents change between two batches.
        parallel = config["search"]["parallel"]
        half = round(config["search"]["episodes"] * config["search"]["pruning_share"])
        places, words = [-(-half // parallel) * parallel], "pruning | bits"
    for place in places:
        if place < number.max():
            axis.axvline(place + 0.5, color=_GREY, linewidth=1, linestyle=":")
            axis.annotate(
                words,
                (place + 0.5, 1.01),
                xycoords=("data", "axes fraction"),
                ha="center",
                color="#505050",
                fontsize=9,
            )
    axis.set_xlabel("evaluations")
    axis.set_ylabel("reward")
    return figure


def _limits_between(drops: list[float], episodes: int) -> list[int]:
    """Evaluations of a seed after which the search goes to the next limit, `pipeline.stages`."""
    return [at * episodes // len(drops) for at in range(1, len(drops))]


def pareto(result: dict[str, Any], rows: Rows) -> Figure:
    """Accuracy against crossbars and slots, with the Pareto front."""
    figure, axes = _figure(columns=2)
    best, floats = result["best"], result["float"]
    drop = result["limits"].get("accuracy_drop")
    expected, measured = 100 * rows["expected_accuracy"], 100 * rows["accuracy"]
    top = 100 * floats["search_accuracy"]
    low = top - _points_shown(result)
    for axis, name in zip(axes, ("crossbars", "slots"), strict=True):
        cost, seen = rows[name], expected >= low
        _cloud(axis, cost, measured, s=7, color=_GREY, alpha=0.3, label="measured")
        _cloud(axis, cost[seen], expected[seen], s=9, color=_BLUE, label="expected")
        step, points = front(cost, expected)
        axis.step(*step, where="post", color=_BLUE, linewidth=1.4, label="front")
        points = points[expected[points] >= low]
        _points(axis, cost, expected, points, _BLUE, _words_of_points(rows, points, name))
        if drop is not None:
            axis.axhline(top - drop, color=_RED, linestyle="--", linewidth=1.2, label="limit")
        if name in result["limits"]:
            most = result["limits"][name]
            axis.axvline(most, color=_RED, linestyle=":", linewidth=1.2, label="most allowed")
        dense = result["dense"]["8"][name]
        axis.scatter(
            [dense],
            [top],
            marker="s",
            s=45,
            color=_ORANGE,
            label="dense, 8 bits",
            zorder=4,
            urls=[f"unpruned at 8 bits: {dense:,} {name}; float accuracy {top:.2f} %"],
        )
        words = (
            f"chosen, evaluation {best['evaluation']}: {best[name]:,} {name}, "
            f"{100 * best['expected_accuracy']:.2f} % expected before any fine-tuning"
        )
        _star(axis, best[name], 100 * best["expected_accuracy"], _GREEN, words, "chosen")
        axis.set_xscale("log")
        plain_log_axis(axis, min(cost.min(), best[name]), max(cost.max(), dense))
        axis.set_ylim(low, max(top, measured.max()) + 0.2)
        axis.set_xlabel("crossbars" if name == "crossbars" else "operation-unit slots")
    axes[0].set_ylabel("accuracy on the search half, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    return figure


def front(cost: np.ndarray, value: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The step of the most value that a cost buys, and the numbers of those that raise it."""
    order = np.lexsort((-value, cost))
    best = np.maximum.accumulate(value[order])
    raises = np.append(True, best[1:] > best[:-1])
    return (cost[order], best), order[raises]


def _points(
    axis: Axes, x: np.ndarray, y: np.ndarray, at: np.ndarray, colour: str, words: list[str]
) -> None:
    """Some of the points, each with its words."""
    axis.scatter(x[at], y[at], s=14, color=colour, linewidths=0, urls=words, zorder=3)


def _star(axis: Axes, x: float, y: float, colour: str, words: str, label: str = "") -> None:
    """What was chosen."""
    axis.scatter(
        [x],
        [y],
        marker="*",
        s=170,
        color=colour,
        edgecolors="black",
        linewidths=0.6,
        zorder=5,
        label=label or None,
        urls=[words],
    )


def _words_of_points(rows: Rows, at: np.ndarray, name: str) -> list[str]:
    return [
        f"evaluation {number + 1}: {rows[name][number]:,.6g} {_METRICS[name]}, "
        f"{100 * rows['expected_accuracy'][number]:.2f} % expected"
        for number in at
    ]


def plain_log_axis(axis: Axes, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axis.xaxis.set_major_locator(FixedLocator([t for t in ticks if low / 1.3 <= t <= high * 1.3]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())


def short_names(names: list[str]) -> list[str]:
    """Paths of parameters without what they share: params/conv1/kernel is conv1."""
    parts = [name.split("/") for name in names]
    while len(parts) > 1 and all(len(p) > 1 and p[0] == parts[0][0] for p in parts):
        parts = [p[1:] for p in parts]
    while len(parts) > 1 and all(len(p) > 1 and p[-1] == parts[0][-1] for p in parts):
        parts = [p[:-1] for p in parts]
    return ["/".join(p) for p in parts]


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


def fronts(names: list[str], runs: list[tuple[dict[str, Any], Rows]]) -> Figure:
    """Points lost against slots and energy: the front of every run, and what it chose."""
    figure, axes = _figure(columns=2)
    most = max(_points_shown(result) for result, _ in runs)
    for axis, metric in zip(axes, ("slots", "energy_nj"), strict=True):
        for number, (name, (result, rows)) in enumerate(zip(names, runs, strict=True)):
            colour = _COLOURS[number % len(_COLOURS)]
            line = ("-", "--", ":", "-.")[number // len(_COLOURS) % 4]
            gain = 100 * (rows["expected_accuracy"] - result["float"]["search_accuracy"])
            step, points = front(rows[metric], gain)
            axis.plot(
                step[0],
                -step[1],
                drawstyle="steps-post",
                color=colour,
                linestyle=line,
                linewidth=1.4,
                label=f"run {number}",
            )
            points = points[-gain[points] <= most]
            words = _words_of_points(rows, points, metric)
            words = [f"{name}, {one}" for one in words]
            _points(axis, rows[metric], -gain, points, colour, words)
            best = result["best"]
            lost = 100 * (result["float"]["search_accuracy"] - best["expected_accuracy"])
            words_of = f"{name}, chosen: {best[metric]:,.6g} {_METRICS[metric]}, {lost:.2f} lost"
            _star(axis, best[metric], lost, colour, words_of)
        axis.set_xscale("log")
        costs = np.concatenate([rows[metric] for _, rows in runs])
        plain_log_axis(axis, costs.min(), costs.max())
        least = min(
            100 * float((r["float"]["search_accuracy"] - w["expected_accuracy"]).min())
            for r, w in runs
        )
        axis.set_ylim(most, min(least, 0.0) - 0.2)  # more accurate is higher
        axis.set_xlabel("operation-unit slots" if metric == "slots" else "energy, nJ an inference")
    axes[0].set_ylabel("points expected to be lost")
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)  # a folder's name is what it is, and may begin with _
        text.set_text(name)
        text.set_fontsize(9)
    return figure


def _points_shown(result: dict[str, Any]) -> float:
    """How many lost points a picture of fronts goes down to."""
    drop = result["limits"].get("accuracy_drop")
    if drop is None:
        return float(result["front"]["reference"]["points_lost"])
    return float(drop + 2.5 * max(drop, 0.4))
