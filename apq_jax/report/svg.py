"""Turns a matplotlib figure into SVG inside a page, in the page's colours.

The URL of a mark holds words (see `figures`). They become the mark's title, which browsers show
under the pointer.
"""

import io
import re

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# The variable of page.css for a colour, because colours differ between light and dark.
_VARIABLES = {
    "#000000": "ink",
    "#404040": "ink",
    "#505050": "ink",
    "#8c8c8c": "grey",
    "#e5e5e5": "grid",
    "#0072b2": "blue",
    "#e69f00": "orange",
    "#009e73": "green",
    "#d55e00": "red",
    "#56b4e9": "sky",
    "#cc79a7": "pink",
    "#f0e442": "yellow",
}
_METADATA = ("Date", "Creator", "Format", "Type")  # left out of the SVG


def render_svg(figure: Figure, name: str, shows: str) -> str:
    """Returns a figure as an <svg> element with no background.

    Args:
      figure: the figure, which the function leaves as it was.
      name: unique in the page, because identifiers inside the element are made from it.
      shows: what the figure shows, for readers who cannot see it; already escaped for HTML.
    """
    backgrounds = [figure.patch, *(axis.patch for axis in figure.axes)]
    for background in backgrounds:
        background.set_visible(False)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(text, metadata=dict.fromkeys(_METADATA))
    for background in backgrounds:
        background.set_visible(True)
    return _adapt(text.getvalue(), shows)


def _adapt(text: str, shows: str) -> str:
    """Turns the text of an SVG file into one element, without styles and shared identifiers."""
    box = re.search(r'<svg [^>]*viewBox="([^"]*)"', text)
    body = text[text.index(">", box.end()) + 1 :]  # type: ignore[union-attr]
    # A style would apply to the whole page; identifiers of several figures would be the same.
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<(g|image|text) id="[^"]*"', r"<\1", body)
    body = re.sub(r'<a xlink:href="([^"]*)"[^>]*>', r"<g><title>\1</title>", body)
    body = body.replace("</a>", "</g>")
    body = re.sub(r'(?<= style=)"[^"]*"', _theme, body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{shows}">{body.strip()}'  # type: ignore[index]


def _theme(style: re.Match[str]) -> str:
    """Replaces the font and the colours of a style attribute by those of the page."""
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", style[0])
    return re.sub(
        r"#[0-9a-f]{6}",
        lambda colour: f"var(--{_VARIABLES[colour[0]]})" if colour[0] in _VARIABLES else colour[0],
        text,
    )
