"""Layer-wise actor-critic search that imagines many episodes and evaluates the most promising.

The first `warmup` evaluations are closed-form policies over a range of prices. From then on a
proposal is the one of several imagined episodes that a member of the critic's ensemble likes best:
walks of the actor from good policies, with noise, and crossings of good policies. The number that
are imagined falls from proposal to proposal, from `imagined` to one, which trusts the critic with
nothing, and begins again.
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
from apq_jax.strategies import Strategy, opening, replay, surrogate
from apq_jax.strategies.genetic import breed
from apq_jax.strategies.opening import Best
from apq_jax.strategies.options import ActorCriticOptions
from apq_jax.strategies.replay import Replay
from apq_jax.strategies.surrogate import Choices
from apq_jax.types import Evaluation, Policy


class State(NamedTuple):
    """A search between two calls."""

    agent: AgentState
    replay: Replay
    best: Best  # what stays as it is where an action is not free
    told: jax.Array  # [] int32, policies told


def actor_critic(
    space: Space, options: ActorCriticOptions, free: tuple[bool, ...], parallel: int
) -> Strategy:
    """A search over the `free` ones of keep ratio, weight bits, input bits and ADC bits.

    `parallel` is E, the episodes at a time. Actions that are not free stay as in
    `State.best`, which starts unpruned at the most bits.
    """
    agent = agents.make_agent(options.networks, space.sizes)
    # In turn over the proposals, also where only a few are made at a time.
    imagined = np.geomspace(options.imagined, 1, max(parallel, 8)).round().astype(int)
    # As many changes a child, whatever is free.
    part = sum(free) / len(free)
    breeding = dataclasses.replace(options.breeding, changes=options.breeding.changes / part)

    def init(key: jax.Array, problem: Problem) -> State:
        layers = problem.features.shape[0]
        base = jnp.zeros((layers, len(free)))
        seen = environment.observe(problem, space, base, jnp.asarray(0), base)
        return State(
            agents.init(key, agent, layers, seen.size),
            replay.init(options.capacity, layers, len(free)),
            opening.init_best(problem, space),
            jnp.zeros((), jnp.int32),
        )

    def judge(problem: Problem, known: Choices) -> agents.Q:
        def q(critic: Any, places: jax.Array) -> jax.Array:
            predicted: Any = agent.critic.apply(
                critic, surrogate.interpolate_log_errors(known, places), places
            )
            return surrogate.predict_reward(problem, known, places, predicted)

        return q

    def fitness(problem: Problem, known: Choices, memory: Replay) -> jax.Array:
        """Rewards of what is in the buffer under this problem: [N], -inf where nothing is."""
        rewards = jax.vmap(surrogate.predict_reward, (None, None, 0, 0))(
            problem, known, memory.places.astype(jnp.float32), memory.log_divergence
        )
        return jnp.where(jnp.arange(options.capacity) < memory.filled, rewards, -jnp.inf)

    def fittest(problem: Problem, known: Choices, memory: Replay) -> jax.Array:
        """The population, best first: [N, L, D] places."""
        return memory.places[lax.top_k(fitness(problem, known, memory), options.population)[1]]

    def walk(
        problem: Problem, state: State, base: jax.Array, moves: jax.Array, noise: jax.Array
    ) -> jax.Array:
        """Executed actions [L, D] of an episode that leaves its base where `moves` [L, D] says."""

        def correct(observation: jax.Array) -> Any:
            return agent.actor.apply(state.agent.actor, observation)

        moves &= jnp.asarray(free)
        return environment.roll_out(problem, space, base, correct, moves, noise)

    def ask(key: jax.Array, state: State, problem: Problem) -> tuple[Policy, jax.Array, State]:
        known = surrogate.look_up_choices(problem, space)
        judged = judge(problem, known)
        people = fittest(problem, known, state.replay)
        alive = jnp.clip(state.replay.filled, 1, options.population)
        frozen = environment.encode_places(space, environment.decode(space, state.best.actions))

        def imagine(key: jax.Array) -> jax.Array:
            """The places [L, D] of one episode."""
            cross_key, base_key, noise_key, chance_key, kind_key = jax.random.split(key, 5)
            crossed = breed(cross_key, space, breeding, people, alive)
            drawn = jax.random.randint(base_key, (options.breeding.tournament,), 0, alive)
            base = environment.encode(space, environment.decode_places(space, people[drawn.min()]))
            noise = options.noise * jax.random.truncated_normal(noise_key, -2.0, 2.0, base.shape)
            moves = jax.random.bernoulli(chance_key, options.explore, base.shape)
            walked = walk(problem, state, base, moves, noise)
            walked = environment.encode_places(space, environment.decode(space, walked))
            places = jnp.where(jax.random.bernoulli(kind_key, options.walks), walked, crossed)
            return jnp.where(jnp.asarray(free), places, frozen)

        def propose(key: jax.Array, member: jax.Array, count: jax.Array) -> jax.Array:
            """The episode of the first `count` that this member likes best.

            Where all of these are known, the first one beyond them that is not.
            """
            episodes = jax.vmap(imagine)(jax.random.split(key, options.imagined))
            critic = jax.tree.map(lambda x: x[member], state.agent.critics)
            worth = jax.vmap(judged, (None, 0))(critic, episodes.astype(jnp.float32))
            place = jnp.arange(options.imagined)
            worth = jnp.where(place < count, worth, -1e6 - place)
            worth = jnp.where(replay.contains(state.replay, episodes), worth - 1e9, worth)
            return episodes[jnp.argmax(worth)]

        number = state.told + jnp.arange(parallel)
        turn = number % len(imagined)
        # Each member has each turn sooner or later.
        members = (number + number // len(imagined)) % options.networks.members
        proposed = jax.vmap(propose)(
            jax.random.split(key, parallel), members, jnp.asarray(imagined)[turn]
        )
        allowed = environment.allow_free(space, free, state.best.actions)
        policies = opening.propose(problem, space, number, options.warmup, allowed, proposed)
        return policies, jnp.ones(parallel, bool), state

    def tell(
        key: jax.Array,
        state: State,
        problem: Problem,
        policies: Policy,
        valid: jax.Array,
        evaluations: Evaluation,
    ) -> State:
        known = surrogate.look_up_choices(problem, space)
        places = environment.encode_places(space, policies)
        measured = jnp.log(jnp.maximum(evaluations.divergence, 0.0) + 1e-6)
        memory = replay.add(
            state.replay, fitness(problem, known, state.replay), places, measured, valid
        )
        learner = learn(key, state._replace(replay=memory), problem, known)
        actions = environment.encode(space, policies)
        best = opening.update_best(state.best, problem, actions, valid, evaluations)
        return State(learner, memory, best, state.told + valid.sum(dtype=jnp.int32))

    def learn(key: jax.Array, state: State, problem: Problem, known: Choices) -> AgentState:
        """The critic learns the divergences, then the actor where Q rises."""
        memory, judged = state.replay, judge(problem, known)
        errors = jax.vmap(surrogate.interpolate_log_errors, (None, 0))(
            known, memory.places.astype(jnp.float32)
        )
        shape = options.networks.members, options.batch

        def of_critics(learner: AgentState, key: jax.Array) -> tuple[AgentState, None]:
            at = jax.random.randint(key, shape, 0, jnp.maximum(memory.filled, 1))
            places = memory.places[at].astype(jnp.float32)
            target = memory.log_divergence[at]
            return agents.update_critics(agent, learner, errors[at], places, target), None

        people = fittest(problem, known, memory)
        bases = environment.encode(space, environment.decode_places(space, people))
        alive = jnp.clip(memory.filled, 1, options.population)

        def of_actor(learner: AgentState, key: jax.Array) -> tuple[AgentState, None]:
            base = bases[jax.random.randint(key, (options.actor_batch,), 0, alive)]
            noise, now = jnp.zeros(base.shape[1:]), state._replace(agent=learner)
            walked = jax.vmap(walk, (None, None, 0, None, None))(
                problem, now, base, noise == 0, noise
            )
            seen = jax.vmap(environment.observe_episode, (None, None, 0, 0))(
                problem, space, base, walked
            )

            def act(actor: Any) -> jax.Array:
                correction: Any = agent.actor.apply(actor, seen)
                return jnp.clip(base + jnp.where(jnp.asarray(free), correction, 0.0), 0.0, 1.0)

            def q(critic: Any, actions: jax.Array) -> jax.Array:
                return judged(critic, environment.locate_actions(space, actions))

            return agents.update_actor(agent, learner, act, q), None

        learner, _ = lax.scan(of_critics, state.agent, jax.random.split(key, options.updates))
        return lax.scan(of_actor, learner, jax.random.split(key, options.actor_updates))[0]

    return Strategy(init, ask, tell, transferable=all(free))
