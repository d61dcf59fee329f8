"""CMA-ES (Hansen, arXiv 1604.00772) by evosax, started at the best closed-form policy."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.problem.environment import Problem, Space, allow_all, decode, encode_places
from apq_jax.strategies import Outcome, Strategy, opening
from apq_jax.strategies.opening import Best
from apq_jax.types import Policy


@dataclasses.dataclass(frozen=True)
class CmaOptions:
    """Options of CMA-ES. Static."""

    warmup: int = 24  # evaluations of closed-form policies, rounded up to whole generations
    deviation: float = 0.1  # standard deviation of the first generation, in actions
    outside: float = 10.0  # penalty of the squared distance from [0, 1]


class State(NamedTuple):
    """The distribution and its last generation."""

    cma: Any
    drawn: jax.Array  # [N, L, D], actions before they are clipped to [0, 1]
    best: Best
    told: jax.Array  # [] int32, generations told so far


def cma_es(space: Space, options: CmaOptions, layers: int) -> Strategy:
    """Builds CMA-ES over n = L D actions with the usual 4 + ⌊3 ln n⌋ policies per generation."""
    # The import is late because it starts JAX, whose devices may not be set before.
    from evosax.algorithms import CMA_ES

    shape = layers, len(space.sizes)
    population = 4 + int(3 * np.log(np.prod(shape)))
    algorithm = CMA_ES(population, jnp.zeros(shape))
    generations = -(-options.warmup // population)
    params = algorithm.default_params.replace(std_init=jnp.asarray(options.deviation))

    def begin(key: jax.Array, best: Best) -> Any:
        cma = algorithm.init(key, best.actions, params)
        return cma.replace(best_solution=cma.mean)  # for evosax's NaN

    def init(key: jax.Array, problem: Problem) -> State:
        best = opening.init_best(problem, space)
        drawn, told = jnp.zeros((population, *shape)), jnp.zeros((), jnp.int32)
        return State(begin(key, best), drawn, best, told)

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        drawn, cma = algorithm.ask(key, state.cma, params)
        index = state.told * population + jnp.arange(population)
        places = encode_places(space, decode(space, jnp.clip(drawn, 0.0, 1.0)))
        count, allowed = generations * population, allow_all(problem, space)
        policies = opening.propose(problem, space, index, count, allowed, places)
        return policies, jnp.ones(population, bool), state._replace(cma=cma, drawn=drawn)

    def tell(key: jax.Array, state: State, problem: Problem, outcome: Outcome) -> State:
        best = opening.update_best(state.best, problem, space, outcome)
        told = state.told + 1

        def restart() -> Any:
            return begin(key, best)

        def learn() -> Any:
            excess = jnp.square(state.drawn - jnp.clip(state.drawn, 0.0, 1.0)).sum(axis=(1, 2))
            # evosax minimises.
            fitness = options.outside * excess - opening.score(problem, outcome)
            return algorithm.tell(key, state.drawn, fitness, state.cma, params)[0]

        cma = lax.cond(told <= generations, restart, learn)
        return State(cma, state.drawn, best, told)

    return Strategy(init, ask, tell)
