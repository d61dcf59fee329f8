"""Turns uniform random numbers in [0, 1) into others.

A strategy draws all numbers of a step at once: each call of `jax.random` adds a hash of its own to
the program, and these hashes took half of the time to compile the agent.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


def to_whole(uniform: jax.Array, count: ArrayLike) -> jax.Array:
    """Returns whole numbers from 0 to below `count`, int32; `count` is at most 2^22."""
    return (uniform * count).astype(jnp.int32)


def to_normal(uniform: jax.Array, limit: float = 5.0) -> jax.Array:
    """Returns standard normal numbers within ±limit, by the inverse of their distribution."""
    end = math.erf(limit / math.sqrt(2.0))
    return math.sqrt(2.0) * lax.erf_inv(end * (2.0 * uniform - 1.0))
