"""Draws the pictures of docs/datapath.md from a real layer: conv1 of LeNet-5 on MNIST digits.

    python docs/pictures.py

The network is trained (or read from the cache), planned and packed by the package; crossbars are
small, 27 x 16 cells with units of 9 x 4, so that a picture holds them.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from apq_jax import data, mapping
from apq_jax.compression import calibration, converters, plan, pruning, quantization
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.pruning import Block
from apq_jax.config import Config
from apq_jax.hardware import Accelerator
from apq_jax.mapping import datapath
from apq_jax.mapping.units import NONE
from apq_jax.models.lenet import LeNet5
from apq_jax.models.weights import load_or_train
from apq_jax.network.capture import capture, extract_matrices
from apq_jax.system import cache

FOLDER = pathlib.Path(__file__).parent / "images"
SMALL = Accelerator(
    name="small", crossbar_rows=27, crossbar_columns=16, unit_rows=9, unit_columns=4
)
BITS, INPUT_BITS, KEEP = 4, 4, 0.6
COLOURS = ["#56B4E9", "#E69F00", "#009E73"]


def main() -> int:
    """Draws both pictures."""
    weights, mask, levels, layer_map, window = _layer()
    FigureCanvasAgg(_packing(weights, mask, levels, layer_map)).print_png(
        FOLDER / "datapath_packing.png"
    )
    FigureCanvasAgg(_cycles(layer_map, levels, window)).print_png(FOLDER / "datapath_cycles.png")
    print(FOLDER / "datapath_packing.png", FOLDER / "datapath_cycles.png", sep="\n")
    return 0


def _layer() -> tuple[Any, ...]:
    dataset = data.load_mnist_5k()
    model = LeNet5(dataset.classes)
    init = model.init(jax.random.key(0), jnp.asarray(dataset.train_images[:1]))
    options = dataclasses.replace(Config().training, seed=0)
    params, _ = load_or_train("lenet5", model.apply, init, dataset, options, cache.find_cache())
    images = jnp.asarray(dataset.train_images[:1000])
    network = capture(model.apply, params, images[:2])
    matrix = extract_matrices(network, params)
    statistics = calibration.calibrate(network, params, matrix, images)
    block = Block(SMALL.unit_rows)
    planned = plan.build_plan(matrix[:1], statistics[:1], (block,), PlanOptions())[0]
    level = int(np.abs(np.asarray(planned.keep) - KEEP).argmin())
    layer = network.layers[0]
    mask = np.asarray(pruning.expand_mask(planned.mask[level], block, layer.rows, layer.columns))
    levels = np.asarray(
        quantization.quantize_weight(
            planned.weights[level], mask, planned.scale[level, BITS - 1], jnp.asarray(BITS)
        ),
        np.int32,
    )
    layer_map = mapping.map_layer(layer, levels, mask, BITS, INPUT_BITS, "column_vector", SMALL)
    scale, zero = (getattr(statistics[0], f"input_{n}")[INPUT_BITS - 1] for n in ("scale", "zero"))
    # The window around the middle of the first digit.
    patch = images[0, 10:15, 12:17, 0].reshape(1, -1)
    window = quantization.quantize_input(patch, scale, zero, jnp.asarray(INPUT_BITS))
    return np.asarray(matrix[0][0]), mask[0], levels, layer_map, np.asarray(window, np.int32)


def _grid(axis: Axes, values: np.ndarray, texts: np.ndarray, title: str, **image: Any) -> None:
    axis.imshow(values, aspect="auto", **image)
    for (row, column), text in np.ndenumerate(texts):
        axis.text(column, row, text, ha="center", va="center", fontsize=5.5)
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def _packing(weights: np.ndarray, mask: np.ndarray, levels: np.ndarray, layer_map: Any) -> Figure:
    figure = Figure(figsize=(10, 5.6), dpi=130, layout="constrained")
    before, pruned, packed, index = figure.subplots(1, 4, width_ratios=[1, 1, 2.2, 1.9])
    largest = np.abs(weights).max()
    colours = {"cmap": "RdBu", "vmin": -largest, "vmax": largest}
    none = np.full(weights.shape, "")
    _grid(before, weights, none, "1. weights, 25 x 6", **colours)
    shown = np.where(mask, levels[0] * (largest / 7), np.nan)
    texts = np.where(mask, levels[0].astype(str), "")
    _grid(pruned, shown, texts, "2. pruned, 4 bits", **colours)
    for axis in (before, pruned):
        for row in (8.5, 17.5):
            axis.axhline(row, color="black", linewidth=1)
    before.set_yticks([4, 13, 21], ["row\ngroup 0", "row\ngroup 1", "row\ngroup 2"], fontsize=7)
    before.set_xlabel("output channel", fontsize=8)
    units = layer_map.units
    bank = np.full(layer_map.cells.shape[1:], np.nan)
    cells = np.full(layer_map.cells.shape[1:], "", dtype="<U2")
    used = layer_map.read_cells()
    for unit in np.flatnonzero(units.crossbar == 0):
        high = int((layer_map.banks[units.bank[unit]] != NONE).sum())
        wide = int((units.outputs[unit] != NONE).sum())
        top, left = int(units.wordline[unit]), int(units.bitline[unit])
        bank[top : top + high, left : left + wide] = units.bank[unit]
        cells[top : top + high, left : left + wide] = used[unit, :high, :wide].astype(str)
        packed.add_patch(Rectangle((left - 0.5, top - 0.5), 4, 9, fill=False, linewidth=1.2))
        packed.text(left + 1.5, top - 0.62, f"unit {unit}", ha="center", fontsize=6)
    _grid(
        packed, bank, cells, "3. packed, 2-bit cells", cmap=ListedColormap(COLOURS), vmin=0, vmax=2
    )
    count = len(layer_map.cells)
    packed.set_xlabel(f"crossbar 1 of {count}; colour: which row group feeds the unit", fontsize=8)
    lines = []
    for unit in range(len(units.bank)):
        targets = ", ".join(
            f"{output}·4^{slice_index}" if output != NONE else "-"
            for output, slice_index in zip(units.outputs[unit], units.slices[unit], strict=True)
        )
        lines.append(f"unit {unit:2}  in {units.bank[unit]}  out {targets}")
    index.axis("off")
    index.set_title("4. indices", fontsize=9)
    index.text(0, 1, "\n".join(lines), va="top", fontsize=6.5, family="monospace")
    return figure


def _cycles(layer_map: Any, levels: np.ndarray, window: np.ndarray) -> Figure:
    """One unit, step by step: inputs, bitline sums, what is added where."""
    units, unit = layer_map.units, 1
    bank = int(units.bank[unit])
    rows = layer_map.banks[bank]
    u = window[0, rows[rows != NONE]]
    cells = layer_map.read_cells()[unit].astype(int)[: len(u)]
    weights = layer_map.compute_bitline_weights(SMALL)[unit]
    offset = layer_map.compute_offset(SMALL)
    columns = [f"bit {step}" for step in range(layer_map.input_bits)]
    planes = np.stack([(u >> step) & 1 for step in range(layer_map.input_bits)])
    sums = planes @ cells
    figure = Figure(figsize=(10, 4.2), dpi=130, layout="constrained")
    inputs, array, digital = figure.subplots(1, 3, width_ratios=[1.3, 1, 2.4])
    _grid(
        inputs, planes.T, planes.T.astype(str), "inputs, a bit a step", cmap="Blues", vmin=0, vmax=2
    )
    inputs.set_xticks(range(layer_map.input_bits), columns, fontsize=7)
    inputs.set_yticks(
        range(len(u)), [f"row {r}: {v}" for r, v in zip(rows, u, strict=False)], fontsize=7
    )
    _grid(array, cells, cells.astype(str), f"cells of unit {unit}", cmap="Oranges", vmin=0, vmax=5)
    array.set_xticks(
        range(4),
        [
            f"out {o}\nx {w}" if o != NONE else "-"
            for o, w in zip(units.outputs[unit], weights, strict=True)
        ],
        fontsize=7,
    )
    digital.axis("off")
    lines = ["step  bitline sums (ADC)   Σx   shifted and weighted"]
    total = np.zeros(4, int)
    for step in range(layer_map.input_bits):
        part = sums[step] * weights << step
        total += part
        lines.append(
            f"{step:4}  {' '.join(f'{s:4}' for s in sums[step])}  {planes[step].sum():4}   "
            + " ".join(f"{p:6}" for p in part)
        )
    lines += ["", "sum                              " + " ".join(f"{t:6}" for t in total)]
    lines.append(f"offset: {offset} x Σ u = {offset} x {u.sum()} off each weight's first slice")
    path, banks = datapath.build_parts((layer_map,), SMALL)[0]
    outputs = datapath.execute(path, banks, converters.build_converter(SMALL), jnp.asarray(window))
    exact = window @ levels[0]
    lines += [
        "",
        "all units, by output:",
        "data path       " + " ".join(f"{int(v):6}" for v in outputs[0]),
        "u @ levels      " + " ".join(f"{int(v):6}" for v in exact[0]),
    ]
    assert (np.asarray(outputs) == exact).all()
    digital.text(0, 1, "\n".join(lines), va="top", fontsize=7.5, family="monospace")
    digital.set_title("converted, shifted, added at the output index", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main())
