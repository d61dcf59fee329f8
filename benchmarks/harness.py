"""What the benchmarks share: `--smoke`, times, and the record of where they were measured.

`--smoke` runs a benchmark from its first line to its last in seconds, on made images and with the
least of everything. CI does so with every benchmark, because one that broke would go unnoticed.
"""

import argparse
import atexit
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from apq_jax.config import Config, from_config_dict, to_config_dict
from apq_jax.system.cache import open_cache
from apq_jax.system.files import write_whole

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
VERSION = ".".join(platform.python_version_tuple()[:2])
NO_TORCH = f"PyTorch is not installed: pip install -c constraints/{VERSION}.txt -e '.[bench]'"
SMALLEST: dict[str, Any] = {  # fields of a configuration
    "training.epochs": 3,
    "plan.levels": 3,
    "finetune.steps": 2,
    "search.strategy": "uniform",
    "search.episodes": 16,
    "search.probes": 2,
    "search.moment_images": 32,
    "search.finalists": 4,
    "search.tuned": 0,
    "search.memory_mb": 0,
    "search.max_accuracy_drop": 50.0,
}
_FLAGS = re.compile(r"\b(avx2|avx512f|avx512_vnni|avx512_bf16|avx_vnni|amx_int8|amx_bf16)\b")


def parse(parser: argparse.ArgumentParser, **smallest: Any) -> argparse.Namespace:
    """Parses the command line, to which it adds `--smoke`.

    Args:
      parser: knows the benchmark's own flags.
      smallest: the flags' defaults under `--smoke`, which moves `--results` and `--workdir` into a
        temporary folder, too.

    Returns:
      The flags; `fields`, the fields of the configuration that `--smoke` sets; and `folder`, a
      folder that `--smoke` removes at the end.
    """
    words = "runs to the end on the least data, in seconds, without touching the files kept"
    parser.add_argument("--smoke", action="store_true", help=words)
    if not parser.parse_known_args()[0].smoke:
        return parser.parse_args(namespace=argparse.Namespace(fields={}, folder=None))
    # LLVM's effort decides how fast a program is, not what it computes.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
    open_cache()
    temporary = tempfile.TemporaryDirectory()
    atexit.register(temporary.cleanup)
    folder = pathlib.Path(temporary.name)
    for name in ("results", "workdir"):
        if parser.get_default(name):
            smallest[name] = folder / name
    parser.set_defaults(**smallest)
    fields = {**SMALLEST, "data.path": str(_write_images(folder / "digits.npz"))}
    return parser.parse_args(namespace=argparse.Namespace(fields=fields, folder=folder))


def _write_images(path: pathlib.Path) -> pathlib.Path:
    """Writes 600 noisy images of three classes, the smallest that LeNet-5 takes."""
    rng, labels = np.random.default_rng(0), np.arange(600) % 3
    images = rng.uniform(0, 200, (3, 12, 12))[labels] + rng.normal(0, 40, (600, 12, 12))
    np.savez(path, images=np.clip(images, 0, 255).astype(np.uint8), labels=labels)
    return path


def change(config: Config, fields: dict[str, Any]) -> Config:
    """Returns a configuration with other values of some fields, "search.episodes" for instance."""
    if not fields:
        return config
    tree = to_config_dict(config)
    tree.update_from_flattened_dict(fields)
    return from_config_dict(tree)


def measure_median(run: Callable[[], Any], repeats: int) -> float:
    """Returns the median seconds of a call, after one call that is not counted."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def find_torch() -> str:
    """Returns PyTorch's version, or "" if it is not installed."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def write_results(path: pathlib.Path, results: dict[str, Any]) -> None:
    """Writes results, and where and when they were measured, as JSON."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", text)
    where = {
        "date": datetime.date.today().isoformat(),
        "processor": model.group(1) if model else platform.processor(),
        "flags": sorted(set(_FLAGS.findall(text))),
        "load": os.getloadavg(),  # runnable processes over the last 1, 5 and 15 minutes
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": find_torch() or "not installed",
    }
    write_whole(path, json.dumps(results | where, indent=1) + "\n")
