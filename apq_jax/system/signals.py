"""Catches the signals that stop a long run, so that the run can finish its step and write files.

Ctrl-C asks the run to end early, with results. SIGTERM announces that the process will be killed (a
scheduler's limit, a preempted machine): the run saves its state and exits, to be resumed later.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(BaseException):
    """SIGTERM arrived while `catch_interrupts` was not active.

    Like KeyboardInterrupt it is not an Exception, so that `except Exception` lets it pass.
    """


class Interrupt:
    """The signals that `catch_interrupts` has caught so far."""

    pressed = False  # Ctrl-C or SIGTERM arrived
    terminated = False  # SIGTERM arrived
    again = False  # a second Ctrl-C arrived during `hold`
    holding = False  # inside `hold`

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Delays a second Ctrl-C until the context ends, where KeyboardInterrupt is then raised."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
        if self.again:
            raise KeyboardInterrupt


@contextmanager
def catch_interrupts() -> Iterator[Interrupt]:
    """Records SIGTERM and the first Ctrl-C instead of stopping, and prints that the run will stop.

    A second Ctrl-C, or one after SIGTERM, raises KeyboardInterrupt at once. The handlers from
    before are back after the context.
    """
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
def raise_on_sigterm() -> Iterator[None]:
    """Raises Terminated on SIGTERM in this context, except inside `catch_interrupts`."""

    def leave(signum: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
