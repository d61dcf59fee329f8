"""Runs the main job in a folder, from data to result files and report."""

import pathlib
import sys
from collections.abc import Callable

import jax.numpy as jnp
from rich.console import RenderableType

from apq_jax import data, hardware, metrics
from apq_jax.config import Config
from apq_jax.mapping import datapath
from apq_jax.mapping import load as load_mapping
from apq_jax.mapping import save as save_mapping
from apq_jax.network.capture import capture
from apq_jax.pipeline import measure, prepare, prove
from apq_jax.pipeline.choose import Choice, choose, choose_untuned
from apq_jax.pipeline.prepared import Prepared, collect_limits
from apq_jax.run import checkpoint, duration, write
from apq_jax.run import result as results
from apq_jax.run.network import load_or_train
from apq_jax.run.searches import Searches
from apq_jax.strategies.loop import Record
from apq_jax.system.cache import open_cache
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import INTERRUPTED, LIMIT_MISSED, OK, WRONG_MAPPING
from apq_jax.system.files import lock_folder, write_whole
from apq_jax.system.signals import Interrupt, Terminated, catch_interrupts
from apq_jax.system.terminal import console, show_bar

_PROOF_IMAGES = 32

# (folder of a finished run) -> the summary for the terminal; writes the report into the folder
Report = Callable[[pathlib.Path], RenderableType]


def run(
    config: Config,
    workdir: pathlib.Path,
    command: str,
    report: Report,
    resume: bool | None = None,
) -> int:
    """Runs the main job, from data to report; returns the exit status.

    Args:
      config: the run's.
      workdir: folder of the run.
      command: the command line that repeats the run.
      report: called once the results are written.
      resume: True resumes from the folder's checkpoint, False begins anew; None begins anew unless
        the folder has a checkpoint of this configuration, which it refuses to overwrite.

    Raises:
      InputError: a file or a field cannot be used, or the checkpoint does not fit `resume`.
      Terminated: SIGTERM ended the run; its checkpoint is written.
      KeyboardInterrupt: Ctrl-C came before the first evaluation.
    """
    cache = open_cache(config.cache_dir)
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limit_images(dataset, config.data.search_images, config.data.select_images)
    accelerator = hardware.load(config.accelerator)
    prepare.build_space(config, accelerator)  # refuses before the network is trained
    with lock_folder(workdir):
        return _run(config, workdir, command, report, resume, cache, dataset, accelerator)


def _run(
    config: Config,
    workdir: pathlib.Path,
    command: str,
    report: Report,
    resume: bool | None,
    cache: pathlib.Path,
    dataset: data.Dataset,
    accelerator: hardware.Accelerator,
) -> int:
    """Runs the main job in its locked folder; returns the exit status."""
    options = config.search
    identity = checkpoint.identify_run(config, accelerator, dataset)
    saved = _read_saved(workdir, identity, resume)
    write_whole(workdir / "command.txt", command + "\n")  # fails now rather than after the search
    seeds = f", {options.seeds} seeds" if options.seeds > 1 else ""
    console.print(
        f"{config.model} on {dataset.name}, accelerator {accelerator.name}: "
        f"{options.strategy} search of {options.episodes} policies{seeds} for "
        f"{metrics.describe_goal(options.goal, collect_limits(config))}.\n"
        f"{'Reads' if config.model.path else 'Trains'} the network"
        f"{'' if config.model.path else ' unless it is cached'}, plans, searches, fine-tunes, "
        f"reports to {workdir}.",
        soft_wrap=True,
    )
    apply_fn, params = load_or_train(dataset, config, cache)
    try:
        network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    except ValueError as error:  # only from a user's own model
        raise InputError(f"{config.model}: {' '.join(str(error).split())}") from error
    for operation in network.operations:
        if operation.status == "refused":
            console.print(f"not mapped: {operation.name}: {operation.reason}")
    rounds = options.min_adc_bits or accelerator.adc_resolution < accelerator.lossless_adc_bits
    images, done = len(dataset.search_images), 0 if saved is None else saved.evaluations
    work = sum(layer.multiplications for layer in network.layers)
    seconds = duration.predict_seconds(network.layers, config, images, bool(rounds), done)
    console.print(
        f"{len(network.layers)} layers, {work:,} "
        f"multiplications an image: about {duration.format_seconds(seconds)} on two cores.",
        soft_wrap=True,
    )
    identity |= checkpoint.identify_network(network, params)
    if saved is not None:
        _check_same(saved, identity)
    with console.status(f"plans {len(network.layers)} layers"):
        prepared = prepare.prepare(network, params, dataset, accelerator, config, cache)
    searches = Searches(prepared, workdir / write.CHECKPOINT, identity, saved)
    write.clear(workdir)
    if saved is None:
        checkpoint.remove(searches.path)
    write_whole(workdir / "accelerator.toml", hardware.dumps(accelerator))
    with catch_interrupts() as interrupt:
        try:
            searches.run(interrupt)
            if interrupt.terminated:
                raise Terminated
            return _finish(prepared, dataset, searches, command, report, interrupt, workdir, cache)
        except KeyboardInterrupt:
            if not len(searches.join_records().reward):
                raise
            searches.write()
            print(
                f"apq_jax.search: interrupted; the evaluations are in {workdir / 'search.csv'}; "
                "--resume goes on",
                file=sys.stderr,
            )
            return INTERRUPTED


def _read_saved(
    workdir: pathlib.Path, identity: dict[str, str], resume: bool | None
) -> checkpoint.Saved | None:
    """Reads the checkpoint to resume from; None if the run begins anew."""
    path = workdir / write.CHECKPOINT
    if resume is False:
        return None
    saved = checkpoint.read(path)
    if saved is None:
        if resume and (workdir / "result.json").exists():
            raise InputError(
                f"{path}: there is none, the search is finished; without --resume it runs again"
            )
        return None
    if resume:
        return _check_same(saved, identity)
    if checkpoint.find_difference(saved, identity) is None:
        raise InputError(
            f"{path}: an unfinished search of this configuration, {saved.evaluations} evaluations "
            "done; --resume goes on, --noresume begins anew"
        )
    return None  # a run of another configuration, which this run overwrites


def _check_same(saved: checkpoint.Saved, identity: dict[str, str]) -> checkpoint.Saved:
    """Returns the checkpoint; raises InputError if its run differs from this one."""
    difference = checkpoint.find_difference(saved, identity)
    if difference is not None:
        raise InputError(f"{saved.path}: {difference}; allowed: the same, to go on")
    return saved


def _choose(
    prepared: Prepared,
    record: Record,
    dataset: data.Dataset,
    interrupt: Interrupt,
    cache: pathlib.Path,
) -> Choice:
    """Chooses the result, with a bar over the steps of fine-tuning, which Ctrl-C ends."""
    config = prepared.config
    max_steps = config.search.tuned * config.finetune.steps
    if interrupt.pressed or not max_steps:
        return choose_untuned(prepared, record, dataset)
    with show_bar("fine-tunes", max_steps) as advance:
        done = 0

        def progress(policies: int, steps: int, loss: float) -> bool:
            nonlocal done
            now = policies * config.finetune.steps + steps
            note = f"policy {policies + 1} of up to {config.search.tuned}, loss {loss:.4f}"
            advance(now - done, note)
            done = now
            return interrupt.pressed

        choice = choose(prepared, record, dataset, progress, cache)
        advance(max_steps - done)
    return choice


def _finish(
    prepared: Prepared,
    dataset: data.Dataset,
    searches: Searches,
    command: str,
    report: Report,
    interrupt: Interrupt,
    workdir: pathlib.Path,
    cache: pathlib.Path,
) -> int:
    """Chooses, measures, maps and proves; writes the results; returns the exit status."""
    seconds, record = searches.seconds, searches.join_records()
    choice = _choose(prepared, record, dataset, interrupt, cache)
    if interrupt.terminated:
        raise Terminated
    interrupted = interrupt.pressed  # a later Ctrl-C cuts neither search nor fine-tuning short
    with console.status("measures on test, maps, writes the report"):
        policy, compressed = choice.policy, choice.compressed
        measured = measure.measure(prepared, compressed, dataset.test_images, dataset.test_labels)
        path = workdir / "mapping.safetensors"
        save_mapping(path, prove.map_to_crossbars(prepared, policy, compressed))
        mapping = load_mapping(path)  # so that the proof is of the file that users get
        parts = datapath.build_parts(mapping.maps, mapping.accelerator)
        images, labels = dataset.select_images, dataset.select_labels
        few = images[:_PROOF_IMAGES]
        proof = prove.prove(prepared, policy, compressed, mapping, parts, few)
        curve = prove.measure_adc_curve(prepared, policy, compressed, parts, images, labels)
        result = results.build_result(
            prepared, dataset, record, choice, measured, seconds, command, interrupted, proof, curve
        )
        write.write_weights(workdir / "weights.safetensors", prepared, policy, compressed)
        layers = {"layers": [layer.name for layer in prepared.network.layers]}
        write.write_json(
            workdir / "policy.json", layers | results.describe_policy(prepared, policy)
        )
        write.write_json(workdir / "result.json", result)
        summary = report(workdir)
    if not interrupted:
        checkpoint.remove(searches.path)
    console.print(summary)
    console.print(f"The report: {workdir / 'report.html'}; as text, report.md", soft_wrap=True)
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
        console.print(
            f"Interrupted after {len(record.reward)} evaluations; they are written. "
            "The same command with --resume goes on to the rest.",
            soft_wrap=True,
        )
    if interrupt.pressed:
        return INTERRUPTED
    if not choice.meets_limit:
        missed = "; ".join(metrics.describe_miss(miss._asdict()) for miss in choice.misses)
        console.print(
            f"No policy meets the limits. The nearest, which is reported, {missed}.", soft_wrap=True
        )
        return LIMIT_MISSED
    return OK
