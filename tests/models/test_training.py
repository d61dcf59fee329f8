"""Training on small data, accuracy counted by hand, and weights on disk."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from helpers.bars import QUICK, linear, zeros

from apq_jax.data import Dataset
from apq_jax.data.scoring import compute_accuracy
from apq_jax.models import training
from apq_jax.models.lenet import LeNet5
from apq_jax.models.options import Training
from apq_jax.models.weights import load_or_train
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError


def test_training_learns_and_repeats(dataset: Dataset) -> None:
    losses: list[tuple[float, float]] = []
    key = jax.random.key(0)
    report = lambda epoch, loss: losses.append((epoch, loss))  # noqa: E731
    params = training.train(linear, zeros(), dataset, QUICK, key, on_progress=report)
    assert [epoch for epoch, _ in losses] == [1, 2, 3, 4]
    assert losses[-1][1] < losses[0][1] < np.log(2)
    assert compute_accuracy(linear(params, dataset.test_images), dataset.test_labels) == 1.0
    again = training.train(linear, zeros(), dataset, QUICK, key)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    other = training.train(linear, zeros(), dataset, QUICK, jax.random.key(1))
    assert not np.array_equal(params["w"], other["w"])


def test_one_step_is_compiled_once(dataset: Dataset) -> None:
    traces = []

    def counted(params: Any, images: jax.Array) -> jax.Array:
        traces.append(images.shape)
        return linear(params, images)

    for seed, rate in ((0, 0.05), (1, 0.02)):
        options = dataclasses.replace(QUICK, learning_rate=rate, weight_decay=rate, seed=seed)
        training.train(counted, zeros(), dataset, options, jax.random.key(seed))
    assert traces == [(32, 6, 6, 1)]


def test_first_step_of_adam(dataset: Dataset) -> None:
    """From zero, AdamW's first step is the learning rate against the gradient's sign."""
    options = Training(epochs=1, batch_size=10**5, learning_rate=0.25, max_shift=0)
    params = training.train(linear, zeros(), dataset, options, jax.random.key(0))
    x = dataset.train_images.reshape(200, -1)
    residual = 0.5 - np.eye(2)[dataset.train_labels]
    np.testing.assert_allclose(params["w"], -0.25 * np.sign(x.T @ residual), rtol=1e-3)


def test_a_restart_is_a_training_more_and_goes_on_when_cut(
    dataset: Dataset, tmp_path: pathlib.Path
) -> None:
    """From half the learning rate with a new optimizer; cut off after every epoch."""
    key, path = jax.random.key(0), tmp_path / "unfinished.safetensors"
    both = dataclasses.replace(QUICK, epochs=2, restart_epochs=3)
    first = dataclasses.replace(QUICK, epochs=2)
    second = dataclasses.replace(QUICK, epochs=3, learning_rate=QUICK.learning_rate / 2)
    params = training.train(linear, zeros(), dataset, first, key)
    params = training.train(linear, params, dataset, second, jax.random.fold_in(key, 1))

    def cut(epochs: float, loss: float) -> None:
        raise KeyboardInterrupt

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            training.train(linear, zeros(), dataset, both, key, on_progress=cut, unfinished=path)
    trained = training.train(linear, zeros(), dataset, both, key, unfinished=path)
    jax.tree.map(np.testing.assert_array_equal, trained, params)
    whole = training.train(linear, zeros(), dataset, both, key)
    jax.tree.map(np.testing.assert_array_equal, whole, params)


def test_divergence_is_said(dataset: Dataset) -> None:
    spoiled = {"w": jnp.full((36, 2), jnp.inf), "b": jnp.zeros(2)}
    with pytest.raises(InputError, match=r"training.learning_rate: 0.05; the loss is nan"):
        training.train(linear, spoiled, dataset, QUICK, jax.random.key(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("restart_epochs", -1),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("learning_rate", np.nan),
        ("weight_decay", np.inf),
        ("max_shift", -1),
        ("seed", -1),
    ],
)
def test_options_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"training.{field}: {value}; allowed: "):
        Training(**{field: value})


def test_random_shifts() -> None:
    images = jnp.zeros((200, 7, 7, 1)).at[:, 3, 3].set(1.0)
    shifted = np.asarray(training.shift_randomly(jax.random.key(0), images, 2))
    assert shifted.shape == images.shape
    np.testing.assert_array_equal(shifted.sum((1, 2, 3)), 1.0)
    _, rows, columns, _ = np.nonzero(shifted)
    assert {*rows} == {*columns} == {1, 2, 3, 4, 5}
    assert len({*zip(rows, columns, strict=True)}) == 25  # the two directions are independent
    # What leaves the image is lost, and zeros come in.
    ones = np.asarray(training.shift_randomly(jax.random.key(0), jnp.ones((200, 7, 7, 1)), 2))
    lost = 49 - (7 - abs(rows - 3)) * (7 - abs(columns - 3))
    np.testing.assert_array_equal((ones == 0).sum((1, 2, 3)), lost)


def test_random_flips() -> None:
    images = jax.random.normal(jax.random.key(0), (400, 3, 4, 2))
    flipped = np.asarray(training.mirror_randomly(jax.random.key(1), images))
    same = (flipped == images).all((1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 160 < mirrored.sum() < 240  # four standard deviations


def test_flips_are_trained_on(dataset: Dataset) -> None:
    """A class that is told by its side cannot be learned from mirrored images."""
    images = np.zeros((200, 6, 6, 1), np.float32)
    images[0::2, :, :3], images[1::2, :, 3:] = 1, 1
    sided = dataclasses.replace(dataset, train_images=images)
    margins = []
    for flip in (False, True):
        options = dataclasses.replace(QUICK, flip=flip, max_shift=0, epochs=20)
        params = training.train(linear, zeros(), sided, options, jax.random.key(0))
        left, right = np.asarray(linear(params, jnp.asarray(images[:2])))
        margins.append(abs((left - right) @ (1, -1)))  # by how much the logits tell the sides apart
    assert margins[0] > 5 > 1 > margins[1]


def test_statistics_move_in_training_alone(dataset: Dataset) -> None:
    """A running mean with momentum 1/2 over two epochs of one batch each; no gradient, no decay."""

    def shifted(params: Any, images: jax.Array) -> jax.Array:
        return linear(params["params"], images - params["mean"])

    def train_fn(params: Any, images: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        mean = images.mean()
        logits = linear(params["params"], images - mean)
        return logits, {"mean": 0.5 * params["mean"] + 0.5 * mean}

    init = {"params": zeros(), "mean": jnp.float32(8)}
    options = Training(epochs=2, batch_size=200, weight_decay=1.0, max_shift=0)
    key = jax.random.key(0)
    params = training.train(shifted, init, dataset, options, key, train_fn=train_fn)
    mean = dataset.train_images.mean()
    np.testing.assert_allclose(params["mean"], 8 / 4 + mean * 3 / 4, rtol=1e-5)
    assert np.abs(params["params"]["w"]).max() > 0


def test_lenet_shapes() -> None:
    images = jnp.zeros((1, 28, 28, 1))
    params = jax.eval_shape(LeNet5(classes=7).init, jax.random.key(0), images)
    shapes = {name: layer["kernel"].shape for name, layer in params["params"].items()}
    assert shapes == {
        "conv1": (5, 5, 1, 6),
        "conv2": (5, 5, 6, 16),
        "fc1": (400, 120),
        "fc2": (120, 84),
        "fc3": (84, 7),
    }
    assert jax.eval_shape(LeNet5(classes=7).apply, params, jnp.zeros((3, 28, 28, 1))).shape == (
        3,
        7,
    )


def trained_in(folder: pathlib.Path, data: Dataset, progress: Any = None) -> Any:
    return load_or_train("linear", linear, zeros(), data, QUICK, folder, progress)[0]


@pytest.mark.parametrize("stops", [(0,), (4,), (5, 7), (11,), (3, 9, 22)])
def test_training_stopped_within_an_epoch(
    dataset: Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stops: Any
) -> None:
    """Six steps an epoch; what is reported is what it would have been, too."""
    monkeypatch.setattr(training, "_REPORT", 1)
    monkeypatch.setattr(pytrees, "SAVE_SECONDS", 0.0)
    seen: list[tuple[float, float]] = []
    expected = trained_in(tmp_path / "whole", dataset, lambda *report: seen.append(report))
    again: list[tuple[float, float]] = []

    def stop(*report: float) -> None:
        again.append(report)  # type: ignore[arg-type]
        if len(again) - 1 in stops:
            raise KeyboardInterrupt

    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            trained_in(tmp_path / "cut", dataset, stop)
    trained = trained_in(tmp_path / "cut", dataset, stop)
    jax.tree.map(np.testing.assert_array_equal, trained, expected)
    assert again == seen
    assert len(seen) == 24


def test_state_is_written_by_time(
    dataset: Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step a quarter of a minute: within an epoch every second one, and at its end."""
    clock = iter(range(0, 10**6, 15))
    # Its alone: the compiler looks at the clock, too.
    monkeypatch.setattr(
        pytrees, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock)))
    )
    written = []
    save = pytrees.Unfinished.save

    def noting(keeper: pytrees.Unfinished, state: Any) -> None:
        written.append((int(state[2].epochs), int(state[2].steps)))
        save(keeper, state)

    monkeypatch.setattr(pytrees.Unfinished, "save", noting)
    trained_in(tmp_path, dataset)
    # Looking at the clock when written takes it a step further.
    assert written == [
        (epochs, steps) for epochs in range(4) for steps in (0, 2, 4) if epochs or steps
    ]


HERE = pathlib.Path(__file__).parent
KILLED = """
import pathlib, sys, time
import test_training as here
from helpers.bars import bars
from apq_jax.models import training
from apq_jax.system import pytrees
training._REPORT, pytrees.SAVE_SECONDS = 1, 0.0
def report(epochs, loss):
    print(epochs, flush=True)
    time.sleep(0.02)
parts = (bars(count, seed) for seed, count in enumerate((200, 40, 40, 100)))
dataset = here.Dataset("bars", 2, *(array for part in parts for array in part))
here.trained_in(pathlib.Path(sys.argv[1]), dataset, report)
"""


def test_killed_training_goes_on(dataset: Dataset, tmp_path: pathlib.Path) -> None:
    expected = trained_in(tmp_path / "whole", dataset)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "cut")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", HERE)))},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    with child, child.stdout:
        reached = next(epochs for epochs in map(float, child.stdout) if epochs > 1.4)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    seen: list[float] = []
    trained = trained_in(tmp_path / "cut", dataset, lambda epochs, _: seen.append(epochs))
    jax.tree.map(np.testing.assert_array_equal, trained, expected)
    assert reached < 2
    assert seen == [2, 3, 4]  # the first epoch was not repeated


@pytest.mark.parametrize(
    ("epochs", "steps", "reason"),
    [(-1, 0, "-1 epochs"), (4, 0, "4 epochs"), (1, -1, "-1 steps"), (1, 6, "6 steps")],
)
def test_unfinished_out_of_range(
    dataset: Dataset,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    epochs: int,
    steps: int,
    reason: str,
) -> None:
    path = tmp_path / "unfinished.safetensors"
    state = training.build_optimizer(0.1, 0.1, 1).init(zeros())
    done = {"epochs": np.int32(epochs), "steps": np.int32(steps), "losses": np.zeros(6, "f4")}
    pytrees.save(path, (zeros(), state, done), {})
    key = jax.random.key(0)
    trained = training.train(linear, zeros(), dataset, QUICK, key, unfinished=path)
    jax.tree.map(
        np.testing.assert_array_equal, trained, training.train(linear, zeros(), dataset, QUICK, key)
    )
    assert f"{reason} done; allowed: 0 to {3 if 'epochs' in reason else 5}" in caplog.text
