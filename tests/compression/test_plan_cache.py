"""Statistics and Plan on disk: the same as built, never another's, never half a file."""

import dataclasses
import pathlib
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from apq_jax.compression import calibration, gram, plan, plan_cache
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.pruning import Block
from apq_jax.network.capture import capture, extract_matrices
from apq_jax.system import pytrees

OPTIONS = PlanOptions(levels=3, min_keep=0.2, iterations=2)
IMAGES = np.random.default_rng(0).normal(size=(1200, 6)).astype(np.float32)  # two segments
BLOCKS = (Block(2), Block(3))


def model(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def params_of(seed: int = 0) -> dict[str, jax.Array]:
    a, b = jax.random.split(jax.random.key(seed))
    return {"a": jax.random.normal(a, (6, 4)), "b": jax.random.normal(b, (4, 3))}


def planned(cache: pathlib.Path | None, **changes: Any) -> Any:
    params = changes.get("params", params_of())
    images = jnp.asarray(changes.get("images", IMAGES))
    network = capture(changes.get("apply_fn", model), params, images[:2])
    return plan_cache.calibrate_and_plan(
        network,
        params,
        extract_matrices(network, params),
        images,
        changes.get("moment_images", 8),
        changes.get("blocks", BLOCKS),
        changes.get("options", OPTIONS),
        cache,
    )


def assert_same(result: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, result, expected)  # other blocks: ValueError


@pytest.fixture(scope="module")
def built() -> Any:
    return planned(None)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was computed rather than read, in order."""
    calls: list[str] = []
    for module, name in ((calibration, "calibrate"), (plan, "build_plan")):
        run = getattr(module, name)

        def counted(*args: Any, name: str = name, run: Any = run, **more: Any) -> Any:
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
                calls.append(name)  # else only its shapes are asked for
            return run(*args, **more)

        monkeypatch.setattr(module, name, counted)
    return calls


def files(cache: pathlib.Path) -> list[pathlib.Path]:
    """Oldest first."""
    return sorted((cache / plan_cache.FOLDER).iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_the_kept_plan_is_the_one_that_was_built(
    built: Any, made: list[str], tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_same(planned(tmp_path), built)
    assert made == ["calibrate", "build_plan", "build_plan"]
    assert len(files(tmp_path)) == 3
    assert_same(planned(tmp_path), built)
    assert len(made) == 3
    assert not caplog.records


SHIFTED = np.ones(3, np.float32)
CHANGES: dict[str, tuple[dict[str, Any], int]] = {  # and how many of the three files are new
    "weights": ({"params": params_of(1)}, 3),
    "images": ({"images": IMAGES + 1}, 3),
    "moment images": ({"moment_images": 9}, 3),
    "model": ({"apply_fn": lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]}, 3),
    "constant": ({"apply_fn": lambda params, x: model(params, x) + SHIFTED}, 3),
    "another constant": ({"apply_fn": lambda params, x: model(params, x) + 2 * SHIFTED}, 3),
    "options": ({"options": dataclasses.replace(OPTIONS, damping=0.02)}, 2),
    "a block": ({"blocks": (BLOCKS[0], Block(2))}, 1),
}


def test_what_decides_the_plan_decides_the_file(
    built: Any, made: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statistics, _ = built  # whose shapes all have

    def calibrate(*_: Any, **__: Any) -> Any:
        made.append("calibrate")
        return statistics

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    monkeypatch.setattr(calibration, "match_images", lambda *_: statistics)
    planned(tmp_path)
    for changed, new in CHANGES.values():
        before = len(made)
        planned(tmp_path, **changed)
        assert len(made) - before == new
    assert len(files(tmp_path)) == len(made)


def truncated(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def reshaped(path: pathlib.Path) -> None:
    tensors = safetensors.numpy.load_file(path)
    name = min(tensors)
    safetensors.numpy.save_file({**tensors, name: tensors[name][..., :1].copy()}, path)


def infinite(path: pathlib.Path) -> None:
    tensors = safetensors.numpy.load_file(path)
    name = next(name for name in sorted(tensors) if tensors[name].dtype == np.float32)
    safetensors.numpy.save_file({**tensors, name: tensors[name] + np.inf}, path)


@pytest.mark.parametrize("damage", [truncated, reshaped, infinite])
@pytest.mark.parametrize("place", [0, 1])
def test_a_damaged_file_is_made_again(
    damage: Any,
    place: int,
    built: Any,
    made: list[str],
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    planned(tmp_path)
    path = files(tmp_path)[place]
    damage(path)
    made.clear()
    assert_same(planned(tmp_path), built)
    assert made == [["calibrate"], ["build_plan"]][place]
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    assert_same(planned(tmp_path), built)
    assert len(made) == len(caplog.records) == 1


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
import test_plan_cache
calls, sync = [], os.fsync
def fsync(file):
    sync(file)
    calls.append(file)
    if len(calls) == 2:  # the first layer is written beside its place
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
test_plan_cache.planned(pathlib.Path(sys.argv[2]))
"""


def test_what_was_killed_goes_on(
    built: Any, made: list[str], tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = str(pathlib.Path(__file__).parent)
    child = subprocess.run([sys.executable, "-c", KILLED, here, str(tmp_path)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert [path.name.startswith(".") for path in files(tmp_path)] == [False, True]
    assert_same(planned(tmp_path), built)
    assert made == ["build_plan", "build_plan"]
    assert not caplog.records


def test_calibration_goes_on_where_it_was_cut_off(
    built: Any,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pytrees, "SAVE_SECONDS", 0.0)
    save = pytrees.save

    def once(path: pathlib.Path, *args: Any) -> None:
        save(path, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(pytrees, "save", once)
    with pytest.raises(KeyboardInterrupt):
        planned(tmp_path)
    monkeypatch.setattr(pytrees, "save", save)
    (unfinished,) = files(tmp_path)
    assert safetensors.numpy.load_file(unfinished)["chunks"] == 1  # of twelve
    content = unfinished.read_bytes()
    # What is read counts: with the sums of other images the result is another.
    tensors = safetensors.numpy.load_file(unfinished)
    changed = {**tensors, "total/0/gram/0": tensors["total/0/gram/0"] + 1}
    pytrees.save(unfinished, changed, {})
    assert not np.array_equal(planned(tmp_path)[0][0].gram, built[0][0].gram)
    for path in files(tmp_path):
        path.unlink()
    unfinished.write_bytes(content)
    assert_same(planned(tmp_path), built)
    assert not unfinished.exists()
    assert not caplog.records
    for path in files(tmp_path):
        path.unlink()
    unfinished.write_bytes(content[:-1])
    assert_same(planned(tmp_path), built)
    (record,) = caplog.records
    assert "made again" in record.getMessage()


def test_large_layers_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 windows of 6 rows: all of them, or ⌈16 x 6 / 12⌉ of each of 12 chunks."""
    params, images = params_of(), jnp.asarray(IMAGES)
    network = capture(model, params, images[:2])
    weights = extract_matrices(network, params)
    (whole, _), x = calibration.calibrate(network, params, weights, images), IMAGES
    np.testing.assert_allclose(whole.gram[0], x.T @ x / len(x), atol=1e-5)
    monkeypatch.setattr(calibration, "WHOLE_PRODUCTS", 0)
    monkeypatch.setattr(gram, "WIDE", 4)
    monkeypatch.setattr(gram, "PIECE", 4)  # the matrix in four blocks
    (some, _) = calibration.calibrate(network, params, weights, images, windows=16)
    drawn = np.sort(np.random.default_rng(0).choice(100, 8, replace=False))
    x = IMAGES.reshape(12, 100, 6)[:, drawn].reshape(-1, 6)
    np.testing.assert_allclose(some.gram[0], x.T @ x / len(x), atol=1e-5)
    np.testing.assert_allclose(some.mean[0], x.mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(some.input_scale, whole.input_scale)
