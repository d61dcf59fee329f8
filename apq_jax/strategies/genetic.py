"""A genetic algorithm over the choices themselves, started with closed-form policies.

The parents are the fittest of all evaluated policies. Two tournaments choose them, crossover is
uniform, then about one and a half genes per child change, mostly by a few steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from apq_jax.problem.environment import Problem, Space, allow_all, encode_places
from apq_jax.strategies import Outcome, Strategy, opening
from apq_jax.strategies.draws import to_normal, to_whole
from apq_jax.strategies.options import Breeding, GeneticOptions
from apq_jax.types import Policy


class State(NamedTuple):
    """The fittest policies so far."""

    genes: jax.Array  # [N, L, D] int32, places
    fitness: jax.Array  # [N], -inf in empty rows
    told: jax.Array  # [] int32, valid policies told so far


def count_draws(options: Breeding, layers: int, space: Space) -> int:
    """Counts the random numbers that `breed` takes."""
    return 2 * options.tournament + 5 * layers * len(space.sizes)


def breed(
    draws: jax.Array, space: Space, options: Breeding, genes: jax.Array, alive: jax.Array
) -> jax.Array:
    """Breeds one child: genes [L, D].

    Args:
      draws: uniform random numbers, as many as `count_draws` says.
      genes: [N, L, D], the population, the fittest first.
      alive: [] int32, the rows of the population that are in use.
    """
    pairs, rest = jnp.split(draws, [2 * options.tournament])
    crossing, changing, stepping, choosing, renewing = rest.reshape(5, *genes.shape[1:])
    sizes = jnp.asarray(space.sizes)
    drawn = to_whole(pairs.reshape(2, -1), alive)
    # The lowest row of a tournament is its fittest, because the population is in order.
    mother, father = genes[drawn.min(axis=1)]
    child = jnp.where(crossing < 0.5, mother, father)
    chance = jnp.minimum(options.changes / child.size, 1.0)
    scale = options.steps * jnp.asarray([3.0, *(1.0,) * len(space.bits)]) / 2.0
    step = scale * to_normal(stepping)
    # Steps are rounded away from zero, so that no step is 0.
    step = jnp.where(step < 0, jnp.floor(step), jnp.ceil(step)).astype(jnp.int32)
    stepped = jnp.clip(child + step, 0, sizes - 1)
    changed = jnp.where(renewing < options.anew, to_whole(choosing, sizes), stepped)
    return jnp.where(changing < chance, changed, child)


def genetic(space: Space, options: GeneticOptions, parallel: int) -> Strategy:
    """Builds the genetic algorithm with E = `parallel` children at a time."""

    def init(key: jax.Array, problem: Problem) -> State:
        del key
        shape = options.population, problem.features.shape[0], len(space.sizes)
        fitness = jnp.full(options.population, -jnp.inf)
        return State(jnp.zeros(shape, jnp.int32), fitness, jnp.zeros((), jnp.int32))

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        alive = jnp.maximum((state.fitness > -jnp.inf).sum(), 1)
        count = count_draws(options.breeding, state.genes.shape[1], space)
        children = jax.vmap(
            lambda draws: breed(draws, space, options.breeding, state.genes, alive)
        )(jax.random.uniform(key, (parallel, count)))
        index = state.told + jnp.arange(parallel)
        allowed = allow_all(problem, space)
        policies = opening.propose(problem, space, index, options.warmup, allowed, children)
        return policies, jnp.ones(parallel, bool), state

    def tell(key: jax.Array, state: State, problem: Problem, outcome: Outcome) -> State:
        del key
        genes = jnp.concatenate([state.genes, encode_places(space, outcome.policies)])
        fitness = jnp.concatenate([state.fitness, opening.score(problem, outcome)])
        # The later of two equal policies is dropped, because a policy counts once.
        same = (genes[:, None] == genes[None]).all(axis=(2, 3))
        twin = jnp.tril(same & (fitness > -jnp.inf)[None], -1).any(axis=1)
        fitness = jnp.where(twin, -jnp.inf, fitness)
        order = jnp.argsort(-fitness)[: options.population]
        told = state.told + outcome.valid.sum(dtype=jnp.int32)
        return State(genes[order], fitness[order], told)

    return Strategy(init, ask, tell)
