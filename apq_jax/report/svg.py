"""A matplotlib figure as SVG inside a page, in the page's colours; its marks say what they are.

A mark's URL is no link but words: they become its title, which browsers show under the pointer.
"""

import io
import re

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# What a figure draws in these has a variable of page.css, which differs between light and dark.
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
_METADATA = ("Date", "Creator", "Format", "Type")


def render_svg(figure: Figure, name: str, shows: str) -> str:
    """The <svg> element.

    Args:
      figure: what is drawn, without its ground.
      name: one to a page; what the figure defines is named after it.
      shows: what it shows, for those who cannot see it; escaped.
    """
    grounds = [figure.patch, *(axis.patch for axis in figure.axes)]
    for ground in grounds:
        ground.set_visible(False)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(text, metadata=dict.fromkeys(_METADATA))
    for ground in grounds:
        ground.set_visible(True)
    return _in_page(text.getvalue(), shows)


def _in_page(text: str, shows: str) -> str:
    box = re.search(r'<svg [^>]*viewBox="([^"]*)"', text)
    body = text[text.index(">", box.end()) + 1 :]  # type: ignore[union-attr]
    # One style for all elements of the page that it is put into; numbers that repeat.
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<(g|image|text) id="[^"]*"', r"<\1", body)
    body = re.sub(r'<a xlink:href="([^"]*)"[^>]*>', r"<g><title>\1</title>", body)
    body = body.replace("</a>", "</g>")
    body = re.sub(r'(?<= style=)"[^"]*"', _themed, body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{shows}">{body.strip()}'  # type: ignore[index]


def _themed(style: re.Match[str]) -> str:
    """A style with the page's font and colours."""
    found = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", style[0])
    return re.sub(
        r"#[0-9a-f]{6}",
        lambda colour: f"var(--{_VARIABLES[colour[0]]})" if colour[0] in _VARIABLES else colour[0],
        found,
    )
