"""Measures how much accuracy each way of pruning keeps before fine-tuning: a Markdown table.

LeNet-5 on MNIST-5k, 6-bit weights, 8-bit inputs, the same keep ratio in all layers, the 1,000
validation images; mean and range over networks trained with different seeds.

    python benchmarks/compensation.py [--seeds 5]
"""

import argparse
import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from harness import change, parse

from apq_jax import data
from apq_jax.compression import calibration, converters, plan
from apq_jax.compression.compressed import apply, compress
from apq_jax.compression.options import PlanOptions, Recovery
from apq_jax.compression.pruning import Block
from apq_jax.config import Config
from apq_jax.data.scoring import compute_accuracy
from apq_jax.hardware import PRESETS
from apq_jax.models.lenet import LeNet5
from apq_jax.models.weights import load_or_train
from apq_jax.network.capture import Network, capture, extract_matrices
from apq_jax.system.cache import find_cache
from apq_jax.types import Policy

KEEPS = (0.5, 0.4, 0.3, 0.2)
HEIGHT = 9
CELLS = converters.get_cells(PRESETS["isaac_ou"])
PLAIN, MATCHED = Recovery(match_moments=False), Recovery()
METHODS = {
    "l2, masked only": (PlanOptions(score="l2", compensate=False), PLAIN),
    "l2 + moments": (PlanOptions(score="l2", compensate=False), MATCHED),
    "l2 + compensation": (PlanOptions(score="l2", centre=False), PLAIN),
    "activation + compensation": (PlanOptions(score="activation", centre=False), PLAIN),
    "obs + compensation + moments": (PlanOptions(score="obs", centre=False), MATCHED),
    "activation + centred compensation + moments": (PlanOptions(score="activation"), MATCHED),
    "obs + centred compensation + moments (default)": (PlanOptions(score="obs"), MATCHED),
}


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parse(parser, seeds=1)
    config = change(Config(), options.fields)
    methods = dict(list(METHODS.items())[-1:]) if options.smoke else METHODS
    dataset = data.load(config.data.path)
    images = jnp.concatenate([dataset.search_images, dataset.select_images])
    labels = jnp.concatenate([dataset.search_labels, dataset.select_labels])
    model = LeNet5(dataset.classes)
    accuracies: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    floats = []
    for seed in range(options.seeds):
        params = model.init(jax.random.key(seed), jnp.asarray(dataset.train_images[:1]))
        recipe = dataclasses.replace(config.training, seed=seed)
        cache = find_cache()
        params, _ = load_or_train("lenet5", model.apply, params, dataset, recipe, cache)
        network = capture(model.apply, params, jnp.asarray(dataset.train_images[:2]))
        weights = extract_matrices(network, params)
        train = jnp.asarray(dataset.train_images)
        statistics = calibration.calibrate(network, params, weights, train)
        statistics = calibration.match_images(network, params, weights, statistics, train[:256])
        floats.append(compute_accuracy(jax.jit(model.apply)(params, images), labels))
        for name, (planned, recovery) in methods.items():
            blocks = (Block(HEIGHT),) * len(network.layers)
            layers = plan.build_plan(weights, statistics, blocks, planned)
            levels = [
                int(np.abs(plan.compute_keep_ratios(planned) - keep).argmin()) for keep in KEEPS
            ]
            count = len(network.layers)
            policies = Policy(
                jnp.repeat(jnp.asarray(levels)[:, None], count, axis=1),
                jnp.full((len(KEEPS), count), 6),
                jnp.full((len(KEEPS), count), 8),
            )
            score = functools.partial(_score, network, recovery)
            args = (params, layers, statistics, train[:256], images, labels)
            row = np.asarray(jax.jit(score)(args, policies))
            accuracies[name].append(row)
            print(f"seed {seed}: {name}: {np.round(100 * row, 1)}", file=sys.stderr)
    mean = f"{100 * np.mean(floats):.1f} %"
    print(f"Float: {mean}. {options.seeds} networks: mean (least to most).\n")
    print("| | " + " | ".join(f"keep {keep}" for keep in KEEPS) + " |")
    print("|---" * (len(KEEPS) + 1) + "|")
    for name, rows in accuracies.items():
        table = 100 * np.stack(rows)
        cells = [
            f"{column.mean():.1f} ({column.min():.1f} to {column.max():.1f})" for column in table.T
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    return 0


def _score(network: Network, recovery: Recovery, args: tuple, policies: Policy) -> jax.Array:
    params, layers, statistics, moment_images, images, labels = args

    def score(policy: Policy) -> jax.Array:
        compressed = compress(
            network, params, layers, statistics, moment_images, CELLS, recovery, policy
        )
        logits = apply(network, params, compressed, images)
        return jnp.mean(logits.argmax(axis=-1) == labels)

    return jax.lax.map(score, policies)


if __name__ == "__main__":
    sys.exit(main())
