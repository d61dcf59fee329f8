"""Counts how often a search comes back to the same first layers, from finished runs' search.csv.

Prints a row for every depth k: the share of a run's evaluations whose choices for the first k
layers are among the last n distinct ones, as `apq_jax.compression.evaluator` keeps them; means over
the runs.

    python benchmarks/recall.py NAME RUN/search.csv [RUN/search.csv ...]

Writes benchmarks/results/recall/NAME.json; benchmarks/performance.py makes the table.
"""

import argparse
import csv
import json
import pathlib
import sys

import numpy as np
from harness import RESULTS, parse

from apq_jax.system.files import write_whole

ENTRIES = (2, 8, 32, 10**6)
FIELDS = ("keep.", "weight_bits.", "input_bits.", "adc_bits.")


def main() -> int:
    """Counts, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument("paths", metavar="RUN/search.csv", nargs="*", type=pathlib.Path)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "recall")
    options = parse(parser, name="smoke")
    if options.smoke and not options.paths:
        options.paths = [options.results / "search.csv"]
        columns = [f"{field}{layer}" for layer in ("conv1", "fc1") for field in FIELDS[:3]]
        rows = ["seed," + ",".join(columns), "0,1.0,8,8,0.5,4,4", "0,1.0,8,8,0.5,4,2"]
        write_whole(options.paths[0], "\n".join(rows) + "\n")
    if not options.paths:
        parser.error("no search.csv; allowed: NAME and one or more of them")
    shares = np.mean([_count_shares(path) for path in options.paths], axis=0)
    for depth, row in enumerate(shares, start=1):
        print(depth, *(f"{share:.2f}" for share in row))
    results = {"runs": len(options.paths), "entries": ENTRIES, "found": shares.tolist()}
    write_whole(options.results / f"{options.name}.json", json.dumps(results) + "\n")
    return 0


def _count_shares(path: pathlib.Path) -> list[list[float]]:
    """Returns the shares by depth and number of entries of one search, which has one seed."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["seed"] == rows[0]["seed"]]
    columns = [[name for name in rows[0] if name.startswith(field)] for field in FIELDS]
    layers = len(columns[0])
    policies = [
        [tuple(row[names[layer]] for names in columns if names) for layer in range(layers)]
        for row in rows
    ]
    return [
        [_count_share([tuple(policy[:depth]) for policy in policies], count) for count in ENTRIES]
        for depth in range(1, layers)
    ]


def _count_share(keys: list[tuple], max_entries: int) -> float:
    """Returns the share of keys that are among the last `max_entries` distinct ones before them."""
    last: dict[tuple, None] = {}  # the key used last at the end
    hits = 0
    for key in keys:
        if key in last:
            hits += 1
            del last[key]
        elif len(last) == max_entries:
            del last[next(iter(last))]
        last[key] = None
    return hits / len(keys)


if __name__ == "__main__":
    sys.exit(main())
