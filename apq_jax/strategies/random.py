"""Uniform random policies, the baseline that every search must beat."""

import jax
import jax.numpy as jnp

from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy
from apq_jax.types import Policy


def random(space: Space, parallel: int) -> Strategy:
    """Builds a strategy that draws each layer's keep level and bits independently and uniformly."""

    def ask(key: jax.Array, state: None, problem: Problem) -> tuple[Policy, jax.Array, None]:
        shape = parallel, problem.features.shape[0]
        level_key, *bit_keys = jax.random.split(key, len(space.sizes))
        policies = Policy(
            jax.random.randint(level_key, shape, 0, space.levels),
            *(
                jax.random.choice(bit_key, jnp.asarray(bits), shape)
                for bit_key, bits in zip(bit_keys, space.bits, strict=True)
            ),
        )
        return policies, jnp.ones(parallel, bool), state

    return Strategy(lambda *_: None, ask, lambda *_: None)  # without a state
