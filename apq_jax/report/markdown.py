"""A document as Markdown, its pictures as PNG files beside it.

A paragraph is one line: where Markdown is pasted, line breaks are often kept.
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
    """The text of the file.

    Args:
      document: what it says.
      pictures: as links to their files; else they are left out.
    """
    lines = [f"# {_line(document.title)}", *_blocks(document.lead, pictures)]
    for section in document.sections:
        lines += [f"## {_line(section.title)}", *_blocks(section.blocks, pictures)]
    return "\n\n".join(lines) + "\n"


def render_table(head: list[str], body: list[list[str]]) -> str:
    """A table; the first column is words, the others are numbers."""
    rows = [[_cell(cell) for cell in row] for row in (head, *body)]
    rows.insert(1, ["---"] + ["--:"] * (len(head) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _blocks(blocks: tuple[Block, ...], pictures: bool) -> list[str]:
    shown = (one for one in blocks if pictures or not isinstance(one, Picture))
    return [_block(one) for one in shown]


def _block(block: Block) -> str:
    match block:
        case Text(words):
            return words
        case Note(words):
            return f"**Note.** {words}"
        case Items(words):
            return "\n".join(f"* {one}" for one in words)
        case Table(_, parts):
            return "\n\n".join(render_table(*part) for part in parts)
        case Picture(name, shows):
            return f"![{_line(shows)}]({name}.png)"
        case Code(lines):
            return "\n".join(f"    {line}" for line in lines.splitlines())
        case Details(title, blocks):
            return "\n\n".join([f"### {_line(title)}", *map(_block, blocks)])


def _line(words: str) -> str:
    return " ".join(words.split())


def _cell(words: str) -> str:
    return _line(words).replace("|", "\\|")
