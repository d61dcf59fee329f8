"""Gives readers of files damaged ones, which they must read or refuse by `InputError`.

    python benchmarks/fuzz.py --reader onnx --inputs 10000

Valid files are changed at random, with a seed for every input: bytes are set, cut out, copied or
inserted, runs are overwritten by the largest numbers, the end is cut off. A reader fails if it
raises anything else, needs MEMORY bytes more than the process has, takes longer than SECONDS, or
ends the process; --only N repeats the input N. The exit status is 1 if an input failed.
"""

import argparse
import collections
import contextlib
import gzip
import json
import multiprocessing
import pathlib
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from apq_jax import data, hardware, mapping
from apq_jax.config import Config, from_config_dict, to_config_dict
from apq_jax.data.idx import FILES
from apq_jax.export import finished_run
from apq_jax.hardware import Accelerator
from apq_jax.mapping import Mapping, Scales
from apq_jax.metrics import METRICS
from apq_jax.models.onnx.model import load
from apq_jax.run import checkpoint, flags
from apq_jax.run.read import NEEDED, SCHEMA, compute_digest, read_result
from apq_jax.sweep import table
from apq_jax.sweep.points import Point
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError
from apq_jax.types import Layer

MEMORY, SECONDS = 4 << 30, 20
# Imported once, not by the process of each reader.
PRELOADED = ["apq_jax.config", "apq_jax.export.finished_run", "apq_jax.sweep.table", "onnx"]
_INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF)


class Reader(NamedTuple):
    """A kind of file."""

    suffix: str
    write: Callable[[pathlib.Path], Any]  # a valid file
    read: Callable[[pathlib.Path], Any]


def _onnx(path: pathlib.Path) -> None:
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"conv": (4, 1, 3, 3), "fc": (3, 48)} | dict.fromkeys(("scale", "bias", "mean"), (4,))
    tensors = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    tensors |= {
        "var": np.ones(4, "f4"),
        "flat": np.array([1, -1]),
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
        [helper.make_tensor_value_info("x", 1, [1, 1, 12, 12])],
        [helper.make_tensor_value_info("y", 1, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    path.write_bytes(model.SerializeToString())


def _npz(path: pathlib.Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (250, 3, 3), dtype=np.uint8)
    np.savez_compressed(path, images=images, labels=np.arange(250) % 2)


def _weights(path: pathlib.Path) -> None:
    pytrees.save(path, _LIKE, {"model": "any"})


_LIKE = {"a": {"kernel": np.ones((3, 4), np.float32), "bias": np.zeros(4, np.float32)}}


def _draw_levels() -> np.ndarray:
    return np.random.default_rng(0).integers(-7, 8, (1, 27, 6))


def _build_mapping() -> Mapping:
    accelerator = Accelerator(crossbar_rows=20, crossbar_columns=12, unit_rows=9, unit_columns=4)
    layer = Layer("conv", 1, 27, 6, 10, (3, 3), (1, 1))
    levels = _draw_levels()
    mask = np.ones(levels.shape, bool)
    mapped = mapping.map_layer(layer, levels, mask, 4, 5, "dense", accelerator)
    scale = np.ones((1, 6), np.float32)
    scales = Scales(scale, np.ones((), np.float32), np.zeros((), np.float32), scale, scale)
    return Mapping(accelerator, "dense", (mapped,), (scales,), {"bias": scale[0]})


def _mapping(path: pathlib.Path) -> None:
    mapping.save(path, _build_mapping())


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
    path.write_text(json.dumps(tree | {"sha256": compute_digest(tree)}))


def _read_config(path: pathlib.Path) -> Config:
    """Reads the configuration of a file signed anew, because its digest would shield the rest."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(tree | {"sha256": compute_digest(tree)}))
    return finished_run.build_config(read_result(path), path)


class _Record(NamedTuple):
    reward: np.ndarray


def _checkpoint(path: pathlib.Path) -> None:
    state: Any = {"state": np.arange(6.0)}
    record: Any = _Record(np.ones(3, np.float32))
    checkpoint.save(path, {"config.seed": "0"}, 1.5, state, record)


_POINTS = [Point({"seed": seed}, Accelerator(), Config()) for seed in range(3)]


def _table(path: pathlib.Path) -> None:
    costs = dict.fromkeys(METRICS, 12.5)
    row: dict[str, Any] = {"meets_limits": 1, "points_lost": 0.25, **costs, "weight_bits": "2 3"}
    rows = {seed: {"seed": seed, **row} for seed in (0, 2)}
    rows[1] = {"seed": 1, "meets_limits": 0, "note": "config.limits.slots: 1; allowed: more"}
    path.write_text(table.format_csv(rows))


def _config(path: pathlib.Path) -> None:
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({to_config_dict(Config()).to_dict()})\n"
    )


def _idx(path: pathlib.Path) -> None:
    """A training set's images, beside which are all other files."""
    rng = np.random.default_rng(0)
    for name, count, axes in zip(FILES, (1200, 1200, 300, 300), (3, 1, 3, 1), strict=True):
        shape = (count, 3, 3)[:axes]
        sizes = b"".join(size.to_bytes(4, "big") for size in shape)
        values = rng.integers(0, 255, shape) if axes == 3 else np.arange(count) % 2
        header = bytes([0, 0, 8, axes]) + sizes
        path.with_name(name).write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))
    path.write_bytes(path.with_name(FILES[0]).read_bytes())


def _read_idx(path: pathlib.Path) -> data.Dataset:
    path.with_name(FILES[0]).write_bytes(path.read_bytes())
    return data.load(str(path.parent))


READERS = {
    "checkpoint": Reader(".safetensors", _checkpoint, checkpoint.read),
    "config": Reader(
        ".py", _config, lambda path: from_config_dict(flags.read_config(str(path)))
    ),
    "idx": Reader(".gz", _idx, _read_idx),
    "levels": Reader(
        ".safetensors", _levels, lambda path: finished_run.read_compressed(path, _build_mapping())
    ),
    "mapping": Reader(".safetensors", _mapping, mapping.load),
    "npz": Reader(".npz", _npz, lambda path: data.load(str(path))),
    "onnx": Reader(".onnx", _onnx, load),
    "result": Reader(".json", _result, _read_config),
    "sweep": Reader(".csv", _table, lambda path: table.read_rows(path, _POINTS)),
    "toml": Reader(
        ".toml",
        lambda path: path.write_text(hardware.dumps(Accelerator())),
        lambda path: hardware.load(str(path)),
    ),
    "weights": Reader(
        ".safetensors", _weights, lambda path: pytrees.load(path, _LIKE)
    ),
}  # fmt: skip


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns a valid file's bytes after one to eight changes."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        place, length = int(rng.integers(0, len(changed) + 1)), int(2 ** rng.uniform(0, 6))
        match rng.integers(0, 7):
            case 0:
                changed[place : place + 1] = bytes([int(rng.integers(0, 256))])
            case 1:
                changed[place : place + 1] = bytes([int(rng.choice(_INTERESTING))])
            case 2:
                del changed[place : place + length]
            case 3:
                start = int(rng.integers(0, len(changed) + 1))
                changed[place:place] = changed[start : start + length]
            case 4:
                changed[place:place] = rng.bytes(length)
            case 5:
                changed[place : place + length] = b"\xff" * length
            case 6 if rng.random() < 0.1:
                del changed[place:]
    return bytes(changed)


def try_reading(reader: Reader, path: pathlib.Path) -> tuple[str, str]:
    """Reads a file; returns "read", "refused" or "failed", and the error."""

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        reader.read(path)
    except InputError as error:
        one_line = str(error).isprintable()
        return ("refused", "") if one_line else ("failed", f"not one line: {error!r}")
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return "read", ""


def _work(name: str, inputs: list[int], seed: int, folder: str, now: Any, results: Any) -> None:
    """Tries a reader's inputs in a process of its own, which tells its input and counts."""
    reader = READERS[name]
    path = pathlib.Path(folder, f"file{reader.suffix}")
    reader.write(path)
    content = path.read_bytes()
    reader.read(path)  # what it imports and compiles once
    in_use = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY,) * 2)
    warnings.simplefilter("ignore", SyntaxWarning)  # of damaged configuration files
    counts: collections.Counter[str] = collections.Counter()
    before, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for index in inputs:
        now.value = index
        path.write_bytes(damage(content, np.random.default_rng((seed, index))))
        began = time.monotonic()
        what, reason = try_reading(reader, path)
        slowest = max(slowest, time.monotonic() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
        counts[what] += 1
        if what == "failed":
            print(f"{name}, input {index}: {' '.join(reason.split())[:300]}", flush=True)
        numbers = (counts[kind] for kind in ("read", "refused", "failed"))
        results[:] = [*numbers, peak >> 10, slowest]


def fuzz(name: str, inputs: list[int], seed: int) -> int:
    """Prints how many of a reader's inputs were read, refused and failed; returns the last."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    total, peaks, began = np.zeros(3, int), np.zeros(2), time.monotonic()
    while inputs:
        now, results = context.Value("q", inputs[0]), context.Array("d", 5)
        with tempfile.TemporaryDirectory() as folder:
            arguments = (name, inputs, seed, folder, now, results)
            process = context.Process(target=_work, args=arguments)
            process.start()
            process.join()
        total += np.asarray(results[:3], int)
        peaks = np.maximum(peaks, results[3:])
        if process.exitcode == 0:
            break
        if (process.exitcode or 0) > 0:  # an error that is not an input's
            raise SystemExit(f"{name}: cannot be tried")
        print(f"{name}, input {now.value}: ended the process ({process.exitcode})", flush=True)
        total[2] += 1
        inputs = inputs[inputs.index(now.value) + 1 :]
    read, refused, failed = total
    seconds = time.monotonic() - began
    print(
        f"{name}: {read} read, {refused} refused, {failed} failed, {seconds:.0f} s; at most "
        f"{peaks[0]:,.0f} MiB more than before, and {peaks[1]:.2f} s for an input",
        flush=True,
    )
    return int(failed)


def main() -> int:
    """Tries the readers; returns 1 if an input failed."""
    # Imported here because a test reads this file without the folder that it is in.
    from harness import parse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", default="all", choices=("all", *READERS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one input's number")
    options = parse(parser, inputs=50)
    names = list(READERS) if options.reader == "all" else [options.reader]
    inputs = list(range(options.inputs)) if options.only is None else [options.only]
    return 1 if sum(fuzz(name, inputs, options.seed) for name in names) else 0


if __name__ == "__main__":
    sys.exit(main())
