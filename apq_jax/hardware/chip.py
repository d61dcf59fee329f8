"""An accelerator as numbers that may be traced and batched."""

from typing import NamedTuple

from apq_jax.types import Array


class Chip(NamedTuple):
    """What the cost model needs of an accelerator, as numbers that may be traced and batched.

    From `Accelerator.chip`, which derives what follows from the rest: the cycle, the areas and
    the converters' energy do not follow a size that is changed here.

    Flags are 0 or 1. On the host they are int64 and float64; `jax.tree.map(jnp.asarray, chip)` is
    their int32 and float32 form, and a leading axis makes it many accelerators.
    """

    crossbar_rows: Array
    crossbar_columns: Array
    cell_bits: Array
    dac_bits: Array
    unit_rows: Array
    unit_columns: Array
    replication: Array  # most copies of a layer
    crossbars_per_ima: Array
    imas_per_tile: Array
    differential: Array  # flag: weights are differential pairs
    mnsim: Array  # flag: MNSIM's mapping of the dense network
    flipped: Array  # flag: columns may be held flipped
    pipelined: Array  # flag: layers work at once, on one inference each
    rounded: Array  # flag: IMAs and tiles are counted whole
    cycle_ns: Array  # one activation of a unit
    crossbar_um2: Array  # a crossbar with its converters
    ima_um2: Array  # the rest of an IMA
    tile_um2: Array  # the rest of a tile
    memory_bit_um2: Array
    energy_pj: dict[str, Array]  # an action; "array" a cell's read, "adc" at the resolution
    adc_saved: Array  # [adc.MAX_BITS], of a conversion's energy where it stops after 1, 2, ... bits
