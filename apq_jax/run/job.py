"""Runs the main job in a folder, from data to result files and report."""

import contextlib
import pathlib
from collections.abc import Callable

from rich.console import RenderableType

from apq_jax import data, hardware, mapping, metrics
from apq_jax.config import Config
from apq_jax.mapping import datapath
from apq_jax.pipeline import measure, prepare, prove
from apq_jax.pipeline.choose import Choice, choose, choose_untuned
from apq_jax.pipeline.float_checks import find_doubts
from apq_jax.pipeline.prepared import Prepared, collect_limits
from apq_jax.run import checkpoint, duration, write
from apq_jax.run import result as results
from apq_jax.run.folder import (
    RUN,
    list_resume_flags,
    open_folder,
    read_finished,
    write_finished,
)
from apq_jax.run.network import load_dataset, load_network
from apq_jax.run.searches import Searches
from apq_jax.strategies.loop import Record
from apq_jax.system.cache import open_cache
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import INTERRUPTED, LIMIT_MISSED, OK, WRONG_MAPPING
from apq_jax.system.files import write_whole
from apq_jax.system.process import explain_stop
from apq_jax.system.signals import Interrupt, Terminated, catch_interrupts
from apq_jax.system.terminal import console, show_bar, show_status

# (folder of a finished run) -> the summary for the terminal; writes the report into the folder
Report = Callable[[pathlib.Path], RenderableType]


def run(
    config: Config,
    workdir: pathlib.Path | None,
    command: str,
    report: Report,
    resume: bool | None = None,
    overwrite: bool = False,
) -> int:
    """Runs the main job in a folder, from data to report; returns the exit status.

    Prints to the terminal. docs/result.md describes the files that it writes.

    Args:
      config: the options.
      workdir: folder of the run; created if it is missing, and locked while the run works. None
        makes a new one, to which runs/latest links, or resumes that one.
      command: the command line that repeats the run.
      report: called once the results are written.
      resume: True resumes from the folder's checkpoint, if there is one; False begins anew; None
        begins anew, but refuses to delete a checkpoint.
      overwrite: whether the folder may hold a finished run, or files that no run wrote.

    Returns:
      OK; INTERRUPTED after Ctrl-C, with the evaluations so far written; WRONG_MAPPING if the
      crossbars do not compute the network; or LIMIT_MISSED if no policy meets the limits.

    Raises:
      InputError: a file or a field cannot be used, or the checkpoint does not fit `resume`.
      Terminated, KeyboardInterrupt: SIGTERM, or Ctrl-C before the first evaluation or for the
        second time, ended the run; the words say which evaluations are kept.
    """
    cache, dataset = open_cache(config.cache_dir), load_dataset(config)
    accelerator, options = hardware.load(config.accelerator), config.search
    prepare.build_space(config, accelerator)  # refuses before the network is trained
    saved: checkpoint.Saved | None = None

    def describe_kept() -> str:
        return "" if saved is None else f"{saved.evaluations} evaluations are kept in {saved.path}"

    with contextlib.ExitStack() as held:
        folder = held.enter_context(open_folder(workdir, RUN, resume, overwrite))
        resume_flags = list_resume_flags(workdir, folder)
        held.enter_context(explain_stop(describe_kept, resume_flags))
        identity = checkpoint.identify_run(config, accelerator, dataset)
        saved = _read_saved(folder, identity, resume)
        of_result = identity | checkpoint.identify_tuning(config)
        if resume and saved is None and read_finished(folder / RUN.result, of_result):
            console.print(f"{folder}: the search is finished; its report is there", soft_wrap=True)
            return OK
        write_whole(folder / "command.txt", f"{command}\n")  # fails now, not after the search
        seeds = f", {options.seeds} seeds" if options.seeds > 1 else ""
        console.print(
            f"{config.model} on {dataset.name}, accelerator {accelerator.name}: "
            f"{options.strategy} search of {options.episodes} policies{seeds} for "
            f"{metrics.describe_goal(options.goal, collect_limits(config))}.",
            soft_wrap=True,
        )
        console.print(
            f"{'Reads' if config.model.path else 'Trains'} the network"
            f"{'' if config.model.path else ' unless it is cached'}, plans, searches, fine-tunes, "
            f"reports to {folder}.",
            soft_wrap=True,
        )
        network, params = load_network(dataset, config, cache)
        for operation in network.operations:
            if operation.status == "refused":
                console.print(f"not mapped: {operation.name}: {operation.reason}")
        rounds = options.min_adc_bits or accelerator.adc_resolution < accelerator.lossless_adc_bits
        images, done = len(dataset.search_images), 0 if saved is None else saved.evaluations
        work = sum(layer.multiplications for layer in network.layers)
        seconds = duration.predict_seconds(network.layers, config, images, bool(rounds), done)
        console.print(
            f"{len(network.layers)} layers, {work:,} multiplications an image: about "
            f"{duration.format_seconds(seconds)} on two cores.",
            soft_wrap=True,
        )
        identity |= checkpoint.identify_network(network, params)
        if saved is not None:
            checkpoint.require_same(saved, identity)
        with show_status(f"plans {len(network.layers)} layers"):
            prepared = prepare.prepare(network, params, dataset, accelerator, config, cache)
        float_accuracy = float(prepared.problem.float_accuracy)
        for doubt in find_doubts(float_accuracy, dataset.search_labels):
            console.print(f"WARNING: {doubt}", soft_wrap=True)
        searches = Searches(prepared, folder / write.CHECKPOINT, identity, saved)
        write.clear(folder)
        if saved is None:
            checkpoint.remove(searches.path)
        write_whole(folder / "accelerator.toml", hardware.dumps(accelerator))
        with catch_interrupts() as interrupt:
            try:
                searches.run(interrupt)
                if interrupt.terminated:
                    raise Terminated
                return _finish(searches, dataset, command, report, interrupt, cache, resume_flags)
            except (KeyboardInterrupt, Terminated) as stop:
                interrupt.look()
                if len(searches.join_records().reward):
                    searches.write()
                    stop.args = (f"the evaluations are in {folder / 'search.csv'}",)
                raise


def _read_saved(
    workdir: pathlib.Path, identity: dict[str, str], resume: bool | None
) -> checkpoint.Saved | None:
    """Reads the checkpoint to resume from; returns None if the run begins anew."""
    path = workdir / write.CHECKPOINT
    if resume is False:
        return None
    if (saved := checkpoint.read(path)) is None:
        return None
    checkpoint.require_same(saved, identity, "" if resume else "; or --noresume, to begin anew")
    if resume:
        return saved
    raise InputError(
        f"{path}: an unfinished search of this configuration, {saved.evaluations} evaluations "
        "done; --resume goes on, --noresume begins anew"
    )


def _choose(
    prepared: Prepared,
    record: Record,
    dataset: data.Dataset,
    interrupt: Interrupt,
    cache: pathlib.Path,
) -> Choice:
    """Chooses the result, with a bar over the steps of fine-tuning, which Ctrl-C ends."""
    tuned, steps_each = prepared.config.search.tuned, prepared.config.finetune.steps
    if interrupt.look() or not tuned:
        return choose_untuned(prepared, record, dataset)
    with show_bar("fine-tunes", tuned * steps_each) as advance:

        def progress(policies: int, steps: int, loss: float) -> bool:
            note = f"policy {policies + 1} of up to {tuned}, loss {loss:.4f}"
            advance(done=policies * steps_each + steps, note=note)
            return interrupt.look()

        choice = choose(prepared, record, dataset, progress, cache)
        advance(done=tuned * steps_each)
    return choice


def _finish(
    searches: Searches,
    dataset: data.Dataset,
    command: str,
    report: Report,
    interrupt: Interrupt,
    cache: pathlib.Path,
    resume_flags: str,
) -> int:
    """Chooses, measures, maps and proves; writes the results; returns the exit status."""
    prepared, workdir = searches.prepared, searches.path.parent
    seconds, record = searches.seconds, searches.join_records()
    choice = _choose(prepared, record, dataset, interrupt, cache)
    if interrupt.terminated:
        raise Terminated
    interrupted = interrupt.look()  # a later Ctrl-C cuts neither search nor fine-tuning short
    with show_status("measures on test, maps, writes the report"):
        policy, compressed = choice.policy, choice.compressed
        measured = measure.measure(prepared, compressed, dataset.test_images, dataset.test_labels)
        path = workdir / "mapping.safetensors"
        mapping.save(path, prove.map_to_crossbars(prepared, policy, compressed))
        crossbars = mapping.load(path)  # so that the proof is of the file that users get
        parts = datapath.build_parts(crossbars.maps, crossbars.accelerator)
        images, labels = dataset.select_images, dataset.select_labels
        few = images[: prove.IMAGES]
        proof = prove.prove(prepared, policy, compressed, crossbars, parts, few)
        curve = prove.measure_adc_curve(prepared, policy, compressed, parts, images, labels)
        result = results.build_result(
            prepared, dataset, record, choice, measured, seconds, command, interrupted, proof, curve
        )
        write.write_weights(workdir / "weights.safetensors", prepared, policy, compressed)
        tree = {"layers": [layer.name for layer in prepared.network.layers]}
        tree |= results.describe_policy(prepared, policy)
        write.write_json(workdir / "policy.json", tree)
        write.write_result(workdir, result)
        summary = report(workdir)
    if not interrupted:
        of_result = searches.identity | checkpoint.identify_tuning(prepared.config)
        write_finished(workdir / RUN.result, of_result)
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
            f"The same command with {resume_flags} goes on to the rest.",
            soft_wrap=True,
        )
        return INTERRUPTED
    if not choice.meets_limit:
        missed = "; ".join(metrics.describe_miss(miss._asdict()) for miss in choice.misses)
        console.print(
            f"No policy meets the limits. The nearest, which is reported, {missed}.", soft_wrap=True
        )
        return LIMIT_MISSED
    return OK
