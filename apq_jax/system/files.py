"""Files written whole or not at all, folders for one run at a time, and the error for bad input."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from apq_jax.system.errors import InputError, in_one_line

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]


UNFINISHED = ".unfinished"  # ends the names of files that are being written


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes `content` beside `path`, then renames, so that a reader never meets half a file.

    Raises:
      InputError: the folder cannot be written to.
    """
    path = pathlib.Path(path)
    if isinstance(content, str):
        content = content.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(UNFINISHED, f".{path.name}.", path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(beside, 0o644)
            os.replace(beside, path)
        except BaseException:
            pathlib.Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a folder to this process until the end, its death included.

    Files that a process before left half-written, killed as it was, are removed.

    Raises:
      InputError: another process works in it, or it cannot be written to.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in folder.glob(f".*{UNFINISHED}"):  # nobody else is writing them
                    left.unlink(missing_ok=True)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{folder}: process {in_one_line(file.read(20))} works in it; allowed: another "
                "--workdir, or after its end"
            ) from error
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its number
            file.truncate(0)
            file.write(f"{os.getpid()}")
            file.flush()
        yield
