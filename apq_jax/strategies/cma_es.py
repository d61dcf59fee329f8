"""Covariance matrix adaptation (Hansen, arXiv 1604.00772), evosax's, from the best closed form."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.problem.environment import Problem, Space, allow_all, decode, encode, encode_places
from apq_jax.strategies import Strategy, opening
from apq_jax.strategies.opening import Best
from apq_jax.types import Evaluation, Policy


@dataclasses.dataclass(frozen=True)
class CmaOptions:
    """Static."""

    warmup: int = 24  # evaluations of closed-form policies
    deviation: float = 0.1  # of the first generation, in actions
    outside: float = 10.0  # what the square of a step outside [0, 1] costs


class State(NamedTuple):
    """The distribution, and what was drawn from it."""

    cma: Any
    drawn: jax.Array  # [N, L, D], not cut to [0, 1]
    best: Best
    told: jax.Array  # [] int32


def cma_es(space: Space, options: CmaOptions, layers: int) -> Strategy:
    """A generation at a time, 4 + ⌊3 ln n⌋ policies of n = L D actions (the usual number)."""
    from evosax.algorithms import CMA_ES  # starts JAX, whose devices may yet be to be set

    shape = layers, len(space.sizes)
    population = 4 + int(3 * np.log(np.prod(shape)))
    algorithm = CMA_ES(population, jnp.zeros(shape))
    generations = -(-options.warmup // population)
    params = algorithm.default_params.replace(std_init=jnp.asarray(options.deviation))

    def init(key: jax.Array, problem: Problem) -> State:
        best = opening.init_best(problem, space)
        cma = algorithm.init(key, best.actions, params)
        drawn = jnp.zeros((population, *best.actions.shape))
        return State(cma, drawn, best, jnp.zeros((), jnp.int32))

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        drawn, cma = algorithm.ask(key, state.cma, params)
        number = state.told * population + jnp.arange(population)
        allowed = allow_all(problem, space)
        decoded = decode(space, jnp.clip(drawn, 0.0, 1.0))
        after = encode_places(space, decoded)
        count = generations * population
        policies = opening.propose(problem, space, number, count, allowed, after)
        return policies, jnp.ones(population, bool), state._replace(cma=cma, drawn=drawn)

    def tell(
        key: jax.Array,
        state: State,
        problem: Problem,
        policies: Policy,
        valid: jax.Array,
        evaluations: Evaluation,
    ) -> State:
        executed = encode(space, policies)
        best = opening.update_best(state.best, problem, executed, valid, evaluations)
        told = state.told + 1

        def begin() -> Any:
            return algorithm.init(key, best.actions, params)

        def learn() -> Any:
            out = jnp.square(state.drawn - jnp.clip(state.drawn, 0.0, 1.0)).sum(axis=(1, 2))
            fitness = options.outside * out - opening.score(problem, valid, evaluations)
            return algorithm.tell(key, state.drawn, fitness, state.cma, params)[0]

        cma = lax.cond(told <= generations, begin, learn)
        return State(cma, state.drawn, best, told)

    return Strategy(init, ask, tell)
