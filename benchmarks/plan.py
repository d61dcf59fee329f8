"""Measures time and memory of a large network's Plan: a Markdown table and JSON.

Weights (He's) and images are random, because time and memory do not depend on the values. Times
include the compiling; the memory is the most that the process has held so far. If other work shares
the cores, processor time tells more than the clock: divided by the cores it is the least that the
clock could show.

    python benchmarks/plan.py [--network vgg16] [--levels 16] [--images 5000]

Writes benchmarks/results/plan/NETWORK.json.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import math
import os
import pathlib
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import RESULTS, parse

from apq_jax.compression import calibration, plan
from apq_jax.compression.pruning import Block
from apq_jax.config import Config
from apq_jax.data import Dataset
from apq_jax.models.create import build
from apq_jax.models.options import NAMES, ModelOptions
from apq_jax.network.capture import capture, extract_matrices
from apq_jax.system.files import write_whole

BLOCK, CLASSES = Block(9), 10


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="vgg16", choices=NAMES)
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "plan")
    flags = parse(parser, network="lenet5", levels=2, images=16)
    rng = np.random.default_rng(0)
    images = rng.random((flags.images, 32, 32, 3), np.float32)
    labels = rng.integers(0, CLASSES, flags.images, np.int32)
    dataset = Dataset("random", CLASSES, *(images, labels) * 4)
    model = build(ModelOptions(flags.network), dataset)
    params = jax.jit(model.init)(jax.random.key(0), jnp.asarray(images[:1]))
    params = jax.tree.map_with_path(_scale_to_he, params)
    network = capture(model.apply, params, jnp.asarray(images[:2]))
    weights = extract_matrices(network, params)
    config = Config()
    options = dataclasses.replace(config.plan, levels=flags.levels)
    rows: list[dict[str, Any]] = []
    print("| stage | matrix | seconds | of the processor | GiB at most |\n|---|---|--:|--:|--:|")
    clock, busy = time.perf_counter(), time.process_time()
    x = jnp.asarray(images)
    statistics = _time(
        rows, "calibrate", "", lambda: calibration.calibrate(network, params, weights, x)
    )
    few = x[: config.search.moment_images]
    statistics = _time(
        rows,
        "match",
        "",
        lambda: calibration.match_images(network, params, weights, statistics, few),
    )
    layers = []
    for layer, w, seen in zip(network.layers, weights, statistics, strict=True):
        shape = f"{layer.rows} x {layer.columns}"
        build_one = functools.partial(plan.build_plan, (w,), (seen,), (BLOCK,), options)
        layers += _time(rows, layer.name.removeprefix("params/"), shape, build_one)
    count = f"{sum(w.size for w in weights):,}"
    _add_row(rows, "all", count, time.perf_counter() - clock, time.process_time() - busy)
    results = {
        "network": flags.network,
        "levels": flags.levels,
        "images": flags.images,
        "plan_gib": sum(leaf.nbytes for leaf in jax.tree.leaves(layers)) / 2**30,
        "statistics_gib": sum(leaf.nbytes for leaf in jax.tree.leaves(statistics)) / 2**30,
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),  # runnable processes over the last 1, 5 and 15 minutes
        "python": platform.python_version(),
        "jax": jax.__version__,
        "stages": rows,
    }
    write_whole(flags.results / f"{flags.network}.json", json.dumps(results, indent=1) + "\n")
    print(f"\n{ {name: value for name, value in results.items() if name != 'stages'} }")
    return 0


def _scale_to_he(path: Any, leaf: jax.Array) -> jax.Array:
    """Scales Flax's kernels, whose variance is one over the inputs, to He's, where it is two."""
    return leaf * math.sqrt(2) if path[-1].key == "kernel" else leaf


def _time(rows: list[dict], name: str, shape: str, compute: Callable[[], Any]) -> Any:
    clock, busy = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(compute())
    _add_row(rows, name, shape, time.perf_counter() - clock, time.process_time() - busy)
    return result


def _add_row(rows: list[dict], name: str, shape: str, seconds: float, busy: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of KiB
    print(f"| {name} | {shape} | {seconds:.1f} | {busy:.1f} | {peak:.1f} |", flush=True)
    rows.append(
        {"stage": name, "matrix": shape, "seconds": seconds, "cpu_seconds": busy, "peak_gib": peak}
    )


if __name__ == "__main__":
    sys.exit(main())
