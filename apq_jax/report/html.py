"""A document as one HTML file that needs nothing else: no network, no fonts, no scripts."""

import html
import pathlib
import re

from apq_jax.report import svg
from apq_jax.report.document import (
    Block,
    Code,
    Details,
    Document,
    Items,
    Note,
    Part,
    Picture,
    Section,
    Table,
    Text,
)

_STYLE = pathlib.Path(__file__).with_name("page.css")


# Said to the browser, too: nothing is loaded and nothing is run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_html(document: Document) -> str:
    """The text of the file."""
    title = html.escape(document.title)
    sections = "\n".join(map(_section, document.sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{_blocks(document.lead)}
{sections}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    title = html.escape(section.title)
    return f"<section>\n<h2>{title}</h2>\n{_blocks(section.blocks)}\n</section>"


def _blocks(blocks: tuple[Block, ...]) -> str:
    return "\n".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Text(words):
            return f"<p>{_marked(words)}</p>"
        case Note(words):
            return f'<p class="note"><strong>Note.</strong> {_marked(words)}</p>'
        case Items(words):
            items = "\n".join(f"<li>{_marked(one)}</li>" for one in words)
            return f"<ul>\n{items}\n</ul>"
        case Table(title, parts):
            return _table(html.escape(title), parts)
        case Picture(name, shows, figure):
            picture = svg.render_svg(figure, name, html.escape(shows))
            return f"<figure>\n{_box(picture, html.escape(shows))}\n</figure>"
        case Code(lines):
            return _box(f"<pre><code>{html.escape(lines)}</code></pre>", "to copy")
        case Details(title, blocks):
            summary = f"<summary>{html.escape(title)}</summary>"
            return f"<details>\n{summary}\n{_blocks(blocks)}\n</details>"


def _marked(words: str) -> str:
    """Words with their marks as elements."""
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(words))
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", words)


def _box(inside: str, label: str) -> str:
    """What may be wider than a phone scrolls by itself, by keys, too."""
    return f'<div class="box" role="region" tabindex="0" aria-label="{label}">{inside}</div>'


def _table(title: str, parts: tuple[Part, ...]) -> str:
    first, *others = parts
    lines = [f"<table>\n<caption>{title}</caption>\n<thead>", _head(first.head), "</thead>"]
    lines += ["<tbody>", *map(_row, first.body), "</tbody>"]
    for part in others:
        lines += ["<tbody>", _head(part.head), *map(_row, part.body), "</tbody>"]
    return _box("\n".join([*lines, "</table>"]), title)


def _head(cells: list[str]) -> str:
    found = [f'<th scope="col">{html.escape(cell)}</th>' if cell else "<td></td>" for cell in cells]
    return f'<tr class="head">{"".join(found)}</tr>'


def _row(cells: list[str]) -> str:
    first, *others = (html.escape(cell) for cell in cells)
    found = [f'<th scope="row">{first}</th>', *(f"<td>{cell}</td>" for cell in others)]
    return f"<tr>{''.join(found)}</tr>"
