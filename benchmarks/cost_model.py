"""Measures how many policies and accelerators the cost model prices a second: a Markdown table.

VGG-16 (CIFAR form), 32 keep levels, column-vectors of random masks. A policy's cost is every field
of `crossbar.Cost`; tables and prices are built beforehand and timed apart. The loop is the same
formulas in NumPy, one policy at a time. Medians over repeats.

    python benchmarks/cost_model.py [--repeats 7] [--policies 200000]
"""

import argparse
import dataclasses
import os
import platform
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import measure_median, parse

from apq_jax import crossbar
from apq_jax.compression.prices import Prices, build_prices, look_up_costs, move_to_device
from apq_jax.hardware import Accelerator, Chip
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.types import Policy

LEVELS, BITS, HEIGHT = 32, 8, 9
BATCH = 1000  # policies at a time: what they look up stays in the cache


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--policies", type=int, default=200_000)
    options = parse(parser, repeats=1, policies=BATCH)
    layers, rng = WORKLOADS["vgg16"], np.random.default_rng(0)
    survivors = []
    for layer in layers:
        groups = layer.groups * layer.count_row_groups(HEIGHT)
        keep = np.geomspace(1.0, 0.02, LEVELS)[:, None]
        survivors.append(rng.binomial(layer.columns, keep, (LEVELS, groups)).astype(np.int32))
    accelerator = Accelerator()
    chip, slices = accelerator.chip(), accelerator.slices(BITS)

    start = time.perf_counter()
    tables = crossbar.tabulate_column_vectors(layers, survivors, HEIGHT, chip, slices)
    prices = build_prices(layers, tables, chip, BITS, BITS)
    host_s = time.perf_counter() - start
    on_device = move_to_device(prices)

    shape = (options.policies // BATCH * BATCH, len(layers))
    policies = Policy(
        *(
            jnp.asarray(rng.integers(low, high, shape), jnp.int32)
            for low, high in ((0, LEVELS), (1, BITS + 1), (1, BITS + 1))
        )
    )
    batches = jax.tree.map(lambda x: x.reshape(-1, BATCH, len(layers)), policies)
    one_by_one = jax.tree.map(np.asarray, policies)

    @jax.jit
    def priced(prices: Prices, batches: Policy) -> crossbar.Cost:
        return jax.lax.map(lambda batch: look_up_costs(prices, batch), batches)

    def loop() -> None:
        for index in range(200):
            level, weight, inputs = (x[index] for x in one_by_one[:3])
            counts = crossbar.look_up_counts(tables, chip, level, weight)
            crossbar.compute_cost(layers, counts, chip, inputs)

    chips = [
        dataclasses.replace(
            accelerator,
            crossbar_rows=rows,
            crossbar_columns=columns,
            unit_columns=width,
            cell_bits=cells,
            adc_law=law,
        ).chip()
        for rows in (64, 128, 256, 512, 1024)
        for columns in (64, 128, 256, 512, 1024)
        for width in (4, 8, 12, 16, 32)
        for cells in (1, 2)
        for law in ("saberi", "table", "linear", "survey")
    ]
    chips = chips[:2] if options.smoke else chips
    many = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *chips)
    few = jax.tree.map(lambda x: x[:16], policies)
    compiled = 0

    def sweep(many: Chip, policies: Policy) -> Any:
        nonlocal compiled
        compiled += 1

        def price(chip: Chip) -> crossbar.Cost:
            tables = crossbar.tabulate_column_vectors(layers, survivors, HEIGHT, chip, BITS)
            counts = crossbar.look_up_counts(tables, chip, policies.level, policies.weight_bits)
            return crossbar.compute_cost(layers, counts, chip, policies.input_bits)

        return jax.lax.map(price, many)

    swept = jax.jit(sweep)
    of_policies = measure_median(lambda: look_up_costs(on_device, batches), options.repeats)
    of_loop = measure_median(loop, options.repeats)
    of_sweep = measure_median(lambda: swept(many, few), options.repeats)
    rate, loop_rate = shape[0] / of_policies, 200 / of_loop
    print("| what | a second |")
    print("|---|--:|")
    print(f"| policies, full cost by look-up, compiled | {rate:,.0f} |")
    print(f"| policies, full cost, NumPy, one at a time | {loop_rate:,.0f} |")
    print(f"| accelerators, tables and 16 policies each | {len(chips) / of_sweep:,.0f} |")
    print(f"\nThe look-up is {rate / loop_rate:,.0f} times the loop. Tables and prices of one ")
    print(f"accelerator on the host: {host_s:.2f} s. The sweep of {len(chips):,} accelerators was ")
    print(f"compiled {compiled} time. {os.cpu_count()} cores, {platform.processor() or 'CPU'}, ")
    print(f"jax {jax.__version__}, {jax.default_backend()}; median of {options.repeats}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
