"""Catches the signals that stop a long run, so that the run can finish its step and write files.

Ctrl-C asks the run to end early, with results. SIGTERM announces that the process will be killed (a
scheduler's limit, a preempted machine): the run saves its state and exits, to be resumed later.

An exception that a signal raises is lost if Python is in a destructor, or in a callback such as
JAX's at each garbage collection. A timer therefore raises it again until it leaves its context.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REPEAT = 1.0  # seconds until a lost exception is raised again
PATIENCE = 10.0  # seconds that a run has to look at SIGTERM, before Terminated is raised


class Terminated(BaseException):
    """SIGTERM ends the run.

    Like KeyboardInterrupt it is not an Exception, so that `except Exception` lets it pass.
    """


class Interrupt:
    """The signals that `catch_interrupts` has caught so far, and the exception that is to come."""

    def __init__(self) -> None:
        self._pressed = False  # Ctrl-C or SIGTERM arrived
        self.terminated = False  # SIGTERM arrived
        self._error: type[BaseException] = KeyboardInterrupt
        self._due = False  # `_error` is to be raised now
        self._holding = False  # inside `hold`

    def look(self) -> bool:
        """Returns whether a signal asks for an end, to which the caller sees.

        Nothing is raised for the signals until now.
        """
        _set_timer(0.0)
        self._due = False
        return self._pressed

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Delays exceptions for signals until the context ends."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._due:
            raise self._error

    def raise_after(self, error: type[BaseException], seconds: float) -> None:
        """Raises an exception after so many seconds, and again until someone looks."""
        self._error = error
        _set_timer(seconds or REPEAT)
        if not seconds:
            self.raise_now()

    def raise_now(self, *_: Any) -> None:
        """Raises the exception, unless in `hold`; also the timer's handler."""
        self._due = True
        if not self._holding:
            raise self._error


def _set_timer(seconds: float) -> None:
    if hasattr(signal, "setitimer"):  # on POSIX systems
        signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT if seconds else 0.0)


@contextmanager
def _handle(
    interrupt: Interrupt, handlers: dict[int, Callable[[int, Any], None]]
) -> Iterator[None]:
    """Handles signals in the context; those before are back after it.

    Exceptions for signals that Python cannot pass on are not printed, because they come again.
    """
    if hasattr(signal, "SIGALRM"):
        handlers[signal.SIGALRM] = interrupt.raise_now
    hook = sys.unraisablehook

    def report_others(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt | Terminated):
            hook(lost)

    before = {
        signum: signal.signal(signum, handler)
        for signum, handler in handlers.items()
        if signal.getsignal(signum) is not signal.SIG_IGN  # as nohup asks
    }
    sys.unraisablehook = report_others
    try:
        yield
    finally:
        interrupt.look()
        sys.unraisablehook = hook
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def catch_interrupts() -> Iterator[Interrupt]:
    """Records SIGTERM and the first Ctrl-C instead of stopping, and prints that the run will stop.

    A second Ctrl-C, or one after SIGTERM, raises KeyboardInterrupt at once. Terminated is raised if
    nobody looks at SIGTERM within PATIENCE seconds. The handlers from before are back after the
    context.
    """
    interrupt = Interrupt()

    def stop(signum: int, frame: Any) -> None:
        if interrupt._pressed:
            interrupt.raise_after(KeyboardInterrupt, 0.0)
        else:
            interrupt._pressed = True
            _write("Stops after this step and writes what there is; again: at once.\n")

    def save(signum: int, frame: Any) -> None:
        if not interrupt.terminated:
            interrupt._pressed = interrupt.terminated = True
            _write("SIGTERM: saves after this step.\n")
            interrupt.raise_after(Terminated, PATIENCE)

    with _handle(interrupt, {signal.SIGINT: stop, signal.SIGTERM: save}):
        yield interrupt


def _write(line: str) -> None:
    """Writes a line to stdout; `print` would fail in a handler that interrupts another print."""
    with contextlib.suppress(OSError):
        os.write(1, line.encode())


@contextmanager
def raise_signals(*numbers: int) -> Iterator[None]:
    """Raises KeyboardInterrupt on Ctrl-C, and Terminated on SIGTERM, if `numbers` has the signal.

    This holds in the context, except inside `catch_interrupts`.
    """
    interrupt = Interrupt()

    def leave(signum: int, frame: Any) -> None:
        error = Terminated if signum == signal.SIGTERM else KeyboardInterrupt
        interrupt.raise_after(error, 0.0)

    with _handle(interrupt, dict.fromkeys(numbers, leave)):
        yield
