"""Each command ends as a Unix tool does: closed pipes, full disks, other encodings, Ctrl-C."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from helpers import ROOT

from apq_jax.system.process import read_help

INTERRUPTED = """
import os, signal
from apq_jax.system.process import run_command
run_command("name", lambda argv: os.kill(os.getpid(), signal.SIGINT), [])
"""


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        [sys.executable, *arguments], text=True, cwd=ROOT, check=False, **(streams | options)
    )


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("hardware", []),
        ("hardware", ["isaac_ou"]),
        ("report", ["--help"]),
    ],  # by rich, print, argparse
)
def test_output_that_cannot_be_written(command: str, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    closed = python("-m", f"apq_jax.{command}", *arguments, stdout=writing)
    os.close(writing)
    assert (closed.returncode, closed.stderr) == (141, "")
    with open("/dev/full", "w") as full:
        done = python("-m", f"apq_jax.{command}", *arguments, stdout=full)
    says = f"apq_jax.{command}: output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, says)


def test_a_terminal_that_lacks_letters_gets_escapes() -> None:
    done = python("-m", "apq_jax.hardware", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert r"mm\xb2" in done.stdout


def test_help_is_there_without_docstrings() -> None:
    files = [ROOT / "apq_jax" / "search.py", *sorted((ROOT / "apq_jax").rglob("__main__.py"))]
    assert len(files) == 7
    for path in files:
        assert len(read_help(str(path)).splitlines()) >= 5
        assert "__doc__" not in path.read_text()
    done = python("-OO", "-m", "apq_jax.hardware", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the presets" in done.stdout
    done = python("-OO", "-m", "apq_jax.search", "--config=lenet_mnist")
    assert done.returncode == 2
    assert done.stderr.startswith("apq_jax.search: python -OO: drops docstrings that rlax needs;")
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_before_the_work_ends_the_process_without_a_word() -> None:
    done = python("-c", INTERRUPTED)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
