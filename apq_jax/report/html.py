"""Turns a document into one HTML file that needs nothing else: no network, fonts or scripts."""

import html
import pathlib
import re

from apq_jax.report import document as doc
from apq_jax.report.svg import render_svg
from apq_jax.system.errors import escape

_STYLE = pathlib.Path(__file__).with_name("page.css")
# The browser, too, refuses to load or run anything, should a name ever slip past the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_html(document: doc.Document) -> str:
    """Returns a document as one page of HTML, with the style and the pictures inside."""
    title = html.escape(document.title)
    return escape(f"""<!DOCTYPE html>
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
{_render_blocks((*document.lead, *document.sections))}
</main>
</body>
</html>
""")


def _render_blocks(blocks: tuple[doc.Block | doc.Section, ...]) -> str:
    return "\n".join(map(_render_block, blocks))


def _render_block(block: doc.Block | doc.Section) -> str:
    match block:
        case doc.Section(title, blocks):
            heading = f"<h2>{html.escape(title)}</h2>"
            return f"<section>\n{heading}\n{_render_blocks(blocks)}\n</section>"
        case doc.Text(words):
            return f"<p>{_render_marks(words)}</p>"
        case doc.Note(words):
            return f'<p class="note"><strong>Note.</strong> {_render_marks(words)}</p>'
        case doc.Items(words):
            items = "\n".join(f"<li>{_render_marks(item)}</li>" for item in words)
            return f"<ul>\n{items}\n</ul>"
        case doc.Table(title, parts):
            return _render_table(html.escape(title), parts)
        case doc.Picture(name, shows, figure):
            picture = render_svg(figure, name, html.escape(shows))
            return f"<figure>\n{_wrap_in_box(picture, html.escape(shows))}\n</figure>"
        case doc.Code(lines):
            return _wrap_in_box(f"<pre><code>{html.escape(lines)}</code></pre>", "to copy")
        case doc.Details(title, blocks):
            summary = f"<summary>{html.escape(title)}</summary>"
            return f"<details>\n{summary}\n{_render_blocks(blocks)}\n</details>"


def _render_marks(words: str) -> str:
    """Escapes words and turns their marks into elements."""
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(words))
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", words)


def _wrap_in_box(content: str, label: str) -> str:
    """Wraps content that may be wider than a phone, so that it scrolls alone, and by keys, too."""
    return f'<div class="box" role="region" tabindex="0" aria-label="{label}">{content}</div>'


def _render_table(title: str, parts: tuple[doc.Part, ...]) -> str:
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
