"""Turns a document into Markdown; its pictures are PNG files beside it.

A paragraph is one line, because many places that Markdown is pasted into keep line breaks.
"""

import re

from apq_jax.report import document as doc
from apq_jax.system.errors import escape


def render_markdown(document: doc.Document, pictures: bool = True) -> str:
    """Returns a document as Markdown.

    Args:
      document: the report.
      pictures: whether to link the files NAME.png of the pictures, which the caller draws;
        otherwise the pictures are left out.
    """
    lines = [f"# {_escape_marks(document.title)}", *_render_blocks(document.lead, pictures)]
    for section in document.sections:
        lines += [f"## {_escape_marks(section.title)}", *_render_blocks(section.blocks, pictures)]
    return escape("\n\n".join(lines)) + "\n"


def render_table(head: list[str], body: list[list[str]]) -> str:
    """Returns a table as Markdown: the first column to the left, the others to the right."""
    rows = [[_escape_marks(cell) for cell in row] for row in (head, *body)]
    rows.insert(1, ["---"] + ["--:"] * (len(head) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _render_blocks(blocks: tuple[doc.Block, ...], pictures: bool) -> list[str]:
    return [_render_block(b) for b in blocks if pictures or not isinstance(b, doc.Picture)]


def _render_block(block: doc.Block) -> str:
    match block:
        case doc.Text(words):
            return words
        case doc.Note(words):
            return f"**Note.** {words}"
        case doc.Items(words):
            return "\n".join(f"* {item}" for item in words)
        case doc.Table(_, parts):
            return "\n\n".join(render_table(*part) for part in parts)
        case doc.Picture(name, shows):
            return f"![{_escape_marks(shows)}]({name}.png)"
        case doc.Code(lines):
            return "\n".join(f"    {line}" for line in lines.splitlines())
        case doc.Details(title, blocks):
            return "\n\n".join([f"### {_escape_marks(title)}", *map(_render_block, blocks)])


def _escape_marks(words: str) -> str:
    """Returns words as one line in which no character acts as a mark of Markdown."""
    return re.sub(r"([\\`*\[\]<|$])", r"\\\1", " ".join(words.split()))
