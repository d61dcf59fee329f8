"""The actor-critic: deep deterministic policy gradient (Lillicrap et al., ICLR 2016, 1509.02971).

The actor gives a correction to a base action and starts at none: its last layer is zero, so the
first policy is the base itself.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import rlax

from apq_jax.types import Transition


@dataclasses.dataclass(frozen=True)
class AgentOptions:
    """Static."""

    hidden: int = 128  # units of each of two hidden layers
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    reach: float = 0.2  # largest correction of the base action
    restraint: float = 0.0  # what a correction costs, by half its square


class Actor(nn.Module):
    """Observation [..., O] to a correction of the base action, [..., A] in ±reach."""

    hidden: int
    actions: int
    reach: float

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        x = nn.tanh(nn.LayerNorm()(nn.Dense(self.hidden)(observation)))
        x = nn.relu(nn.Dense(self.hidden)(x))
        x = nn.Dense(self.actions, kernel_init=nn.initializers.zeros)(x)
        return self.reach * nn.tanh(x)


class Critic(nn.Module):
    """Observation [..., O] and action [..., A] to the return that follows, [...]."""

    hidden: int

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        x = jnp.concatenate([observation, action], axis=-1)
        x = nn.tanh(nn.LayerNorm()(nn.Dense(self.hidden)(x)))
        x = nn.relu(nn.Dense(self.hidden)(x))
        return nn.Dense(1)(x)[..., 0]


class AgentState(NamedTuple):
    """Networks and the optimisers' states."""

    actor: Any
    critic: Any
    actor_optimiser: Any
    critic_optimiser: Any


class Agent(NamedTuple):
    """What the functions of this file need; static."""

    actor: Actor
    critic: Critic
    actor_optimiser: optax.GradientTransformation
    critic_optimiser: optax.GradientTransformation
    restraint: float
    free: tuple[bool, ...]  # [A]: actions that the agent decides; the others stay at the base
    base_at: int  # where in an observation the base action begins


def make_agent(options: AgentOptions, free: tuple[bool, ...], base_at: int) -> Agent:
    """An agent that decides the `free` actions."""
    return Agent(
        Actor(options.hidden, len(free), options.reach),
        Critic(options.hidden),
        optax.adam(options.actor_rate),
        optax.adam(options.critic_rate),
        options.restraint,
        free,
        base_at,
    )


def init(key: jax.Array, agent: Agent, observations: int) -> AgentState:
    """Fresh networks for observations [O]."""
    actor_key, critic_key = jax.random.split(key)
    observation, action = jnp.zeros(observations), jnp.zeros(len(agent.free))
    actor = agent.actor.init(actor_key, observation)
    critic = agent.critic.init(critic_key, observation, action)
    return AgentState(
        actor,
        critic,
        agent.actor_optimiser.init(actor),
        agent.critic_optimiser.init(critic),
    )


def act(agent: Agent, actor: Any, observation: jax.Array, noise: jax.Array) -> jax.Array:
    """The action [A] in [0, 1] for an observation [O]: base + correction + noise."""
    base = observation[agent.base_at : agent.base_at + len(agent.free)]
    correction: Any = agent.actor.apply(actor, observation)
    moved = base + correction + noise
    return jnp.where(jnp.asarray(agent.free), jnp.clip(moved, 0.0, 1.0), base)


def update(
    agent: Agent, state: AgentState, batch: Transition, learn_actor: jax.Array
) -> AgentState:
    """One step of the critic and, where `learn_actor` [] bool says so, of the actor.

    Critic: squared error to the episode's return. There is no target network, because there is
    no bootstrapping: the whole reward comes at the end and is known when the step is learnt from.
    Actor: the deterministic policy gradient (rlax.dpg_loss), and a pull of `restraint` towards the
    base.
    """
    none = jnp.zeros(len(agent.free))

    def q(critic: Any, observation: jax.Array, action: jax.Array) -> Any:
        return agent.critic.apply(critic, observation, action)

    def critic_loss(critic: Any) -> jax.Array:
        q_tm1 = q(critic, batch.observation_tm1, batch.action_tm1)
        return jnp.mean(rlax.l2_loss(q_tm1, batch.return_t))

    def actor_loss(actor: Any) -> jax.Array:
        def loss(observation: jax.Array) -> jax.Array:
            action = act(agent, actor, observation, none)
            dqda = jax.grad(q, argnums=2)(state.critic, observation, action)
            correction: Any = agent.actor.apply(actor, observation)
            return rlax.dpg_loss(action, dqda) + agent.restraint * rlax.l2_loss(correction).sum()

        return jnp.mean(jax.vmap(loss)(batch.observation_tm1))

    gradient = jax.grad(critic_loss)(state.critic)
    change, critic_optimiser = agent.critic_optimiser.update(gradient, state.critic_optimiser)
    critic = optax.apply_updates(state.critic, change)
    gradient = jax.grad(actor_loss)(state.actor)
    change, actor_optimiser = agent.actor_optimiser.update(gradient, state.actor_optimiser)
    actor, actor_optimiser = jax.tree.map(
        lambda new, old: jnp.where(learn_actor, new, old),
        (optax.apply_updates(state.actor, change), actor_optimiser),
        (state.actor, state.actor_optimiser),
    )
    return AgentState(
        actor,
        critic,
        actor_optimiser,
        critic_optimiser,
    )
