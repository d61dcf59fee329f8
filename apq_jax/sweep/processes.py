"""Functions for several processes that share one job: they exchange values and fail together.

All processes must call the same functions in the same order. A single process never waits.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from apq_jax.system.errors import InputError
from apq_jax.system.signals import Terminated, catch_interrupts


@contextmanager
def take_turns() -> Iterator[None]:
    """Runs the body in the first process, then in all others at the same time.

    If the body raises InputError in one process, all raise it; the others do not run the body if
    that was the first.
    """
    first = jax.process_index() == 0
    if not first:
        _raise_together()
    with fail_together():
        yield
    if first:
        _raise_together()


@contextmanager
def fail_together() -> Iterator[None]:
    """Waits for all processes after the body; raises InputError in all if one raised it.

    Other errors are not shared: the other processes go on waiting.
    """
    caught = None
    try:
        yield
    except InputError as error:
        caught = error
    _raise_together(caught)


def _raise_together(error: InputError | None = None) -> None:
    """Raises this process's error, or else another process's."""
    results = gather_from_all({} if error is None else {"error": str(error)})
    if error is not None:
        raise error
    for result in filter(None, results):
        raise InputError(f"another process: {result['error']}")


def require_same(asked: dict[str, str]) -> None:
    """Raises InputError in all processes if one was asked for something else than the first."""
    first, *others = gather_from_all(asked)
    for process, other in enumerate(others, start=1):
        for name in sorted(first.keys() | other.keys()):
            values = first.get(name, "nothing"), other.get(name, "nothing")
            if values[0] != values[1]:
                raise InputError(
                    f"{name}: {values[0]:.60} in process 0, {values[1]:.60} in process {process}; "
                    "allowed: the same in all"
                )


def broadcast_from_first(tree: Any) -> Any:
    """Returns the first process's tree of arrays in all processes; the trees have equal shapes."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def broadcast_rows(tree: Any) -> Any:
    """Returns the first process's tree of arrays [N, ...] in all processes.

    The arrays of the others may have any length, but the same other sizes and dtypes. If N is 0,
    each process gets its own tree back.
    """
    count = int(broadcast_from_first(np.asarray(len(jax.tree.leaves(tree)[0]), np.int32)))
    if jax.process_count() == 1 or not count:
        return tree
    if jax.process_index() > 0:
        tree = jax.tree.map(lambda x: np.zeros((count, *x.shape[1:]), x.dtype), tree)
    return broadcast_from_first(tree)


def gather_from_all(result: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the results of all processes, by process index, in all processes.

    Results of several processes pass through JSON, so tuples become lists; None stays None. A
    single process gets its own result, or {} for None.
    """
    if jax.process_count() == 1:
        return [result or {}]
    text = np.frombuffer(json.dumps(result).encode(), np.uint8)
    size = int(multihost_utils.process_allgather(np.asarray(len(text), np.int32)).max())
    texts = multihost_utils.process_allgather(
        np.pad(text, (0, size - len(text)), constant_values=32)
    )
    return [json.loads(bytes(row)) for row in np.asarray(texts)]


@contextmanager
def watch_signals() -> Iterator[Callable[[], None]]:
    """Catches signals while the body runs; yields a function `check()` that raises after a signal.

    `check` raises Terminated after SIGTERM and, in a single process, KeyboardInterrupt after
    Ctrl-C. Several processes must call it equally often. They raise Terminated in the same call,
    because JAX tells all of them of a SIGTERM that one of them got.
    """
    if jax.process_count() > 1:
        steps = itertools.count()

        def check_all() -> None:
            if multihost_utils.reached_preemption_sync_point(next(steps)):
                raise Terminated

        yield check_all
        return
    with catch_interrupts() as interrupt:

        def check() -> None:
            if interrupt.look():
                raise Terminated if interrupt.terminated else KeyboardInterrupt

        yield check
