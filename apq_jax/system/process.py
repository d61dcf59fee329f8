"""Runs a command as a process that ends as Unix tools end, and says what a signal left."""

import ast
import contextlib
import ctypes
import io
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator

from apq_jax.system.errors import InputError, make_one_line
from apq_jax.system.exit_status import CLOSED_PIPE, FAILED, INTERRUPTED, OK
from apq_jax.system.signals import Terminated


def run_command(name: str, main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Runs a command's `main` in a process that does nothing else; returns the exit status.

    Characters that a terminal lacks are escaped. A closed pipe ends the command without a word,
    and a file that cannot be written, such as a full disk's, with one line. Ctrl-C ends the process
    at once, but for where `main` is in `signals.raise_signals`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else the caller ignores it, as nohup does
        # Imports take seconds, and libraries turn a KeyboardInterrupt into errors of their own.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        try:
            return main(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return CLOSED_PIPE
    except OSError as error:
        _drop_output()
        reason = error if error.filename is not None else f"output: {error.strerror}"
        with contextlib.suppress(OSError):
            print(f"{name}: {make_one_line(reason)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)


def _drop_output() -> None:
    """Gives up what is not yet printed, which Python would else try to print when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def explain_stop(describe_kept: Callable[[], str], flags: str) -> Iterator[None]:
    """Gives an exception for a signal, raised in the context, the words for `report_stop`.

    Args:
      describe_kept: says what is kept, if the exception has no words; "" for nothing.
      flags: that go on with it.
    """
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        stop.args = (*(stop.args or (describe_kept(),)), flags)
        raise


def report_stop(stop: BaseException, name: str, command: str) -> int:
    """Says that a signal ended a command, and what is kept; returns the exit status.

    Args:
      stop: from `explain_stop`; without words, nothing is kept.
      name: of the command.
      command: the line that runs it from its beginning.
    """
    kept, flags = stop.args or ("", "")
    is_term = isinstance(stop, Terminated)
    if is_term and kept:
        print(f"SIGTERM: saved; {kept}. Resume with\n{command} {flags}", flush=True)
        return OK
    words = f"{kept}; {flags} goes on" if kept else "before the first evaluation: nothing is saved"
    print(f"{name}: {'SIGTERM' if is_term else 'interrupted'}; {words}", file=sys.stderr)
    return FAILED if is_term else INTERRUPTED


def require_docstrings() -> None:
    """Raises InputError under `python -OO`, where rlax cannot load."""
    if sys.flags.optimize > 1:
        raise InputError("python -OO: drops docstrings that rlax needs; allowed: python, python -O")


def read_help(path: str) -> str:
    """Returns the docstring of the module at `path`, also where `python -OO` has dropped it."""
    return ast.get_docstring(ast.parse(pathlib.Path(path).read_text(encoding="utf-8"))) or ""


def release_memory() -> None:
    """Gives freed memory back to the operating system, which glibc would keep for itself.

    Compilers leave several hundred megabytes of it. Elsewhere than on glibc nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
