"""Turns a document into one HTML file that needs nothing else: no network, fonts or scripts."""

import html
import pathlib
import re

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
from apq_jax.report.svg import render_svg

_STYLE = pathlib.Path(__file__).with_name("page.css")
# The browser, too, refuses to load or run anything, should a name ever slip past the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_html(document: Document) -> str:
    """Renders a document as a page of HTML."""
    title = html.escape(document.title)
    sections = "\n".join(map(_render_section, document.sections))
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
{_render_blocks(document.lead)}
{sections}
</main>
</body>
</html>
"""


def _render_section(section: Section) -> str:
    title = html.escape(section.title)
    return f"<section>\n<h2>{title}</h2>\n{_render_blocks(section.blocks)}\n</section>"


def _render_blocks(blocks: tuple[Block, ...]) -> str:
    return "\n".join(map(_render_block, blocks))


def _render_block(block: Block) -> str:
    match block:
        case Text(words):
            return f"<p>{_render_marks(words)}</p>"
        case Note(words):
            return f'<p class="note"><strong>Note.</strong> {_render_marks(words)}</p>'
        case Items(words):
            items = "\n".join(f"<li>{_render_marks(item)}</li>" for item in words)
            return f"<ul>\n{items}\n</ul>"
        case Table(title, parts):
            return _render_table(html.escape(title), parts)
        case Picture(name, shows, figure):
            picture = render_svg(figure, name, html.escape(shows))
            return f"<figure>\n{_wrap_in_box(picture, html.escape(shows))}\n</figure>"
        case Code(lines):
            return _wrap_in_box(f"<pre><code>{html.escape(lines)}</code></pre>", "to copy")
        case Details(title, blocks):
            summary = f"<summary>{html.escape(title)}</summary>"
            return f"<details>\n{summary}\n{_render_blocks(blocks)}\n</details>"


def _render_marks(words: str) -> str:
    """Escapes words and turns their marks into elements."""
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(words))
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", words)


def _wrap_in_box(content: str, label: str) -> str:
    """Wraps what may be wider than a phone, so that it scrolls by itself, by keys, too."""
    return f'<div class="box" role="region" tabindex="0" aria-label="{label}">{content}</div>'


def _render_table(title: str, parts: tuple[Part, ...]) -> str:
    first, *others = parts
    lines = [f"<table>\n<caption>{title}</caption>\n<thead>", _render_head(first.head), "</thead>"]
    lines += ["<tbody>", *map(_render_row, first.body), "</tbody>"]
    for part in others:
        lines += ["<tbody>", _render_head(part.head), *map(_render_row, part.body), "</tbody>"]
    return _wrap_in_box("\n".join([*lines, "</table>"]), title)


def _render_head(cells: list[str]) -> str:
    heads = [f'<th scope="col">{html.escape(cell)}</th>' if cell else "<td></td>" for cell in cells]
    return f'<tr class="head">{"".join(heads)}</tr>'


def _render_row(cells: list[str]) -> str:
    first, *others = (html.escape(cell) for cell in cells)
    figures = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr><th scope="row">{first}</th>{figures}</tr>'
