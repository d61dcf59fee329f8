"""Builds the report of one run from the files in the run's folder alone."""

import pathlib
from typing import Any

from apq_jax.mapping.schemes import SCHEMES
from apq_jax.metrics import AREAS, BITS, COSTS, INDEX_BITS, SEARCHED, describe_goal, describe_miss
from apq_jax.report import document as doc
from apq_jax.report import hardware, hardware_figures, wording
from apq_jax.report.document import quote
from apq_jax.report.search import build_finetuning, build_front, build_search
from apq_jax.run.read import Rows
from apq_jax.system.files import hash_file

_HASHED = (
    *("result.json", "search.csv", "policy.json"),
    *("accelerator.toml", "weights.safetensors", "mapping.safetensors"),
)


def build_report(folder: pathlib.Path, result: dict[str, Any], rows: Rows) -> doc.Document:
    """Builds the report of one run; reads the mapping and the files to hash from its folder.

    Args:
      folder: of the run; a mapping that is missing is not drawn.
      result: the content of its result.json.
      rows: the columns of its search.csv.

    Raises:
      InputError: the folder's mapping is damaged.
      LookupError, TypeError, ValueError, ...: a field is missing or not what it should be.
    """
    return doc.Document(
        f"{result['network']['name']} on {result['data']['name']}, "
        f"compressed for {result['accelerator']}",
        (doc.Text(_describe_task(result)),),
        (
            doc.Section("The answer", _build_answer(result)),
            doc.Section("Accuracy against cost", build_front(result, rows)),
            *build_finetuning(result),
            doc.Section("Layer by layer", _build_layers(result)),
            doc.Section("What is not mapped", _build_digital(result)),
            doc.Section("The search", build_search(result, rows)),
            doc.Section("Fewer bits of the converters", hardware.build_adc_curve(result)),
            doc.Section("The mapping", hardware.build_mapping(folder, result)),
            doc.Section("Where energy and area go", hardware.build_components(result)),
            doc.Section("What to know of these figures", _build_cautions(result)),
            doc.Section("To repeat it", _build_instructions(folder, result)),
        ),
    )


def _describe_task(result: dict[str, Any]) -> str:
    """Says what was asked of the search, and how it was searched."""
    seeds = len(result["search"]["seeds"]["each"])
    budget = f"{result['config']['search']['episodes']:,} evaluations"
    budget += f" for each of {seeds} seeds" if seeds > 1 else ""
    return (
        f"Asked: {describe_goal(result['goal'], result['limits'])}, of "
        f"{quote(result['network']['name'])} on {quote(result['data']['name'])} for the "
        f"accelerator {quote(result['accelerator'])}, by the strategy "
        f"{quote(result['search']['strategy'])} in {budget}; lost is against the float network."
    )


def _build_answer(result: dict[str, Any]) -> tuple[doc.Block, ...]:
    """Builds the section on the chosen policy: its costs, its accuracy and whether it is exact."""
    best, search, ratios = result["best"], result["search"], result["ratios"]
    images, dense = result["data"]["select"], result["dense"]["8"]["validation_accuracy"]
    verdict = wording.describe_verdict(result, "meets", "**does not meet**")
    verdict += "".join(f"; it {describe_miss(miss)}" for miss in best["misses"])
    interrupted = " It was interrupted." if result["interrupted"] else ""
    scheme, pruned = wording.read_scheme(result), ""
    if scheme != "column_vector":  # the usual one
        names = f"{quote(scheme)}, in {SCHEMES[scheme].block_name}"
        pruned = f"Pruned and packed by the scheme {names}. "
    warning = doc.Note("The mapping to crossbars does **NOT** compute this network: see there.")
    warnings = () if result["mapping"]["bit_exact"] else (warning,)
    costs = ("dense", "chosen"), result["dense"], best
    slots, crossbars, _, energy, latency = SEARCHED
    # Both areas, not only the one that the accelerator is set to.
    shown = (slots, crossbars, *AREAS, energy, latency, INDEX_BITS)
    return (
        doc.Text(
            f"The search evaluated {search['evaluations']:,} policies in "
            f"{search['seconds']:.0f} s.{interrupted} {pruned}The policy it "
            f"chose **needs {ratios['slots']['dense_8']:.1f} times fewer operation-unit slots and "
            f"{ratios['energy']['dense_8']:.1f} times less energy than the unpruned network at 8 "
            f"bits**; it loses {wording.count_points_lost(result, 'validation'):.1f} points on the "
            f"selection half of validation and {verdict}."
        ),
        *warnings,
        doc.Table(
            "What it costs and how accurate it is",
            (wording.build_costs(*costs, shown), _build_accuracies(result)),
        ),
        doc.Text(
            '"Over dense 8" is the cost of the unpruned network at 8-bit weights and inputs on the '
            'same accelerator, divided by the chosen policy\'s; "over dense 16" the same at 16 '
            "bits. Slots are the operation units that hold weights; crossbars are at least one a "
            "layer, too coarse for a small network. The unpruned network at 8 bits gets "
            f"{wording.format_accuracy(dense, images)} of the selection half right."
        ),
        doc.Text(_describe_area(result)),
        doc.Text(
            "± is one standard error, √(p (1 - p) / n): about half a point at 98 % of 1,000 "
            "images. The interval is that of the paired difference on the same images. The search "
            f"saw the search half, the choice among {search['finalists']} finalists the selection "
            "half; nothing saw test."
        ),
        doc.Details("Against whole-crossbar reads, on ISAAC", _build_isaac(result)),
    )


def _build_accuracies(result: dict[str, Any]) -> doc.Part:
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
    return doc.Part(head, body)


def _describe_area(result: dict[str, Any]) -> str:
    """Says what the areas count, how often an inference ends, and the throughput."""
    best = result["best"]
    shown = (*AREAS, COSTS["period_us"])
    pro_rata, rounded, period = (format(best[metric.field], metric.format) for metric in shown)
    return (
        f"Area of IMAs and tiles in proportion to the crossbars: {pro_rata} mm²; of whole ones: "
        f"{rounded} mm² ({best['allocated']} crossbars allocated, {best['crossbars']} occupied). "
        f"One inference every {period} µs, bound by {quote(best['bottleneck'])}; "
        f"{best['gops_per_mm2']:.3g} GOPS/mm² and {best['gops_per_w']:,.0f} GOPS/W of the unpruned "
        "network's operations."
    )


def _build_isaac(result: dict[str, Any]) -> tuple[doc.Block, ...]:
    """Builds the comparison with the unpruned network on ISAAC, which reads whole crossbars.

    Slots are left out, because ISAAC's operation unit is a whole crossbar.
    """
    shown = (*(metric for metric in SEARCHED if metric.field != "slots"), COSTS["period_us"])
    costs = wording.build_costs(("ISAAC", "chosen"), result["dense_isaac"], result["best"], shown)
    return (
        doc.Text(
            "Reading by operation units makes a network slower, the unpruned one, too. So here is "
            "the same against the unpruned network on `isaac`, which reads whole crossbars; below "
            "1x the chosen policy costs more:"
        ),
        doc.Table("Against the unpruned network on isaac", (costs,)),
    )


def _build_layers(result: dict[str, Any]) -> tuple[doc.Block, ...]:
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
        doc.Picture(
            "policy",
            "How much of each layer is kept, and in how many bits",
            hardware_figures.draw_policy(result),
        ),
        doc.Picture(
            "crossbars",
            "Crossbars and slots of each layer, unpruned at 8 bits and chosen",
            hardware_figures.draw_crossbars(result),
        ),
        doc.Picture(
            "layer_energy",
            "Energy of each layer by component, chosen",
            hardware_figures.draw_layer_energy(result),
        ),
        doc.Details(
            "Every layer in figures",
            (
                doc.Table("Layers of the chosen policy", (doc.Part(head, body),)),
                doc.Text('"Of" is the unpruned network at 8 bits.'),
            ),
        ),
    )


def _build_digital(result: dict[str, Any]) -> tuple[doc.Block, ...]:
    """Builds the section on products that stay digital, and on parameters that are in none."""
    network, products, in_none = result["network"], dict[str, list[int]](), list[str]()
    for operation in network["not_mapped"]:
        name, count = operation["name"], operation["multiplications"]
        if operation["reason"]:
            products.setdefault(f"{name}: {operation['reason']}", []).append(count)
        else:
            in_none.append(quote(name))
    mapped, digital = network["multiplications"], sum(map(sum, products.values()))
    share = f"{100 * mapped / (mapped + digital):.1f} %"
    blocks: list[doc.Block] = [
        doc.Text(
            f"Crossbars do {mapped:,} of the {mapped + digital:,} multiplications ({share}) of an "
            "image in matrix products and convolutions. All else is computed in digital, and no "
            "cost here counts it."
        )
    ]
    if products:
        body = [[words, str(len(counts)), f"{sum(counts):,}"] for words, counts in products.items()]
        head = ["operation, and why", "times", "multiplications"]
        blocks.append(doc.Table("Products that stay digital", (doc.Part(head, body),)))
    if in_none:
        names = doc.Text(f"In no product: {', '.join(in_none)}.")
        blocks.append(doc.Details("Parameters that stay digital", (names,)))
    return tuple(blocks)


def _build_cautions(result: dict[str, Any]) -> tuple[doc.Block, ...]:
    """Builds the section on what the figures do not say, with the accelerator's notes."""
    cautions = (
        "The selection half chose the policy: a winner of many is partly luck, so what it loses "
        "there is flattered. Test was measured once.",
        "Ratios are over the unpruned network on the same accelerator. Operation units are slower "
        "than whole-crossbar reads: against those see what is said of ISAAC.",
        "What a slot, a crossbar and a converter cost is modelled, not measured; "
        "docs/cost_model.md says what is left out.",
    )
    return (*(doc.Note(note) for note in result["notes"]), doc.Items(cautions))


def _build_instructions(folder: pathlib.Path, result: dict[str, Any]) -> tuple[doc.Block, ...]:
    """Builds the section on how to repeat the run and check its files."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    tuning = sum(tuned["seconds"] for tuned in result["finetune"])
    return (
        doc.Code(result["command"]),
        doc.Text(
            f"Seed {result['seed']}; {versions}. The search took {result['search']['seconds']:.0f} "
            f"s, fine-tuning {tuning:.0f} s. The same seed on the same machine gives the same "
            "`result.json` but for times."
        ),
        doc.Text(
            "SHA-256 of the files that this was made from and beside, as `sha256sum -c` reads:"
        ),
        doc.Code(_hash_files(folder)),
    )


def _hash_files(folder: pathlib.Path) -> str:
    """Hashes those of the run's files that exist, a line each, as `sha256sum` writes it."""
    paths = [folder / name for name in _HASHED if (folder / name).is_file()]
    return "\n".join(f"{hash_file(path)}  {path.name}" for path in paths)
