"""The files that a run leaves; each is written whole."""

import csv
import importlib.metadata
import io
import json
import pathlib
import platform
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from apq_jax import archive, config, crossbar, pipeline
from apq_jax.data import Dataset
from apq_jax.evaluation import Compressed
from apq_jax.files import InputError, write_whole
from apq_jax.loop import Record
from apq_jax.pipeline import Choice, Measured, Prepared
from apq_jax.types import Policy

SCHEMA = 1
FILES = (  # and command.txt, tensorboard/
    "search.csv",
    "result.json",
    "policy.json",
    "weights.safetensors",
    "report.md",
    "progress.png",
    "pareto.png",
    "policy.png",
    "crossbars.png",
)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "rlax", "numpy", "chex")
_COST = ("crossbars", "slots", "area_mm2", "energy_nj", "latency_us", "index_bits")
_RATIOS = {
    "crossbars": "crossbars",
    "slots": "slots",
    "area": "area_mm2",
    "energy": "energy_nj",
    "latency": "latency_us",
}


def clear(workdir: pathlib.Path) -> None:
    """Removes what an earlier run left in the folder, so that no two runs are mixed there.

    Raises:
      InputError: a file cannot be removed.
    """
    events = workdir.glob("tensorboard/events.out.tfevents.*")
    for path in [*(workdir / name for name in FILES), *events]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be removed ({error.strerror})") from error


def write_json(path: pathlib.Path, tree: Any) -> None:
    """Writes a tree of plain values; NaN and infinities are refused."""
    write_whole(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def write_search(path: pathlib.Path, prepared: Prepared, record: Record) -> None:
    """search.csv: every evaluation, in order."""
    names = [layer.name for layer in prepared.network.layers]
    expected = pipeline.expected_accuracy(prepared, record)
    feasible = expected >= float(prepared.problem.min_accuracy)
    measured = record.evaluation
    columns = {
        "evaluation": np.arange(1, len(record.reward) + 1),
        "accuracy": measured.accuracy,
        "expected_accuracy": expected,
        "divergence": measured.divergence,
        **{name: getattr(measured, name) for name in _COST[:-1]},
        "reward": record.reward,
        "feasible": feasible.astype(int),
    }
    keep = keep_ratios(prepared, record.policy)
    for field, values in (
        ("keep", keep),
        ("weight_bits", record.policy.weight_bits),
        ("input_bits", record.policy.input_bits),
    ):
        columns |= {f"{field}.{name}": values[:, at] for at, name in enumerate(names)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    # float32 prints with its own shortest digits, not those of its float64 neighbour.
    writer.writerows(
        [str(value) for value in row]
        for row in zip(*(np.asarray(column) for column in columns.values()), strict=True)
    )
    write_whole(path, text.getvalue())


def keep_ratios(prepared: Prepared, policy: Policy) -> np.ndarray:
    """The keep ratios of a policy's levels, [..., L]."""
    keep = np.stack([np.asarray(layer.keep) for layer in prepared.subject.plan])
    return keep[np.arange(len(keep)), np.asarray(policy.level)]


def write_weights(
    path: pathlib.Path, prepared: Prepared, policy: Policy, network: Compressed
) -> None:
    """weights.safetensors: integer levels, masks, scales and what turns sums into outputs."""
    tensors, metadata = {}, {"unit_rows": str(prepared.accelerator.unit_rows)}
    layers = zip(prepared.network.layers, network, prepared.subject.plan, strict=True)
    for at, (layer, found, planned) in enumerate(layers):
        mask = planned.mask[int(policy.level[at])]
        for name in ("levels", "weight_scale", "multiplier", "offset", "input_scale", "input_zero"):
            tensors[f"{layer.name}/{name}"] = np.asarray(getattr(found, name))
        tensors[f"{layer.name}/mask"] = np.asarray(mask).astype(np.uint8)
        metadata[f"{layer.name}/weight_bits"] = str(int(policy.weight_bits[at]))
        metadata[f"{layer.name}/input_bits"] = str(int(policy.input_bits[at]))
    write_whole(path, safetensors.numpy.save(tensors, metadata))


def versions() -> dict[str, str]:
    """Of Python and the packages that decide the numbers."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def dense_cost(prepared: Prepared, bits: int) -> dict[str, Any]:
    """The unpruned network's cost at `bits`-bit weights and inputs on the same accelerator."""
    layers, accelerator = prepared.network.layers, prepared.accelerator
    all_bits = np.full(len(layers), bits)
    counts = crossbar.dense_counts(layers, accelerator, all_bits)
    cost = _plain(crossbar.cost(layers, counts, accelerator, all_bits))
    return cost | {"activations": activations(prepared, counts, all_bits)}


def activations(prepared: Prepared, counts: crossbar.Counts, input_bits: np.ndarray) -> int:
    """Operation-unit activations of one inference, Σ_layers P ⌈a/d⌉ Σ_g u_g, exact."""
    steps = -(-np.asarray(input_bits) // prepared.accelerator.dac_bits)
    positions = np.asarray([layer.positions for layer in prepared.network.layers], np.int64)
    return int((positions * steps * counts.units).sum())


def _plain(cost: crossbar.Cost) -> dict[str, Any]:
    return {name: getattr(cost, name).item() for name in _COST}


def policy_json(prepared: Prepared, policy: Policy) -> dict[str, list]:
    """A policy as it stands in result.json and policy.json."""
    return {
        "keep": [float(f"{keep:.6g}") for keep in keep_ratios(prepared, policy)],
        "weight_bits": [int(bits) for bits in policy.weight_bits],
        "input_bits": [int(bits) for bits in policy.input_bits],
    }


def result(
    prepared: Prepared,
    dataset: Dataset,
    record: Record,
    choice: Choice,
    measured: Measured,
    seconds: float,
    command: str,
    interrupted: bool,
) -> dict[str, Any]:
    """result.json; docs/result.md describes it."""
    network, accelerator, options = prepared.network, prepared.accelerator, prepared.config.search
    policy = Policy(*(np.asarray(field, np.int64) for field in choice.policy))
    tables = jax.tree.map(np.asarray, prepared.subject.tables)
    counts = crossbar.counts(
        network.layers, crossbar.Tables(*(t.astype(np.int64) for t in tables)), accelerator, policy
    )
    cost = _plain(crossbar.cost(network.layers, counts, accelerator, policy.input_bits))
    dense = {bits: dense_cost(prepared, int(bits)) for bits in ("8", "16")}
    expected = pipeline.expected_accuracy(prepared, record)
    scored = len(dataset.search_labels)
    return {
        "schema": SCHEMA,
        "command": command,
        "config": config.to_config_dict(prepared.config).to_dict(),
        "versions": versions(),
        "seed": prepared.config.seed,
        "interrupted": interrupted,
        "data": {
            "name": dataset.name,
            **{
                split: len(getattr(dataset, f"{split}_labels"))
                for split in ("train", "search", "select", "test")
            },
        },
        "float": {
            "validation_accuracy": choice.float_accuracy,
            "search_accuracy": _quotient(prepared.problem.float_accuracy, scored),
            "test_accuracy": measured.float_accuracy,
        },
        "limit": {
            "max_accuracy_drop": options.max_accuracy_drop,
            "min_accuracy": choice.float_accuracy - options.max_accuracy_drop / 100.0,
        },
        "best": {
            "activations": activations(prepared, counts, policy.input_bits),
            "policy": policy_json(prepared, policy),
            "evaluation": choice.number + 1,
            "validation_accuracy": choice.accuracy,
            "search_accuracy": _quotient(record.evaluation.accuracy[choice.number], scored),
            "expected_accuracy": float(expected[choice.number]),
            "test_accuracy": measured.accuracy,
            "test_difference": {
                "mean": measured.difference,
                "low": measured.low,
                "high": measured.high,
            },
            "meets_limit": choice.meets_limit,
            **cost,
        },
        "dense": dense,
        "ratios": {
            name: {f"dense_{bits}": dense[bits][field] / cost[field] for bits in dense}
            for name, field in _RATIOS.items()
        },
        "layers": _layers(prepared, policy, counts),
        "search": {
            "strategy": options.strategy,
            "evaluations": len(record.reward),
            "seconds": seconds,
            "evaluations_per_second": len(record.reward) / max(seconds, 1e-9),
            "finalists": choice.finalists,
            "drop_per_nat": float(prepared.problem.drop_per_nat),
        },
        "pareto": _pareto(prepared, record, expected),
    }


def _quotient(accuracy: Any, count: int) -> float:
    """The quotient of whole numbers that a float32 accuracy on `count` images stands for."""
    return round(float(accuracy) * count) / count


def _layers(prepared: Prepared, policy: Policy, counts: crossbar.Counts) -> list[dict[str, Any]]:
    layers, accelerator = prepared.network.layers, prepared.accelerator
    eight = np.full(len(layers), 8)
    dense = crossbar.dense_counts(layers, accelerator, eight)
    energy = crossbar.layer_energy(layers, counts, accelerator, policy.input_bits)
    dense_energy = crossbar.layer_energy(layers, dense, accelerator, eight)
    chosen = policy_json(prepared, policy)
    return [
        {
            "name": layer.name,
            "rows": layer.rows,
            "columns": layer.columns,
            "groups": layer.groups,
            "positions": layer.positions,
            **{field: values[at] for field, values in chosen.items()},
            **{
                name: int(getattr(counts, name)[at])
                for name in ("crossbars", "slots", "index_bits")
            },
            "energy_nj": float(energy[at]),
            "dense_8": {
                "crossbars": int(dense.crossbars[at]),
                "slots": int(dense.slots[at]),
                "energy_nj": float(dense_energy[at]),
            },
        }
        for at, layer in enumerate(layers)
    ]


def _pareto(prepared: Prepared, record: Record, expected: np.ndarray) -> list[dict[str, Any]]:
    """Policies that none beats in both the objective and the expected accuracy."""
    front = archive.pareto_front(pipeline.gain(prepared, record), expected)
    names = ("accuracy", *_COST[:-1])
    return [
        {
            "evaluation": int(number) + 1,
            "expected_accuracy": float(expected[number]),
            **{name: getattr(record.evaluation, name)[number].item() for name in names},
        }
        for number in front
    ]
