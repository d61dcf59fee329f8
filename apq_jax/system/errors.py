"""Defines the error for unusable input, and makes foreign text safe for its message."""

import contextlib
import os
from collections.abc import Iterator


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line with the file or field, the value and the allowed values. A command
    prints the message alone.
    """


@contextlib.contextmanager
def explain_os_errors(path: str | os.PathLike[str], words: str) -> Iterator[None]:
    """Raises InputError for an OSError of the body: "PATH: WORDS (reason)"."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {words} ({error.strerror})") from error


def quote_name(name: str) -> str:
    """Returns a name from a file for a message, unchanged if it is printable and not long.

    Any other name is cut to 80 characters, quoted, and its control characters are escaped.
    """
    return name if name.isprintable() and len(name) <= 80 else repr(name[:80])


def make_one_line(text: object) -> str:
    """Returns foreign text for a message: one line of at most 200 printable characters.

    White space becomes single spaces, other characters that are not printable are escaped, and
    "..." stands for a cut-off end.
    """
    words = " ".join(str(text).split())
    words = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words)
    return words if len(words) <= 200 else f"{words[:197]}..."
