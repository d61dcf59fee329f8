"""Writes a run's curves for TensorBoard."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from apq_jax.system.errors import InputError

Write: TypeAlias = Callable[[str, float, int], None]  # curve, value, step


@contextlib.contextmanager
def open_curves(folder: pathlib.Path) -> Iterator[Write]:
    """Opens an event file in the folder; yields a function that appends a value to a curve.

    tensorboardX's SummaryWriter does not serve: a full disk kills its thread, and then it waits for
    ever.

    Raises:
      InputError: the file cannot be written.
    """
    # Imported only now because it loads slowly.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    def build_error(error: OSError) -> InputError:
        return InputError(f"{folder}: cannot be written ({error.strerror})")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        events = EventsWriter(str(folder / "events"))
    except OSError as error:
        raise build_error(error) from error

    def write(curve: str, value: float, step: int) -> None:
        event = Event(summary=scalar(curve, value), step=step, wall_time=time.time())
        try:
            events.write_event(event)
        except OSError as error:
            raise build_error(error) from error

    try:
        yield write
    finally:
        with contextlib.suppress(OSError):  # a full disk is reported by the checkpoint
            events.close()
