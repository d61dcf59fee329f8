"""Measures seconds an episode of the search and of the loop that people write today.

Both run the same network, images, limit and number of episodes, alternately, on one core, agents
included; medians over the repeats, ratios within a repeat. The reference (reference_loop.py, needs
PyTorch) is timed once its agent learns, in float32 and with products in bfloat16; the search is
timed after its first chunks, which compile and propose closed forms.

    taskset -c 0 python benchmarks/speed.py [--networks lenet5 vgg16] [--repeats 5]
    taskset -c 0 python benchmarks/speed.py --quality 5

The second measures seconds until the search has a policy as good as the reference's best of 600
episodes, on LeNet-5: one that meets the limit by measured accuracy and gains no less. Tracing and
compiling, with the cache on disk, are measured apart. Writes benchmarks/results/speed/NETWORK.json
or quality.json. VGG-16 is for 32 x 32 pixels, its weights and images are random and its Plan is not
compensated, because the times do not depend on the values. Without PyTorch --smoke runs the search.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import NO_TORCH, RESULTS, change, find_torch, parse, write_results

from apq_jax import data, hardware
from apq_jax.compression import prices
from apq_jax.compression.options import PlanOptions
from apq_jax.config import Config, SearchOptions
from apq_jax.data import Dataset
from apq_jax.models.create import build, build_trained
from apq_jax.models.options import ModelOptions
from apq_jax.network.capture import capture
from apq_jax.pipeline import judge, prepare, stages
from apq_jax.pipeline.prepared import Prepared, build_evaluator
from apq_jax.problem import environment
from apq_jax.strategies import loop
from apq_jax.system.cache import find_cache, open_cache
from apq_jax.types import Evaluation, Policy

SIZES = {"lenet5": (1000, 64), "vgg16": (500, 4)}  # images, episodes a repeat
WARM = 32  # episodes of the search before it is timed
QUALITY_EPISODES = 600

Steps = Iterator[tuple[int, float]]  # episodes done, seconds of the agent as far as they are known


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quality", type=int, default=0, metavar="SEEDS")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "speed")
    options = parse(parser, networks=["lenet5"], repeats=1, quality=1)
    if len(os.sched_getaffinity(0)) > 1 and not options.smoke:
        parser.error("more than one core; allowed: one, such as taskset -c 0 gives")
    if find_torch():
        import torch

        torch.set_num_threads(1)
    elif options.smoke:
        print(f"The reference is left out: {NO_TORCH}", file=sys.stderr)
    else:
        raise SystemExit(f"benchmarks/speed.py: {NO_TORCH}")
    open_cache()
    if not options.quality or options.smoke:
        print("| network | loop | seconds an episode | of which the agent | over the search |")
        print("|---|---|--:|--:|--:|")
        for name in options.networks:
            results = _measure(name, options.repeats, options.fields)
            write_results(options.results / f"{name}.json", results)
    if options.quality:
        print("| seed | reference | its best | search, until as good | to compile | times |")
        print("|---|--:|--:|--:|--:|--:|")
        rows = [_measure_quality(seed, options.fields) for seed in range(options.quality)]
        write_results(options.results / "quality.json", {"seeds": rows})
    return 0


def _measure(name: str, repeats: int, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns seconds an episode, and its agent's, of each loop: a number for every repeat."""
    prepared, calibration = prepare_network(name, 0, fields)
    loops = {"search": _search(prepared)}
    if find_torch():
        loops["reference"] = _run_reference(name, prepared, calibration, bfloat16=False)
        loops["reference, bfloat16"] = _run_reference(name, prepared, calibration, bfloat16=True)
    warm, episodes = (8, 8) if fields else (WARM, SIZES[name][1])
    for which, steps in loops.items():
        _time(steps, warm if which == "search" else 2)
    alone = _run_agent(prepared)
    _time(alone, warm)
    times: dict[str, list[tuple[float, float]]] = {which: [] for which in loops}
    alones, evaluations = [], []
    for _ in range(repeats):
        for which, steps in loops.items():
            times[which].append(_time(steps, episodes))
        alones.append(_time(alone, episodes)[0])
        evaluations.append(_time_evaluation(prepared))
    seconds = {which: [whole for whole, _ in each] for which, each in times.items()}
    agent = {which: [part for _, part in each] for which, each in times.items()}
    agent["search"] = alones
    for which, each in seconds.items():
        ratios = [a / b for a, b in zip(each, seconds["search"], strict=True)]
        print(
            f"| {name} | {which} | {np.median(each):.4f} | {np.median(agent[which]):.4f} | "
            f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )
    print(f"| {name} | an evaluation with nothing remembered | {np.median(evaluations):.4f} | | |")
    return {
        "images": len(prepared.subject.images),
        "moment_images": len(prepared.subject.moment_images),
        "seconds": seconds,
        "agent_seconds": agent,
        "evaluation_seconds": evaluations,
    }


def _time(steps: Steps, min_episodes: int) -> tuple[float, float]:
    """Returns seconds an episode, and its agent's, over at least so many episodes."""
    start, count, agent = time.perf_counter(), 0, 0.0
    while count < min_episodes:
        episodes, seconds = next(steps)
        count, agent = count + episodes, agent + seconds
    return (time.perf_counter() - start) / count, agent / count


def _run_reference(name: str, prepared: Prepared, calibration: np.ndarray, bfloat16: bool) -> Steps:
    from reference_loop import Options, ReferenceLoop  # needs PyTorch

    options = Options(warmup=1, bfloat16=bfloat16)
    reference = ReferenceLoop(name, prepared, calibration, 0, options)
    while True:
        yield 1, reference.run_episode().agent_seconds


def _search(prepared: Prepared) -> Steps:
    for record in stages.search_policies(prepared):
        yield len(record.reward), 0.0


def _run_agent(prepared: Prepared) -> Steps:
    """Runs the search where an evaluation is a sum and a table."""

    def evaluate(subject: Any, policy: Policy) -> Evaluation:
        cost = prices.look_up_costs(subject.prices, policy)
        bits = policy.weight_bits.sum() + policy.input_bits.sum() - policy.level.sum()
        costs = (getattr(cost, name) for name in Evaluation._fields[2:])
        return Evaluation(jnp.clip(0.9 + 1e-3 * bits, 0.0, 1.0), jnp.exp(-0.1 * bits), *costs)

    strategy, stage = stages.build_strategy(prepared), stages.build_stages(prepared)[0]
    carry = loop.start(strategy, stage.problem, stage.keys, 10**6)
    for _, record in loop.resume(strategy, evaluate, prepared.subject, stage.problem, carry, 2):
        yield len(record.reward), 0.0


def _time_evaluation(prepared: Prepared) -> float:
    """Returns seconds of one evaluation from the images on, of policies drawn at random."""
    policies = draw_policies(prepared, prepared.config.search.parallel)
    run = compile_evaluations(build_evaluator(prepared))
    jax.block_until_ready(run(prepared.subject, policies))
    start = time.perf_counter()
    jax.block_until_ready(run(prepared.subject, policies))
    return (time.perf_counter() - start) / len(policies.level)


def draw_policies(prepared: Prepared, count: int) -> Policy:
    """Draws policies at random."""
    rng, shape = np.random.default_rng(0), (count, len(prepared.network.layers))
    places = np.stack([rng.integers(0, size, shape) for size in prepared.space.sizes], axis=-1)
    return environment.decode_places(prepared.space, jnp.asarray(places, jnp.int32))


@functools.lru_cache(maxsize=4)
def compile_evaluations(evaluate: Any) -> Any:
    """Returns the compiled function of (subject, policies) that evaluates one after the other."""
    return jax.jit(lambda subject, policies: jax.lax.map(lambda p: evaluate(subject, p), policies))


def _measure_quality(seed: int, fields: dict[str, Any]) -> dict[str, float]:
    """Returns the seconds of both on LeNet-5, all validation images and half a point to lose."""
    prepared, calibration = prepare_network("lenet5", seed, fields)
    min_accuracy = np.float32(prepared.problem.min_accuracy)
    start, best, best_seconds = time.perf_counter(), -np.inf, 0.0
    if find_torch():
        from reference_loop import ReferenceLoop

        reference = ReferenceLoop("lenet5", prepared, calibration, seed)
        start = time.perf_counter()
        for _ in range(2 if fields else QUALITY_EPISODES):
            episode = reference.run_episode()
            if np.float32(episode.accuracy) >= min_accuracy and episode.gain > best:
                best, best_seconds = episode.gain, time.perf_counter() - start
    whole = time.perf_counter() - start
    start = time.perf_counter()
    for _ in stages.search_policies(prepared):
        break
    compile_seconds = time.perf_counter() - start  # and the first two batches
    start, seconds, count = time.perf_counter(), np.nan, 0
    for record in stages.search_policies(prepared):
        count += len(record.reward)
        meets = record.evaluation.accuracy >= min_accuracy
        if (meets & (judge.judge(prepared, record).gain >= best)).any():
            seconds = time.perf_counter() - start
            break
        if count >= QUALITY_EPISODES:
            break
    print(
        f"| {seed} | {whole:.1f} s | {np.exp(best):.2f}x at {best_seconds:.1f} s | "
        f"{seconds:.2f} s, {count} evaluations | {compile_seconds:.1f} s | {whole / seconds:.1f} |",
        flush=True,
    )
    return {
        "reference": whole,
        "best_gain": best,
        "reference_best_at": best_seconds,
        "search": seconds,
        "search_evaluations": count,
        "search_compiles": compile_seconds,
    }


def prepare_network(name: str, seed: int, fields: dict[str, Any]) -> tuple[Prepared, np.ndarray]:
    """Prepares the network that both loops run; `fields` of the configuration are changed.

    Returns:
      The network, and training images that tell the ranges of the inputs.
    """
    count, _ = SIZES[name]
    options = SearchOptions(tuned=0)
    config = change(Config(seed=seed, model=ModelOptions(name), search=options), fields)
    options = dataclasses.replace(config.search, episodes=10**6)
    config = dataclasses.replace(config, search=options)
    if name == "lenet5":
        loaded = data.load(config.data.path, "mnist_5k")
        parts = ("images", "labels")
        both: dict[str, Any] = {
            f"search_{part}": np.concatenate(
                [getattr(loaded, f"{half}_{part}") for half in ("search", "select")]
            )[:count]
            for part in parts
        }
        dataset = dataclasses.replace(loaded, **both)
        cache = find_cache()
        apply_fn, params, _ = build_trained(config.model, config.training, loaded, cache)
    else:
        rng, cache = np.random.default_rng(seed), None
        images = rng.random((count, 32, 32, 3), np.float32)
        labels = rng.integers(0, 10, count, np.int32)
        dataset = Dataset("random", 10, *(images, labels) * 4)
        model = build(config.model, dataset)
        apply_fn = model.apply
        params = jax.jit(model.init)(jax.random.key(seed), jnp.asarray(images[:1]))
        config = dataclasses.replace(
            config,
            plan=PlanOptions(levels=4, compensate=False, score="l2"),
            search=dataclasses.replace(options, probes=2, moment_images=128),
        )
    network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    accelerator = hardware.load(config.accelerator)
    return (
        prepare.prepare(network, params, dataset, accelerator, config, cache),
        dataset.train_images[:count],
    )


if __name__ == "__main__":
    sys.exit(main())
