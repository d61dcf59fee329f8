"""Layer-wise actor-critic search that imagines many episodes and evaluates the most promising.

The first `warmup` evaluations are closed-form policies over a range of prices. Each later proposal
is the episode with the highest Q of one critic among several imagined episodes: noisy walks of the
actor from good policies, and crossings of good policies. The count of imagined episodes falls from
`imagined` to one over the proposals, then starts again. A proposal with one imagined episode does
not depend on the critic.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax import agent as agents
from apq_jax.agent import AgentState
from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Outcome, Strategy, opening, replay, surrogate
from apq_jax.strategies.draws import to_normal, to_whole
from apq_jax.strategies.genetic import breed, count_draws
from apq_jax.strategies.opening import Best
from apq_jax.strategies.options import ActorCriticOptions
from apq_jax.strategies.replay import Replay
from apq_jax.strategies.surrogate import Choices
from apq_jax.types import Policy


class State(NamedTuple):
    """A search between two calls."""

    agent: AgentState
    replay: Replay
    best: Best  # actions that are not free stay as in this policy
    told: jax.Array  # [] int32, valid policies told so far


def actor_critic(
    space: Space, options: ActorCriticOptions, free: tuple[bool, ...], parallel: int
) -> Strategy:
    """Builds a search over the free actions.

    Args:
      space: the choices.
      options: static.
      free: [D], whether the search may change keep ratio, weight bits, input bits and ADC bits.
        Other actions stay as in `State.best`, which starts unpruned at the most bits.
      parallel: E, episodes at a time.
    """
    agent = agents.make_agent(options.networks, space.sizes)
    # Proposals take these counts in turn, over several calls if E is below 8.
    counts = np.geomspace(options.imagined, 1, max(parallel, 8)).round().astype(int)
    # The chance of a change is raised, so that a child has as many changes if fewer genes are free.
    free_share = sum(free) / len(free)
    changes = options.breeding.changes / free_share
    breeding = dataclasses.replace(options.breeding, changes=changes)

    def init(key: jax.Array, problem: Problem) -> State:
        layers = problem.features.shape[0]
        base = jnp.zeros((layers, len(free)))
        observation = environment.observe(problem, space, base, jnp.asarray(0), base)
        return State(
            agents.init(key, agent, layers, observation.size),
            replay.init(options.capacity, layers, len(free)),
            opening.init_best(problem, space),
            jnp.zeros((), jnp.int32),
        )

    def build_q(problem: Problem, choices: Choices) -> agents.Q:
        """Builds Q as a function of places [L, D] instead of actions."""

        def q(critic: Any, places: jax.Array) -> jax.Array:
            predicted: Any = agent.critic.apply(
                critic, surrogate.interpolate_log_errors(choices, places), places
            )
            return surrogate.predict_reward(problem, choices, places, predicted)

        return q

    def score_buffer(problem: Problem, choices: Choices, buffer: Replay) -> jax.Array:
        """Predicts the rewards of the buffer's policies for this problem: [N], -inf where empty."""
        rewards = jax.vmap(surrogate.predict_reward, (None, None, 0, 0))(
            problem, choices, buffer.places.astype(jnp.float32), buffer.log_divergence
        )
        return jnp.where(jnp.arange(options.capacity) < buffer.filled, rewards, -jnp.inf)

    def select_population(problem: Problem, choices: Choices, buffer: Replay) -> jax.Array:
        """Selects the fittest policies of the buffer, best first: places [N, L, D]."""
        rewards = score_buffer(problem, choices, buffer)
        return buffer.places[lax.top_k(rewards, options.population)[1]]

    def walk(
        problem: Problem, state: State, base: jax.Array, moves: jax.Array, noise: jax.Array
    ) -> jax.Array:
        """Walks the actor from `base`, which only `moves` [L, D] leave: executed actions [L, D]."""

        def correct(observation: jax.Array) -> Any:
            return agent.actor.apply(state.agent.actor, observation)

        moves &= jnp.asarray(free)
        return environment.roll_out(problem, space, base, correct, moves, noise)

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        choices = surrogate.look_up_choices(problem, space)
        q = build_q(problem, choices)
        population = select_population(problem, choices, state.replay)
        alive = jnp.clip(state.replay.filled, 1, options.population)
        frozen = environment.encode_places(space, environment.decode(space, state.best.actions))

        layers, actions = population.shape[1:]
        crossed, each = count_draws(breeding, layers, space), layers * actions
        ends = np.cumsum([crossed, breeding.tournament, each, each, 1])

        def imagine(draws: jax.Array) -> jax.Array:
            """Imagines one episode from uniform random numbers: places [L, D]."""
            crossing, drawing, noising, moving, kind = jnp.split(draws, ends[:-1])
            crossed = breed(crossing, space, breeding, population, alive)
            parent = population[to_whole(drawing, alive).min()]
            base = environment.encode(space, environment.decode_places(space, parent))
            noise = options.noise * to_normal(noising.reshape(base.shape), limit=2.0)
            walked = walk(problem, state, base, moving.reshape(base.shape) < options.explore, noise)
            walked = environment.encode_places(space, environment.decode(space, walked))
            places = jnp.where(kind < options.walks, walked, crossed)
            return jnp.where(jnp.asarray(free), places, frozen)

        def propose(draws: jax.Array, member: jax.Array, count: jax.Array) -> jax.Array:
            """Proposes the episode of the first `count` that has the highest Q of a member.

            If the buffer contains all of them, the first later episode that it does not contain is
            proposed.
            """
            episodes = jax.vmap(imagine)(draws)
            critic = jax.tree.map(lambda x: x[member], state.agent.critics)
            values = jax.vmap(q, (None, 0))(critic, episodes.astype(jnp.float32))
            order = jnp.arange(options.imagined)
            values = jnp.where(order < count, values, -1e6 - order)
            values = jnp.where(replay.contains(state.replay, episodes), values - 1e9, values)
            return episodes[jnp.argmax(values)]

        index = state.told + jnp.arange(parallel)
        turn = index % len(counts)
        # Members shift by one each round, so that every member meets every count.
        members = (index + index // len(counts)) % options.networks.members
        draws = jax.random.uniform(key, (parallel, options.imagined, ends[-1]))
        proposed = jax.vmap(propose)(draws, members, jnp.asarray(counts)[turn])
        allowed = environment.allow_free(space, free, state.best.actions)
        policies = opening.propose(problem, space, index, options.warmup, allowed, proposed)
        return policies, jnp.ones(parallel, bool), state

    def tell(key: jax.Array, state: State, problem: Problem, outcome: Outcome) -> State:
        choices = surrogate.look_up_choices(problem, space)
        places = environment.encode_places(space, outcome.policies)
        log_divergence = jnp.log(jnp.maximum(outcome.evaluations.divergence, 0.0) + 1e-6)
        fitness = score_buffer(problem, choices, state.replay)
        buffer = replay.add(state.replay, fitness, places, log_divergence, outcome.valid)
        learner = learn(key, state._replace(replay=buffer), problem, choices)
        best = opening.update_best(state.best, problem, space, outcome)
        return State(learner, buffer, best, state.told + outcome.valid.sum(dtype=jnp.int32))

    def learn(key: jax.Array, state: State, problem: Problem, choices: Choices) -> AgentState:
        """Trains the critics on the measured divergences, then the actor on Q."""
        buffer, q_of_places = state.replay, build_q(problem, choices)
        errors = jax.vmap(surrogate.interpolate_log_errors, (None, 0))(
            choices, buffer.places.astype(jnp.float32)
        )
        critic_key, actor_key = jax.random.split(key)
        shape = options.updates, options.networks.members, options.batch
        batches = to_whole(jax.random.uniform(critic_key, shape), jnp.maximum(buffer.filled, 1))

        def step_critics(learner: AgentState, rows: jax.Array) -> tuple[AgentState, None]:
            places = buffer.places[rows].astype(jnp.float32)
            target = buffer.log_divergence[rows]
            return agents.update_critics(agent, learner, errors[rows], places, target), None

        population = select_population(problem, choices, buffer)
        bases = environment.encode(space, environment.decode_places(space, population))
        alive = jnp.clip(buffer.filled, 1, options.population)

        def step_actor(learner: AgentState, rows: jax.Array) -> tuple[AgentState, None]:
            base = bases[rows]
            noise, current = jnp.zeros(base.shape[1:]), state._replace(agent=learner)
            walked = jax.vmap(walk, (None, None, 0, None, None))(
                problem, current, base, noise == 0, noise
            )
            observations = jax.vmap(environment.observe_episode, (None, None, 0, 0))(
                problem, space, base, walked
            )

            def act(actor: Any) -> jax.Array:
                correction: Any = agent.actor.apply(actor, observations)
                return jnp.clip(base + jnp.where(jnp.asarray(free), correction, 0.0), 0.0, 1.0)

            def q(critic: Any, actions: jax.Array) -> jax.Array:
                return q_of_places(critic, environment.locate_actions(space, actions))

            return agents.update_actor(agent, learner, act, q), None

        learner, _ = lax.scan(step_critics, state.agent, batches)
        actor_shape = options.actor_updates, options.actor_batch
        starts = to_whole(jax.random.uniform(actor_key, actor_shape), alive)
        return lax.scan(step_actor, learner, starts)[0]

    return Strategy(init, ask, tell, transferable=all(free))
