"""Seconds an episode of the search and of the loop that people write today, side by side.

Both run the same network, images, limit and number of episodes, alternately, on one core, agents
included; medians over the repeats, ratios within a repeat. The reference (reference_loop.py, needs
PyTorch) is timed when its agent learns, in float32 and with products in bfloat16; the search after
its first chunks, which compile and propose closed forms.

    taskset -c 0 python benchmarks/speed.py [--networks lenet5 vgg16] [--repeats 5]
    taskset -c 0 python benchmarks/speed.py --quality 5

The second measures seconds until the search holds a policy as good as the reference's best of 600
episodes, on LeNet-5: one that meets the limit by measured accuracy, of no less gain. What tracing
and compiling takes, with the cache on disk, stands apart. Written are
benchmarks/results/speed/NETWORK.json and quality.json. VGG-16 is for 32 x 32 pixels, with random
weights and images, its Plan not compensated: what is measured does not depend on the values.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import platform
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from reference_loop import Options, ReferenceLoop

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
from apq_jax.system.files import write_whole
from apq_jax.types import Evaluation, Policy

RESULTS = pathlib.Path(__file__).parent / "results/speed"
SIZES = {"lenet5": (1000, 64), "vgg16": (500, 4)}  # images, episodes a repeat
WARM = 32  # episodes of the search before it is timed
QUALITY_EPISODES = 600
FLAGS = re.compile(r"\b(avx2|avx512f|avx512_vnni|avx512_bf16|avx_vnni|amx_int8|amx_bf16)\b")

Steps = Iterator[tuple[int, float]]  # episodes done, seconds of the agent as far as they are known


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quality", type=int, default=0, metavar="SEEDS")
    asked = parser.parse_args()
    if len(os.sched_getaffinity(0)) > 1:
        parser.error("more than one core; allowed: one, such as taskset -c 0 gives")
    torch.set_num_threads(1)
    open_cache()
    if asked.quality:
        print("| seed | reference | its best | search, until as good | to compile | times |")
        print("|---|--:|--:|--:|--:|--:|")
        write(
            RESULTS / "quality.json", {"seeds": [_quality(seed) for seed in range(asked.quality)]}
        )
        return 0
    print("| network | loop | seconds an episode | of which the agent | over the search |")
    print("|---|---|--:|--:|--:|")
    for name in asked.networks:
        write(RESULTS / f"{name}.json", _measured(name, asked.repeats))
    return 0


def _measured(name: str, repeats: int) -> dict[str, Any]:
    """Seconds an episode, and of the agent in it, of each loop: a number a repeat."""
    prepared, calibration = prepared_of(name, 0)
    loops = {
        "search": _search(prepared),
        "reference": _reference(name, prepared, calibration, Options(warmup=1)),
        "reference, bfloat16": _reference(
            name, prepared, calibration, Options(warmup=1, bfloat16=True)
        ),
    }
    for which, steps in loops.items():
        _of(steps, WARM if which == "search" else 2)
    alone = _agent(prepared)
    _of(alone, WARM)
    times: dict[str, list[tuple[float, float]]] = {which: [] for which in loops}
    alones, evaluations = [], []
    for _ in range(repeats):
        for which, steps in loops.items():
            times[which].append(_of(steps, SIZES[name][1]))
        alones.append(_of(alone, SIZES[name][1])[0])
        evaluations.append(evaluation_seconds(prepared))
    found = {which: [whole for whole, _ in each] for which, each in times.items()}
    agent = {which: [part for _, part in each] for which, each in times.items()}
    agent["search"] = alones
    for which, each in found.items():
        ratios = [a / b for a, b in zip(each, found["search"], strict=True)]
        print(
            f"| {name} | {which} | {np.median(each):.4f} | {np.median(agent[which]):.4f} | "
            f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )
    print(f"| {name} | an evaluation with nothing remembered | {np.median(evaluations):.4f} | | |")
    return {
        "images": SIZES[name][0],
        "moment_images": len(prepared.subject.moment_images),
        "seconds": found,
        "agent_seconds": agent,
        "evaluation_seconds": evaluations,
    }


def _of(steps: Steps, least: int) -> tuple[float, float]:
    """Seconds an episode, and of its agent, over at least so many episodes."""
    start, count, agent = time.perf_counter(), 0, 0.0
    while count < least:
        episodes, seconds = next(steps)
        count, agent = count + episodes, agent + seconds
    return (time.perf_counter() - start) / count, agent / count


def _reference(name: str, prepared: Prepared, calibration: np.ndarray, options: Options) -> Steps:
    reference = ReferenceLoop(name, prepared, calibration, 0, options)
    while True:
        yield 1, reference.episode().agent_seconds


def _search(prepared: Prepared) -> Steps:
    for record in stages.search_policies(prepared):
        yield len(record.reward), 0.0


def _agent(prepared: Prepared) -> Steps:
    """The search where an evaluation is a sum and a table."""

    def evaluate(subject: Any, policy: Policy) -> Evaluation:
        cost = prices.look_up_costs(subject.prices, policy)
        bits = policy.weight_bits.sum() + policy.input_bits.sum() - policy.level.sum()
        costs = (getattr(cost, name) for name in Evaluation._fields[2:])
        return Evaluation(jnp.clip(0.9 + 1e-3 * bits, 0.0, 1.0), jnp.exp(-0.1 * bits), *costs)

    strategy, stage = stages.build_strategy(prepared), stages.build_stages(prepared)[0]
    carry = loop.start(strategy, stage.problem, stage.keys, 10**6)
    for _, record in loop.resume(strategy, evaluate, prepared.subject, stage.problem, carry, 2):
        yield len(record.reward), 0.0


def evaluation_seconds(prepared: Prepared) -> float:
    """Seconds of one evaluation from the images on, of policies drawn at random."""
    policies = drawn(prepared, prepared.config.search.parallel)
    run = compiled(build_evaluator(prepared))
    jax.block_until_ready(run(prepared.subject, policies))
    start = time.perf_counter()
    jax.block_until_ready(run(prepared.subject, policies))
    return (time.perf_counter() - start) / len(policies.level)


def drawn(prepared: Prepared, count: int) -> Policy:
    """Policies at random."""
    rng, shape = np.random.default_rng(0), (count, len(prepared.network.layers))
    places = np.stack([rng.integers(0, size, shape) for size in prepared.space.sizes], axis=-1)
    return environment.decode_places(prepared.space, jnp.asarray(places, jnp.int32))


@functools.lru_cache(maxsize=4)
def compiled(evaluate: Any) -> Any:
    return jax.jit(lambda subject, policies: jax.lax.map(lambda p: evaluate(subject, p), policies))


def _quality(seed: int) -> dict[str, float]:
    """Seconds of both, LeNet-5 with all that validates, the loss of half a point allowed."""
    prepared, calibration = prepared_of("lenet5", seed)
    least = np.float32(prepared.problem.min_accuracy)
    reference = ReferenceLoop("lenet5", prepared, calibration, seed)
    start, best, at = time.perf_counter(), -np.inf, 0.0
    for _ in range(QUALITY_EPISODES):
        one = reference.episode()
        if np.float32(one.accuracy) >= least and one.gain > best:
            best, at = one.gain, time.perf_counter() - start
    whole = time.perf_counter() - start
    start = time.perf_counter()
    for _ in stages.search_policies(prepared):
        break
    compiled = time.perf_counter() - start  # and the first two batches
    start, seconds, count = time.perf_counter(), np.nan, 0
    for record in stages.search_policies(prepared):
        count += len(record.reward)
        meets = record.evaluation.accuracy >= least
        if (meets & (judge.judge(prepared, record).gain >= best)).any():
            seconds = time.perf_counter() - start
            break
        if count >= QUALITY_EPISODES:
            break
    print(
        f"| {seed} | {whole:.1f} s | {np.exp(best):.2f}x at {at:.1f} s | {seconds:.2f} s, "
        f"{count} evaluations | {compiled:.1f} s | {whole / seconds:.1f} |",
        flush=True,
    )
    return {
        "reference": whole,
        "best_gain": best,
        "reference_best_at": at,
        "search": seconds,
        "search_evaluations": count,
        "search_compiles": compiled,
    }


def prepared_of(name: str, seed: int) -> tuple[Prepared, np.ndarray]:
    """What both loops run on, and training images for the ranges of the inputs."""
    count, _ = SIZES[name]
    options = SearchOptions(episodes=10**6, tuned=0)
    config = Config(seed=seed, model=ModelOptions(name), search=options)
    if name == "lenet5":
        found = data.load("", "mnist_5k")
        parts = ("images", "labels")
        both: dict[str, Any] = {
            f"search_{part}": np.concatenate(
                [getattr(found, f"{half}_{part}") for half in ("search", "select")]
            )[:count]
            for part in parts
        }
        dataset = dataclasses.replace(found, **both)
        cache = find_cache()
        apply_fn, params, _ = build_trained(config.model, config.training, found, cache)
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


def write(path: pathlib.Path, found: dict[str, Any]) -> None:
    """With where and when it was measured."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", text)
    where = {
        "date": datetime.date.today().isoformat(),
        "processor": model.group(1) if model else platform.processor(),
        "flags": sorted(set(FLAGS.findall(text))),
        "load": os.getloadavg(),  # runnable processes over the last 1, 5 and 15 minutes
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": torch.__version__,
    }
    write_whole(path, json.dumps(found | where, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
