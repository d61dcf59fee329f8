"""Searches how to prune and quantize a network for a ReRAM crossbar accelerator.

    python -m apq_jax.search --config=configs/lenet_mnist.py [--workdir=runs/a]

Trains the network (once; the weights are cached), searches a keep ratio and bitwidths for every
layer, and writes the compressed network, every evaluation and a report to the work folder.

A configuration file returns the fields of apq_jax/config.py; each can be set on the command line:

    --config.search.episodes=100            evaluations in all
    --config.search.max_accuracy_drop=1.0   percentage points below the float network
    --config.search.strategy=joint          apq, joint or random
    --config.objective.energy_nj=0.5        what a metric counts; also slots, crossbars, ...
    --config.data.path=my.npz               your images and labels (docs/data.md)
    --config.seed=1

Exit status: 0 done; 2 input that cannot be used; 3 no policy meets the accuracy limit (the nearest
is reported); 130 interrupted (what there is has been written).
"""

import os
import pathlib
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import rich.console
from absl import flags
from ml_collections import config_flags
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from apq_jax import data, hardware, pipeline, report, results, training
from apq_jax.capture import capture
from apq_jax.config import Config, allowed, from_config_dict
from apq_jax.files import InputError, write_whole
from apq_jax.loop import Record
from apq_jax.models.lenet import MIN_PIXELS, LeNet5
from apq_jax.pipeline import Prepared

_CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")
_WORKDIR = flags.DEFINE_string("workdir", "runs/latest", "Folder for what the run leaves.")

OK, BAD_INPUT, LIMIT_MISSED, INTERRUPTED = 0, 2, 3, 130
console = rich.console.Console(highlight=False, markup=False)


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv[1:] for flag in ("--help", "-h", "-help")):
        print((__doc__ or "").strip())
        return OK
    try:
        return run(_config(argv), pathlib.Path(_WORKDIR.value), shlex.join(_command(argv)))
    except InputError as error:
        print(f"apq_jax.search: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("apq_jax.search: interrupted before the first result", file=sys.stderr)
        return INTERRUPTED


def _command(argv: list[str]) -> list[str]:
    return ["python", "-m", "apq_jax.search", *argv[1:]]


def _config(argv: list[str]) -> Config:
    """Parses the flags.

    Raises:
      InputError: whatever is wrong with them, in one line.
    """
    for argument in argv[1:]:
        if argument.startswith("--config."):
            allowed(argument.removeprefix("--config.").partition("=")[0])
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest:
            raise InputError(f"{rest[0]!r}: not a flag; allowed: --config, --workdir, --help")
        if _CONFIG.value is None:
            raise InputError("--config is missing; for example --config=configs/lenet_mnist.py")
        return from_config_dict(_CONFIG.value)
    except InputError:
        raise
    except flags.Error as error:
        field = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if field is None:
            raise InputError(str(error).splitlines()[0]) from error
        path, value = field.groups()
        raise InputError(f"config.{path}: {value!r}; allowed: {allowed(path)}") from error
    except Exception as error:  # a config file that is not there, or whatever it raises
        path = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), "")
        if not pathlib.Path(path).is_file():
            raise InputError(f"--config: {path!r} is not a file; allowed: a Python file") from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"--config: {path!r} cannot be run ({reason})") from error


@contextmanager
def _bar(description: str, total: int) -> Iterator[Any]:
    """A progress bar with the time left; yields `advance(count, note)`."""
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, note="")
        yield lambda count, note="": progress.update(task, advance=count, note=note)


def run(config: Config, workdir: pathlib.Path, command: str) -> int:
    """The main job, from data to report; returns the exit status."""
    cache = pathlib.Path(config.cache_dir) if config.cache_dir else cache_folder()
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    write_whole(workdir / "command.txt", command + "\n")  # fails now rather than after the search
    dataset = data.load(config.data.path)
    accelerator = hardware.preset(config.accelerator)
    options = config.search
    console.print(
        f"{config.model.name} on {dataset.name}, accelerator {accelerator.name}: "
        f"{options.strategy} search of {options.episodes} policies, at most "
        f"{options.max_accuracy_drop:g} points of accuracy lost.\n"
        f"Trains the network unless it is cached, plans, searches, reports to {workdir}. "
        "LeNet-5 takes one to two minutes on two cores.",
        soft_wrap=True,
    )
    model = LeNet5(dataset.classes)
    params = _train(model, dataset, config, cache)
    network = capture(model.apply, params, jnp.asarray(dataset.train_images[:2]))
    for operation in network.operations:
        if operation.status == "refused":
            console.print(f"not mapped: {operation.name}: {operation.reason}")
    with console.status(f"plans {len(network.layers)} layers"):
        prepared = pipeline.prepare(network, params, dataset, accelerator, config)
    start = time.perf_counter()
    records, interrupted = _search(prepared, workdir)
    seconds = time.perf_counter() - start
    if not records:
        raise KeyboardInterrupt
    return _finish(prepared, dataset, records, seconds, command, interrupted, workdir)


def cache_folder() -> pathlib.Path:
    """Where trained weights and compiled programs are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "apq_jax"


def _train(model: LeNet5, dataset: data.Dataset, config: Config, cache: pathlib.Path) -> Any:
    height, width = dataset.train_images.shape[1:3]
    if min(height, width) < MIN_PIXELS:
        raise InputError(
            f"{dataset.name}: images of {height} x {width} pixels; "
            f"allowed: at least {MIN_PIXELS} x {MIN_PIXELS} for {config.model.name}"
        )
    init = model.init(jax.random.key(config.seed), jnp.asarray(dataset.train_images[:1]))
    with _bar("training", config.training.epochs) as advance:
        params, reused = training.trained(
            config.model.name,
            model.apply,
            init,
            dataset,
            config.training,
            cache,
            lambda epoch, loss: advance(1, f"loss {loss:.3f}"),
        )
        if reused:
            advance(config.training.epochs, "cached")
    return params


def _search(prepared: Prepared, workdir: pathlib.Path) -> tuple[list[Record], bool]:
    """Searches until done or Ctrl-C; every chunk is on disk before the next begins."""
    from tensorboardX import SummaryWriter  # it starts a thread: only where it is used

    stopped = False

    def stop(signum: int, frame: Any) -> None:
        nonlocal stopped
        if stopped:
            raise KeyboardInterrupt
        stopped = True
        console.print("Stops after this chunk and writes what there is; again: at once.")

    records: list[Record] = []
    dense_slots = results.dense_cost(prepared, 8)["slots"]
    before = signal.signal(signal.SIGINT, stop)
    try:
        with (
            _bar("search", prepared.config.search.episodes) as advance,
            SummaryWriter(str(workdir / "tensorboard")) as events,
        ):
            for record in pipeline.search_policies(prepared):
                records.append(record)
                joined = pipeline.joined(records)
                results.write_search(workdir / "search.csv", prepared, joined)
                done = len(joined.reward)
                for number in range(done - len(record.reward), done):
                    events.add_scalar("reward", joined.reward[number], number)
                    events.add_scalar("best", joined.reward[: number + 1].max(), number)
                    events.add_scalar("accuracy", joined.evaluation.accuracy[number], number)
                    events.add_scalar("slots", joined.evaluation.slots[number], number)
                best = joined.reward.argmax()
                advance(
                    len(record.reward),
                    f"best {dense_slots / joined.evaluation.slots[best]:.1f}x fewer slots, "
                    f"{100 * joined.evaluation.accuracy[best]:.1f} %",
                )
                if stopped:
                    break
    finally:
        signal.signal(signal.SIGINT, before)
    return records, stopped


def _finish(
    prepared: Prepared,
    dataset: data.Dataset,
    records: list[Record],
    seconds: float,
    command: str,
    interrupted: bool,
    workdir: pathlib.Path,
) -> int:
    with console.status("chooses among the finalists, measures on test, writes the report"):
        record = pipeline.joined(records)
        choice = pipeline.choose(prepared, record, dataset)
        network = pipeline.compressed(prepared, choice.policy)
        measured = pipeline.measure(prepared, network, dataset.test_images, dataset.test_labels)
        result = results.result(
            prepared, dataset, record, choice, measured, seconds, command, interrupted
        )
        results.write_weights(workdir / "weights.safetensors", prepared, choice.policy, network)
        policy = {"layers": [layer.name for layer in prepared.network.layers]}
        results.write_json(
            workdir / "policy.json", policy | results.policy_json(prepared, choice.policy)
        )
        results.write_json(workdir / "result.json", result)
        report.make(workdir)
    console.print(report.summary(result))
    console.print(f"The report: {workdir / 'report.md'}", soft_wrap=True)
    console.print(f"The figures: {workdir / 'result.json'}", soft_wrap=True)
    if interrupted:
        console.print(f"Interrupted after {len(record.reward)} evaluations; they are written.")
        return INTERRUPTED
    if not choice.meets_limit:
        lost = 100 * (choice.float_accuracy - choice.accuracy)
        console.print(
            f"No policy meets the limit of {prepared.config.search.max_accuracy_drop:g} points; "
            f"the nearest loses {lost:.1f}. It is the one reported."
        )
        return LIMIT_MISSED
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv))
