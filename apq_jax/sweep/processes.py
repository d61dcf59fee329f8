"""Processes that share one job: what one of them has, all have, and they end together.

All of them must call these alike; one process alone has nobody to wait for.
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
from apq_jax.system.signals import Terminated, interruptible


@contextmanager
def take_turns() -> Iterator[None]:
    """The first process, then the others; what one of them cannot use ends all."""
    first = jax.process_index() == 0
    if not first:
        _raise_together()
    with fail_together():
        yield
    if first:
        _raise_together()


@contextmanager
def fail_together() -> Iterator[None]:
    """All processes raise InputError where one does: none is left waiting for it."""
    error = None
    try:
        yield
    except InputError as found:
        error = found
    _raise_together(error)


def _raise_together(error: InputError | None = None) -> None:
    """Raises this process's error, or else another's."""
    others = gather_from_all({} if error is None else {"error": str(error)})
    if error is not None:
        raise error
    for other in filter(None, others):
        raise InputError(f"another process: {other['error']}")


def broadcast_from_first(tree: Any) -> Any:
    """What the first process has, in all of them."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def broadcast_rows(tree: Any) -> Any:
    """Arrays [N, ...] that the first process has, in all of them, which need not know N."""
    count = int(broadcast_from_first(np.asarray(len(jax.tree.leaves(tree)[0]), np.int32)))
    if jax.process_count() == 1 or not count:
        return tree
    if jax.process_index() > 0:
        tree = jax.tree.map(lambda x: np.zeros((count, *x.shape[1:]), x.dtype), tree)
    return broadcast_from_first(tree)


def gather_from_all(found: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What each process made, as JSON has it, in their order, in all of them."""
    if jax.process_count() == 1:
        return [found or {}]
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    size = int(multihost_utils.process_allgather(np.asarray(len(text), np.int32)).max())
    texts = multihost_utils.process_allgather(
        np.pad(text, (0, size - len(text)), constant_values=32)
    )
    return [json.loads(bytes(one)) for one in np.asarray(texts)]


@contextmanager
def watch_signals() -> Iterator[Callable[[], None]]:
    """What raises Terminated or KeyboardInterrupt once a signal has come.

    Several processes agree on when: JAX tells all of them of the SIGTERM that one of them got.
    """
    if jax.process_count() > 1:
        steps = itertools.count()

        def agreed() -> None:
            if multihost_utils.reached_preemption_sync_point(next(steps)):
                raise Terminated

        yield agreed
        return
    with interruptible() as interrupt:

        def noted() -> None:
            if interrupt.terminated:
                raise Terminated
            if interrupt.pressed:
                raise KeyboardInterrupt

        yield noted
