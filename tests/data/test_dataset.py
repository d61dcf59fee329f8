"""Splits of a data set."""

import pathlib

import numpy as np
import pytest
from helpers.images import SPLITS, one_pair, some_images, split_images, three_pairs

from apq_jax import data
from apq_jax.system.errors import InputError


def test_standard_error() -> None:
    assert data.compute_standard_error(0.9, 900) == pytest.approx(0.01)
    assert data.compute_standard_error(1.0, 10) == 0.0


def test_one_pair_is_split_within_classes(npz: pathlib.Path) -> None:
    np.savez(npz, **one_pair())
    dataset = data.load(str(npz))
    assert (dataset.name, dataset.classes) == ("set", 3)
    for split, size in zip(SPLITS, (60, 10, 10, 20), strict=True):
        assert getattr(dataset, f"{split}_images").shape == (3 * size, 4, 5, 1)
        assert np.bincount(getattr(dataset, f"{split}_labels")).tolist() == [size] * 3
    assert sum(map(len, split_images(dataset).values())) == 300
    # Each image kept its label.
    pairs = one_pair()
    label_of = {
        (i / np.float32(255)).tobytes(): label
        for i, label in zip(pairs["images"], pairs["labels"], strict=True)
    }
    for image, label in zip(dataset.test_images, dataset.test_labels, strict=True):
        assert label_of[image.tobytes()] == label
    assert data.load_npz(npz).fingerprint() == dataset.fingerprint()


def test_small_classes_are_all_trained_on(npz: pathlib.Path) -> None:
    np.savez(npz, images=some_images(400), labels=np.arange(400) // 2)
    assert len(np.unique(data.load_npz(npz).train_labels)) == 200


def test_channels_before_rows_are_warned_of(
    npz: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez(npz, images=some_images(300, size=(3, 8, 8)), labels=np.arange(300) % 3)
    assert data.load_npz(npz).train_images.shape[1:] == (3, 8, 8)
    assert "if they are [N, C, H, W], store images.transpose(0, 2, 3, 1)" in caplog.text


def test_repeated_images_are_dropped(npz: pathlib.Path) -> None:
    arrays = one_pair()
    arrays["images"][200:] = arrays["images"][:100]
    np.savez(npz, **arrays)
    images = split_images(data.load_npz(npz))
    assert sum(map(len, images.values())) == 200
    assert len(set.union(*images.values())) == 200


def test_three_pairs(npz: pathlib.Path) -> None:
    arrays = three_pairs()
    np.savez_compressed(npz, **arrays)
    dataset = data.load_npz(npz)
    np.testing.assert_array_equal(
        dataset.train_images[..., 0], arrays["train_images"] / np.float32(255)
    )
    np.testing.assert_array_equal(dataset.test_labels, arrays["test_labels"])
    assert np.bincount(dataset.search_labels).tolist() == [10, 10]
    assert np.bincount(dataset.select_labels).tolist() == [10, 10]
    images = split_images(dataset)
    assert not images["search"] & images["select"]


def test_limits_leave_training_alone(folder: pathlib.Path) -> None:
    whole = data.load_idx(folder)
    less = data.limit_images(whole, search=0, select=30)
    assert [len(getattr(less, f"{split}_images")) for split in SPLITS] == [1080, 20, 30, 40]
    np.testing.assert_array_equal(less.select_labels, whole.select_labels[:30])
    assert less.fingerprint("train") == whole.fingerprint("train")
    assert less.fingerprint() != whole.fingerprint()
    same = data.limit_images(whole, search=1000, select=1000)
    assert same.fingerprint() == whole.fingerprint()
    with pytest.raises(InputError, match=r"select_images: 19; allowed: 0 for all, or"):
        data.limit_images(whole, search=20, select=19)
