"""Creates figures with the report's axes, colours and ticks, and sets words on marks.

The words of a mark are set as its URL, because matplotlib writes no other text of a mark into an
SVG. `svg` turns the URLs into titles, which browsers show under the pointer.
"""

import math
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8C8C8C"
_SKY, _PINK, _YELLOW, _BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, RED, _SKY, _PINK, _YELLOW, _BLACK)


def new_figure(columns: int = 1, rows: int = 1, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """Creates a figure as wide as the page with rows x columns axes; returns it and the axes.

    The axes come row by row. The height is that of the whole figure, in inches.
    """
    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.grid(color="#E5E5E5", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def set_words(bars: BarContainer, words: Iterable[str]) -> None:
    """Sets the words that the pointer shows on each bar, one text a bar."""
    for bar, text in zip(bars, words, strict=True):
        bar.set_url(text)


def set_plain_log_ticks(axis: Axes, low: float, high: float) -> None:
    """Sets the ticks of a logarithmic x axis of values from `low` to `high`, both above 0.

    Ticks are at 1, 2 and 5 times powers of ten, or at the powers alone if `high` is 100 times `low`
    or more. They are written as plain numbers. The caller sets the scale of the axis.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axis.xaxis.set_major_locator(FixedLocator([t for t in ticks if low / 1.3 <= t <= high * 1.3]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())
