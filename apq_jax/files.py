"""Files written whole or not at all, and the error for input that cannot be used."""

import os
import pathlib
import tempfile


class InputError(ValueError):
    """Input that cannot be used. Its message is one line that names the file or
    field, the value and what is allowed; a command line prints it and nothing else."""


def shown(name: str) -> str:
    """A name from a file in a message, which is one line that no terminal acts upon."""
    return name if name.isprintable() and len(name) <= 80 else repr(name[:80])


def in_one_line(said: object) -> str:
    """What a library or a file says, as a short line that no terminal acts upon."""
    words = " ".join(str(said).split())
    words = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words)
    return words if len(words) <= 200 else f"{words[:197]}..."


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
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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
