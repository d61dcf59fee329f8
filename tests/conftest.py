"""Compiled programs are kept between runs of the tests, and shared by their processes."""

import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from apq_jax import search
from apq_jax.system import cache

ROOT = pathlib.Path(__file__).parents[1]

# Most of the work is compiling. LLVM's effort decides how fast a program is, not what it computes;
# XLA_FLAGS= asks for all of it. Read when the first device is looked for.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
jax.config.update("jax_num_cpu_devices", 2)  # for meshes
# Of processes that tests start, too: a program is kept for a number of devices.
os.environ["JAX_NUM_CPU_DEVICES"] = "2"
cache.open_cache(str(ROOT / ".cache"))


@pytest.fixture(scope="module", autouse=True)
def _few_programs_at_a_time() -> Iterator[None]:
    """Every program holds pieces of memory, of which a process may have only so many."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of the main job on images of noise, in its smallest form."""
    base = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3
    centres = rng.uniform(0, 200, (3, 12, 12))
    images = np.clip(centres[labels] + rng.normal(0, 40, (600, 12, 12)), 0, 255)
    np.savez(base / "digits.npz", images=images.astype(np.uint8), labels=labels)
    flags = {
        "training.epochs": 3,
        "plan.levels": 3,
        "search.strategy": "uniform",
        "search.episodes": 16,
        "search.probes": 2,
        "search.moment_images": 32,
        "search.tuned": 0,
        "search.max_accuracy_drop": 10,
        "data.path": base / "digits.npz",
        # That of the compiled programs: another would not find them.
        "cache_dir": ROOT / ".cache",
    }
    settings = [f"--config.{name}={value}" for name, value in flags.items()]
    config = f"--config={ROOT / 'configs/lenet_mnist.py'}"
    assert search.main([config, *settings, f"--workdir={base / 'run'}"]) == 0
    return base / "run"
