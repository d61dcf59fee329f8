"""The actor-critic by itself: its start, and what it learns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.problems import LAYERS, SPACE

from apq_jax import agent as agents
from apq_jax.types import AgentOptions

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
    divergences = jax.vmap(player.critic.apply, (0, None, None))(state.critics, errors, places)
    np.testing.assert_allclose(divergences, [0.0, 0.0], atol=1e-6)  # ln 1


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
