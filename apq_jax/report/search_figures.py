"""Draws the search: its rewards, and fronts of accuracy against cost."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apq_jax.metrics import ACCURACY_DROP, COSTS, Metric
from apq_jax.report import wording
from apq_jax.report.figures import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    RED,
    new_figure,
    set_plain_log_ticks,
)
from apq_jax.run.read import Rows

_MAX_DRAWN = 400  # marks that an SVG holds one by one; more become an image inside it


def draw_progress(result: dict[str, Any], rows: Rows) -> Figure:
    """Draws the reward of every evaluation, and the best so far of each seed.

    A search of several limits has no best so far, because its rewards are of different limits.
    """
    figure, (axis,) = new_figure()
    reward, drops = rows["reward"], result["search"]["drops"]
    step = np.zeros(len(reward), int)  # of an evaluation in its own search, from 1
    curves = []
    for seed in np.unique(rows["seed"]):
        own = np.flatnonzero(rows["seed"] == seed)
        step[own] = np.arange(1, len(own) + 1)
        curves.append(_accumulate_best(reward[own], rows["feasible"][own] > 0))
    # Rewards far below the limit lie on the bottom edge, because they would flatten the others.
    top = max(float(best[-1]) for best in curves)
    floor = min(float(np.quantile(reward, 0.1)), min(float(best[-1]) for best in curves) - 1.0)
    below = reward < floor
    _draw_cloud(axis, step[~below], reward[~below], s=9, color=BLUE, alpha=0.45)
    _draw_cloud(axis, step[below], np.full(below.sum(), floor), s=12, marker="v", color=GREY)
    if not drops:  # a reward under one limit cannot be compared with one under another
        width, words = (2.0, "best so far") if len(curves) == 1 else (1.2, "best so far, each seed")
        for best in curves:
            steps, heights = np.arange(1, len(best) + 1), np.maximum(best, floor)
            axis.step(steps, heights, where="post", color=RED, linewidth=width)
        end, above = (step.max(), top), (0, 5)
        axis.annotate(words, end, above, textcoords="offset points", ha="right", color=RED)
    switches, words = _find_switches(result, rows)
    style: dict[str, Any] = {"ha": "center", "color": "#505050", "fontsize": 9}
    for switch in switches:
        if switch < step.max():
            axis.axvline(switch + 0.5, color=GREY, linewidth=1, linestyle=":")
            place = switch + 0.5, 1.01
            axis.annotate(words, place, xycoords=("data", "axes fraction"), **style)
    axis.set_xlabel("evaluations")
    axis.set_ylabel("reward")
    return figure


def _accumulate_best(reward: np.ndarray, feasible: np.ndarray) -> np.ndarray:
    """Returns the best reward so far of N evaluations, among feasible ones once one exists: [N]."""
    best = np.maximum.accumulate(np.where(feasible, reward, -np.inf))
    return np.where(np.isfinite(best), best, np.maximum.accumulate(reward))


def _find_switches(result: dict[str, Any], rows: Rows) -> tuple[list[int], str]:
    """Finds the steps after which a search changes what it searches, and the words for them.

    A search of several limits goes to the next one (`pipeline.stages`); one of two agents from
    pruning to bits.
    """
    options, drops = result["config"]["search"], result["search"]["drops"]
    episodes = options["episodes"]
    if drops:
        stages = range(1, len(drops))
        return [stage * episodes // len(drops) for stage in stages], "limit | next limit"
    searches_both = all(
        any(np.ptp(values) > 0 for name, values in rows.items() if part in name)
        for part in ("keep.", "_bits.")
    )
    if result["search"]["strategy"] != "apq" or not searches_both:
        return [], ""
    # The agents change between two batches.
    parallel, half = options["parallel"], round(episodes * options["pruning_share"])
    return [-(-half // parallel) * parallel], "pruning | bits"


def draw_pareto(result: dict[str, Any], rows: Rows) -> Figure:
    """Draws the points that every evaluation loses against its crossbars, and against its slots.

    Both pictures also have the front of what evaluations are expected to lose, the limits, and, as
    measured on the selection half, the unpruned network at 8 bits and the chosen one. Policies that
    lose much more than is allowed are cut off.
    """
    figure, axes = new_figure(columns=2)
    best, limits, dense = result["best"], result["limits"], result["dense"]["8"]
    full = result["float"]["search_accuracy"]
    expected, measured = (100 * (full - rows[f"{kind}accuracy"]) for kind in ("expected_", ""))
    lost = wording.count_points_lost(result, "validation")
    dense_lost = 100 * (result["float"]["validation_accuracy"] - dense["validation_accuracy"])
    max_lost = max(_count_points_shown(result), lost + 0.2, dense_lost + 0.2)
    for axis, metric in zip(axes, (COSTS["crossbars"], COSTS["slots"]), strict=True):
        name = metric.field
        cost, shown = rows[name], expected <= max_lost
        _draw_cloud(axis, cost, measured, s=7, color=GREY, alpha=0.3, label="measured")
        _draw_cloud(axis, cost[shown], expected[shown], s=9, color=BLUE, label="expected")
        (steps, heights), points = trace_front(cost, -expected)
        axis.step(steps, -heights, where="post", color=BLUE, linewidth=1.4, label="front")
        points = points[expected[points] <= max_lost]
        words = _describe_points(rows, points, metric)
        _draw_points(axis, cost[points], expected[points], BLUE, words)
        if ACCURACY_DROP in limits:
            limit = limits[ACCURACY_DROP]
            axis.axhline(limit, color=RED, linestyle="--", linewidth=1.2, label="limit")
        if name in limits:
            limit = limits[name]
            axis.axvline(limit, color=RED, linestyle=":", linewidth=1.2, label="most allowed")
        unpruned = f"unpruned at 8 bits: {format(dense[name], metric.format)} {metric.unit}"
        words = [f"{unpruned}, {dense_lost:.2f} points lost on the selection half"]
        square: dict[str, Any] = {"marker": "s", "s": 45, "color": ORANGE, "zorder": 4}
        axis.scatter([dense[name]], [dense_lost], label="dense, 8 bits", urls=words, **square)
        chosen = f"chosen, evaluation {best['evaluation']}"
        _draw_chosen(axis, result, metric, GREEN, chosen, "chosen")
        axis.set_xscale("log")
        set_plain_log_ticks(axis, min(cost.min(), best[name]), max(cost.max(), dense[name]))
        axis.set_ylim(max_lost, min(0.0, measured.min(), lost, dense_lost) - 0.2)
        axis.set_xlabel(metric.words)
    axes[0].set_ylabel("points lost against the float network")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    return figure


def draw_fronts(runs: list[tuple[str, dict[str, Any], Rows]]) -> Figure:
    """Draws the points lost against slots, and against energy: each run's front and chosen policy.

    Args:
      runs: for each run its name, its result.json and its search.csv.
    """
    figure, axes = new_figure(columns=2)
    lost = [wording.count_points_lost(result, "validation") for _, result, _ in runs]
    max_lost = max(*(_count_points_shown(result) for _, result, _ in runs), max(lost) + 0.2)
    for axis, metric in zip(axes, (COSTS["slots"], COSTS["energy_nj"]), strict=True):
        min_lost = 0.0
        for index, (name, result, rows) in enumerate(runs):
            colour = COLOURS[index % len(COLOURS)]
            full = result["float"]["search_accuracy"]
            cost, gain = rows[metric.field], 100 * (rows["expected_accuracy"] - full)
            (steps, heights), points = trace_front(cost, gain)
            line = ("-", "--", ":", "-.")[index // len(COLOURS) % 4]
            style: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": 1.4}
            axis.plot(steps, -heights, drawstyle="steps-post", label=f"run {index}", **style)
            points = points[-gain[points] <= max_lost]
            words = [f"{name}, {text}" for text in _describe_points(rows, points, metric)]
            _draw_points(axis, cost[points], -gain[points], colour, words)
            _draw_chosen(axis, result, metric, colour, f"{name}, chosen", None)
            min_lost = min(min_lost, float((-gain).min()), lost[index])
        axis.set_xscale("log")
        costs = np.concatenate([rows[metric.field] for *_, rows in runs])
        set_plain_log_ticks(axis, costs.min(), costs.max())
        axis.set_ylim(max_lost, min_lost - 0.2)  # more accurate is higher
        axis.set_xlabel(metric.words)
    axes[0].set_ylabel("points lost against the float network")
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    for text, (name, *_) in zip(legend.get_texts(), runs, strict=True):
        text.set_parse_math(False)  # because a folder's name may hold $, and may begin with _
        text.set_text(name)
        text.set_fontsize(9)
    return figure


def trace_front(
    cost: np.ndarray, value: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Traces the largest value that evaluations of at most a cost have.

    Args:
      cost: of the evaluations, [N].
      value: of the evaluations, [N]; more is better.

    Returns:
      The costs [N] in rising order and the largest value up to each cost [N]; and the indices of
      the evaluations at which that value rises.
    """
    order = np.lexsort((-value, cost))
    best = np.maximum.accumulate(value[order])
    raises = np.append(True, best[1:] > best[:-1])
    return (cost[order], best), order[raises]


def _count_points_shown(result: dict[str, Any]) -> float:
    """Returns how many points a policy may lose and still be shown in a picture."""
    limits = result["limits"]
    if ACCURACY_DROP not in limits:
        return float(result["front"]["reference"]["points_lost"])
    return float(limits[ACCURACY_DROP] + 2.5 * max(limits[ACCURACY_DROP], 0.4))


def _describe_points(rows: Rows, points: np.ndarray, metric: Metric) -> list[str]:
    """Says what the evaluations at the indices `points` cost, and how accurate they are."""
    return [
        f"evaluation {index + 1}: {rows[metric.field][index]:,.6g} {metric.unit}, "
        f"{100 * rows['expected_accuracy'][index]:.2f} % expected"
        for index in points
    ]


def _draw_cloud(axis: Axes, x: np.ndarray, y: np.ndarray, **marks: Any) -> None:
    """Draws points without words; many of them become an image, so that the SVG stays small."""
    axis.scatter(x, y, linewidths=0, rasterized=len(x) > _MAX_DRAWN, **marks)


def _draw_points(axis: Axes, x: np.ndarray, y: np.ndarray, colour: str, words: list[str]) -> None:
    """Draws points that each have words under the pointer."""
    axis.scatter(x, y, s=14, color=colour, linewidths=0, urls=words, zorder=3)


def _draw_chosen(
    axis: Axes, result: dict[str, Any], metric: Metric, colour: str, words: str, label: str | None
) -> None:
    """Draws the chosen network as a star at what it loses on the selection half.

    A line joins the star to what the search expected its policy to lose before any fine-tuning.
    """
    best, cost = result["best"], result["best"][metric.field]
    expected = 100 * (result["float"]["search_accuracy"] - best["expected_accuracy"])
    lost = wording.count_points_lost(result, "validation")
    words = (
        f"{words}: {format(cost, metric.format)} {metric.unit}, {lost:.2f} points lost on the "
        f"selection half{' after fine-tuning' if best['fine_tuned'] else ''}, {expected:.2f} "
        "expected by the search"
    )
    axis.plot([cost, cost], [expected, lost], color=colour, linewidth=1.4, zorder=4)
    style: dict[str, Any] = {"marker": "*", "s": 170, "edgecolors": "black", "linewidths": 0.6}
    axis.scatter([cost], [lost], color=colour, zorder=5, label=label, urls=[words], **style)
