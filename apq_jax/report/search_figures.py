"""Pictures of the search: rewards, and fronts of accuracy against cost."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apq_jax.report.figures import (
    _BLUE,
    _COLOURS,
    _GREEN,
    _GREY,
    _ORANGE,
    _RED,
    _figure,
    plain_log_axis,
)
from apq_jax.run.read import Rows

_METRICS = {"crossbars": "crossbars", "slots": "slots", "energy_nj": "nJ"}
_MANY = 400  # points that are drawn one by one; more are an image in a vector picture


def _cloud(axis: Axes, x: np.ndarray, y: np.ndarray, **marks: Any) -> None:
    axis.scatter(x, y, linewidths=0, rasterized=len(x) > _MANY, **marks)


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
