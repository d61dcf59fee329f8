"""Writes the files that a run leaves, each whole or not at all."""

import csv
import io
import json
import pathlib
from typing import Any

import numpy as np

from apq_jax import metrics
from apq_jax.compression.compressed import Compressed
from apq_jax.pipeline.judge import judge
from apq_jax.pipeline.prepared import Prepared
from apq_jax.problem import pareto
from apq_jax.run import tensorboard
from apq_jax.run.read import hash_result
from apq_jax.run.result import list_bits, look_up_keep_ratios
from apq_jax.strategies.loop import Record
from apq_jax.system import pytrees
from apq_jax.system.errors import explain_os_errors
from apq_jax.system.files import hash_file, write_whole
from apq_jax.types import Policy

FINISHED = "finished.json"  # what decided the result of a finished run or sweep
FILES = (  # with command.txt and CURVES, all that a finished run leaves
    "accelerator.toml",
    "search.csv",
    "result.json",
    "policy.json",
    "weights.safetensors",
    "mapping.safetensors",
    "report.md",
    "report.html",
    "progress.png",
    "pareto.png",
    "policy.png",
    "crossbars.png",
    "layer_energy.png",
    "energy.png",
    "adc.png",
    "fullness.png",
    "occupancy.png",
    FINISHED,
)
SIGNED = (  # by result.json
    "accelerator.toml",
    "search.csv",
    "policy.json",
    "weights.safetensors",
    "mapping.safetensors",
)
CHECKPOINT = "checkpoint.safetensors"  # of an unfinished search
CURVES = "tensorboard"  # a folder


def clear(workdir: pathlib.Path, *more: str) -> None:
    """Removes the results of an earlier run from the folder, so that no two runs are mixed.

    The checkpoint, command.txt and files that no run writes stay.

    Args:
      workdir: the folder.
      more: names of further files to remove.

    Raises:
      InputError: a file cannot be removed.
    """
    curves = workdir / CURVES
    events = [curves] if curves.is_symlink() else curves.glob(tensorboard.PATTERN)
    for path in [*(workdir / name for name in (*FILES, *more)), *events]:
        with explain_os_errors(path, "cannot be removed"):
            path.unlink(missing_ok=True)


def write_json(path: pathlib.Path, tree: Any) -> None:
    """Writes a tree of plain values as JSON.

    Raises:
      ValueError: a number is NaN or infinite.
      InputError: the file cannot be written.
    """
    write_whole(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def write_result(workdir: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes result.json, with digests of itself and of the files of SIGNED that lie beside it.

    Raises:
      ValueError: a number is NaN or infinite.
      InputError: a file cannot be read, or result.json cannot be written.
    """
    paths = [workdir / name for name in SIGNED if (workdir / name).exists()]
    result = result | {"files": {path.name: hash_file(path) for path in paths}}
    write_json(workdir / "result.json", result | {"sha256": hash_result(result)})


def write_search(path: pathlib.Path, prepared: Prepared, record: Record) -> None:
    """Writes search.csv, which docs/result.md describes: a row for every evaluation, in order.

    Raises:
      InputError: the file cannot be written.
    """
    names = [layer.name for layer in prepared.network.layers]
    judged = judge(prepared, record)
    measured = record.evaluation
    evaluation = np.arange(1, len(record.reward) + 1)
    first = pareto.find_first(record.policy) + 1
    columns = {
        "evaluation": evaluation,
        "repeats": np.where(first == evaluation, 0, first),
        "seed": prepared.config.seed + record.search,
        "accuracy": measured.accuracy,
        "expected_accuracy": judged.expected_accuracy,
        "divergence": measured.divergence,
        **{name: getattr(measured, name) for name in metrics.METRICS},
        "reward": record.reward,
        "feasible": judged.feasible.astype(int),
    }
    keep = look_up_keep_ratios(prepared, record.policy)
    for field, values in {"keep": keep, **list_bits(record.policy)}.items():
        columns |= {f"{field}.{name}": values[:, layer] for layer, name in enumerate(names)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    # float32 prints with its own shortest digits, not those of its float64 neighbour.
    writer.writerows(
        [str(value) for value in row]
        for row in zip(*(np.asarray(column) for column in columns.values()), strict=True)
    )
    write_whole(path, text.getvalue())


def write_weights(
    path: pathlib.Path, prepared: Prepared, policy: Policy, compressed: Compressed
) -> None:
    """Writes weights.safetensors, which docs/result.md describes.

    Each layer has its integer levels, mask, scales, multipliers and offsets; the header has its
    bits and block.

    Raises:
      InputError: the file cannot be written.
    """
    metadata = {"unit_rows": str(prepared.accelerator.unit_rows), "scheme": prepared.config.scheme}
    tensors = {}
    layers = zip(prepared.network.layers, compressed, prepared.subject.plan, strict=True)
    for index, (layer, integers, planned) in enumerate(layers):
        mask = np.asarray(planned.mask)[int(policy.level[index])]
        for name in ("levels", "weight_scale", "multiplier", "offset", "input_scale", "input_zero"):
            tensors[f"{layer.name}/{name}"] = np.asarray(getattr(integers, name))
        tensors[f"{layer.name}/mask"] = mask.astype(np.uint8)
        metadata[f"{layer.name}/block"] = f"{planned.block.high} x {planned.block.wide}"
        for name, bits in list_bits(policy).items():
            metadata[f"{layer.name}/{name}"] = str(int(bits[index]))
    pytrees.save(path, tensors, metadata)
