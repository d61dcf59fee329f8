"""A made search problem, strategies in their smallest form, and searches of it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy, loop
from apq_jax.strategies.actor_critic import actor_critic
from apq_jax.strategies.cma_es import CmaOptions, cma_es
from apq_jax.strategies.genetic import genetic
from apq_jax.strategies.greedy import GreedyOptions, greedy
from apq_jax.strategies.lamp import lamp
from apq_jax.strategies.options import ActorCriticOptions, GeneticOptions
from apq_jax.strategies.random import random
from apq_jax.strategies.uniform import uniform
from apq_jax.types import AgentOptions, Evaluation, Policy

SPACE = Space(levels=5, weight_bits=(2, 4, 6, 7), input_bits=(3, 4, 5, 6))


LAYERS, FEATURES = 3, 4


PROPERTY = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


def evaluate(problem: Problem, policy: Policy) -> Evaluation:
    """A cheap stand-in for running the network."""
    layers = jnp.arange(LAYERS)
    error = (
        problem.error[layers, policy.level, policy.weight_bits - 1]
        + problem.input_error[layers, policy.input_bits - 1]
    ).sum()
    cost = environment.look_up_shares(problem, policy).sum()
    whole = jnp.ceil(cost * problem.dense).astype(jnp.int32)
    return Evaluation(
        jnp.exp(-error), error, whole[1], whole[0], *(cost * problem.dense[2:]).astype(jnp.float32)
    )


def evaluation_of(divergence: float, slots: int, energy: float) -> Evaluation:
    values = 0.9, divergence, 5, slots, 1.0, energy, 25.0
    return Evaluation(*(jnp.asarray(value) for value in values))


OPTIONS = ActorCriticOptions(
    warmup=8,
    imagined=32,
    population=8,
    updates=8,
    actor_updates=2,
    capacity=64,
    networks=AgentOptions(hidden=16, members=2),
)


GREEDY = GreedyOptions(levels=2)


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "random": lambda: random(SPACE, 4),
    "actor_critic": lambda: actor_critic(SPACE, OPTIONS, (True, True, True), 4),
    "uniform": lambda: uniform(SPACE, 4),
    "lamp": lambda: lamp(SPACE, 4, 64),
    "greedy": lambda: greedy(SPACE, GREEDY, 4, LAYERS),
    "genetic": lambda: genetic(SPACE, GeneticOptions(population=8, warmup=8), 4),
    "cma_es": lambda: cma_es(SPACE, CmaOptions(warmup=8), LAYERS),
}


@functools.cache
def shared(name: str) -> Strategy:
    """The same object each time, because searches by one object share one compiled program."""
    return STRATEGIES[name]()


def run_search(strategy: Strategy, problem: Problem, seed: int, budget: int) -> loop.Record:
    records = list(
        loop.run(strategy, evaluate, problem, problem, jax.random.key(seed), budget, chunk=2)
    )
    return jax.tree.map(lambda *parts: np.concatenate(parts), *records)


class Chunks(NamedTuple):
    """Two searches in one program, of 22 evaluations each."""

    strategy: Strategy
    begin: loop.Carry
    chunks: list[tuple[loop.Carry, loop.Record]]


def choices(record: loop.Record) -> np.ndarray:
    return np.stack(jax.tree.leaves(record.policy), axis=-1)  # [N, L, 3]
