"""Builds the parsers of commands, which raise an InputError for a wrong command line."""

import argparse
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
