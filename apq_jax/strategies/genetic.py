"""A genetic algorithm over the choices themselves, from closed-form policies.

The fittest of all that was evaluated are the parents: two tournaments, uniform crossover, then
each gene changes with a chance of about one and a half a child, mostly by a few steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from apq_jax.problem.environment import Problem, Space, allow_all, encode_places
from apq_jax.strategies import Strategy, opening
from apq_jax.strategies.options import Breeding, GeneticOptions
from apq_jax.types import Evaluation, Policy


class State(NamedTuple):
    """The fittest so far."""

    genes: jax.Array  # [N, L, D] int32, places among the choices
    fitness: jax.Array  # [N], -inf where nobody is
    told: jax.Array  # [] int32


def breed(
    key: jax.Array, space: Space, options: Breeding, genes: jax.Array, alive: jax.Array
) -> jax.Array:
    """A child [L, D] of the first `alive` of a population [N, L, D], in order of fitness."""
    keys = jax.random.split(key, 6)
    sizes = jnp.asarray(space.sizes)
    drawn = jax.random.randint(keys[0], (2, options.tournament), 0, alive)
    # The lowest place wins: it is the fittest.
    mother, father = genes[drawn.min(axis=1)]
    child = jnp.where(jax.random.bernoulli(keys[1], 0.5, mother.shape), mother, father)
    chance = jnp.minimum(options.changes / child.size, 1.0)
    changes = jax.random.bernoulli(keys[2], chance, child.shape)
    scale = options.steps * jnp.asarray([3.0, *(1.0,) * len(space.bits)]) / 2.0
    by = scale * jax.random.normal(keys[3], child.shape)
    by = jnp.where(by < 0, jnp.floor(by), jnp.ceil(by)).astype(jnp.int32)
    anew = jax.random.randint(keys[4], child.shape, 0, sizes)
    fresh = jax.random.bernoulli(keys[5], options.anew, child.shape)
    moved = jnp.where(fresh, anew, jnp.clip(child + by, 0, sizes - 1))
    return jnp.where(changes, moved, child)


def genetic(space: Space, options: GeneticOptions, parallel: int) -> Strategy:
    """The algorithm; E children at a time."""

    def init(key: jax.Array, problem: Problem) -> State:
        del key
        shape = options.population, problem.features.shape[0], len(space.sizes)
        nobody = jnp.full(options.population, -jnp.inf)
        return State(jnp.zeros(shape, jnp.int32), nobody, jnp.zeros((), jnp.int32))

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        alive = jnp.maximum((state.fitness > -jnp.inf).sum(), 1)
        children = jax.vmap(lambda key: breed(key, space, options.breeding, state.genes, alive))(
            jax.random.split(key, parallel)
        )
        number = state.told + jnp.arange(parallel)
        allowed = allow_all(problem, space)
        policies = opening.propose(problem, space, number, options.warmup, allowed, children)
        return policies, jnp.ones(parallel, bool), state

    def tell(
        key: jax.Array,
        state: State,
        problem: Problem,
        policies: Policy,
        valid: jax.Array,
        evaluations: Evaluation,
    ) -> State:
        del key
        fitness = opening.score(problem, valid, evaluations)
        genes = jnp.concatenate([state.genes, encode_places(space, policies)])
        fitness = jnp.concatenate([state.fitness, fitness])
        # One policy counts once: the later of two that are the same is nobody.
        same = (genes[:, None] == genes[None]).all(axis=(2, 3))
        twin = jnp.tril(same & (fitness > -jnp.inf)[None], -1).any(axis=1)
        fitness = jnp.where(twin, -jnp.inf, fitness)
        order = jnp.argsort(-fitness)[: options.population]
        return State(genes[order], fitness[order], state.told + valid.sum(dtype=jnp.int32))

    return Strategy(init, ask, tell)
