"""Makes the headline table: every scheme with the same search, compensation and fine-tuning.

Every seed of LeNet-5 trains a network; the seeds of VGG-8 and ResNet-20 search the network that the
package carries. A scheme is a run of the main job with its own work folder. The results of every
run are kept, so the benchmark may be stopped and resumed, also by several processes on different
networks. The tables are made from these files alone.

    python benchmarks/headline.py --networks lenet5 vgg8 [--seeds 3] [--schemes joint apq]
    python benchmarks/headline.py --networks resnet20 --cifar FOLDER
    python benchmarks/headline.py --write docs/results.md  # or docs/fidelity.md
"""

import argparse
import dataclasses
import io
import json
import pathlib
import runpy
import sys
import time
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from apq_jax import hardware, search
from apq_jax.config import Config, from_config_dict
from apq_jax.hardware import PRESETS
from apq_jax.run import checkpoint, job, write
from apq_jax.system.files import write_whole

RESULTS = pathlib.Path(__file__).parent / "results" / "headline"
PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "images" / "headline.png"
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {  # configuration, what differs from it
    "lenet5": ("lenet_mnist.py", {"search.episodes": 600}),
    # Fine-tuning takes most of the time: as much as lets every scheme be run on two cores.
    "vgg8": (
        "vgg8_fashion.py",
        {"search.episodes": 300, "search.tuned": 4, "finetune.steps": 1000},
    ),
    "resnet20": (
        "resnet20_cifar.py",
        {"search.episodes": 300, "search.tuned": 3, "finetune.steps": 500},
    ),
}
EIGHT = {f"search.{end}_{kind}_bits": 8 for end in ("min", "max") for kind in ("weight", "input")}
ONE = {"plan.levels": 1, "search.strategy": "uniform", "search.episodes": 8, "search.tuned": 0}
SCHEMES: dict[str, dict[str, Any]] = {  # what differs from the network's configuration
    "dense": {"scheme": "dense", **EIGHT, **ONE},
    "filter": {"scheme": "filter", **EIGHT},
    "channel": {"scheme": "channel", **EIGHT},
    "pim_prune_8": {"scheme": "pim_prune", **EIGHT},
    "pim_prune_q": {"scheme": "pim_prune"},
    "sre_8": {"scheme": "sre", **EIGHT},
    "sre_q": {"scheme": "sre"},
    "column_vector_8": EIGHT,
    "apq": {"search.strategy": "apq"},
    "joint": {},
}
CHOICES: dict[str, dict[str, Any]] = {  # ours, of `joint` each another way, for docs/fidelity.md
    "height 4": {"accelerator.unit_rows": 4},
    "height 18": {"accelerator.unit_rows": 18},
    "scores by weights alone": {"plan.score": "l2"},
    "not compensated": {"plan.compensate": False},
    "moments not matched": {"recovery.match_moments": False, "plan.centre": False},
    "not fine-tuned": {"search.tuned": 0},
}
COSTS = {  # in result.json: heading, format
    "slots": ("slots", ",.0f"),
    "crossbars": ("crossbars", ",.0f"),
    "area_pro_rata_mm2": ("area, mm²", ".4f"),
    "area_rounded_mm2": ("area in whole tiles, mm²", ".3f"),
    "energy_nj": ("energy, nJ", ",.0f"),
    "latency_us": ("latency, µs", ",.0f"),
}
SHOWN = {"slots": "#0072B2", "area_pro_rata_mm2": "#E69F00", "energy_nj": "#009E73"}  # colours
BASES = {  # of ratios: heading, and where its costs stand, by scheme or in a run's own file
    "dense, 8 bits": ("dense", "8"),
    "dense, 16 bits": ("dense", "16"),
    "dense, 8 bits, on `isaac`": ("dense_isaac", "8"),
    "dense, 16 bits, on `isaac`": ("dense_isaac", "16"),
    "`pim_prune_8`": ("pim_prune_8", "best"),
    "`pim_prune_q`": ("pim_prune_q", "best"),
}
BySeed = dict[int, dict[str, Any]]  # the results of a scheme's runs
Runs = dict[str, BySeed]  # by scheme
START, END = "<!-- measured by benchmarks/headline.py -->\n", "<!-- end -->\n"


def main() -> int:
    """Runs the missing schemes, or writes the tables."""
    # Imported here because a test reads this file without the folder that it is in.
    from harness import parse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["lenet5", "vgg8"])
    ways = [*SCHEMES, *CHOICES]
    parser.add_argument("--schemes", nargs="+", choices=ways, default=list(SCHEMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cifar", default="", help="CIFAR-10's folder, for resnet20")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/headline"))
    words = "forms a document's tables, and the picture of results.md"
    parser.add_argument("--write", type=pathlib.Path, metavar="FILE", help=words)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parse(parser, networks=["lenet5"], schemes=["joint"], seeds=1)
    if options.write:
        _write(options.write, PICTURE, options.results)
        return 0
    for seed in range(options.seeds):
        for network in options.networks:
            for scheme in options.schemes:
                if not (options.results / network / scheme / f"{seed}.json").exists():
                    _run(network, scheme, seed, options)
                    jax.clear_caches()  # because a process may hold only so many programs
    for name in ("results", "fidelity") if options.smoke else ():
        document = options.folder / f"{name}.md"
        document.write_text(START + END)
        _write(document, options.folder / PICTURE.name, options.results)
        print(document.read_text())
    return 0


def _write(document: pathlib.Path, drawing: pathlib.Path, results: pathlib.Path) -> None:
    """Writes a document's tables between its markers, and the picture of results.md."""
    head, rest = document.read_text(encoding="utf-8").split(START)
    text = choices(results) if document.stem == "fidelity" else tables(results)
    write_whole(document, head + START + text + END + rest.split(END)[1])
    if document.stem == "results":
        content = io.BytesIO()
        picture(results).savefig(content, metadata={"Software": None})
        write_whole(drawing, content.getvalue())


def build_config(network: str, scheme: str, seed: int, options: argparse.Namespace) -> Config:
    """Builds the configuration of a run; only LeNet-5 is trained anew for every seed."""
    name, budget = NETWORKS[network]
    path = pathlib.Path(__file__).parents[1] / "configs" / name
    tree = runpy.run_path(str(path))["get_config"]()
    tree.update_from_flattened_dict(budget)
    if network == "resnet20":
        tree.data.path = options.cifar
    changes = dict((SCHEMES | CHOICES)[scheme])
    height = changes.pop("accelerator.unit_rows", None)
    if height is not None:
        accelerator = dataclasses.replace(PRESETS[tree.accelerator], unit_rows=height)
        path = options.workdir / f"height_{height}.toml"
        write_whole(path, hardware.dumps(accelerator))
        tree.accelerator = str(path)
    tree.update_from_flattened_dict(changes | options.fields)
    if network == "lenet5":
        tree.seed = seed
    return dataclasses.replace(from_config_dict(tree), seed=seed)


def _run(network: str, scheme: str, seed: int, options: argparse.Namespace) -> None:
    """Runs or resumes the main job, and keeps the results that the tables need."""
    folder, start = options.workdir / network / scheme / str(seed), time.perf_counter()
    config = build_config(network, scheme, seed, options)
    begun = checkpoint.exists(folder / write.CHECKPOINT)
    command = f"benchmarks/headline.py: {folder}"
    status = job.run(config, folder, command, search.report, begun, overwrite=not begun)
    if status not in (0, 3):
        raise SystemExit(status)
    kept = _read_run(folder) | {"seconds": time.perf_counter() - start}  # of the last process
    write_whole(options.results / network / scheme / f"{seed}.json", json.dumps(kept) + "\n")
    print(f"{network}, {scheme}, seed {seed}: {kept['seconds']:.0f} s", file=sys.stderr, flush=True)


def _read_run(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the results that the tables need from a finished run folder."""
    result = json.loads((folder / "result.json").read_text())
    names = "float", "data", "best", "dense", "dense_isaac", "adc_laws", "finetune", "versions"
    kept = {name: result[name] for name in (*names, "goal", "limits", "mapping")}
    for name in ("dense", "dense_isaac"):
        kept[name] = {
            bits: {cost: costs[cost] for cost in COSTS} for bits, costs in result[name].items()
        }
    del kept["best"]["policy"]
    kept["search"] = {name: result["search"][name] for name in ("evaluations", "seconds")}
    return kept


def choices(results: pathlib.Path = RESULTS) -> str:
    """Returns the table of what each of our choices does to LeNet-5's `joint`, as Markdown."""
    runs = {name: _read(results / "lenet5" / name) for name in ("joint", *CHOICES)}
    columns = "slots", "crossbars", "area_pro_rata_mm2", "energy_nj"
    text = [_join("choice", "runs", "lost, selection", *(COSTS[name][0] for name in columns))]
    text.append("|---" + "|--:" * (2 + len(columns)) + "|")
    for scheme, by_seed in runs.items():
        if by_seed:
            ratios = dict(zip(COSTS, _compute_ratios(runs, by_seed, ("dense", "8")), strict=True))
            lost = _format_spread(_compute_lost(by_seed))
            cells = [lost, *(_format_spread(ratios[name]) for name in columns)]
            text.append(_join(scheme, len(by_seed), *cells))
    usual = list(runs["joint"].values())
    free = [
        [
            run["dense"]["8"][cost] / (run["best"][cost] - run["best"][parts]["index_memory"])
            for run in usual
        ]
        for cost, parts in (
            ("area_pro_rata_mm2", "area_by_component_mm2"),
            ("energy_nj", "energy_by_component_nj"),
        )
    ]
    text.append(_join("indices at no cost", len(usual), "", "", "", *map(_format_spread, free)))
    for law in usual[0]["adc_laws"] if usual else ():
        costs = [run["adc_laws"][law] for run in usual]
        area, energy = (
            _format_spread([ratios[f"{name}_over_dense_8"] for ratios in costs])
            for name in ("area", "energy")
        )
        text.append(_join(f"converters by the law `{law}`", len(usual), "", "", "", area, energy))
    return "\n".join(text) + "\n"


def _compute_lost(by_seed: BySeed) -> list[float]:
    """Returns the points lost on the selection images."""
    return [
        100 * (run["float"]["validation_accuracy"] - run["best"]["validation_accuracy"])
        for run in by_seed.values()
    ]


def tables(results: pathlib.Path = RESULTS) -> str:
    """Returns the tables of all networks as Markdown."""
    networks = _read_all(results).items()
    text = [line for network, runs in networks for line in _build_tables(network, runs)]
    return "\n".join(text) + "\n"


def picture(results: pathlib.Path = RESULTS) -> Figure:
    """Draws how many times less than dense each scheme needs: points for runs, lines for means."""
    every, base = _read_all(results), ("dense", "8")
    figure = Figure(figsize=(8.4, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(every), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (network, runs) in zip(axes, every.items(), strict=True):
        for row, scheme in enumerate(SCHEMES):
            if not (by_seed := runs.get(scheme)):
                continue
            ratios = dict(zip(COSTS, _compute_ratios(runs, by_seed, base), strict=True))
            for place, (cost, colour) in enumerate(SHOWN.items()):
                x, y = ratios[cost], row + 0.24 * (place - 1)
                axis.plot(x, [y] * len(x), "o", color=colour, alpha=0.6, markersize=3.5)
                axis.plot(np.mean(x), y, "|", color=colour, markersize=9, markeredgewidth=2)
        axis.set_yticks(range(len(SCHEMES)), SCHEMES)
        axis.set_xscale("log")
        axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axis.minorticks_off()
        axis.set_title(network, fontsize=10)
        axis.set_xlabel("times less than dense, 8 bits")
        axis.grid(axis="x", color="#E5E5E5", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    for cost, colour in SHOWN.items():
        axes[-1].plot([], [], "o", color=colour, markersize=4, label=COSTS[cost][0].split(",")[0])
    axes[-1].legend(frameon=False)
    return figure


def _read_all(results: pathlib.Path) -> dict[str, Runs]:
    """Reads the runs of each network that has any."""
    every = {
        network: {name: runs for name in SCHEMES if (runs := _read(results / network / name))}
        for network in NETWORKS
    }
    return {network: runs for network, runs in every.items() if runs}


def _read(folder: pathlib.Path) -> BySeed:
    return {int(path.stem): json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _build_tables(network: str, runs: Runs) -> list[str]:
    """Builds a network's tables: each scheme's costs and losses, and the ratios to each base."""
    some = next(iter(next(iter(runs.values())).values()))
    data = some["data"]
    seconds = sum(run["seconds"] for by_seed in runs.values() for run in by_seed.values())
    headings = [words for words, _ in COSTS.values()]
    text = [
        f"\n## `{network}` on {data['name']}\n",
        f"{NETWORKS[network][1]['search.episodes']} evaluations on {data['search']:,} images, "
        f"chosen on {data['select']:,}, test {data['test']:,}; {seconds / 3600:.1f} hours in all. "
        "Means over the runs; in brackets the least and the most, of the test's the ends of the "
        "paired intervals.\n",
        _join("scheme", "runs", "lost, selection", "lost, test (95 %)", *headings),
    ]
    text.append("|---" + "|--:" * (3 + len(COSTS)) + "|")
    for scheme, by_seed in runs.items():
        best = [run["best"] for run in by_seed.values()]
        test = [policy["test_difference"] for policy in best]
        interval = (
            f"{0.0 - np.mean([change['mean'] for change in test]):.2f} "
            f"({0.0 - max(change['high'] for change in test):.1f} to "
            f"{0.0 - min(change['low'] for change in test):.1f})"
        )
        costs = [
            format(float(np.mean([policy[name] for policy in best])), form)
            for name, (_, form) in COSTS.items()
        ]
        lost = _format_spread(_compute_lost(by_seed))
        text.append(_join(f"`{scheme}`", len(best), lost, interval, *costs))
    without_unit = [words.split(",")[0] for words in headings]
    for words, base in BASES.items():
        by_scheme = {name: _compute_ratios(runs, by_seed, base) for name, by_seed in runs.items()}
        if not any(any(ratios) for ratios in by_scheme.values()):
            continue  # the base is still to run
        text += [f"\nTimes less than {words}:\n", _join("scheme", *without_unit)]
        text.append("|---" + "|--:" * len(COSTS) + "|")
        for scheme, ratios in by_scheme.items():
            cells = (_format_spread(values, "#.3g") for values in ratios)
            text.append(_join(f"`{scheme}`", *cells))
    return text


def _join(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _compute_ratios(runs: Runs, by_seed: BySeed, base: tuple[str, ...]) -> list[list[float]]:
    """Returns the base's costs over the scheme's: for each cost, of the seeds that have both."""
    name, *where = base
    ratios: list[list[float]] = [[] for _ in COSTS]
    for seed, run in by_seed.items():
        # Dense costs stand in every run's own file.
        other = run[name] if name in run else runs.get(name, {}).get(seed)
        if other is None:
            continue
        for key in where:
            other = other[key]
        for values, cost in zip(ratios, COSTS, strict=True):
            # Whole-crossbar reads have no operation units to count.
            if not (name == "dense_isaac" and cost == "slots"):
                values.append(other[cost] / run["best"][cost])
    return ratios


def _format_spread(values: list[float], form: str = ".2f") -> str:
    if not values:
        return ""
    mean, low, high = (format(f(values), form) for f in (np.mean, min, max))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())
