"""Searches how to prune and quantize a network for a ReRAM crossbar accelerator.

    python -m apq_jax.search --config=configs/lenet_mnist.py [--workdir=runs/a]

Trains the network (once; the weights are cached), searches a keep ratio and bitwidths for every
layer, and writes the compressed network, every evaluation and a report to the work folder.

A configuration file returns the fields of apq_jax/config.py; each can be set on the command line:

    --config.search.episodes=100            evaluations in all
    --config.search.max_accuracy_drop=1.0   percentage points below the float network
    --config.search.goal=accuracy           the best within limits; or cost (least, the
                                            default), or front (all trade-offs)
    --config.limits.slots=300               the most allowed; also crossbars, area_mm2, ...
    --config.search.strategy=joint          apq, joint, or a baseline: random, uniform,
                                            lamp, greedy, genetic, cma_es
    --config.objective.energy_nj=0.5        what a metric counts; also slots, crossbars, ...
    --config.data.path=my.npz               your images and labels (docs/data.md); also a folder
                                            of IDX files, such as MNIST's
    --config.accelerator=my.toml            isaac_ou, isaac, sre, puma, or your own: see
                                            python -m apq_jax.hardware
    --config.seed=1

Exit status: 0 done; 2 input that cannot be used; 3 no policy meets the limits (the nearest is
reported); 4 the mapping to crossbars does not compute the network; 130 interrupted (what there
is has been written).
"""

import os
import pathlib
import re
import runpy
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
from ml_collections import ConfigDict, config_flags
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from apq_jax import data, datapath, hardware, models, pipeline, report, results
from apq_jax.capture import capture
from apq_jax.config import Config, allowed, from_config_dict, to_config_dict
from apq_jax.files import InputError, write_whole
from apq_jax.loop import Record
from apq_jax.mapping import load as load_mapping
from apq_jax.mapping import save as save_mapping
from apq_jax.pipeline import Prepared

OK, BAD_INPUT, LIMIT_MISSED, WRONG_MAPPING, INTERRUPTED = 0, 2, 3, 4, 130
_PROOF_IMAGES = 32
console = rich.console.Console(highlight=False, markup=False)


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv[1:] for flag in ("--help", "-h", "-help")):
        print((__doc__ or "").strip())
        return OK
    try:
        config, workdir = _parse(argv)
        return run(config, workdir, shlex.join(["python", "-m", "apq_jax.search", *argv[1:]]))
    except InputError as error:
        print(f"apq_jax.search: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("apq_jax.search: interrupted before the first evaluation", file=sys.stderr)
        return INTERRUPTED


def _parse(argv: list[str]) -> tuple[Config, pathlib.Path]:
    """The flags as a configuration and a work folder.

    Raises:
      InputError: whatever is wrong with them, in one line.
    """
    arguments, path = _arguments(argv[1:])
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict(
        "config", _config_file(path), flag_values=values, sys_argv=arguments
    )
    flags.DEFINE_string("workdir", "runs/latest", "Folder of the run.", flag_values=values)
    try:
        values([argv[0], *arguments])
    except flags.Error as error:
        field = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if field is None:
            raise InputError(str(error).splitlines()[0]) from error
        name, value = field.groups()
        raise InputError(f"config.{name}: {value!r}; allowed: {allowed(name)}") from error
    return from_config_dict(values["config"].value), pathlib.Path(str(values["workdir"].value))


def _arguments(argv: list[str]) -> tuple[list[str], str]:
    """The arguments as --name=value, without --config, and what that is set to."""
    found, path, rest = [], None, iter(argv)
    for argument in rest:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name.partition(".")[0] not in ("config", "workdir"):
            raise InputError(
                f"{argument!r}: not a flag; allowed: --config, --config.FIELD, --workdir, --help"
            )
        field = name.removeprefix("config.") if name.startswith("config.") else ""
        words = allowed(field) if field else ""  # refuses an unknown field
        if not equals:
            value = next(rest, "")
            if not value or value.startswith("--"):
                raise InputError(f"--{name}: has no value; for example --{name}=...")
        if words.startswith("a section"):
            raise InputError(f"config.{field}: {value!r}; allowed: {words}")
        if name != "config":
            found.append(f"--{name}={value}")
        elif path is not None:
            raise InputError(f"--config: given twice, {path!r} and {value!r}; allowed: once")
        else:
            path = value
    if not path:
        raise InputError("--config is missing; for example --config=configs/lenet_mnist.py")
    return found, path


def _config_file(path: str) -> ConfigDict:
    """What `get_config()` of a config file returns; what it leaves out has its default."""
    if not pathlib.Path(path).is_file():
        raise InputError(f"--config: {path!r} is not a file; allowed: a Python file")
    try:
        tree = runpy.run_path(path)["get_config"]().to_dict()
    except Exception as error:  # whatever the user's file raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"--config: {path!r} cannot be run ({reason})") from error
    return ConfigDict(_merged(to_config_dict(Config()).to_dict(), tree))


def _merged(defaults: Any, tree: Any) -> Any:
    if not isinstance(defaults, dict) or not isinstance(tree, dict):
        return tree
    return defaults | {name: _merged(defaults.get(name), value) for name, value in tree.items()}


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
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limited(dataset, config.data.search_images, config.data.select_images)
    accelerator = hardware.load(config.accelerator)
    options = config.search
    console.print(
        f"{config.model} on {dataset.name}, accelerator {accelerator.name}: "
        f"{options.strategy} search of {options.episodes} policies for "
        f"{report.goal_words(options.goal, pipeline.limits_of(config))}.\n"
        f"Trains the network unless it is cached, plans, searches, reports to {workdir}. "
        # Measured: 20 policies a second, half a minute for the rest.
        f"LeNet-5 on two cores takes about {30 + options.episodes // 20} s, VGG longer.",
        soft_wrap=True,
    )
    apply_fn, params = _train(dataset, config, cache)
    network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    for operation in network.operations:
        if operation.status == "refused":
            console.print(f"not mapped: {operation.name}: {operation.reason}")
    with console.status(f"plans {len(network.layers)} layers"):
        prepared = pipeline.prepare(network, params, dataset, accelerator, config)
    results.clear(workdir)
    write_whole(workdir / "accelerator.toml", hardware.dumps(accelerator))
    records: list[Record] = []
    with _interruptible() as interrupt:
        try:
            start = time.perf_counter()
            _search(prepared, workdir, records, interrupt)
            seconds = time.perf_counter() - start
            return _finish(prepared, dataset, records, seconds, command, interrupt, workdir)
        except KeyboardInterrupt:
            if not records:
                raise
            results.write_search(workdir / "search.csv", prepared, pipeline.joined(records))
            print(
                f"apq_jax.search: interrupted; the evaluations are in {workdir / 'search.csv'}",
                file=sys.stderr,
            )
            return INTERRUPTED


class _Interrupt:
    """Whether Ctrl-C was pressed."""

    pressed = False


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """The first Ctrl-C is noted, the second raises KeyboardInterrupt."""
    interrupt = _Interrupt()

    def stop(signum: int, frame: Any) -> None:
        if interrupt.pressed:
            raise KeyboardInterrupt
        interrupt.pressed = True
        console.print("Stops after this step and writes what there is; again: at once.")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def cache_folder() -> pathlib.Path:
    """Where trained weights and compiled programs are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "apq_jax"


def _train(dataset: data.Dataset, config: Config, cache: pathlib.Path) -> tuple[Any, Any]:
    """The model as a function, and its params."""
    with _bar("training", config.training.epochs) as advance:
        done = 0.0

        def progress(epochs: float, loss: float) -> None:
            nonlocal done
            advance(epochs - done, f"loss {loss:.3f}")
            done = epochs

        apply_fn, params, whence = models.trained(
            config.model, config.training, dataset, cache, progress
        )
        advance(config.training.epochs - done, whence)
    return apply_fn, params


def _search(
    prepared: Prepared, workdir: pathlib.Path, records: list[Record], interrupt: _Interrupt
) -> None:
    """Adds to `records` until done or Ctrl-C, and keeps search.csv up with them."""
    from tensorboardX import SummaryWriter  # it starts a thread: only where it is used

    dense_slots = results.dense_cost(prepared, 8)["slots"]
    best, done, next_write = None, 0, 0.0
    with (
        _bar("search", prepared.config.search.episodes) as advance,
        SummaryWriter(str(workdir / "tensorboard")) as events,
    ):
        for record in pipeline.search_policies(prepared):
            records.append(record)
            for at, reward in enumerate(record.reward):
                if best is None or reward > best[0]:
                    best = reward, record.evaluation.slots[at], record.evaluation.accuracy[at]
                events.add_scalar("reward", reward, done)
                events.add_scalar("best", best[0], done)
                events.add_scalar("accuracy", record.evaluation.accuracy[at], done)
                events.add_scalar("slots", record.evaluation.slots[at], done)
                done += 1
            start = time.monotonic()
            if start >= next_write:
                results.write_search(workdir / "search.csv", prepared, pipeline.joined(records))
                # The file is written whole each time, so the longer it takes the rarer.
                next_write = start + max(1.0, 20 * (time.monotonic() - start))
            _, slots, accuracy = best or (0, 1, 0)
            note = f"best {dense_slots / slots:.1f}x fewer slots, {100 * accuracy:.1f} %"
            advance(len(record.reward), note)
            if interrupt.pressed:
                break
    if not records:  # a strategy that proposes nothing
        raise InputError("search.strategy: it proposed no policy")


def _finish(
    prepared: Prepared,
    dataset: data.Dataset,
    records: list[Record],
    seconds: float,
    command: str,
    interrupt: _Interrupt,
    workdir: pathlib.Path,
) -> int:
    interrupted = interrupt.pressed  # what comes later does not cut the search short
    with console.status("chooses among the finalists, measures on test, maps, writes the report"):
        record = pipeline.joined(records)
        results.write_search(workdir / "search.csv", prepared, record)
        choice = pipeline.choose(prepared, record, dataset)
        network = pipeline.compressed(prepared, choice.policy)
        measured = pipeline.measure(prepared, network, dataset.test_images, dataset.test_labels)
        path = workdir / "mapping.safetensors"
        save_mapping(path, pipeline.mapped(prepared, choice.policy, network))
        mapping = load_mapping(path)  # what is delivered is what is proved
        parts = datapath.prepare(mapping.maps, mapping.accelerator)
        images, labels = dataset.select_images, dataset.select_labels
        proof = pipeline.prove(
            prepared, choice.policy, network, mapping, parts, images[:_PROOF_IMAGES]
        )
        curve = pipeline.adc_curve(prepared, choice.policy, network, parts, images, labels)
        result = results.result(
            prepared, dataset, record, choice, measured, seconds, command, interrupted, proof, curve
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
    if not result["mapping"]["bit_exact"]:
        console.print(
            f"The mapping is WRONG: {proof.mismatches:,} of {proof.compared:,} accumulators differ "
            f"from the quantized network's; counts {'agree' if proof.counts_agree else 'differ'}, "
            f"scales {'agree' if proof.scales_agree else 'differ'}. "
            "This is a defect of apq_jax: please report it."
        )
        return WRONG_MAPPING
    if interrupted:
        console.print(f"Interrupted after {len(record.reward)} evaluations; they are written.")
    if interrupt.pressed:
        return INTERRUPTED
    if not choice.meets_limit:
        missed = "; ".join(report.miss_words(miss._asdict()) for miss in choice.misses)
        console.print(
            f"No policy meets the limits. The nearest, which is reported, {missed}.", soft_wrap=True
        )
        return LIMIT_MISSED
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv))
