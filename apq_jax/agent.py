"""Networks and updates of the actor-critic: deterministic policy gradients.

The method is Lillicrap et al., ICLR 2016, arXiv 1509.02971. The critic here predicts only the
divergence, from the whole episode, because every other part of the reward is known before the
evaluation. Q is the reward with the predicted divergence in place of the measured one. The critic
is an ensemble whose members learn from different samples (Osband et al., NeurIPS 2016, arXiv
1602.04621), so each member is one guess that agrees with the measurements.

The actor walks the layers and outputs a correction to a base action. The first policy is the base
itself, because the actor's last layer starts at zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import rlax
from jax import lax

from apq_jax.types import AgentOptions

Q = Callable[[Any, jax.Array], jax.Array]  # (one member's parameters, actions [L, D]) -> Q []


class Actor(nn.Module):
    """Maps observations [..., O] to corrections of the base action, [..., D] in ±reach."""

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
    """Predicts ln divergence [] from the errors of the layers' outputs and the chosen places.

    The formula is ln Σ_parts e^(c ln error + b + Σ tables) + perceptron. The parts are each layer's
    weights and inputs, and its converters if their bits are searched. c starts at 1 and all else at
    0: then the divergence is the sum of the errors, as the closed form assumes.
    """

    choices: tuple[int, ...]  # [D], number of choices of every action
    hidden: int
    tables: bool
    perceptron: bool

    @nn.compact
    def __call__(self, log_errors: jax.Array, places: jax.Array) -> jax.Array:
        """Predicts one episode.

        Args:
          log_errors: [L, D - 1], from `surrogate.interpolate_log_errors`.
          places: [L, D], which may lie between two choices.

        Returns:
          ln divergence, [].
        """
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        exponent = self.param("exponent", ones, log_errors.shape)
        parts = exponent * log_errors + self.param("factor", zeros, log_errors.shape)
        if self.tables:
            terms = []
            names = "keep", "weight_bits", "input_bits", "adc_bits"
            for action, (name, size) in enumerate(zip(names, self.choices, strict=False)):
                table = self.param(name, zeros, (len(places), size))
                terms.append(jax.vmap(interpolate)(table, places[:, action : action + 1]))
            # Keep ratio and weight bits share a part, because both are errors of the weights.
            parts += jnp.stack([terms[0] + terms[1], *terms[2:]], axis=1)
        total = jax.nn.logsumexp(parts)
        if not self.perceptron:
            return total
        # Both inputs of the perceptron are scaled to the order of 1.
        inputs = jnp.concatenate(
            [(log_errors + 4.0) / 3.0, places / jnp.maximum(jnp.asarray(self.choices) - 1.0, 1.0)],
            axis=1,
        )
        x = nn.tanh(nn.LayerNorm()(nn.Dense(self.hidden)(inputs.reshape(-1))))
        x = nn.relu(nn.Dense(self.hidden)(x))
        return total + nn.Dense(1, kernel_init=zeros)(x)[0]


class AgentState(NamedTuple):
    """Parameters and optimiser states; the critic's carry a leading ensemble axis."""

    actor: Any
    critics: Any
    actor_optimiser: Any
    critic_optimisers: Any


class Agent(NamedTuple):
    """The networks and optimisers that the functions of this file take. Static."""

    actor: Actor
    critic: Critic
    actor_optimiser: optax.GradientTransformation
    critic_optimiser: optax.GradientTransformation
    members: int


def make_agent(options: AgentOptions, choices: tuple[int, ...]) -> Agent:
    """Builds an agent whose D actions have `choices` [D] choices each."""
    return Agent(
        Actor(options.hidden, len(choices), options.reach),
        Critic(choices, options.hidden, options.tables, options.perceptron),
        optax.adam(options.actor_rate),
        optax.adam(options.critic_rate),
        options.members,
    )


def init(key: jax.Array, agent: Agent, layers: int, observations: int) -> AgentState:
    """Initialises the networks for L = `layers` layers and vectors of `observations` numbers."""
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
    """Takes one gradient step of every member on its own batch of B episodes.

    There is no target network and no clipped double Q, because returns are measured and nothing is
    bootstrapped.

    Args:
      log_errors: [members, B, L, D - 1].
      places: [members, B, L, D].
      log_divergence: [members, B], measured.
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
    """Takes one step of the actor along the gradient of Q, averaged over members (rlax.dpg_loss).

    Args:
      act: maps the actor's parameters to the actions [B, L, D] that it takes in B walks.
      q: maps a member's parameters and one walk's actions to Q.
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
    """Interpolates `table` [n_1, ..., n_d] linearly at `place` [d]: [].

    Outside the table the value is the nearest entry's, but the gradient is the slope between the
    last two entries, so that an actor beyond the last choice still learns the way back.
    """
    for x, size in zip(place, table.shape, strict=True):
        inside = x + lax.stop_gradient(jnp.clip(x, 0.0, size - 1.0) - x)
        lower = jnp.clip(jnp.floor(inside), 0, max(size - 2, 0)).astype(jnp.int32)
        part = inside - lower
        table = (1.0 - part) * table[lower] + part * table[jnp.minimum(lower + 1, size - 1)]
    return table
