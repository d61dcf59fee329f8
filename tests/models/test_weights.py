"""Trained weights: cached, resumed, shipped."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.bars import QUICK, linear, zeros

from apq_jax.data import Dataset
from apq_jax.models import weights
from apq_jax.models.options import Training
from apq_jax.models.weights import identify, load_or_train, save_shipped


def test_trained_is_reused(
    dataset: Dataset, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(
        name: str = "linear", init: Any = None, data: Dataset = dataset, options: Any = QUICK
    ) -> tuple[Any, bool]:
        return load_or_train(name, linear, init or zeros(), data, options, tmp_path / "cache")

    params, reused = run()
    assert not reused
    again, reused = run()
    assert reused == "cached"
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert not run(name="other")[1]
    assert not run(init={"w": jnp.ones((36, 2)), "b": jnp.zeros(2)})[1]
    assert not run(options=dataclasses.replace(QUICK, seed=1))[1]
    flipped = dataclasses.replace(dataset, train_labels=1 - dataset.train_labels)
    assert not run(data=flipped)[1]
    fewer = dataclasses.replace(dataset, search_images=dataset.search_images[:20])
    assert run(data=fewer)[1] == "cached"  # training does not see them

    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:-5])
    again, reused = run()
    assert not reused
    assert sum("made again" in record.getMessage() for record in caplog.records) == 1
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert run()[1]


def test_interrupted_training_goes_on(
    dataset: Dataset, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[float] = []

    def stop(epochs: float, loss: float) -> None:
        seen.append(epochs)
        if len(seen) == 2:
            raise KeyboardInterrupt

    def run(folder: str, progress: Any = None) -> Any:
        return load_or_train(
            "linear", linear, zeros(), dataset, QUICK, tmp_path / folder, progress
        )[0]

    expected = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop)
    (file,) = (tmp_path / "cut").iterdir()
    content = file.read_bytes()
    jax.tree.map(np.testing.assert_array_equal, run("cut", stop), expected)
    assert seen == [1, 2, 3, 4]
    assert not file.exists()  # the weights alone are left
    for left in (tmp_path / "cut").iterdir():
        left.unlink()
    file.write_bytes(content[:-1])
    jax.tree.map(np.testing.assert_array_equal, run("cut"), expected)
    assert "made again" in caplog.text


def test_shipped_weights(
    dataset: Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "shipped")
    params = {"w": jnp.full((36, 2), 1 / 3), "b": jnp.ones(2)}
    save_shipped(params, identify("linear", dataset, QUICK), "bars")

    def run(name: str, options: Training = QUICK) -> tuple[Any, str]:
        return load_or_train(name, linear, zeros(), dataset, options, tmp_path / "cache")

    loaded, whence = run("linear")
    assert whence == "shipped"
    assert loaded["w"].dtype == jnp.float32
    np.testing.assert_array_equal(loaded["w"], np.float32(np.float16(1 / 3)))
    assert run("other")[1] == ""
    assert run("linear", dataclasses.replace(QUICK, seed=1))[1] == ""


def test_a_new_option_does_not_orphan_shipped_weights(
    dataset: Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that does not name an option was trained with that option's default."""
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    identity = identify("linear", dataset, QUICK)
    options = json.loads(identity["options"])
    assert options.pop("restart_epochs") == Training().restart_epochs
    save_shipped(zeros(), identity | {"options": json.dumps(options)}, "old")
    assert weights.load_shipped(identity, zeros()) is not None
    other = dataclasses.replace(QUICK, restart_epochs=1)
    assert weights.load_shipped(identify("linear", dataset, other), zeros()) is None
