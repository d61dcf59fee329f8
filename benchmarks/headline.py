"""The headline table: every scheme with the same search, compensation and fine-tuning.

LeNet-5: a network a seed. VGG-8 and ResNet-20: the network that the package carries, a search a
seed. A scheme is a run of the main job with its own work folder; what a run found is kept, so that
the benchmark may be stopped and gone on with, also by several processes on different networks.
Tables are formed from those files alone.

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
START, END = "<!-- measured by benchmarks/headline.py -->\n", "<!-- end -->\n"


def main() -> int:
    """Runs what is missing, or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["lenet5", "vgg8"])
    ways = [*SCHEMES, *CHOICES]
    parser.add_argument("--schemes", nargs="+", choices=ways, default=list(SCHEMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cifar", default="", help="CIFAR-10's folder, for resnet20")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/headline"))
    words = "forms a document's tables, and the picture of results.md"
    parser.add_argument("--write", type=pathlib.Path, metavar="FILE", help=words)
    options = parser.parse_args()
    if options.write:
        text = options.write.read_text(encoding="utf-8")
        head, rest = text.split(START)
        found = choices() if options.write.stem == "fidelity" else tables()
        write_whole(options.write, head + START + found + END + rest.split(END)[1])
        if options.write.stem == "results":
            drawn = io.BytesIO()
            picture().savefig(drawn, metadata={"Software": None})
            write_whole(PICTURE, drawn.getvalue())
        return 0
    for seed in range(options.seeds):
        for network in options.networks:
            for scheme in options.schemes:
                if not _path(network, scheme, seed).exists():
                    _run(network, scheme, seed, options.workdir, options.cifar)
                    jax.clear_caches()  # of programs a process may hold only so many
    return 0


def _path(network: str, scheme: str, seed: int) -> pathlib.Path:
    return RESULTS / network / scheme / f"{seed}.json"


def config_of(network: str, scheme: str, seed: int, cifar: str, workdir: pathlib.Path) -> Config:
    """The configuration of a run; VGG-8 and ResNet-20 are searched anew, not trained anew."""
    name, budget = NETWORKS[network]
    path = pathlib.Path(__file__).parents[1] / "configs" / name
    tree = runpy.run_path(str(path))["get_config"]()
    tree.update_from_flattened_dict(budget)
    if network == "resnet20":
        tree.data.path = cifar
    changes = dict((SCHEMES | CHOICES)[scheme])
    height = changes.pop("accelerator.unit_rows", None)
    if height is not None:
        accelerator = dataclasses.replace(PRESETS[tree.accelerator], unit_rows=height)
        path = workdir / f"height_{height}.toml"
        write_whole(path, hardware.dumps(accelerator))
        tree.accelerator = str(path)
    tree.update_from_flattened_dict(changes)
    if network == "lenet5":
        tree.seed = seed
    return dataclasses.replace(from_config_dict(tree), seed=seed)


def _run(network: str, scheme: str, seed: int, workdir: pathlib.Path, cifar: str) -> None:
    """Runs the main job, or goes on with it, and keeps what the tables need."""
    folder, start = workdir / network / scheme / str(seed), time.perf_counter()
    config = config_of(network, scheme, seed, cifar, workdir)
    begun = checkpoint.exists(folder / write.CHECKPOINT)
    status = job.run(config, folder, f"benchmarks/headline.py: {folder}", search.report, begun)
    if status not in (0, 3):
        raise SystemExit(status)
    kept = kept_of(folder) | {"seconds": time.perf_counter() - start}  # of the last process
    write_whole(_path(network, scheme, seed), json.dumps(kept) + "\n")
    print(f"{network}, {scheme}, seed {seed}: {kept['seconds']:.0f} s", file=sys.stderr, flush=True)


def kept_of(folder: pathlib.Path) -> dict[str, Any]:
    """What the tables need of a finished run folder."""
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


def choices() -> str:
    """Markdown: what each of our choices does to LeNet-5's `joint`, from the files."""
    runs = {name: _read("lenet5", name) for name in ("joint", *CHOICES)}
    columns = "slots", "crossbars", "area_pro_rata_mm2", "energy_nj"
    text = [_join("choice", "runs", "lost, selection", *(COSTS[name][0] for name in columns))]
    text.append("|---" + "|--:" * (2 + len(columns)) + "|")
    for scheme, found in runs.items():
        if found:
            of = dict(zip(COSTS, _ratios(runs, found, ("dense", "8")), strict=True))
            cells = [_spread(_lost(found)), *(_spread(of[name]) for name in columns)]
            text.append(_join(scheme, len(found), *cells))
    usual = list(runs["joint"].values())
    free = [
        [
            one["dense"]["8"][cost] / (one["best"][cost] - one["best"][parts]["index_memory"])
            for one in usual
        ]
        for cost, parts in (
            ("area_pro_rata_mm2", "area_by_component_mm2"),
            ("energy_nj", "energy_by_component_nj"),
        )
    ]
    text.append(_join("indices at no cost", len(usual), "", "", "", *map(_spread, free)))
    for law in usual[0]["adc_laws"] if usual else ():
        laws = [one["adc_laws"][law] for one in usual]
        area, energy = (
            _spread([one[f"{name}_over_dense_8"] for one in laws]) for name in ("area", "energy")
        )
        text.append(_join(f"converters by the law `{law}`", len(usual), "", "", "", area, energy))
    return "\n".join(text) + "\n"


def _lost(found: dict[int, dict[str, Any]]) -> list[float]:
    """Points on the selection images."""
    return [
        100 * (one["float"]["validation_accuracy"] - one["best"]["validation_accuracy"])
        for one in found.values()
    ]


def tables() -> str:
    """Markdown, from the files."""
    text = [line for network, runs in _every().items() for line in _tables(network, runs)]
    return "\n".join(text) + "\n"


def picture() -> Figure:
    """How many times less than dense each scheme needs: a point a run, a line through the mean."""
    every, base = _every(), ("dense", "8")
    figure = Figure(figsize=(8.4, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(every), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (network, runs) in zip(axes, every.items(), strict=True):
        for row, scheme in enumerate(SCHEMES):
            if not (found := runs.get(scheme)):
                continue
            of = dict(zip(COSTS, _ratios(runs, found, base), strict=True))
            for at, (cost, colour) in enumerate(SHOWN.items()):
                y = row + 0.24 * (at - 1)
                axis.plot(of[cost], [y] * len(found), "o", color=colour, alpha=0.6, markersize=3.5)
                axis.plot(np.mean(of[cost]), y, "|", color=colour, markersize=9, markeredgewidth=2)
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


Runs = dict[str, dict[int, dict[str, Any]]]  # by scheme and seed


def _every() -> dict[str, Runs]:
    """What there is of each network."""
    every = {
        network: {name: found for name in SCHEMES if (found := _read(network, name))}
        for network in NETWORKS
    }
    return {network: runs for network, runs in every.items() if runs}


def _read(network: str, scheme: str) -> dict[int, dict[str, Any]]:
    """By seed."""
    folder = RESULTS / network / scheme
    return {int(path.stem): json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _tables(network: str, runs: Runs) -> list[str]:
    """Of a network: what each scheme costs and loses, and ratios over each base."""
    some = next(iter(next(iter(runs.values())).values()))
    data, hours = some["data"], sum(x["seconds"] for row in runs.values() for x in row.values())
    text = [
        f"\n## `{network}` on {data['name']}\n",
        f"{NETWORKS[network][1]['search.episodes']} evaluations on {data['search']:,} images, "
        f"chosen on {data['select']:,}, test {data['test']:,}; {hours / 3600:.1f} hours in all. "
        "Means over the runs; in brackets the least and the most, of the test's the ends of the "
        "paired intervals.\n",
        _join("scheme", "runs", "lost, selection", "lost, test (95 %)", *_headings()),
    ]
    text.append("|---" + "|--:" * (3 + len(COSTS)) + "|")
    for scheme, found in runs.items():
        every = list(found.values())
        test = [one["best"]["test_difference"] for one in every]
        interval = (
            f"{0.0 - np.mean([one['mean'] for one in test]):.2f} "
            f"({0.0 - max(one['high'] for one in test):.1f} to "
            f"{0.0 - min(one['low'] for one in test):.1f})"
        )
        costs = [
            format(float(np.mean([one["best"][name] for one in every])), form)
            for name, (_, form) in COSTS.items()
        ]
        text.append(_join(f"`{scheme}`", len(every), _spread(_lost(found)), interval, *costs))
    ratios_of = [words.split(",")[0] for words in _headings()]  # have no unit
    for words, base in BASES.items():
        of = {scheme: _ratios(runs, found, base) for scheme, found in runs.items()}
        if not any(any(ratios) for ratios in of.values()):
            continue  # the base is still to run
        text += [f"\nTimes less than {words}:\n", _join("scheme", *ratios_of)]
        text.append("|---" + "|--:" * len(COSTS) + "|")
        for scheme, ratios in of.items():
            text.append(_join(f"`{scheme}`", *(_spread(values, "#.3g") for values in ratios)))
    return text


def _headings() -> list[str]:
    return [words for words, _ in COSTS.values()]


def _join(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _ratios(
    runs: Runs, found: dict[int, dict[str, Any]], base: tuple[str, ...]
) -> list[list[float]]:
    """Of each cost, by seeds that have both: the base's over the scheme's."""
    name, *where = base
    ratios: list[list[float]] = [[] for _ in COSTS]
    for seed, one in found.items():
        # Dense costs stand in every run's own file.
        other = one[name] if name in one else runs.get(name, {}).get(seed)
        if other is None:
            continue
        for key in where:
            other = other[key]
        for at, cost in enumerate(COSTS):
            # Whole-crossbar reads have no operation units to count.
            if not (name == "dense_isaac" and cost == "slots"):
                ratios[at].append(other[cost] / one["best"][cost])
    return ratios


def _spread(values: list[float], form: str = ".2f") -> str:
    if not values:
        return ""
    mean, least, most = (format(f(values), form) for f in (np.mean, min, max))
    return mean if len(values) == 1 else f"{mean} ({least} to {most})"


if __name__ == "__main__":
    sys.exit(main())
