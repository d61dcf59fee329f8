"""Measures the main job phase by phase: wall and processor time, programs compiled, memory.

    taskset -c 0,1 python benchmarks/phases.py [--config vgg8_fashion] [-- --config.seed=1 ...]

Runs the main job twice, each time in a new process: cold, with nothing cached, and warm. Setting up
(`scripts/setup`) is not part of it. Flags behind `--` go to the job. "the first batches" ends with
the first evaluations that the user sees. Writes benchmarks/results/phases/CONFIG.json.
"""

import argparse
import functools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

START = time.perf_counter()

from harness import RESULTS, parse, write_results  # noqa: E402 (what imports take is a phase)

FIGURES = ("wall", "processor", "programs", "compiling", "peak_mb")


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="lenet_mnist")
    parser.add_argument("--child", type=pathlib.Path, help="file for the figures of one run")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "phases")
    parser.add_argument("flags", nargs="*", help="of the job")
    options = parse(parser)
    if options.child:
        return _run_child(options.child, options.flags)
    flags = [f"--{name}={value}" for name, value in options.fields.items()]
    flags = [flag.replace("--", "--config.", 1) for flag in flags] + options.flags
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for which in ("cold", "warm"):
            path = pathlib.Path(folder, f"{which}.json")
            command = [sys.executable, __file__, f"--child={path}", "--"]
            command += [f"--config={options.config}", f"--workdir={folder}/{which}", *flags]
            environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"}
            subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
            runs[which] = json.loads(path.read_text())
    print(
        "| phase | " + " | ".join(f"{which}: {name}" for which in runs for name in FIGURES) + " |"
    )
    print("|---|" + "--:|" * len(FIGURES) * len(runs))
    for phase in runs["cold"]:
        figures = [run.get(phase, {}).get(name, 0) for run in runs.values() for name in FIGURES]
        print(f"| {phase} | " + " | ".join(f"{figure:,.4g}" for figure in figures) + " |")
    cores = len(os.sched_getaffinity(0))
    write_results(options.results / f"{options.config}.json", {"phases": runs, "cores": cores})
    return 0


class Phases:
    """What each phase of a process took, in their order."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, float]] = {}
        self.programs, self.compiling = 0, 0.0
        self.before = self._read() | {"wall": START, "processor": 0.0}

    def count_compiled(self, event: str, duration_secs: float, **_: Any) -> None:
        """Counts a program, which was compiled or read from the cache."""
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs, self.compiling = self.programs + 1, self.compiling + duration_secs

    def end(self, phase: str) -> None:
        """Adds what was taken since the last call to a phase."""
        now = self._read()
        taken = self.taken.setdefault(phase, dict.fromkeys(FIGURES, 0.0))
        for name in FIGURES[:-1]:
            taken[name] += now[name] - self.before[name]
        taken["peak_mb"], self.before = now["peak_mb"], now

    def _read(self) -> dict[str, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "wall": time.perf_counter(),
            "processor": used.ru_utime + used.ru_stime,
            "programs": self.programs,
            "compiling": self.compiling,
            "peak_mb": used.ru_maxrss / 1000,
        }

    def follow(self, owner: Any, name: str, phase: str, once: bool = False) -> None:
        """Ends a phase after each call of an owner's function, or after the first."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def follow(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if not (once and phase in self.taken):
                self.end(phase)
            return result

        setattr(owner, name, follow)


def _run_child(path: pathlib.Path, flags: list[str]) -> int:
    """Runs the job and writes what its phases took."""
    import jax

    from apq_jax import search
    from apq_jax.compression import calibration, plan_cache
    from apq_jax.pipeline import measure, prepare, prove
    from apq_jax.run import job
    from apq_jax.run.searches import Searches

    phases = Phases()
    jax.monitoring.register_event_duration_secs_listener(phases.count_compiled)
    phases.end("imports")
    for owner, name, phase in (
        (job, "load_dataset", "data"),
        (job, "load_network", "network"),
        (calibration, "calibrate", "calibration"),
        (plan_cache, "calibrate_and_plan", "Plan"),
        (prepare, "prepare", "prices, problem, probes"),
        (Searches, "run", "the other batches"),
        (job, "_choose", "finalists, fine-tuning"),
        (measure, "measure", "test"),
        (prove, "measure_adc_curve", "mapping and proof"),
        (search, "report", "report"),
    ):
        phases.follow(owner, name, phase)
    phases.follow(Searches, "write", "the first batches", once=True)
    status = search.main(flags)
    phases.end("end")
    path.write_text(json.dumps(phases.taken))
    return status


if __name__ == "__main__":
    sys.exit(main())
