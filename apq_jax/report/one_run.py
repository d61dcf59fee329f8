"""The report of one run: everything that it says comes from the files in the run's folder."""

import hashlib
import pathlib
from typing import Any

from apq_jax.mapping.schemes import SCHEMES
from apq_jax.metrics import (
    AREAS,
    BITS,
    COSTS,
    INDEX_BITS,
    PERIOD,
    SEARCHED,
    describe_goal,
    describe_miss,
)
from apq_jax.report import hardware, hardware_figures, wording
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
    quote,
)
from apq_jax.report.search import build_finetuning, build_front, build_search
from apq_jax.run.read import Rows

_HASHED = (
    "result.json",
    "search.csv",
    "policy.json",
    "accelerator.toml",
    "weights.safetensors",
    "mapping.safetensors",
)


def build_report(folder: pathlib.Path, result: dict[str, Any], rows: Rows) -> Document:
    """Builds the report of one run.

    Args:
      folder: of the run.
      result: its result.json.
      rows: columns of its search.csv.

    Raises:
      InputError: the folder's mapping is damaged.
    """
    return Document(
        f"{result['config']['model']['name']} on {result['data']['name']}, "
        f"compressed for {result['accelerator']}",
        (Text(_describe_task(result)),),
        (
            Section("The answer", _build_answer(result)),
            Section("Accuracy against cost", build_front(result, rows)),
            *build_finetuning(result),
            Section("Layer by layer", _build_layers(result)),
            Section("The search", build_search(result, rows)),
            Section("Fewer bits of the converters", hardware.build_adc_curve(result)),
            Section("The mapping", hardware.build_mapping(folder, result)),
            Section("Where energy and area go", hardware.build_components(result)),
            Section("What to know of these figures", _build_cautions(result)),
            Section("To repeat it", _build_instructions(folder, result)),
        ),
    )


def _describe_task(result: dict[str, Any]) -> str:
    """Says what was asked of the search, and how it was searched."""
    seeds = len(result["search"]["seeds"]["each"])
    budget = f"{result['config']['search']['episodes']:,} evaluations"
    budget += f" for each of {seeds} seeds" if seeds > 1 else ""
    return (
        f"Asked: {describe_goal(result['goal'], result['limits'])}, of "
        f"{quote(result['config']['model']['name'])} on {quote(result['data']['name'])} for the "
        f"accelerator {quote(result['accelerator'])}, by the strategy "
        f"{quote(result['search']['strategy'])} in {budget}; lost is against the float network."
    )


def _build_answer(result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the section on the chosen policy: its costs, its accuracy and whether it is exact."""
    best, search, ratios = result["best"], result["search"], result["ratios"]
    verdict = wording.describe_verdict(result, "meets", "**does not meet**")
    verdict += "".join(f"; it {describe_miss(miss)}" for miss in best["misses"])
    interrupted = " It was interrupted." if result["interrupted"] else ""
    return (
        Text(
            f"The search evaluated {search['evaluations']:,} policies in "
            f"{search['seconds']:.0f} s.{interrupted} {_describe_scheme(result)}The policy it "
            f"chose **needs {ratios['slots']['dense_8']:.1f} times fewer operation-unit slots and "
            f"{ratios['energy']['dense_8']:.1f} times less energy than the unpruned network at 8 "
            f"bits**; it loses {wording.count_points_lost(result, 'validation'):.1f} points on the "
            f"selection half of validation and {verdict}."
        ),
        *_warn_of_mapping(result),
        Table(
            "What it costs and how accurate it is",
            (_build_costs(result), _build_accuracies(result)),
        ),
        Text(
            '"Over dense 8" is the cost of the unpruned network at 8-bit weights and inputs on the '
            'same accelerator, divided by the chosen policy\'s; "over dense 16" the same at 16 '
            "bits. Slots are the operation units that hold weights; crossbars are at least one a "
            "layer, too coarse for a small network."
        ),
        Text(_describe_area(result)),
        Text(
            "± is one standard error, √(p (1 - p) / n): about half a point at 98 % of 1,000 "
            "images. The interval is that of the paired difference on the same images. The search "
            f"saw the search half, the choice among {search['finalists']} finalists the selection "
            "half; nothing saw test."
        ),
        Details("Against whole-crossbar reads, on ISAAC", _build_isaac(result)),
    )


def _warn_of_mapping(result: dict[str, Any]) -> tuple[Block, ...]:
    """Warns of a mapping that does not compute the network."""
    if result["mapping"]["bit_exact"]:
        return ()
    return (Note("The mapping to crossbars does **NOT** compute this network: see there."),)


def _build_costs(result: dict[str, Any]) -> Part:
    """Builds the chosen policy's costs beside the unpruned network's; both areas for the one."""
    slots, crossbars, _, energy, latency = SEARCHED
    head = ["", "dense 16", "dense 8", "chosen", "over dense 8", "over dense 16"]
    body = [
        [metric.words, *wording.format_costs(result["dense"], result["best"], metric)]
        for metric in (slots, crossbars, *AREAS, energy, latency, INDEX_BITS)
    ]
    return Part(head, body)


def _build_accuracies(result: dict[str, Any]) -> Part:
    """Builds the accuracies of the float network and the chosen policy on each split."""
    floats, best, data = result["float"], result["best"], result["data"]
    body = []
    for words, split, images in (
        ("validation, search half", "search", data["search"]),
        ("validation, selection half", "validation", data["select"]),
        ("test, measured once", "test", data["test"]),
    ):
        before, after = floats[f"{split}_accuracy"], best[f"{split}_accuracy"]
        accuracies = [wording.format_accuracy(accuracy, images) for accuracy in (before, after)]
        body.append([words, f"{images:,}", *accuracies, f"{100 * (after - before):+.1f}", ""])
    change = best["test_difference"]
    body[-1][-2:] = [f"{change['mean']:+.2f}", f"{change['low']:+.2f} to {change['high']:+.2f}"]
    head = ["accuracy", "images", "float", "chosen", "difference, points", "95 % interval"]
    return Part(head, body)


def _describe_scheme(result: dict[str, Any]) -> str:
    """Says what was pruned, if the scheme is not the usual one."""
    scheme = wording.read_scheme(result)
    if scheme == "column_vector":
        return ""
    return f"Pruned and packed by the scheme {quote(scheme)}, in {SCHEMES[scheme].block_name}. "


def _describe_area(result: dict[str, Any]) -> str:
    """Says what the areas count, how often an inference ends, and the throughput."""
    best = result["best"]
    pro_rata, rounded, period = (
        format(best[metric.field], metric.format) for metric in (*AREAS, PERIOD)
    )
    return (
        f"Area of IMAs and tiles in proportion to the crossbars: {pro_rata} mm²; of whole ones: "
        f"{rounded} mm² ({best['allocated']} crossbars allocated, {best['crossbars']} occupied). "
        f"One inference every {period} µs, bound by {quote(best['bottleneck'])}; "
        f"{best['gops_per_mm2']:.3g} GOPS/mm² and {best['gops_per_w']:,.0f} GOPS/W of the unpruned "
        "network's operations."
    )


def _build_isaac(result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the comparison with the unpruned network on ISAAC, which reads whole crossbars.

    Slots are left out, because ISAAC's operation unit is a whole crossbar.
    """
    rows = [
        [metric.words, *wording.format_costs(result["dense_isaac"], result["best"], metric)]
        for metric in (*SEARCHED, PERIOD)
        if metric.field != "slots"
    ]
    head = ["", "ISAAC 16", "ISAAC 8", "chosen", "over ISAAC 8", "over ISAAC 16"]
    return (
        Text(
            "Reading by operation units makes a network slower, the unpruned one, too. So here is "
            "the same against the unpruned network on `isaac`, which reads whole crossbars; below "
            "1x the chosen policy costs more:"
        ),
        Table("Against the unpruned network on isaac", (Part(head, rows),)),
    )


def _build_layers(result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the section on what the chosen policy does to each layer."""
    layers = result["layers"]
    bits = [field for field in BITS if field in layers[0]]
    metrics = (COSTS["crossbars"], COSTS["slots"], COSTS["energy_nj"])
    body = [
        [
            name,
            f"{layer['groups']} x {layer['rows']} x {layer['columns']}",
            f"{100 * layer['keep']:.1f} %",
            *(str(layer[field]) for field in bits),
            *(
                f"{format(layer[metric.field], metric.format)} of "
                f"{format(layer['dense_8'][metric.field], metric.format)}"
                for metric in metrics
            ),
        ]
        for name, layer in zip(wording.read_layer_names(result), layers, strict=True)
    ]
    head = ["layer", "γ x R x C", "keep", *(BITS[field] for field in bits)]
    head += [metric.short_words for metric in metrics]
    return (
        Picture(
            "policy",
            "How much of each layer is kept, and in how many bits",
            hardware_figures.draw_policy(result),
        ),
        Picture(
            "crossbars",
            "Crossbars and slots of each layer, unpruned at 8 bits and chosen",
            hardware_figures.draw_crossbars(result),
        ),
        Picture(
            "layer_energy",
            "Energy of each layer by component, chosen",
            hardware_figures.draw_layer_energy(result),
        ),
        Details(
            "Every layer in figures",
            (
                Table("Layers of the chosen policy", (Part(head, body),)),
                Text('"Of" is the unpruned network at 8 bits.'),
            ),
        ),
    )


def _build_cautions(result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the section on what the figures do not say, with the accelerator's notes."""
    cautions = (
        "The selection half chose the policy: a winner of many is partly luck, so what it loses "
        "there is flattered. Test was measured once.",
        "Ratios are over the unpruned network on the same accelerator. Operation units are slower "
        "than whole-crossbar reads: against those see what is said of ISAAC.",
        "What a slot, a crossbar and a converter cost is modelled, not measured; "
        "docs/cost_model.md says what is left out.",
    )
    return (*(Note(note) for note in result["notes"]), Items(cautions))


def _build_instructions(folder: pathlib.Path, result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the section on how to repeat the run and check its files."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    tuning = sum(tuned["seconds"] for tuned in result["finetune"])
    return (
        Code(result["command"]),
        Text(
            f"Seed {result['seed']}; {versions}. The search took {result['search']['seconds']:.0f} "
            f"s, fine-tuning {tuning:.0f} s. The same seed on the same machine gives the same "
            "`result.json` but for times."
        ),
        Text("SHA-256 of the files that this was made from and beside, as `sha256sum -c` reads:"),
        Code(_hash_files(folder)),
    )


def _hash_files(folder: pathlib.Path) -> str:
    """Hashes the run's files that are there, a line each, as `sha256sum` writes it."""
    lines = []
    for path in (folder / name for name in _HASHED):
        if path.is_file():
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}")
    return "\n".join(lines)
