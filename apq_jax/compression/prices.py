"""A price list: the cost of every choice of every layer, so that a policy's cost is a look-up."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.crossbar import (
    Cost,
    Counts,
    LayerCost,
    _xp,
    compute_layer_costs,
    look_up_counts,
    sum_costs,
)
from apq_jax.hardware import Chip
from apq_jax.types import Array, Layer, Policy


class Prices(NamedTuple):
    """Every layer's cost at every choice, so that a policy's cost is a look-up and a sum.

    The choices are [L, K, B, A]: keep level, weight bits 1 .. B, input bits 1 .. A. They are laid
    out flat, with the numbers of a choice side by side, for that is how they are read.
    """

    whole: Array  # [L K B A, 4] int32: crossbars, imas, slots, index bits
    real: Array  # [L K B A, 4] float32: memory um2, energy nJ, latency us, conversions' nJ
    chip: Chip
    shape: Any  # [L, K, B, A] int32


def build_prices(
    layers: tuple[Layer, ...], tables: Counts, chip: Chip, weight_bits: int, input_bits: int
) -> Prices:
    """Prices from tables [L, K, S] up to so many bits; chip and tables may be traced."""
    count, levels, _ = tables.crossbars.shape
    choices = np.ix_(np.arange(levels), np.arange(1, weight_bits + 1), np.arange(1, input_bits + 1))
    grid = [np.broadcast_to(x, (levels, weight_bits, input_bits)) for x in choices]
    # Layers last, as everywhere; then first, as the index needs them.
    level, q, a = (np.broadcast_to(x[..., None], (*x.shape, count)) for x in grid)
    found = compute_layer_costs(layers, look_up_counts(tables, chip, level, q), chip, a)
    xp = _xp(found.crossbars)
    columns = [xp.moveaxis(x, -1, 0) for x in found]
    shape = np.asarray((count, levels, weight_bits, input_bits))
    whole, real = (
        xp.stack([x.reshape(-1) for x in part], axis=-1) for part in (columns[:4], columns[4:])
    )
    return Prices(whole, real, chip, shape)


def unflatten(prices: Prices) -> LayerCost:
    """Every layer's cost at every choice, [L, K, B, A] each; on the host."""
    parts = [*prices.whole.T, *prices.real.T]
    return LayerCost(*(part.reshape(tuple(prices.shape)) for part in parts))


def move_to_device(prices: Prices) -> Prices:
    """Prices from the host as int32 and float32 arrays for a compiled program.

    Raises:
      ValueError: a network's count could pass 2^31.
    """
    layers = int(prices.shape[0])
    if prices.whole.size and int(prices.whole.max()) * layers >= 2**31:
        raise ValueError("counts of this network pass 2^31; use the prices on the host")
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.int32 if np.issubdtype(x.dtype, np.integer) else jnp.float32),
        prices,
    )


def look_up_costs(prices: Prices, policy: Policy) -> Cost:
    """The cost of policies [..., L], whose levels and bits must be among the price list's."""
    layers = np.arange(policy.level.shape[-1])
    _, levels, weight_bits, input_bits = prices.shape
    index = (layers * levels + policy.level) * weight_bits + policy.weight_bits - 1
    index = index * input_bits + policy.input_bits - 1
    whole, real = prices.whole[index], prices.real[index]
    found = LayerCost(*(x[..., at] for x in (whole, real) for at in range(x.shape[-1])))
    if policy.adc_bits is not None:
        saved = found.adc_nj * prices.chip.adc_saved[policy.adc_bits - 1]
        found = found._replace(energy_nj=found.energy_nj - saved)
    return sum_costs(found, prices.chip)
