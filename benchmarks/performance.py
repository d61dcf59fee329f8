"""docs/performance.md's tables and docs/images/growth.png, from the benchmarks' own files.

python benchmarks/performance.py
"""

import json
import pathlib
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from apq_jax.system.files import write_whole

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
DOCUMENT, PICTURE = ROOT / "docs/performance.md", ROOT / "docs/images/growth.png"
NETWORKS = "lenet5", "vgg16"


def main() -> int:
    """Writes each table between its markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    tables = {
        "speed": _speed(),
        "quality": _quality(),
        "limit": _limit(),
        "recall": _recall(),
        "growth": _growth(),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        head, rest = text.split(start)
        text = head + start + table + end + rest.split(end)[1]
    write_whole(DOCUMENT, text)
    return 0


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _row(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"


def _where(found: dict[str, Any]) -> str:
    load = ", ".join(f"{x:.1f}" for x in found["load"])
    return (
        f"\nMeasured {found['date']} on one core of {found['processor']} "
        f"({', '.join(found['flags'])}), Python {found['python']}, jax {found['jax']}, PyTorch "
        f"{found['torch']}; load of the two-core machine over 1, 5 and 15 minutes at the end: "
        f"{load}.\n"
    )


def _spread(values: list[float], form: str) -> str:
    return f"{np.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _speed() -> str:
    text = _row("network", "images", "loop", "s an episode", "of which the agent", "over search")
    text += "|---|--:|---|--:|--:|--:|\n"
    for name in NETWORKS:
        found = _read(f"speed/{name}.json")
        for loop, seconds in found["seconds"].items():
            ratios = np.divide(seconds, found["seconds"]["search"]).tolist()
            agent = float(np.median(found["agent_seconds"][loop]))
            over = "" if loop == "search" else _spread(ratios, ".1f")
            cells = _spread(seconds, ".4f"), f"{agent:.4f}", over
            text += _row(name, f"{found['images']:,}", loop, *cells)
        whole = _spread(found["evaluation_seconds"], ".4f")
        text += _row(name, "", "an evaluation that finds nothing", whole, "", "")
    return text + "".join(_where(_read(f"speed/{name}.json")) for name in NETWORKS)


def _quality() -> str:
    found = _read("speed/quality.json")
    text = _row("seed", "reference, 600 episodes", "its best", "search", "times sooner")
    text += "|--:|--:|--:|--:|--:|\n"
    ratios = []
    for seed, one in enumerate(found["seeds"]):
        ratios.append(one["reference"] / one["search"])
        best = f"{np.exp(one['best_gain']):.2f}x at {one['reference_best_at']:.1f} s"
        search = f"{one['search']:.2f} s, {one['search_evaluations']:.0f} evaluations"
        text += _row(seed, f"{one['reference']:.1f} s", best, search, f"{ratios[-1]:.0f}")
    compiles = _spread([one["search_compiles"] for one in found["seeds"]], ".1f")
    return (
        f"{text}\nMedian {np.median(ratios):.0f} times; tracing and compiling, with the cache on "
        f"disk, takes {compiles} s before it.\n{_where(found)}"
    )


def _limit() -> str:
    found = {name: _read(f"limit/{name}.json") for name in NETWORKS}
    text = _row("", *NETWORKS) + "|---" + "|--:" * len(NETWORKS) + "|\n"

    def add(words: str, form: str, *keys: str, scale: float = 1.0) -> None:
        cells = []
        for one in found.values():
            value: Any = one
            for key in keys:
                value = value.get(key, 0.0)
            cells.append(format(value * scale, form))
        nonlocal text
        text += _row(words, *cells)

    add("images, with those of the moments", ",.0f", "images")
    add("operations of an evaluation, 10⁹", ".1f", "operations", scale=1e-9)
    add("seconds", ".3f", "seconds")
    add("to trace and compile, nothing on disk, s", ".1f", "compile_seconds")
    add("memory beside the arguments, MB", ",.0f", "temporary_bytes", scale=1e-6)
    for kind in found["vgg16"]["rates"]:  # each in the same run
        cells = [
            f"{100 * one['share'][kind]:.0f} % of {one['rates'][kind] / 1e9:.0f} G/s"
            for one in found.values()
        ]
        text += _row(kind, *cells)
    for kind in found["vgg16"]["profile"]:
        shares = [100 * one["profile"].get(kind, 0.0) / one["seconds"] for one in found.values()]
        text += _row(f"% of the time: {kind}", *(f"{share:.0f}" for share in shares))
    return text + "".join(map(_where, found.values()))


def _recall() -> str:
    text = _row("network", "runs", "first layers", "of the last 2", "8", "32", "of all")
    text += "|---|--:|--:|--:|--:|--:|--:|\n"
    for path in sorted((RESULTS / "recall").glob("*.json")):
        found = _read(f"recall/{path.name}")
        for depth, row in enumerate(found["found"], start=1):
            cells = (f"{100 * share:.0f} %" for share in row)
            text += _row(path.stem, found["runs"], depth, *cells)
    return text


def _growth() -> str:
    """Draws the picture; the table is of its slopes."""
    found = _read("growth/growth.json")
    _, axes = plt.subplots(2, len(found["varied"]), figsize=(13, 5), sharey="row", squeeze=False)
    text = _row("varied", "from", "to", "time grows as its power", "memory as its power")
    text += "|---|--:|--:|--:|--:|\n"
    for at, (name, rows) in enumerate(found["varied"].items()):
        values = [row["value"] for row in rows]
        slopes = []
        for row_of, key, scale, words in (
            (0, "seconds", 1e3, "ms a policy"),
            (1, "bytes", 1e-6, "MB"),
        ):
            measured = [row[key] * scale for row in rows]
            panel = axes[row_of, at]
            panel.loglog(values, measured, "o-", color="#33669a")
            panel.set_xticks(values, [str(value) for value in values])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            if at == 0:
                panel.set_ylabel(words)
            slopes.append(np.polyfit(np.log(values), np.log(measured), 1)[0])
        axes[1, at].set_xlabel(name)
        text += _row(name, values[0], values[-1], *(f"{slope:.2f}" for slope in slopes))
    usual = ", ".join(f"{value} {name}" for name, value in found["usual"].items())
    plt.tight_layout()
    plt.savefig(PICTURE, dpi=110)
    picture = f"![Time and memory against {', '.join(found['varied'])}](images/{PICTURE.name})\n\n"
    return f"{picture}{text}\nThe others meanwhile: {usual}.\n{_where(found)}"


if __name__ == "__main__":
    sys.exit(main())
