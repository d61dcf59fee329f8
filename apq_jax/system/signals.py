"""Signals that stop a long run: after the step it is at, with what there is written.

Ctrl-C asks for an end, with results from what there is. SIGTERM announces that the process will be
killed (a scheduler's limit, a preempted machine): it saves and leaves, to be gone on with.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(BaseException):
    """SIGTERM where there is no step to wait for; like KeyboardInterrupt, no Exception."""


class Interrupt:
    """Whether a signal asked for an end."""

    pressed = False  # Ctrl-C or SIGTERM
    terminated = False  # SIGTERM
    again = False  # while it was held
    holding = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around what belongs together: a second Ctrl-C is raised afterwards."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
        if self.again:
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """The first Ctrl-C is noted, the second raises KeyboardInterrupt; SIGTERM is noted."""
    interrupt = Interrupt()

    def stop(signum: int, frame: Any) -> None:
        if interrupt.pressed and not interrupt.holding:
            raise KeyboardInterrupt
        interrupt.again = interrupt.pressed
        interrupt.pressed = True
        print("Stops after this step and writes what there is; again: at once.", flush=True)

    def save(signum: int, frame: Any) -> None:
        interrupt.pressed = interrupt.terminated = True
        print("SIGTERM: saves after this step.", flush=True)

    before = signal.signal(signal.SIGINT, stop), signal.signal(signal.SIGTERM, save)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises Terminated, but within `interruptible`."""

    def leave(signum: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
