"""An accelerator as numbers that may be traced and batched."""

from typing import Any, NamedTuple

import numpy as np

from apq_jax.types import Array


def get_namespace(x: Any) -> Any:
    """Returns the module of an array's functions, `numpy` or `jax.numpy`; NumPy for a number."""
    return x.__array_namespace__() if hasattr(x, "__array_namespace__") else np


class Chip(NamedTuple):
    """The numbers of an accelerator that the cost model needs; they may be traced and batched.

    `Accelerator.chip` builds them. The cycle, the areas and the converters' energy are derived
    there, so they stay the same when a size is replaced here.

    Whole numbers are int64 and real ones float64 on the host; `jax.tree.map(jnp.asarray, chip)`
    makes them int32 and float32. A leading axis on every field stands for many accelerators.
    """

    crossbar_rows: Array
    crossbar_columns: Array
    cell_bits: Array
    dac_bits: Array
    unit_rows: Array
    unit_columns: Array
    replication: Array  # largest number of copies of a layer
    crossbars_per_ima: Array
    imas_per_tile: Array
    differential: Array  # flag, 0 or 1: weights are differential pairs
    mnsim: Array  # flag: MNSIM's mapping of the dense network
    flipped: Array  # flag: columns may be held flipped
    pipelined: Array  # flag: layers work at once, each on another inference
    rounded: Array  # flag: area counts whole IMAs and tiles
    cycle_ns: Array  # one activation of a unit
    crossbar_um2: Array  # a crossbar with its converters
    ima_um2: Array  # the rest of an IMA
    tile_um2: Array  # the rest of a tile
    memory_bit_um2: Array
    energy_pj: dict[str, Array]  # per action; "array" reads one cell, "adc" is at full resolution
    adc_saved: Array  # [adc.MAX_BITS], share of a conversion saved by stopping after 1, 2, .. bits


def ceil_div(a: Any, b: Any) -> Any:
    """Divides whole numbers and rounds up, ⌈a / b⌉."""
    return -(-a // b)


def ceil_log2(count: int) -> int:
    """Counts the bits of a code for `count` things, ⌈log2 count⌉; 0 for one thing."""
    return (count - 1).bit_length()
