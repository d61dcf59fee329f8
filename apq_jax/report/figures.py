"""The pictures of a report, drawn from a result and the rows of its search.csv.

What a mark stands for is set as its URL, from which `svg` makes what is shown under the pointer.
"""

import math

from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

# Okabe and Ito's colours, which colour-blind readers tell apart.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8C8C8C"
_SKY, _PINK, _YELLOW, _BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
_COLOURS = (_BLUE, _ORANGE, _GREEN, _RED, _SKY, _PINK, _YELLOW, _BLACK)


def _figure(columns: int = 1, rows: int = 1, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.grid(color="#E5E5E5", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _say(bars: BarContainer, words: list[str]) -> None:
    for bar, one in zip(bars, words, strict=True):
        bar.set_url(one)


def plain_log_axis(axis: Axes, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axis.xaxis.set_major_locator(FixedLocator([t for t in ticks if low / 1.3 <= t <= high * 1.3]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())
