"""The search of the main job, in stages; with the modules beside it, the main job as functions.

    prepared = prepare(network, params, dataset, accelerator, config)
    record = joined(search_policies(prepared))
    chosen = choose(prepared, record, dataset)
    measured = measure(prepared, chosen.network, dataset.test_images, dataset.test_labels)

Training images prepare and fine-tune; one half of validation is searched on, the other chooses;
test measures.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.config import Config, SearchOptions
from apq_jax.pipeline.prepared import Prepared, evaluator
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

FRONT_DROPS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)  # points lost that the front is searched at
HEADROOM_SHARES = (1.0, 0.5, 0.0)  # what fine-tuning wins back is not known while searching
_BLIND = ("random", "uniform", "lamp")  # strategies to which the limits are nothing


class Stage(NamedTuple):
    """Searches of one problem."""

    problem: Problem
    keys: jax.Array  # [S]
    budget: int  # evaluations of each


class Standing(NamedTuple):
    """Where a run's searches stand between two chunks."""

    stage: np.ndarray  # [] int32, number of the stage
    carry: loop.Carry


def strategy_of(prepared: Prepared) -> Strategy:
    """The strategy that the configuration names; equal ones are one, compiled once."""
    config, layers = prepared.config, len(prepared.network.layers)
    budget = max(stage.budget for stage in stages(prepared))
    return _strategy(config.search, config.agent, prepared.space, layers, budget)


@functools.lru_cache(maxsize=16)
def _strategy(
    search: SearchOptions, agent: ActorCriticOptions, space: Space, layers: int, budget: int
) -> Strategy:
    parallel = search.parallel
    pruning = round(budget * search.pruning_share)
    breeding = GeneticOptions(agent.population, agent.warmup, agent.breeding)
    # Every step ranks all that the buffer may hold.
    room = max(search.episodes, agent.population, parallel)
    agent = dataclasses.replace(agent, capacity=min(agent.capacity, room))
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


def stages(prepared: Prepared) -> list[Stage]:
    """What a run searches, one after the other: one accuracy limit, then the next.

    A front at `FRONT_DROPS`; the cheapest that is fine-tuned with all of the headroom, then less.
    """
    search, problem = prepared.config.search, prepared.problem
    keys = jnp.stack([jax.random.key(seed) for seed in seeds_of(prepared.config)])
    drops = drops_of(prepared.config)
    if not drops:
        return [Stage(problem, keys, search.episodes)]
    count = len(drops)
    each = jax.vmap(lambda key: jax.random.split(key, count))(keys)  # [S, count]
    budgets = np.diff(np.arange(count + 1) * search.episodes // count)
    return [
        Stage(
            problem._replace(
                min_accuracy=problem.float_accuracy - drop / 100.0,
                phase=jnp.asarray(at / count, jnp.float32),  # other closed forms
            ),
            each[:, at],
            int(budgets[at]),
        )
        for at, drop in enumerate(drops)
    ]


def drops_of(config: Config) -> tuple[float, ...]:
    """Points lost that a run searches at, falling; none where one problem is searched as it is."""
    search = config.search
    if search.strategy in _BLIND:
        return ()
    if search.goal == "front":
        return FRONT_DROPS
    if search.goal == "cost" and search.tuned and search.headroom:
        return tuple(search.max_accuracy_drop + x * search.headroom for x in HEADROOM_SHARES)
    return ()


def seeds_of(config: Config) -> range:
    """The seeds of a run's searches, [S]."""
    return range(config.seed, config.seed + config.search.seeds)


def batch_of(config: Config) -> loop.Batch:
    """How several searches share a program: side by side only where that is faster."""
    asked = config.search.batch_seeds
    if asked != "auto":
        return "vmap" if asked == "vmap" else "map"
    return "map" if config.search.seeds == 1 or jax.default_backend() == "cpu" else "vmap"


def start(prepared: Prepared, strategy: Strategy) -> Standing:
    """The beginning of a run's searches."""
    return _entered(0, stages(prepared)[0], strategy)


def _entered(
    number: int, stage: Stage, strategy: Strategy, before: Standing | None = None
) -> Standing:
    """The beginning of a stage, with what was learnt before where that holds."""
    carry = loop.start(strategy, stage.problem, stage.keys, stage.budget)
    if before is not None and strategy.transferable:
        carry = carry._replace(state=before.carry.state)
    return Standing(np.asarray(number, np.int32), carry)


def go_on(
    prepared: Prepared, strategy: Strategy, standing: Standing, chunk: int = 2
) -> Iterator[tuple[Standing, Record]]:
    """Runs the searches from where they stand to their end; yields each chunk and where it led."""
    evaluate, batch = evaluator(prepared), batch_of(prepared.config)
    first = int(standing.stage)
    for number, stage in list(enumerate(stages(prepared)))[first:]:
        if number > first:
            standing = _entered(number, stage, strategy, standing)
        subject = prepared.subject
        for carry, record in loop.resume(
            strategy, evaluate, subject, stage.problem, standing.carry, chunk, batch
        ):
            standing = Standing(standing.stage, carry)
            yield standing, record


def nothing(prepared: Prepared) -> Record:
    """The record of no evaluation."""
    layers = len(prepared.network.layers)
    return loop.build_empty_record(evaluator(prepared), prepared.subject, prepared.space, layers)


def search_policies(
    prepared: Prepared, chunk: int = 2, strategy: Strategy | None = None
) -> Iterator[Record]:
    """Runs the configured strategy, or one's own; yields what each chunk of batches evaluated.

    Args:
      prepared: from `prepare`.
      chunk: batches of policies of each search between two looks from the host.
      strategy: static; None: what `config.search.strategy` names.

    Yields:
      Records of the N policies of a chunk, [N, L] and [N], on the host.
    """
    strategy = strategy_of(prepared) if strategy is None else strategy
    return (record for _, record in go_on(prepared, strategy, start(prepared, strategy), chunk))


def joined(records: Iterable[Record]) -> Record:
    """Chunks of a search as one record: policies [N, L], evaluations and rewards [N]."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *records)
