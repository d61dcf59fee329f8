"""Measures what converters that round cost in the search.

    taskset -c 0 python benchmarks/converters.py [--networks lenet5 mobile] [--repeats 5]

Evaluates the same random policies with converters that lose nothing and with converters of one bit
less, in turn; prints seconds of an evaluation, medians, their ratio within a repeat, and seconds
until the first evaluation is done, which compile it. `mobile` is a network of 18 layers in the
manner of MobileNet, on 32 x 32 pixels. Weights and images are random: times do not depend on them.
Writes benchmarks/results/converters/NETWORK.json.
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from harness import RESULTS, change, parse, write_results
from speed import compile_evaluations, draw_policies

from apq_jax import hardware
from apq_jax.compression.options import PlanOptions
from apq_jax.config import Config, SearchOptions
from apq_jax.data import Dataset
from apq_jax.models.lenet import LeNet5
from apq_jax.network.capture import capture
from apq_jax.pipeline import prepare
from apq_jax.pipeline.prepared import Prepared, build_evaluator

POLICIES = 2


class Mobile(nn.Module):
    """A convolution, eight pairs of a depthwise and a pointwise one, and a dense layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        for wide, step in (
            (32, 1),
            (32, 2),
            (64, 1),
            (64, 2),
            (128, 1),
            (128, 1),
            (128, 2),
            (256, 1),
        ):
            channels = x.shape[-1]
            x = nn.relu(nn.Conv(channels, (3, 3), (step, step), feature_group_count=channels)(x))
            x = nn.relu(nn.Conv(wide, (1, 1))(x))
        return nn.Dense(10)(x.mean(axis=(1, 2)))


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {  # images' shape and number
    "lenet5": (LeNet5(10), (28, 28, 1), 500),
    "mobile": (Mobile(), (32, 32, 3), 200),
}


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "converters")
    options = parse(parser, networks=["lenet5"], repeats=1)
    print(
        "| network | lossless, s | one bit less, s | ratio | first: lossless, s | one bit less, s |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for name in options.networks:
        results = _measure(name, options.repeats, options.fields)
        write_results(options.results / f"{name}.json", results)
    return 0


def _measure(name: str, repeats: int, fields: dict[str, Any]) -> dict[str, Any]:
    sides = {side: _prepare(name, fields, side == "rounded") for side in ("lossless", "rounded")}
    runs = {side: compile_evaluations(build_evaluator(each)) for side, each in sides.items()}
    policies = {side: draw_policies(each, POLICIES) for side, each in sides.items()}

    def evaluate(side: str) -> float:
        start = time.perf_counter()
        jax.block_until_ready(runs[side](sides[side].subject, policies[side]))
        return time.perf_counter() - start

    first = {side: evaluate(side) for side in sides}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side in sides:
            seconds[side].append(evaluate(side) / POLICIES)
    pairs = zip(seconds["rounded"], seconds["lossless"], strict=True)
    ratios = [rounded / lossless for rounded, lossless in pairs]
    medians = [f"{np.median(seconds[side]):.4f}" for side in sides]
    ratio = f"{np.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
    row = name, *medians, ratio, *(f"{first[side]:.1f}" for side in sides)
    print(f"| {' | '.join(row)} |", flush=True)
    return {"layers": len(sides["rounded"].network.layers), "seconds": seconds, "first": first}


def _prepare(name: str, fields: dict[str, Any], rounds: bool) -> Prepared:
    model, shape, count = NETWORKS[name]
    count, rng = 32 if fields else count, np.random.default_rng(0)
    images = rng.random((count, *shape), np.float32)
    dataset = Dataset("random", 10, *(images, rng.integers(0, 10, count, np.int32)) * 4)
    params = jax.jit(model.init)(jax.random.key(0), jnp.asarray(images[:1]))
    options = SearchOptions(tuned=0, probes=2, moment_images=64)
    plan = PlanOptions(levels=4, compensate=False, score="l2")
    config = change(
        Config(plan=plan, search=options), {k: v for k, v in fields.items() if "data" not in k}
    )
    accelerator = hardware.load(config.accelerator)
    if rounds:
        bits = accelerator.lossless_adc_bits - 1
        accelerator = dataclasses.replace(accelerator, adc_bits=bits)
    network = capture(model.apply, params, jnp.asarray(images[:2]))
    return prepare.prepare(network, params, dataset, accelerator, config)


if __name__ == "__main__":
    sys.exit(main())
