"""Turns a document into Markdown; its pictures are PNG files beside it.

A paragraph is one line, because many places that Markdown is pasted into keep line breaks.
"""

from apq_jax.report.document import (
    Block,
    Code,
    Details,
    Document,
    Items,
    Note,
    Picture,
    Table,
    Text,
)


def render_markdown(document: Document, pictures: bool = True) -> str:
    """Renders a document as Markdown.

    Args:
      document: the report.
      pictures: whether to link the pictures' files; else they are left out.
    """
    lines = [f"# {_join_lines(document.title)}", *_render_blocks(document.lead, pictures)]
    for section in document.sections:
        lines += [f"## {_join_lines(section.title)}", *_render_blocks(section.blocks, pictures)]
    return "\n\n".join(lines) + "\n"


def render_table(head: list[str], body: list[list[str]]) -> str:
    """Renders a table whose first column is words, and whose others are numbers."""
    rows = [[_render_cell(cell) for cell in row] for row in (head, *body)]
    rows.insert(1, ["---"] + ["--:"] * (len(head) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _render_blocks(blocks: tuple[Block, ...], pictures: bool) -> list[str]:
    return [_render_block(b) for b in blocks if pictures or not isinstance(b, Picture)]


def _render_block(block: Block) -> str:
    match block:
        case Text(words):
            return words
        case Note(words):
            return f"**Note.** {words}"
        case Items(words):
            return "\n".join(f"* {item}" for item in words)
        case Table(_, parts):
            return "\n\n".join(render_table(*part) for part in parts)
        case Picture(name, shows):
            return f"![{_join_lines(shows)}]({name}.png)"
        case Code(lines):
            return "\n".join(f"    {line}" for line in lines.splitlines())
        case Details(title, blocks):
            return "\n\n".join([f"### {_join_lines(title)}", *map(_render_block, blocks)])


def _join_lines(words: str) -> str:
    return " ".join(words.split())


def _render_cell(words: str) -> str:
    return _join_lines(words).replace("|", "\\|")
