"""Goals and limits: what is known of a policy beforehand, and what is asked for, by hand."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from helpers.prices import HEIGHT, KEEP, LAYERS, PRICES, SPACE, prices_of

from apq_jax import crossbar
from apq_jax.compression import converters
from apq_jax.compression.calibration import LayerStatistics
from apq_jax.compression.plan import LayerPlan
from apq_jax.compression.prices import (
    Prices,
    look_up_costs,
    move_to_device,
    unflatten,
)
from apq_jax.compression.pruning import Block
from apq_jax.config import Config, from_config_dict, to_config_dict
from apq_jax.hardware import Accelerator
from apq_jax.metrics import METRICS
from apq_jax.problem import build, environment
from apq_jax.problem.environment import Problem
from apq_jax.strategies import opening, surrogate
from apq_jax.system.errors import InputError
from apq_jax.types import Evaluation, Policy

OBJECTIVE = {"slots": 3.0, "energy_nj": 1.0}


def problem_of(prices: Prices = PRICES, **changes: Any) -> Problem:
    """Of weights that are all one."""
    plan, statistics = [], []
    for layer in LAYERS:
        weights = np.ones((1, layer.groups, layer.rows, layer.columns))
        error = np.zeros((SPACE.levels, 8))
        plan.append(LayerPlan(weights, weights, weights, weights, KEEP, error, Block(HEIGHT)))
        statistics.append(LayerStatistics(*[np.zeros(8)] * 7))
    arguments = {
        "objective": OBJECTIVE,
        "quality": 0.0,
        "limits": {},
        "float_accuracy": 0.98,
        "max_drop": 0.01,
        "drop_per_nat": 0.5,
        "penalty": 2.0,
        **changes,
    }
    cells = converters.get_cells(Accelerator())
    shape = tuple(plan), tuple(statistics), prices, cells, SPACE
    return build.build_problem(LAYERS, *shape, **arguments)


def foreseen(problem: Problem, policy: Policy) -> Evaluation:
    """What is known beforehand of policies [N, L] that lose nothing: [N] fields."""
    known = surrogate.look_up_choices(problem, SPACE)
    places = environment.encode_places(SPACE, policy).astype(jnp.float32)
    evaluate = jax.vmap(surrogate.predict_evaluation, (None, None, 0, None))
    return jax.jit(evaluate)(problem, known, places, jnp.zeros(()))


def policies(count: int) -> Policy:
    rng = np.random.default_rng(1)
    shape = count, len(LAYERS)
    choices = range(SPACE.levels), SPACE.weight_bits, SPACE.input_bits
    return Policy(*(jnp.asarray(rng.choice(list(c), shape), jnp.int32) for c in choices))


def evaluated(cost: crossbar.Cost, divergence: float = 0.0) -> Evaluation:
    """Evaluations with the cost that evaluation itself looks up."""
    nothing = jnp.full(cost.slots.shape, divergence)
    return Evaluation(nothing, nothing, *(getattr(cost, name) for name in Evaluation._fields[2:]))


@pytest.mark.parametrize("mapping", [{}, {"pipelined": True, "replication": 2}])
def test_what_is_known_beforehand_is_what_evaluation_finds(mapping: dict[str, Any]) -> None:
    prices = prices_of(Accelerator(**mapping))
    problem, some = problem_of(prices), policies(50)
    evaluation = evaluated(look_up_costs(move_to_device(prices), some))
    imagined = foreseen(problem, some)
    for name in METRICS:
        np.testing.assert_allclose(getattr(imagined, name), getattr(evaluation, name), rtol=2e-6)
    gains = (environment.gain(problem, each) for each in (imagined, evaluation))
    np.testing.assert_allclose(*gains, atol=5e-6)
    paid = environment.look_up_shares(problem, some).sum(axis=-1)
    shares = np.exp(-environment.log_ratios(problem, imagined))
    np.testing.assert_allclose(paid, 0.75 * shares[:, 0] + 0.25 * shares[:, 3], rtol=1e-5)


def test_unpruned_at_eight_bits_is_the_whole_in_whole_tiles_too() -> None:
    prices = prices_of(dataclasses.replace(Accelerator(), round_hierarchy=True))
    problem = problem_of(prices)
    eight = jnp.full(len(LAYERS), 8, jnp.int32)
    policy = jax.tree.map(lambda x: x[None], Policy(0 * eight, eight, eight))
    shares = np.exp(-environment.log_ratios(problem, foreseen(problem, policy)))
    dense = dict(zip(METRICS, shares[0], strict=True))
    # Column-vectors of the unpruned network need a few units more, but pack them otherwise.
    assert 1.0 <= dense["slots"] < 1.1
    assert 0.8 < dense["area_mm2"] < 1.2


def values(slots: float = 100, energy_nj: float = 10.0, divergence: float = 0.0) -> Evaluation:
    fields = 0.9, divergence, 5, slots, 1.0, energy_nj, 25.0
    return Evaluation(*(jnp.asarray(value, jnp.float32) for value in fields))


def test_shortfall_adds_up_what_is_missed() -> None:
    problem = problem_of(limits={"slots": 100, "energy_nj": 8.0})
    assert problem.max_cost.tolist() == [100, np.inf, np.inf, 8, np.inf]
    assert environment.shortfall(problem, values(100, 8.0)) == 0
    # 10 nJ are a quarter too many; half a nat loses 25 points, 24 too many.
    np.testing.assert_allclose(environment.shortfall(problem, values(100)), 0.25, rtol=1e-6)
    missed = environment.shortfall(problem, values(150, 10.0, 0.5))
    np.testing.assert_allclose(missed, 0.5 + 0.25 + 0.24, rtol=1e-5)
    free = problem_of(max_drop=math.inf)
    assert free.min_accuracy == -np.inf
    assert environment.shortfall(free, values(1e6, 1e6, 100.0)) == 0


def test_rewards_of_the_goals_by_hand() -> None:
    cost = problem_of(limits={"slots": 50})
    saved = 0.75 * math.log(cost.dense[0] / 100) + 0.25 * math.log(cost.dense[3] / 10)
    reward = environment.reward(cost, values())
    np.testing.assert_allclose(reward, saved - 2 * math.log(1 + 400 * 1.0), rtol=1e-5)
    accuracy = problem_of(objective={}, quality=1.0, max_drop=math.inf, limits={"slots": 100})
    # 0.5 x 0.01 is half a point, at no penalty; costs count nothing within the limit.
    for slots in (50, 100):
        reward = environment.reward(accuracy, values(slots, divergence=0.01))
        np.testing.assert_allclose(reward, -math.log(1 + 10 * 0.5), rtol=1e-5)
    over = environment.reward(accuracy, values(110, divergence=0.01))
    np.testing.assert_allclose(reward - over, 2 * math.log(1 + 400 * 0.1), rtol=1e-4)


def test_closed_forms_pay_for_what_is_limited_where_accuracy_is_the_goal() -> None:
    problem = problem_of(objective={}, quality=1.0, limits={"slots": 99, "latency_us": 1e3})
    assert problem.weights.tolist() == [0] * 5
    costs = np.asarray(problem.costs)
    np.testing.assert_allclose(problem.share, (costs[..., 0] + costs[..., 4]) / 2, rtol=1e-6)
    assert (environment.gain(problem, foreseen(problem, policies(3))) == 0).all()


def test_the_goal_is_traced() -> None:
    traces = 0

    @jax.jit
    def reward(problem: Problem, evaluation: Evaluation) -> jax.Array:
        nonlocal traces
        traces += 1
        return environment.reward(problem, evaluation)

    goals = [
        problem_of(),
        problem_of(limits={"slots": 50}),
        problem_of(objective={}, quality=1.0, max_drop=math.inf, limits={"slots": 50}),
        problem_of(max_drop=math.inf),
    ]
    rewards = [float(reward(problem, values(divergence=0.1))) for problem in goals]
    assert np.isfinite(rewards).all()
    assert len(set(rewards)) == 4
    assert traces == 1


def test_no_policy_needs_less_than_the_least() -> None:
    """Over all choices of every layer apart, and over many policies."""
    least = build.find_min_costs(PRICES, SPACE)
    some = policies(500)
    costs = look_up_costs(PRICES, jax.tree.map(np.asarray, some))
    for name in METRICS:
        assert least[name] <= getattr(costs, name).min()
    every = unflatten(PRICES)
    by_hand = [
        min(
            every.latency_us[layer, level, weight - 1, inputs - 1]
            for level in range(SPACE.levels)
            for weight in SPACE.weight_bits
            for inputs in SPACE.input_bits
        )
        for layer in range(len(LAYERS))
    ]
    assert least["latency_us"] == pytest.approx(sum(by_hand), rel=1e-6)
    last = np.full(len(LAYERS), SPACE.levels - 1), np.full(len(LAYERS), 2), np.full(len(LAYERS), 2)
    smallest = look_up_costs(PRICES, Policy(*last))
    assert (least["slots"], least["crossbars"]) == (smallest.slots, smallest.crossbars)


def test_closed_forms_of_another_phase_stand_between() -> None:
    problem = problem_of()
    error = np.random.default_rng(0).uniform(0, 1, problem.error.shape)
    problem = problem._replace(error=jnp.asarray(np.sort(error, axis=1), jnp.float32))
    allowed = environment.allow_all(problem, SPACE)

    def costs(phase: float) -> np.ndarray:
        moved = problem._replace(phase=jnp.asarray(phase))
        proposed = opening.propose_closed_forms(moved, SPACE, jnp.arange(12), 12, allowed)
        return np.asarray(environment.look_up_shares(problem, proposed).sum(axis=-1))

    usual, between = costs(0.0), costs(0.5)
    assert ((between[:-1] <= usual[:-1]) & (between[:-1] >= usual[1:])).all()
    assert (between != usual).any()


def config_with(**sections: dict[str, Any]) -> Config:
    tree = to_config_dict(Config()).to_dict()
    for section, fields in sections.items():
        tree[section] |= fields
    return from_config_dict(ml_collections.ConfigDict(tree))


def test_goals_and_limits_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match=r"^config\.limits: none is set, and search\.goal is acc"):
        config_with(search={"goal": "accuracy"})
    with pytest.raises(InputError, match=r"^config\.limits\.crossbars: 9, and search\.goal is fro"):
        config_with(search={"goal": "front"}, limits={"crossbars": 9})
    with pytest.raises(InputError, match=r"^config\.search\.goal: 'luck'; allowed: cost, accuracy"):
        config_with(search={"goal": "luck"})
    with pytest.raises(InputError, match=r"^config\.limits\.slots: -1\.0; allowed: a number, 0 to"):
        config_with(limits={"slots": -1.0})
    assert config_with(search={"goal": "accuracy"}, limits={"slots": 300}).limits.slots == 300.0
