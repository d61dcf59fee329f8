"""A price list: every layer's cost at every choice, from which a policy's cost is looked up."""

from typing import Any, NamedTuple

import jax
import numpy as np

from apq_jax import crossbar
from apq_jax.crossbar import Cost, Counts, LayerCost
from apq_jax.hardware import Chip
from apq_jax.hardware.chip import get_namespace
from apq_jax.types import Array, Layer, Policy


class Prices(NamedTuple):
    """Every layer's cost at every choice; a policy's cost is a look-up and a sum.

    Choices are [L, K, B, A]: keep level, weight bits 1 .. B, input bits 1 .. A. The arrays are
    flat, with the numbers of one choice side by side, because one look-up reads all of them.
    """

    whole: Array  # [L K B A, 4] int32: crossbars, imas, slots, index bits
    real: Array  # [L K B A, 4] float32: memory um2, energy nJ, latency us, conversions' nJ
    chip: Chip
    shape: Any  # [L, K, B, A] int32


def build_prices(
    layers: tuple[Layer, ...], tables: Counts, chip: Chip, weight_bits: int, input_bits: int
) -> Prices:
    """Computes the prices for 1 to `weight_bits` and 1 to `input_bits` bits.

    `tables`, the counts [L, K, S] of each keep level and number of slices, and `chip` may be
    traced.
    """
    count, levels, _ = tables.crossbars.shape
    choices = np.ix_(np.arange(levels), np.arange(1, weight_bits + 1), np.arange(1, input_bits + 1))
    grid = [np.broadcast_to(x, (levels, weight_bits, input_bits)) for x in choices]
    # The cost model has layers on the last axis; `look_up_costs` indexes them first.
    level, q, a = (np.broadcast_to(x[..., None], (*x.shape, count)) for x in grid)
    counts = crossbar.look_up_counts(tables, chip, level, q)
    costs = crossbar.compute_layer_costs(layers, counts, chip, a)
    xp = get_namespace(costs.crossbars)
    columns = [xp.moveaxis(x, -1, 0) for x in costs]
    shape = np.asarray((count, levels, weight_bits, input_bits))
    parts = columns[:4], columns[4:]
    whole, real = (xp.stack([x.reshape(-1) for x in part], axis=-1) for part in parts)
    return Prices(whole, real, chip, shape)


def unflatten(prices: Prices) -> LayerCost:
    """Returns every layer's cost at every choice, each field [L, K, B, A]; on the host."""
    parts = [*prices.whole.T, *prices.real.T]
    return LayerCost(*(part.reshape(tuple(prices.shape)) for part in parts))


def move_to_device(prices: Prices) -> Prices:
    """Converts prices from the host to int32 and float32 arrays for a compiled program.

    Raises:
      ValueError: a count of the network could pass 2^31.
    """
    layers = int(prices.shape[0])
    if prices.whole.size and int(prices.whole.max()) * layers >= 2**31:
        raise ValueError("counts of this network pass 2^31; use the prices on the host")
    return jax.tree.map(
        lambda x: jax.device_put(
            x.astype(np.int32 if np.issubdtype(x.dtype, np.integer) else np.float32)
        ),
        prices,
    )


def look_up_costs(prices: Prices, policy: Policy) -> Cost:
    """Looks up the cost [...] of policies [..., L]; their levels and bits must be in the list.

    If a policy has ADC bits, the energy that its shorter conversions save is subtracted.
    """
    layers = np.arange(policy.level.shape[-1])
    _, levels, weight_bits, input_bits = prices.shape
    index = (layers * levels + policy.level) * weight_bits + policy.weight_bits - 1
    index = index * input_bits + policy.input_bits - 1
    whole, real = prices.whole[index], prices.real[index]
    costs = LayerCost(*(x[..., field] for x in (whole, real) for field in range(x.shape[-1])))
    if policy.adc_bits is not None:
        saved = costs.adc_nj * prices.chip.adc_saved[policy.adc_bits - 1]
        costs = costs._replace(energy_nj=costs.energy_nj - saved)
    return crossbar.sum_costs(costs, prices.chip)
