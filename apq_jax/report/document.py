"""The blocks that a report is made of; `markdown` and `html` turn them into text.

The words of Text, Note and Items may carry two marks, `code` and **strong**. Names that come from a
file go through `quote` there, because characters in them must not act as marks. Other texts carry
no marks.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from matplotlib.figure import Figure


class Text(NamedTuple):
    """A paragraph."""

    words: str


class Note(NamedTuple):
    """A paragraph that must not be missed."""

    words: str


class Items(NamedTuple):
    """A list with a bullet before each text."""

    words: tuple[str, ...]


class Part(NamedTuple):
    """Rows of a table under their own head; the first column names a row, the rest are figures."""

    head: list[str]
    body: list[list[str]]  # rows as long as the head


class Table(NamedTuple):
    """Parts with the same number of columns, one below the other."""

    title: str  # Markdown leaves it out
    parts: tuple[Part, ...]


class Picture(NamedTuple):
    """A figure."""

    name: str  # of its PNG file without the suffix; unique in the document
    shows: str  # what the figure shows, for readers who cannot see it
    figure: Figure


class Code(NamedTuple):
    """Lines to copy, which stay as they are."""

    lines: str  # joined by line breaks


class Details(NamedTuple):
    """Blocks that a page shows once a reader unfolds them; Markdown shows them under a heading."""

    title: str
    blocks: tuple["Block", ...]


class Section(NamedTuple):
    """Blocks under a heading."""

    title: str
    blocks: tuple["Block", ...]


Block: TypeAlias = Text | Note | Items | Table | Picture | Code | Details


class Document(NamedTuple):
    """A whole report."""

    title: str
    lead: tuple[Block, ...]  # before the first section
    sections: tuple[Section, ...]


def quote(name: str) -> str:
    """Returns a name in the marks of code; backticks in it become ', line breaks become blanks."""
    return "`" + " ".join(name.replace("`", "'").split()) + "`"


def collect_pictures(blocks: Iterable[Block | Section]) -> list[Picture]:
    """Collects the pictures among the blocks, and in their details and sections, in order."""
    pictures: list[Picture] = []
    for block in blocks:
        if isinstance(block, Picture):
            pictures.append(block)
        elif isinstance(block, Details | Section):
            pictures += collect_pictures(block.blocks)
    return pictures
