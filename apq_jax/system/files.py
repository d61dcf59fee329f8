"""Reads foreign files safely, writes files whole or not at all, and locks folders."""

import contextlib
import errno
import hashlib
import os
import pathlib
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping

from apq_jax.system.errors import InputError, explain_os_errors

try:
    import fcntl
except ImportError:  # not a POSIX system, where nothing is locked
    fcntl = None  # type: ignore[assignment]


LOCK = ".lock"
_NO_LOCK = "is no lock of a run; allowed: another --workdir"
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

    The content (a text in UTF-8) goes to a new file beside it, which then replaces `path`, also
    where `path` is a link. Missing folders are made. The umask decides who may read the file.

    Raises:
      InputError: the file cannot be written.
    """
    path = pathlib.Path(path)
    with explain_os_errors(path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(4)}{UNFINISHED}"
        file = temporary.open("xb")  # never a file or a link that is there
        try:
            with file:
                file.write(_encode(content))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_new(files: Mapping[pathlib.Path, bytes | str], overwrite: bool) -> None:
    """Writes files like `write_whole`, by their paths, which a user has named.

    Raises:
      InputError: one of them is there with other contents, without `overwrite`, and then nothing is
        written; or a file cannot be written.
    """
    for path, content in files.items():
        if not overwrite and os.path.lexists(path) and not _has_content(path, content):
            raise InputError(f"{path}: is there already; allowed: a new file, or --overwrite")
    for path, content in files.items():
        write_whole(path, content)


def _has_content(path: pathlib.Path, content: bytes | str) -> bool:
    content = _encode(content)
    with explain_os_errors(path, "cannot be read"):
        is_same_size = path.is_file() and path.stat().st_size == len(content)
        return is_same_size and path.read_bytes() == content


def _encode(content: bytes | str) -> bytes:
    """Encodes a text as UTF-8, with escapes, because a file's name in it need not be UTF-8."""
    return content.encode(errors="backslashreplace") if isinstance(content, str) else content


def hash_file(path: pathlib.Path) -> str:
    """Returns the SHA-256 (hex) of a file's contents.

    Raises:
      InputError: the file cannot be read.
    """
    require_file(path)
    with explain_os_errors(path, "cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock_folder(folder: pathlib.Path, names: Iterable[str]) -> Iterator[None]:
    """Locks a folder for this process, until the context ends or the process dies.

    A missing folder is made. A file system without locks is not locked, and its files stay.

    Args:
      folder: the folder.
      names: of files; what killed processes left half-written of them is removed.

    Raises:
      InputError: another process works in the folder, the folder cannot be written to, or its
        `.lock` is another program's.
    """
    path = folder / LOCK
    with explain_os_errors(path, "cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise InputError(f"{path}: {_NO_LOCK}")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o666)
    with open(descriptor, "r+", errors="replace") as file:
        process = file.read(20)
        if process and not process.isdigit():
            raise InputError(f"{path}: {_NO_LOCK}")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in names:
                    for file_left in folder.glob(f".{name}.*{UNFINISHED}"):
                        file_left.unlink(missing_ok=True)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: process {process} works in it; allowed: another --workdir, or after "
                "its end"
            ) from error
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
            os.ftruncate(file.fileno(), 0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield
