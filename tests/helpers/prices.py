"""Prices of two made layers."""

import numpy as np

from apq_jax import crossbar
from apq_jax.compression.prices import (
    Prices,
    build_prices,
)
from apq_jax.hardware import Accelerator
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.problem.environment import Space

LAYERS = WORKLOADS["lenet5"]


SPACE = Space(levels=4, weight_bits=(2, 4, 6, 8), input_bits=(2, 4, 8))


HEIGHT = 9


KEEP = np.geomspace(1.0, 0.05, SPACE.levels)


def prices_of(accelerator: Accelerator) -> Prices:
    """Of random masks that only lose column-vectors from level to level."""
    rng, survivors, chip = np.random.default_rng(0), [], accelerator.chip()
    for layer in LAYERS:
        rank = rng.random((layer.groups * layer.count_row_groups(HEIGHT), layer.columns))
        survivors.append((rank < KEEP[:, None, None]).sum(axis=2).astype(np.int32))
    tables = crossbar.tabulate_column_vectors(
        LAYERS, survivors, HEIGHT, chip, accelerator.slices(8)
    )
    return build_prices(LAYERS, tables, chip, 8, 8)


PRICES = prices_of(Accelerator())
