"""Builds the report's sections on the hardware: its crossbars, converters, energy and area."""

import pathlib
from typing import Any

import numpy as np

from apq_jax.mapping import load as load_mapping
from apq_jax.mapping.pictures import compute_fill, draw_fullness, draw_occupancy
from apq_jax.metrics import COSTS
from apq_jax.report import hardware_figures
from apq_jax.report.document import Block, Part, Picture, Table, Text
from apq_jax.report.wording import format_accuracy, read_layer_names, shorten_names

LAW_RATIOS = (  # under each law of the converters, in `adc_laws` of result.json
    "energy_over_dense",
    "energy_over_isaac",
    "area_over_dense",
    "area_over_isaac",
)


def build_mapping(folder: pathlib.Path, result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the blocks on the mapping: whether it is exact, and how full its crossbars are.

    Args:
      folder: of the run; without mapping.safetensors the crossbars are not drawn.
      result: result.json, here and in the functions below.

    Raises:
      InputError: mapping.safetensors is damaged.
    """
    proof = result["mapping"]
    verdict = (
        "equals the quantized network **bit for bit**"
        if proof["bit_exact"]
        else "does **NOT** equal the quantized network"
    )
    return (
        Text(
            f"`mapping.safetensors` holds every cell of {proof['crossbars']} crossbars, every "
            f"unit's place, input index and output indices ({proof['index_bits']:,} bits). "
            f"Executed unit by unit on {proof['images']} images and random inputs it {verdict}: "
            f"{proof['mismatches']:,} of {proof['compared']:,} accumulators differ, scales "
            f"{'agree' if proof['scales_agree'] else 'DIFFER'}, counts and actions "
            f"{'agree' if proof['counts_agree'] else 'DIFFER'}. Run from image to class, it gives "
            f"the same class on {proof['same_class']} of {proof['images']}; "
            f"{proof['levels_differ']:,} levels between its layers differ, where rounding is tied. "
            "Look into it with `python -m apq_jax.mapping inspect mapping.safetensors`."
        ),
        *_draw_mapping(folder / "mapping.safetensors"),
        *_build_utilisation(result),
    )


def _draw_mapping(path: pathlib.Path) -> tuple[Block, ...]:
    """Draws the crossbars of the mapping in a file, or says that the file is missing."""
    if not path.exists():
        return (Text("It is not in this folder, so its crossbars are not drawn."),)
    mapping = load_mapping(path)
    names = shorten_names([layer_map.layer.name for layer_map in mapping.maps])
    shares = [compute_fill(layer_map) for layer_map in mapping.maps]
    fullest = int(np.argmax([share.max() for share in shares]))
    crossbar = int(shares[fullest].argmax())
    return (
        Picture(
            "fullness",
            "How much of each crossbar of each layer is used",
            draw_fullness(mapping, names),
        ),
        Picture(
            "occupancy",
            f"Cells and input indices of the fullest crossbar, {crossbar + 1} of {names[fullest]}",
            draw_occupancy(mapping, fullest, crossbar),
        ),
        Text(
            "Above, how much of each crossbar is used; below, the fullest: the value of each cell, "
            "and which list of inputs feeds its operation unit."
        ),
    )


def _build_utilisation(result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the table of the share of its crossbars that each layer uses."""
    layers = [layer["utilisation"] for layer in result["layers"]]
    body = [
        [name, f"{100 * use['cells_used']:.0f} %", f"{100 * use['index_overhead']:.0f} %"]
        for name, use in zip(read_layer_names(result), layers, strict=True)
    ]
    slots = sum(use["slots_unused"] for use in layers)
    padding = sum(use["padding_cells"] for use in layers)
    head = ["layer", "cells of the crossbars used", "index over weight bits"]
    return (
        Text(
            f"{slots:,} slots of occupied crossbars are empty, {padding:,} cells of used units "
            "hold nothing."
        ),
        Table("Occupancy", (Part(head, body),)),
    )


def build_adc_curve(result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the blocks on the accuracy and costs that fewer bits of the converters would have."""
    points = result["adc_curve"]
    if not points:
        return (Text("No curve was measured."),)
    metrics = (COSTS["energy_nj"], COSTS["area_mm2"])
    body = [
        [
            str(point["bits"]),
            format_accuracy(point["accuracy"], point["images"]),
            *(format(point[metric.field], metric.format) for metric in metrics),
        ]
        for point in points
    ]
    head = ["ADC bits", "accuracy", *(metric.short_words for metric in metrics)]
    images, select = points[0]["images"], result["data"]["select"]
    part = "" if images == select else f"the first {images:,} of "
    return (
        Text(
            "What fewer bits of the converters would do to this policy, executed on "
            f"{part}the selection half's {select:,} images, alike in all layers; the first row "
            "is lossless:"
        ),
        Picture("adc", "Accuracy and energy by ADC bits", hardware_figures.draw_adc_curve(result)),
        Table("By bits of the converters", (Part(head, body),)),
    )


def build_components(result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the blocks on each component's energy and area, and on the converters' laws."""
    laws = [
        [law, *(f"{ratios[f'{name}_8']:.2f}x" for name in LAW_RATIOS)]
        for law, ratios in result["adc_laws"].items()
    ]
    head = ["law of the converters", *(name.replace("_", " ") + " 8" for name in LAW_RATIOS)]
    unit = COSTS["energy_nj"].unit
    energy = _break_down(result, "energy_by_component_nj", unit, 1.0, ",.2f")
    area = _break_down(result, "area_by_component_mm2", "µm²", 1e6, ",.0f")
    return (
        Picture(
            "energy",
            "Energy of an inference by component: unpruned on ISAAC, unpruned, chosen",
            hardware_figures.draw_energy(result),
        ),
        Table("Energy by component", (energy,)),
        Table("Area by component", (area,)),
        Text(
            "What a converter costs by its resolution is disputed. The ratios under each law, with "
            "everything else the same:"
        ),
        Table("Ratios by the law of the converters", (Part(head, laws),)),
    )


def _break_down(result: dict[str, Any], field: str, unit: str, scale: float, form: str) -> Part:
    """Builds the table of a cost by component: unpruned on ISAAC, unpruned, and chosen.

    Components are in the order of the chosen policy's costs, the largest first.

    Args:
      result: result.json.
      field: the name of a cost that is a dictionary by component.
      unit: of the figures in the table.
      scale: how many of `unit` make one of the field's unit.
      form: of the figures, as `format` takes it.
    """
    costs = {
        "ISAAC 8": result["dense_isaac"]["8"][field],
        "dense 8": result["dense"]["8"][field],
        "chosen": result["best"][field],
    }
    chosen = costs["chosen"]
    rows = [
        [name.replace("_", " "), *(format(scale * cost[name], form) for cost in costs.values())]
        for name in sorted(chosen, key=lambda name: -chosen[name])
        if any(cost[name] for cost in costs.values())
    ]
    rows.append(["sum", *(format(scale * sum(cost.values()), form) for cost in costs.values())])
    return Part([unit, *costs], rows)
