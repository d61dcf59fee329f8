"""Gives readers of files damaged ones, which they must read or refuse by `InputError`.

    python benchmarks/fuzz.py --reader onnx --inputs 10000

Valid files are changed at random (benchmarks/fuzz_changes.py), with a seed for every input. A
reader (benchmarks/fuzz_readers.py) fails if it raises anything else, needs MEMORY bytes more than
the process has, takes longer than SECONDS, or ends the process; --only N repeats the input N. The
exit status is 1 if an input failed. --results keeps the counts, the memory and the time.
"""

import argparse
import collections
import contextlib
import multiprocessing
import pathlib
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from fuzz_changes import list_files
from fuzz_readers import READERS, Reader
from harness import RESULTS, parse, write_results

from apq_jax.system.errors import InputError

MEMORY, SECONDS = 4 << 30, 20
PRELOADED = ["apq_jax.run.job", "apq_jax.report.make", "apq_jax.sweep.job", "onnx"]  # by all
COUNTS = ("read", "refused", "failed")
PEAKS = ("most_mib", "most_seconds")  # of one input, beyond what the process had


def try_reading(reader: Reader, path: pathlib.Path) -> tuple[str, str]:
    """Reads a file or folder; returns "read", "refused" or "failed", and the error."""

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        reader.read(path)
    except InputError as error:
        one_line = str(error).isprintable()
        return ("refused", "") if one_line else ("failed", f"not one line: {error!r}")
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return "read", ""


@contextlib.contextmanager
def keep(path: pathlib.Path) -> Iterator[None]:
    """Leaves a file, or the files of a folder, as they were before the body."""
    before = {file: file.read_bytes() for file in list_files(path)}
    try:
        yield
    finally:
        for file in set(list_files(path)) - set(before):
            file.unlink()
        for file, content in before.items():
            file.write_bytes(content)


def _work(name: str, inputs: list[int], seed: int, folder: str, now: Any, results: Any) -> None:
    """Tries a reader's inputs in a process of its own, which tells its input and counts."""
    reader = READERS[name]
    path = pathlib.Path(folder, reader.name)
    with keep(path):
        reader.read(path)  # what it imports and compiles once
    in_use = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY,) * 2)
    warnings.simplefilter("ignore")  # of damaged configuration files, and of odd numbers
    counts: collections.Counter[str] = collections.Counter()
    before, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for index in inputs:
        now.value = index
        began = time.monotonic()
        with keep(path):
            reader.change(path, np.random.default_rng((seed, index)))
            what, reason = try_reading(reader, path)
        slowest = max(slowest, time.monotonic() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
        counts[what] += 1
        if what == "failed":
            print(f"{name}, input {index}: {' '.join(reason.split())[:300]}", flush=True)
        results[:] = [*(counts[kind] for kind in COUNTS), peak / 1024, slowest]


def fuzz(name: str, inputs: list[int], seed: int) -> dict[str, float]:
    """Prints and returns how many of a reader's inputs were read, refused and failed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    total, peaks, began = np.zeros(len(COUNTS), int), np.zeros(len(PEAKS)), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, READERS[name].name)
        READERS[name].write(path)
        while inputs:
            now = context.Value("q", inputs[0])
            results = context.Array("d", len(COUNTS) + len(PEAKS))
            arguments = (name, inputs, seed, folder, now, results)
            process = context.Process(target=_work, args=arguments)
            process.start()
            process.join()
            total += np.asarray(results[: len(COUNTS)], int)
            peaks = np.maximum(peaks, results[len(COUNTS) :])
            if process.exitcode == 0:
                break
            if (process.exitcode or 0) > 0:  # an error that is not an input's
                raise SystemExit(f"{name}: cannot be tried")
            print(f"{name}, input {now.value}: ended the process ({process.exitcode})", flush=True)
            total[-1] += 1
            inputs = inputs[inputs.index(now.value) + 1 :]
    measured = dict(zip((*COUNTS, *PEAKS), (*total.tolist(), *peaks.tolist()), strict=True))
    measured["seconds"] = time.monotonic() - began
    print(
        f"{name}: {', '.join(f'{measured[kind]} {kind}' for kind in COUNTS)}, "
        f"{measured['seconds']:.0f} s; at most {measured['most_mib']:,.0f} MiB more than before, "
        f"and {measured['most_seconds']:.2f} s for an input",
        flush=True,
    )
    return measured


def main() -> int:
    """Tries the readers; returns 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", default="all", choices=("all", *READERS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one input's number")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "fuzz")
    options = parse(parser, inputs=20)
    failed = 0.0
    for name in READERS if options.reader == "all" else [options.reader]:
        inputs = list(range(max(1, options.inputs // READERS[name].slowness)))
        measured = fuzz(name, inputs if options.only is None else [options.only], options.seed)
        failed += measured["failed"]
        if options.only is None:
            write_results(options.results / f"{name}.json", measured)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
