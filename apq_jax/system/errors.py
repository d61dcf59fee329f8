"""Defines the error for unusable input, and makes foreign text safe for its message."""

import contextlib
import os
import re
from collections.abc import Iterator


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line with the file or field, the value and the allowed values. A command
    prints the message alone. It passes through `make_plain`, because files and fields may have
    hostile names.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(make_plain(message))


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


def escape(text: str) -> str:
    """Escapes characters that are not printable, such as a terminal's codes, but no line breaks."""
    return "".join(x if x.isprintable() or x == "\n" else repr(x)[1:-1] for x in text)


def make_plain(text: object) -> str:
    """Returns a text that may name files and fields, as one line for a terminal or log.

    Characters that are not printable are escaped, line breaks too. The middle is cut out of words
    of more than 200 characters, and out of a line of more than 2000.
    """
    line = escape(str(text)).replace("\n", "\\n")
    line = re.sub(r"(\S{80})\S{41,}(\S{80})", r"\1...\2", line)
    return line if len(line) <= 2000 else f"{line[:1200]} ... {line[-795:]}"


def make_one_line(text: object) -> str:
    """Returns foreign text for a message: one line of at most 200 printable characters.

    White space becomes single spaces, other characters that are not printable are escaped, and
    "..." stands for a cut-off end.
    """
    words = make_plain(" ".join(str(text).split()))
    return words if len(words) <= 200 else f"{words[:197]}..."
