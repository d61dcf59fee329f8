"""The report of a run, made from its result.json and search.csv alone.

    python -m apq_jax.report RUN [RUN ...]

Writes report.md and four pictures into each run's folder.
"""

import argparse
import csv
import io
import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import rich.table
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from apq_jax.data import standard_error
from apq_jax.files import InputError, write_whole

Result = dict[str, Any]  # result.json
Rows = dict[str, np.ndarray]  # columns of search.csv, [N] each

# What the report reads of result.json: a dictionary has these fields, a list such items.
_COST = {"crossbars": int, "slots": int, "index_bits": int}
_COST |= {"area_mm2": float, "energy_nj": float, "latency_us": float}
_RATIO = {"dense_8": float, "dense_16": float}
_SPLITS = ("search", "validation", "test")
_ACCURACIES = {f"{split}_accuracy": "fraction" for split in _SPLITS}
_ASKED = {
    "config": {"accelerator": str, "model": {"name": str}, "search": {"episodes": int}},
    "versions": {},
    "seed": int,
    "command": str,
    "interrupted": bool,
    "data": {"name": str, "train": int, "search": int, "select": int, "test": int},
    "limit": {"max_accuracy_drop": float, "min_accuracy": "fraction"},
    "search": {"strategy": str, "evaluations": int},
}
_FOUND = {
    "float": _ACCURACIES,
    "best": {
        "policy": {"keep": [float], "weight_bits": [int], "input_bits": [int]},
        **_ACCURACIES,
        "expected_accuracy": float,
        "test_difference": {"mean": float, "low": float, "high": float},
        "meets_limit": bool,
        **_COST,
    },
    "dense": {"8": _COST, "16": _COST},
    "ratios": {name: _RATIO for name in ("crossbars", "slots", "area", "energy", "latency")},
    "layers": [
        {
            "name": str,
            **{name: int for name in ("rows", "columns", "groups", "positions")},
            "keep": "fraction",
            **{name: int for name in ("weight_bits", "input_bits")},
            **{name: int for name in ("crossbars", "slots", "index_bits")},
            "energy_nj": float,
            "dense_8": {"crossbars": int, "slots": int, "energy_nj": float},
        }
    ],
    "search": {"seconds": float, "finalists": int},
    "pareto": [{}],
}
_COLUMNS = ("accuracy", "expected_accuracy", "crossbars", "slots", "reward", "feasible")

_METRICS = (  # field of a cost, name of its ratio, words, short words
    ("slots", "slots", "operation-unit slots", "slots"),
    ("crossbars", "crossbars", "crossbars", "crossbars"),
    ("area_mm2", "area", "area, mm²", "area, mm²"),
    ("energy_nj", "energy", "energy of an inference, nJ", "energy, nJ"),
    ("latency_us", "latency", "latency of an inference, µs", "latency, µs"),
    ("index_bits", None, "index, bits", "index, bits"),
)

# Okabe and Ito's colours, which colour-blind readers tell apart.
_BLUE, _SKY, _RED, _ORANGE = "#0072B2", "#56B4E9", "#D55E00", "#E69F00"
_GREY, _DARK = "#9A9A9A", "#333333"
_STYLE = {
    "font.size": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "axes.edgecolor": "#666666",
    "text.parse_math": False,  # a $ in a layer's name is a $
}
_SLOTS = "operation-unit slots"


def make(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Writes the report and its pictures into a run's folder and returns their paths.

    A run that was stopped before it found a policy gets a short report without pictures.

    Raises:
      InputError: result.json or search.csv is missing, damaged or lacks a field.
    """
    folder = pathlib.Path(folder)
    result = _read_result(folder / "result.json")
    if result["best"] is None:
        write_whole(folder / "report.md", _text_without_best(result))
        return [folder / "report.md"]
    rows = _read_rows(folder / "search.csv", result["search"]["evaluations"])
    pictures: dict[str, Callable[[Result, Rows], Figure]] = {
        "progress.png": _progress,
        "pareto.png": _pareto,
        "policy.png": _policy,
        "crossbars.png": _crossbars,
    }
    for name, draw in pictures.items():
        image = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            FigureCanvasAgg(draw(result, rows)).print_png(image)
        write_whole(folder / name, image.getvalue())
    write_whole(folder / "report.md", _text(result, rows))
    return [folder / name for name in (*pictures, "report.md")]


def summary(result: Result) -> rich.table.Table:
    """The answer for a terminal of 80 columns."""
    best, data = result["best"], result["data"]
    if best is None:
        return rich.table.Table(title="no policy was found", title_justify="left")
    meets = "meets the limit" if best["meets_limit"] else "does NOT meet the limit"
    lines = []
    for split, words, count in (
        ("validation", "selection half", data["select"]),
        ("test", "test", data["test"]),
    ):
        before, after = result["float"][f"{split}_accuracy"], best[f"{split}_accuracy"]
        lines.append(f"{words}: float {100 * before:.1f} %, this policy {_accuracy(after, count)}")
    lines[0] += f", {meets} of {100 * result['limit']['min_accuracy']:.1f} %"
    change = best["test_difference"]
    lines[1] += f", difference {_interval(change)} points"
    table = rich.table.Table(
        title=f"the policy {meets}",
        caption="Accuracy on the " + ";\non ".join(lines),
        caption_justify="left",
        caption_style="",
    )
    for name in ("", "dense 16", "dense 8", "this policy", "over 8", "over 16"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for (*_, short), (_, *cells) in zip(_METRICS, _answer(result), strict=True):
        table.add_row(short, *cells)
    return table


# Reading.


def _read_result(path: pathlib.Path) -> Result:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    if not isinstance(result, dict) or result.get("schema") != 1:
        raise InputError(f"{path}: schema: not that of a result; allowed: 1")
    _check(path, "", _ASKED, result)
    if "best" not in result:
        raise InputError(f"{path}: best: missing")
    if result["best"] is not None:
        _check(path, "", _FOUND, result)
        if not result["layers"]:
            raise InputError(f"{path}: layers: none; allowed: at least one")
    return result


def _check(path: pathlib.Path, field: str, wanted: Any, value: Any) -> None:
    """Refuses a value that does not look as wanted; see `_ASKED`."""
    words, right = {
        int: ("a whole number", type(value) is int and value >= 0),
        float: ("a number", type(value) in (int, float) and math.isfinite(value)),
        "fraction": ("0 to 1", type(value) in (int, float) and 0 <= value <= 1),
        str: ("text", isinstance(value, str)),
        bool: ("true or false", isinstance(value, bool)),
        dict: ("an object", isinstance(value, dict)),
        list: ("a list", isinstance(value, list)),
    }[type(wanted) if isinstance(wanted, dict | list) else wanted]
    if not right:
        raise InputError(f"{path}: {field}: {str(value)[:40]!r}; allowed: {words}")
    if isinstance(wanted, list):
        for number, item in enumerate(value):
            _check(path, f"{field}[{number}]", wanted[0], item)
    elif isinstance(wanted, dict):
        for name, inner in wanted.items():
            full = f"{field}.{name}" if field else name
            if name not in value:
                raise InputError(f"{path}: {full}: missing")
            _check(path, full, inner, value[name])


def _read_rows(path: pathlib.Path, evaluations: int) -> Rows:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *body = list(csv.reader(file)) or [[]]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: is not a table ({error})") from error
    for name in _COLUMNS:
        if name not in head:
            raise InputError(f"{path}: {name}: no such column")
    for number, line in enumerate(body, 2):
        if len(line) != len(head):
            raise InputError(f"{path}: line {number}: {len(line)} values; allowed: {len(head)}")
    if len(body) != evaluations or not body:
        raise InputError(
            f"{path}: {len(body)} evaluations; allowed: {max(evaluations, 1)}, "
            "those of search.evaluations in result.json"
        )
    rows = {}
    for name in _COLUMNS:
        at = head.index(name)
        values = [_number(path, name, number, line[at]) for number, line in enumerate(body, 2)]
        # A policy whose outputs overflow has no accuracy: it lies below all others.
        rows[name] = np.nan_to_num(values, nan=-np.inf, neginf=-np.inf)
    return rows


def _number(path: pathlib.Path, column: str, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{path}: line {line}: {column}: {text!r}; allowed: a number") from error
    if column in ("crossbars", "slots") and not 0 <= value < math.inf:
        raise InputError(f"{path}: line {line}: {column}: {text!r}; allowed: 0 or more")
    return value


# Pictures.


def _figure(
    columns: int = 1, rows: int = 1, width: float = 7.2, height: float = 4.0, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex).ravel().tolist()
    for axis in axes:
        axis.grid(color="#E6E6E6", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(color="#666666")
    return figure, axes


def _legend(figure: Figure, axis: Axes) -> None:
    """One legend, above the panels."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=min(len(labels), 6),
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.4,
    )


def _log_axis(axis: Axes, low: float, high: float) -> None:
    """A logarithmic x axis from `low` to `high` with at most six ticks, written out."""
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in (range(1, 10), (1, 2, 5), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            break
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}"))


def _reward_floor(reward: np.ndarray) -> float:
    """Where the picture of the rewards ends: a few far below would flatten all others."""
    seen = reward[np.isfinite(reward)]
    if not len(seen):
        return -1.0
    top, usual = float(seen.max()), float(np.quantile(seen, 0.1, method="lower"))
    return max(float(seen.min()), top - 1.25 * max(top - usual, 0.5))


def _progress(result: Result, rows: Rows) -> Figure:
    figure, (axis,) = _figure()
    reward, feasible = rows["reward"], rows["feasible"] > 0
    number = np.arange(1, len(reward) + 1)
    floor = _reward_floor(reward)
    below = reward < floor
    best = np.maximum(np.maximum.accumulate(reward), floor)
    size = 14 if len(number) <= 2000 else 5
    for chosen, colour, label in (
        (feasible & ~below, _BLUE, "meets the limit"),
        (~feasible & ~below, _GREY, "does not"),
    ):
        axis.scatter(
            number[chosen], reward[chosen], s=size, c=colour, alpha=0.5, linewidths=0, label=label
        )
    if below.any():
        axis.scatter(
            number[below],
            np.zeros(below.sum()),
            s=22,
            marker="v",
            color=_GREY,
            linewidths=0,
            transform=axis.get_xaxis_transform(),
            clip_on=False,
            zorder=3,
            label="below the picture",
        )
    axis.step(number, best, where="post", color=_RED, linewidth=2.2, label="best so far")
    span = max(best[-1] - floor, 1e-3)
    axis.set_ylim(floor - 0.06 * span, best[-1] + 0.08 * span)
    boundary = _boundary(result)
    if boundary is not None and boundary < len(number):
        axis.axvline(boundary + 0.5, color=_DARK, linewidth=1, linestyle=":")
        for text, side, shift in (("pruning", "right", -6), ("bits", "left", 6)):
            axis.annotate(
                text,
                (boundary + 0.5, 1.0),
                (shift, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha=side,
                va="center",
                color=_DARK,
                fontsize=10,
            )
    axis.set_xlabel("evaluations")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.set_ylabel("reward")
    _legend(figure, axis)
    return figure


def _boundary(result: Result) -> int | None:
    """Evaluations after which `apq` goes from pruning to bits; None with another strategy."""
    search = result["config"]["search"]
    if result["search"]["strategy"] != "apq" or "pruning_share" not in search:
        return None
    parallel = max(search.get("parallel", 1), 1)
    return math.ceil(round(search["episodes"] * search["pruning_share"]) / parallel) * parallel


def _search_limit(result: Result) -> float:
    """The least accuracy asked for on the search half."""
    return result["float"]["search_accuracy"] - result["limit"]["max_accuracy_drop"] / 100


def _pareto_floor(result: Result) -> float:
    """The least accuracy in the picture, in percent; policies far below the limit are cut off."""
    top, limit = result["float"]["search_accuracy"], _search_limit(result)
    low = limit - 2.5 * max(top - limit, 0.004)
    return 100 * min(low, result["best"]["expected_accuracy"] - 0.1 * (top - low))


def _pareto(result: Result, rows: Rows) -> Figure:
    figure, axes = _figure(columns=2, height=4.2)
    best, low = result["best"], _pareto_floor(result)
    limit, top = 100 * _search_limit(result), 100 * result["float"]["search_accuracy"]
    expected, measured = 100 * rows["expected_accuracy"], 100 * rows["accuracy"]
    high = max(top, float(measured.max()), float(expected.max()))
    seen = (expected >= low) | (measured >= low)
    size = 1.0 if len(expected) <= 2000 else 0.4
    for axis, name in zip(axes, ("crossbars", "slots"), strict=True):
        cost, dense = np.maximum(rows[name], 1), max(result["dense"]["8"][name], 1)
        axis.scatter(
            cost, measured, s=14 * size, c=_GREY, alpha=0.35, linewidths=0, label="measured"
        )
        axis.scatter(cost, expected, s=16 * size, c=_SKY, alpha=0.9, linewidths=0, label="expected")
        order = np.lexsort((-expected, cost))
        front = np.maximum.accumulate(expected[order])
        ends = [float(cost[order][0]), *cost[order], max(dense, float(cost.max()))]
        axis.step(
            ends,
            [low - 10, *front, front[-1]],
            where="post",
            color=_BLUE,
            linewidth=1.8,
            label="Pareto front",
        )
        axis.axhline(limit, color=_DARK, linestyle="--", linewidth=1.2, label="limit")
        style = {"edgecolors": "black", "linewidths": 0.7, "zorder": 5, "clip_on": False}
        axis.scatter([dense], [top], marker="s", s=55, c="white", label="dense 8-bit", **style)
        axis.scatter(
            [max(best[name], 1)],
            [100 * best["expected_accuracy"]],
            marker="*",
            s=230,
            c=_ORANGE,
            label="this policy",
            **style,
        )
        shown = [*cost[seen], dense, max(best[name], 1)]
        pad = max(1.15, (max(shown) / min(shown)) ** 0.07)
        _log_axis(axis, min(shown) / pad, max(shown) * pad)
        axis.set_ylim(low, high + 0.06 * (high - low))
        axis.set_xlabel(f"{'crossbars' if name == 'crossbars' else _SLOTS} (log)")
    axes[0].set_ylabel("accuracy on the search half, %")
    axes[1].tick_params(labelleft=False)
    _legend(figure, axes[0])
    return figure


def short_names(names: Sequence[str]) -> list[str]:
    """Paths of parameters without what they share: params/conv1/kernel is conv1."""
    parts = [name.split("/") for name in names]
    if len(parts) == 1:  # nothing to compare with: flax's own words
        return ["/".join(p for p in parts[0] if p not in ("params", "kernel")) or names[0]]
    while all(len(p) > 1 and p[0] == parts[0][0] for p in parts):
        parts = [p[1:] for p in parts]
    while all(len(p) > 1 and p[-1] == parts[0][-1] for p in parts):
        parts = [p[:-1] for p in parts]
    return ["/".join(p) for p in parts]


def _picture_names(layers: list[dict[str, Any]]) -> list[str]:
    names = short_names([layer["name"] for layer in layers])
    return [name if len(name) <= 18 else f"…{name[-17:]}" for name in names]


def _policy(result: Result, rows: Rows) -> Figure:
    del rows
    layers = result["layers"]
    count, names = len(layers), _picture_names(layers)
    width = min(max(7.2, 0.36 * count), 24.0)
    figure, (above, below) = _figure(rows=2, width=width, height=4.6, sharex=True)
    at = np.arange(count)
    letters = 8 if count > 12 else 9.5

    kept = [100 * layer["keep"] for layer in layers]
    bars = above.bar(at, kept, 0.62, color=_BLUE)
    labels = [f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" for value in kept]
    above.bar_label(bars, labels, fontsize=letters, padding=1)
    above.set_ylabel("kept, %")
    above.set_ylim(0, 115)
    above.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))

    for field, shift, colour, label in (
        ("weight_bits", -0.2, _BLUE, "weight bits"),
        ("input_bits", 0.2, _SKY, "input bits"),
    ):
        bits = [layer[field] for layer in layers]
        bars = below.bar(at + shift, bits, 0.37, color=colour, label=label)
        below.bar_label(bars, fontsize=letters, padding=1)
    most = max(max(layer["weight_bits"], layer["input_bits"]) for layer in layers)
    below.set_ylabel("bits")
    below.set_ylim(0, 1.15 * most)
    below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    below.legend(
        frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1.0), borderaxespad=0.1
    )
    for axis in (above, below):
        axis.grid(axis="x", visible=False)
        axis.tick_params(axis="x", length=0)
        axis.set_xlim(-0.6, count - 0.4)
    flat = sum(len(name) + 2 for name in names) <= 11 * width
    below.set_xticks(at, names)
    if not flat:
        below.tick_params(axis="x", rotation=55, pad=1)
        for text in below.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    return figure


def _crossbars(result: Result, rows: Rows) -> Figure:
    del rows
    layers = result["layers"]
    figure, axes = _figure(columns=2, height=1.5 + 0.5 * min(max(len(layers), 3), 60))
    at = np.arange(len(layers))
    for axis, field in zip(axes, ("crossbars", "slots"), strict=True):
        dense = np.asarray([layer["dense_8"][field] for layer in layers])
        ours = np.asarray([layer[field] for layer in layers])
        for values, shift, colour, label in (
            (dense, -0.19, _GREY, "dense 8-bit"),
            (ours, 0.19, _BLUE, "this policy"),
        ):
            bars = axis.barh(at + shift, values, 0.36, color=colour, label=label)
            axis.bar_label(bars, [f"{value:,}" for value in values], fontsize=9, padding=3)
        high = max(int(dense.max()), int(ours.max()), 1)
        low = max(min(int(dense.min()), int(ours.min())), 1)
        unit = "crossbars" if field == "crossbars" else _SLOTS
        if high / low > 50:
            _log_axis(axis, low / 2, high * (high / low) ** 0.3)
            axis.set_xlabel(f"{unit} (log)")
        else:
            axis.set_xlim(0, 1.2 * high)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
            axis.set_xlabel(unit)
        axis.set_ylim(len(layers) - 0.4, -0.6)
        axis.set_yticks(at, _picture_names(layers))
        axis.tick_params(axis="y", length=0, labelleft=field == "crossbars")
        axis.grid(axis="y", visible=False)
    _legend(figure, axes[0])
    return figure


# Words.


def _significant(value: float) -> str:
    """Whole numbers in full, others with four significant digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    return f"{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def _accuracy(accuracy: float, count: int) -> str:
    return f"{100 * accuracy:.1f} ± {100 * standard_error(accuracy, max(count, 1)):.1f} %"


def _interval(change: dict[str, float]) -> str:
    return f"{change['mean']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})"


def _answer(result: Result) -> list[list[str]]:
    """Rows of the answer's table: words, dense 16, dense 8, this policy, ratio 8, ratio 16."""
    table = []
    for field, ratio, words, _ in _METRICS:
        costs = [result["dense"]["16"], result["dense"]["8"], result["best"]]
        ratios = ["", ""]
        if ratio is not None:
            ratios = [f"{result['ratios'][ratio][f'dense_{bits}']:.2f}x" for bits in (8, 16)]
        table.append([words, *(_significant(cost[field]) for cost in costs), *ratios])
    return table


def _markdown(head: list[str], body: list[list[str]], numbers: bool = True) -> str:
    rule = ["---"] + ["--:" if numbers else "---"] * (len(head) - 1)
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, rule, *body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _asked(result: Result) -> str:
    config, data, search = result["config"], result["data"], result["search"]
    images = ", ".join(
        f"{data[split]:,} {words}"
        for split, words in (
            ("train", "to train and calibrate"),
            ("search", "to search"),
            ("select", "to choose"),
            ("test", "to test"),
        )
    )
    weights = {k: v for k, v in config.get("objective", {}).items() if v}
    rows = [
        ["network", config["model"]["name"]],
        ["data", f"{data['name']}: images {images}"],
        ["accelerator", config["accelerator"]],
        [
            "limit",
            f"at most {result['limit']['max_accuracy_drop']:g} points of accuracy below the float "
            f"network: at least {100 * result['limit']['min_accuracy']:.1f} % on the "
            f"{data['select']:,} images to choose",
        ],
        ["strategy", search["strategy"]],
        ["budget", f"{config['search']['episodes']:,} evaluations"],
    ]
    if weights:
        shares = (f"{name} {v / sum(weights.values()):.0%}" for name, v in weights.items())
        rows.insert(4, ["objective", f"less of {', '.join(shares)}"])
    return _markdown(["asked", ""], rows, numbers=False)


def _times(ratio: float, less: str) -> str:
    return f"{ratio:.2f} times {less}" if ratio >= 1 else f"{1 / ratio:.2f} times more"


def _verdict(result: Result) -> str:
    best, limit = result["best"], result["limit"]
    words = "meets the limit" if best["meets_limit"] else "**does not meet the limit**"
    verdict = (
        f"On the selection half of validation it has {100 * best['validation_accuracy']:.1f} %, "
        f"the limit is {100 * limit['min_accuracy']:.1f} %: it {words}."
    )
    if not best["meets_limit"]:
        verdict += " No policy that was tried there did; this is the nearest."
    return verdict


def _test_words(result: Result) -> str:
    """What the test images say of the difference."""
    change, drop = result["best"]["test_difference"], result["limit"]["max_accuracy_drop"]
    words = f"On test the paired difference is {_interval(change)} points, 95 % interval. "
    if change["low"] <= 0 <= change["high"]:
        words += "It includes 0: these images cannot tell the two networks apart."
    else:
        words += "It does not include 0: these images tell the two networks apart."
    if change["mean"] < -drop:
        words += (
            f" The loss on test is more than the {drop:g} points asked for on the selection half"
        )
        words += ", though within its interval." if change["high"] >= -drop else "."
    return words


def _accuracies(result: Result) -> str:
    floats, best, data = result["float"], result["best"], result["data"]
    table = []
    for words, split, count in (
        ("validation, search half", "search", data["search"]),
        ("validation, selection half", "validation", data["select"]),
        ("test, measured once", "test", data["test"]),
    ):
        before, after = floats[f"{split}_accuracy"], best[f"{split}_accuracy"]
        cells = [
            _accuracy(before, count),
            _accuracy(after, count),
            f"{100 * (after - before):+.1f}",
        ]
        table.append([words, f"{count:,}", *cells])
    return _markdown(["", "images", "float", "this policy", "difference, points"], table)


def _half_a_point(result: Result) -> str:
    count = result["data"]["test"]
    error = 100 * standard_error(result["best"]["test_accuracy"], max(count, 1))
    if not 0.35 <= error < 0.65:
        return ""
    return f" Half a point is about one standard error on the {count:,} test images."


def _layer_table(result: Result) -> str:
    layers = result["layers"]
    table = []
    for name, layer in zip(short_names([layer["name"] for layer in layers]), layers, strict=True):
        dense = layer["dense_8"]
        pairs = [(layer[f], dense[f]) for f in ("crossbars", "slots", "energy_nj")]
        table.append(
            [
                name,
                f"{layer['groups']} x {layer['rows']} x {layer['columns']}",
                f"{layer['positions']:,}",
                f"{100 * layer['keep']:.1f} %",
                str(layer["weight_bits"]),
                str(layer["input_bits"]),
                *(f"{_significant(ours)} of {_significant(theirs)}" for ours, theirs in pairs),
                f"{layer['index_bits']:,}",
            ]
        )
    head = ["layer", "matrix", "positions", "kept", "weight bits", "input bits"]
    return _markdown([*head, "crossbars", "slots", "energy, nJ", "index, bits"], table)


def _repeat(result: Result) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return f"""## How to repeat it

    {" ".join(result["command"].splitlines())}

Seed {result["seed"]}. Versions: {versions}. The same seed on the same machine gives the same \
`result.json` but for times. `python -m apq_jax.report` with this folder makes this report again.
"""


def _title(result: Result) -> str:
    config = result["config"]
    return f"{config['model']['name']} on {result['data']['name']}, for {config['accelerator']}"


def _text_without_best(result: Result) -> str:
    count = result["search"]["evaluations"]
    stopped = "was interrupted" if result["interrupted"] else "ended"
    if count:
        done = f"after {count:,} evaluations and before it chose a policy; they are in `search.csv`"
    else:
        done = "before the first evaluation was done"
    return f"""# {_title(result)}: no result

The search {stopped} {done}. There is no policy to report and there are no pictures.

{_asked(result)}

{_repeat(result)}"""


def _text(result: Result, rows: Rows) -> str:
    search, ratios, data = result["search"], result["ratios"], result["data"]
    count = search["evaluations"]
    stopped = " It was interrupted; what it had found by then is reported." * result["interrupted"]
    below = int((rows["reward"] < _reward_floor(rows["reward"])).sum())
    hidden = (
        f" {below:,} of the {count:,} lie below the picture: triangles on its lower edge."
        if below
        else ""
    )
    boundary = _boundary(result)
    phases = ""
    if boundary is not None and boundary < count:
        phases = (
            " The dotted line is where the search goes from pruning, at the most bits, to the "
            "bits of the pruned network."
        )
    low = _pareto_floor(result)
    cut = int((100 * rows["expected_accuracy"] < low).sum())
    feasible = int(rows["feasible"].sum())
    head = ["", "dense 16-bit", "dense 8-bit", "this policy"]
    head += ["times less than dense 8-bit", "times less than dense 16-bit"]
    return f"""# {_title(result)}

This policy needs **{_times(ratios["slots"]["dense_8"], "fewer")} operation-unit slots** and \
**{_times(ratios["energy"]["dense_8"], "less")} energy** than the unpruned network at 8 bits on \
the same accelerator. {_verdict(result)}

{_asked(result)}

The search evaluated {count:,} policies in {search["seconds"]:.0f} s.{stopped}

## The answer

{_markdown(head, _answer(result))}

"Times less than dense 8-bit" is the cost of the unpruned network with 8-bit weights and inputs on \
the same accelerator, divided by that of this policy; "16-bit" the same with 16 bits. Below 1 it \
is more, not less. Dense networks need no index.

## Accuracy

{_accuracies(result)}

± is one standard error, √(p (1 - p) / n).{_half_a_point(result)} {_test_words(result)} The search \
saw the first row. {search["finalists"]:,} finalists were compared on the second. The third was \
measured once, with the policy that was chosen.

![Accuracy against crossbars and slots](pareto.png)

*Accuracy on the {data["search"]:,} images of the search half against crossbars and slots. Blue: \
accuracy expected from the divergence of the outputs, by which the search is limited, and its \
Pareto front in each panel. Grey: accuracy measured on so few images, which is mostly noise. \
Dashed: the limit, {100 * _search_limit(result):.1f} %. Star: this policy; it weighs more costs \
than one panel shows and was chosen on other images, so it need not lie on the front. Square: \
dense 8-bit, drawn at the accuracy of the float network, not measured. {cut:,} of {count:,} \
policies are expected below {low:.1f} % and cut off.*

## The layers

{_layer_table(result)}

"Of" is the unpruned network at 8 bits. A matrix is groups x rows x columns; positions are how \
often an inference uses it.

![Keep ratio and bits of each layer](policy.png)

*Above: column-vectors kept, in percent. Below: bits of weights and inputs.*

![Crossbars and slots of each layer](crossbars.png)

*Crossbars and slots of each layer, unpruned at 8 bits and with this policy.*

## The search

![Reward of each evaluation](progress.png)

*Reward of each evaluation and the best so far. 0 is dense 8-bit; without a penalty, a reward r is \
e^r times less cost, a geometric mean over the objective. {feasible:,} of {count:,} policies are \
expected to meet the limit (blue).{hidden}{phases}*

## How to read it

* A **slot** is a place for one operation unit, the block of cells that is read at once. Slots \
count what is stored. **Crossbars** are at least one a layer, too coarse a measure for a small \
network.
* **Area** counts crossbars with their periphery, and IMAs and tiles in proportion. **Energy** and \
**latency** are of one inference, from counted events, not measured on a chip.
* A **column-vector** is one column of one row group: the weights that live or die together.
* Every ratio is over the unpruned network on the same accelerator, at the bits that it names. \
Against 16 bits part of it is plain quantization, which needs no search.

{_repeat(result)}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the reports of run folders again; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="apq_jax.report", description="Makes report.md and its pictures of runs again."
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="a work folder")
    try:
        for folder in parser.parse_args(argv).runs:
            print(make(folder)[-1])
    except InputError as error:
        print(f"apq_jax.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
