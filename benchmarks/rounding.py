"""Measures what few bits cost before training, each weight rounded by itself and by descent.

    python benchmarks/rounding.py [--networks vgg8 resnet20] [--cifar FOLDER_OR_NPZ]

Uniform policies: weights of 1 to 4 bits, inputs of 4 and 8, nothing pruned and two keep ratios.
Prints percentage points of accuracy below the float network, on the selection images, and writes
benchmarks/results/rounding/NETWORK.json.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import RESULTS, change, parse, write_results

from apq_jax import data
from apq_jax.compression import calibration, converters, plan
from apq_jax.compression.compressed import apply, compress
from apq_jax.compression.options import Recovery
from apq_jax.compression.pruning import Block
from apq_jax.config import Config, from_config_dict
from apq_jax.data.scoring import compute_accuracy, run_in_chunks
from apq_jax.hardware import PRESETS
from apq_jax.models.create import build_trained
from apq_jax.network.capture import capture, extract_matrices
from apq_jax.run.flags import read_config
from apq_jax.system.cache import find_cache
from apq_jax.types import Policy

CELLS = converters.get_cells(PRESETS["isaac_ou"])
CONFIGS = {"lenet5": "lenet_mnist", "vgg8": "vgg8_fashion", "resnet20": "resnet20_cifar"}
KEEPS, WEIGHT_BITS, INPUT_BITS = (1.0, 0.5, 0.3), (1, 2, 3, 4), (4, 8)
SWEEPS = {"nearest": 0, "descent": 2}
_CHUNK = 100


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=CONFIGS, default=["vgg8", "resnet20"])
    parser.add_argument("--cifar", default="", help="the images of resnet20")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "rounding")
    options = parse(parser, networks=["lenet5"])
    bits = list(itertools.product(WEIGHT_BITS, INPUT_BITS))
    for name in options.networks:
        config = change(from_config_dict(read_config(CONFIGS[name])), options.fields)
        if name == "resnet20" and options.cifar:
            config = change(config, {"data.path": options.cifar})
        results = _measure(config)
        print(f"\n{name}: float {100 * results['float']:.2f} %; points below it\n")
        names = (f"{w}-bit weights, {a}-bit inputs" for w, a in bits)
        print("| keep | rounding | " + " | ".join(names) + " | Plan, s |")
        print("|--:|---|" + "--:|" * (len(bits) + 1))
        for row in results["rows"]:
            points = [f"{100 * (results['float'] - x):.1f}" for x in row["accuracy"]]
            seconds = f"{row['plan_seconds']:.0f}"
            print(f"| {row['keep']:.2f} | {row['rounding']} | {' | '.join(points)} | {seconds} |")
        write_results(options.results / f"{name}.json", results | {"bits": bits})
    return 0


def _measure(config: Config) -> dict[str, Any]:
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limit_images(dataset, config.data.search_images, config.data.select_images)
    apply_fn, params, _ = build_trained(config.model, config.training, dataset, find_cache())
    network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    weights = extract_matrices(network, params)
    train = jnp.asarray(dataset.train_images[:5000])
    moment_images = train[: config.search.moment_images]
    statistics = calibration.calibrate(network, params, weights, train)
    statistics = calibration.match_images(network, params, weights, statistics, moment_images)
    float_logits = run_in_chunks(
        jax.jit(functools.partial(apply_fn, params)), dataset.select_images, _CHUNK
    )
    compress_policy = jax.jit(compress, static_argnums=(0, 5, 6))
    run = jax.jit(apply, static_argnums=0)
    rows, count = [], len(network.layers)
    for rounding, sweeps in SWEEPS.items():
        options = dataclasses.replace(config.plan, sweeps=sweeps)
        start = time.perf_counter()
        layers = jax.block_until_ready(
            plan.build_plan(weights, statistics, (Block(CELLS.unit_rows),) * count, options)
        )
        seconds = time.perf_counter() - start
        ratios = plan.compute_keep_ratios(options)
        for level in sorted({int(np.abs(ratios - keep).argmin()) for keep in KEEPS}):
            accuracies = []
            for weight_bits, input_bits in itertools.product(WEIGHT_BITS, INPUT_BITS):
                chosen = (level, weight_bits, input_bits)
                policy = Policy(*(jnp.full(count, x, jnp.int32) for x in chosen))
                compressed = compress_policy(
                    network, params, layers, statistics, moment_images, CELLS, Recovery(), policy
                )
                logits = run_in_chunks(
                    functools.partial(run, network, params, compressed),
                    dataset.select_images,
                    _CHUNK,
                )
                accuracies.append(compute_accuracy(logits, dataset.select_labels))
            row = {"keep": ratios[level], "rounding": rounding, "accuracy": accuracies}
            rows.append(row | {"plan_seconds": seconds})
            print(f"{rounding}, keep {ratios[level]:.2f}: {accuracies}", file=sys.stderr)
    return {"float": compute_accuracy(float_logits, dataset.select_labels), "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
