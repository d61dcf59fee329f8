"""Shows a command's progress in the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rich.console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = rich.console.Console(highlight=False, markup=False)


@contextmanager
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
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, note="")
        yield lambda count=0, note="", done=None: progress.update(
            task, advance=count, completed=done, note=note
        )
