"""Reads foreign files safely, writes files whole or not at all, and locks folders."""

import contextlib
import errno
import hashlib
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator

from apq_jax.system.errors import InputError, explain_os_errors, make_one_line

try:
    import fcntl
except ImportError:  # not a POSIX system, where nothing is locked
    fcntl = None  # type: ignore[assignment]


UNFINISHED = ".unfinished"  # suffix of files that are being written
MAX_BYTES = 16 << 30  # of any file that is read


def require_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> None:
    """Checks a file that a user names, before a library opens it.

    A pipe, a device or a socket could block its reader or never end.

    Raises:
      InputError: the file is missing, is not a regular one, or is larger than `max_bytes`.
    """
    with explain_os_errors(path, "cannot be read"):
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is a pipe, device or socket; allowed: a file")
    if status.st_size > max_bytes:
        raise InputError(f"{path}: {status.st_size:,} bytes; allowed: up to {max_bytes:,}")


def read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Returns a file's contents, which take at most `max_bytes` of memory.

    Raises:
      InputError: as `require_file`, or the file cannot be read.
    """
    require_file(path, max_bytes)
    with explain_os_errors(path, "cannot be read"), open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # it has grown, or its size is not known, as in /proc
        raise InputError(f"{path}: more than {max_bytes:,} bytes; allowed: up to that")
    return content


def read_text(path: str | os.PathLike[str], max_bytes: int) -> str:
    """Returns a file's contents as text.

    Raises:
      InputError: as `read_file`, or the contents are not UTF-8.
    """
    try:
        return read_file(path, max_bytes).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8 ({error.reason})") from error


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
    require_file(path)
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
