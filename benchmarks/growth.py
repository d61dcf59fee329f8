"""Measures how time and memory of evaluations grow with policies, images, layers, levels, width.

The network is a stack of 3 x 3 convolutions on 8 x 8 pixels with random weights; one quantity at a
time is varied. Seconds are per policy with nothing remembered, the median of some runs; memory is
what XLA sets aside for the program and its arguments.

    taskset -c 0 python benchmarks/growth.py

Writes benchmarks/results/growth/growth.json, which benchmarks/performance.py draws.
"""

import argparse
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from harness import RESULTS, measure_median, parse, write_results
from speed import compile_evaluations, draw_policies

from apq_jax import hardware
from apq_jax.compression.options import PlanOptions
from apq_jax.config import Config, SearchOptions
from apq_jax.data import Dataset
from apq_jax.network.capture import capture
from apq_jax.pipeline import prepare
from apq_jax.pipeline.prepared import build_evaluator

USUAL = {"policies": 4, "images": 500, "layers": 4, "levels": 16, "width": 32}
VARIED = {
    "policies": (1, 2, 4, 8, 16, 32),
    "images": (250, 500, 1000, 2000, 4000),
    "layers": (2, 4, 8, 16),
    "levels": (4, 8, 16, 32, 64),
    "width": (8, 16, 32, 64, 128),
}
SMOKE_USUAL = {"policies": 1, "images": 50, "layers": 1, "levels": 2, "width": 4}
SMOKE_VARIED = {"policies": (1, 2)}
REPEATS = 5


class Stack(nn.Module):
    """A stack of convolutions of one width, and a classifier."""

    layers: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.layers):
            x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "growth")
    options = parse(parser)
    usual, varied = (SMOKE_USUAL, SMOKE_VARIED) if options.smoke else (USUAL, VARIED)
    rows: dict[str, list[dict[str, Any]]] = {}
    print("| varied | value | s a policy | s to compile | MB |\n|---|--:|--:|--:|--:|")
    for name, values in varied.items():
        rows[name] = []
        for value in values:
            row = _measure(**(usual | {name: value}))
            rows[name].append({"value": value, **row})
            print(
                f"| {name} | {value} | {row['seconds']:.4f} | {row['compile_seconds']:.1f} | "
                f"{row['bytes'] / 1e6:.0f} |",
                flush=True,
            )
    write_results(options.results / "growth.json", {"usual": usual, "varied": rows})
    return 0


def _measure(policies: int, images: int, layers: int, levels: int, width: int) -> dict[str, Any]:
    """Returns seconds a policy, seconds to compile, and bytes."""
    rng = np.random.default_rng(0)
    pixels = rng.random((images, 8, 8, 3), np.float32)
    labels = rng.integers(0, 10, images, np.int32)
    dataset = Dataset("random", 10, *(pixels, labels) * 4)
    model = Stack(layers, width)
    params = model.init(jax.random.key(0), pixels[:1])
    network = capture(model.apply, params, pixels[:2])
    config = Config(
        plan=PlanOptions(levels=levels, compensate=False, score="l2"),
        search=SearchOptions(tuned=0, probes=2, moment_images=128, chunk=250),
    )
    accelerator = hardware.load(config.accelerator)
    prepared = prepare.prepare(network, params, dataset, accelerator, config)
    run = compile_evaluations(build_evaluator(prepared))
    arguments = prepared.subject, draw_policies(prepared, policies)
    start = time.perf_counter()
    program = run.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    seconds = measure_median(lambda: program(*arguments), REPEATS)
    memory = program.memory_analysis()
    return {
        "seconds": seconds / policies,
        "compile_seconds": compile_seconds,
        "bytes": int(memory.temp_size_in_bytes + memory.argument_size_in_bytes),
    }


if __name__ == "__main__":
    sys.exit(main())
