"""What the report of a run says: everything is read from the files in its folder."""

import hashlib
import pathlib
from typing import Any

import numpy as np

from apq_jax.mapping.schemes import SCHEMES
from apq_jax.metrics import BITS, COSTS, miss_words
from apq_jax.report import hardware, hardware_figures, search_figures, wording
from apq_jax.report.document import (
    Block,
    Code,
    Details,
    Document,
    Items,
    Note,
    Part,
    Picture,
    Section,
    Table,
    Text,
    code,
)
from apq_jax.report.wording import short_names
from apq_jax.run.read import Rows

_HASHED = (
    "result.json",
    "search.csv",
    "policy.json",
    "accelerator.toml",
    "weights.safetensors",
    "mapping.safetensors",
)


def told(folder: pathlib.Path, result: dict[str, Any], rows: Rows) -> Document:
    """The report.

    Args:
      folder: the run's.
      result: its result.json.
      rows: its search.csv.

    Raises:
      InputError: the folder's mapping is damaged.
    """
    return Document(
        f"{result['config']['model']['name']} on {result['data']['name']}, "
        f"compressed for {result['accelerator']}",
        (Text(_asked(result)),),
        (
            Section("The answer", _answer(result)),
            Section("Accuracy against cost", _front(result, rows)),
            *_finetune(result),
            Section("Layer by layer", _layers(result, rows)),
            Section("The search", _search(result, rows)),
            Section("Fewer bits of the converters", hardware.curve(result, rows)),
            Section("The mapping", hardware.mapped(folder, result)),
            Section("Where energy and area go", hardware.components(result, rows)),
            Section("What to know of these figures", _limits(result)),
            Section("To repeat it", _repeat(folder, result)),
        ),
    )


def _asked(result: dict[str, Any]) -> str:
    seeds = len(result["search"]["seeds"]["each"])
    budget = f"{result['config']['search']['episodes']:,} evaluations"
    budget += f" for each of {seeds} seeds" if seeds > 1 else ""
    return (
        f"Asked: {wording.asked(result)}, of {code(result['config']['model']['name'])} on "
        f"{code(result['data']['name'])} for the accelerator {code(result['accelerator'])}, by the "
        f"strategy {code(result['search']['strategy'])} in {budget}; lost is against the float "
        "network."
    )


def _answer(result: dict[str, Any]) -> tuple[Block, ...]:
    best, search = result["best"], result["search"]
    said = wording.verdict(result, "meets", "**does not meet**")
    said += "".join(f"; it {miss_words(miss)}" for miss in best["misses"])
    stopped = " It was interrupted." if result["interrupted"] else ""
    ratios = result["ratios"]
    head = ["", "dense 16", "dense 8", "chosen", "over dense 8", "over dense 16"]
    return (
        Text(
            f"The search evaluated {search['evaluations']:,} policies in "
            f"{search['seconds']:.0f} s.{stopped} {_scheme(result)}The policy it chose **needs "
            f"{ratios['slots']['dense_8']:.1f} times fewer operation-unit slots and "
            f"{ratios['energy']['dense_8']:.1f} times less energy than the unpruned network at 8 "
            f"bits**; it loses {wording.lost(result, 'validation'):.1f} points on the selection "
            f"half of validation and {said}."
        ),
        *_wrong(result),
        Table(
            "What it costs and how accurate it is",
            (Part(head, wording.costs(result, areas=True)), _accuracy(result)),
        ),
        Text(
            '"Over dense 8" is the cost of the unpruned network at 8-bit weights and inputs on the '
            'same accelerator, divided by the chosen policy\'s; "over dense 16" the same at 16 '
            "bits. Slots are the operation units that hold weights; crossbars are at least one a "
            "layer, too coarse for a small network."
        ),
        Text(_area_words(result)),
        Text(
            "± is one standard error, √(p (1 - p) / n): about half a point at 98 % of 1,000 "
            "images. The interval is that of the paired difference on the same images. The search "
            f"saw the search half, the choice among {search['finalists']} finalists the selection "
            "half; nothing saw test."
        ),
        Details("Against whole-crossbar reads, on ISAAC", _isaac(result)),
    )


def _wrong(result: dict[str, Any]) -> tuple[Block, ...]:
    if result["mapping"]["bit_exact"]:
        return ()
    return (Note("The mapping to crossbars does **NOT** compute this network: see there."),)


def _accuracy(result: dict[str, Any]) -> Part:
    floats, best, data = result["float"], result["best"], result["data"]
    body = []
    for words, split, count in (
        ("validation, search half", "search", data["search"]),
        ("validation, selection half", "validation", data["select"]),
        ("test, measured once", "test", data["test"]),
    ):
        before, after = floats[f"{split}_accuracy"], best[f"{split}_accuracy"]
        row = [words, f"{count:,}", wording.percent(before, count), wording.percent(after, count)]
        body.append([*row, f"{100 * (after - before):+.1f}", ""])
    change = best["test_difference"]
    body[-1][-2:] = [f"{change['mean']:+.2f}", f"{change['low']:+.2f} to {change['high']:+.2f}"]
    head = ["accuracy", "images", "float", "chosen", "difference, points", "95 % interval"]
    return Part(head, body)


def _scheme(result: dict[str, Any]) -> str:
    """What was pruned, of a baseline's scheme."""
    scheme = wording.scheme_of(result)
    if scheme == "column_vector":
        return ""
    return f"Pruned and packed by the scheme {code(scheme)}, in {SCHEMES[scheme].kept}. "


def _area_words(result: dict[str, Any]) -> str:
    best = result["best"]
    return (
        f"Area of IMAs and tiles in proportion to the crossbars: {best['area_pro_rata_mm2']:.4f} "
        f"mm²; of whole ones: {best['area_rounded_mm2']:.4f} mm² ({best['allocated']} crossbars "
        f"allocated, {best['crossbars']} occupied). One inference every {best['period_us']:,.1f} "
        f"µs, bound by {code(best['bottleneck'])}; {best['gops_per_mm2']:.3g} GOPS/mm² and "
        f"{best['gops_per_w']:,.0f} GOPS/W of the unpruned network's operations."
    )


def _isaac(result: dict[str, Any]) -> tuple[Block, ...]:
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
        Text(
            "Reading by operation units makes a network slower, the unpruned one, too. So here is "
            "the same against the unpruned network on `isaac`, which reads whole crossbars; below "
            "1x the chosen policy costs more:"
        ),
        Table("Against the unpruned network on isaac", (Part(head, rows),)),
    )


def _front(result: dict[str, Any], rows: Rows) -> tuple[Block, ...]:
    front, search = result["front"], result["search"]
    knee = next(point for point in result["pareto"] if point["evaluation"] == front["knee"])
    full, reference = result["float"]["search_accuracy"], front["reference"]
    points = 100 * (full - knee["expected_accuracy"])
    return (
        Picture(
            "pareto",
            "Accuracy against crossbars and slots: every evaluated policy, the front, the limit, "
            "the unpruned network and the chosen policy",
            search_figures.pareto(result, rows),
        ),
        Text(
            "Every policy that was evaluated, before any fine-tuning: measured accuracy faint, "
            "expected accuracy (by which the search is limited, docs/search.md) and its Pareto "
            "front in blue. Policies that lose much more are cut off."
        ),
        Text(
            f"{search['distinct']:,} of the {search['evaluations']:,} evaluated policies are "
            f"distinct. {len(result['pareto']):,} are on the front of the objective and expected "
            f"accuracy, {len(front['non_dominated']):,} on that of expected accuracy and each "
            "metric. The objective is ln of the saving over dense 8, by the weights of "
            "`config.objective`. Hypervolume of the first front, above no saving and "
            f"{reference['points_lost']:g} points lost: {front['hypervolume']:.2f}. Its knee is "
            f"evaluation {front['knee']}: {np.exp(knee['gain']):.2f}x, {points:.2f} points lost, "
            f"{knee['slots']:,} slots."
        ),
    )


def _finetune(result: dict[str, Any]) -> tuple[Section, ...]:
    """Which policies were fine-tuned, and what it gave; nothing where none was."""
    if not result["finetune"]:
        return ()
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
    told = Text(
        "Policies that were trained on under their masks and bits, from the float network's "
        "outputs and the labels, on the training images; the loss on the search half said when to "
        f"stop. The chosen policy {words}."
    )
    return (Section("Fine-tuning", (told, Table("Fine-tuned policies", (Part(head, rows),)))),)


def _layers(result: dict[str, Any], rows: Rows) -> tuple[Block, ...]:
    layers = result["layers"]
    names = short_names([layer["name"] for layer in layers])
    bits = [field for field in BITS if field in layers[0]]
    body = [
        [
            name,
            f"{layer['groups']} x {layer['rows']} x {layer['columns']}",
            f"{100 * layer['keep']:.1f} %",
            *(str(layer[field]) for field in bits),
            f"{layer['crossbars']} of {layer['dense_8']['crossbars']}",
            f"{layer['slots']:,} of {layer['dense_8']['slots']:,}",
            f"{layer['energy_nj']:,.1f} of {layer['dense_8']['energy_nj']:,.1f}",
        ]
        for name, layer in zip(names, layers, strict=True)
    ]
    head = ["layer", "γ x R x C", "keep", *(BITS[field] for field in bits)]
    head += ["crossbars", "slots", "energy, nJ"]
    return (
        Picture(
            "policy",
            "How much of each layer is kept, and in how many bits",
            hardware_figures.policy(result, rows),
        ),
        Picture(
            "crossbars",
            "Crossbars and slots of each layer, unpruned at 8 bits and chosen",
            hardware_figures.crossbars(result, rows),
        ),
        Picture(
            "layer_energy",
            "Energy of each layer by component, chosen",
            hardware_figures.layer_energy(result, rows),
        ),
        Details(
            "Every layer in figures",
            (
                Table("Layers of the chosen policy", (Part(head, body),)),
                Text('"Of" is the unpruned network at 8 bits.'),
            ),
        ),
    )


def _search(result: dict[str, Any], rows: Rows) -> tuple[Block, ...]:
    drawn = Picture("progress", "Reward over evaluations", search_figures.progress(result, rows))
    words = (
        f"Each point is an evaluation; triangles on the lower edge are below it. {_drops(result)}"
    )
    return (drawn, Text(words), *_spread(result))


def _drops(result: dict[str, Any]) -> str:
    """What the search was limited to, one after the other."""
    drops = result["search"]["drops"]
    if not drops:
        return "The line is the best so far."
    points = ", ".join(f"{drop:g}" for drop in drops)
    return (
        f"The search goes to {len(drops)} limits, one after the other, with as many evaluations "
        f"each: {points} points lost. A reward is of the limit of its time."
    )


def _spread(result: dict[str, Any]) -> tuple[Block, ...]:
    """What each of several seeds found, and how far they lie apart."""
    seeds, best = result["search"]["seeds"], result["best"]

    def shown(objective: float | None) -> str:
        return "none meets the limit" if objective is None else f"{objective:.3f}"

    if len(seeds["each"]) == 1:
        return ()
    rows = [
        [str(one["seed"]), f"{one['evaluations']:,}", shown(one["best"])] for one in seeds["each"]
    ]
    least, median, most = (shown(seeds[name]) for name in ("least", "median", "most"))
    words = (
        f"{len(rows)} searches of the same network, alike but for their seeds. The best "
        f"{seeds['of']} of each within the limits, if any (expected accuracy): median {median}, "
        f"least {least}, most {most}. The finalists are those of all seeds together; the chosen "
        f"policy is of seed {best['seed']}."
    )
    return Text(words), Table("Searches", (Part(["seed", "evaluations", "best"], rows),))


def _limits(result: dict[str, Any]) -> tuple[Block, ...]:
    cautions = (
        "The selection half chose the policy: a winner of many is partly luck, so what it loses "
        "there is flattered. Test was measured once.",
        "Ratios are over the unpruned network on the same accelerator. Operation units are slower "
        "than whole-crossbar reads: against those see what is said of ISAAC.",
        "What a slot, a crossbar and a converter cost is modelled, not measured; "
        "docs/cost_model.md says what is left out.",
    )
    return (*(Note(note) for note in result["notes"]), Items(cautions))


def _repeat(folder: pathlib.Path, result: dict[str, Any]) -> tuple[Block, ...]:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    tuned = sum(one["seconds"] for one in result["finetune"])
    return (
        Code(result["command"]),
        Text(
            f"Seed {result['seed']}; {versions}. The search took {result['search']['seconds']:.0f} "
            f"s, fine-tuning {tuned:.0f} s. The same seed on the same machine gives the same "
            "`result.json` but for times."
        ),
        Text("SHA-256 of the files that this was made from and beside, as `sha256sum -c` reads:"),
        Code(_hashes(folder)),
    )


def _hashes(folder: pathlib.Path) -> str:
    lines = []
    for path in (folder / name for name in _HASHED):
        if path.is_file():
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}")
    return "\n".join(lines)
