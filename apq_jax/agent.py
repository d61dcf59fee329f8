"""The actor-critic: deterministic policy gradients (Lillicrap et al., ICLR 2016, 1509.02971).

The reward comes at the end of an episode and all of it but the divergence is known beforehand, so
the critic predicts just that, from the whole episode, and Q is the reward with the prediction in
place of the measurement. It is an ensemble whose members see different samples (Osband et al.,
NeurIPS 2016, 1602.04621): each is a guess that is consistent with what was measured.

The actor walks the layers and gives a correction to a base action. It starts at none: its last
layer is zero, so the first policy is the base itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import rlax
from jax import lax

from apq_jax.system.fields import ranged

Q = Callable[[Any, jax.Array], jax.Array]  # (a member's parameters, an episode [L, A]) -> Q []


@dataclasses.dataclass(frozen=True)
class AgentOptions:
    """Static."""

    hidden: int = ranged(64, 1, 65_536)  # units of each of two hidden layers
    members: int = ranged(4, 1, 1024)  # of the critic's ensemble
    tables: bool = True  # the critic learns a number for each choice of each layer
    perceptron: bool = True  # and a perceptron of the whole episode
    actor_rate: float = ranged(3e-4, 0.0, 1.0)
    critic_rate: float = ranged(3e-3, 0.0, 1.0)
    reach: float = ranged(0.2, 0.0, 1.0)  # largest correction of the base action


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
    """Errors of the layers' own outputs and places among the choices to ln divergence, [].

    ln Σ_parts e^(c ln error + b + Σ tables) + perceptron. The parts are every layer's weights and
    inputs, and its converters where their bits are searched; c starts at 1, all else at 0, where
    the divergence is the sum of the errors: what the closed form assumes.
    """

    choices: tuple[int, ...]  # [D]
    hidden: int
    tables: bool
    perceptron: bool

    @nn.compact
    def __call__(self, log_errors: jax.Array, places: jax.Array) -> jax.Array:
        """log_errors [L, D - 1], see `foresight`; places [L, D], between two choices too."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        exponent = self.param("exponent", ones, log_errors.shape)
        parts = exponent * log_errors + self.param("factor", zeros, log_errors.shape)
        if self.tables:
            found = []
            names = "keep", "weight_bits", "input_bits", "adc_bits"
            for at, (name, size) in enumerate(zip(names, self.choices, strict=False)):
                table = self.param(name, zeros, (len(places), size))
                found.append(jax.vmap(interpolate)(table, places[:, at : at + 1]))
            parts += jnp.stack([found[0] + found[1], *found[2:]], axis=1)
        total = jax.nn.logsumexp(parts)
        if not self.perceptron:
            return total
        seen = jnp.concatenate(
            [(log_errors + 4.0) / 3.0, places / jnp.maximum(jnp.asarray(self.choices) - 1.0, 1.0)],
            axis=1,
        )
        x = nn.tanh(nn.LayerNorm()(nn.Dense(self.hidden)(seen.reshape(-1))))
        x = nn.relu(nn.Dense(self.hidden)(x))
        return total + nn.Dense(1, kernel_init=zeros)(x)[0]


class AgentState(NamedTuple):
    """Networks and the optimisers' states; of the critic one a member."""

    actor: Any
    critics: Any
    actor_optimiser: Any
    critic_optimisers: Any


class Agent(NamedTuple):
    """What the functions of this file need; static."""

    actor: Actor
    critic: Critic
    actor_optimiser: optax.GradientTransformation
    critic_optimiser: optax.GradientTransformation
    members: int


def make_agent(options: AgentOptions, choices: tuple[int, ...]) -> Agent:
    """An agent for that many choices of every action, [D]."""
    return Agent(
        Actor(options.hidden, len(choices), options.reach),
        Critic(choices, options.hidden, options.tables, options.perceptron),
        optax.adam(options.actor_rate),
        optax.adam(options.critic_rate),
        options.members,
    )


def init(key: jax.Array, agent: Agent, layers: int, observations: int) -> AgentState:
    """Fresh networks for L layers and observations [O]."""
    actor_key, critic_key = jax.random.split(key)
    actor = agent.actor.init(actor_key, jnp.zeros(observations))
    count = len(agent.critic.choices)
    errors, places = jnp.zeros((layers, count - 1)), jnp.zeros((layers, count))
    keys = jax.random.split(critic_key, agent.members)
    critics = jax.vmap(lambda key: agent.critic.init(key, errors, places))(keys)
    return AgentState(
        actor,
        critics,
        agent.actor_optimiser.init(actor),
        jax.vmap(agent.critic_optimiser.init)(critics),
    )


def update_critics(
    agent: Agent,
    state: AgentState,
    log_errors: jax.Array,
    places: jax.Array,
    log_divergence: jax.Array,
) -> AgentState:
    """One step of every member on its own batch of B episodes.

    Args:
      log_errors: [members, B, L, D - 1].
      places: [members, B, L, D].
      log_divergence: [members, B], measured. There is no bootstrapping, so no target network and
        no clipped double Q: the return is known when it is learnt from.
    """

    def step(
        critic: Any, optimiser: Any, errors: jax.Array, places: jax.Array, target: jax.Array
    ) -> tuple[Any, Any]:
        def loss(critic: Any) -> jax.Array:
            predict: Any = jax.vmap(agent.critic.apply, (None, 0, 0))
            return jnp.mean(rlax.huber_loss(predict(critic, errors, places) - target, 0.5))

        change, optimiser = agent.critic_optimiser.update(jax.grad(loss)(critic), optimiser)
        return optax.apply_updates(critic, change), optimiser

    critics, optimisers = jax.vmap(step)(
        state.critics, state.critic_optimisers, log_errors, places, log_divergence
    )
    return state._replace(critics=critics, critic_optimisers=optimisers)


def update_actor(
    agent: Agent, state: AgentState, act: Callable[[Any], jax.Array], q: Q
) -> AgentState:
    """One step of the actor along the gradient of Q, the members' mean (rlax.dpg_loss).

    Args:
      act: the actor's parameters to the actions [B, L, A] that it takes in B walks.
      q: of one walk's actions.
    """

    def value(actions: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(q, (0, None))(state.critics, actions))

    dqda = jax.vmap(jax.grad(value))(act(state.actor))

    def loss(actor: Any) -> jax.Array:
        every = jax.vmap(jax.vmap(rlax.dpg_loss))
        return jnp.mean(every(act(actor), dqda))

    change, optimiser = agent.actor_optimiser.update(
        jax.grad(loss)(state.actor), state.actor_optimiser
    )
    return state._replace(actor=optax.apply_updates(state.actor, change), actor_optimiser=optimiser)


def interpolate(table: jax.Array, place: jax.Array) -> jax.Array:
    """`table` [n_1, ..., n_d] at `place` [d], linear between its entries: [].

    Outside it is the nearest entry, but the gradient is that of the last two: an actor that has
    come to the end of the choices is still told the way back.
    """
    for x, size in zip(place, table.shape, strict=True):
        inside = x + lax.stop_gradient(jnp.clip(x, 0.0, size - 1.0) - x)
        lower = jnp.clip(jnp.floor(inside), 0, max(size - 2, 0)).astype(jnp.int32)
        part = inside - lower
        table = (1.0 - part) * table[lower] + part * table[jnp.minimum(lower + 1, size - 1)]
    return table
