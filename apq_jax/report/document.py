"""What a report says, apart from how it is written: `markdown` and `page` write it.

Words carry two marks, `code` and **strong**; what comes from a file goes in through `code`, so that
its own marks are none.
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
    """Rows of a table under their own head; the first column says what a row is. No marks."""

    head: list[str]
    body: list[list[str]]


class Table(NamedTuple):
    """Parts of equally many columns."""

    title: str
    parts: tuple[Part, ...]


class Picture(NamedTuple):
    """A figure, the name of its file without the suffix, and what it shows, for those who cannot
    see it."""

    name: str
    shows: str
    figure: Figure


class Code(NamedTuple):
    """Lines to copy."""

    lines: str


class Details(NamedTuple):
    """What is folded where a reader can unfold it."""

    title: str
    blocks: tuple["Block", ...]


class Section(NamedTuple):
    """Blocks under a heading."""

    title: str
    blocks: tuple["Block", ...]


Block: TypeAlias = Text | Note | Items | Table | Picture | Code | Details


class Document(NamedTuple):
    """A title, what comes first, and sections."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]


def quote(name: str) -> str:
    """A name that came from a file, as code."""
    return "`" + " ".join(name.replace("`", "'").split()) + "`"


def collect_pictures(document: Document) -> list[Picture]:
    """All of them, in order."""
    found: list[Picture] = []

    def walk(blocks: tuple[Block, ...]) -> None:
        for block in blocks:
            if isinstance(block, Picture):
                found.append(block)
            elif isinstance(block, Details):
                walk(block.blocks)

    for blocks in (document.lead, *(section.blocks for section in document.sections)):
        walk(blocks)
    return found
