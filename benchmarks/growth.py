"""How time and memory of evaluations grow with policies, images, layers, keep levels and width.

A stack of 3 x 3 convolutions on 8 x 8 pixels with random weights; one quantity at a time is varied,
the others stay. Seconds are of a policy with nothing remembered, the median of some runs; memory is
what XLA sets aside for the program and its arguments.

    taskset -c 0 python benchmarks/growth.py

Written is benchmarks/results/growth/growth.json; benchmarks/performance.py draws it.
"""

import pathlib
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from speed import compiled, drawn, write

from apq_jax import hardware
from apq_jax.compression.options import PlanOptions
from apq_jax.config import Config, SearchOptions
from apq_jax.data import Dataset
from apq_jax.network.capture import capture
from apq_jax.pipeline import prepare
from apq_jax.pipeline.prepared import build_evaluator

RESULTS = pathlib.Path(__file__).parent / "results/growth"
USUAL = {"policies": 4, "images": 500, "layers": 4, "levels": 16, "width": 32}
VARIED = {
    "policies": (1, 2, 4, 8, 16, 32),
    "images": (250, 500, 1000, 2000, 4000),
    "layers": (2, 4, 8, 16),
    "levels": (4, 8, 16, 32, 64),
    "width": (8, 16, 32, 64, 128),
}
REPEATS = 5


class Stack(nn.Module):
    """Convolutions of one width, then a classifier."""

    layers: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.layers):
            x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


def main() -> int:
    found: dict[str, list[dict[str, Any]]] = {}
    print("| varied | value | s a policy | s to compile | MB |\n|---|--:|--:|--:|--:|")
    for name, values in VARIED.items():
        found[name] = []
        for value in values:
            one = _measured(**(USUAL | {name: value}))
            found[name].append({"value": value, **one})
            print(
                f"| {name} | {value} | {one['seconds']:.4f} | {one['compile_seconds']:.1f} | "
                f"{one['bytes'] / 1e6:.0f} |",
                flush=True,
            )
    write(RESULTS / "growth.json", {"usual": USUAL, "varied": found})
    return 0


def _measured(policies: int, images: int, layers: int, levels: int, width: int) -> dict[str, Any]:
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
    run = compiled(build_evaluator(prepared))
    arguments = prepared.subject, drawn(prepared, policies)
    start = time.perf_counter()
    program = run.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(program(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - start)
    memory = program.memory_analysis()
    return {
        "seconds": statistics.median(times) / policies,
        "compile_seconds": compile_seconds,
        "bytes": int(memory.temp_size_in_bytes + memory.argument_size_in_bytes),
    }


if __name__ == "__main__":
    sys.exit(main())
