"""A replay buffer as a pytree: evaluated policies and their divergences.

The buffer has no costs and no rewards, because they follow from policy, divergence and problem. So
it also serves other accelerators and other limits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_MULTIPLIER = 1_664_525  # from Numerical Recipes' congruential generator; any odd number does


class Replay(NamedTuple):
    """Up to N distinct policies, in the first `filled` rows of the arrays."""

    places: jax.Array  # [N, L, D] int32, from `environment.encode_places`
    log_divergence: jax.Array  # [N] float32, ln nats
    filled: jax.Array  # [] int32


def init(capacity: int, layers: int, actions: int) -> Replay:
    """Returns an empty buffer for `capacity` policies of L layers with D actions each."""
    places = jnp.zeros((capacity, layers, actions), jnp.int32)
    return Replay(places, jnp.zeros(capacity), jnp.zeros((), jnp.int32))


def contains(replay: Replay, places: jax.Array) -> jax.Array:
    """Tells whether the buffer contains policies [M, L, D]: [M] bool.

    It compares 32-bit hashes, so it may, rarely, take a new policy for a known one.
    """
    filled = jnp.arange(len(replay.places)) < replay.filled
    return ((_hash(places)[:, None] == _hash(replay.places)[None]) & filled).any(axis=1)


def add(
    replay: Replay,
    fitness: jax.Array,
    places: jax.Array,
    log_divergence: jax.Array,
    valid: jax.Array,
) -> Replay:
    """Adds new policies; a full buffer loses its least fit policies, even to less fit ones.

    Policies that the buffer contains, and repetitions among the E policies, are left out.

    Args:
      replay: a buffer for N policies.
      fitness: [N], of the policies in the buffer.
      places: [E, L, D], E <= N.
      log_divergence: [E].
      valid: [E] bool, which policies to add.
    """
    count = len(replay.places)
    hashes = _hash(places)
    twin = jnp.tril((hashes[:, None] == hashes[None]) & valid[None], -1).any(axis=1)
    new = valid & ~twin & ~contains(replay, places)
    filled = jnp.arange(count) < replay.filled
    # Empty rows come first, the lowest of them before others, so that filled rows stay in front.
    _, least = lax.top_k(jnp.where(filled, -fitness, jnp.inf), len(places))
    rank = jnp.cumsum(new) - 1
    # Policies that are not new get a row out of bounds, where writing is dropped.
    row = jnp.where(new, least[jnp.clip(rank, 0)], count)
    return Replay(
        replay.places.at[row].set(places, mode="drop"),
        replay.log_divergence.at[row].set(log_divergence, mode="drop"),
        jnp.minimum(replay.filled + new.sum(dtype=jnp.int32), count),
    )


def _hash(places: jax.Array) -> jax.Array:
    """Hashes places [..., L, D] by a polynomial modulo 2^32: [...] uint32."""
    flat = places.reshape(*places.shape[:-2], -1).astype(jnp.uint32)
    powers = jnp.cumprod(jnp.full(flat.shape[-1], _MULTIPLIER, jnp.uint32))
    return (flat * powers).sum(axis=-1, dtype=jnp.uint32)
