"""How often a search comes back to the same first layers, from the search.csv of finished runs.

A row a depth k: the share of a run's evaluations whose choices for the first k layers are among
the last n distinct ones, as `apq_jax.compression.evaluator` keeps them; means over the runs.

    python benchmarks/recall.py NAME RUN/search.csv [RUN/search.csv ...]

Written is benchmarks/results/recall/NAME.json; benchmarks/performance.py makes the table.
"""

import csv
import json
import pathlib
import sys

import numpy as np

from apq_jax.system.files import write_whole

RESULTS = pathlib.Path(__file__).parent / "results/recall"
ENTRIES = (2, 8, 32, 10**6)
FIELDS = ("keep.", "weight_bits.", "input_bits.", "adc_bits.")


def main(name: str, *paths: str) -> None:
    found = np.mean([_shares(pathlib.Path(path)) for path in paths], axis=0)
    for depth, row in enumerate(found, start=1):
        print(depth, *(f"{share:.2f}" for share in row))
    kept = {"runs": len(paths), "entries": ENTRIES, "found": found.tolist()}
    write_whole(RESULTS / f"{name}.json", json.dumps(kept) + "\n")


def _shares(path: pathlib.Path) -> list[list[float]]:
    """By depth and number of entries; of one search, so of one seed."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["seed"] == rows[0]["seed"]]
    columns = [[name for name in rows[0] if name.startswith(field)] for field in FIELDS]
    layers = len(columns[0])
    policies = [
        [tuple(row[names[at]] for names in columns if names) for at in range(layers)]
        for row in rows
    ]
    return [
        [_found([tuple(one[:depth]) for one in policies], most) for most in ENTRIES]
        for depth in range(1, layers)
    ]


def _found(keys: list[tuple], most: int) -> float:
    last: dict[tuple, None] = {}  # the one used last at the end
    found = 0
    for key in keys:
        if key in last:
            found += 1
            del last[key]
        elif len(last) == most:
            del last[next(iter(last))]
        last[key] = None
    return found / len(keys)


if __name__ == "__main__":
    main(*sys.argv[1:])
