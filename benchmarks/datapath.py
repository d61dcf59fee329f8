"""Measures how long executing a mapping takes: LeNet-5 on 1,000 images, VGG-16 on one.

Prints a Markdown table. Weights and masks are random, because the work depends only on how many
weights survive.

    python benchmarks/datapath.py [--repeats 3]
"""

import argparse
import os
import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from harness import parse

from apq_jax import mapping
from apq_jax.compression import converters
from apq_jax.hardware import PRESETS
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.mapping import datapath, schemes

CASES = (  # network, images, share kept, weight bits, scheme
    ("lenet5", 1000, 0.4, 4, "column_vector"),
    ("lenet5", 1000, 1.0, 8, "dense"),
    ("vgg16", 1, 0.4, 4, "column_vector"),
    ("vgg16", 1, 1.0, 8, "dense"),
)
SMOKE_CASES = (("lenet5", 2, 0.4, 4, "column_vector"),)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parse(parser, repeats=1)
    print("| network | images | kept | bits | scheme | units | mapping | first run | a run |")
    print("|---|--:|--:|--:|---|--:|--:|--:|--:|")
    for name, images, keep, bits, scheme in SMOKE_CASES if options.smoke else CASES:
        units, seconds, runs = _measure(name, images, keep, bits, scheme, options.repeats)
        print(
            f"| {name} | {images:,} | {keep:g} | {bits}, 8 | {scheme} | {units:,} | "
            f"{seconds:.1f} s | {runs[0]:.1f} s | {statistics.median(runs[1:]):.1f} s |",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nMost memory: {peak:.1f} GiB; {os.cpu_count()} cores, jax {jax.__version__}, ")
    print(f"{jax.default_backend()}. The first run compiles.")
    return 0


def _measure(
    name: str, images: int, keep: float, bits: int, scheme: str, repeats: int
) -> tuple[int, float, list[float]]:
    """Returns units, seconds to map, and seconds of each run over all layers."""
    accelerator, rng = PRESETS["isaac_ou"], np.random.default_rng(0)
    adc = converters.build_converter(accelerator)
    units, seconds, runs = 0, 0.0, [0.0] * (repeats + 1)
    for layer in WORKLOADS[name]:
        shape = layer.groups, layer.rows, layer.columns
        mask = schemes.prune_blocks(layer, rng.normal(size=shape), scheme, keep, accelerator)
        max_level = 2 ** (bits - 1) - 1
        levels = rng.integers(-max_level, max_level + 1, shape, dtype=np.int32) * mask
        start = time.perf_counter()
        mapped = mapping.map_layer(layer, levels, mask, bits, 8, scheme, accelerator)
        path, banks = datapath.build_parts((mapped,), accelerator)[0]
        seconds += time.perf_counter() - start
        units += len(mapped.units.bank)
        windows = images * layer.positions, layer.groups * layer.rows
        inputs = jnp.asarray(rng.integers(0, 256, windows, dtype=np.int32))
        for run in range(repeats + 1):
            start = time.perf_counter()
            jax.block_until_ready(datapath.execute(path, banks, adc, inputs))
            runs[run] += time.perf_counter() - start
    return units, seconds, runs


if __name__ == "__main__":
    sys.exit(main())
