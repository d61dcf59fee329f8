"""The report of a run, made from its result.json and search.csv alone.

    python -m apq_jax.report RUN [RUN ...]

Writes report.md and six pictures into each run's folder.
"""

import argparse
import csv
import io
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import rich.table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apq_jax import pictures
from apq_jax.data import standard_error
from apq_jax.files import InputError, write_whole
from apq_jax.pictures import Rows, short_names

SCHEMA = 3  # of the result.json that is read here
_METRICS = (  # field of a cost, name of its ratio, words, format
    ("slots", "slots", "operation-unit slots", "{:,}"),
    ("crossbars", "crossbars", "crossbars", "{:,}"),
    ("area_mm2", "area", "area, mm²", "{:.4f}"),
    ("energy_nj", "energy", "energy an inference, nJ", "{:,.1f}"),
    ("latency_us", "latency", "latency of an inference, µs", "{:,.1f}"),
    ("index_bits", None, "index bits", "{:,}"),
)
_NEEDED: tuple[str, ...] = (
    "config",
    "versions",
    "seed",
    "command",
    "interrupted",
    "data",
    "float",
    "limit",
    "best",
    "dense",
    "dense_isaac",
    "ratios",
    "adc_laws",
    "mapping",
    "adc_curve",
    "notes",
    "accelerator",
    "layers",
    "search",
    "pareto",
)


PICTURES: dict[str, Callable[[dict[str, Any], Rows], Figure]] = {
    "progress.png": pictures.progress,
    "pareto.png": pictures.pareto,
    "policy.png": pictures.policy,
    "crossbars.png": pictures.crossbars,
    "energy.png": pictures.energy,
    "adc.png": pictures.adc,
}


def make(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the report and its pictures into a run's folder and returns their paths.

    Raises:
      InputError: result.json or search.csv is missing, damaged or lacks a field.
    """
    result, rows = _read_result(folder / "result.json"), _read_rows(folder / "search.csv")
    if len(rows["reward"]) != result["search"].get("evaluations"):
        raise InputError(
            f"{folder / 'search.csv'}: {len(rows['reward'])} rows; allowed: those of result.json's "
            f"search.evaluations, {result['search'].get('evaluations')}"
        )
    written = []
    try:
        for name, draw in PICTURES.items():
            image = io.BytesIO()
            FigureCanvasAgg(draw(result, rows)).print_png(image)
            write_whole(folder / name, image.getvalue())
            written.append(folder / name)
        write_whole(folder / "report.md", _text(result))
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{folder}: result.json or search.csv lacks {error}") from error
    return [*written, folder / "report.md"]


def _read_result(path: pathlib.Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema: {schema!r}; allowed: {SCHEMA}")
    for name in _NEEDED:
        if name not in result:
            raise InputError(f"{path}: {name}: missing")
    return result


def _read_rows(path: pathlib.Path) -> Rows:
    try:
        with path.open(newline="") as file:
            lines = list(csv.reader(file))
        head, body = lines[0], np.asarray(lines[1:], np.float64)
        rows = dict(zip(head, body.T, strict=True))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: is not a table of numbers ({error})") from error
    for name in (
        "seed",
        "reward",
        "accuracy",
        "expected_accuracy",
        "slots",
        "crossbars",
        "feasible",
    ):
        if name not in rows:
            raise InputError(f"{path}: {name}: no such column")
    return rows


def _percent(accuracy: float, count: int) -> str:
    return f"{100 * accuracy:.1f} ± {100 * standard_error(accuracy, count):.1f} %"


def _answer(result: dict[str, Any]) -> list[list[str]]:
    """Rows of the answer's table: words, dense 16, dense 8, chosen, ratio 8, ratio 16."""
    table = []
    for field, ratio, words, form in _METRICS:
        costs = [result["dense"]["16"], result["dense"]["8"], result["best"]]
        cells = [form.format(cost[field]) for cost in costs]
        ratios = ["", ""]
        if ratio is not None:
            ratios = [f"{result['ratios'][ratio][f'dense_{bits}']:.2f}x" for bits in (8, 16)]
        table.append([words, *cells, *ratios])
    return table


def summary(result: dict[str, Any]) -> rich.table.Table:
    """The answer for a terminal of 80 columns."""
    best, floats, data = result["best"], result["float"], result["data"]
    table = rich.table.Table(
        title="meets the limit" if best["meets_limit"] else "does NOT meet the limit",
        caption=f"select: {data['select']} validation images; test: {data['test']} images, once",
    )
    for name in ("", "dense 16", "dense 8", "chosen", "over 8", "over 16"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for words, *cells in _answer(result):
        table.add_row(words.replace(" of an inference", "").replace(" an inference", ""), *cells)
    for split, count in (("validation", data["select"]), ("test", data["test"])):
        before, after = floats[f"{split}_accuracy"], best[f"{split}_accuracy"]
        change = f"{100 * (after - before):+.1f}"
        table.add_row(
            "select, %" if split == "validation" else "test, %",
            "float",
            f"{100 * before:.1f}",
            f"{100 * after:.1f}",
            change,
            f"±{100 * standard_error(after, count):.1f}",
        )
    return table


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(result: dict[str, Any]) -> str:
    best, floats, data = result["best"], result["float"], result["data"]
    config, search, change = result["config"], result["search"], best["test_difference"]
    drop = result["limit"]["max_accuracy_drop"]
    lost = 100 * (floats["validation_accuracy"] - best["validation_accuracy"])
    verdict = "meets" if best["meets_limit"] else "**does not meet**"
    names = short_names([layer["name"] for layer in result["layers"]])
    layers = [
        [
            name,
            f"{layer['groups']} x {layer['rows']} x {layer['columns']}",
            f"{100 * layer['keep']:.1f} %",
            str(layer["weight_bits"]),
            str(layer["input_bits"]),
            f"{layer['crossbars']} of {layer['dense_8']['crossbars']}",
            f"{layer['slots']:,} of {layer['dense_8']['slots']:,}",
            f"{layer['energy_nj']:,.1f} of {layer['dense_8']['energy_nj']:,.1f}",
        ]
        for name, layer in zip(names, result["layers"], strict=True)
    ]
    stopped = " It was interrupted." if result["interrupted"] else ""
    accuracy = [
        [
            f"{words} ({count:,} images)",
            _percent(floats[f"{split}_accuracy"], count),
            _percent(best[f"{split}_accuracy"], count),
            f"{100 * (best[f'{split}_accuracy'] - floats[f'{split}_accuracy']):+.1f}",
        ]
        for words, split, count in (
            ("validation, search half", "search", data["search"]),
            ("validation, selection half", "validation", data["select"]),
            ("test, measured once", "test", data["test"]),
        )
    ]
    head = ["layer", "γ x R x C", "keep", "weight bits", "input bits"]
    head += ["crossbars", "slots", "energy, nJ"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return f"""# {config["model"]["name"]} on {data["name"]}, compressed for {result["accelerator"]}

Asked: the cheapest policy that loses at most {drop:g} points of accuracy against the float network.
The `{search["strategy"]}` search evaluated {search["evaluations"]:,} policies in
{search["seconds"]:.0f} s.{stopped} The policy it chose **needs
{result["ratios"]["slots"]["dense_8"]:.1f} times fewer operation-unit slots and
{result["ratios"]["energy"]["dense_8"]:.1f} times less energy than the unpruned network at 8 bits**;
it loses {lost:.1f} points on the selection half of validation and {verdict} the limit.

{_markdown(["", "dense 16", "dense 8", "chosen", "over dense 8", "over dense 16"], _answer(result))}

"Over dense 8" is the cost of the unpruned network at 8-bit weights and inputs on the same
accelerator, divided by the chosen policy's; "over dense 16" the same at 16 bits. Slots are the
operation units that hold weights; crossbars are at least one a layer, too coarse for a small
network. {_area_words(result)}

{_isaac(result)}

## Accuracy

{_markdown(["", "float", "chosen", "difference, points"], accuracy)}

± is one standard error, √(p (1 - p) / n): about half a point at 98 % of 1,000 images. On test the
paired difference is {change["mean"]:+.2f} points, 95 % interval {change["low"]:+.2f} to
{change["high"]:+.2f}. The search saw the first row, the choice among {search["finalists"]}
finalists the second; nothing saw the third.

![Accuracy against crossbars and slots](pareto.png)

Every policy that was evaluated: measured accuracy faint, expected accuracy (by which the search is
limited, docs/search.md) and its Pareto front in blue. Policies far below the limit are cut off.

## The policy

{_markdown(head, layers)}

"Of" is the unpruned network at 8 bits.

![Keep ratio and bits a layer](policy.png)

![Crossbars and slots a layer](crossbars.png)

{_utilisation(result)}

## Where energy and area go

![Energy by component](energy.png)

{_breakdown(result, "energy_by_component_nj", "nJ an inference", 1.0, ",.2f")}

{_breakdown(result, "area_by_component_mm2", "µm²", 1e6, ",.0f")}

{_laws(result)}

## The mapping

{_mapping(result)}

![Accuracy and energy by ADC bits](adc.png)

{_curve(result)}

## The search

![Reward over evaluations](progress.png)

Each point is an evaluation; triangles on the lower edge are below it. The line is the best so far.
{_spread(result)}
## To repeat it

    {result["command"]}

Seed {result["seed"]}; {versions}. The same seed on the same machine gives the same `result.json`
but for times.
"""


def _spread(result: dict[str, Any]) -> str:
    """What each of several seeds found, and how far they lie apart."""
    seeds, best = result["search"]["seeds"], result["best"]

    def shown(objective: float | None) -> str:
        return "none meets the limit" if objective is None else f"{objective:.3f}"

    if len(seeds["each"]) == 1:
        return ""
    rows = [
        [str(one["seed"]), f"{one['evaluations']:,}", shown(one["objective"])]
        for one in seeds["each"]
    ]
    least, median, most = (shown(seeds[name]) for name in ("least", "median", "most"))
    return (
        f"\n{len(rows)} searches of the same network, alike but for their seeds. The best "
        "objective within the\nlimit (expected accuracy): "
        f"median {median}, least {least}, most {most}. The finalists are those of\n"
        f"all seeds together; the chosen policy is of seed {best['seed']}."
        f"\n\n{_markdown(['seed', 'evaluations', 'best objective'], rows)}\n"
    )


def _area_words(result: dict[str, Any]) -> str:
    best = result["best"]
    return (
        f"Area of IMAs and tiles in proportion to the crossbars: {best['area_pro_rata_mm2']:.4f} "
        f"mm²; of whole ones: {best['area_rounded_mm2']:.4f} mm² ({best['allocated']} crossbars "
        f"allocated, {best['crossbars']} occupied). One inference every {best['period_us']:,.1f} "
        f"µs, bound by `{best['bottleneck']}`; {best['gops_per_mm2']:.3g} GOPS/mm² and "
        f"{best['gops_per_w']:,.0f} GOPS/W of the unpruned network's operations."
        + "".join(f"\n\n**Note.** {note}" for note in result["notes"])
    )


def _isaac(result: dict[str, Any]) -> str:
    """The same against dense on ISAAC, whose whole-crossbar reads units make slower."""
    rows, dense = [], result["dense_isaac"]
    for field, ratio, words, form in (
        *(one for one in _METRICS if one[1] not in (None, "slots")),
        ("period_us", "period", "between two inferences, µs", "{:,.1f}"),
    ):
        over = [f"{result['ratios'][ratio][f'isaac_{bits}']:.2f}x" for bits in (8, 16)]
        cells = [form.format(cost[field]) for cost in (dense["16"], dense["8"], result["best"])]
        rows.append([words, *cells, *over])
    head = ["", "ISAAC 16", "ISAAC 8", "chosen", "over ISAAC 8", "over ISAAC 16"]
    return (
        "Reading by operation units makes a network slower, the unpruned one, too. So here is the "
        "same\nagainst the unpruned network on `isaac`, which reads whole crossbars; below 1x the "
        f"chosen policy\ncosts more:\n\n{_markdown(head, rows)}"
    )


def _utilisation(result: dict[str, Any]) -> str:
    use = [layer["utilisation"] for layer in result["layers"]]
    slots = sum(one["slots_unused"] for one in use)
    filled = [f"{100 * one['cells_used']:.0f} %" for one in use]
    index = [f"{100 * one['index_overhead']:.0f} %" for one in use]
    names = short_names([layer["name"] for layer in result["layers"]])
    padding = sum(one["padding_cells"] for one in use)
    return (
        f"{slots:,} slots of occupied crossbars are empty, {padding:,} cells of used units hold "
        "nothing.\n\n"
        + _markdown(
            ["", *names],
            [["cells of the crossbars used", *filled], ["index over weight bits", *index]],
        )
    )


def _breakdown(result: dict[str, Any], field: str, words: str, scale: float, form: str) -> str:
    """A cost of the unpruned network and of the chosen policy, by component."""
    parts = {
        "ISAAC 8": result["dense_isaac"]["8"],
        "dense 8": result["dense"]["8"],
        "chosen": result["best"],
    }
    costs = [cost[field] for cost in parts.values()]
    rows = [
        [name.replace("_", " "), *(format(scale * cost[name], form) for cost in costs)]
        for name in sorted(costs[-1], key=lambda name: -costs[-1][name])
        if any(cost[name] for cost in costs)
    ]
    rows.append(["sum", *(format(scale * sum(cost.values()), form) for cost in costs)])
    return _markdown([words, *parts], rows)


def _laws(result: dict[str, Any]) -> str:
    rows = [
        [law, *(f"{ratios[f'{name}_8']:.2f}x" for name in _LAW_RATIOS)]
        for law, ratios in result["adc_laws"].items()
    ]
    head = ["law of the converters", *(name.replace("_", " ") + " 8" for name in _LAW_RATIOS)]
    return (
        "What a converter costs by its resolution is disputed. The ratios under each law, with "
        f"everything\nelse the same:\n\n{_markdown(head, rows)}"
    )


def _mapping(result: dict[str, Any]) -> str:
    proof = result["mapping"]
    verdict = (
        "equals the quantized network **bit for bit**"
        if proof["bit_exact"]
        else "does **NOT** equal the quantized network"
    )
    return (
        f"`mapping.safetensors` holds every cell of {proof['crossbars']} crossbars, every unit's "
        f"place, input index and\noutput indices ({proof['index_bits']:,} bits). Executed unit by "
        f"unit on {proof['images']} images and random inputs with "
        f"lossless\nconverters it {verdict}: "
        f"{proof['mismatches']:,} of {proof['compared']:,} accumulators differ, scales "
        f"{'agree' if proof['scales_agree'] else 'DIFFER'}, counts and actions "
        f"{'agree' if proof['counts_agree'] else 'DIFFER'}. Run from image to class, it gives the "
        f"same class on {proof['same_class']} of {proof['images']}; {proof['levels_differ']:,} "
        "levels between its layers differ, where rounding is tied. Look into it with\n"
        "`python -m apq_jax.mapping inspect mapping.safetensors`."
    )


def _curve(result: dict[str, Any]) -> str:
    rows = [
        [
            str(point["bits"]),
            _percent(point["accuracy"], result["data"]["select"]),
            f"{point['energy_nj']:,.1f}",
            f"{point['area_mm2']:.4f}",
        ]
        for point in result["adc_curve"]
    ]
    return (
        "What fewer bits of the converters would do to this policy, executed on the selection half "
        f"({result['data']['select']:,}\nimages); the first row is lossless:\n\n"
        + _markdown(["ADC bits", "accuracy", "energy, nJ", "area, mm²"], rows)
    )


_LAW_RATIOS = (
    "energy_over_dense",
    "energy_over_isaac",
    "area_over_dense",
    "area_over_isaac",
)


def main(argv: list[str]) -> int:
    """Makes the reports of run folders again; returns the exit status."""
    parser = argparse.ArgumentParser(prog="apq_jax.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    try:
        for folder in parser.parse_args(argv).runs:
            make(folder)
            print(folder / "report.md")
    except InputError as error:
        print(f"apq_jax.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
