"""Searches of many accelerators and limits in one compiled program, over a mesh of devices.

Searches that differ in prices, limits and seeds alone share a program. Each device has one at a
time, so that what a search finds depends on neither the number of devices nor its neighbours: bit
for bit the same on one device, on eight, and alone. Or it has several side by side, where that is
faster; they find the same but for how sums are rounded.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from apq_jax.compression.evaluator import Evaluator, Subject
from apq_jax.compression.prices import Prices
from apq_jax.problem.environment import Problem
from apq_jax.strategies import Strategy, loop
from apq_jax.strategies.loop import Carry, Record

AXIS = "searches"


class PerSearch(NamedTuple):
    """What every search has for itself: [S, ...] fields."""

    prices: Prices
    problem: Problem


def make_mesh(devices: list[Any] | None = None) -> Mesh:
    """A mesh of one axis over the devices, all of every process where None."""
    found = jax.devices() if devices is None else devices
    return jax.make_mesh((len(found),), (AXIS,), (AxisType.Auto,), devices=found)


def connect_processes() -> None:
    """Connects the processes, while they are in step: right after they have found each other.

    On CPUs a process waits 30 s for another's first word (Gloo's limit), and as long as it takes
    for any that follows: without this, whoever trains a network for a minute is given up by the
    rest. Connections are those of all devices, and those of a device a process.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("meet")
        mesh = make_mesh()
        ones = jax.device_put(np.ones(mesh.size), NamedSharding(mesh, P(AXIS)))
        _gather(ones)


def stack_trees(parts: list[Any]) -> Any:
    """S trees of arrays as one, on the host: [S, ...] each; keys as their words."""
    return jax.tree.map(lambda *leaves: np.stack([_to_words(leaf) for leaf in leaves]), *parts)


def _to_words(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def run_chunks(
    strategy: Strategy,
    evaluate: Evaluator,
    subject: Subject,
    own: PerSearch,
    carry: Carry,
    chunk: int,
    mesh: Mesh,
    side_by_side: int = 1,
) -> Iterator[tuple[Carry, Record]]:
    """Searches until the budgets are spent; yields what each chunk evaluated and where it led.

    Every process must call it alike, and has all of the results.

    Args:
      strategy, evaluate: of every search.
      subject: what all share; its prices are not looked at.
      own: of each, from `stacked`.
      carry: where the S searches stand, from `stacked`: on the host, keys as their words.
      chunk: batches of policies of a search between two looks from the host.
      mesh: from `mesh_of`.
      side_by_side: searches of a device at a time, by `vmap` where it is more than one.
    """
    blank, searches = _compile(strategy, evaluate, chunk, mesh, side_by_side)
    split, same = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
    room = mesh.size * side_by_side
    unpriced: Any = None  # each has its own
    subject = jax.device_put(subject._replace(prices=unpriced), same)
    carry = jax.tree.map(np.array, carry)  # ours to write to
    placed = np.zeros(0, int)  # which searches are on the devices
    memory: Any = None
    while carry.left.any():
        now = np.flatnonzero(carry.left)[:room]
        if not np.array_equal(now, placed):
            # What is left empty repeats the last search, with no budget.
            filled = np.append(now, np.full(room - len(now), now[-1]))
            here, owned = (jax.tree.map(lambda x, at=filled: x[at], x) for x in (carry, own))
            here.left[len(now) :] = 0
            here, owned = (jax.device_put(x, split) for x in (here, owned))
            memory = blank(owned, subject) if memory is None else memory
            placed = now
        memory, (here, found) = searches(memory, here, owned, subject)
        record = loop.build_record(_take(_gather(found), len(now)))
        for at, part in zip(
            jax.tree.leaves(carry), jax.tree.leaves(_take(_gather(here), len(now))), strict=True
        ):
            at[now] = part
        yield carry, record._replace(search=now[record.search].astype(np.int32))


def _gather(tree: Any) -> Any:
    """On the host of every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


@functools.lru_cache(maxsize=16)
def _compile(
    strategy: Strategy, evaluate: Evaluator, chunk: int, mesh: Mesh, side_by_side: int
) -> tuple[Callable, Callable]:
    """What each device remembers at first, and a chunk of its searches."""
    # What is remembered holds for all prices, so that it serves the device's next search, too.
    # Side by side, searches would take every branch: they evaluate in full.
    blank, search = loop.build_search(strategy, evaluate, chunk, remembers=side_by_side == 1)

    def one(memory: Any, carry: Carry, own: PerSearch, subject: Subject) -> tuple[Any, Any]:
        carry = carry._replace(key=jax.random.wrap_key_data(carry.key))
        here = subject._replace(prices=own.prices)
        memory, (carry, found) = search(memory, carry, here, own.problem)
        return memory, (carry._replace(key=jax.random.key_data(carry.key)), found)

    def begin(own: PerSearch, subject: Subject) -> Any:
        first = subject._replace(prices=_drop_axis(own.prices))
        return _add_axis(blank(first))

    def of_a_device(memory: Any, carry: Carry, own: PerSearch, subject: Subject) -> tuple[Any, Any]:
        if side_by_side > 1:
            return jax.vmap(one, (None, 0, 0, None), (None, 0))(memory, carry, own, subject)
        memory, found = one(_drop_axis(memory), _drop_axis(carry), _drop_axis(own), subject)
        return _add_axis(memory), _add_axis(found)

    over = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    each, all_ = P(AXIS), P()
    return (
        jax.jit(over(begin, in_specs=(each, all_), out_specs=each)),
        jax.jit(
            over(of_a_device, in_specs=(each, each, each, all_), out_specs=each),
            donate_argnums=(0, 1),
        ),
    )


def _take(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda x: x[:count], tree)


def _drop_axis(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def _add_axis(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)
