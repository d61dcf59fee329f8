"""Layer-wise actor-critic search that starts from closed-form policies.

The first `warmup` evaluations are closed-form policies over a range of prices. Then the agent
walks the layers and corrects the best policy so far; every policy, with the actions that were
executed, goes to the replay buffer, from which actor and critic learn after each batch.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from apq_jax import agent as agents
from apq_jax import environment, replay
from apq_jax.agent import AgentOptions, AgentState
from apq_jax.environment import Problem, Space
from apq_jax.strategies import Strategy, start
from apq_jax.strategies.start import Best
from apq_jax.types import Evaluation, Policy, Transition


@dataclasses.dataclass(frozen=True)
class DdpgOptions:
    """Static."""

    warmup: int = 24  # evaluations of closed-form policies
    actor_from: int = 48  # evaluations after which the actor learns; the critic does at once
    updates: int = 32  # of actor and critic after each batch of episodes
    batch: int = 128  # transitions an update
    noise: float = 0.15  # deviation of the exploration
    explore: float = 0.2  # share of the actions that get noise at all
    capacity: int = 16384  # transitions
    networks: AgentOptions = AgentOptions()


class State(NamedTuple):
    """A search between two calls."""

    agent: AgentState
    replay: replay.Replay
    best: Best  # what corrections are made to
    baseline: jax.Array  # [] mean reward of the policies told
    told: jax.Array  # [] int32, policies told


def ddpg(
    space: Space, options: DdpgOptions, free: tuple[bool, bool, bool], parallel: int
) -> Strategy:
    """A search over the `free` ones of keep ratio, weight bits and input bits.

    `parallel` is E, the episodes at a time. Actions that are not free stay as in
    `State.best`, which starts unpruned at the most bits.
    """

    def observations(problem: Problem) -> int:
        return problem.features.shape[1] + 2 * environment.ACTIONS + 2

    def agent(problem: Problem) -> agents.Agent:
        return agents.make_agent(options.networks, free, base_at=problem.features.shape[1])

    def init(key: jax.Array, problem: Problem) -> State:
        size = observations(problem)
        return State(
            agents.init(key, agent(problem), size),
            replay.empty(options.capacity, size, environment.ACTIONS),
            start.nothing(problem, space),
            jnp.zeros(()),
            jnp.zeros((), jnp.int32),
        )

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        noise_key, chance_key = jax.random.split(key)
        base = state.best.actions
        allowed = environment.allowed_by(space, free, base)
        number = state.told + jnp.arange(parallel)
        closed = start.closed_forms(problem, space, number, options.warmup, allowed)
        shape = (parallel, *base.shape)
        noise = options.noise * jax.random.truncated_normal(noise_key, -2.0, 2.0, shape)
        noise = jnp.where(jax.random.bernoulli(chance_key, options.explore, shape), noise, 0.0)
        player = agent(problem)

        def act(observation: jax.Array, noise: jax.Array) -> jax.Array:
            return agents.act(player, state.agent.actor, observation, noise)

        actions = jax.vmap(lambda noise: environment.rollout(problem, space, base, act, noise))(
            noise
        )
        walked = environment.decode(space, actions)
        policies = start.first_then(number, options.warmup, closed, walked)
        return policies, jnp.ones(parallel, bool), state

    def tell(
        key: jax.Array,
        state: State,
        problem: Problem,
        policies: Policy,
        valid: jax.Array,
        evaluations: Evaluation,
    ) -> State:
        actions = environment.encode(space, policies)  # [E, L, 3]
        rewards = start.scores(problem, valid, evaluations)
        memory = replay.add(
            state.replay,
            _transitions(problem, space, state.best.actions, actions, rewards),
            jnp.repeat(valid, actions.shape[1]),
        )
        count = valid.sum(dtype=jnp.int32)
        total = state.baseline * state.told + jnp.where(valid, rewards, 0.0).sum()
        told = state.told + count
        baseline = total / jnp.maximum(told, 1)
        player = agent(problem)

        def learn(learner: AgentState, key: jax.Array) -> tuple[AgentState, None]:
            batch = replay.sample(key, memory, options.batch)
            # A constant taken off every reward changes no preference (AMC's baseline).
            centred = batch._replace(return_t=batch.return_t - baseline)
            return agents.update(player, learner, centred, told >= options.actor_from), None

        learner, _ = lax.scan(learn, state.agent, jax.random.split(key, options.updates))
        best = start.improved(state.best, problem, actions, valid, evaluations)
        return State(learner, memory, best, baseline, told)

    return Strategy(init, ask, tell)


def _transitions(
    problem: Problem, space: Space, base: jax.Array, actions: jax.Array, rewards: jax.Array
) -> Transition:
    """The steps of E episodes [E, L, 3] with final rewards [E], as [E L, ...].

    Every step is given the episode's final reward, as in AMC, and the critic learns that return
    itself: a bootstrapped one would need several updates a layer to reach the first.
    """
    seen = jax.vmap(environment.observe_episode, (None, None, None, 0))(
        problem, space, base, actions
    )
    steps = Transition(seen, actions, jnp.broadcast_to(rewards[:, None], actions.shape[:2]))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)
