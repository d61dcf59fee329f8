"""Sensitivity of every layer, then the best gain per loss: the usual heuristic, measured.

First each layer is compressed alone, one way at a time, and the divergence that it causes is
noted. Taken to add up, these give a path from the unpruned network: at each step whatever saves
most cost for the divergence that it adds. The path is searched for the last policy that meets the
limit; from there single steps and exchanges are tried at random and kept where they are better.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy, opening
from apq_jax.strategies.opening import Best
from apq_jax.types import Evaluation, Policy


@dataclasses.dataclass(frozen=True)
class GreedyOptions:
    """Static."""

    levels: int = 6  # keep levels that each layer is tried at
    rounds: int = 3  # of looking along the path


class State(NamedTuple):
    """What was measured, and where on the path the limit is."""

    measured: jax.Array  # [probes] divergence, nats
    low: jax.Array  # [] int32, place on the path that meets the limit
    high: jax.Array  # [] int32, place that does not
    best: Best
    asked: jax.Array  # [] int32


def greedy(space: Space, options: GreedyOptions, parallel: int, layers: int) -> Strategy:
    """The heuristic; E policies at a time."""
    sizes, kinds = np.asarray(space.sizes), range(len(space.sizes))
    dense = np.asarray([0, *(sizes[1:] - 1)])
    most_level = sizes[0] - 1  # 0 where nothing is pruned
    levels = np.unique(np.linspace(1, most_level, options.levels * (most_level > 0)).round())
    levels = levels.astype(int)
    tried = [levels, *(np.arange(size - 1) for size in sizes[1:])]
    ways = [(kind, to) for kind in kinds for to in tried[kind]]
    ways = ways or [(0, 0)]  # there is one policy
    probes = np.asarray([(at, *way) for at in range(layers) for way in ways]).reshape(-1, 3)
    probe_calls = -(-len(probes) // parallel)
    path_calls = probe_calls + options.rounds
    steps = max(layers * int((sizes - 1).sum()), 1)
    # A step prunes more, or takes bits away.
    direction = jnp.asarray([1, *(-1,) * len(space.bits)])
    most, unpruned = jnp.asarray(sizes) - 1, jnp.tile(jnp.asarray(dense), (layers, 1))
    policy_at = functools.partial(environment.decode_places, space)

    def added(measured: jax.Array) -> list[jax.Array]:
        """Divergence of each choice alone, no less the farther from unpruned: [L, choices] each."""
        found, first = [], 0
        for kind, values in enumerate(tried):
            away = np.abs(np.concatenate([[dense[kind]], values]) - dense[kind])
            order = np.argsort(away)
            known = measured.reshape(layers, -1)[:, first : first + len(values)]
            first += len(values)
            known = jnp.concatenate([jnp.zeros((layers, 1)), known], axis=1)[:, order]
            every = np.abs(np.arange(sizes[kind]) - dense[kind])
            at = functools.partial(jnp.interp, jnp.asarray(every), jnp.asarray(away[order]))
            found.append(jax.vmap(at)(lax.cummax(known, axis=1)))
        return found

    def path(problem: Problem, measured: jax.Array) -> jax.Array:
        """[steps, L, D] places among the choices."""
        divergence = added(measured)

        def step(genes: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            moved, row, ratios = jnp.clip(genes + direction, 0, most), jnp.arange(layers), []
            here = environment.look_up_shares(problem, policy_at(genes))  # [L]
            for kind in kinds:
                one = genes.at[:, kind].set(moved[:, kind])
                saved = here - environment.look_up_shares(problem, policy_at(one))
                lost = divergence[kind][row, moved[:, kind]] - divergence[kind][row, genes[:, kind]]
                # What costs nothing is not worth a loss, but a step may have to pass over it.
                ratios.append((saved + 1e-6) / (lost + 1e-6))
            ratio = jnp.where(moved != genes, jnp.stack(ratios, axis=1), -jnp.inf)
            at = jnp.unravel_index(jnp.argmax(ratio), ratio.shape)
            genes = genes.at[at].set(moved[at])
            return genes, genes

        return lax.scan(step, unpruned, None, steps)[1]

    def places(state: State) -> jax.Array:
        """Where on the path this call looks, [E]."""
        part = (jnp.arange(parallel) + 1.0) / (parallel + 1.0)
        return jnp.round(state.low + (state.high - state.low) * part).astype(jnp.int32)

    def init(key: jax.Array, problem: Problem) -> State:
        del key
        none, best = jnp.zeros((), jnp.int32), opening.init_best(problem, space)
        return State(jnp.zeros(len(probes)), none, jnp.asarray(steps - 1), best, none)

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        number = state.asked * parallel + jnp.arange(parallel)
        valid = (state.asked >= probe_calls) | (number < len(probes))
        at, kind, to = jnp.asarray(probes).T[:, jnp.minimum(number, len(probes) - 1)]
        alone = jax.vmap(lambda at, kind, to: unpruned.at[at, kind].set(to))(at, kind, to)
        along = path(problem, state.measured)[places(state)]
        best = environment.encode_places(space, environment.decode(space, state.best.actions))
        near = jax.vmap(neighbour, (0, None))(jax.random.split(key, parallel), best)
        genes = jnp.where(state.asked < path_calls, along, near)
        genes = jnp.where(state.asked < probe_calls, alone, genes)
        return policy_at(genes), valid, state

    def neighbour(key: jax.Array, genes: jax.Array) -> jax.Array:
        """One or two genes a step or two on, or back."""
        which, far, sign, one = jax.random.split(key, 4)
        chosen = jax.random.permutation(which, genes.size) < jax.random.randint(one, (), 1, 3)
        by = jax.random.randint(far, genes.shape, 1, 3)
        by *= jax.random.rademacher(sign, genes.shape, jnp.int32)
        moved = jnp.clip(genes + by, 0, most)
        return jnp.where(chosen.reshape(genes.shape), moved, genes)

    def tell(
        key: jax.Array,
        state: State,
        problem: Problem,
        policies: Policy,
        valid: jax.Array,
        evaluations: Evaluation,
    ) -> State:
        del key
        number = state.asked * parallel + jnp.arange(parallel)
        probing = valid & (state.asked < probe_calls)
        # Out of bounds is dropped.
        place = jnp.where(probing, number, len(probes))
        measured = state.measured.at[place].set(evaluations.divergence, mode="drop")
        on_path = (state.asked >= probe_calls) & (state.asked < path_calls) & valid
        unlimited = problem._replace(max_cost=jnp.full_like(problem.max_cost, jnp.inf))
        meets = environment.shortfall(unlimited, evaluations) == 0
        # Where accuracy is the goal, as far as the path costs too much.
        meets &= (problem.quality == 0) | (environment.shortfall(problem, evaluations) > 0)
        looked = places(state)
        low = jnp.max(jnp.where(on_path & meets, looked, state.low))
        worse = jnp.where(on_path & ~meets & (looked > low), looked, state.high)
        actions = environment.encode(space, policies)
        best = opening.update_best(state.best, problem, actions, valid, evaluations)
        return State(measured, low, jnp.maximum(worse.min(), low), best, state.asked + 1)

    return Strategy(init, ask, tell)
