"""Uses the cost model inside a search of your own, a small evolution strategy.

python examples/cost_model_alone.py

It searches the bits and keep levels of ResNet-18's layers that cost the least energy while a
stand-in for accuracy stays above a limit. One compiled program rates policies by the thousand.
"""

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax import crossbar
from apq_jax.compression.prices import build_prices, look_up_costs, move_to_device
from apq_jax.hardware import PRESETS
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.types import Policy

layers, accelerator = WORKLOADS["resnet18"], PRESETS["isaac_ou"]
keep = np.geomspace(1.0, 0.1, 8)  # keep ratio of every level, [K]

# Column-vectors that survive in each row group, [K, G]. Without weights, all groups are alike.
survivors = [
    np.repeat(np.ceil(keep * layer.columns).astype(np.int32)[:, None], groups, axis=1)
    for layer in layers
    for groups in [layer.groups * layer.count_row_groups(accelerator.unit_rows)]
]
chip = accelerator.chip()
tables = crossbar.tabulate_column_vectors(layers, survivors, accelerator.unit_rows, chip, slices=4)
prices = move_to_device(build_prices(layers, tables, chip, weight_bits=8, input_bits=8))

low, high = jnp.asarray([[0], [2], [2]]), jnp.asarray([[7], [8], [8]])  # level, bits, bits


def fitness(genes: jax.Array) -> jax.Array:
    """Computes log energy, plus a penalty, of the policy of genes [3, L] in [0, 1]."""
    policy = Policy(*jnp.round(low + genes * (high - low)).astype(jnp.int32))
    cost = look_up_costs(prices, policy)
    # Stands for a network: errors of pruning and rounding, added up over the layers.
    error = ((1 - jnp.asarray(keep)[policy.level]) ** 2).sum() / 40
    error += (4.0**-policy.weight_bits + 4.0**-policy.input_bits).sum() / 4
    return jnp.log(cost.energy_nj) + 1e3 * jnp.maximum(error - 0.05, 0)


@jax.jit
def generation(carry, key):
    """Draws 1,024 children of a mean [3, L]; the mean of the best 128 is the next one."""
    mean, sigma = carry
    children = jnp.clip(mean + sigma * jax.random.normal(key, (1024, *mean.shape)), 0, 1)
    order = jnp.argsort(jax.vmap(fitness)(children))
    return (children[order[:128]].mean(axis=0), sigma * 0.95), children[order[0]]


start = jnp.ones((3, len(layers))).at[0].set(0.0)  # unpruned, 8 bits
(_, _), best = jax.lax.scan(generation, (start, 0.3), jax.random.split(jax.random.key(0), 60))
before, after = (jnp.exp(fitness(genes)) * 1e-3 for genes in (start, best[-1]))
print(f"{60 * 1024:,} policies of {len(layers)} layers")
print(f"energy of an inference: {before:,.0f} uJ unpruned at 8 bits, {after:,.0f} uJ found")
print(f"{before / after:.1f} times less")
