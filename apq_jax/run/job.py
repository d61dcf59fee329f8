"""The main job of one run, from data to result files."""

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
from apq_jax.pipeline.choose import Choice, choose, untuned
from apq_jax.pipeline.prepared import Prepared, limits_of
from apq_jax.run import checkpoint, duration, write
from apq_jax.run import result as results
from apq_jax.run.network import train
from apq_jax.run.searches import Searches
from apq_jax.strategies.loop import Record
from apq_jax.system.cache import open_cache
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import INTERRUPTED, LIMIT_MISSED, OK, WRONG_MAPPING
from apq_jax.system.files import locked, write_whole
from apq_jax.system.signals import Interrupt, Terminated, interruptible
from apq_jax.system.terminal import bar, console

_PROOF_IMAGES = 32

# Writes the report of a finished run into its folder; returns what the terminal shows of it.
Report = Callable[[pathlib.Path], RenderableType]


def run(
    config: Config,
    workdir: pathlib.Path,
    command: str,
    report: Report,
    resume: bool | None = None,
) -> int:
    """The main job, from data to report; returns the exit status.

    Args:
      config: the run's.
      workdir: its folder.
      command: what repeats it.
      report: called once the results are written.
      resume: go on from the folder's checkpoint; or begin anew; None refuses to choose where the
        checkpoint is of this configuration.
    """
    cache = open_cache(config.cache_dir)
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limited(dataset, config.data.search_images, config.data.select_images)
    accelerator = hardware.load(config.accelerator)
    prepare.space_of(config, accelerator)  # refuses before the network is trained
    with locked(workdir):
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
    options = config.search
    identity = checkpoint.identity(config, accelerator, dataset)
    saved = _saved(workdir, identity, resume)
    write_whole(workdir / "command.txt", command + "\n")  # fails now rather than after the search
    seeds = f", {options.seeds} seeds" if options.seeds > 1 else ""
    console.print(
        f"{config.model} on {dataset.name}, accelerator {accelerator.name}: "
        f"{options.strategy} search of {options.episodes} policies{seeds} for "
        f"{metrics.describe_goal(options.goal, limits_of(config))}.\n"
        f"{'Reads' if config.model.path else 'Trains'} the network"
        f"{'' if config.model.path else ' unless it is cached'}, plans, searches, fine-tunes, "
        f"reports to {workdir}.",
        soft_wrap=True,
    )
    apply_fn, params = train(dataset, config, cache)
    try:
        network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    except ValueError as error:  # only of a user's own
        raise InputError(f"{config.model}: {' '.join(str(error).split())}") from error
    for operation in network.operations:
        if operation.status == "refused":
            console.print(f"not mapped: {operation.name}: {operation.reason}")
    rounds = options.min_adc_bits or accelerator.adc_resolution < accelerator.lossless_adc_bits
    images, done = len(dataset.search_images), saved.evaluations if saved is not None else 0
    work = sum(layer.multiplications for layer in network.layers)
    seconds = duration.foretold(network.layers, config, images, bool(rounds), done)
    console.print(
        f"{len(network.layers)} layers, {work:,} "
        f"multiplications an image: about {duration.words(seconds)} on two cores.",
        soft_wrap=True,
    )
    identity |= checkpoint.network_identity(network, params)
    if saved is not None:
        _need_same(saved, identity)
    with console.status(f"plans {len(network.layers)} layers"):
        prepared = prepare.prepare(network, params, dataset, accelerator, config, cache)
    searches = Searches(prepared, workdir / write.CHECKPOINT, identity, saved)
    write.clear(workdir)
    if saved is None:
        checkpoint.remove(searches.path)
    write_whole(workdir / "accelerator.toml", hardware.dumps(accelerator))
    with interruptible() as interrupt:
        try:
            searches.run(interrupt)
            if interrupt.terminated:
                raise Terminated
            return _finish(prepared, dataset, searches, command, report, interrupt, workdir, cache)
        except KeyboardInterrupt:
            if not len(searches.record().reward):
                raise
            searches.write()
            print(
                f"apq_jax.search: interrupted; the evaluations are in {workdir / 'search.csv'}; "
                "--resume goes on",
                file=sys.stderr,
            )
            return INTERRUPTED


def _saved(
    workdir: pathlib.Path, identity: dict[str, str], resume: bool | None
) -> checkpoint.Saved | None:
    """The checkpoint to go on from, if any."""
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
        return _need_same(saved, identity)
    if checkpoint.difference(saved, identity) is None:
        raise InputError(
            f"{path}: an unfinished search of this configuration, {saved.evaluations} evaluations "
            "done; --resume goes on, --noresume begins anew"
        )
    return None  # of another configuration: overwritten like the rest of its run


def _need_same(saved: checkpoint.Saved, identity: dict[str, str]) -> checkpoint.Saved:
    differs = checkpoint.difference(saved, identity)
    if differs is not None:
        raise InputError(f"{saved.path}: {differs}; allowed: the same, to go on")
    return saved


def _choose(
    prepared: Prepared,
    record: Record,
    dataset: data.Dataset,
    interrupt: Interrupt,
    cache: pathlib.Path,
) -> Choice:
    """The result, with a bar over the steps of fine-tuning; Ctrl-C ends that."""
    config = prepared.config
    most = config.search.tuned * config.finetune.steps
    if interrupt.pressed or not most:
        return untuned(prepared, record, dataset)
    with bar("fine-tunes", most) as advance:
        done = 0

        def progress(number: int, steps: int, loss: float) -> bool:
            nonlocal done
            now = number * config.finetune.steps + steps
            note = f"policy {number + 1} of up to {config.search.tuned}, loss {loss:.4f}"
            advance(now - done, note)
            done = now
            return interrupt.pressed

        choice = choose(prepared, record, dataset, progress, cache)
        advance(most - done)
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
    seconds, record = searches.seconds, searches.record()
    choice = _choose(prepared, record, dataset, interrupt, cache)
    if interrupt.terminated:
        raise Terminated
    interrupted = interrupt.pressed  # what comes later cuts neither search nor fine-tuning short
    with console.status("measures on test, maps, writes the report"):
        network = choice.network
        measured = measure.measure(prepared, network, dataset.test_images, dataset.test_labels)
        path = workdir / "mapping.safetensors"
        save_mapping(path, prove.mapped(prepared, choice.policy, network))
        mapping = load_mapping(path)  # what is delivered is what is proved
        parts = datapath.build_parts(mapping.maps, mapping.accelerator)
        images, labels = dataset.select_images, dataset.select_labels
        few = images[:_PROOF_IMAGES]
        found = prove.prove(prepared, choice.policy, network, mapping, parts, few)
        curve = prove.adc_curve(prepared, choice.policy, network, parts, images, labels)
        result = results.result(
            prepared, dataset, record, choice, measured, seconds, command, interrupted, found, curve
        )
        write.write_weights(workdir / "weights.safetensors", prepared, choice.policy, network)
        policy = {"layers": [layer.name for layer in prepared.network.layers]}
        write.write_json(
            workdir / "policy.json", policy | results.policy_json(prepared, choice.policy)
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
            f"The mapping is WRONG: {found.mismatches:,} of {found.compared:,} accumulators differ "
            f"from the quantized network's; counts {'agree' if found.counts_agree else 'differ'}, "
            f"scales {'agree' if found.scales_agree else 'differ'}. "
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
