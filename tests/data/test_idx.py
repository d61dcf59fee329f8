"""IDX folders: read, and refused when damaged."""

import gzip
import pathlib
import tracemalloc

import numpy as np
import pytest
from helpers.images import (
    IDX,
    SPLITS,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    idx,
    some_images,
    split_images,
    swap,
)

from apq_jax import data
from apq_jax.data import cifar
from apq_jax.system.errors import InputError


def test_idx_folder(folder: pathlib.Path) -> None:
    dataset = data.load(str(folder))
    assert (dataset.name, dataset.classes) == ("tiny", 2)
    for split, count in zip(SPLITS, (1080, 20, 100, 40), strict=True):
        assert getattr(dataset, f"{split}_images").shape == (count, 3, 4, 1)
        assert np.bincount(getattr(dataset, f"{split}_labels")).tolist() == [count // 2] * 2
    assert sum(map(len, split_images(dataset).values())) == 1240
    test = some_images(40, 2, (3, 4))[..., None] / np.float32(255)
    np.testing.assert_array_equal(dataset.test_images, test)
    label_of = {
        (image[..., None] / np.float32(255)).tobytes(): index % 2
        for index, image in enumerate(some_images(1200, 1, (3, 4)))
    }
    for image, label in zip(dataset.select_images, dataset.select_labels, strict=True):
        assert label_of[image.tobytes()] == label
    assert data.load_idx(folder).fingerprint() == dataset.fingerprint()


def test_idx_images_are_in_one_split(folder: pathlib.Path) -> None:
    """Of two alike the first stays; one that test has, too, is not trained on."""
    images = some_images(1300, 1, (3, 4))
    images[1200:1240] = some_images(40, 2, (3, 4))
    images[1240:] = images[:60]
    labels = np.arange(1300, dtype=np.uint8) % 2
    (folder / TRAIN_IMAGES).write_bytes(gzip.compress(idx(images)))
    (folder / TRAIN_LABELS).write_bytes(gzip.compress(idx(labels)))
    dataset = data.load_idx(folder)
    assert [len(split) for split in split_images(dataset).values()] == [1080, 20, 100, 40]
    assert len(set.union(*split_images(dataset).values())) == 1240


def idx_refused(folder: pathlib.Path, file: str = "") -> str:
    with pytest.raises(InputError) as caught:
        data.load(str(folder))
    message, start = str(caught.value), f"{folder / file}: "
    assert message.startswith(start)
    assert "\n" not in message
    return message.removeprefix(start)


PIXELS = some_images(1200, 1, (3, 4))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends within its header"),
        (idx(PIXELS)[:11], "ends within its header"),
        (idx(PIXELS, kind=9), "magic number 2307; allowed: 2051, images of unsigned bytes"),
        (idx(PIXELS.ravel()), "magic number 2049; allowed: 2051"),
        (idx(PIXELS, (0, 3, 4)), "0 x 3 x 4 values"),
        (idx(PIXELS, (2**32 - 1,) * 3), "GiB as float32; allowed: at most 8 GiB"),
        (idx(PIXELS)[:-1], "14399 bytes after the header; its header says 14400"),
        (idx(PIXELS) + b"x", "more than 14400 bytes after the header"),
        (idx(PIXELS, (1199, 3, 4)), "more than 14388 bytes after the header"),
        (idx(PIXELS, (500_000_000, 2, 2)), "14400 bytes after the header"),
    ],
)
def test_idx_header_that_lies(folder: pathlib.Path, content: bytes, reason: str) -> None:
    (folder / TRAIN_IMAGES).write_bytes(gzip.compress(content))
    assert reason in idx_refused(folder, TRAIN_IMAGES)


def test_idx_bomb_is_not_unpacked(folder: pathlib.Path) -> None:
    """64 MiB of zeros in 64 kB, behind a header of twelve bytes."""
    (folder / TRAIN_IMAGES).write_bytes(gzip.compress(idx(PIXELS[:1]) + bytes(1 << 26)))
    tracemalloc.start()
    assert "more than 12 bytes" in idx_refused(folder, TRAIN_IMAGES)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_idx_damaged_gzip(folder: pathlib.Path) -> None:
    whole = (folder / TRAIN_IMAGES).read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:-5],  # no checksum
        whole[:middle],
        whole[:-8] + bytes(8),  # a wrong checksum
        whole[:middle] + bytes(9) + whole[middle + 9 :],
        whole + b"rest",
        b"not gzip",
    ):
        (folder / TRAIN_IMAGES).write_bytes(damaged)
        assert "cannot be read as a gzip file" in idx_refused(folder, TRAIN_IMAGES)


@pytest.mark.parametrize("file", IDX)
def test_idx_file_is_missing(folder: pathlib.Path, file: str) -> None:
    (folder / file).unlink()
    assert "No such file" in idx_refused(folder, file)
    (folder / file).mkdir()
    assert "Is a directory" in idx_refused(folder, file)


@pytest.mark.parametrize(
    ("first", "second", "file", "reason"),
    [
        (TRAIN_IMAGES, TRAIN_LABELS, TRAIN_IMAGES, "magic number 2049"),
        (TRAIN_LABELS, TEST_LABELS, TRAIN_LABELS, "40 labels; train-images-idx3-ubyte.gz has 1200"),
        (TRAIN_IMAGES, TEST_IMAGES, TRAIN_LABELS, "1200 labels; train-images-idx3-ubyte.gz has 40"),
    ],
)
def test_idx_swapped_files(
    folder: pathlib.Path, first: str, second: str, file: str, reason: str
) -> None:
    swap(folder, first, second)
    assert reason in idx_refused(folder, file)


def test_idx_training_and_test_swapped(folder: pathlib.Path) -> None:
    swap(folder, TRAIN_IMAGES, TEST_IMAGES)
    swap(folder, TRAIN_LABELS, TEST_LABELS)
    assert "40 training images and 1200 test images" in idx_refused(folder)


def test_idx_sizes_differ(folder: pathlib.Path) -> None:
    images = some_images(40, 2, (4, 4))
    (folder / TEST_IMAGES).write_bytes(gzip.compress(idx(images)))
    assert "4 x 4 pixels; train-images-idx3-ubyte.gz has 3 x 4" in idx_refused(folder, TEST_IMAGES)


def test_idx_labels_out_of_range(folder: pathlib.Path) -> None:
    labels = np.arange(40, dtype=np.uint8) % 3
    (folder / TEST_LABELS).write_bytes(gzip.compress(idx(labels)))
    assert "label 2 in the test split; training has classes 0..1" in idx_refused(folder)


def test_fashion_mnist_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path
) -> None:
    monkeypatch.setattr(data, "FASHION_MNIST", folder)
    assert data.load("", "fashion_mnist").name == "fashion_mnist"
    monkeypatch.setattr(data, "FASHION_MNIST", folder / "nowhere")
    with pytest.raises(InputError, match=r"install Debian's package dataset-fashion-mnist, or set"):
        data.load("", "fashion_mnist")


def test_idx_folder_stays_one(folder: pathlib.Path, batches: pathlib.Path) -> None:
    (folder / cifar.FOLDER).mkdir()
    for file in cifar.FILES:
        (batches / file).rename(folder / cifar.FOLDER / file)
    for name in ("mnist_5k", "cifar_10"):
        assert data.load(str(folder), name).name == "tiny"
