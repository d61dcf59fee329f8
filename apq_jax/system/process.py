"""Runs a command as a process that ends as Unix tools end."""

import ast
import contextlib
import io
import os
import pathlib
import signal
import sys
from collections.abc import Callable

from apq_jax.system.errors import InputError, make_one_line
from apq_jax.system.exit_status import CLOSED_PIPE, FAILED, INTERRUPTED


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


def require_docstrings() -> None:
    """Raises InputError under `python -OO`, where rlax cannot load."""
    if sys.flags.optimize > 1:
        raise InputError("python -OO: drops docstrings that rlax needs; allowed: python, python -O")


def read_help(path: str) -> str:
    """Returns the docstring of the module at `path`, also where `python -OO` has dropped it."""
    return ast.get_docstring(ast.parse(pathlib.Path(path).read_text(encoding="utf-8"))) or ""
