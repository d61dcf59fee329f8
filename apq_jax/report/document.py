"""What a report says; `markdown` and `html` turn it into text.

Words carry two marks, `code` and **strong**. Names that come from a file go through `quote`,
because characters in them must not act as marks.
"""

from typing import NamedTuple, TypeAlias

from matplotlib.figure import Figure


class Text(NamedTuple):
    """A paragraph."""

    words: str


class Note(NamedTuple):
    """A paragraph that must not be missed."""

    words: str


class Items(NamedTuple):
    """A list."""

    words: tuple[str, ...]


class Part(NamedTuple):
    """Rows of a table under their own head; the first column names a row. Cells have no marks."""

    head: list[str]
    body: list[list[str]]


class Table(NamedTuple):
    """Parts with the same number of columns, one below the other."""

    title: str
    parts: tuple[Part, ...]


class Picture(NamedTuple):
    """A figure."""

    name: str  # of its file, without the suffix
    shows: str  # for readers who cannot see it
    figure: Figure


class Code(NamedTuple):
    """Lines to copy."""

    lines: str


class Details(NamedTuple):
    """Blocks that a page shows once a reader unfolds them."""

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
    """Marks a name that comes from a file as code, without any marks of its own."""
    return "`" + " ".join(name.replace("`", "'").split()) + "`"


def collect_pictures(document: Document) -> list[Picture]:
    """Collects all pictures in the order of the document."""
    pictures: list[Picture] = []

    def walk(blocks: tuple[Block, ...]) -> None:
        for block in blocks:
            if isinstance(block, Picture):
                pictures.append(block)
            elif isinstance(block, Details):
                walk(block.blocks)

    for blocks in (document.lead, *(section.blocks for section in document.sections)):
        walk(blocks)
    return pictures
