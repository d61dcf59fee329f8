"""What is looked at in the float network before the search."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import apq_jax
from apq_jax.compression.calibration import calibrate
from apq_jax.data import Dataset
from apq_jax.network.capture import Network, extract_matrices
from apq_jax.pipeline import float_checks
from apq_jax.system.errors import InputError

PARAMS = {"w": jnp.eye(4, 3)}
LABELS = np.arange(30, dtype=np.int32) % 3


def standardise(params: Any, x: jax.Array) -> jax.Array:
    """Divides by each picture's deviation, which a blank picture has not."""
    x = x.reshape(len(x), -1)
    return ((x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)) @ params["w"]


def hide(params: Any, x: jax.Array) -> jax.Array:
    """As `standardise`, with logits that are always finite."""
    return jnp.nan_to_num(standardise(params, x))


def make_dataset(**blank: int) -> Dataset:
    """30 pictures of 2 x 2 pixels a split, of which `blank` names one by its split."""
    rng, fields = np.random.default_rng(0), []
    for split in ("train", "search", "select", "test"):
        images = rng.random((30, 2, 2, 1), np.float32)
        if split in blank:
            images[blank[split]] = 0.5
        fields += [images, LABELS]
    return Dataset("made", 3, *fields)


def capture(apply_fn: Any, dataset: Dataset) -> Network:
    return apq_jax.capture(apply_fn, PARAMS, dataset.train_images[:2])


@pytest.mark.parametrize(("split", "index"), [("train", 7), ("search", 0), ("test", 29)])
def test_logits_that_are_not_finite_name_the_picture(split: str, index: int) -> None:
    dataset = make_dataset(**{split: index})
    network = capture(standardise, dataset)
    says = f"net: its logits of picture {index} of split {split}, whose pixels are 0.5 to 0.5"
    with pytest.raises(InputError, match=says):
        float_checks.check_logits(network, PARAMS, dataset, 30, "net")
    clean = dataclasses.replace(dataset, **{f"{split}_images": make_dataset().test_images})
    float_checks.check_logits(network, PARAMS, clean, 30, "net")


def test_training_images_that_are_not_calibrated_on_are_not_looked_at() -> None:
    dataset = make_dataset(train=7)
    float_checks.check_logits(capture(standardise, dataset), PARAMS, dataset, 7, "net")


def test_statistics_that_are_not_finite_name_the_picture() -> None:
    dataset = make_dataset(train=7)
    network, images = capture(hide, dataset), dataset.train_images
    float_checks.check_logits(network, PARAMS, dataset, 30, "net")
    weights = extract_matrices(network, PARAMS)
    statistics = calibrate(network, PARAMS, weights, jnp.asarray(images))
    with pytest.raises(InputError, match="net: a layer's input of picture 7 of split train"):
        float_checks.check_statistics(network, PARAMS, statistics, images, "net")


def test_doubts_by_hand() -> None:
    """60 of 100 labels are one class: 0.6 + 2 sqrt(0.6 x 0.4 / 100) = 0.698."""
    labels = np.repeat([0, 1], [60, 40])
    assert not float_checks.find_doubts(0.70, labels)
    (doubt,) = float_checks.find_doubts(0.69, labels)
    assert "69.0 % of 100 images right" in doubt
    assert "(60.0 %)" in doubt
    # 0.7 + 3 sqrt((0.7 x 0.3 + 0.88 x 0.12) / 100) = 0.869.
    assert not float_checks.find_doubts(0.70, labels, 0.86)
    (doubt,) = float_checks.find_doubts(0.70, labels, 0.88)
    assert "18.0 points better" in doubt
