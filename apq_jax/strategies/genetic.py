"""A genetic algorithm over the choices themselves, started with closed-form policies.

The parents are the fittest of all evaluated policies. Two tournaments choose them, crossover is
uniform, then about one and a half genes per child change, mostly by a few steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from apq_jax.problem.environment import Problem, Space, allow_all, encode_places
from apq_jax.strategies import Outcome, Strategy, opening
from apq_jax.strategies.options import Breeding, GeneticOptions
from apq_jax.types import Policy


class State(NamedTuple):
    """The fittest policies so far."""

    genes: jax.Array  # [N, L, D] int32, places
    fitness: jax.Array  # [N], -inf in empty rows
    told: jax.Array  # [] int32, valid policies told so far


def breed(
    key: jax.Array, space: Space, options: Breeding, genes: jax.Array, alive: jax.Array
) -> jax.Array:
    """Breeds one child: genes [L, D].

    Args:
      genes: [N, L, D], the population, the fittest first.
      alive: [] int32, the rows of the population that are in use.
    """
    keys = jax.random.split(key, 6)
    sizes = jnp.asarray(space.sizes)
    drawn = jax.random.randint(keys[0], (2, options.tournament), 0, alive)
    # The lowest row of a tournament is its fittest, because the population is in order.
    mother, father = genes[drawn.min(axis=1)]
    child = jnp.where(jax.random.bernoulli(keys[1], 0.5, mother.shape), mother, father)
    chance = jnp.minimum(options.changes / child.size, 1.0)
    changes = jax.random.bernoulli(keys[2], chance, child.shape)
    scale = options.steps * jnp.asarray([3.0, *(1.0,) * len(space.bits)]) / 2.0
    step = scale * jax.random.normal(keys[3], child.shape)
    # Steps are rounded away from zero, so that no step is 0.
    step = jnp.where(step < 0, jnp.floor(step), jnp.ceil(step)).astype(jnp.int32)
    any_choice = jax.random.randint(keys[4], child.shape, 0, sizes)
    anew = jax.random.bernoulli(keys[5], options.anew, child.shape)
    changed = jnp.where(anew, any_choice, jnp.clip(child + step, 0, sizes - 1))
    return jnp.where(changes, changed, child)


def genetic(space: Space, options: GeneticOptions, parallel: int) -> Strategy:
    """Builds the genetic algorithm with E = `parallel` children at a time."""

    def init(key: jax.Array, problem: Problem) -> State:
        del key
        shape = options.population, problem.features.shape[0], len(space.sizes)
        fitness = jnp.full(options.population, -jnp.inf)
        return State(jnp.zeros(shape, jnp.int32), fitness, jnp.zeros((), jnp.int32))

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        alive = jnp.maximum((state.fitness > -jnp.inf).sum(), 1)
        children = jax.vmap(lambda key: breed(key, space, options.breeding, state.genes, alive))(
            jax.random.split(key, parallel)
        )
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
