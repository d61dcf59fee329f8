"""Defines the error for unusable input, and makes foreign text safe for its message."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line with the file or field, the value and the allowed values. A command
    prints the message alone.
    """


def quote_name(name: str) -> str:
    """Returns a name from a file for a message: short, in one line, without control characters."""
    return name if name.isprintable() and len(name) <= 80 else repr(name[:80])


def make_one_line(text: object) -> str:
    """Returns foreign text for a message: short, in one line, without control characters."""
    words = " ".join(str(text).split())
    words = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words)
    return words if len(words) <= 200 else f"{words[:197]}..."
