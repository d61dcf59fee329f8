"""Writes files whole or not at all, and locks folders for one process at a time."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from apq_jax.system.errors import InputError, explain_os_errors, make_one_line

try:
    import fcntl
except ImportError:  # not a POSIX system, where nothing is locked
    fcntl = None  # type: ignore[assignment]


UNFINISHED = ".unfinished"  # suffix of files that are being written


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a file whole or not at all, so that no reader meets half a file.

    The content (a text in UTF-8) goes to a temporary file, which then replaces `path`. Missing
    folders are made.

    Raises:
      InputError: the file cannot be written.
    """
    path = pathlib.Path(path)
    if isinstance(content, str):
        content = content.encode()
    with explain_os_errors(path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(UNFINISHED, f".{path.name}.", path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            pathlib.Path(temporary).unlink(missing_ok=True)
            raise


def hash_file(path: pathlib.Path) -> str:
    """Returns the SHA-256 (hex) of a file's contents.

    Raises:
      InputError: the file cannot be read.
    """
    with explain_os_errors(path, "cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock_folder(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder for this process, until the context ends or the process dies.

    A missing folder is made. Half-written files of killed processes are removed. A file system
    without locks is not locked, and its files stay.

    Raises:
      InputError: another process works in the folder, or the folder cannot be written to.
    """
    path = folder / ".lock"
    with explain_os_errors(path, "cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for file_left in folder.glob(f".*{UNFINISHED}"):  # the lock excludes other writers
                    file_left.unlink(missing_ok=True)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{folder}: process {make_one_line(file.read(20))} works in it; allowed: another "
                "--workdir, or after its end"
            ) from error
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
            file.truncate(0)
            file.write(f"{os.getpid()}")
            file.flush()
        yield
