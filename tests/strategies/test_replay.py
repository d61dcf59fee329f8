"""The replay buffer: each policy once, the least fit go."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from helpers.problems import PROPERTY

from apq_jax.strategies import replay


def numbered(*levels: int) -> jax.Array:
    """Policies of one layer, told apart by its keep level: [N, 1, 3]."""
    return jnp.asarray([[[level, 0, 0]] for level in levels])


def added(memory: replay.Replay, *levels: int, valid: Any = True) -> replay.Replay:
    """The levels are the fitness, too, and the divergence."""
    fitness, valid = memory.places[:, 0, 0].astype(float), jnp.broadcast_to(valid, len(levels))
    return jax.jit(replay.add)(
        memory, fitness, numbered(*levels), jnp.asarray(levels, jnp.float32), valid
    )


def held(memory: replay.Replay) -> list[int]:
    levels = memory.places[: int(memory.filled), 0, 0].tolist()
    assert memory.log_divergence[: int(memory.filled)].tolist() == levels
    return levels


def test_replay_keeps_each_policy_once() -> None:
    memory = added(replay.init(6, 1, 3), 7, 3, 7, valid=jnp.asarray([True, False, True]))
    assert held(memory) == [7]
    memory = added(memory, 5, 7, 2, 5)
    assert held(memory) == [7, 5, 2]
    assert replay.contains(memory, numbered(7, 8, 0)).tolist() == [True, False, False]


def test_a_full_replay_gives_up_the_least_fit() -> None:
    memory = added(replay.init(3, 1, 3), 7, 3, 5)
    assert held(added(memory, 4)) == [7, 4, 5]
    assert held(added(memory, 1, 2)) == [7, 1, 2]  # however unfit, the new is what is learnt from
    assert held(added(memory, 8, 9, valid=jnp.zeros(2, bool))) == [7, 3, 5]


@hypothesis.given(st.integers(0, 2**31 - 1))
@PROPERTY
def test_hashes_tell_policies_apart(seed: int) -> None:
    places = np.random.default_rng(seed).integers(0, 32, (400, 20, 3))
    hashes = np.asarray(replay._hash(jnp.asarray(places)))
    assert len(set(hashes.tolist())) == len(np.unique(places, axis=0))
