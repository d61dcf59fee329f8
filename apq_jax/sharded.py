"""Searches of many accelerators and limits in one compiled program, over a mesh of devices.

Searches that differ in prices, limits and seeds alone share a program. Each device maps over its
own, one after the other, so that what a search finds depends on neither the number of devices nor
its neighbours: bit for bit the same on one device, on eight, and alone.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from apq_jax import crossbar, loop
from apq_jax.environment import Problem
from apq_jax.evaluation import Subject
from apq_jax.evaluator import Evaluator
from apq_jax.loop import Carry, Record
from apq_jax.strategies import Strategy

AXIS = "searches"


class Own(NamedTuple):
    """What every search has for itself: [S, ...] fields."""

    prices: crossbar.Prices
    problem: Problem


def mesh_of(devices: list[Any] | None = None) -> Mesh:
    """A mesh of one axis over the devices, all of every process where None."""
    found = jax.devices() if devices is None else devices
    return jax.make_mesh((len(found),), (AXIS,), (AxisType.Auto,), devices=found)


def stacked(parts: list[Any]) -> Any:
    """S trees of arrays as one, on the host: [S, ...] each; keys as their words."""
    return jax.tree.map(lambda *leaves: np.stack([_words(leaf) for leaf in leaves]), *parts)


def _words(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def go_on(
    strategy: Strategy,
    evaluate: Evaluator,
    subject: Subject,
    own: Own,
    carry: Carry,
    chunk: int,
    mesh: Mesh,
) -> Iterator[Record]:
    """Searches until the budgets are spent; yields what each chunk evaluated.

    Every process must call it alike, and has all of the results.

    Args:
      strategy, evaluate: of every search.
      subject: what all share; its prices are not looked at.
      own: of each, from `stacked`.
      carry: where the S searches stand, from `stacked`: on the host, keys as their words.
      chunk: batches of policies of each search between two looks from the host.
      mesh: from `mesh_of`.
    """
    searches, count = _compiled(strategy, evaluate, chunk, mesh), len(carry.left)
    size = math.ceil(count / mesh.size) * mesh.size
    split, same = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
    # Searches that fill up the last device have no budget.
    left: Any = np.concatenate([carry.left, np.zeros(size - count, np.int32)])
    filled = carry._replace(left=left)
    carry, own = (jax.tree.map(lambda x: _filled(x, size), one) for one in (filled, own))
    unpriced: Any = None  # each has its own
    subject = jax.device_put(subject._replace(prices=unpriced), same)
    own, carry = (jax.device_put(one, split) for one in (own, carry))
    while _gathered(carry.left).any():
        carry, found = searches(carry, own, subject)
        yield loop.recorded(jax.tree.map(lambda x: x[:count], _gathered(found)))


def _filled(x: np.ndarray, size: int) -> np.ndarray:
    """Repeats the last search."""
    return np.concatenate([x, np.repeat(x[-1:], size - len(x), axis=0)])


def _gathered(tree: Any) -> Any:
    """On the host of every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


@functools.lru_cache(maxsize=16)
def _compiled(strategy: Strategy, evaluate: Evaluator, chunk: int, mesh: Mesh) -> Callable:
    blank, search = loop.searching(strategy, evaluate, chunk)

    def one(memory: Any, item: tuple[Carry, Own], subject: Subject) -> tuple[Any, Any]:
        carry, own = item
        carry = carry._replace(key=jax.random.wrap_key_data(carry.key))
        here = subject._replace(prices=own.prices)
        memory, (carry, found) = search(memory, carry, here, own.problem)
        return memory, (carry._replace(key=jax.random.key_data(carry.key)), found)

    def of_a_device(carry: Carry, own: Own, subject: Subject) -> tuple[Carry, tuple]:
        first = subject._replace(prices=jax.tree.map(lambda x: x[0], own.prices))
        go = functools.partial(one, subject=subject)
        # What is remembered serves the device's next search, too: it holds for all prices.
        return lax.scan(go, blank(first), (carry, own))[1]

    return jax.jit(
        jax.shard_map(
            of_a_device,
            mesh=mesh,
            in_specs=(P(AXIS), P(AXIS), P()),
            out_specs=P(AXIS),
            check_vma=False,
        )
    )
