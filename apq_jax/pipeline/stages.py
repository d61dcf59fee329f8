"""Runs the search of the main job, in stages.

With the modules beside it, the main job is four calls:

    prepared = prepare(network, params, dataset, accelerator, config)
    record = joined(search_policies(prepared))
    choice = choose(prepared, record, dataset)
    measured = measure(prepared, choice.compressed, dataset.test_images, dataset.test_labels)

Training images prepare and fine-tune. One half of the validation images scores the search, the
other half chooses. Test images measure.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.config import Config, SearchOptions
from apq_jax.pipeline.prepared import Prepared, build_evaluator
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy, loop
from apq_jax.strategies.actor_critic import actor_critic
from apq_jax.strategies.apq import apq
from apq_jax.strategies.cma_es import CmaOptions, cma_es
from apq_jax.strategies.genetic import genetic
from apq_jax.strategies.greedy import GreedyOptions, greedy
from apq_jax.strategies.lamp import lamp
from apq_jax.strategies.loop import Record
from apq_jax.strategies.options import ActorCriticOptions, GeneticOptions
from apq_jax.strategies.random import random
from apq_jax.strategies.uniform import uniform

FRONT_DROPS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)  # goal front: each stage's limit, points lost
# Stages with less and less headroom, because the search cannot know what fine-tuning wins back.
HEADROOM_SHARES = (1.0, 0.5, 0.0)
_BLIND = ("random", "uniform", "lamp")  # strategies that ignore the limits


class Stage(NamedTuple):
    """S searches of one problem, one a seed."""

    problem: Problem
    keys: jax.Array  # [S]
    budget: int  # evaluations of each search


class Standing(NamedTuple):
    """The state of all S searches of a run between two chunks."""

    stage: np.ndarray  # [] int32, index of the stage
    carry: loop.Carry


def build_strategy(prepared: Prepared) -> Strategy:
    """Builds the configured strategy; returns the same object for equal options and networks.

    Programs are compiled for each object.
    """
    config, layers = prepared.config, len(prepared.network.layers)
    budget = max(stage.budget for stage in build_stages(prepared))
    return _build_strategy(config.search, config.agent, prepared.space, layers, budget)


@functools.lru_cache(maxsize=16)
def _build_strategy(
    search: SearchOptions, agent: ActorCriticOptions, space: Space, layers: int, budget: int
) -> Strategy:
    parallel = search.parallel
    pruning = round(budget * search.pruning_share)
    breeding = GeneticOptions(agent.population, agent.warmup, agent.breeding)
    # The buffer is no larger than the search fills it, because every step ranks all its slots.
    max_capacity = max(search.episodes, agent.population, parallel)
    agent = dataclasses.replace(agent, capacity=min(agent.capacity, max_capacity))
    return {
        "apq": lambda: apq(space, agent, parallel, pruning, search.pruning_drop),
        "joint": lambda: actor_critic(space, agent, (True,) * len(space.sizes), parallel),
        "random": lambda: random(space, parallel),
        "uniform": lambda: uniform(space, parallel),
        "lamp": lambda: lamp(space, parallel, budget),
        "greedy": lambda: greedy(space, GreedyOptions(), parallel, layers),
        "genetic": lambda: genetic(space, breeding, parallel),
        "cma_es": lambda: cma_es(space, CmaOptions(), layers),
    }[search.strategy]()


def build_stages(prepared: Prepared) -> list[Stage]:
    """Splits the budget of a run's searches evenly among stages, which run one after the other.

    Each stage has the accuracy limit that `list_drops` gives it, and keys of its own. If
    `list_drops` is empty, one stage has the whole budget, and the problem as it is.
    """
    search, problem = prepared.config.search, prepared.problem
    keys = jnp.stack([jax.random.key(seed) for seed in list_seeds(prepared.config)])
    drops = list_drops(prepared.config)
    if not drops:
        return [Stage(problem, keys, search.episodes)]
    count = len(drops)
    stage_keys = jax.vmap(lambda key: jax.random.split(key, count))(keys)  # [S, count]
    budgets = np.diff(np.arange(count + 1) * search.episodes // count)
    return [
        Stage(
            problem._replace(
                min_accuracy=problem.float_accuracy - drop / 100.0,
                phase=jnp.asarray(index / count, jnp.float32),
            ),
            stage_keys[:, index],
            int(budgets[index]),
        )
        for index, drop in enumerate(drops)
    ]


def list_drops(config: Config) -> tuple[float, ...]:
    """Returns the accuracy limit of each stage in percentage points, falling.

    Returns () if the search has one stage only, with the problem's own limit.
    """
    search = config.search
    if search.strategy in _BLIND:
        return ()
    if search.goal == "front":
        return FRONT_DROPS
    if search.goal == "cost" and search.tuned and search.headroom:
        drop, headroom = search.max_accuracy_drop, search.headroom
        return tuple(drop + share * headroom for share in HEADROOM_SHARES)
    return ()


def list_seeds(config: Config) -> range:
    """Returns the seeds of a run's S searches: `search.seeds` numbers from `config.seed` on."""
    return range(config.seed, config.seed + config.search.seeds)


def choose_batch(config: Config) -> loop.Batch:
    """Returns how a run's searches share a program: `search.batch_seeds`, with "auto" resolved.

    "auto" becomes "vmap" (side by side) for several searches unless JAX runs on the CPU, and "map"
    (one after the other) otherwise.
    """
    batch = config.search.batch_seeds
    if batch != "auto":
        return "vmap" if batch == "vmap" else "map"
    return "map" if config.search.seeds == 1 or jax.default_backend() == "cpu" else "vmap"


def start(prepared: Prepared, strategy: Strategy) -> Standing:
    """Builds the state of a run's searches at the beginning of their first stage."""
    return _enter(0, build_stages(prepared)[0], strategy)


def _enter(
    index: int, stage: Stage, strategy: Strategy, previous: Standing | None = None
) -> Standing:
    """Builds the first state of a stage; a transferable strategy keeps what it has learnt."""
    carry = loop.start(strategy, stage.problem, stage.keys, stage.budget)
    if previous is not None and strategy.transferable:
        carry = carry._replace(state=previous.carry.state)
    return Standing(np.asarray(index, np.int32), carry)


def resume(
    prepared: Prepared, strategy: Strategy, standing: Standing, chunk: int = 2
) -> Iterator[tuple[Standing, Record]]:
    """Runs the searches from `standing` on, through all later stages; yields after each chunk.

    Args:
      prepared: from `prepare`.
      strategy: from `build_strategy`, or another one; static.
      standing: from `start`, or a state that this function yielded for the same arguments.
      chunk: batches of policies that each search evaluates before the host sees the results.

    Yields:
      The state after a chunk, and the record of the chunk's evaluations.
    """
    evaluate, batch = build_evaluator(prepared), choose_batch(prepared.config)
    subject, first = prepared.subject, int(standing.stage)
    for index, stage in list(enumerate(build_stages(prepared)))[first:]:
        if index > first:
            standing = _enter(index, stage, strategy, standing)
        for carry, record in loop.resume(
            strategy, evaluate, subject, stage.problem, standing.carry, chunk, batch
        ):
            standing = Standing(standing.stage, carry)
            yield standing, record


def build_empty_record(prepared: Prepared) -> Record:
    """Builds a record of no evaluations, with the fields, shapes and dtypes of the searches'."""
    layers = len(prepared.network.layers)
    return loop.build_empty_record(
        build_evaluator(prepared), prepared.subject, prepared.space, layers
    )


def search_policies(
    prepared: Prepared, chunk: int = 2, strategy: Strategy | None = None
) -> Iterator[Record]:
    """Runs all searches of a run from their beginning; yields the record of each chunk.

    Args:
      prepared: from `prepare`.
      chunk: batches of policies that each search evaluates before the host sees the results.
      strategy: your own; None takes the configured one.

    Yields:
      The record of a chunk's N policies, [N, L] and [N] fields, on the host.
    """
    strategy = build_strategy(prepared) if strategy is None else strategy
    return (record for _, record in resume(prepared, strategy, start(prepared, strategy), chunk))


def joined(records: Iterable[Record]) -> Record:
    """Joins the records of at least one chunk into one, in their order: [N, L] and [N] fields."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *records)
