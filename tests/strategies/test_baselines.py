"""The parts of a search: actions, reward, closed form, replay, agent and loop, on a toy problem."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.problems import GREEDY, LAYERS, OPTIONS, SPACE, choices, evaluate, run_search, shared

from apq_jax.compression.plan import LayerPlan
from apq_jax.compression.pruning import Block
from apq_jax.metrics import METRICS
from apq_jax.problem import build, environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Outcome, Strategy, loop
from apq_jax.strategies.apq import apq
from apq_jax.strategies.greedy import greedy
from apq_jax.strategies.lamp import lamp
from apq_jax.strategies.options import ActorCriticOptions
from apq_jax.strategies.uniform import uniform
from apq_jax.types import AgentOptions


def test_uniform_proposes_every_policy_once_and_stops(problem: Problem) -> None:
    policies = choices(run_search(uniform(SPACE, 7), problem, 0, 200))
    assert (policies == policies[:, :1]).all()
    expected = set(itertools.product(range(5), SPACE.weight_bits, SPACE.input_bits))
    assert len(policies) == len(expected)
    assert {tuple(row) for row in policies[:, 0].tolist()} == expected


def test_lamp_keeps_what_scores_above_one_threshold(problem: Problem) -> None:
    """Five thresholds for each of the 16 choices of bits."""
    scores = jnp.asarray([[0.01, 0.05, 0.2, 0.5, 1.0], [0.1, 0.3, 0.4, 0.9, 1.0], [0.02] * 5])
    policies = choices(run_search(lamp(SPACE, 4, 80), problem._replace(lamp=scores), 0, 200))
    assert len(policies) == 80
    assert (policies[:, :, 1:] == policies[:, :1, 1:]).all()
    # Thresholds 10^-2 to 1 in steps of 10^(1/2); the first level at or above; none: the last.
    levels = {tuple(row) for row in policies[:, :, 0].tolist()}
    assert levels == {(0, 0, 0), (1, 0, 4), (2, 0, 4), (3, 2, 4), (4, 4, 4)}


def test_lamp_scores_by_hand() -> None:
    """Vectors of two rows with energies 9, 4, 2 and 1: scores 9/9, 4/13, 2/15, 1/16."""
    weights = np.zeros((2, 1, 3, 2), np.float32)  # the second row group has one row
    weights[0, 0] = [[3, 1], [0, 1], [2, 1]]
    keep = np.asarray([1.0, 0.5])
    arrays = (jnp.asarray(x) for x in (weights, *np.zeros((3, 1)), keep, keep))
    plan = LayerPlan(*arrays, Block(2))
    np.testing.assert_allclose(build._score_lamp(plan), [1 / 16, 4 / 13])
    # Rows of both columns: 10, 4 + 1 and 1; scores 10/10, 5/15, 1/16.
    rows = plan._replace(block=Block(1, 2), keep=jnp.asarray([1.0, 2 / 3, 1 / 3]))
    np.testing.assert_allclose(build._score_lamp(rows), [1 / 16, 5 / 15, 1])


def test_greedy_measures_each_layer_alone_first(problem: Problem) -> None:
    """Levels 1 and 4, three numbers of weight bits and of input bits: 8 a layer."""
    policies = choices(run_search(shared("greedy"), problem, 0, 24))
    dense = np.asarray([0, SPACE.weight_bits[-1], SPACE.input_bits[-1]])
    changed = (policies != dense).any(axis=2)
    assert (changed.sum(axis=1) == 1).all()
    assert changed.sum(axis=0).tolist() == [8, 8, 8]
    assert len(np.unique(policies.reshape(24, -1), axis=0)) == 24


def shortened(problem: Problem, levels: int) -> Problem:
    parts = {
        name: getattr(problem, name)[:, :levels] for name in ("error", "lamp", "share", "costs")
    }
    return problem._replace(**parts)


def test_where_only_bits_or_keep_ratios_can_be_chosen(problem: Problem) -> None:
    bits = Space(1, SPACE.weight_bits, SPACE.input_bits)
    policies = choices(run_search(greedy(bits, GREEDY, 4, LAYERS), shortened(problem, 1), 0, 40))
    assert len(np.unique(policies.reshape(40, -1), axis=0)) > 20
    alone = Space(1, (8,), (8,))
    policies = choices(run_search(greedy(alone, GREEDY, 4, LAYERS), shortened(problem, 1), 0, 8))
    assert (policies == [0, 8, 8]).all()
    # No other agent comes after the one that prunes: it goes on, as far as the limit allows.
    options = ActorCriticOptions(4, 8, updates=1, networks=AgentOptions(8))
    record = run_search(apq(Space(5, (8,), (8,)), options, 4, 4, 0.3), problem, 0, 20)
    assert len(np.unique(record.policy.level, axis=0)) > 12


def test_greedy_then_looks_along_a_path_for_the_limit(problem: Problem) -> None:
    record = run_search(shared("greedy"), problem, 0, 24 + 12)
    shares = jax.jit(jax.vmap(environment.look_up_shares, (None, 0)))(problem, record.policy)
    cost = np.asarray(shares)[24:].sum(axis=1).tolist()
    for call in range(3):
        along = cost[4 * call : 4 * call + 4]
        assert along == sorted(along, reverse=True)
    meets = record.evaluation.divergence <= 0.02 + 1e-6
    # The last round is next to the limit: its cheapest that meets it is the cheapest that does.
    assert meets[24:].any()
    assert min(c for c, m in zip(cost, meets[24:], strict=True) if m) == min(
        c for c, m in zip(cost[8:], meets[32:], strict=True) if m
    )


def test_the_fittest_stay_and_stand_once(problem: Problem) -> None:
    begin = loop.start(shared("genetic"), problem, jax.random.key(0)[None], 40)
    chunks = list(loop.resume(shared("genetic"), evaluate, problem, problem, begin, 2))
    seen = np.concatenate([record.reward for _, record in chunks]).tolist()
    (genes,), (fitness,), _ = map(np.asarray, chunks[-1][0].state)
    assert len(set(seen)) > 8
    assert fitness.tolist() == sorted(set(seen), reverse=True)[:8]
    assert len(np.unique(genes.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("name", ["greedy", "genetic", "cma_es", "actor_critic"])
def test_what_learns_is_better_than_chance(problem: Problem, name: str) -> None:
    chance = run_search(shared("random"), problem, 0, 120).reward.max()
    assert run_search(shared(name), problem, 0, 120).reward.max() > chance


@pytest.mark.parametrize("name", ["apq", "greedy", "genetic", "actor_critic"])
def test_accuracy_within_a_limit_is_better_than_chance(problem: Problem, name: str) -> None:
    """A third of the dense network's slots; pruning alone has to reach 58 % in `apq`."""
    limited = problem._replace(
        weights=np.zeros(len(METRICS), np.float32),
        quality=np.float32(1),
        min_accuracy=np.float32(-np.inf),
        max_cost=np.asarray([333 if n == "slots" else np.inf for n in METRICS], np.float32),
    )
    strategy = apq(SPACE, OPTIONS, 4, 60, 0.0) if name == "apq" else shared(name)

    def best(strategy: Strategy) -> float:
        evaluations = run_search(strategy, limited, 0, 120).evaluation
        return float(evaluations.divergence[evaluations.slots <= 333].min())

    assert best(strategy) < best(shared("random"))


def test_cma_es_starts_from_the_best_closed_form(problem: Problem) -> None:
    strategy = shared("cma_es")

    @jax.jit
    def step(key: jax.Array, problem: Problem) -> tuple[jax.Array, ...]:
        keys = jax.random.split(key, 3)
        state = strategy.init(keys[0], problem)
        policies, valid, state = strategy.ask(keys[1], state, problem)
        evaluations = jax.vmap(evaluate, (None, 0))(problem, policies)
        outcome = Outcome(policies, valid, evaluations)
        state = strategy.tell(keys[2], state, problem, outcome)
        rewards = jax.vmap(environment.reward, (None, 0))(problem, evaluations)
        shortfall = environment.shortfall(problem, evaluations)
        mean = environment.decode(SPACE, state.cma.mean.reshape(LAYERS, 3))
        return policies.level, rewards, shortfall, mean.level

    levels, rewards, shortfall, mean = map(np.asarray, step(jax.random.key(0), problem))
    meets = shortfall == 0
    best = int(np.argmax(np.where(meets == meets.any(), rewards, -np.inf)))
    assert mean.tolist() == levels[best].tolist()
