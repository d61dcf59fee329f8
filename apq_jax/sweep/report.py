"""What a sweep's table says, as a page: the best accelerators, the front, which fields matter."""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apq_jax.metrics import COSTS, METRICS, SEARCHED
from apq_jax.problem import pareto
from apq_jax.report.document import Document, Note, Part, Picture, Section, Table, Text, quote
from apq_jax.report.figures import set_plain_log_ticks

_SHOWN = ("area_mm2", "energy_nj", "latency_us")  # what an architect trades off
_LIMITS = ("search.max_accuracy_drop", "limits.")
_MOST_PAIRS, _MOST_ROWS = 6, 40
Row = dict[str, Any]


def build_report(rows: list[Row], fields: list[str], what: str) -> Document:
    """The page of a sweep.

    Args:
      rows: of its table; at least one.
      fields: names of those that were swept.
      what: network and data, in words.
    """
    varied = [name for name in fields if len({row[name] for row in rows}) > 1]
    good = [row for row in rows if row["meets_limits"]]
    lead = [
        Text(
            f"{what}: {len(rows):,} searches over {', '.join(map(quote, varied)) or 'one point'}; "
            f"{len(good):,} found a policy that meets the limits on the selection images. Costs "
            "are of one inference."
        )
    ]
    if not good:
        return Document(
            "A sweep", (*lead, Note("No search met its limits: there is nothing to compare.")), ()
        )
    sections = [Section("The best", tuple(_build_best_tables(good, varied))), _build_front(good, varied)]
    if varied:
        sections += [_build_shares(good, varied), _build_heat_maps(good, varied)]
    return Document("A sweep", tuple(lead), tuple(one for one in sections if one.blocks))


def _build_best_tables(rows: list[Row], varied: list[str]) -> list[Table | Text]:
    """Of every limit that was asked for, the row that has the least of each metric."""
    limits = [name for name in varied if name.startswith(_LIMITS)]
    asked = sorted({tuple(row[name] for name in limits) for row in rows})
    found: list[Table | Text] = []
    for values in asked:
        these = [row for row in rows if tuple(row[name] for name in limits) == values]
        body = []
        for metric in SEARCHED:
            costs = [(row[metric.field], row["points_lost"]) for row in these]
            least = these[costs.index(min(costs))]
            body.append([f"least {metric.short_words.partition(',')[0]}", *_format_cells(least, varied)])
        of = ", ".join(f"{name} {value:g}" for name, value in zip(limits, values, strict=True))
        found.append(Table(of or "Of all", (Part(["", *_list_headings(varied)], body),)))
    return found


def _list_headings(varied: list[str]) -> list[str]:
    return [*map(_shorten_field, varied), "points lost", *(metric.short_words for metric in SEARCHED)]


def _format_cells(row: Row, varied: list[str]) -> list[str]:
    return [
        *(_format_value(row[name]) for name in varied),
        f"{row['points_lost']:.2f}",
        *(format(row[metric.field], metric.format) for metric in SEARCHED),
    ]


def _shorten_field(name: str) -> str:
    """A field's name without the section, in words."""
    return name.rpartition(".")[2].replace("_", " ")


def _format_brief(value: float) -> str:
    """Two or three digits, as fit into a cell."""
    if value >= 999.5:
        return f"{value / 1000:.2g}k" if value < 99_500 else f"{value / 1000:.0f}k"
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def _format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _build_front(rows: list[Row], varied: list[str]) -> Section:
    values = np.asarray([[row[name] for name in _SHOWN] for row in rows], float)
    on = pareto.find_non_dominated(-values)
    on = on[np.argsort(values[on, 0], kind="stable")]
    shown = on[np.unique(np.linspace(0, len(on) - 1, min(len(on), _MOST_ROWS)).round().astype(int))]
    body = [[f"{number}", *_format_cells(rows[at], varied)] for number, at in enumerate(shown, 1)]
    figure = Figure(figsize=(7.2, 3.8), dpi=150, layout="constrained")
    for axis, other in zip(figure.subplots(1, 2), (1, 2), strict=True):
        axis.scatter(values[:, 0], values[:, other], s=10, color="#8C8C8C", label="all")
        axis.scatter(values[on, 0], values[on, other], s=16, color="#0072B2", label="front")
        axis.set_xscale("log")
        set_plain_log_ticks(axis, values[:, 0].min(), values[:, 0].max())
        axis.set_yscale("log")
        axis.set_xlabel(COSTS["area_mm2"].short_words)
        axis.set_ylabel(COSTS[_SHOWN[other]].short_words)
        axis.grid(color="#E5E5E5", linewidth=0.7)
    figure.axes[0].legend(frameon=False)
    words = (
        f"{len(on):,} of {len(rows):,} are on the front of area, energy and latency: no other has "
        "less of one and no more of the others"
    )
    more = f", {len(shown)} of them evenly over the front" if len(shown) < len(on) else ""
    picture = Picture("sweep_front", "Energy and latency against area, and their front", figure)
    table = Table("On the front", (Part(["", *_list_headings(varied)], body),))
    return Section("The front", (Text(f"{words}{more}."), picture, table))


def compute_shares(rows: list[Row], varied: list[str]) -> dict[str, dict[str, float]]:
    """How much of the variance of a metric's logarithm a field explains alone, by metric.

    Σ_v n_v (mean_v - mean)² / Σ (x - mean)² over the values v of the field, in [0, 1]; what fields
    do together is in none of them.
    """
    found: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        x = np.log(np.asarray([row[metric] for row in rows], float))
        total = float(((x - x.mean()) ** 2).sum())
        found[metric] = {}
        for name in varied:
            at: dict[Any, list[int]] = {}
            for number, row in enumerate(rows):
                at.setdefault(row[name], []).append(number)
            between = sum(len(one) * (x[one].mean() - x.mean()) ** 2 for one in at.values())
            found[metric][name] = float(between / total) if total > 0 else 0.0
    return found


def _build_shares(rows: list[Row], varied: list[str]) -> Section:
    found = compute_shares(rows, varied)
    body = [[_shorten_field(name), *(f"{100 * found[m][name]:.0f} %" for m in METRICS)] for name in varied]
    words = (
        "Of the variance of the logarithm of each cost of the best policies, how much each field "
        "explains alone; what is left to 100 % are fields together and the chance of the searches."
    )
    table = Table("Shares", (Part(["field", *(metric.short_words for metric in SEARCHED)], body),))
    return Section("Which fields matter", (Text(words), table))


def _build_heat_maps(rows: list[Row], varied: list[str]) -> Section:
    found = compute_shares(rows, varied)
    weight = {name: sum(found[metric][name] for metric in _SHOWN) for name in varied}
    pairs = itertools.combinations(sorted(varied, key=lambda name: -weight[name]), 2)
    blocks: list[Text | Picture] = []
    for number, pair in enumerate(itertools.islice(pairs, _MOST_PAIRS)):
        figure = Figure(figsize=(7.2, 3.0), dpi=150, layout="constrained")
        for axis, metric in zip(figure.subplots(1, len(_SHOWN)), _SHOWN, strict=True):
            _draw_heat_map(axis, rows, pair, metric)
        shows = f"Costs over {pair[0]} and {pair[1]}"
        blocks.append(Picture(f"sweep_pair_{number}", shows, figure))
    if blocks:
        blocks.insert(0, Text("Geometric means over the other fields; darker is more."))
    return Section("Fields by pairs", tuple(blocks))


def _draw_heat_map(axis: Axes, rows: list[Row], pair: tuple[str, str], metric: str) -> None:
    columns, lines = (sorted({row[name] for row in rows}, key=_sort_key) for name in pair)
    cells: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        place = lines.index(row[pair[1]]), columns.index(row[pair[0]])
        cells.setdefault(place, []).append(np.log(row[metric]))
    values = np.full((len(lines), len(columns)), np.nan)
    for place, logs in cells.items():
        values[place] = np.exp(np.mean(logs))
    axis.imshow(values, cmap="Blues", aspect="auto", origin="lower")
    for (line, column), value in np.ndenumerate(values):
        if np.isfinite(value) and values.size <= 36:
            dark = value > (np.nanmin(values) + np.nanmax(values)) / 2
            colour = "#FFFFFF" if dark else "#202020"
            axis.text(column, line, _format_brief(value), ha="center", va="center", size=7, color=colour)
    axis.set_xticks(range(len(columns)), [_format_value(x) for x in columns], fontsize=8)
    axis.set_yticks(range(len(lines)), [_format_value(x) for x in lines], fontsize=8)
    axis.set_title(COSTS[metric].short_words, fontsize=9)
    axis.set_xlabel(_shorten_field(pair[0]), fontsize=8)
    axis.set_ylabel(_shorten_field(pair[1]), fontsize=8)


def _sort_key(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value
