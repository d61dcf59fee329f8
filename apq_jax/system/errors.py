"""The error for input that cannot be used, and how its message shows foreign text."""


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
