"""A genetic algorithm over the choices themselves, from closed-form policies.

The fittest of all that was evaluated are the parents: two tournaments, uniform crossover, then
each gene changes with a chance of about one and a half a child, mostly by a few steps.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from apq_jax import environment
from apq_jax.environment import Problem, Space
from apq_jax.strategies import Strategy, start
from apq_jax.types import Evaluation, Policy


@dataclasses.dataclass(frozen=True)
class GeneticOptions:
    """Static."""

    population: int = 32
    warmup: int = 24  # evaluations of closed-form policies
    tournament: int = 3
    changes: float = 1.5  # genes of a child that change, in the mean
    steps: float = 2.0  # deviation of a change, in choices; levels three times that
    anew: float = 0.1  # share of the changes that draw any choice


class State(NamedTuple):
    """The fittest so far."""

    genes: jax.Array  # [N, L, 3] int32, places among the choices
    fitness: jax.Array  # [N], -inf where nobody is
    told: jax.Array  # [] int32


def genetic(space: Space, options: GeneticOptions, parallel: int) -> Strategy:
    """The algorithm; E children at a time."""
    sizes = jnp.asarray([space.levels, len(space.weight_bits), len(space.input_bits)])

    def init(key: jax.Array, problem: Problem) -> State:
        del key
        shape = options.population, problem.features.shape[0], environment.ACTIONS
        nobody = jnp.full(options.population, -jnp.inf)
        return State(jnp.zeros(shape, jnp.int32), nobody, jnp.zeros((), jnp.int32))

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        child_keys = jax.random.split(key, parallel)
        alive = jnp.maximum((state.fitness > -jnp.inf).sum(), 1)

        def child(key: jax.Array) -> jax.Array:
            keys = jax.random.split(key, 6)
            drawn = jax.random.randint(keys[0], (2, options.tournament), 0, alive)
            # The population is in order of fitness: the winner has the lowest place.
            mother, father = state.genes[drawn.min(axis=1)]
            genes = jnp.where(jax.random.bernoulli(keys[1], 0.5, mother.shape), mother, father)
            chance = jnp.minimum(options.changes / genes.size, 1.0)
            changes = jax.random.bernoulli(keys[2], chance, genes.shape)
            scale = options.steps * jnp.asarray([3.0, 1.0, 1.0]) / 2.0
            by = scale * jax.random.normal(keys[3], genes.shape)
            by = jnp.where(by < 0, jnp.floor(by), jnp.ceil(by)).astype(jnp.int32)
            anew = jax.random.randint(keys[4], genes.shape, 0, sizes)
            fresh = jax.random.bernoulli(keys[5], options.anew, genes.shape)
            moved = jnp.where(fresh, anew, jnp.clip(genes + by, 0, sizes - 1))
            return jnp.where(changes, moved, genes)

        number = state.told + jnp.arange(parallel)
        allowed = start.everything(problem, space)
        begin = start.closed_forms(problem, space, number, options.warmup, allowed)
        children = environment.policy_at(space, jax.vmap(child)(child_keys))
        policies = start.first_then(number, options.warmup, begin, children)
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
        fitness = start.scores(problem, valid, evaluations)
        genes = jnp.concatenate([state.genes, environment.places_of(space, policies)])
        fitness = jnp.concatenate([state.fitness, fitness])
        # One policy counts once: the later of two that are the same is nobody.
        same = (genes[:, None] == genes[None]).all(axis=(2, 3))
        twin = jnp.tril(same & (fitness > -jnp.inf)[None], -1).any(axis=1)
        fitness = jnp.where(twin, -jnp.inf, fitness)
        order = jnp.argsort(-fitness)[: options.population]
        return State(genes[order], fitness[order], state.told + valid.sum(dtype=jnp.int32))

    return Strategy(init, ask, tell)
