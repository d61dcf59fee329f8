"""What an agent that has learnt on many accelerators and limits does on ones it has never seen.

A network a seed. The agent learns on random accelerators and limits, some evaluations on each; its
state is all that it takes on. Then, on other ones: the best policy that it knows or imagines
without a single evaluation there; a search of 50 evaluations that starts from it; and a fresh
search of 600. "Known" is the best of the policies that it has measured, priced anew: what no
learning is needed for. What was done is kept in the work folder, so that it may be stopped.

    python benchmarks/conditional.py [--seeds 3] [--workdir runs/conditional]
    python benchmarks/conditional.py --table
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import strategies  # beside this file

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

LEARNT_ON, EACH = 48, 96  # accelerators and limits; evaluations on each
UNSEEN, FEW, FRESH = 6, 48, 600
CHUNK, PARALLEL = 2, 8
DRAWS = 32  # batches of proposals to choose the first among


def main() -> int:
    """Runs what is missing, or prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/conditional"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    paths = [options.workdir / f"{seed}.json" for seed in range(options.seeds)]
    if options.table:
        _print([row for path in paths for row in json.loads(path.read_text())])
        return 0
    cache = open_cache()
    for seed, path in enumerate(paths):
        if not path.exists():
            write_whole(path, json.dumps(_rows(seed, cache)))
    return 0


def _task(rng: np.random.Generator, prepared: Prepared) -> Prepared:
    """The network aimed at a random accelerator and limit."""
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


def _rows(seed: int, cache: pathlib.Path) -> list[dict[str, Any]]:
    base, _ = strategies.prepared_of(seed, cache)
    rng = np.random.default_rng(seed)
    levels = base.config.plan.levels
    # One space for all: what costs the same is told apart by its error.
    space = Space(levels, tuple(range(2, 9)), tuple(range(2, 9)))
    strategy = actor_critic(space, base.config.agent, (True, True, True), PARALLEL)
    evaluate = build_evaluator(base)
    tasks = [_task(rng, base) for _ in range(LEARNT_ON)]
    carry = loop.start(strategy, tasks[0].problem, jax.random.key(seed)[None], 0)
    for number, task in enumerate(tasks):
        carry = carry._replace(left=jnp.full(1, EACH, jnp.int32))
        for after, _ in loop.resume(strategy, evaluate, task.subject, task.problem, carry, CHUNK):
            carry = after
        print(f"seed {seed}: learnt on {number + 1} of {LEARNT_ON}", file=sys.stderr, flush=True)
    learnt = jax.tree.map(lambda x: x[0], carry.state)
    rows = []
    for number in range(UNSEEN):
        task = _task(rng, base)
        known, imagined = _first(strategy, task, space, learnt, jax.random.key(number))
        few = loop.Carry(jax.random.key(number)[None], carry.state, jnp.full(1, FEW, jnp.int32))
        records = loop.resume(strategy, evaluate, task.subject, task.problem, few, CHUNK)
        record = stages.joined([record for _, record in records])
        # A user has what the agent has measured before, priced anew, too.
        few_best = max(known, _best(task, record))
        own = actor_critic(task.space, base.config.agent, (True, True, True), PARALLEL)
        key = jax.random.key(1000 + number)
        fresh = stages.joined(
            loop.run(own, evaluate, task.subject, task.problem, key, FRESH, CHUNK)
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
            "fresh": _best(task, fresh),
            "fresh_few": _best(task, jax.tree.map(lambda x: x[:FEW], fresh)),
        }
        rows.append(row)
        print(f"seed {seed}: {row}", file=sys.stderr, flush=True)
    return rows


def _first(
    strategy: Strategy, task: Prepared, space: Space, learnt: State, key: jax.Array
) -> tuple[float, float]:
    """e^objective of what is proposed without an evaluation: the best known, and imagined.

    Many proposals are drawn; the one is taken that every member of the critic's ensemble, and a
    margin of one deviation between them, says will meet the limit. It is then measured: 0 where it
    does not.
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
        there = jnp.arange(len(memory.places)) < memory.filled
        measured = worth(memory.places.astype(jnp.float32), memory.log_divergence)
        known = memory.places[jnp.argmax(jnp.where(there, measured, -jnp.inf))]
        return known, places[jnp.argmax(worth(whole, cautious))]

    def worth(places: jax.Array, log_divergence: jax.Array) -> jax.Array:
        """Rewards [N]; what meets the limit beats what does not."""
        foreseen = jax.vmap(surrogate.predict_evaluation, (None, None, 0, 0))
        found = foreseen(problem, choices, places, jnp.exp(log_divergence))
        misses = environment.shortfall(problem, found) > 0
        return jax.vmap(environment.reward, (None, 0))(problem, found) - 1e6 * misses

    known, imagined = draw(key, learnt)
    evaluate = jax.jit(build_evaluator(task))
    found = []
    for places in (known, imagined):
        policy = environment.decode_places(space, places)
        pair = policy, evaluate(task.subject, policy)
        policies, found_of = jax.tree.map(lambda x: np.asarray(x)[None], pair)
        record = loop.Record(policies, found_of, np.zeros(1), np.zeros(1, np.int32))
        found.append(_best(task, record))
    return found[0], found[1]


def _best(task: Prepared, record: loop.Record) -> float:
    """e^objective of the best that meets the limit; 0 where none does."""
    gain, expected, _, _ = judge.judge(task, record)
    meets = expected >= float(task.problem.min_accuracy)
    return float(np.exp(np.max(np.where(meets, gain, -np.inf))))


def _print(rows: list[dict[str, Any]]) -> None:
    """Each way's e^objective over that of the fresh search."""
    ways = {
        "known": "best of what was measured before, priced anew; no evaluation",
        "imagined": "the agent's first proposal; no evaluation",
        "few": f"search from the agent, {FEW} evaluations",
        "fresh_few": f"fresh search, {FEW} evaluations",
    }
    print(f"| | over a fresh search of {FRESH}: median (least to most) |")
    print("|---|--:|")
    for name, words in ways.items():
        ratios = np.asarray([row[name] / row["fresh"] for row in rows])
        print(f"| {words} | {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) |")


if __name__ == "__main__":
    sys.exit(main())
