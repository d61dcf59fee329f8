"""Runs of the search command, in this process or in another."""

import csv
import json
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

from helpers import ROOT

CONFIG = "--config=configs/lenet_mnist.py"


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "apq_jax.search", *flags]


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*flags), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )


class Done(NamedTuple):
    """What the command line did."""

    returncode: int
    stdout: str
    stderr: str


def read_timeless_result(folder: pathlib.Path) -> dict[str, Any]:
    """The result of a run without times; its `files` has digests of the other files."""
    result = json.loads((folder / "result.json").read_text())
    for name in ("seconds", "evaluations_per_second"):
        del result["search"][name]
    for tuned in result["finetune"]:
        del tuned["seconds"]
    del result["command"], result["sha256"]
    return result


def read_timeless_rows(folder: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a sweep's table without times."""
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
