"""Builds parsers of command lines, which raise InputError, and command lines that can be shown."""

import argparse
import os
import pathlib
import shlex
from collections.abc import Iterable
from typing import Any, NoReturn

from apq_jax.system.errors import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse's own ignores a full disk


def build_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Builds a command's parser, still without arguments.

    The parser shows the description as it stands, takes no abbreviated flags, and raises InputError
    where argparse would print the usage and exit.
    """
    layout = argparse.RawDescriptionHelpFormatter
    return _Parser(name, description=description, formatter_class=layout, allow_abbrev=False)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds --overwrite, for `files.write_new`."""
    words = "replaces files that are there with other contents"
    parser.add_argument("--overwrite", action="store_true", help=words)


def read_path(text: str) -> pathlib.Path:
    """Returns the path that a flag names; shells leave the ~ of --flag=~/x to the command."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; allowed: a path")
    return pathlib.Path(os.path.expanduser(text))


def join_command(words: Iterable[str]) -> str:
    """Returns a command as one printable line that a shell reads as these words."""
    return " ".join(shlex.quote(w) if w.isprintable() else _escape_word(w) for w in words)


def _escape_word(word: str) -> str:
    """Returns a word as bash's $'...', where \\x1b is the byte 27."""
    plain = set(range(32, 127)) - set(b"\\'")
    letters = (chr(x) if x in plain else f"\\x{x:02x}" for x in os.fsencode(word))
    return f"$'{''.join(letters)}'"
