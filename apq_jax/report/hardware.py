"""What the report of a run says of the hardware: its crossbars, converters, energy and area."""

import pathlib
from typing import Any

import numpy as np

from apq_jax import mapping
from apq_jax.mapping.pictures import filled, fullness, occupancy
from apq_jax.report import hardware_figures, wording
from apq_jax.report.document import Block, Part, Picture, Table, Text
from apq_jax.report.wording import short_names
from apq_jax.run.read import Rows

LAW_RATIOS = (
    "energy_over_dense",
    "energy_over_isaac",
    "area_over_dense",
    "area_over_isaac",
)


def mapped(folder: pathlib.Path, result: dict[str, Any]) -> tuple[Block, ...]:
    proof = result["mapping"]
    says = (
        "equals the quantized network **bit for bit**"
        if proof["bit_exact"]
        else "does **NOT** equal the quantized network"
    )
    return (
        Text(
            f"`mapping.safetensors` holds every cell of {proof['crossbars']} crossbars, every "
            f"unit's place, input index and output indices ({proof['index_bits']:,} bits). "
            f"Executed unit by unit on {proof['images']} images and random inputs it {says}: "
            f"{proof['mismatches']:,} of {proof['compared']:,} accumulators differ, scales "
            f"{'agree' if proof['scales_agree'] else 'DIFFER'}, counts and actions "
            f"{'agree' if proof['counts_agree'] else 'DIFFER'}. Run from image to class, it gives "
            f"the same class on {proof['same_class']} of {proof['images']}; "
            f"{proof['levels_differ']:,} levels between its layers differ, where rounding is tied. "
            "Look into it with `python -m apq_jax.mapping inspect mapping.safetensors`."
        ),
        *_crossbars(folder / "mapping.safetensors"),
        *_utilisation(result),
    )


def _crossbars(path: pathlib.Path) -> tuple[Block, ...]:
    """Pictures of the mapping, where the folder holds it."""
    if not path.exists():
        return (Text("It is not in this folder, so its crossbars are not drawn."),)
    found = mapping.load(path)
    names = short_names([one.layer.name for one in found.maps])
    shares = [filled(one) for one in found.maps]
    layer = int(np.argmax([share.max() for share in shares]))
    crossbar = int(shares[layer].argmax())
    return (
        Picture(
            "fullness", "How much of each crossbar of each layer is used", fullness(found, names)
        ),
        Picture(
            "occupancy",
            f"Cells and input indices of the fullest crossbar, {crossbar + 1} of {names[layer]}",
            occupancy(found, layer, crossbar),
        ),
        Text(
            "Above, how much of each crossbar is used; below, the fullest: the value of each cell, "
            "and which list of inputs feeds its operation unit."
        ),
    )


def _utilisation(result: dict[str, Any]) -> tuple[Block, ...]:
    use = [layer["utilisation"] for layer in result["layers"]]
    names = short_names([layer["name"] for layer in result["layers"]])
    body = [
        [name, f"{100 * one['cells_used']:.0f} %", f"{100 * one['index_overhead']:.0f} %"]
        for name, one in zip(names, use, strict=True)
    ]
    slots = sum(one["slots_unused"] for one in use)
    padding = sum(one["padding_cells"] for one in use)
    head = ["layer", "cells of the crossbars used", "index over weight bits"]
    return (
        Text(
            f"{slots:,} slots of occupied crossbars are empty, {padding:,} cells of used units "
            "hold nothing."
        ),
        Table("Occupancy", (Part(head, body),)),
    )


def curve(result: dict[str, Any], rows: Rows) -> tuple[Block, ...]:
    points = result["adc_curve"]
    if not points:
        return (Text("No curve was measured."),)
    body = [
        [
            str(point["bits"]),
            wording.percent(point["accuracy"], point["images"]),
            f"{point['energy_nj']:,.1f}",
            f"{point['area_mm2']:.4f}",
        ]
        for point in points
    ]
    images, select = points[0]["images"], result["data"]["select"]
    of_all = "" if images == select else f"the first {images:,} of "
    return (
        Text(
            "What fewer bits of the converters would do to this policy, executed on "
            f"{of_all}the selection half's {select:,} images, alike in all layers; the first row "
            "is lossless:"
        ),
        Picture("adc", "Accuracy and energy by ADC bits", hardware_figures.adc(result, rows)),
        Table(
            "By bits of the converters",
            (Part(["ADC bits", "accuracy", "energy, nJ", "area, mm²"], body),),
        ),
    )


def components(result: dict[str, Any], rows: Rows) -> tuple[Block, ...]:
    laws = [
        [law, *(f"{ratios[f'{name}_8']:.2f}x" for name in LAW_RATIOS)]
        for law, ratios in result["adc_laws"].items()
    ]
    head = ["law of the converters", *(name.replace("_", " ") + " 8" for name in LAW_RATIOS)]
    energy = _breakdown(result, "energy_by_component_nj", "nJ an inference", 1.0, ",.2f")
    area = _breakdown(result, "area_by_component_mm2", "µm²", 1e6, ",.0f")
    return (
        Picture(
            "energy",
            "Energy of an inference by component: unpruned on ISAAC, unpruned, chosen",
            hardware_figures.energy(result, rows),
        ),
        Table("Energy by component", (energy,)),
        Table("Area by component", (area,)),
        Text(
            "What a converter costs by its resolution is disputed. The ratios under each law, with "
            "everything else the same:"
        ),
        Table("Ratios by the law of the converters", (Part(head, laws),)),
    )


def _breakdown(result: dict[str, Any], field: str, words: str, scale: float, form: str) -> Part:
    """A cost of the unpruned network and of the chosen policy, by component."""
    parts = {
        "ISAAC 8": result["dense_isaac"]["8"],
        "dense 8": result["dense"]["8"],
        "chosen": result["best"],
    }
    found = [cost[field] for cost in parts.values()]
    rows = [
        [name.replace("_", " "), *(format(scale * cost[name], form) for cost in found)]
        for name in sorted(found[-1], key=lambda name: -found[-1][name])
        if any(cost[name] for cost in found)
    ]
    rows.append(["sum", *(format(scale * sum(cost.values()), form) for cost in found)])
    return Part([words, *parts], rows)
