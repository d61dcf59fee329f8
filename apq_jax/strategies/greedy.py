"""The usual heuristic, measured: sensitivity of every layer, then the best saving per loss.

First, probes compress each layer alone, one way at a time, and measure the divergence. Then a path
leads away from the unpruned network: each step saves most cost per added divergence, if the
divergences of layers add up. The path is searched for its last policy that is accurate enough or,
if accuracy is the goal, its first within the cost limits. Last, the best policy varies at random.
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
from apq_jax.strategies import Outcome, Strategy, opening
from apq_jax.strategies.opening import Best
from apq_jax.types import Policy


@dataclasses.dataclass(frozen=True)
class GreedyOptions:
    """Options of the greedy heuristic. Static."""

    levels: int = 6  # keep levels per layer that are probed
    rounds: int = 3  # calls that look along the path


class State(NamedTuple):
    """Divergences measured, the path's steps around the limit, the best."""

    measured: jax.Array  # [probes], divergence, nats
    low: jax.Array  # [] int32, step of the path that meets the limits
    high: jax.Array  # [] int32, step that does not
    best: Best
    asked: jax.Array  # [] int32, calls so far


def greedy(space: Space, options: GreedyOptions, parallel: int, layers: int) -> Strategy:
    """Builds the heuristic for L layers with E = `parallel` policies at a time."""
    sizes, kinds = np.asarray(space.sizes), range(len(space.sizes))
    dense = np.asarray([0, *(sizes[1:] - 1)])
    max_level = sizes[0] - 1  # 0 if nothing can be pruned
    levels = np.unique(np.linspace(1, max_level, options.levels * (max_level > 0)).round())
    levels = levels.astype(int)
    probed = [levels, *(np.arange(size - 1) for size in sizes[1:])]
    ways = [(kind, to) for kind in kinds for to in probed[kind]]
    ways = ways or [(0, 0)]  # the space has one policy
    probes = np.asarray([(layer, *way) for layer in range(layers) for way in ways]).reshape(-1, 3)
    probe_calls = -(-len(probes) // parallel)
    path_calls = probe_calls + options.rounds
    steps = max(layers * int((sizes - 1).sum()), 1)
    # A step raises the keep level, or takes bits away.
    direction = jnp.asarray([1, *(-1,) * len(space.bits)])
    max_places, unpruned = jnp.asarray(sizes) - 1, jnp.tile(jnp.asarray(dense), (layers, 1))
    decode_places = functools.partial(environment.decode_places, space)

    def interpolate_divergences(measured: jax.Array) -> list[jax.Array]:
        """Interpolates the divergence of each choice alone, per action: [L, choices] each.

        Divergences never fall with the distance from the dense network.
        """
        divergences, first = [], 0
        for kind, places in enumerate(probed):
            distance = np.abs(np.concatenate([[dense[kind]], places]) - dense[kind])
            order = np.argsort(distance)
            known = measured.reshape(layers, -1)[:, first : first + len(places)]
            first += len(places)
            known = jnp.concatenate([jnp.zeros((layers, 1)), known], axis=1)[:, order]
            wanted = np.abs(np.arange(sizes[kind]) - dense[kind])
            read = functools.partial(jnp.interp, jnp.asarray(wanted), jnp.asarray(distance[order]))
            divergences.append(jax.vmap(read)(lax.cummax(known, axis=1)))
        return divergences

    def build_path(problem: Problem, measured: jax.Array) -> jax.Array:
        """Builds the path: places [steps, L, D]."""
        divergences = interpolate_divergences(measured)

        def step(genes: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            moved, row, ratios = jnp.clip(genes + direction, 0, max_places), jnp.arange(layers), []
            here = environment.look_up_shares(problem, decode_places(genes))  # [L]
            for kind in kinds:
                changed = genes.at[:, kind].set(moved[:, kind])
                saved = here - environment.look_up_shares(problem, decode_places(changed))
                divergence = divergences[kind]
                added = divergence[row, moved[:, kind]] - divergence[row, genes[:, kind]]
                # Steps that save nothing rank last, yet must stay possible because later steps may
                # lie behind them.
                ratios.append((saved + 1e-6) / (added + 1e-6))
            ratio = jnp.where(moved != genes, jnp.stack(ratios, axis=1), -jnp.inf)
            gene = jnp.unravel_index(jnp.argmax(ratio), ratio.shape)
            genes = genes.at[gene].set(moved[gene])
            return genes, genes

        return lax.scan(step, unpruned, None, steps)[1]

    def spread_steps(state: State) -> jax.Array:
        """Spreads E steps of the path evenly between the bounds, for this call to look at: [E]."""
        fraction = (jnp.arange(parallel) + 1.0) / (parallel + 1.0)
        return jnp.round(state.low + (state.high - state.low) * fraction).astype(jnp.int32)

    def init(key: jax.Array, problem: Problem) -> State:
        del key
        zero, best = jnp.zeros((), jnp.int32), opening.init_best(problem, space)
        return State(jnp.zeros(len(probes)), zero, jnp.asarray(steps - 1), best, zero)

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        index = state.asked * parallel + jnp.arange(parallel)
        valid = (state.asked >= probe_calls) | (index < len(probes))
        probe = jnp.asarray(probes).T[:, jnp.minimum(index, len(probes) - 1)]
        alone = jax.vmap(lambda layer, kind, to: unpruned.at[layer, kind].set(to))(*probe)
        along = build_path(problem, state.measured)[spread_steps(state)]
        best = environment.encode_places(space, environment.decode(space, state.best.actions))
        near = jax.vmap(draw_neighbour, (0, None))(jax.random.split(key, parallel), best)
        genes = jnp.where(state.asked < path_calls, along, near)
        genes = jnp.where(state.asked < probe_calls, alone, genes)
        return decode_places(genes), valid, state

    def draw_neighbour(key: jax.Array, genes: jax.Array) -> jax.Array:
        """Draws a policy in which one or two genes move one or two steps."""
        gene_key, size_key, sign_key, count_key = jax.random.split(key, 4)
        rank = jax.random.permutation(gene_key, genes.size)
        chosen = rank < jax.random.randint(count_key, (), 1, 3)
        step = jax.random.randint(size_key, genes.shape, 1, 3)
        step *= jax.random.rademacher(sign_key, genes.shape, jnp.int32)
        moved = jnp.clip(genes + step, 0, max_places)
        return jnp.where(chosen.reshape(genes.shape), moved, genes)

    def tell(key: jax.Array, state: State, problem: Problem, outcome: Outcome) -> State:
        del key
        _, valid, evaluations = outcome
        index = state.asked * parallel + jnp.arange(parallel)
        probing = valid & (state.asked < probe_calls)
        # Other policies get an index out of bounds, where writing is dropped.
        probe = jnp.where(probing, index, len(probes))
        measured = state.measured.at[probe].set(evaluations.divergence, mode="drop")
        on_path = (state.asked >= probe_calls) & (state.asked < path_calls) & valid
        unlimited = problem._replace(max_cost=jnp.full_like(problem.max_cost, jnp.inf))
        meets = environment.shortfall(unlimited, evaluations) == 0
        # If accuracy is the goal, the path is followed only while it costs too much.
        meets &= (problem.quality == 0) | (environment.shortfall(problem, evaluations) > 0)
        tried = spread_steps(state)
        low = jnp.max(jnp.where(on_path & meets, tried, state.low))
        worse = jnp.where(on_path & ~meets & (tried > low), tried, state.high)
        best = opening.update_best(state.best, problem, space, outcome)
        return State(measured, low, jnp.maximum(worse.min(), low), best, state.asked + 1)

    return Strategy(init, ask, tell)
