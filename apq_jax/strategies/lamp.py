"""Layer-adaptive magnitude pruning (Lee et al., ICLR 2021, arXiv 2010.07611), with equal bits.

The LAMP score of a block is its energy over the energy of all blocks of its layer that are no
weaker. One threshold for all layers gives every layer its keep ratio in closed form.
"""

import jax
import jax.numpy as jnp

from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy
from apq_jax.strategies.uniform import combine_choices, make_table_strategy


def lamp(space: Space, parallel: int, budget: int) -> Strategy:
    """Builds a strategy that tries as many thresholds per choice of bits as the budget allows.

    It tries at least one, in random order, and then stops.
    """
    # The converters keep all their bits, because more choices would leave too few thresholds.
    bits = combine_choices(*space.bits[:2], *(choices[-1:] for choices in space.bits[2:]))
    thresholds = max(budget // bits.shape[1], 1)

    def build_table(problem: Problem) -> jax.Array:
        """Builds the table of all policies: [D, N, L]."""
        min_log = jnp.log(jnp.maximum(problem.lamp[:, 0].min(), 1e-12))
        scores = jnp.exp(jnp.linspace(min_log, 0.0, thresholds))
        # A layer's level is the first whose survivors all reach the threshold.
        below = problem.lamp[None] < scores[:, None, None]  # [T, L, K]
        level = jnp.minimum(below.sum(axis=-1), space.levels - 1).astype(jnp.int32)
        count, layers = level.shape
        levels = jnp.broadcast_to(level[:, None], (count, bits.shape[1], layers))
        shape = len(bits), *levels.shape
        layer_bits = jnp.broadcast_to(jnp.asarray(bits)[:, None, :, None], shape)
        return jnp.concatenate([levels[None], layer_bits]).reshape(len(space.sizes), -1, layers)

    return make_table_strategy(parallel, build_table)
