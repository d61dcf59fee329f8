"""Searches how to prune and quantize a network for a ReRAM crossbar accelerator.

    python -m apq_jax.search --config=configs/lenet_mnist.py [--workdir=runs/a]

Trains the network (once; the weights are cached), searches a keep ratio and bitwidths for every
layer, fine-tunes the most promising policies, and writes the compressed network, every evaluation
and a report to the work folder.

A configuration file returns the fields of apq_jax/config.py; each can be set on the command line:

    --config.search.episodes=100            evaluations in all
    --config.search.max_accuracy_drop=1.0   percentage points below the float network
    --config.search.tuned=0                 how many policies are fine-tuned at most; five usually
    --config.finetune.steps=2000            of each of them; docs/finetune.md
    --config.search.goal=accuracy           the best within limits; or cost (least, the
                                            default), or front (all trade-offs)
    --config.limits.slots=300               the most allowed; also crossbars, area_mm2, ...
    --config.search.strategy=joint          apq, joint, or a baseline: random, uniform,
                                            lamp, greedy, genetic, cma_es
    --config.scheme=pim_prune               what is pruned and how it is packed: column_vector
                                            (default), or a baseline's (docs/cost_model.md)
    --config.objective.energy_nj=0.5        what a metric counts; also slots, crossbars, ...
    --config.data.path=my.npz               your images and labels (docs/data.md); also a folder
                                            of IDX files, such as MNIST's, or CIFAR-10's folder
    --config.model.path=net.onnx            your network, which is not trained; with
                                            configs/onnx.py (docs/own_model.md)
    --config.accelerator=my.toml            isaac_ou, isaac, sre, puma, or your own: see
                                            python -m apq_jax.hardware
    --config.seed=1
    --config.search.seeds=8                 eight searches in one program: seeds 1 to 8

A search that was stopped leaves checkpoint.safetensors in its work folder. The same command goes on
from it with --resume, to the same result as if never stopped; with --noresume it begins anew.

Ctrl-C ends a search and reports what there is; SIGTERM saves it and leaves at once.

Exit status: 0 done, or saved at SIGTERM; 2 input that cannot be used; 3 no policy meets the limits
(the nearest is reported); 4 the mapping to crossbars does not compute the network; 130 interrupted
(what there is has been written).
"""

import pathlib
import shlex
import sys
from typing import Any

import jax.numpy as jnp

from apq_jax import (
    caching,
    checkpoint,
    command_line,
    data,
    datapath,
    duration,
    hardware,
    models,
    pipeline,
    preparation,
    proof,
    report,
    results,
    run_files,
    run_folder,
)
from apq_jax.capture import capture
from apq_jax.choice import Choice, choose, untuned
from apq_jax.config import Config
from apq_jax.files import InputError, locked, write_whole
from apq_jax.interruption import Interrupt, Terminated, interruptible, terminable
from apq_jax.loop import Record
from apq_jax.mapping import load as load_mapping
from apq_jax.mapping import save as save_mapping
from apq_jax.preparation import Prepared
from apq_jax.progress import bar, console
from apq_jax.searches import Searches

OK, BAD_INPUT, LIMIT_MISSED, WRONG_MAPPING, INTERRUPTED = 0, 2, 3, 4, 130
_PROOF_IMAGES = 32


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv[1:] for flag in ("--help", "-h", "-help")):
        print((__doc__ or "").strip())
        return OK
    try:
        config, workdir, resume = command_line.parse(argv)
        # As it is repeated from the beginning.
        flags = [flag for flag in argv[1:] if not command_line.is_resume(flag)]
        command = shlex.join(["python", "-m", "apq_jax.search", *flags])
        with terminable():
            return run(config, workdir, command, resume)
    except InputError as error:
        print(f"apq_jax.search: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("apq_jax.search: interrupted before the first evaluation", file=sys.stderr)
        return INTERRUPTED
    except Terminated:
        print("SIGTERM: saved. Resume with", f"{command} --resume", sep="\n", flush=True)
        return OK


def run(config: Config, workdir: pathlib.Path, command: str, resume: bool | None = None) -> int:
    """The main job, from data to report; returns the exit status.

    Args:
      config: the run's.
      workdir: its folder.
      command: what repeats it.
      resume: go on from the folder's checkpoint; or begin anew; None refuses to choose where the
        checkpoint is of this configuration.
    """
    cache = caching.opened(config.cache_dir)
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limited(dataset, config.data.search_images, config.data.select_images)
    accelerator = hardware.load(config.accelerator)
    preparation.space_of(config, accelerator)  # refuses before the network is trained
    with locked(workdir):
        return _run(config, workdir, command, resume, cache, dataset, accelerator)


def _run(
    config: Config,
    workdir: pathlib.Path,
    command: str,
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
        f"{run_folder.goal_words(options.goal, preparation.limits_of(config))}.\n"
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
        prepared = preparation.prepare(network, params, dataset, accelerator, config, cache)
    searches = Searches(prepared, workdir / run_files.CHECKPOINT, identity, saved)
    run_files.clear(workdir)
    if saved is None:
        checkpoint.remove(searches.path)
    write_whole(workdir / "accelerator.toml", hardware.dumps(accelerator))
    with interruptible() as interrupt:
        try:
            searches.run(interrupt)
            if interrupt.terminated:
                raise Terminated
            return _finish(prepared, dataset, searches, command, interrupt, workdir, cache)
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
    path = workdir / run_files.CHECKPOINT
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


def train(dataset: data.Dataset, config: Config, cache: pathlib.Path) -> tuple[Any, Any]:
    """The model as a function, and its params."""
    if config.model.path:
        return models.loaded(config.model, dataset)
    with bar("training", config.training.all_epochs) as advance:
        done = 0.0

        def progress(epochs: float, loss: float) -> None:
            nonlocal done
            advance(epochs - done, f"loss {loss:.3f}")
            done = epochs

        apply_fn, params, whence = models.trained(
            config.model, config.training, dataset, cache, progress
        )
        advance(config.training.all_epochs - done, whence)
    return apply_fn, params


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
        measured = pipeline.measure(prepared, network, dataset.test_images, dataset.test_labels)
        path = workdir / "mapping.safetensors"
        save_mapping(path, proof.mapped(prepared, choice.policy, network))
        mapping = load_mapping(path)  # what is delivered is what is proved
        parts = datapath.prepare(mapping.maps, mapping.accelerator)
        images, labels = dataset.select_images, dataset.select_labels
        few = images[:_PROOF_IMAGES]
        found = proof.prove(prepared, choice.policy, network, mapping, parts, few)
        curve = proof.adc_curve(prepared, choice.policy, network, parts, images, labels)
        result = results.result(
            prepared, dataset, record, choice, measured, seconds, command, interrupted, found, curve
        )
        run_files.write_weights(workdir / "weights.safetensors", prepared, choice.policy, network)
        policy = {"layers": [layer.name for layer in prepared.network.layers]}
        run_files.write_json(
            workdir / "policy.json", policy | results.policy_json(prepared, choice.policy)
        )
        run_files.write_json(workdir / "result.json", result)
        report.make(workdir)
    if not interrupted:
        checkpoint.remove(searches.path)
    console.print(report.summary(result))
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
        missed = "; ".join(run_folder.miss_words(miss._asdict()) for miss in choice.misses)
        console.print(
            f"No policy meets the limits. The nearest, which is reported, {missed}.", soft_wrap=True
        )
        return LIMIT_MISSED
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv))
