"""Draws pictures of crossbars from a mapping."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from apq_jax.mapping.files import Mapping
from apq_jax.mapping.units import LayerMap

_MAX_NUMBERS = 40  # that a picture has room for


def draw_occupancy(mapping: Mapping, layer: int, crossbar: int) -> Figure:
    """Draws one crossbar twice: its cells by value, and its units by input index.

    `layer` and `crossbar` are indices from 0; the title counts crossbars from 1.
    """
    layer_map, accelerator = mapping.maps[layer], mapping.accelerator
    units, (wordlines, bitlines) = layer_map.units, layer_map.count_lines()
    in_crossbar = np.flatnonzero(units.crossbar == crossbar)
    x_r, x_c = accelerator.crossbar_rows, accelerator.crossbar_columns
    bank = np.full((x_r, x_c), -1)
    edges = []
    for unit in in_crossbar:
        height, width = int(wordlines[unit]), int(bitlines[unit])
        top, left = int(units.wordline[unit]), int(units.bitline[unit])
        bank[top : top + height, left : left + width] = units.bank[unit]
        box = np.asarray([[0, 0], [width, 0], [width, height], [0, height], [0, 0]])
        edges.append(box + np.asarray([left - 0.5, top - 0.5]))
    figure = Figure(figsize=(7.2, 4.0), dpi=150, layout="constrained")
    values, inputs = figure.subplots(1, 2)
    cells = np.where(bank >= 0, layer_map.cells[crossbar], np.nan)
    image = values.imshow(cells, cmap="viridis", vmin=0, vmax=2**accelerator.cell_bits - 1)
    figure.colorbar(image, ax=values, shrink=0.7, ticks=range(2**accelerator.cell_bits))
    values.set_title("cells", fontsize=10)
    # Neighbouring banks get colours that differ.
    colours = ListedColormap(
        ["#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00"]
    )
    inputs.imshow(
        np.where(bank >= 0, bank % colours.N, np.nan), cmap=colours, vmin=-0.5, vmax=colours.N - 0.5
    )
    inputs.set_title("input index of the unit", fontsize=10)
    for axis in (values, inputs):
        axis.add_collection(LineCollection(edges, colors="#404040", linewidths=0.4))
        axis.set_xlabel("bitline")
        axis.set_ylabel("wordline")
    figure.suptitle(
        f"{layer_map.layer.name}, crossbar {crossbar + 1} of {len(layer_map.cells)}: "
        f"{len(in_crossbar)} units, {100 * np.mean(bank >= 0):.0f} % of the cells",
        fontsize=10,
        parse_math=False,  # a layer's name may have a $
    )
    return figure


def compute_fill(layer_map: LayerMap) -> np.ndarray:
    """Computes the share of cells in use in each of a layer's crossbars: [crossbars], 0 to 1."""
    wordlines, bitlines = layer_map.count_lines()
    crossbars = len(layer_map.cells)
    cells = np.bincount(layer_map.units.crossbar, wordlines * bitlines, minlength=crossbars)
    return cells / layer_map.cells[0].size


def draw_fullness(mapping: Mapping, names: Sequence[str]) -> Figure:
    """Draws how full every crossbar of every layer is.

    Args:
      mapping: of all layers.
      names: each layer's name in the picture.
    """
    shares = [100 * compute_fill(layer_map) for layer_map in mapping.maps]
    table = np.full((len(shares), max(map(len, shares))), np.nan)
    for row, share in enumerate(shares):
        table[row, : len(share)] = share
    height = 1.3 + 0.28 * len(shares)
    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(
        table, cmap="viridis", vmin=0, vmax=100, aspect="auto", interpolation="nearest"
    )
    figure.colorbar(image, ax=axis, label="cells used, %", ticks=[0, 50, 100])
    if table.size <= _MAX_NUMBERS:
        for (row, column), share in np.ndenumerate(table):
            if np.isfinite(share):
                colour = "#ffffff" if share < 60 else "#101010"
                axis.text(
                    column, row, f"{share:.0f} %", ha="center", va="center", color=colour
                ).set_fontsize(8)
    axis.set_yticks(range(len(shares)), list(names), parse_math=False)
    axis.set_xlabel("crossbar of its layer")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value + 1:.0f}")
    return figure
