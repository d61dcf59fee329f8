"""The readers of files that benchmarks/fuzz.py tries, and a valid file or folder for each."""

import functools
import gzip
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from fuzz_changes import Change, change_signed, damage_file
from harness import ROOT, SMALLEST, change

from apq_jax import data, hardware, mapping
from apq_jax.config import Config, from_config_dict, to_config_dict
from apq_jax.data.idx import FILES
from apq_jax.export import finished_run, simulators
from apq_jax.export.onnx_check import build_onnx
from apq_jax.hardware import Accelerator
from apq_jax.mapping import Mapping, Scales
from apq_jax.metrics import METRICS
from apq_jax.models.onnx.model import load
from apq_jax.pipeline.stages import Standing
from apq_jax.report import html, make, query
from apq_jax.run import checkpoint, flags, write
from apq_jax.run.job import run
from apq_jax.run.read import NEEDED, SCHEMA, hash_result, read_result
from apq_jax.run.write import FINISHED
from apq_jax.strategies.loop import Carry, Record
from apq_jax.sweep import table
from apq_jax.sweep.folder import SweepFolder
from apq_jax.sweep.points import Point
from apq_jax.system import pytrees
from apq_jax.system.terminal import console
from apq_jax.types import Evaluation, Layer, Policy


class Reader(NamedTuple):
    """A kind of file, or of folder."""

    name: str  # of the file or folder
    write: Callable[[pathlib.Path], Any]  # a valid one
    read: Callable[[pathlib.Path], Any]
    change: Change = damage_file
    slowness: int = 1  # one of so many inputs is tried


def _onnx(path: pathlib.Path) -> None:
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"conv": (4, 1, 3, 3), "fc": (3, 48)} | dict.fromkeys(("scale", "bias", "mean"), (4,))
    tensors = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    tensors |= {
        "var": np.ones(4, "f4"),
        "flat": np.array([0, -1]),
        "edges": np.array([0, 0, 1, 1] * 2),
    }
    nodes = [
        helper.make_node("Pad", ["x", "edges"], ["p"]),
        helper.make_node("Conv", ["p", "conv"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        helper.make_node("Transpose", ["m"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Slice", ["t", "zero", "three", "one"], ["s"]),
        helper.make_node("Reshape", ["s", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "fc"], ["l"], transB=1),
        helper.make_node("Softmax", ["l"], ["y"], axis=-1),
    ]
    tensors |= {"zero": np.array([0]), "three": np.array([3]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", 1, ["N", 1, 12, 12])],
        [helper.make_tensor_value_info("y", 1, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    path.write_bytes(model.SerializeToString())


def _npz(path: pathlib.Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (250, 3, 3), dtype=np.uint8)
    np.savez_compressed(path, images=images, labels=np.arange(250) % 2)


_LIKE = {"a": {"kernel": np.ones((3, 4), np.float32), "bias": np.zeros(4, np.float32)}}


def _draw_levels() -> np.ndarray:
    return np.random.default_rng(0).integers(-7, 8, (1, 27, 6))


@functools.cache
def _build_mapping() -> Mapping:
    accelerator = Accelerator(crossbar_rows=20, crossbar_columns=12, unit_rows=9, unit_columns=4)
    layer = Layer("conv", 1, 27, 6, 10, (3, 3), (1, 1))
    levels = _draw_levels()
    mask = np.ones(levels.shape, bool)
    mapped = mapping.map_layer(layer, levels, mask, 4, 5, "dense", accelerator)
    scale = np.ones((1, 6), np.float32)
    scales = Scales(scale, np.ones((), np.float32), np.zeros((), np.float32), scale, scale)
    return Mapping(accelerator, "dense", (mapped,), (scales,), {"bias": scale[0]})


def _levels(path: pathlib.Path) -> None:
    (scales,) = _build_mapping().scales
    tensors = {f"conv/{name}": np.asarray(value) for name, value in scales._asdict().items()}
    tensors["conv/levels"] = _draw_levels().astype(np.int8)
    pytrees.save(path, tensors)


def _result(path: pathlib.Path) -> None:
    """A run's result.json whose fields are empty but for the configuration."""
    tree: dict[str, Any] = {name: {} for name in NEEDED}
    tree |= {"schema": SCHEMA}
    tree |= {"config": to_config_dict(Config()).to_dict()}
    path.write_text(json.dumps(tree | {"sha256": hash_result(tree)}))


_IDENTITY = {"config.seed": "0"}
_LEVELS = 4  # keep levels of the policies in a checkpoint


def _build_searches(evaluations: int) -> tuple[Standing, Record]:
    """Builds the state of one search of two layers, and its record."""
    of_layers, one_each = np.ones((evaluations, 2), np.int32), np.ones(evaluations, np.float32)
    costs = [one_each.astype(np.int32 if 2 <= index <= 3 else np.float32) for index in range(7)]
    record = Record(
        Policy(*[of_layers] * 3), Evaluation(*costs), one_each, np.zeros(evaluations, np.int32)
    )
    carry: tuple[Any, ...] = np.zeros((1, 2), np.uint32), np.zeros((1, 6)), np.ones(1, np.int32)
    return Standing(np.zeros((), np.int32), Carry(*carry)), record


def _checkpoint(path: pathlib.Path) -> None:
    checkpoint.save(path, _IDENTITY, 1.5, *_build_searches(3))


def _read_checkpoint(path: pathlib.Path) -> None:
    saved = checkpoint.read(path)
    if saved is not None:
        checkpoint.require_same(saved, _IDENTITY)
        checkpoint.restore(saved, *_build_searches(0), _LEVELS)


_POINTS = [Point({"seed": seed}, Accelerator(), Config()) for seed in range(3)]


def _sweep(folder: pathlib.Path) -> None:
    """A finished sweep's table, and what decided its numbers."""
    folder.mkdir()
    costs = dict.fromkeys(METRICS, 12.5)
    row: dict[str, Any] = {"meets_limits": 1, "points_lost": 0.25, **costs, "weight_bits": "2 3"}
    rows = {seed: {"seed": seed, **row} for seed in (0, 2)}
    rows[1] = {"seed": 1, "meets_limits": 0, "note": "config.limits.slots: 1; allowed: more"}
    (folder / "sweep.csv").write_text(table.format_csv(rows))
    (folder / FINISHED).write_text(json.dumps(_IDENTITY))


def _read_sweep(folder: pathlib.Path) -> None:
    SweepFolder(folder, _POINTS, "title", dict(_IDENTITY), True)


def _config(path: pathlib.Path) -> None:
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({to_config_dict(Config()).to_dict()})\n"
    )


def _idx(folder: pathlib.Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count, axes in zip(FILES, (1200, 1200, 300, 300), (3, 1, 3, 1), strict=True):
        shape = (count, 3, 3)[:axes]
        sizes = b"".join(size.to_bytes(4, "big") for size in shape)
        values = rng.integers(0, 255, shape) if axes == 3 else np.arange(count) % 2
        header = bytes([0, 0, 8, axes]) + sizes
        (folder / name).write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@functools.cache
def _make_run() -> tempfile.TemporaryDirectory[str]:
    """Makes the folder of a finished run, once; the network and its images lie beside it."""
    folder = tempfile.TemporaryDirectory()
    base = pathlib.Path(folder.name)
    _onnx(base / "net.onnx")
    rng, labels = np.random.default_rng(0), np.arange(600) % 3
    images = rng.integers(0, 255, (600, 12, 12), dtype=np.uint8)
    np.savez(base / "images.npz", images=images, labels=labels)
    fields = SMALLEST | {"model.path": str(base / "net.onnx")}
    fields |= {"data.path": str(base / "images.npz")}
    fields |= {"plan.score": "l2", "plan.compensate": False, "search.max_accuracy_drop": 100.0}
    fields |= {"cache_dir": str(ROOT / ".cache")}  # the tests', for the programs in it
    console.quiet = True
    run(change(Config(), fields), base / "run", "command", _write_report)
    console.quiet = False
    return folder


def _write_report(folder: pathlib.Path) -> str:
    make.write_report(folder)
    return ""


def _run(folder: pathlib.Path) -> None:
    """The files of a finished run from which all others can be made again."""
    folder.mkdir()
    for name in ("result.json", *write.SIGNED):
        shutil.copy(pathlib.Path(_make_run().name, "run", name), folder)


def _report(folder: pathlib.Path) -> None:
    """Makes a report without pictures, which take most of its time."""
    with (
        mock.patch.object(make, "_draw_png", return_value=b""),
        mock.patch.object(html, "render_svg", return_value=""),
    ):
        make.write_report(folder)
    query.answer_query(folder, {"accuracy_drop": 1.0})


def _export(folder: pathlib.Path) -> None:
    build_onnx(finished_run.read_finished_run(folder)).SerializeToString()


def _simulate(folder: pathlib.Path) -> None:
    simulators.build_files(*simulators.read_workload(folder))


def _read_run(folder: pathlib.Path) -> None:
    for read in (_simulate, _export, _report):
        read(folder)


READERS = {
    "checkpoint": Reader("a.safetensors", _checkpoint, _read_checkpoint, change_signed),
    "config": Reader(
        "a.py", _config, lambda path: from_config_dict(flags.read_config(str(path)))
    ),
    "idx": Reader("idx", _idx, lambda path: data.load(str(path))),
    "levels": Reader(
        "a.safetensors",
        _levels,
        lambda path: finished_run.read_compressed(path, _build_mapping()),
        change_signed,
    ),
    "mapping": Reader(
        "a.safetensors",
        lambda path: mapping.save(path, _build_mapping()),
        mapping.load,
        change_signed,
    ),
    "npz": Reader("a.npz", _npz, lambda path: data.load(str(path))),
    "onnx": Reader("a.onnx", _onnx, load),
    "result": Reader(
        "result.json",
        _result,
        lambda path: finished_run.build_config(read_result(path), path),
        change_signed,
    ),
    "run": Reader("run", _run, _read_run, slowness=5),
    "run_export": Reader("run", _run, _export, change_signed, 2),
    "run_pictures": Reader("run", _run, make.write_report, change_signed, 100),
    "run_report": Reader("run", _run, _report, change_signed, 5),
    "run_simulators": Reader("run", _run, _simulate, change_signed),
    "sweep": Reader("sweep", _sweep, _read_sweep, change_signed),
    "toml": Reader(
        "a.toml",
        lambda path: path.write_text(hardware.dumps(Accelerator())),
        lambda path: hardware.load(str(path)),
    ),
    "weights": Reader(
        "a.safetensors",
        lambda path: pytrees.save(path, _LIKE, {"model": "any"}),
        lambda path: pytrees.load(path, _LIKE),
        change_signed,
    ),
}  # fmt: skip
