"""Uniform random policies: the baseline that every search must beat."""

import jax
import jax.numpy as jnp

from apq_jax import environment
from apq_jax.environment import Problem, Space
from apq_jax.strategies import Strategy
from apq_jax.types import Evaluation, Policy


def random(space: Space, parallel: int) -> Strategy:
    """Each layer's keep level and bits drawn alone, uniformly over what may be proposed."""

    def init(key: jax.Array, problem: Problem) -> None:
        del key, problem

    def ask(key: jax.Array, state: None, problem: Problem) -> tuple[Policy, jax.Array, None]:
        layers = problem.features.shape[0]
        actions = jax.random.uniform(key, (parallel, layers, environment.ACTIONS))
        return environment.decode(space, actions), jnp.ones(parallel, bool), state

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
