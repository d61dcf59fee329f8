"""Runs and sweeps that are killed at random times, and resumed to their end."""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from helpers import ROOT
from helpers.runs import CONFIG, read_timeless_result, read_timeless_rows

from apq_jax import search
from apq_jax.sweep import __main__ as sweep
from apq_jax.system.process import run_command

KILLS = 10  # of the run, and of the sweep
LONGEST = 6.0  # seconds until a kill; a run whose programs are compiled takes less
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Of a process that the signal ended, before or after its handler was there, or that was finished.
STATUSES = {
    signal.SIGKILL: {-signal.SIGKILL, 0},
    signal.SIGTERM: {-signal.SIGTERM, 0, 1},
    signal.SIGINT: {-signal.SIGINT, 0, 130},
}
# Processes are forked from one that has imported all, because imports take most of the time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["apq_jax.run.job", "apq_jax.report.make", "apq_jax.sweep.job"])


def work(command: Callable[[list[str]], int], flags: list[str], log: pathlib.Path) -> None:
    """Runs a command to its end, in the process that is to be killed."""
    os.chdir(ROOT)
    with log.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.exit(run_command("command", command, flags))


@pytest.mark.parametrize("name", ["search", "sweep"])
def test_killed_at_random_times_it_ends_as_if_it_never_was(
    name: str, inputs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    fields = {
        "model.path": inputs / "net.onnx",
        "data.path": inputs / "images.npz",
        "cache_dir": ROOT / ".cache",
        "plan.levels": 3,
        "plan.score": "l2",
        "plan.compensate": False,
        "search.strategy": "random",
        "search.episodes": 400,
        "search.probes": 2,
        "search.moment_images": 32,
        "search.tuned": 0,
        "search.max_accuracy_drop": 10,
    }
    if name == "sweep":
        fields |= {
            "sweep.over.accelerator.unit_rows": "(4, 9)",
            "sweep.over.accelerator.unit_columns": "(8,)",
            "sweep.over.accelerator.crossbar_rows": "(128,)",
        }
    command = {"search": search.main, "sweep": sweep.main}[name]
    read = {"search": read_timeless_result, "sweep": read_timeless_rows}[name]
    flags = [CONFIG if name == "search" else "--config=configs/sweep_ou.py"]
    flags += [f"--config.{field}={value}" for field, value in fields.items()]
    rng, log = np.random.default_rng(["search", "sweep"].index(name)), tmp_path / "log"

    def run(folder: str, kill: tuple[signal.Signals, float] | None = None) -> int:
        more = [f"--workdir={tmp_path / folder}", "--resume"]
        process = PROCESSES.Process(target=work, args=(command, [*flags, *more], log))
        log.unlink(missing_ok=True)
        process.start()
        while not log.exists():
            time.sleep(0.01)
        if kill is not None:
            process.join(kill[1])
            assert process.pid is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, kill[0])
        process.join(120)
        assert process.exitcode is not None, "it does not end"
        assert "Traceback" not in log.read_text(), log.read_text()
        return process.exitcode

    start = time.monotonic()
    assert run("never") == 0, log.read_text()
    longest = min(LONGEST, time.monotonic() - start)
    killed = 0
    for count in range(KILLS):
        signum = SIGNALS[int(rng.integers(len(SIGNALS)))]
        folder = f"killed_{killed}"
        status = run(folder, (signum, rng.uniform(0, longest)))
        assert status in STATUSES[signum], log.read_text()
        # A finished one is compared, and the next kills are another's.
        is_whole = status == 0 and "Resume with" not in log.read_text()
        if is_whole or count == KILLS - 1:
            assert run(folder) == 0, log.read_text()
            assert read(tmp_path / folder) == read(tmp_path / "never")
            killed += 1
