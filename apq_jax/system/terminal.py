"""Shows a command's progress: a bar in a terminal, elsewhere a plain line from time to time."""

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import rich.console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from apq_jax.system.errors import make_plain


class _Console(rich.console.Console):
    """A console that prints each text as one line by `make_plain`, because it may name files."""

    def print(self, *objects: Any, **options: Any) -> None:
        plain = (make_plain(text) if isinstance(text, str) else text for text in objects)
        super().print(*plain, **options)

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError, which ends the command; rich would exit with status 1


console = _Console(highlight=False, markup=False)
LINE_SECONDS = 30.0  # between two lines


@contextlib.contextmanager
def show_bar(description: str, total: int) -> Iterator[Any]:
    """Shows a progress bar with the time left.

    Yields:
      A function: `advance(count, note)` adds `count` to the bar and shows `note` behind it;
      `advance(done=..., note=...)` sets the bar.
    """
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )

    def describe() -> str:
        task = progress.tasks[0]
        return f"{description}: {task.completed:.0f} of {total}; {task.fields['note']}"

    with Progress(*columns, console=console) as progress, _print_lines(describe):
        task = progress.add_task(description, total=total, note="")
        yield lambda count=0, note="", done=None: progress.update(
            task, advance=count, completed=done, note=note
        )


@contextlib.contextmanager
def show_status(words: str) -> Iterator[None]:
    """Shows that something goes on whose end cannot be foreseen."""
    with console.status(words), _print_lines(lambda: words):
        yield


@contextlib.contextmanager
def _print_lines(describe: Callable[[], str]) -> Iterator[None]:
    """Prints `describe()` every LINE_SECONDS where there is no terminal.

    A thread prints, because a program may be compiled or run for minutes without a call.
    """
    if console.is_terminal:
        yield
        return
    ended, start = threading.Event(), time.monotonic()

    def print_lines() -> None:
        while not ended.wait(LINE_SECONDS):
            elapsed = datetime.timedelta(seconds=round(time.monotonic() - start))
            with contextlib.suppress(OSError):  # the command's own next line meets it
                console.print(f"{elapsed} {describe()}", soft_wrap=True)

    thread = threading.Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
