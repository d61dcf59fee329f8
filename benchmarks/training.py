"""Measures a step of training and of fine-tuning beside PyTorch's training step.

The same network takes steps of AdamW on 64 random images of 32 x 32 x 3, on one core: here in
float32, and quantization-aware with a quarter of the weights kept (augmentation and the float
network's logits included); in PyTorch in float32, and with products in bfloat16, channels last. All
sides take turns; medians over the repeats, ratios within a repeat.

    taskset -c 0 python benchmarks/training.py [--networks resnet20 vgg16] [--repeats 7]

Writes benchmarks/results/training/NETWORK.json. Without PyTorch --smoke leaves its side out.
"""

import argparse
import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import NO_TORCH, RESULTS, find_torch, parse, write_results

from apq_jax.compression import finetune
from apq_jax.compression.compressed import CompressedLayer
from apq_jax.compression.options import FinetuneOptions
from apq_jax.data import Dataset
from apq_jax.models import training
from apq_jax.models.create import build
from apq_jax.models.options import ModelOptions, Training
from apq_jax.network.capture import capture, compute_float_logits, extract_matrices
from apq_jax.pipeline.choose import build_augment
from apq_jax.system.cache import open_cache

NETWORKS = "resnet20", "vgg16"
BATCH = 64
RATE = 1e-3


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "training")
    options = parse(parser, networks=["resnet20"], repeats=1, batch=2, width=0.2)
    if len(os.sched_getaffinity(0)) > 1 and not options.smoke:
        parser.error("more than one core; allowed: one, such as taskset -c 0 gives")
    if not find_torch() and not options.smoke:
        raise SystemExit(f"benchmarks/training.py: {NO_TORCH}")
    open_cache()
    for name in options.networks:
        seconds = measure(name, options.width, options.batch, options.repeats)
        for side, each in seconds.items():
            print(f"{name}, {side}: {1e3 * np.median(each):.0f} ms a step", flush=True)
        results = {"batch": options.batch, "width": options.width, "seconds": seconds}
        write_results(options.results / f"{name}.json", results)
    return 0


def measure(name: str, width: float, batch: int, repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of a step of every side, one a repeat."""
    rng = np.random.default_rng(0)
    images = rng.random((batch, 32, 32, 3), np.float32)
    labels = rng.integers(0, 10, batch)
    sides = build_steps(ModelOptions(name, width), images, labels)
    if find_torch():
        from torch_networks import build_torch_step  # needs PyTorch

        sides["PyTorch"] = build_torch_step(name, width, images, labels, RATE, bfloat16=False)
        sides["PyTorch, bfloat16"] = build_torch_step(
            name, width, images, labels, RATE, bfloat16=True
        )
    else:
        print(f"PyTorch is left out: {NO_TORCH}", file=sys.stderr)
    for step in sides.values():
        step()  # compiles
        step()
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, step in sides.items():
            start = time.perf_counter()
            step()
            seconds[side].append(time.perf_counter() - start)
    return seconds


def build_steps(
    options: ModelOptions, images: np.ndarray, labels: np.ndarray
) -> dict[str, Callable[[], Any]]:
    """Builds the package's own steps, which wait for their results."""
    x, y = jnp.asarray(images), jnp.asarray(labels, jnp.int32)
    model: Any = build(options, Dataset("random", 10, *(images, labels) * 4))
    params = jax.jit(model.init)(jax.random.key(0), x[:1])
    state = training.build_optimizer(RATE, 0.01, 1000).init(params)
    train_fn = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    training_state = [params, state]

    def train() -> None:
        training_state[:] = training.take_step(
            model.apply,
            *training_state,
            x,
            y,
            jnp.arange(len(y))[None],
            jax.random.key(0)[None],
            0,
            rates=(RATE, 0.01),
            train_fn=train_fn,
            max_shift=0,
            flip=False,
            steps=1000,
        )[:2]
        jax.block_until_ready(training_state)

    network = capture(model.apply, params, x[:2])
    weights = extract_matrices(network, params)
    masks = tuple(w > jnp.quantile(w, 0.75) for w in weights)
    compressed = tuple(map(_compress, weights, masks))
    bits = jnp.full(len(weights), 4)
    fixed, learnt = finetune.split_learnt(compressed, masks, bits)
    tuning_options = FinetuneOptions(batch=len(y))
    optimiser = finetune.build_optimiser(tuning_options)
    tuning_state = [learnt, jax.jit(optimiser.init)(learnt)]
    train_images = finetune.Images(x, y)
    augment = build_augment(Training())

    known = compute_float_logits(network, params, x)

    def tune(augment: Any, reference: jax.Array | None) -> None:
        tuning_state[:] = finetune.take_step(
            network,
            tuning_options,
            augment,
            optimiser,
            params,
            fixed,
            *tuning_state,
            train_images,
            reference,
            jax.random.key(0),
            np.int32(0),
        )
        jax.block_until_ready(tuning_state)

    return {
        "training": train,
        "fine-tuning": functools.partial(tune, augment, None),
        "fine-tuning, nothing augmented": functools.partial(tune, None, known),
    }


def _compress(weight: jax.Array, mask: jax.Array) -> CompressedLayer:
    """Returns a layer of 4-bit weights and 6-bit inputs; its values do not matter."""
    scale = jnp.abs(weight).max(axis=1) / 7
    levels = (weight / scale[:, None]).round() * mask
    unit = jnp.ones(())
    return CompressedLayer(
        levels.astype(jnp.int8), scale, unit / 16, unit * 8, jnp.asarray(6), scale / 16, 0 * scale
    )


if __name__ == "__main__":
    sys.exit(main())
