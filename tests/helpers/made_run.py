"""A run folder made by hand, for tests of what is read from one."""

import csv
import io
import pathlib
from typing import Any

import numpy as np

from apq_jax import mapping
from apq_jax.hardware import Accelerator
from apq_jax.mapping import schemes
from apq_jax.report import hardware
from apq_jax.run import write
from apq_jax.run.read import SCHEMA
from apq_jax.types import Layer

COST = {"area_mm2": 0.02, "energy_nj": 50.0, "latency_us": 400.0, "index_bits": 900}
MORE = {
    "area_pro_rata_mm2": 0.02,
    "area_rounded_mm2": 0.3,
    "allocated": 24,
    "period_us": 200.0,
    "bottleneck": "params/conv1/kernel",
    "gops_per_mm2": 12.5,
    "gops_per_w": 800.0,
}


def energies(adc: float, array: float, small: float) -> dict[str, dict[str, float]]:
    areas = {"adc": adc * 1e-5, "edram": array * 1e-5, "bus": 0.0}
    return {
        "energy_by_component_nj": {"adc": adc, "array": array, "sample_hold": small},
        "area_by_component_mm2": areas,
    }


def layer(name: str, slots: int, dense_slots: int) -> dict[str, Any]:
    return {
        "name": f"params/{name}/kernel",
        "rows": 27,
        "columns": 16,
        "groups": 1,
        "positions": 64,
        "keep": 0.25,
        "weight_bits": 4,
        "input_bits": 6,
        "crossbars": 1,
        "slots": slots,
        "index_bits": 300,
        "energy_nj": 16.5,
        "energy_by_component_nj": {"adc": 10.0, "array": 6.25, "sample_hold": 0.25},
        "utilisation": {
            "slots_unused": 200,
            "padding_cells": 40,
            "cells_used": 0.125,
            "index_overhead": 0.08,
        },
        "dense_8": {"crossbars": 2, "slots": dense_slots, "energy_nj": 66.0},
    }


def describe_unmapped(name: str, status: str, reason: str, multiplications: int) -> dict[str, Any]:
    rest = {"reason": reason, "multiplications": multiplications}
    return {"name": name, "status": status, **rest}


def seeds_of(*objectives: float | None) -> dict[str, Any]:
    known = [objective for objective in objectives if objective is not None]
    each = [
        {"seed": seed, "evaluations": 40 // len(objectives), "best": objective}
        for seed, objective in enumerate(objectives, 7)
    ]
    spread = {"least": min(known), "median": float(np.median(known)), "most": max(known)}
    return {"batch": "map", "of": "objective", "each": each, **spread}


def result_of() -> dict[str, Any]:
    """A result.json."""
    dense = {"crossbars": 6, "slots": 480, "area_mm2": 0.06, "energy_nj": 200.0}
    dense |= {"latency_us": 1600.0, "index_bits": 0, "period_us": 900.0}
    dense |= {"area_pro_rata_mm2": 0.06, "area_rounded_mm2": 0.45}
    twice = {name: 2 * value for name, value in dense.items()}
    best = {"crossbars": 3, "slots": 60, **COST, **MORE, **energies(30.0, 19.5, 0.5)}
    fields = {"crossbars": "crossbars", "slots": "slots", "area": "area_mm2"}
    fields |= {"energy": "energy_nj", "latency": "latency_us", "period": "period_us"}
    fields["area_rounded"] = "area_rounded_mm2"
    isaac = {**dense, "latency_us": 100.0, **energies(60.0, 20.0, 0.0)}
    dense |= energies(150.0, 49.0, 1.0) | {"validation_accuracy": 0.978}
    over = {"dense_8": dense, "dense_16": twice, "isaac_8": isaac, "isaac_16": twice}
    return {
        "schema": SCHEMA,
        "config": {
            "model": {"name": "lenet5"},
            "objective": {"slots": 0.75, "crossbars": 0.0, "area_mm2": 0.0, "energy_nj": 0.25}
            | {"latency_us": 0.0},
            "search": {"episodes": 40, "pruning_share": 0.5, "parallel": 8},
        },
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "seed": 7,
        "accelerator": "isaac_ou",
        "command": "python -m apq_jax.search --config=x.py",
        "interrupted": False,
        "network": {
            "name": "lenet5",
            "multiplications": 3_000,
            "not_mapped": [
                describe_unmapped("params/conv1/bias", "digital", "", 0),
                describe_unmapped("dot_general", "digital", "activations times activations", 600),
                describe_unmapped("dot_general", "digital", "activations times activations", 400),
            ],
        },
        "data": {"name": "digits", "train": 600, "search": 100, "select": 100, "test": 400},
        "float": {"validation_accuracy": 0.98, "search_accuracy": 0.97, "test_accuracy": 0.96},
        "goal": "cost",
        "limits": {"accuracy_drop": 1.0},
        "best": {
            "policy": {"keep": [0.25] * 3, "weight_bits": [4] * 3, "input_bits": [6] * 3},
            "evaluation": 40,
            "seed": 7,
            "validation_accuracy": 0.97,
            "search_accuracy": 0.96,
            "expected_accuracy": 0.965,
            "test_accuracy": 0.9575,
            "test_difference": {"mean": -0.25, "low": -1.1, "high": 0.6},
            "fine_tuned": True,
            "meets_limit": True,
            "misses": [],
            **best,
        },
        "dense": {"8": dense, "16": twice},
        "dense_isaac": {"8": isaac, "16": twice},
        "ratios": {
            name: {
                words: cost[field] / best[field]
                for words, cost in over.items()
                if name != "slots" or words.startswith("dense")  # ISAAC has no slots
            }
            for name, field in fields.items()
        },
        "adc_laws": {
            "saberi": {f"{name}_8": 2.5 for name in hardware.LAW_RATIOS},
            "linear": {f"{name}_8": 3.75 for name in hardware.LAW_RATIOS},
        },
        "mapping": {
            "bit_exact": True,
            "mismatches": 0,
            "compared": 1234,
            "same_class": 32,
            "levels_differ": 0,
            "scales_agree": True,
            "counts_agree": True,
            "images": 32,
            "crossbars": 3,
            "index_bits": 900,
        },
        "adc_curve": [
            {
                "bits": bits,
                "accuracy": 0.97 - 0.3 * (5 - bits),
                "images": 100,
                "energy_nj": 10.0 * bits,
                "area_mm2": 0.01,
            }
            for bits in (5, 4, 3)
        ],
        "notes": ["The converters are imaginary."],
        "layers": [layer("conv1", 10, 40), layer("conv2", 20, 160), layer("fc", 30, 280)],
        "search": {"strategy": "apq", "evaluations": 40, "seconds": 12.0, "finalists": 5}
        | {"distinct": 38, "drops": [], "seeds": seeds_of(1.25)},
        "finetune": [
            {
                "evaluation": 40,
                "slots_over_dense_8": 8.0,
                "expected_accuracy": 0.95,
                "loss_before": 0.0625,
                "loss": 0.03125,
                "steps": 1400,
                "seconds": 17.2,
                "validation_accuracy": 0.97,
                "meets_limit": True,
            }
        ],
        "front": {
            "hypervolume": 12.345,
            "reference": {"gain": 0.0, "points_lost": 10.0},
            "knee": 31,
            "non_dominated": [1, 31, 40],
        },
        "pareto": [
            {"evaluation": 31, "gain": 2.0, "expected_accuracy": 0.965, "slots": 77},
            {"evaluation": 40, "gain": 2.2, "expected_accuracy": 0.962, "slots": 62},
        ],
    }


def list_fields(tree: Any, path: str = "") -> set[str]:
    """Lists every leaf's path and kind; the items of a list are one."""
    if isinstance(tree, dict):
        return {leaf for name in tree for leaf in list_fields(tree[name], f"{path}.{name}")}
    if isinstance(tree, list):
        return {leaf for item in tree for leaf in list_fields(item, f"{path}[]")}
    is_number = isinstance(tree, int | float) and not isinstance(tree, bool)
    return {f"{path}: {'number' if is_number else type(tree).__name__}"}


def write_run(result: dict[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Writes it and 40 evaluations."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["evaluation", "seed", "reward", "accuracy", "expected_accuracy", "slots", "crossbars"]
    head += ["area_mm2", "energy_nj", "latency_us", "feasible"]
    names = [layer["name"] for layer in result["layers"]]
    fields = ("keep", "weight_bits", "input_bits")
    writer.writerow([*head, *(f"{field}.{name}" for field in fields for name in names)])
    for evaluation in range(1, 41):
        slots = int(480 / (1 + evaluation / 6))
        expected = 0.97 - 0.0002 * evaluation
        reward = np.log(480 / slots) if evaluation % 9 else -8.0
        accuracy = expected + 0.005 * rng.normal()
        costs = [slots, 3 + slots // 160, 0.02, 200 - 4 * evaluation, 400.0]
        policy = [*[1 / evaluation] * 3, *[4] * 3, *[6] * 3]
        seed = 7 + evaluation // 21
        writer.writerow([evaluation, seed, reward, accuracy, expected, *costs, 1, *policy])
    (folder / "search.csv").write_text(text.getvalue())
    write.write_result(folder, result)
    return folder


def write_mapping(result: dict[str, Any], folder: pathlib.Path) -> mapping.Mapping:
    """mapping.safetensors: three column-vectors of four, in crossbars of 20 x 12 cells."""
    accelerator = Accelerator(
        crossbar_rows=20, crossbar_columns=12, unit_rows=9, unit_columns=4, name="small"
    )
    rng, maps, scales = np.random.default_rng(0), [], []
    for row in result["layers"]:
        layer = Layer(row["name"], 1, row["rows"], row["columns"], row["positions"], (), ())
        scores = rng.random((1, layer.rows, layer.columns))
        mask = schemes.prune_blocks(layer, scores, "column_vector", 0.75, accelerator)
        levels = rng.integers(-7, 8, mask.shape) * mask
        maps.append(mapping.map_layer(layer, levels, mask, 4, 6, "column_vector", accelerator))
        ones = np.ones((1, layer.columns), np.float32)
        scales.append(mapping.Scales(ones, np.float32(1), np.float32(0), ones, ones))
    crossbars = mapping.Mapping(accelerator, "column_vector", tuple(maps), tuple(scales), {})
    mapping.save(folder / "mapping.safetensors", crossbars)
    return crossbars
