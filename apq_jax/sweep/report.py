"""Builds the report of a sweep: the best accelerators, the front, and which fields matter."""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apq_jax.metrics import COSTS, METRICS, SEARCHED
from apq_jax.problem import pareto
from apq_jax.report.document import Document, Note, Part, Picture, Section, Table, Text, quote
from apq_jax.report.figures import set_plain_log_ticks
from apq_jax.sweep.table import Row

_SHOWN = ("area_mm2", "energy_nj", "latency_us")  # the costs that an architect trades off
_LIMITS = ("search.max_accuracy_drop", "limits.")  # beginnings of the names of limits
_MAX_PAIRS, _MAX_ROWS = 6, 40
_COST_WORDS = [metric.short_words for metric in SEARCHED]


def build_report(rows: list[Row], fields: list[str], title: str) -> Document:
    """Builds the report of a sweep as a document.

    It compares the searches that meet their limits, and the fields that vary among all rows.

    Args:
      rows: the rows of the sweep's table, at least one.
      fields: names of the swept fields.
      title: network and data, in words.
    """
    varied = [name for name in fields if len({row[name] for row in rows}) > 1]
    good = [row for row in rows if row["meets_limits"]]
    lead = [
        Text(
            f"{title}: {len(rows):,} searches over {', '.join(map(quote, varied)) or 'one point'}; "
            f"{len(good):,} found a policy that meets the limits on the selection images. Costs "
            "are of one inference."
        )
    ]
    if not good:
        return Document(
            "A sweep", (*lead, Note("No search met its limits: there is nothing to compare.")), ()
        )
    best = Section("The best", tuple(_build_best_tables(good, varied)))
    sections = [best, _build_front(good, varied)]
    if varied:
        sections += [_build_shares(good, varied), _build_heat_maps(good, varied)]
    return Document(
        "A sweep", tuple(lead), tuple(section for section in sections if section.blocks)
    )


def _build_best_tables(rows: list[Row], varied: list[str]) -> list[Table | Text]:
    """Builds a table for each swept limit, with the row that is cheapest in each metric."""
    limits = [name for name in varied if name.startswith(_LIMITS)]
    tables: list[Table | Text] = []
    for values in sorted({tuple(row[name] for name in limits) for row in rows}):
        comparable = [row for row in rows if tuple(row[name] for name in limits) == values]
        body = []
        for metric in SEARCHED:
            costs = [(row[metric.field], row["points_lost"]) for row in comparable]
            cheapest = comparable[costs.index(min(costs))]
            words = metric.short_words.partition(",")[0]
            body.append([f"least {words}", *_format_cells(cheapest, varied)])
        pairs = zip(limits, values, strict=True)
        title = ", ".join(f"{name} {value:g}" for name, value in pairs) or "Of all"
        tables.append(Table(title, (Part(["", *_list_headings(varied)], body),)))
    return tables


def _list_headings(varied: list[str]) -> list[str]:
    return [*map(_shorten_field, varied), "points lost", *_COST_WORDS]


def _format_cells(row: Row, varied: list[str]) -> list[str]:
    return [
        *(_format_value(row[name]) for name in varied),
        f"{row['points_lost']:.2f}",
        *(format(row[metric.field], metric.format) for metric in SEARCHED),
    ]


def _shorten_field(name: str) -> str:
    """Returns a field's name without its section, in words."""
    return name.rpartition(".")[2].replace("_", " ")


def _format_brief(value: float) -> str:
    """Formats a number with two or three digits, so that it fits into a cell of a heat map."""
    if value >= 999.5:
        return f"{value / 1000:.2g}k" if value < 99_500 else f"{value / 1000:.0f}k"
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def _format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _build_front(rows: list[Row], varied: list[str]) -> Section:
    values = np.asarray([[row[name] for name in _SHOWN] for row in rows], float)
    front = pareto.find_non_dominated(-values)
    front = front[np.argsort(values[front, 0], kind="stable")]
    count = min(len(front), _MAX_ROWS)
    shown = front[np.unique(np.linspace(0, len(front) - 1, count).round().astype(int))]
    body = [[f"{line}", *_format_cells(rows[index], varied)] for line, index in enumerate(shown, 1)]
    figure = Figure(figsize=(7.2, 3.8), dpi=150, layout="constrained")
    for axis, other in zip(figure.subplots(1, 2), (1, 2), strict=True):
        axis.scatter(values[:, 0], values[:, other], s=10, color="#8C8C8C", label="all")
        axis.scatter(values[front, 0], values[front, other], s=16, color="#0072B2", label="front")
        axis.set_xscale("log")
        set_plain_log_ticks(axis, values[:, 0].min(), values[:, 0].max())
        axis.set_yscale("log")
        axis.set_xlabel(COSTS["area_mm2"].short_words)
        axis.set_ylabel(COSTS[_SHOWN[other]].short_words)
        axis.grid(color="#E5E5E5", linewidth=0.7)
    figure.axes[0].legend(frameon=False)
    words = (
        f"{len(front):,} of {len(rows):,} are on the front of area, energy and latency: no other "
        "has less of one and no more of the others"
    )
    more = f", {len(shown)} of them evenly over the front" if len(shown) < len(front) else ""
    picture = Picture("sweep_front", "Energy and latency against area, and their front", figure)
    table = Table("On the front", (Part(["", *_list_headings(varied)], body),))
    return Section("The front", (Text(f"{words}{more}."), picture, table))


def compute_shares(rows: list[Row], varied: list[str]) -> dict[str, dict[str, float]]:
    """Computes the share of each metric's variance that each field explains alone.

    A share is Σ_v n_v (mean_v - mean)² / Σ (x - mean)² with x the metric's logarithm and v the
    field's values, in [0, 1]. It is 0 if the metric does not vary. Joint effects of fields are in
    no share.

    Args:
      rows: rows that meet their limits, at least one.
      varied: names of the fields.

    Returns:
      The share of a metric and a field as `shares[metric][field]`.
    """
    shares: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        x = np.log(np.asarray([row[metric] for row in rows], float))
        total = float(((x - x.mean()) ** 2).sum())
        shares[metric] = {}
        for name in varied:
            values = [row[name] for row in rows]
            groups = [x[[other == value for other in values]] for value in dict.fromkeys(values)]
            between = sum(len(group) * (group.mean() - x.mean()) ** 2 for group in groups)
            shares[metric][name] = float(between / total) if total > 0 else 0.0
    return shares


def _build_shares(rows: list[Row], varied: list[str]) -> Section:
    shares = compute_shares(rows, varied)
    body = [
        [_shorten_field(name), *(f"{100 * shares[metric][name]:.0f} %" for metric in METRICS)]
        for name in varied
    ]
    words = (
        "Of the variance of the logarithm of each cost of the best policies, how much each field "
        "explains alone; what is left to 100 % are fields together and the chance of the searches."
    )
    table = Table("Shares", (Part(["field", *_COST_WORDS], body),))
    return Section("Which fields matter", (Text(words), table))


def _build_heat_maps(rows: list[Row], varied: list[str]) -> Section:
    shares = compute_shares(rows, varied)
    weight = {name: sum(shares[metric][name] for metric in _SHOWN) for name in varied}
    pairs = itertools.combinations(sorted(varied, key=lambda name: -weight[name]), 2)
    blocks: list[Text | Picture] = []
    for index, pair in enumerate(itertools.islice(pairs, _MAX_PAIRS)):
        figure = Figure(figsize=(7.2, 3.0), dpi=150, layout="constrained")
        for axis, metric in zip(figure.subplots(1, len(_SHOWN)), _SHOWN, strict=True):
            _draw_heat_map(axis, rows, pair, metric)
        description = f"Costs over {pair[0]} and {pair[1]}"
        blocks.append(Picture(f"sweep_pair_{index}", description, figure))
    if blocks:
        blocks.insert(0, Text("Geometric means over the other fields; darker is more."))
    return Section("Fields by pairs", tuple(blocks))


def _draw_heat_map(axis: Axes, rows: list[Row], pair: tuple[str, str], metric: str) -> None:
    """Draws the geometric mean of a metric over the values of two fields."""
    columns, lines = (sorted({row[name] for row in rows}, key=_sort_key) for name in pair)
    cells: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        cell = lines.index(row[pair[1]]), columns.index(row[pair[0]])
        cells.setdefault(cell, []).append(np.log(row[metric]))
    values = np.full((len(lines), len(columns)), np.nan)
    for cell, logs in cells.items():
        values[cell] = np.exp(np.mean(logs))
    axis.imshow(values, cmap="Blues", aspect="auto", origin="lower")
    for (line, column), value in np.ndenumerate(values):
        if np.isfinite(value) and values.size <= 36:
            dark = value > (np.nanmin(values) + np.nanmax(values)) / 2
            colour = "#FFFFFF" if dark else "#202020"
            text = _format_brief(value)
            axis.text(column, line, text, ha="center", va="center", size=7, color=colour)
    axis.set_xticks(range(len(columns)), [_format_value(x) for x in columns], fontsize=8)
    axis.set_yticks(range(len(lines)), [_format_value(x) for x in lines], fontsize=8)
    axis.set_title(COSTS[metric].short_words, fontsize=9)
    axis.set_xlabel(_shorten_field(pair[0]), fontsize=8)
    axis.set_ylabel(_shorten_field(pair[1]), fontsize=8)


def _sort_key(value: Any) -> tuple[bool, Any]:
    """Returns a key that sorts texts after numbers, because the two cannot be compared."""
    return isinstance(value, str), value
