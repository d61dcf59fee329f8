"""Writes a run's curves for TensorBoard."""

import contextlib
import pathlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from apq_jax.system.errors import explain_os_errors

PATTERN = "events.out.tfevents.*.apq_jax"  # of the names of event files
Write: TypeAlias = Callable[[str, float, int], None]  # curve, value, step


@contextlib.contextmanager
def open_curves(folder: pathlib.Path) -> Iterator[Write]:
    """Opens a new event file in the folder; yields a function that appends a value to a curve.

    tensorboardX's SummaryWriter does not serve because a full disk kills its thread, for which it
    then waits for ever; nor does its EventsWriter, which leaves the file open on a full disk.

    Raises:
      InputError: the file cannot be written; also raised by the yielded function.
    """
    # Imported only now because it loads slowly.
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import scalar

    def append(event: Any) -> None:
        with explain_os_errors(folder, "cannot be written"):
            file.write(event.SerializeToString())

    def write(curve: str, value: float, step: int) -> None:
        append(Event(summary=scalar(curve, value), step=step, wall_time=time.time()))

    name = PATTERN.replace("*", f"{time.time():.0f}.{socket.gethostname()}")
    with explain_os_errors(folder, "cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        file = RecordWriter(str(folder / name))
    try:
        append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        yield write
    finally:
        with contextlib.suppress(OSError):  # a full disk is reported by the checkpoint
            file.close()
