"""Runs of the search command, in this process or in another."""

import subprocess
import sys
from typing import NamedTuple

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
