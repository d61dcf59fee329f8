"""A replay buffer as a pytree: the policies that were evaluated, and what only that can tell.

Costs and rewards are not kept: they follow from the policy, its divergence and the problem, so
that what was learnt for one accelerator and one limit holds for others.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_MULTIPLIER = 1_664_525  # of a linear congruential generator (Numerical Recipes): any odd one does


class Replay(NamedTuple):
    """Up to N distinct policies: the first `filled` of the arrays."""

    places: jax.Array  # [N, L, D] int32, among the choices: see `environment.encode_places`
    log_divergence: jax.Array  # [N] float32, ln nats
    filled: jax.Array  # [] int32


def init(capacity: int, layers: int, actions: int) -> Replay:
    """A buffer for `capacity` policies of L layers, D actions each."""
    places = jnp.zeros((capacity, layers, actions), jnp.int32)
    return Replay(places, jnp.zeros(capacity), jnp.zeros((), jnp.int32))


def contains(replay: Replay, places: jax.Array) -> jax.Array:
    """Whether policies [M, L, D] are in the buffer: [M] bool. By a hash of 32 bits."""
    there = jnp.arange(len(replay.places)) < replay.filled
    return ((_hash(places)[:, None] == _hash(replay.places)[None]) & there).any(axis=1)


def add(
    replay: Replay,
    fitness: jax.Array,
    places: jax.Array,
    log_divergence: jax.Array,
    valid: jax.Array,
) -> Replay:
    """Adds policies; once it is full, the new ones take the place of the least fit.

    Args:
      replay: for N policies.
      fitness: [N] of what is in it.
      places: [E, L, D], E <= N.
      log_divergence: [E].
      valid: [E] bool; others, and those that are known or come twice, are left out.
    """
    count = len(replay.places)
    hashes = _hash(places)
    twin = jnp.tril((hashes[:, None] == hashes[None]) & valid[None], -1).any(axis=1)
    new = valid & ~twin & ~contains(replay, places)
    there = jnp.arange(count) < replay.filled
    # The empty come first, and of equals the first, so that what is filled stays in front.
    _, least = lax.top_k(jnp.where(there, -fitness, jnp.inf), len(places))
    rank = jnp.cumsum(new) - 1
    # Out of bounds is dropped.
    at = jnp.where(new, least[jnp.clip(rank, 0)], count)
    return Replay(
        replay.places.at[at].set(places, mode="drop"),
        replay.log_divergence.at[at].set(log_divergence, mode="drop"),
        jnp.minimum(replay.filled + new.sum(dtype=jnp.int32), count),
    )


def _hash(places: jax.Array) -> jax.Array:
    """[..., L, D] to [...] uint32: a polynomial modulo 2^32."""
    flat = places.reshape(*places.shape[:-2], -1).astype(jnp.uint32)
    powers = jnp.cumprod(jnp.full(flat.shape[-1], _MULTIPLIER, jnp.uint32))
    return (flat * powers).sum(axis=-1, dtype=jnp.uint32)
