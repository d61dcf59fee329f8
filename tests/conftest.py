"""Compiled programs are kept between runs of the tests, and shared by their processes."""

import os
import pathlib
import signal
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from helpers.inputs import write_inputs
from helpers.problems import FEATURES, LAYERS, SPACE, STRATEGIES, Chunks, evaluate

from apq_jax import search
from apq_jax.metrics import METRICS
from apq_jax.problem.environment import Problem
from apq_jax.strategies import loop
from apq_jax.system import cache

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell's script
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else processes would ignore it, too

# Most of the work is compiling. LLVM's effort decides how fast a program is, not what it computes;
# XLA_FLAGS= asks for all of it. Read when the first device is looked for.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
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
def inputs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the smallest images.npz and net.onnx."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


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
        "plan.score": "l2",
        "plan.compensate": False,
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


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Errors fall and shares rise with keep and bits; half slots, half energy."""
    rng = np.random.default_rng(0)
    keep = np.geomspace(1.0, 0.1, SPACE.levels)[:, None]
    weight = np.arange(1, 9)
    size = rng.uniform(0.1, 1.0, (LAYERS, 1, 1))
    sensitivity = rng.uniform(0.2, 2.0, (LAYERS, 1, 1))
    slices = np.ceil(np.arange(1, 9) / 2)
    share = (size / 3)[..., None] * (keep[:, :, None] * slices[:, None] / 4 * np.arange(1, 9) / 8)
    arrays = {
        "features": rng.random((LAYERS, FEATURES)),
        "error": sensitivity * ((1 - keep) ** 2 + 4.0**-weight),
        "input_error": rng.uniform(0.5, 1, (LAYERS, 1)) * 4.0 ** -np.arange(1, 9),
        "lamp": np.sort(rng.uniform(0.01, 1, (LAYERS, SPACE.levels)), axis=1),
        "share": share,
        "costs": np.repeat(share[..., None], len(METRICS), axis=-1),
        "weights": [0.5, 0, 0, 0.5, 0],
        "quality": 0.0,
        "dense": [1000, 10, 2, 400, 50],
        "max_cost": [np.inf] * len(METRICS),
        "float_accuracy": 0.95,
        "min_accuracy": 0.94,
        "drop_per_nat": 0.5,
        "penalty": 2.0,
        "phase": 0.0,
    }
    return Problem(**{name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()})


@pytest.fixture(scope="module", params=["actor_critic", "genetic", "cma_es", "uniform"])
def two(request: pytest.FixtureRequest, problem: Problem) -> tuple[str, Chunks]:
    strategy = STRATEGIES[request.param]()
    keys = jnp.stack([jax.random.key(seed) for seed in (1, 0)])
    begin = loop.start(strategy, problem, keys, 22)
    chunks = list(loop.resume(strategy, evaluate, problem, problem, begin, 2))
    return request.param, Chunks(strategy, begin, chunks)
