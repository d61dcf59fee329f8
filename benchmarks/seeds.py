"""Runs the main job over several seeds; prints what it reaches and how long it takes.

Each seed trains its own network, searches and measures, as the command line does. A run folder
that this benchmark finished with the same flags is read, not run again.

    python benchmarks/seeds.py [--seeds 5] [--workdir runs/seeds] [-- --config.search.strategy=...]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
from harness import parse

from apq_jax.system.files import write_whole

FINISHED = (0, 3)  # done; done, but no policy meets the limit
COLUMNS = {  # heading: columns that share it
    "float, test": ["{:.1f} %"],
    "lost, selection": ["{:.1f}"],
    "lost, test, 95 %": ["{:.1f}", "{:.1f}", "{:.1f}"],
    "slots over dense 8 / 16": ["{:.1f}", "{:.1f}"],
    "crossbars over 8 / 16": ["{:.1f}", "{:.1f}"],
    "energy over 8 / 16": ["{:.1f}", "{:.1f}"],
    "search": ["{:.0f} s"],
    "whole run": ["{:.0f} s"],
}


def main() -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
    parser.add_argument("flags", nargs="*")
    options = parse(parser, seeds=1)
    options.flags += [f"--config.{name}={value}" for name, value in options.fields.items()]
    rows = []
    for seed in range(options.seeds):
        seconds = _run(seed, options.workdir / str(seed), options.flags)
        rows.append(_read_figures(options.workdir / str(seed), seconds))
        print(f"seed {seed}: {seconds:.0f} s", file=sys.stderr)
    print("| seed | " + " | ".join(COLUMNS) + " |")
    print("|---" + "|--:" * len(COLUMNS) + "|")
    for name, row in [*enumerate(rows), ("median", np.median(rows, axis=0))]:
        print(f"| {name} | " + " | ".join(_format_cells(row)) + " |")
    return 0


def _run(seed: int, folder: pathlib.Path, flags: list[str]) -> float:
    """Runs the main job unless it has been run, and returns its seconds."""
    note = folder / "wall.json"
    command = [sys.executable, "-m", "apq_jax.search", "--config=configs/lenet_mnist.py"]
    command += [f"--workdir={folder}", f"--config.seed={seed}", *flags]
    if note.exists():
        kept = json.loads(note.read_text())
        if kept["command"] == command:
            return float(kept["seconds"])
    start = time.perf_counter()
    status = subprocess.run(
        [*command, "--overwrite"], check=False, stdout=subprocess.DEVNULL
    ).returncode
    seconds = time.perf_counter() - start
    if status not in FINISHED:
        raise SystemExit(f"seed {seed}: exit status {status}")
    write_whole(note, json.dumps({"command": command, "seconds": seconds}))
    return seconds


def _read_figures(folder: pathlib.Path, seconds: float) -> list[float]:
    """Returns the values of the table's columns."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    best, floats, ratios = result["best"], result["float"], result["ratios"]
    change = best["test_difference"]
    return [
        100 * floats["test_accuracy"],
        100 * (floats["validation_accuracy"] - best["validation_accuracy"]),
        *(-change[name] for name in ("mean", "high", "low")),
        *(
            ratios[name][f"dense_{bits}"]
            for name in ("slots", "crossbars", "energy")
            for bits in (8, 16)
        ),
        result["search"]["seconds"],
        seconds,
    ]


def _format_cells(row: Any) -> list[str]:
    cells, values = [], iter(row)
    for formats in COLUMNS.values():
        texts = [form.format(value + 0.0) for form, value in zip(formats, values, strict=False)]
        cells.append(f"{texts[0]} ({texts[1]} to {texts[2]})" if texts[2:] else " / ".join(texts))
    return cells


if __name__ == "__main__":
    sys.exit(main())
