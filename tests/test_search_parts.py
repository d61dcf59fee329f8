"""The parts of a search: actions, reward, closed form, replay, agent and loop, on a toy problem."""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax import agent as agents
from apq_jax.compression.plan import LayerPlan
from apq_jax.compression.pruning import Block
from apq_jax.config import Config, SearchOptions
from apq_jax.data import Dataset
from apq_jax.hardware import Accelerator
from apq_jax.metrics import METRICS
from apq_jax.pipeline import prepare, stages
from apq_jax.problem import build, environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.run import checkpoint, job
from apq_jax.strategies import Strategy, loop, replay, surrogate
from apq_jax.strategies.actor_critic import actor_critic
from apq_jax.strategies.apq import apq
from apq_jax.strategies.cma_es import CmaOptions, cma_es
from apq_jax.strategies.genetic import genetic
from apq_jax.strategies.greedy import GreedyOptions, greedy
from apq_jax.strategies.lamp import lamp
from apq_jax.strategies.options import ActorCriticOptions, GeneticOptions
from apq_jax.strategies.random import random
from apq_jax.strategies.uniform import uniform
from apq_jax.system.errors import InputError
from apq_jax.types import AgentOptions, Evaluation, Policy

SPACE = Space(levels=5, weight_bits=(2, 4, 6, 7), input_bits=(3, 4, 5, 6))
LAYERS, FEATURES = 3, 4
PROPERTY = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Errors fall and shares rise with keep and bits; half slots, half energy."""
    rng = np.random.default_rng(0)
    keep = np.geomspace(1.0, 0.1, SPACE.levels)[:, None]
    weight = np.arange(1, 9)
    size = rng.uniform(0.1, 1.0, (LAYERS, 1, 1))
    sensitivity = rng.uniform(0.2, 2.0, (LAYERS, 1, 1))
    slices = np.ceil(np.arange(1, 9) / 2)
    share = (size / 3)[..., None] * (keep[:, :, None] * slices[:, None] / 4 * np.arange(1, 9) / 8)
    arrays = {
        "features": rng.random((LAYERS, FEATURES)),
        "error": sensitivity * ((1 - keep) ** 2 + 4.0**-weight),
        "input_error": rng.uniform(0.5, 1, (LAYERS, 1)) * 4.0 ** -np.arange(1, 9),
        "lamp": np.sort(rng.uniform(0.01, 1, (LAYERS, SPACE.levels)), axis=1),
        "share": share,
        "costs": np.repeat(share[..., None], len(METRICS), axis=-1),
        "weights": [0.5, 0, 0, 0.5, 0],
        "quality": 0.0,
        "dense": [1000, 10, 2, 400, 50],
        "max_cost": [np.inf] * len(METRICS),
        "float_accuracy": 0.95,
        "min_accuracy": 0.94,
        "drop_per_nat": 0.5,
        "penalty": 2.0,
        "phase": 0.0,
    }
    return Problem(**{name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()})


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


# --- actions -----------------------------------------------------------------------------------


def test_decode_by_hand() -> None:
    """Weight bits 2, 4, 6, 7 are four intervals: 3 and 5 cost what the next even one does."""
    actions = jnp.asarray(
        [
            [1.0, 0.0, 0.0],
            [0.0, 1.0, 1.0],
            [0.49, 0.26, 0.26],
            [0.74, 0.49, 0.49],
            [0.13, 0.51, 0.51],
            [0.12, 0.76, 0.99],
        ]
    )
    policy = environment.decode(SPACE, actions)
    assert policy.level.tolist() == [0, 4, 2, 1, 3, 4]
    assert policy.weight_bits.tolist() == [2, 7, 4, 4, 6, 7]
    assert policy.input_bits.tolist() == [3, 6, 4, 4, 5, 6]


def test_of_bits_that_cost_the_same_the_most_are_a_choice() -> None:
    def choices(least: int, most: int, **hardware: Any) -> tuple[tuple[int, ...], ...]:
        names = "min_weight_bits", "min_input_bits", "max_weight_bits", "max_input_bits"
        search = SearchOptions(**dict(zip(names, (least, least, most, most), strict=True)))
        space = prepare.space_of(Config(search=search), Accelerator(**hardware))
        return space.weight_bits, space.input_bits

    assert choices(2, 7) == ((2, 4, 6, 7), (2, 3, 4, 5, 6, 7))
    assert choices(1, 8, cell_bits=3, dac_bits=4) == ((3, 6, 8), (4, 8))
    # Pairs hold a sign and 2 bits: 1, 2 and 3 bits are one pair.
    assert choices(1, 8, signed="differential")[0] == (3, 5, 7, 8)
    with pytest.raises(InputError, match=r"accelerator\.cell_bits: 4; allowed: up to .* \(3\)"):
        choices(2, 3, cell_bits=4)


@PROPERTY
@hypothesis.given(
    levels=st.integers(1, 64),
    weight=st.sets(st.integers(1, 8), min_size=1),
    inputs=st.sets(st.integers(1, 8), min_size=1),
    action=st.tuples(*[st.floats(0, 1, width=32)] * 3),
)
def test_what_is_executed_is_encoded_and_decoded_unchanged(
    levels: int, weight: set[int], inputs: set[int], action: Any
) -> None:
    space = Space(levels, tuple(sorted(weight)), tuple(sorted(inputs)))
    policy = environment.decode(space, jnp.asarray(action))
    assert 0 <= policy.level < levels
    assert int(policy.weight_bits) in weight
    assert int(policy.input_bits) in inputs
    encoded = environment.encode(space, policy)
    assert ((encoded >= 0) & (encoded <= 1)).all()
    assert environment.decode(space, encoded) == policy


def test_encoded_is_the_middle_of_what_decodes() -> None:
    """Found on a fine grid, for choices that are not evenly spaced."""
    a = (jnp.arange(2520) + 0.5) / 2520
    for column, choices in ((1, (2, 4, 6, 7)), (2, (3, 4, 5, 6))):
        actions = jnp.full((2520, 3), 0.5).at[:, column].set(a)
        bits = np.asarray(environment.decode(SPACE, actions)[column])
        for choice in choices:
            middle = np.asarray(a)[bits == choice].mean()
            like = Policy(*(jnp.asarray(field) for field in (2, choice, choice)))
            assert environment.encode(SPACE, like)[column] == pytest.approx(middle, abs=1e-3)


def test_random_policies_are_equally_likely(problem: Problem) -> None:
    policies, _, _ = random(SPACE, 4000).ask(jax.random.key(0), None, problem)
    for field, choices in zip(
        jax.tree.leaves(policies), (range(5), (2, 4, 6, 7), (3, 4, 5, 6)), strict=True
    ):
        values, counts = np.unique(np.asarray(field), return_counts=True)
        assert values.tolist() == list(choices)
        expected = field.size / len(choices)
        assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)


# --- reward and closed form --------------------------------------------------------------------


def evaluation_of(divergence: float, slots: int, energy: float) -> Evaluation:
    values = 0.9, divergence, 5, slots, 1.0, energy, 25.0
    return Evaluation(*(jnp.asarray(value) for value in values))


def test_reward_by_hand(problem: Problem) -> None:
    assert (METRICS.index("slots"), METRICS.index("energy_nj")) == (0, 3)
    # 0.95 - 0.5 x 0.01 = 0.945 is above the limit of 0.94.
    met = environment.reward(problem, evaluation_of(0.01, 250, 40.0))
    np.testing.assert_allclose(met, 0.5 * math.log(4) + 0.5 * math.log(10), rtol=1e-5)
    # 0.95 - 0.5 x 0.06 = 0.92 is two points below: 2 ln(1 + 4 x 2) off.
    missed = environment.reward(problem, evaluation_of(0.06, 250, 40.0))
    np.testing.assert_allclose(met - missed, 2 * math.log(9), rtol=1e-4)


def test_drop_per_nat_leaves_out_what_is_far_off() -> None:
    found = build.fit_drop_per_nat(0.9, np.asarray([0.88, 0.8, 0.3]), np.asarray([0.1, 0.3, 9]))
    assert found == pytest.approx(0.12 / 0.4)
    assert build.fit_drop_per_nat(0.9, np.asarray([0.95]), np.asarray([1.0])) == 0.05


def everything(free: tuple[bool, bool, bool], base: Policy, layer: int) -> list[tuple[int, ...]]:
    choices = range(SPACE.levels), (2, 4, 6, 7), (3, 4, 5, 6)
    fixed = [int(field[layer]) for field in jax.tree.leaves(base)]
    return [
        one
        for one in itertools.product(*choices)
        if all(is_free or one[i] == fixed[i] for i, is_free in enumerate(free))
    ]


@pytest.mark.parametrize(
    "free",
    [(True, True, True), (True, False, False), (False, True, True), (False, False, False)],
    ids=str,
)
@pytest.mark.parametrize("price", [0.01, 1.0, 30.0])
def test_closed_form_is_the_best_of_all(problem: Problem, free: Any, price: float) -> None:
    base = Policy(jnp.asarray([1, 0, 3]), jnp.asarray([6, 2, 7]), jnp.asarray([4, 6, 3]))
    allowed = environment.allow_free(SPACE, free, environment.encode(SPACE, base))
    found = environment.solve_closed_form(problem, SPACE, jnp.asarray(price), allowed)
    p = jax.tree.map(np.asarray, problem)
    for layer in range(LAYERS):
        every = everything(free, base, layer)
        assert allowed[layer].sum() == len(every)

        def total(one: tuple[int, ...], layer: int = layer) -> float:
            level, weight, inputs = one
            error = p.error[layer, level, weight - 1] + p.input_error[layer, inputs - 1]
            return error + price * p.share[layer, level, weight - 1, inputs - 1]

        chosen = tuple(int(field[layer]) for field in jax.tree.leaves(found))
        assert chosen in every
        assert total(chosen) == pytest.approx(min(map(total, every)), rel=1e-6)


def test_dearer_is_smaller(problem: Problem) -> None:
    allowed = environment.allow_free(SPACE, (True,) * 3, jnp.zeros((LAYERS, 3)))
    costs = [
        environment.look_up_shares(
            problem, environment.solve_closed_form(problem, SPACE, jnp.asarray(price), allowed)
        ).sum()
        for price in (0.01, 0.3, 3.0, 100.0)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 3 * costs[-1]


# --- observation -------------------------------------------------------------------------------


def test_observations_show_what_is_used_and_what_remains(problem: Problem) -> None:
    base = Policy(jnp.zeros(LAYERS, int), jnp.full(LAYERS, 7), jnp.full(LAYERS, 6))
    taken = Policy(jnp.asarray([4, 2, 1]), jnp.asarray([2, 4, 6]), jnp.asarray([3, 4, 5]))
    before, actions = environment.encode(SPACE, base), environment.encode(SPACE, taken)
    seen = environment.observe_episode(problem, SPACE, before, actions)
    assert seen.shape == (LAYERS, FEATURES + 3 + 3 + 3)
    full, cut = (np.asarray(environment.look_up_shares(problem, one)) for one in (base, taken))
    for layer in range(LAYERS):
        np.testing.assert_array_equal(seen[layer, :FEATURES], problem.features[layer])
        np.testing.assert_array_equal(seen[layer, FEATURES : FEATURES + 3], before[layer])
        last = actions[layer - 1] if layer else np.zeros(3)
        np.testing.assert_array_equal(seen[layer, FEATURES + 3 : FEATURES + 6], last)
    np.testing.assert_allclose(seen[:, -3], [cut[:n].sum() for n in range(3)], atol=1e-6)
    np.testing.assert_allclose(seen[:, -2], [full[n:].sum() for n in range(3)], atol=1e-6)
    np.testing.assert_allclose(seen[:, -1], math.log(11) / math.log(1001), rtol=1e-4)  # a point


def test_later_actions_are_not_seen(problem: Problem) -> None:
    base = jnp.full((LAYERS, 3), 0.5)
    one = environment.observe_episode(problem, SPACE, base, jnp.full((LAYERS, 3), 0.2))
    other = jnp.full((LAYERS, 3), 0.2).at[1:].set(0.9)
    other = environment.observe_episode(problem, SPACE, base, other)
    np.testing.assert_array_equal(one[:2], other[:2])
    assert (one[2:] != other[2:]).any(axis=1).all()


def test_rollout_walks_the_layers(problem: Problem) -> None:
    """Base, correction and noise add up; what returns is what the policy carries out."""
    base = environment.encode(
        SPACE, Policy(jnp.asarray([0, 1, 2]), jnp.asarray([4, 6, 7]), jnp.asarray([3, 4, 5]))
    )

    def correct(observation: jax.Array) -> jax.Array:
        return jnp.zeros(3).at[1].set(jnp.where(observation[FEATURES] < 0.9, 0.01, 0.0))

    walk = functools.partial(environment.roll_out, problem, SPACE, base, correct)
    everywhere, none = jnp.ones((LAYERS, 3), bool), jnp.zeros((LAYERS, 3))
    np.testing.assert_allclose(walk(everywhere, none), base, atol=1e-6)
    noise = none.at[1:, 0].set(-0.3)
    moved = walk(everywhere.at[2].set(False), noise)
    policy = environment.decode(SPACE, moved)
    assert policy.level.tolist() == [0, 2, 2]  # 0.75 - 0.3 is nearest to 0.5
    assert policy.weight_bits.tolist() == [4, 6, 7]


# --- what is known before an evaluation ---------------------------------------------------------


@hypothesis.given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
@PROPERTY
def test_an_action_lies_beside_the_choice_that_it_decodes_to(action: list[float]) -> None:
    place = np.asarray(environment.locate_actions(SPACE, jnp.asarray(action)))
    policy = environment.decode(SPACE, jnp.asarray(action))
    assert np.abs(place - np.asarray(environment.encode_places(SPACE, policy))).max() <= 0.5 + 1e-5
    whole = environment.locate_actions(SPACE, environment.encode(SPACE, policy))
    np.testing.assert_allclose(whole, environment.encode_places(SPACE, policy), atol=1e-5)


def test_interpolation_by_hand() -> None:
    table = jnp.asarray([[0.0, 2.0], [4.0, 10.0]])
    for place, expected in (((0, 1), 2), ((0.5, 0), 2), ((0.5, 0.5), 4), ((-1, 5), 2)):
        assert agents.interpolate(table, jnp.asarray(place, jnp.float32)) == expected
    # The slope to the right; at the last entry and beyond it the one to the left.
    slope = jax.grad(lambda x: agents.interpolate(jnp.asarray([5.0, 3.0, 2.0, -1.0]), x[None]))
    assert [float(slope(x)) for x in (0.0, 1.5, 2.0, 3.0, 3.4)] == [-2, -1, -3, -3, -3]


def test_an_imagined_evaluation_is_the_one_that_follows(problem: Problem) -> None:
    """Given its divergence: costs and reward of a policy, from the tables alone."""
    policy = Policy(*map(jnp.asarray, ([1, 4, 0], [2, 6, 7], [3, 5, 6])))
    found = evaluate(problem, policy)
    known = surrogate.look_up_choices(problem, SPACE)
    places = environment.encode_places(SPACE, policy).astype(jnp.float32)
    imagined = surrogate.predict_evaluation(problem, known, places, found.divergence)
    for name in ("divergence", "slots", "energy_nj"):
        np.testing.assert_allclose(getattr(imagined, name), getattr(found, name), rtol=0.02)
    expected = environment.reward(problem, found)
    np.testing.assert_allclose(environment.reward(problem, imagined), expected, atol=0.02)
    errors = surrogate.interpolate_log_errors(known, places)
    of_weights = problem.error[jnp.arange(3), policy.level, policy.weight_bits - 1]
    np.testing.assert_allclose(jnp.exp(errors[:, 0]), of_weights, atol=2e-7)
    of_inputs = problem.input_error[jnp.arange(3), policy.input_bits - 1]
    np.testing.assert_allclose(jnp.exp(errors[:, 1]), of_inputs, atol=2e-7)


# --- replay ------------------------------------------------------------------------------------


def numbered(*levels: int) -> jax.Array:
    """Policies of one layer, told apart by its keep level: [N, 1, 3]."""
    return jnp.asarray([[[level, 0, 0]] for level in levels])


def added(memory: replay.Replay, *levels: int, valid: Any = True) -> replay.Replay:
    """The levels are the fitness, too, and the divergence."""
    fitness, valid = memory.places[:, 0, 0].astype(float), jnp.broadcast_to(valid, len(levels))
    return jax.jit(replay.add)(
        memory, fitness, numbered(*levels), jnp.asarray(levels, jnp.float32), valid
    )


def held(memory: replay.Replay) -> list[int]:
    levels = memory.places[: int(memory.filled), 0, 0].tolist()
    assert memory.log_divergence[: int(memory.filled)].tolist() == levels
    return levels


def test_replay_keeps_each_policy_once() -> None:
    memory = added(replay.init(6, 1, 3), 7, 3, 7, valid=jnp.asarray([True, False, True]))
    assert held(memory) == [7]
    memory = added(memory, 5, 7, 2, 5)
    assert held(memory) == [7, 5, 2]
    assert replay.contains(memory, numbered(7, 8, 0)).tolist() == [True, False, False]


def test_a_full_replay_gives_up_the_least_fit() -> None:
    memory = added(replay.init(3, 1, 3), 7, 3, 5)
    assert held(added(memory, 4)) == [7, 4, 5]
    assert held(added(memory, 1, 2)) == [7, 1, 2]  # however unfit, the new is what is learnt from
    assert held(added(memory, 8, 9, valid=jnp.zeros(2, bool))) == [7, 3, 5]


@hypothesis.given(st.integers(0, 2**31 - 1))
@PROPERTY
def test_hashes_tell_policies_apart(seed: int) -> None:
    places = np.random.default_rng(seed).integers(0, 32, (400, 20, 3))
    hashes = np.asarray(replay._hash(jnp.asarray(places)))
    assert len(set(hashes.tolist())) == len(np.unique(places, axis=0))


# --- agent -------------------------------------------------------------------------------------

NETWORKS = AgentOptions(hidden=16, members=2, actor_rate=1e-3, reach=0.3)


@pytest.fixture(scope="module")
def fresh() -> tuple[agents.Agent, agents.AgentState]:
    player = agents.make_agent(NETWORKS, SPACE.sizes)
    return player, agents.init(jax.random.key(1), player, LAYERS, 4)


def test_an_untrained_critic_is_the_closed_form(fresh: Any) -> None:
    """The divergence is the sum of the errors, whatever the places."""
    player, state = fresh
    errors = jnp.log(jnp.asarray([[0.1, 0.2], [0.05, 0.05], [0.3, 0.3]]))
    places = jnp.asarray([[1.0, 2.0, 3.0]] * 3)
    found = jax.vmap(player.critic.apply, (0, None, None))(state.critics, errors, places)
    np.testing.assert_allclose(found, [0.0, 0.0], atol=1e-6)  # ln 1


def test_a_critic_learns_what_the_errors_do_not_say(fresh: Any) -> None:
    """A keep level of one layer is far worse than its error says."""
    player, state = fresh
    rng = np.random.default_rng(0)
    errors = jnp.asarray(rng.uniform(-6, -2, (256, LAYERS, 2)), jnp.float32)
    sizes = SPACE.sizes
    places = jnp.asarray(rng.integers(0, sizes, (256, LAYERS, 3)), jnp.float32)
    worse = jnp.where(places[:, 1, 0] == 3, 2.0, 0.0)
    total = jnp.log(jnp.exp(errors.at[:, 1, 0].add(worse)).sum(axis=(1, 2)))

    def deviation(state: agents.AgentState) -> float:
        many = jax.vmap(jax.vmap(player.critic.apply, (None, 0, 0)), (0, None, None))
        return float(jnp.std(many(state.critics, errors, places) - total))

    both = [jnp.stack([x] * NETWORKS.members) for x in (errors, places, total)]
    learn = jax.jit(
        lambda state: jax.lax.fori_loop(
            0, 300, lambda _, now: agents.update_critics(player, now, *both), state
        )
    )
    learnt = learn(state)
    assert deviation(learnt) < 0.3 * deviation(state)
    members = jax.tree.leaves(learnt.critics)
    assert any((leaf[0] != leaf[1]).any() for leaf in members)  # each began with its own weights


def test_the_actor_starts_at_the_base_and_follows_the_critic(fresh: Any) -> None:
    player, state = fresh
    seen = jnp.asarray(np.random.default_rng(0).random((8, LAYERS, 4)), jnp.float32)

    def act(actor: Any) -> Any:
        return 0.5 + player.actor.apply(actor, seen)

    def q(critic: Any, actions: jax.Array) -> jax.Array:
        del critic
        return -jnp.sum((actions - jnp.asarray([0.6, 0.5, 0.0])) ** 2)  # the last is out of reach

    np.testing.assert_array_equal(act(state.actor), np.full((8, LAYERS, 3), 0.5))
    learn = jax.jit(
        lambda state: jax.lax.fori_loop(
            0, 500, lambda _, now: agents.update_actor(player, now, act, q), state
        )
    )
    assert jnp.abs(act(learn(state).actor) - jnp.asarray([0.6, 0.5, 0.2])).max() < 0.03


# --- loop --------------------------------------------------------------------------------------

OPTIONS = ActorCriticOptions(
    warmup=8,
    imagined=8,
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


def searched(strategy: Strategy, problem: Problem, seed: int, budget: int) -> loop.Record:
    records = list(
        loop.run(strategy, evaluate, problem, problem, jax.random.key(seed), budget, chunk=2)
    )
    return jax.tree.map(lambda *parts: np.concatenate(parts), *records)


@pytest.fixture(scope="module")
def records(problem: Problem) -> dict[str, loop.Record]:
    """22 evaluations in chunks of 2 x 4: the last chunk is cut to 6, its last batch to 2."""
    return {name: searched(make(), problem, 0, 22) for name, make in STRATEGIES.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_budget_is_met_and_the_records_are_true(
    problem: Problem, records: dict[str, loop.Record], name: str
) -> None:
    record = records[name]
    assert record.reward.shape == (22,)
    assert record.policy.level.shape == (22, LAYERS)
    for index in (0, 9, 21):
        policy = jax.tree.map(lambda leaf, index=index: jnp.asarray(leaf[index]), record.policy)
        expected = evaluate(problem, policy)
        np.testing.assert_allclose(
            record.evaluation.divergence[index], expected.divergence, rtol=1e-5
        )
        reward = environment.reward(problem, expected)
        np.testing.assert_allclose(record.reward[index], reward, rtol=1e-4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_key_decides_everything(
    problem: Problem, records: dict[str, loop.Record], name: str
) -> None:
    again = searched(STRATEGIES[name](), problem, 0, 22)
    jax.tree.map(np.testing.assert_array_equal, records[name], again)


def test_another_key_gives_other_policies(
    problem: Problem, records: dict[str, loop.Record]
) -> None:
    other = searched(random(SPACE, 4), problem, 1, 22)
    assert (records["random"].policy.level != other.policy.level).any()
    assert len(np.unique(other.reward)) > 15


def test_the_search_is_better_than_chance(records: dict[str, loop.Record]) -> None:
    assert records["actor_critic"].reward.max() > records["random"].reward.max()


@pytest.mark.parametrize("budget", [1, 3, 8])
def test_small_budgets_are_met(problem: Problem, budget: int) -> None:
    assert searched(random(SPACE, 4), problem, 0, budget).reward.shape == (budget,)


def test_a_shorter_search_begins_a_longer_one(
    problem: Problem, records: dict[str, loop.Record]
) -> None:
    short = searched(random(SPACE, 4), problem, 0, 10)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:10]), short, records["random"])


@pytest.mark.parametrize("name", ["random", "genetic", "cma_es"])
def test_evaluation_is_traced_for_the_first_chunk_only(problem: Problem, name: str) -> None:
    traces = 0

    def counted(problem: Problem, policy: Policy) -> Evaluation:
        nonlocal traces
        traces += 1
        return evaluate(problem, policy)

    strategy, key = STRATEGIES[name](), jax.random.key(0)
    chunks = loop.run(strategy, counted, problem, problem, key, 60, chunk=2)
    next(chunks)
    first = traces
    assert len(list(chunks)) >= 2
    assert 1 <= traces == first
    # Nor for another limit, as the front is searched.
    stricter = problem._replace(min_accuracy=problem.min_accuracy + 0.005)
    assert len(list(loop.run(strategy, counted, problem, stricter, key, 8, chunk=2))) == 1
    assert traces == first


# --- several seeds, stopping and going on ------------------------------------------------------


class Chunks(NamedTuple):
    """Two searches in one program, of 22 evaluations each."""

    strategy: Strategy
    begin: loop.Carry
    found: list[tuple[loop.Carry, loop.Record]]


@pytest.fixture(scope="module", params=["actor_critic", "genetic", "cma_es", "uniform"])
def two(request: pytest.FixtureRequest, problem: Problem) -> tuple[str, Chunks]:
    strategy = STRATEGIES[request.param]()
    keys = jnp.stack([jax.random.key(seed) for seed in (1, 0)])
    begin = loop.start(strategy, problem, keys, 22)
    found = list(loop.resume(strategy, evaluate, problem, problem, begin, 2))
    return request.param, Chunks(strategy, begin, found)


def test_each_of_several_searches_is_bit_for_bit_the_search_alone(
    problem: Problem, records: dict[str, loop.Record], two: tuple[str, Chunks]
) -> None:
    name, chunks = two
    record = stages.joined(record for _, record in chunks.found)
    assert len(record.reward) == 44
    alone = records[name]._replace(search=np.ones(22, np.int32))
    second = jax.tree.map(lambda x: x[record.search == 1], record)
    jax.tree.map(np.testing.assert_array_equal, second, alone)
    if name in ("actor_critic", "genetic"):
        alone = searched(chunks.strategy, problem, 1, 22)
        first = jax.tree.map(lambda x: x[record.search == 0], record)
        jax.tree.map(np.testing.assert_array_equal, first, alone)


def test_searches_side_by_side_are_the_same_but_for_rounding(
    problem: Problem, two: tuple[str, Chunks]
) -> None:
    """Over one chunk from the same carry: rounding grows with every step."""
    _, (strategy, _, found) = two
    carry, (after, record) = found[0][0], found[1]
    chunks = loop.resume(strategy, evaluate, problem, problem, carry, 2, batch="vmap")
    beside, other = next(chunks)
    np.testing.assert_array_equal(other.search, record.search)
    same = (choices(other) == choices(record)).all(axis=(1, 2))
    assert same.mean() > 0.8  # a tie may be rounded to the other side
    np.testing.assert_allclose(other.reward[same], record.reward[same], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(beside.left, after.left)


def test_each_search_has_its_own_end(problem: Problem) -> None:
    """One that has proposed everything waits for the other, and is asked no more."""

    def init(key: jax.Array, problem: Problem) -> jax.Array:
        return jax.random.key_data(key)[1] % 2 * 8 + 4  # proposes so many

    def ask(key: jax.Array, state: jax.Array, problem: Problem) -> tuple:
        policies, valid, _ = random(SPACE, 4).ask(key, None, problem)
        return policies, valid & (state > 0), state - 4

    def tell(key: jax.Array, state: jax.Array, *_: Any) -> jax.Array:
        return state

    keys = [jax.random.key(seed) for seed in range(8)]
    proposes = [int(init(jax.random.split(key)[1], problem)) for key in keys]
    few, many = (keys[proposes.index(count)] for count in (4, 12))
    strategy = Strategy(init, ask, tell)
    begin = loop.start(strategy, problem, jnp.stack([few, many]), 30)
    found = list(loop.resume(strategy, evaluate, problem, problem, begin, 1))
    assert [np.bincount(record.search, minlength=2).tolist() for _, record in found] == [
        [4, 4],
        [0, 4],
        [0, 4],
        [0, 0],
    ]
    assert found[-1][0].left.tolist() == [0, 0]


IDENTITY = {"config.seed": "0", "data": "abc"}


@pytest.fixture
def saved(two: tuple[str, Chunks], tmp_path: pathlib.Path) -> pathlib.Path:
    carry, record = two[1].found[0]
    path = tmp_path / "checkpoint.safetensors"
    standing = stages.Standing(np.asarray(0, np.int32), carry)
    checkpoint.save(path, IDENTITY, 12.5, standing, record)
    return path


def restored(path: pathlib.Path, problem: Problem, begin: loop.Carry) -> tuple:
    found = checkpoint.read(path)
    assert found is not None
    nothing = loop.build_empty_record(evaluate, problem, SPACE, LAYERS)
    standing = stages.Standing(np.asarray(0, np.int32), begin)
    return checkpoint.restore(found, standing, nothing, SPACE.levels)


def test_a_search_goes_on_bit_for_bit(
    problem: Problem, two: tuple[str, Chunks], saved: pathlib.Path
) -> None:
    strategy, begin, found = two[1]
    read = checkpoint.read(saved)
    assert read is not None
    assert (read.identity, read.seconds) == (IDENTITY, 12.5)
    assert read.evaluations == len(found[0][1].reward)
    standing, record = restored(saved, problem, begin)
    rest = list(loop.resume(strategy, evaluate, problem, problem, standing.carry, 2))
    assert len(rest) == len(found) - 1
    again = stages.joined([record, *(one for _, one in rest)])
    jax.tree.map(np.testing.assert_array_equal, again, stages.joined(r for _, r in found))
    for a, b in zip(*map(jax.tree.leaves, (rest[-1][0], found[-1][0])), strict=True):
        assert a.dtype == b.dtype
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
@pytest.mark.parametrize("part", [0, 5, 100, 0.5, -1], ids=str)
def test_truncated_checkpoints(saved: pathlib.Path, part: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(part * len(whole)) if 0 < part < 1 else int(part)])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: is damaged") as caught:
        checkpoint.read(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
@pytest.mark.parametrize("place", [4, 40, 0.3, 0.9, -1], ids=str)
def test_a_changed_byte_is_noticed(saved: pathlib.Path, place: float) -> None:
    content = bytearray(saved.read_bytes())
    content[int(place * len(content)) if 0 < place < 1 else int(place)] ^= 1
    saved.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        checkpoint.read(saved)


def test_no_checkpoint(tmp_path: pathlib.Path) -> None:
    assert checkpoint.read(tmp_path / "none") is None


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
def test_checkpoints_of_another_search(
    problem: Problem, two: tuple[str, Chunks], saved: pathlib.Path
) -> None:
    """Of other shapes, of another strategy, with numbers that no policy has."""
    larger = genetic(SPACE, GeneticOptions(population=9, warmup=8), 4)
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(InputError, match=r"genes'?\]?: int32 of shape \(2, 8, 3, 3\); allowed"):
        restored(saved, problem, loop.start(larger, problem, keys, 22))
    other = loop.start(STRATEGIES["random"](), problem, keys, 22)
    with pytest.raises(InputError, match=r"state\.fitness: unknown"):
        restored(saved, problem, other)
    carry, record = two[1].found[0]
    standing = stages.Standing(np.asarray(0, np.int32), carry)
    level = np.full_like(record.policy.level, SPACE.levels)
    wrong = record._replace(policy=record.policy._replace(level=level))
    checkpoint.save(saved, IDENTITY, 0.0, standing, wrong)
    with pytest.raises(InputError, match=r"policy\.level: out of range; allowed: 0 to 4"):
        restored(saved, problem, two[1].begin)


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
def test_what_differs_is_named(saved: pathlib.Path) -> None:
    found = checkpoint.read(saved)
    assert found is not None
    assert checkpoint.difference(found, IDENTITY) is None
    words = checkpoint.difference(found, IDENTITY | {"config.seed": "1"})
    assert words == "config.seed: 0 in the checkpoint, 1 here"
    words = checkpoint.difference(found, IDENTITY | {"weights": "f"})
    assert words == "weights: nothing in the checkpoint, f here"


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
def test_whether_a_run_goes_on(saved: pathlib.Path) -> None:
    folder, other = saved.parent, IDENTITY | {"data": "x"}
    found = job._saved(folder, IDENTITY, True)
    assert found is not None
    assert found.evaluations == 16
    assert job._saved(folder, IDENTITY, False) is None
    assert job._saved(folder, other, None) is None
    for identity, resume, says in (
        (IDENTITY, None, "16 evaluations done; --resume goes on, --noresume begins anew"),
        (other, True, "data: abc in the checkpoint, x here"),
    ):
        with pytest.raises(InputError, match=says):
            job._saved(folder, identity, resume)
    saved.unlink()
    assert job._saved(folder, IDENTITY, None) is None
    assert job._saved(folder, IDENTITY, True) is None  # nothing to go on from: it begins
    (folder / "result.json").write_text("{}")
    with pytest.raises(InputError, match="the search is finished"):
        job._saved(folder, IDENTITY, True)


def test_what_decides_the_numbers() -> None:
    arrays = [np.zeros((2, 1)), np.zeros(2, np.int32)] * 4
    dataset = Dataset("a", 2, *arrays)

    def changed(config: Config, accelerator: Accelerator, dataset: Dataset) -> list[str]:
        one = checkpoint.identity(Config(), Accelerator(), Dataset("a", 2, *arrays))
        other = checkpoint.identity(config, accelerator, dataset)
        assert one.keys() == other.keys()
        return [name for name in one if one[name] != other[name]]

    assert changed(Config(cache_dir="x"), Accelerator(), dataset) == []
    more = Config(search=SearchOptions(episodes=7))
    assert changed(more, Accelerator(adc_bits=3), dataset) == [
        "config.search.episodes",
        "accelerator.adc_bits",
    ]
    others = [np.ones((2, 1)), *arrays[1:]]
    assert changed(Config(), Accelerator(), Dataset("a", 2, *others)) == ["data"]
    a, b = ({"w": jnp.full(3, value)} for value in (1.0, 2.0))
    assert checkpoint.weights_identity(a) != checkpoint.weights_identity(b)


def test_the_agent_leaves_what_is_not_free(problem: Problem) -> None:
    """At the end of the warm-up and, with noise, after it."""
    noisy = dataclasses.replace(OPTIONS, explore=1.0, noise=0.5)
    strategy = actor_critic(SPACE, noisy, (True, False, False), 4)
    state = strategy.init(jax.random.key(0), problem)
    ask = jax.jit(strategy.ask)
    for told in (OPTIONS.warmup - 4, OPTIONS.warmup):
        policies, _, _ = ask(jax.random.key(1), state._replace(told=jnp.asarray(told)), problem)
        assert set(policies.weight_bits.ravel().tolist()) == {SPACE.weight_bits[-1]}
        assert set(policies.input_bits.ravel().tolist()) == {SPACE.input_bits[-1]}
        assert len(np.unique(policies.level)) > 1


def test_what_is_known_is_not_proposed_again(problem: Problem) -> None:
    """While there is more to imagine; and each proposal has its turn, also one at a time."""
    for parallel in (4, 1):
        options = dataclasses.replace(OPTIONS, imagined=32, warmup=4)
        strategy = actor_critic(SPACE, options, (True, True, True), parallel)
        record = searched(strategy, problem, 0, 36)
        policies = [tuple(row.ravel().tolist()) for row in choices(record)]
        known: set[tuple[int, ...]] = set(policies[:4])
        for start in range(4, 36, parallel):
            batch = policies[start : start + parallel]
            assert not known.intersection(batch)
            known.update(batch)


def test_what_was_learnt_of_one_limit_serves_another(problem: Problem) -> None:
    """With the state of a search for a looser limit, no closed form is asked for again."""
    strategy = actor_critic(SPACE, OPTIONS, (True, True, True), 4)
    assert strategy.transferable
    assert not actor_critic(SPACE, OPTIONS, (True, False, False), 4).transferable
    begin = loop.start(strategy, problem, jax.random.key(0)[None], 24)
    *_, (carry, first) = loop.resume(strategy, evaluate, problem, problem, begin, 6)
    stricter = problem._replace(min_accuracy=problem.min_accuracy + 0.005)
    further = carry._replace(left=jnp.full(1, 8, jnp.int32))
    (_, second), *_ = loop.resume(strategy, evaluate, problem, stricter, further, 2)
    again = {tuple(row.ravel().tolist()) for row in choices(second)}
    assert not again.intersection(tuple(row.ravel().tolist()) for row in choices(first))


def test_the_agent_keeps_the_best_and_counts_what_is_valid(problem: Problem) -> None:
    strategy = actor_critic(SPACE, OPTIONS, (True, True, True), 4)
    state = strategy.init(jax.random.key(0), problem)
    policies, valid, state = jax.jit(strategy.ask)(jax.random.key(1), state, problem)
    assert valid.all()
    evaluations = jax.vmap(evaluate, (None, 0))(problem, policies)
    rewards = jax.vmap(environment.reward, (None, 0))(problem, evaluations)
    valid = jnp.arange(4) != jnp.argmax(rewards)  # the best is not among what was executed
    tell = jax.jit(strategy.tell)
    told = tell(jax.random.key(2), state, problem, policies, valid, evaluations)
    kept = np.asarray(rewards)[np.asarray(valid)]
    assert told.told == 3
    distinct = {
        tuple(row)
        for row in np.concatenate(jax.tree.leaves(policies), axis=1)[np.asarray(valid)].tolist()
    }
    assert told.replay.filled == len(distinct)
    np.testing.assert_allclose(told.best.reward, kept.max(), rtol=1e-6)
    best = int(np.argmax(np.where(valid, rewards, -np.inf)))
    assert (
        environment.decode(SPACE, told.best.actions).level.tolist() == policies.level[best].tolist()
    )


def test_what_meets_the_limit_beats_what_does_not(problem: Problem) -> None:
    """However little the penalty: 0.95 - 0.5 x 0.021 is a hair below the limit of 0.94."""
    strategy = actor_critic(SPACE, OPTIONS, (True, True, True), 2)
    lenient = problem._replace(penalty=jnp.asarray(1e-6))
    near, met = evaluation_of(0.021, 100, 10.0), evaluation_of(0.0, 900, 90.0)
    levels = jnp.asarray([[4, 4, 4], [1, 1, 1]])
    bits = jnp.full((2, LAYERS), 6)
    policies = Policy(levels, bits, bits)

    def told(evaluations: tuple[Evaluation, Evaluation], state: Any = None) -> Any:
        state = strategy.init(jax.random.key(0), lenient) if state is None else state
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *evaluations)
        key, valid = jax.random.key(1), jnp.ones(2, bool)
        return strategy.tell(key, state, lenient, policies, valid, both)

    def levels_of(state: Any) -> list[int]:
        return environment.decode(SPACE, state.best.actions).level.tolist()

    together = told((near, met))
    assert together.best.feasible
    assert levels_of(together) == [1, 1, 1]
    missed = told((near, near))
    assert not missed.best.feasible
    assert levels_of(missed) == [4, 4, 4]
    assert levels_of(told((near, met), missed)) == [1, 1, 1]  # of less reward, but it meets
    assert levels_of(told((near, near), together)) == [1, 1, 1]  # and stays


# --- baselines -----------------------------------------------------------------------------------


def choices(record: loop.Record) -> np.ndarray:
    return np.stack(jax.tree.leaves(record.policy), axis=-1)  # [N, L, 3]


def test_uniform_proposes_every_policy_once_and_stops(problem: Problem) -> None:
    found = choices(searched(uniform(SPACE, 7), problem, 0, 200))
    assert (found == found[:, :1]).all()
    expected = set(itertools.product(range(5), SPACE.weight_bits, SPACE.input_bits))
    assert len(found) == len(expected)
    assert {tuple(row) for row in found[:, 0].tolist()} == expected


def test_lamp_keeps_what_scores_above_one_threshold(problem: Problem) -> None:
    """Five thresholds for each of the 16 choices of bits."""
    scores = jnp.asarray([[0.01, 0.05, 0.2, 0.5, 1.0], [0.1, 0.3, 0.4, 0.9, 1.0], [0.02] * 5])
    found = choices(searched(lamp(SPACE, 4, 80), problem._replace(lamp=scores), 0, 200))
    assert len(found) == 80
    assert (found[:, :, 1:] == found[:, :1, 1:]).all()
    # Thresholds 10^-2 to 1 in steps of 10^(1/2); the first level at or above; none: the last.
    levels = {tuple(row) for row in found[:, :, 0].tolist()}
    assert levels == {(0, 0, 0), (1, 0, 4), (2, 0, 4), (3, 2, 4), (4, 4, 4)}


def test_lamp_scores_by_hand() -> None:
    """Vectors of two rows with energies 9, 4, 2 and 1: scores 9/9, 4/13, 2/15, 1/16."""
    weights = np.zeros((2, 1, 3, 2), np.float32)  # the second row group has one row
    weights[0, 0] = [[3, 1], [0, 1], [2, 1]]
    keep = np.asarray([1.0, 0.5])
    arrays = (jnp.asarray(x) for x in (weights, np.zeros(1), np.zeros(1), keep, keep))
    plan = LayerPlan(*arrays, Block(2))
    np.testing.assert_allclose(build._score_lamp(plan), [1 / 16, 4 / 13])
    # Rows of both columns: 10, 4 + 1 and 1; scores 10/10, 5/15, 1/16.
    rows = plan._replace(block=Block(1, 2), keep=jnp.asarray([1.0, 2 / 3, 1 / 3]))
    np.testing.assert_allclose(build._score_lamp(rows), [1 / 16, 5 / 15, 1])


def test_greedy_measures_each_layer_alone_first(problem: Problem) -> None:
    """Levels 1 and 4, three numbers of weight bits and of input bits: 8 a layer."""
    found = choices(searched(greedy(SPACE, GREEDY, 4, LAYERS), problem, 0, 24))
    dense = np.asarray([0, SPACE.weight_bits[-1], SPACE.input_bits[-1]])
    changed = (found != dense).any(axis=2)
    assert (changed.sum(axis=1) == 1).all()
    assert changed.sum(axis=0).tolist() == [8, 8, 8]
    assert len(np.unique(found.reshape(24, -1), axis=0)) == 24


def shortened(problem: Problem, levels: int) -> Problem:
    parts = {
        name: getattr(problem, name)[:, :levels] for name in ("error", "lamp", "share", "costs")
    }
    return problem._replace(**parts)


def test_where_only_bits_or_keep_ratios_can_be_chosen(problem: Problem) -> None:
    bits = Space(1, SPACE.weight_bits, SPACE.input_bits)
    found = choices(searched(greedy(bits, GREEDY, 4, LAYERS), shortened(problem, 1), 0, 40))
    assert len(np.unique(found.reshape(40, -1), axis=0)) > 20
    alone = Space(1, (8,), (8,))
    found = choices(searched(greedy(alone, GREEDY, 4, LAYERS), shortened(problem, 1), 0, 8))
    assert (found == [0, 8, 8]).all()
    # No other agent comes after the one that prunes: it goes on, as far as the limit allows.
    keep, agent = (
        Space(5, (8,), (8,)),
        ActorCriticOptions(4, 8, updates=1, networks=AgentOptions(8)),
    )
    record = searched(apq(keep, agent, 4, 4, 0.3), problem, 0, 20)
    assert len(np.unique(record.policy.level, axis=0)) > 12


def test_greedy_then_looks_along_a_path_for_the_limit(problem: Problem) -> None:
    record = searched(greedy(SPACE, GREEDY, 4, LAYERS), problem, 0, 24 + 12)
    cost = [
        float(
            environment.look_up_shares(
                problem, jax.tree.map(lambda x, at=at: jnp.asarray(x[at]), record.policy)
            ).sum()
        )
        for at in range(24, 36)
    ]
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
    strategy = genetic(SPACE, GeneticOptions(population=6, warmup=4), 4)
    state = strategy.init(jax.random.key(0), problem)
    seen = []
    for call in range(10):
        policies, valid, state = strategy.ask(jax.random.key(call), state, problem)
        evaluations = jax.vmap(evaluate, (None, 0))(problem, policies)
        seen += np.asarray(jax.vmap(environment.reward, (None, 0))(problem, evaluations)).tolist()
        state = strategy.tell(jax.random.key(0), state, problem, policies, valid, evaluations)
    assert np.asarray(state.fitness).tolist() == sorted(set(seen), reverse=True)[:6]
    assert len(np.unique(np.asarray(state.genes).reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("name", ["greedy", "genetic", "cma_es", "actor_critic"])
def test_what_learns_is_better_than_chance(problem: Problem, name: str) -> None:
    chance = searched(random(SPACE, 4), problem, 0, 120).reward.max()
    assert searched(STRATEGIES[name](), problem, 0, 120).reward.max() > chance


@pytest.mark.parametrize("name", ["apq", "greedy", "genetic", "actor_critic"])
def test_accuracy_within_a_limit_is_better_than_chance(problem: Problem, name: str) -> None:
    """A third of the dense network's slots; pruning alone has to reach 58 % in `apq`."""
    limited = problem._replace(
        weights=jnp.zeros(len(METRICS)),
        quality=jnp.ones(()),
        min_accuracy=jnp.asarray(-jnp.inf),
        max_cost=jnp.full(len(METRICS), jnp.inf).at[METRICS.index("slots")].set(333.0),
    )
    makers = {**STRATEGIES, "apq": lambda: apq(SPACE, OPTIONS, 4, 60, 0.0)}

    def best(strategy: Strategy) -> float:
        found = searched(strategy, limited, 0, 120).evaluation
        return float(found.divergence[found.slots <= 333].min())

    assert best(makers[name]()) < best(random(SPACE, 4))


def test_cma_es_starts_from_the_best_closed_form(problem: Problem) -> None:
    strategy = cma_es(SPACE, CmaOptions(warmup=8), LAYERS)
    state = strategy.init(jax.random.key(0), problem)
    policies, valid, state = strategy.ask(jax.random.key(1), state, problem)
    evaluations = jax.vmap(evaluate, (None, 0))(problem, policies)
    state = strategy.tell(jax.random.key(2), state, problem, policies, valid, evaluations)
    rewards = jax.vmap(environment.reward, (None, 0))(problem, evaluations)
    meets = np.asarray(environment.shortfall(problem, evaluations)) == 0
    best = int(np.argmax(np.where(meets == meets.any(), rewards, -np.inf)))
    mean = state.cma.mean.reshape(LAYERS, 3)
    assert environment.decode(SPACE, mean).level.tolist() == policies.level[best].tolist()
