"""A replay buffer as a pytree: a ring of transitions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from apq_jax.types import Transition


class Replay(NamedTuple):
    """The newest `capacity` transitions."""

    data: Transition  # [capacity, ...] each
    added: jax.Array  # [] int32, transitions ever added


def empty(capacity: int, observations: int, actions: int) -> Replay:
    """A buffer for `capacity` transitions with observations [O] and actions [A]."""
    data = Transition(
        jnp.zeros((capacity, observations)),
        jnp.zeros((capacity, actions)),
        jnp.zeros(capacity),
    )
    return Replay(data, jnp.zeros((), jnp.int32))


def add(replay: Replay, batch: Transition, valid: jax.Array) -> Replay:
    """Adds those of a batch of N <= capacity transitions that are `valid` [N] bool."""
    capacity = replay.data.return_t.shape[0]
    place = replay.added + jnp.cumsum(valid) - 1
    # Out of bounds is dropped: that is where the invalid ones go.
    place = jnp.where(valid, place % capacity, capacity)
    data = jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), replay.data, batch)
    return Replay(data, replay.added + valid.sum(dtype=jnp.int32))


def sample(key: jax.Array, replay: Replay, count: int) -> Transition:
    """`count` transitions, drawn uniformly with replacement; zeros where there are none yet."""
    size = jnp.minimum(replay.added, replay.data.return_t.shape[0])
    index = jax.random.randint(key, (count,), 0, jnp.maximum(size, 1))
    return jax.tree.map(lambda data: data[index], replay.data)
