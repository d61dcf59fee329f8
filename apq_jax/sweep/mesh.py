"""Searches for many accelerators and limits in one compiled program, over a mesh of devices.

Searches that differ only in prices, limits and seeds share a program. A device runs one search at a
time, so that a search's results depend on neither the number of devices nor the other searches:
they are bit for bit the same on one device, on eight, and alone. A device may also run several
searches side by side, which can be faster; then sums are rounded differently.
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
    """The prices and the problem of each of S searches; all arrays are [S, ...]."""

    prices: Prices
    problem: Problem


def make_mesh(devices: list[Any] | None = None) -> Mesh:
    """Makes a mesh with the one axis AXIS over devices; None takes all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


def connect_processes() -> None:
    """Lets all processes communicate once; call it right after `jax.distributed.initialize`.

    Gloo, which connects processes on CPUs, waits 30 s for the first message of another process, and
    without limit for later ones. Without this first message, the others would give up a process
    that trains a network for a minute. Each kind of connection is used once: over one device a
    process, and over all devices. A single process does nothing.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("meet")
        mesh = make_mesh()
        _gather(jax.device_put(np.ones(mesh.size), NamedSharding(mesh, P(AXIS))))


def stack_trees(parts: list[Any]) -> Any:
    """Stacks S trees of arrays into one tree of host arrays, [S, ...]; keys become key data."""
    return jax.tree.map(lambda *leaves: np.stack([_to_words(leaf) for leaf in leaves]), *parts)


def _to_words(leaf: Any) -> np.ndarray:
    """Copies an array to the host; a random key becomes its key data."""
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
    """Runs S searches until their budgets are spent; yields after each chunk.

    A chunk advances as many searches as the devices hold. Every process must call this function
    with the same arguments, and gets all results.

    Args:
      strategy, evaluate: of all searches.
      subject: the network that all searches compress; its prices are ignored.
      own: each search's prices and problem, from `stack_trees`.
      carry: the searches' state, from `stack_trees`; it is copied.
      chunk: batches of policies that a search evaluates before the host sees the results.
      mesh: from `make_mesh`.
      side_by_side: searches that a device runs at a time, by `vmap` if more than one.

    Yields:
      The state of all S searches, in the form of `carry`, which the next chunk overwrites; and the
      record of the chunk's evaluations, whose `search` counts from 0 to S - 1.
    """
    begin, advance = _compile(strategy, evaluate, chunk, mesh, side_by_side)
    split, replicated = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
    capacity = mesh.size * side_by_side
    unpriced: Any = None  # each search has its own prices
    subject = jax.device_put(subject._replace(prices=unpriced), replicated)
    carry = jax.tree.map(np.array, carry)  # copies, because results are written into them
    placed = np.zeros(0, int)  # the searches on the devices
    memory: Any = None
    while carry.left.any():
        running = np.flatnonzero(carry.left)[:capacity]
        count = len(running)
        if not np.array_equal(running, placed):
            # Pads idle devices with copies of the last search whose budget is zero.
            padded = np.append(running, np.full(capacity - count, running[-1]))
            placed_carry, placed_own = _index((carry, own), padded)
            placed_carry.left[count:] = 0
            placed_carry, placed_own = jax.device_put((placed_carry, placed_own), split)
            memory = begin(placed_own, subject) if memory is None else memory
            placed = running
        memory, (placed_carry, results) = advance(memory, placed_carry, placed_own, subject)
        record = loop.build_record(_index(_gather(results), slice(count)))
        updated = jax.tree.leaves(_index(_gather(placed_carry), slice(count)))
        for leaf, new in zip(jax.tree.leaves(carry), updated, strict=True):
            leaf[running] = new
        yield carry, record._replace(search=running[record.search].astype(np.int32))


def _gather(tree: Any) -> Any:
    """Copies arrays to the host, in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


@functools.lru_cache(maxsize=16)
def _compile(
    strategy: Strategy, evaluate: Evaluator, chunk: int, mesh: Mesh, side_by_side: int
) -> tuple[Callable, Callable]:
    """Compiles two functions over the mesh: an empty memory, and a chunk of the searches."""
    # A device keeps its memory of evaluations for the next search, because it holds for all prices.
    # Searches side by side evaluate without memory, because `vmap` would run every branch anyway.
    blank, search = loop.build_search(strategy, evaluate, chunk, remembers=side_by_side == 1)

    def run_search(memory: Any, carry: Carry, own: PerSearch, subject: Subject) -> tuple[Any, Any]:
        carry = carry._replace(key=jax.random.wrap_key_data(carry.key))
        subject = subject._replace(prices=own.prices)
        memory, (carry, results) = search(memory, carry, subject, own.problem)
        return memory, (carry._replace(key=jax.random.key_data(carry.key)), results)

    def begin_device(own: PerSearch, subject: Subject) -> Any:
        return _index(blank(subject._replace(prices=_index(own.prices, 0))), None)

    def run_device(memory: Any, carry: Carry, own: PerSearch, subject: Subject) -> tuple[Any, Any]:
        if side_by_side > 1:
            return jax.vmap(run_search, (None, 0, 0, None), (None, 0))(memory, carry, own, subject)
        memory, carry, own = _index((memory, carry, own), 0)
        return _index(run_search(memory, carry, own, subject), None)

    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    split, replicated = P(AXIS), P()
    return (
        jax.jit(shard(begin_device, in_specs=(split, replicated), out_specs=split)),
        jax.jit(
            shard(run_device, in_specs=(split, split, split, replicated), out_specs=split),
            donate_argnums=(0, 1),
        ),
    )


def _index(tree: Any, index: Any) -> Any:
    """Indexes the first axis of every array: 0 drops it, None adds one before it."""
    return jax.tree.map(lambda x: x[index], tree)
