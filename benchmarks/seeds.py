"""The main job over several seeds: what it reaches and how long it takes, as a Markdown table.

Each seed trains its own network, searches and measures, as the command line does. A run folder
that already holds a result.json is read, not run again.

    python benchmarks/seeds.py [--seeds 5] [--workdir runs/seeds] [-- --config.search.strategy=...]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np


def main() -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
    parser.add_argument("flags", nargs="*")
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        folder = options.workdir / str(seed)
        if not (folder / "result.json").exists():
            command = [sys.executable, "-m", "apq_jax.search", "--config=configs/lenet_mnist.py"]
            command += [f"--workdir={folder}", f"--config.seed={seed}", *options.flags]
            start = time.perf_counter()
            status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
            seconds = time.perf_counter() - start
            (folder / "wall.json").write_text(json.dumps({"seconds": seconds, "status": status}))
        result = json.loads((folder / "result.json").read_text())
        wall = json.loads((folder / "wall.json").read_text())
        best, floats, ratios = result["best"], result["float"], result["ratios"]
        rows.append(
            [
                100 * floats["validation_accuracy"],
                100 * (best["validation_accuracy"] - floats["validation_accuracy"]),
                100 * floats["test_accuracy"],
                best["test_difference"]["mean"],
                ratios["slots"]["dense_8"],
                ratios["slots"]["dense_16"],
                ratios["crossbars"]["dense_16"],
                ratios["energy"]["dense_8"],
                ratios["energy"]["dense_16"],
                result["search"]["evaluations"],
                result["search"]["seconds"],
                wall["seconds"],
            ]
        )
    names = [
        "float, selection %",
        "change on selection, points",
        "float, test %",
        "difference on test, points",
        "slots over dense 8",
        "slots over dense 16",
        "crossbars over dense 16",
        "energy over dense 8",
        "energy over dense 16",
        "evaluations",
        "search s",
        "whole run s",
    ]
    print("| seed | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for seed, row in enumerate(rows):
        print(f"| {seed} | " + " | ".join(f"{value:.4g}" for value in row) + " |")
    table = np.asarray(rows)
    print("| median | " + " | ".join(f"{value:.4g}" for value in np.median(table, axis=0)) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
