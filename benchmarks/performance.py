"""Writes docs/performance.md's tables and docs/images/growth.png from the benchmarks' files.

python benchmarks/performance.py
"""

import argparse
import json
import pathlib
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness import RESULTS, ROOT, parse

from apq_jax.system.files import write_whole

DOCUMENT, PICTURE = ROOT / "docs/performance.md", "images/growth.png"
NETWORKS = "lenet5", "vgg16"


def main() -> int:
    """Writes each table between its markers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=pathlib.Path, default=DOCUMENT.parent, metavar="DOCS")
    docs = parse(parser).results
    text = DOCUMENT.read_text(encoding="utf-8")
    tables = {
        "phases": _format_phases(),
        "training": _format_training(),
        "speed": _format_speed(),
        "quality": _format_quality(),
        "limit": _format_limit(),
        "converters": _format_converters(),
        "recall": _format_recall(),
        "growth": _format_growth(docs / PICTURE),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        head, rest = text.split(start)
        text = head + start + table + end + rest.split(end)[1]
    write_whole(docs / DOCUMENT.name, text)
    return 0


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _join(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"


def _format_where(results: dict[str, Any], cores: int = 1) -> str:
    load = ", ".join(f"{x:.1f}" for x in results["load"])
    where = "one core" if cores == 1 else f"{cores} cores"
    return (
        f"\nMeasured {results['date']} on {where} of {results['processor']} "
        f"({', '.join(results['flags'])}), Python {results['python']}, jax {results['jax']}, "
        f"PyTorch {results['torch']}; load of the two-core machine over 1, 5 and 15 minutes at the "
        f"end: {load}.\n"
    )


def _format_spread(values: list[float], form: str) -> str:
    return f"{np.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _format_phases() -> str:
    results = _read("phases/lenet_mnist.json")
    runs = results["phases"]
    names = "wall s", "processor s", "programs", "compiling s", "peak MB"
    text = _join("phase", *(f"{name}, {run}" for run in runs for name in names))
    text += "|---|" + "--:|" * len(runs) * len(names) + "\n"
    none = dict.fromkeys(runs["cold"]["imports"], 0.0)
    for run in runs.values():
        columns = list(zip(*(phase.values() for phase in run.values()), strict=True))
        sums = *(sum(column) for column in columns[:-1]), max(columns[-1])
        run["in all"] = dict(zip(none, sums, strict=True))
    for phase in runs["cold"]:
        cells = []
        for run in runs.values():
            wall, processor, programs, compiling, peak = run.get(phase, none).values()
            cells += [f"{wall:.1f}", f"{processor:.1f}", f"{programs:.0f}", f"{compiling:.1f}"]
            cells.append(f"{peak:,.0f}" if peak else "")
        text += _join(phase, *cells)
    return text + _format_where(results, results["cores"])


def _format_converters() -> str:
    text = _join(
        "network", "layers", "lossless, s", "one bit less, s", "ratio",
        "first: lossless, s", "one bit less, s",
    )  # fmt: skip
    text += "|---|--:|--:|--:|--:|--:|--:|\n"
    for name in ("lenet5", "mobile"):
        results = _read(f"converters/{name}.json")
        lossless, rounded = (results["seconds"][side] for side in ("lossless", "rounded"))
        ratios = np.divide(rounded, lossless).tolist()
        medians = f"{np.median(lossless):.3f}", f"{np.median(rounded):.3f}"
        first = (f"{results['first'][side]:.1f}" for side in ("lossless", "rounded"))
        text += _join(name, results["layers"], *medians, _format_spread(ratios, ".1f"), *first)
    return text + _format_where(results)


def _format_speed() -> str:
    text = _join("network", "images", "loop", "s an episode", "of which the agent", "over search")
    text += "|---|--:|---|--:|--:|--:|\n"
    for name in NETWORKS:
        results = _read(f"speed/{name}.json")
        for loop, seconds in results["seconds"].items():
            ratios = np.divide(seconds, results["seconds"]["search"]).tolist()
            agent = float(np.median(results["agent_seconds"][loop]))
            over = "" if loop == "search" else _format_spread(ratios, ".1f")
            cells = _format_spread(seconds, ".4f"), f"{agent:.4f}", over
            text += _join(name, f"{results['images']:,}", loop, *cells)
        whole = _format_spread(results["evaluation_seconds"], ".4f")
        text += _join(name, "", "an evaluation that finds nothing", whole, "", "")
    return text + "".join(_format_where(_read(f"speed/{name}.json")) for name in NETWORKS)


def _format_training() -> str:
    text = _join("network", "step", "ms", "over PyTorch in float32", "over training here")
    text += "|---|---|--:|--:|--:|\n"
    names = "resnet20", "vgg16"
    for name in names:
        seconds = _read(f"training/{name}.json")["seconds"]
        for side, each in seconds.items():
            ratios = (
                _format_spread(np.divide(each, seconds[other]).tolist(), ".2f")
                for other in ("PyTorch", "training")
            )
            text += _join(name, side, f"{1e3 * np.median(each):,.0f}", *ratios)
    return text + "".join(_format_where(_read(f"training/{name}.json")) for name in names)


def _format_quality() -> str:
    results = _read("speed/quality.json")
    text = _join("seed", "reference, 600 episodes", "its best", "search", "times sooner")
    text += "|--:|--:|--:|--:|--:|\n"
    ratios = []
    for seed, row in enumerate(results["seeds"]):
        ratios.append(row["reference"] / row["search"])
        best = f"{np.exp(row['best_gain']):.2f}x at {row['reference_best_at']:.1f} s"
        search = f"{row['search']:.2f} s, {row['search_evaluations']:.0f} evaluations"
        text += _join(seed, f"{row['reference']:.1f} s", best, search, f"{ratios[-1]:.0f}")
    compiles = _format_spread([row["search_compiles"] for row in results["seeds"]], ".1f")
    return (
        f"{text}\nMedian {np.median(ratios):.0f} times; tracing and compiling, with the cache on "
        f"disk, takes {compiles} s before it.\n{_format_where(results)}"
    )


def _format_limit() -> str:
    results = {name: _read(f"limit/{name}.json") for name in NETWORKS}
    text = _join("", *NETWORKS) + "|---" + "|--:" * len(NETWORKS) + "|\n"

    def add(words: str, form: str, *keys: str, scale: float = 1.0) -> None:
        cells = []
        for network in results.values():
            value: Any = network
            for key in keys:
                value = value.get(key, 0.0)
            cells.append(format(value * scale, form))
        nonlocal text
        text += _join(words, *cells)

    add("images, with those of the moments", ",.0f", "images")
    add("operations of an evaluation, 10⁹", ".1f", "operations", scale=1e-9)
    add("seconds", ".3f", "seconds")
    add("to trace and compile, nothing on disk, s", ".1f", "compile_seconds")
    add("memory beside the arguments, MB", ",.0f", "temporary_bytes", scale=1e-6)
    for kind in results["vgg16"]["rates"]:  # each in the same run
        cells = [
            f"{100 * network['share'][kind]:.0f} % of {network['rates'][kind] / 1e9:.0f} G/s"
            for network in results.values()
        ]
        text += _join(kind, *cells)
    for kind in results["vgg16"]["profile"]:
        shares = [
            100 * network["profile"].get(kind, 0.0) / network["seconds"]
            for network in results.values()
        ]
        text += _join(f"% of the time: {kind}", *(f"{share:.0f}" for share in shares))
    return text + "".join(map(_format_where, results.values()))


def _format_recall() -> str:
    text = _join("network", "runs", "first layers", "of the last 2", "8", "32", "of all")
    text += "|---|--:|--:|--:|--:|--:|--:|\n"
    for path in sorted((RESULTS / "recall").glob("*.json")):
        results = _read(f"recall/{path.name}")
        for depth, row in enumerate(results["found"], start=1):
            cells = (f"{100 * share:.0f} %" for share in row)
            text += _join(path.stem, results["runs"], depth, *cells)
    return text


def _format_growth(picture: pathlib.Path) -> str:
    """Draws the picture; returns the table of its slopes."""
    results = _read("growth/growth.json")
    _, axes = plt.subplots(2, len(results["varied"]), figsize=(13, 5), sharey="row", squeeze=False)
    text = _join("varied", "from", "to", "time grows as its power", "memory as its power")
    text += "|---|--:|--:|--:|--:|\n"
    for column, (name, rows) in enumerate(results["varied"].items()):
        values = [row["value"] for row in rows]
        slopes = []
        for row_of, key, scale, words in (
            (0, "seconds", 1e3, "ms a policy"),
            (1, "bytes", 1e-6, "MB"),
        ):
            measured = [row[key] * scale for row in rows]
            panel = axes[row_of, column]
            panel.loglog(values, measured, "o-", color="#33669a")
            panel.set_xticks(values, [str(value) for value in values])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            if column == 0:
                panel.set_ylabel(words)
            slopes.append(np.polyfit(np.log(values), np.log(measured), 1)[0])
        axes[1, column].set_xlabel(name)
        text += _join(name, values[0], values[-1], *(f"{slope:.2f}" for slope in slopes))
    usual = ", ".join(f"{value} {name}" for name, value in results["usual"].items())
    plt.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(picture, dpi=110)
    image = f"![Time and memory against {', '.join(results['varied'])}]({PICTURE})\n\n"
    return f"{image}{text}\nThe others meanwhile: {usual}.\n{_format_where(results)}"


if __name__ == "__main__":
    sys.exit(main())
