"""Uniform random policies, the baseline that every search must beat."""

import jax
import jax.numpy as jnp

from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy
from apq_jax.types import Evaluation, Policy


def random(space: Space, parallel: int) -> Strategy:
    """Builds a strategy that draws each layer's keep level and bits independently and uniformly."""

    def init(key: jax.Array, problem: Problem) -> None:
        del key, problem

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

    def tell(
        key: jax.Array,
        state: None,
        problem: Problem,
        policies: Policy,
        valid: jax.Array,
        evaluations: Evaluation,
    ) -> None:
        del key, state, problem, policies, valid, evaluations

    return Strategy(init, ask, tell)
