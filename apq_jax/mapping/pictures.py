"""Pictures of crossbars, drawn from a mapping."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from apq_jax.mapping.files import Mapping
from apq_jax.mapping.units import NONE, LayerMap

_WORDS = 40  # numbers that a picture holds


def draw_occupancy(mapping: Mapping, layer: int, crossbar: int) -> Figure:
    """One crossbar: cells by value, empty ones white, units outlined, coloured by their input."""
    one, accelerator = mapping.maps[layer], mapping.accelerator
    units = one.units
    here = np.flatnonzero(units.crossbar == crossbar)
    x_r, x_c = accelerator.crossbar_rows, accelerator.crossbar_columns
    bank = np.full((x_r, x_c), -1)
    edges = []
    for unit in here:
        high = int((one.banks[units.bank[unit]] != NONE).sum())
        wide = int((units.outputs[unit] != NONE).sum())
        top, left = int(units.wordline[unit]), int(units.bitline[unit])
        bank[top : top + high, left : left + wide] = units.bank[unit]
        box = np.asarray([[0, 0], [wide, 0], [wide, high], [0, high], [0, 0]])
        edges.append(box + np.asarray([left - 0.5, top - 0.5]))
    figure = Figure(figsize=(7.2, 4.0), dpi=150, layout="constrained")
    values, inputs = figure.subplots(1, 2)
    cells = np.where(bank >= 0, one.cells[crossbar], np.nan)
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
    used = np.mean(bank >= 0)
    figure.suptitle(
        f"{one.layer.name}, crossbar {crossbar + 1} of {len(one.cells)}: {len(here)} units, "
        f"{100 * used:.0f} % of the cells",
        fontsize=10,
        parse_math=False,  # a layer's name is what it is
    )
    return figure


def compute_fill(one: LayerMap) -> np.ndarray:
    """The share of cells that units use, of each crossbar of a layer."""
    high = (one.banks != NONE).sum(axis=1)[one.units.bank]
    wide = (one.units.outputs != NONE).sum(axis=1)
    cells = np.bincount(one.units.crossbar, high * wide, minlength=len(one.cells))
    return cells / one.cells[0].size


def draw_fullness(mapping: Mapping, names: Sequence[str]) -> Figure:
    """How full every crossbar of every layer is.

    Args:
      mapping: of all layers.
      names: what to call each of them.
    """
    shares = [100 * compute_fill(one) for one in mapping.maps]
    most = max(len(share) for share in shares)
    table = np.full((len(shares), most), np.nan)
    for row, share in enumerate(shares):
        table[row, : len(share)] = share
    height = 1.3 + 0.28 * len(shares)
    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(
        table, cmap="viridis", vmin=0, vmax=100, aspect="auto", interpolation="nearest"
    )
    figure.colorbar(image, ax=axis, label="cells used, %", ticks=[0, 50, 100])
    if table.size <= _WORDS:
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
