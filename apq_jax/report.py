"""The report of a run, made from its result.json and search.csv alone.

    python -m apq_jax.report RUN [RUN ...]

Writes report.md and six pictures into each run's folder. With limits it writes nothing, but says
which of the policies that the run evaluated is the best within them:

    python -m apq_jax.report RUN --max-accuracy-drop=1.0   the cheapest that loses no more
    python -m apq_jax.report RUN --max-slots=300           the most accurate that needs no more

Also --max-crossbars, --max-area-mm2, --max-energy-nj, --max-latency-us; several hold together.

Exit status: 0 done; 2 input that cannot be used; 3 no policy is within the limits (the nearest is
said).
"""

import argparse
import io
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import rich.table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apq_jax import pictures
from apq_jax.asked import answer
from apq_jax.data import standard_error
from apq_jax.environment import METRICS
from apq_jax.files import InputError, write_whole
from apq_jax.pictures import Rows, short_names
from apq_jax.run_folder import (
    BITS,
    COSTS,
    LOSSES,
    goal_words,
    markdown,
    miss_words,
    read_run,
)
from apq_jax.schemes import SCHEMES

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
    result, rows = read_run(folder)
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


def _percent(accuracy: float, count: int) -> str:
    return f"{100 * accuracy:.1f} ± {100 * standard_error(accuracy, count):.1f} %"


def _answer(result: dict[str, Any]) -> list[list[str]]:
    """Rows of the answer's table: words, dense 16, dense 8, chosen, ratio 8, ratio 16."""
    table = []
    for field, ratio, words, form in COSTS:
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
        title=_verdict(result, "meets", "does NOT meet"),
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


def _text(result: dict[str, Any]) -> str:
    best, floats, data = result["best"], result["float"], result["data"]
    config, search, change = result["config"], result["search"], best["test_difference"]
    lost = 100 * (floats["validation_accuracy"] - best["validation_accuracy"])
    verdict = _verdict(result, "meets", "**does not meet**")
    verdict += "".join(f"; it {miss_words(miss)}" for miss in best["misses"])
    names = short_names([layer["name"] for layer in result["layers"]])
    bits = [field for field in BITS if field in result["layers"][0]]
    layers = [
        [
            name,
            f"{layer['groups']} x {layer['rows']} x {layer['columns']}",
            f"{100 * layer['keep']:.1f} %",
            *(str(layer[field]) for field in bits),
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
    head = ["layer", "γ x R x C", "keep", *(BITS[field] for field in bits)]
    head += ["crossbars", "slots", "energy, nJ"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return f"""# {config["model"]["name"]} on {data["name"]}, compressed for {result["accelerator"]}

Asked: {goal_words(result["goal"], result["limits"])}; lost is against the float network.
The `{search["strategy"]}` search evaluated {search["evaluations"]:,} policies in
{search["seconds"]:.0f} s.{stopped} {_scheme(result)}The policy it chose **needs
{result["ratios"]["slots"]["dense_8"]:.1f} times fewer operation-unit slots and
{result["ratios"]["energy"]["dense_8"]:.1f} times less energy than the unpruned network at 8 bits**;
it loses {lost:.1f} points on the selection half of validation and {verdict}.

{markdown(["", "dense 16", "dense 8", "chosen", "over dense 8", "over dense 16"], _answer(result))}

"Over dense 8" is the cost of the unpruned network at 8-bit weights and inputs on the same
accelerator, divided by the chosen policy's; "over dense 16" the same at 16 bits. Slots are the
operation units that hold weights; crossbars are at least one a layer, too coarse for a small
network. {_area_words(result)}

{_isaac(result)}

## Accuracy

{markdown(["", "float", "chosen", "difference, points"], accuracy)}

± is one standard error, √(p (1 - p) / n): about half a point at 98 % of 1,000 images. On test the
paired difference is {change["mean"]:+.2f} points, 95 % interval {change["low"]:+.2f} to
{change["high"]:+.2f}. The search saw the first row, the choice among {search["finalists"]}
finalists the second; nothing saw the third.

![Accuracy against crossbars and slots](pareto.png)

Every policy that was evaluated, before any fine-tuning: measured accuracy faint, expected accuracy
(by which the search is limited, docs/search.md) and its Pareto front in blue. Policies that lose
much more are cut off.

{_front(result)}

{_finetune(result)}## The policy

{markdown(head, layers)}

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

Each point is an evaluation; triangles on the lower edge are below it. {_drops(result)}
{_spread(result)}
## To repeat it

    {result["command"]}

Seed {result["seed"]}; {versions}. The same seed on the same machine gives the same `result.json`
but for times.
"""


def _scheme(result: dict[str, Any]) -> str:
    """What was pruned, of a baseline's scheme."""
    scheme = result["config"].get("scheme", "column_vector")  # older results have none
    if scheme == "column_vector":
        return ""
    return f"Pruned and packed by the scheme `{scheme}`, in {SCHEMES[scheme].kept}. "


def _verdict(result: dict[str, Any], meets: str, misses: str) -> str:
    if not result["limits"]:
        return "is the knee of the front"
    words = meets if result["best"]["meets_limit"] else misses
    return f"{words} the limit{'s' if len(result['limits']) > 1 else ''}"


def _finetune(result: dict[str, Any]) -> str:
    """Which policies were fine-tuned, and what it gave; nothing where none was."""
    if not result["finetune"]:
        return ""
    rows = [
        [
            str(one["evaluation"]),
            f"{one['slots_over_dense_8']:.2f}x",
            f"{100 * (result['float']['search_accuracy'] - one['expected_accuracy']):.1f}",
            f"{one['loss_before']:.4f}",
            f"{one['loss']:.4f}",
            f"{one['steps']:,}",
            f"{one['seconds']:.0f} s",
            f"{100 * (result['float']['validation_accuracy'] - one['validation_accuracy']):.1f}",
            "yes" if one["meets_limit"] else "no",
        ]
        for one in result["finetune"]
    ]
    head = ["evaluation", "slots over dense 8", "expected to lose, points", "loss before", "after"]
    head += ["steps", "took", "lost on the selection half", "meets the limit"]
    words = "is one of them" if result["best"]["fine_tuned"] else "is none of them"
    return (
        "## Fine-tuning\n\nPolicies that were trained on under their masks and bits, from the "
        "float network's outputs and the labels,\non the training images; the loss on the search "
        f"half said when to stop. The chosen policy {words}.\n\n{markdown(head, rows)}\n\n"
    )


def _front(result: dict[str, Any]) -> str:
    front, search = result["front"], result["search"]
    knee = next(point for point in result["pareto"] if point["evaluation"] == front["knee"])
    full, reference = result["float"]["search_accuracy"], front["reference"]
    lost = 100 * (full - knee["expected_accuracy"])
    return (
        f"{search['distinct']:,} of the {search['evaluations']:,} evaluated policies are distinct. "
        f"{len(result['pareto']):,} are on the front of the\nobjective and expected accuracy, "
        f"{len(front['non_dominated']):,} on that of expected accuracy and each metric. The "
        f"objective is\nln of the saving over dense 8, by the weights of `config.objective`. "
        f"Hypervolume of the first front, above no\nsaving and {reference['points_lost']:g} points "
        f"lost: {front['hypervolume']:.2f}. Its knee is evaluation {front['knee']}: "
        f"{np.exp(knee['gain']):.2f}x, {lost:.2f} points lost, {knee['slots']:,} slots."
    )


def _drops(result: dict[str, Any]) -> str:
    """What the search was limited to, one after the other."""
    drops = result["search"]["drops"]
    if not drops:
        return "The line is the best so far."
    points = ", ".join(f"{drop:g}" for drop in drops)
    return (
        f"The search goes to\n{len(drops)} limits, one after the other, with as many evaluations "
        f"each: {points} points lost. A\nreward is of the limit of its time."
    )


def _spread(result: dict[str, Any]) -> str:
    """What each of several seeds found, and how far they lie apart."""
    seeds, best = result["search"]["seeds"], result["best"]

    def shown(objective: float | None) -> str:
        return "none meets the limit" if objective is None else f"{objective:.3f}"

    if len(seeds["each"]) == 1:
        return ""
    rows = [
        [str(one["seed"]), f"{one['evaluations']:,}", shown(one["best"])] for one in seeds["each"]
    ]
    least, median, most = (shown(seeds[name]) for name in ("least", "median", "most"))
    return (
        f"\n{len(rows)} searches of the same network, alike but for their seeds. The best "
        f"{seeds['of']} of each\nwithin the limits, if any (expected accuracy): "
        f"median {median}, least {least}, most {most}. The finalists are those of\n"
        f"all seeds together; the chosen policy is of seed {best['seed']}."
        f"\n\n{markdown(['seed', 'evaluations', 'best'], rows)}\n"
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
        *(one for one in COSTS if one[1] not in (None, "slots")),
        ("period_us", "period", "between two inferences, µs", "{:,.1f}"),
    ):
        over = [f"{result['ratios'][ratio][f'isaac_{bits}']:.2f}x" for bits in (8, 16)]
        cells = [form.format(cost[field]) for cost in (dense["16"], dense["8"], result["best"])]
        rows.append([words, *cells, *over])
    head = ["", "ISAAC 16", "ISAAC 8", "chosen", "over ISAAC 8", "over ISAAC 16"]
    return (
        "Reading by operation units makes a network slower, the unpruned one, too. So here is the "
        "same\nagainst the unpruned network on `isaac`, which reads whole crossbars; below 1x the "
        f"chosen policy\ncosts more:\n\n{markdown(head, rows)}"
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
        + markdown(
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
    return markdown([words, *parts], rows)


def _laws(result: dict[str, Any]) -> str:
    rows = [
        [law, *(f"{ratios[f'{name}_8']:.2f}x" for name in _LAW_RATIOS)]
        for law, ratios in result["adc_laws"].items()
    ]
    head = ["law of the converters", *(name.replace("_", " ") + " 8" for name in _LAW_RATIOS)]
    return (
        "What a converter costs by its resolution is disputed. The ratios under each law, with "
        f"everything\nelse the same:\n\n{markdown(head, rows)}"
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
        f"unit on {proof['images']} images and random inputs\nit {verdict}: "
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
            _percent(point["accuracy"], point["images"]),
            f"{point['energy_nj']:,.1f}",
            f"{point['area_mm2']:.4f}",
        ]
        for point in result["adc_curve"]
    ]
    images, select = result["adc_curve"][0]["images"], result["data"]["select"]
    of_all = "" if images == select else f"the first {images:,} of "
    return (
        "What fewer bits of the converters would do to this policy, executed on "
        f"{of_all}the selection half's\n{select:,} images, alike in all layers; the first row is "
        "lossless:"
        "\n\n" + markdown(["ADC bits", "accuracy", "energy, nJ", "area, mm²"], rows)
    )


_LAW_RATIOS = (
    "energy_over_dense",
    "energy_over_isaac",
    "area_over_dense",
    "area_over_isaac",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _limits(options: argparse.Namespace) -> dict[str, float]:
    limits = {}
    for name in (LOSSES, *METRICS):
        value = getattr(options, f"max_{name}")
        if value is None:
            continue
        flag = f"--max-{name.replace('_', '-')}"
        drop = name == LOSSES
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (0 <= number <= 100 if drop else 0 < number < math.inf):
            words = "a number, 0 to 100" if drop else "a number above 0"
            raise InputError(f"{flag}: {value!r}; allowed: {words}")
        limits[name] = number
    return limits


def main(argv: list[str]) -> int:
    """Makes the reports of run folders again, or answers; returns the exit status."""
    parser = _Parser(
        prog="apq_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    for name in (LOSSES, *METRICS):
        parser.add_argument(f"--max-{name.replace('_', '-')}", metavar="NUMBER")
    status = 0
    try:
        options = parser.parse_args(argv)
        limits = _limits(options)
        for folder in options.runs:
            if limits:
                text, within = answer(folder, limits)
                print(text)
                status = status if within else 3
            else:
                make(folder)
                print(folder / "report.md")
    except InputError as error:
        print(f"apq_jax.report: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
