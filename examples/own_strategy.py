"""Writes a search strategy, three pure functions and a state, and compares it with random policies.

python examples/own_strategy.py

The strategy is hill climbing: every proposal is the best policy so far, with a few choices drawn
anew. docs/search.md says what a strategy may know, and how the command line can use it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import apq_jax
from apq_jax.compression.options import PlanOptions
from apq_jax.problem import environment
from apq_jax.strategies import Strategy
from apq_jax.strategies.random import random


class Best(NamedTuple):
    """The best policy so far."""

    places: jax.Array  # [L, D] int32, its place among the choices of every action
    reward: jax.Array  # [] float32


def climb(space: environment.Space, parallel: int, changed: float = 0.2) -> Strategy:
    """Builds the strategy, which proposes `parallel` policies at a time."""
    sizes = jnp.asarray(space.sizes)  # [D]: keep levels, weight bits, input bits

    def init(key, problem):  # unpruned, at the most bits
        start = (sizes - 1).at[0].set(0)
        layers = problem.features.shape[0]
        return Best(jnp.broadcast_to(start, (layers, sizes.size)), jnp.asarray(-jnp.inf))

    def ask(key, state, problem):
        which, what = jax.random.split(key)
        shape = parallel, *state.places.shape
        anew = jax.random.randint(what, shape, 0, sizes)
        places = jnp.where(jax.random.bernoulli(which, changed, shape), anew, state.places)
        return environment.decode_places(space, places), jnp.ones(parallel, bool), state

    def tell(key, state, problem, outcome):
        rewards = jax.vmap(environment.reward, (None, 0))(problem, outcome.evaluations)
        rewards = jnp.where(outcome.valid, rewards, -jnp.inf)
        first, places = rewards.argmax(), environment.encode_places(space, outcome.policies)
        better = rewards[first] > state.reward
        return Best(
            jnp.where(better, places[first], state.places),
            jnp.where(better, rewards[first], state.reward),
        )

    return Strategy(init, ask, tell)


# A network of two layers, fitted to four noisy patterns.
rng = np.random.default_rng(0)
patterns = rng.random((4, 16), np.float32)
parts = []
for count in (200, 100, 100, 100):
    labels = rng.integers(0, 4, count).astype(np.int32)
    parts += [patterns[labels] + rng.normal(0, 0.1, (count, 16)).astype(np.float32), labels]
dataset = apq_jax.Dataset("patterns", 4, *parts)
hidden = rng.normal(size=(16, 32)).astype(np.float32) / 4
features = np.maximum(dataset.train_images @ hidden, 0)
targets = np.eye(4, dtype=np.float32)[dataset.train_labels]
params = {"hidden": hidden, "out": np.linalg.lstsq(features, targets)[0]}


def apply_fn(params, x):
    return jax.nn.relu(x @ params["hidden"]) @ params["out"]


network = apq_jax.capture(apply_fn, params, dataset.train_images[:2])
search = apq_jax.SearchOptions(episodes=160, probes=4, moment_images=32, tuned=0)
config = apq_jax.Config(search=search, plan=PlanOptions(levels=8))
prepared = apq_jax.prepare(network, params, dataset, apq_jax.preset("isaac_ou"), config)
for name, strategy in (
    ("climbing", climb(prepared.space, 8)),
    ("random", random(prepared.space, 8)),
):
    record = apq_jax.joined(apq_jax.search_policies(prepared, strategy=strategy))
    print(f"{name:8} best reward of {len(record.reward)}: {record.reward.max():.2f}")
