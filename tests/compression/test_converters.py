"""Converters of few bits as an action: what they save, what they cost, what searches do with it."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.prices import HEIGHT, LAYERS, PRICES

import apq_jax
from apq_jax.compression import converters, prices
from apq_jax.compression.calibration import LayerStatistics
from apq_jax.compression.plan import LayerPlan
from apq_jax.compression.pruning import Block
from apq_jax.hardware import PRESETS, adc
from apq_jax.pipeline import prepare, stages
from apq_jax.problem import build, environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy, loop, surrogate
from apq_jax.strategies.actor_critic import actor_critic
from apq_jax.strategies.apq import ApqState, apq
from apq_jax.strategies.cma_es import CmaOptions, cma_es
from apq_jax.strategies.genetic import genetic
from apq_jax.strategies.greedy import GreedyOptions, greedy
from apq_jax.strategies.lamp import lamp
from apq_jax.strategies.options import ActorCriticOptions, GeneticOptions
from apq_jax.strategies.random import random
from apq_jax.strategies.uniform import uniform
from apq_jax.system.errors import InputError
from apq_jax.types import AgentOptions, Evaluation, Policy

SPACE = Space(4, (2, 4, 6, 8), (2, 4, 8), (2, 3, 4, 5))
CELLS = converters.get_cells(PRESETS["isaac_ou"])
COUNT = len(LAYERS)
BUDGET, E = 40, 4


@functools.cache
def problem() -> Problem:
    """Of weights and scales that are all one, so that only a few converters' bits can be spared."""
    plan, statistics, rng = [], [], np.random.default_rng(0)
    keep = np.geomspace(1.0, 0.05, SPACE.levels)
    for layer in LAYERS:
        shape = layer.groups, layer.count_row_groups(HEIGHT), layer.columns
        mask = rng.random(shape) < keep[:, None, None, None]
        weights = np.ones((1, layer.groups, layer.rows, layer.columns))
        scale = (
            np.ones((SPACE.levels, 8, layer.groups, layer.columns))
            / 4.0 ** np.arange(1, 9)[None, :, None, None]
        )
        error = np.sort(rng.random((SPACE.levels, 8)), axis=1)[:, ::-1]
        plan.append(LayerPlan(weights, None, mask, scale, keep, error, Block(HEIGHT)))
        wide = np.full((layer.groups, layer.columns), 3.0)
        inputs = 4.0 ** -np.arange(1, 9)
        statistics.append(LayerStatistics(None, None, None, wide, inputs, None, inputs))
    return build.build_problem(
        LAYERS,
        tuple(plan),
        tuple(statistics),
        PRICES,
        CELLS,
        SPACE,
        {"slots": 1.0, "energy_nj": 1.0},
        0.0,
        {},
        0.98,
        0.01,
        0.5,
        2.0,
    )


def evaluate(task: Problem, policy: Policy) -> Evaluation:
    """As if every error that is foreseen came true."""
    known = surrogate.look_up_choices(task, SPACE)
    places = environment.encode_places(SPACE, policy).astype(jnp.float32)
    divergence = jnp.exp(surrogate.interpolate_log_errors(known, places)).sum()
    predicted = surrogate.predict_evaluation(task, known, places, divergence)
    return predicted._replace(slots=jnp.ceil(predicted.slots).astype(jnp.int32))


AGENT = ActorCriticOptions(warmup=8, updates=2, actor_updates=1, networks=AgentOptions(hidden=8))
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "joint": lambda: actor_critic(SPACE, AGENT, (True,) * 4, E),
    "random": lambda: random(SPACE, E),
    "uniform": lambda: uniform(SPACE, E),
    "lamp": lambda: lamp(SPACE, E, 200),
    "greedy": lambda: greedy(SPACE, GreedyOptions(levels=1), E, COUNT),
    "genetic": lambda: genetic(SPACE, GeneticOptions(warmup=8), E),
    "cma_es": lambda: cma_es(SPACE, CmaOptions(warmup=8), COUNT),
}


@functools.cache
def run_search(name: str) -> tuple[Any, loop.Record]:
    """The state at the end of a search, and its record."""
    strategy, task = STRATEGIES[name](), problem()
    begin = loop.start(strategy, task, jax.random.key(0)[None], BUDGET)
    chunks = list(loop.resume(strategy, evaluate, task, task, begin, 5))
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[0], chunks[-1][0].state)
    return state, stages.joined(record for _, record in chunks)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_searches_the_converters_bits(name: str) -> None:
    bits = run_search(name)[1].policy.adc_bits
    assert bits.shape == (BUDGET, COUNT)
    assert set(np.unique(bits)) <= {2, 3, 4, 5}
    assert (len(np.unique(bits)) > 1) == (name != "lamp")


def test_the_order_of_the_paper_searches_the_converters_bits_second() -> None:
    """Proposals in the warm-up and after it, by two agents that know what the joint one learnt."""
    strategy, known = apq(SPACE, AGENT, E, BUDGET // 2, 0.3), run_search("joint")[0]
    start, ask = jax.jit(strategy.init)(jax.random.key(0), problem()), jax.jit(strategy.ask)
    first, second = known._replace(best=start.pruning.best), known
    for pruned in (False, True):
        proposed = []
        for told in (0, E, AGENT.warmup):
            pruning = first._replace(told=np.int32(BUDGET // 2 if pruned else told))
            bits = second._replace(told=np.int32(told if pruned else 0))
            policies, _, _ = ask(jax.random.key(told), ApqState(pruning, bits), problem())
            proposed.append(np.asarray(policies.adc_bits))
        assert np.shape(proposed) == (3, E, COUNT)
        chosen = set(np.unique(proposed))
        assert chosen <= {2, 3, 4, 5} if pruned else chosen == {5}
        assert (len(chosen) > 1) == pruned


def test_what_is_foreseen_is_what_it_costs() -> None:
    rng = np.random.default_rng(1)
    shape = 20, COUNT
    policy = Policy(
        rng.integers(0, SPACE.levels, shape),
        *(rng.choice(np.asarray(bits), shape) for bits in SPACE.bits),
    )
    cost = prices.look_up_costs(PRICES, policy)
    evaluations = jax.jit(jax.vmap(evaluate, (None, 0)))(problem(), policy)
    for name in ("energy_nj", "latency_us"):
        np.testing.assert_allclose(getattr(evaluations, name), getattr(cost, name), rtol=1e-4)
    full = policy._replace(adc_bits=np.full(shape, 5))
    plain = prices.look_up_costs(PRICES, policy._replace(adc_bits=None))
    np.testing.assert_allclose(prices.look_up_costs(PRICES, full).energy_nj, plain.energy_nj)
    assert (cost.energy_nj < plain.energy_nj).all()


def test_closed_form_is_the_best_of_all_with_converters() -> None:
    p = jax.tree.map(np.asarray, problem())
    free = (False, True, True, True)

    @jax.jit
    def solve(task: Problem, start: Policy) -> Policy:
        allowed = environment.allow_free(SPACE, free, environment.encode(SPACE, start))
        return environment.solve_closed_form(task, SPACE, jnp.asarray(3.0), allowed)

    policy = solve(problem(), Policy(*(np.full(COUNT, n) for n in (2, 8, 8, 5))))
    policy = jax.tree.map(np.asarray, policy)
    assert p.conversions is not None
    for layer in range(COUNT):

        def total(bits: tuple[int, ...], layer: int = layer) -> float:
            weight, inputs, adc = bits
            index = layer, 2, weight - 1, inputs - 1
            error = p.error[layer, 2, weight - 1] + p.input_error[layer, inputs - 1]
            share = (
                p.share[index] - p.conversions.energy_weight * p.conversions.saved[*index, adc - 1]
            )
            return float(error + p.conversions.error[*index, adc - 1] + 3.0 * share)

        best = min(map(total, itertools.product(*SPACE.bits)))
        chosen = tuple(int(field[layer]) for field in policy[1:])
        assert policy.level[layer] == 2
        assert total(chosen) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("signed", ["offset", "differential"])
@pytest.mark.parametrize("adc_bits", [3, 4])
def test_the_error_that_is_foreseen_is_about_the_one_that_is_made(
    signed: str, adc_bits: int
) -> None:
    """Random weights and inputs: what the converters add, in the mean square."""
    accelerator = dataclasses.replace(PRESETS["isaac_ou"], signed=signed)
    cells, rng = converters.get_cells(accelerator), np.random.default_rng(0)
    levels = rng.integers(-31, 32, (1, 45, 8))
    inputs = rng.integers(0, 16, (1, 2000, 45))
    alive = np.ones((1, 5, 8), bool)
    reading = converters.Reading(cells, alive, np.int32(6), np.int32(adc_bits))
    lost = jax.jit(converters.compute_conversion_errors)(
        reading, levels.astype(np.int8), inputs.astype(np.int32), np.int32(4)
    )
    lost = np.asarray(lost, float) - np.asarray(lost, float).mean(axis=1, keepdims=True)
    plan = (LayerPlan(None, None, alive[None], np.ones((1, 8, 1, 8)), np.ones(1), None, Block(9)),)
    statistics = (LayerStatistics(None, None, None, np.ones((1, 8)), np.ones(8), None, None),)
    none = np.zeros((1, 1, 8, 8))
    tables = build._tabulate_conversions(none, 0.0, accelerator.chip(), plan, statistics, cells)
    foreseen = float(tables.error[0, 0, 5, 3, adc_bits - 1]) * 8  # of all eight outputs' variance
    assert 0.4 < np.square(lost).mean(axis=1).sum() / foreseen < 2.5
    assert tables.error[0, 0, 5, 3, cells.lossless_bits - 1] == 0


@pytest.mark.parametrize("tabulated", [True, False])
@pytest.mark.parametrize(
    ("signed", "flipped", "unit_rows", "cell_bits", "dac_bits", "bits"),
    [
        ("offset", True, 9, 2, 1, 5),
        ("offset", False, 4, 1, 2, 1),
        ("differential", True, 3, 3, 4, 8),
        ("differential", False, 2, 2, 8, 4),
    ],
)
def test_errors_are_those_of_a_loop_over_groups_steps_and_slices(
    signed: str, flipped: bool, unit_rows: int, cell_bits: int, dac_bits: int, bits: int,
    tabulated: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two groups of ten rows, the last unit of which is not full; 8-bit inputs of 6 windows."""
    monkeypatch.setattr(converters, "_MAX_PATTERNS", 10**6 if tabulated else 0)
    differential, c, d, h = signed == "differential", cell_bits, dac_bits, unit_rows
    lossless = (h * (2**c - 1) * (2**d - 1)).bit_length()
    cells = converters.Cells(h, c, d, differential, flipped, lossless, lossless)
    rng, adc_bits = np.random.default_rng(bits), lossless - 2
    largest = 1 if bits == 1 else 2 ** (bits - 1) - 1
    levels = rng.integers(-largest, largest + 1, (2, 10, 3))
    if bits == 1:
        levels = 2 * (levels >= 0) - 1
    inputs = rng.integers(0, 256, (2, 6, 10))
    groups = -(-10 // h)
    alive = rng.random((2, groups, 3)) < 0.7
    expected, step = np.zeros((2, 6, 3), int), 2 ** (lossless - adc_bits)
    slices = max(-(-(bits - differential) // c), 1)
    for group, start, column in itertools.product(range(2), range(0, 10, h), range(3)):
        if not alive[group, start // h, column]:
            continue
        w = levels[group, start : start + h, column]
        held = [(np.maximum(w, 0), 1), (np.maximum(-w, 0), -1)]
        if not differential:
            held = [((w + 1) // 2, 2)] if bits == 1 else [(w + 2 ** (bits - 1), 1)]
        for (value, sign), index in itertools.product(held, range(slices)):
            digits, factor = value >> (c * index) & (2**c - 1), sign * 2 ** (c * index)
            if flipped and 2 * digits.sum() > (2**c - 1) * len(w):
                digits, factor = 2**c - 1 - digits, -factor
            for window, place in itertools.product(range(6), range(-(-8 // d))):
                plane = inputs[group, window, start : start + h] >> (d * place) & (2**d - 1)
                exact = int(digits @ plane)
                code = min(round(exact / step), 2**adc_bits - 1)  # half to even
                error = code * step - exact
                expected[group, window, column] += error * factor * 2 ** (d * place)
    reading = converters.Reading(cells, jnp.asarray(alive), np.int32(bits), np.int32(adc_bits))
    arrays = levels.astype(np.int8), inputs.astype(np.int32)
    errors = jax.jit(converters.compute_conversion_errors)(reading, *arrays, np.int32(8))
    np.testing.assert_array_equal(errors, expected)


@pytest.mark.parametrize("law", adc.LAWS)
def test_fewer_bits_never_cost_more(law: adc.Law) -> None:
    """Below 4 bits the survey's law rises again: a conversion that stops there does not."""
    saved = dataclasses.replace(PRESETS["isaac"], adc_law=law).chip().adc_saved
    assert (np.diff(saved) <= 0).all()
    assert (saved[7:] == 0).all()
    assert saved[3] > 0


def test_more_bits_than_the_converters_have() -> None:
    config = apq_jax.Config(search=apq_jax.SearchOptions(min_adc_bits=6))
    with pytest.raises(InputError, match=r"search\.min_adc_bits: 6; allowed: up to the 5 bits"):
        prepare.build_space(config, PRESETS["isaac_ou"])
    four = dataclasses.replace(PRESETS["isaac_ou"], adc_bits=4)
    config = apq_jax.Config(search=apq_jax.SearchOptions(min_adc_bits=3))
    assert prepare.build_space(config, four).adc_bits == (3, 4)
    assert prepare.build_space(apq_jax.Config(), four).adc_bits == ()
