"""Measures how an agent that learnt on many accelerators and limits does on ones it never saw.

Every seed trains a network. The agent learns on random accelerators and limits, with some
evaluations on each, and keeps only its state. Then three ways are compared on other ones: the best
policy that it knows or imagines without an evaluation there, a search of 48 evaluations that
starts from its state, and a fresh search of 600. "Known" is the best of the policies that it has
measured, priced anew, which needs no learning. The work folder keeps every finished seed, so the
benchmark may be stopped and resumed.

    python benchmarks/conditional.py [--seeds 3] [--workdir runs/conditional]
    python benchmarks/conditional.py --table
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from harness import parse
from strategies import prepare_network  # beside this file

from apq_jax import agent as agents
from apq_jax import hardware
from apq_jax.hardware import Accelerator
from apq_jax.pipeline import judge, prepare, stages
from apq_jax.pipeline.prepared import Prepared, build_evaluator
from apq_jax.problem import environment
from apq_jax.problem.environment import Space
from apq_jax.strategies import Strategy, loop, surrogate
from apq_jax.strategies.actor_critic import State, actor_critic
from apq_jax.system.cache import open_cache
from apq_jax.system.files import write_whole


class Budget(NamedTuple):
    """How many accelerators there are, and how many evaluations."""

    learnt_on: int = 48  # accelerators and limits
    each: int = 96  # evaluations on each of them
    unseen: int = 6  # accelerators and limits
    few: int = 48  # evaluations of the search from the agent's state
    fresh: int = 600  # evaluations of the fresh search


SMOKE = Budget(1, 16, 1, 16, 16)
CHUNK, PARALLEL = 2, 8
DRAWS = 32  # batches of proposals to choose the first among


def main() -> int:
    """Runs the missing seeds, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/conditional"))
    parser.add_argument("--table", action="store_true")
    options = parse(parser, seeds=1)
    budget = SMOKE if options.smoke else Budget()
    paths = [options.workdir / f"{seed}.json" for seed in range(options.seeds)]
    for seed, path in enumerate(paths):
        if not options.table and not path.exists():
            base, _ = prepare_network(seed, open_cache(), "lenet5", options.fields)
            write_whole(path, json.dumps(_run(base, seed, budget)))
    if options.table or options.smoke:
        _print([row for path in paths for row in json.loads(path.read_text())], budget)
    return 0


def _draw_task(rng: np.random.Generator, prepared: Prepared) -> Prepared:
    """Aims the network at a random accelerator and limit."""
    crossbar = int(rng.choice([64, 128, 256]))
    accelerator: Accelerator = dataclasses.replace(
        hardware.load("isaac_ou"),
        crossbar_rows=crossbar,
        crossbar_columns=crossbar,
        cell_bits=int(rng.choice([1, 2, 4])),
        dac_bits=int(rng.choice([1, 2])),
        unit_columns=int(rng.choice([4, 8, 16, 32])),
        adcs=float(rng.choice([0.25, 1.0])),
        signed=str(rng.choice(["offset", "differential"])),
    )
    drop = round(float(np.exp(rng.uniform(np.log(0.25), np.log(4.0)))), 2)
    options = dataclasses.replace(prepared.config.search, max_accuracy_drop=drop)
    config = dataclasses.replace(prepared.config, search=options)
    return prepare.aim(prepared, accelerator, config)


def _run(base: Prepared, seed: int, budget: Budget) -> list[dict[str, Any]]:
    """Lets the agent learn; returns a row for every unseen accelerator and limit."""
    rng = np.random.default_rng(seed)
    levels = base.config.plan.levels
    # One space for all: what costs the same is told apart by its error.
    space = Space(levels, tuple(range(2, 9)), tuple(range(2, 9)))
    strategy = actor_critic(space, base.config.agent, (True, True, True), PARALLEL)
    evaluate = build_evaluator(base)
    tasks = [_draw_task(rng, base) for _ in range(budget.learnt_on)]
    carry = loop.start(strategy, tasks[0].problem, jax.random.key(seed)[None], 0)
    for count, task in enumerate(tasks, start=1):
        carry = carry._replace(left=jnp.full(1, budget.each, jnp.int32))
        for after, _ in loop.resume(strategy, evaluate, task.subject, task.problem, carry, CHUNK):
            carry = after
        print(f"seed {seed}: learnt on {count} of {len(tasks)}", file=sys.stderr, flush=True)
    learnt = jax.tree.map(lambda x: x[0], carry.state)
    rows = []
    for index in range(budget.unseen):
        task, key = _draw_task(rng, base), jax.random.key(index)
        known, imagined = _propose(strategy, task, space, learnt, key)
        few = loop.Carry(key[None], carry.state, jnp.full(1, budget.few, jnp.int32))
        records = loop.resume(strategy, evaluate, task.subject, task.problem, few, CHUNK)
        record = stages.joined([record for _, record in records])
        # A user has what the agent has measured before, priced anew, too.
        few_best = max(known, _find_best(task, record))
        own = actor_critic(task.space, base.config.agent, (True, True, True), PARALLEL)
        key = jax.random.key(1000 + index)
        fresh = stages.joined(
            loop.run(own, evaluate, task.subject, task.problem, key, budget.fresh, CHUNK)
        )
        row = {
            "accelerator": {
                field: getattr(task.accelerator, field)
                for field in ("crossbar_rows", "cell_bits", "dac_bits", "unit_columns", "signed")
            },
            "drop": task.config.search.max_accuracy_drop,
            "known": known,
            "imagined": imagined,
            "few": few_best,
            "fresh": _find_best(task, fresh),
            "fresh_few": _find_best(task, jax.tree.map(lambda x: x[: budget.few], fresh)),
        }
        rows.append(row)
        print(f"seed {seed}: {row}", file=sys.stderr, flush=True)
    return rows


def _propose(
    strategy: Strategy, task: Prepared, space: Space, learnt: State, key: jax.Array
) -> tuple[float, float]:
    """Returns e^objective of the best known and the best imagined policy.

    Both are proposed without an evaluation, then measured; 0 stands for one that misses the limit.
    Of many imagined proposals the best is taken that meets the limit by the largest divergence
    that the critic's ensemble predicts plus one standard deviation between its members.
    """
    networks, problem = task.config.agent.networks, task.problem
    agent = agents.make_agent(networks, space.sizes)
    choices = surrogate.look_up_choices(problem, space)

    @jax.jit
    def draw(key: jax.Array, learnt: State) -> tuple[jax.Array, jax.Array]:
        policies = jax.vmap(lambda key: strategy.ask(key, learnt, problem)[0])(
            jax.random.split(key, DRAWS)
        )
        places = environment.encode_places(space, policies).reshape(
            -1, *learnt.replay.places.shape[1:]
        )
        whole = places.astype(jnp.float32)
        errors = jax.vmap(surrogate.interpolate_log_errors, (None, 0))(choices, whole)
        predict: Any = jax.vmap(jax.vmap(agent.critic.apply, (None, 0, 0)), (0, None, None))
        guesses = predict(learnt.agent.critics, errors, whole)  # [members, N]
        cautious = guesses.max(axis=0) + guesses.std(axis=0)
        memory = learnt.replay
        is_filled = jnp.arange(len(memory.places)) < memory.filled
        measured = worth(memory.places.astype(jnp.float32), memory.log_divergence)
        known = memory.places[jnp.argmax(jnp.where(is_filled, measured, -jnp.inf))]
        return known, places[jnp.argmax(worth(whole, cautious))]

    def worth(places: jax.Array, log_divergence: jax.Array) -> jax.Array:
        """Returns rewards [N]; every policy that meets the limit beats all that miss it."""
        predict = jax.vmap(surrogate.predict_evaluation, (None, None, 0, 0))
        evaluations = predict(problem, choices, places, jnp.exp(log_divergence))
        misses = environment.shortfall(problem, evaluations) > 0
        return jax.vmap(environment.reward, (None, 0))(problem, evaluations) - 1e6 * misses

    known, imagined = draw(key, learnt)
    evaluate = jax.jit(build_evaluator(task))
    best = []
    for places in (known, imagined):
        policy = environment.decode_places(space, places)
        pair = policy, evaluate(task.subject, policy)
        policies, evaluations = jax.tree.map(lambda x: np.asarray(x)[None], pair)
        record = loop.Record(policies, evaluations, np.zeros(1), np.zeros(1, np.int32))
        best.append(_find_best(task, record))
    return best[0], best[1]


def _find_best(task: Prepared, record: loop.Record) -> float:
    """Returns e^objective of the best policy that meets the limit, or 0 if none does."""
    gain, expected, _, _ = judge.judge(task, record)
    meets = expected >= float(task.problem.min_accuracy)
    return float(np.exp(np.max(np.where(meets, gain, -np.inf))))


def _print(rows: list[dict[str, Any]], budget: Budget) -> None:
    """Prints each way's e^objective over the fresh search's."""
    ways = {
        "known": "best of what was measured before, priced anew; no evaluation",
        "imagined": "the agent's first proposal; no evaluation",
        "few": f"search from the agent, {budget.few} evaluations",
        "fresh_few": f"fresh search, {budget.few} evaluations",
    }
    print(f"| | over a fresh search of {budget.fresh}: median (least to most) |")
    print("|---|--:|")
    for name, words in ways.items():
        ratios = np.asarray([row[name] / row["fresh"] for row in rows])
        print(f"| {words} | {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) |")


if __name__ == "__main__":
    sys.exit(main())
