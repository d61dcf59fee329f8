"""Data sets: the splits, and every npz file that must be refused."""

import io
import pathlib
import zipfile

import numpy as np
import pytest
from helpers.images import one_pair, some_images, three_pairs

from apq_jax import data
from apq_jax.system.errors import InputError


def refused(path: pathlib.Path) -> str:
    """The one line with which a file is refused, without the file's name."""
    with pytest.raises(InputError) as caught:
        data.load_npz(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_float_images_are_taken_as_they_are(npz: pathlib.Path, dtype: str) -> None:
    arrays = one_pair()
    channels = np.asfortranarray(some_images(300, size=(4, 5, 2)) - 100.0)
    np.savez(npz, images=channels.astype(dtype), labels=arrays["labels"].astype(np.uint8))
    dataset = data.load_npz(npz)
    assert dataset.train_images.dtype == np.float32
    assert dataset.train_images.shape == (180, 4, 5, 2)
    assert dataset.train_images.min() == -100.0


def test_the_data_sets_name_is_printable(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a\n\x1b[2J.npz"
    np.savez(path, **one_pair())
    assert data.load_npz(path).name == r"'a\n\x1b[2J'"


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
        ("labels", np.full(300, 2**31 - 2), "1 class; at least 2"),
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
    ("split", "other"), [("train", "validation"), ("train", "test"), ("validation", "test")]
)
def test_overlap_between_splits(npz: pathlib.Path, split: str, other: str) -> None:
    arrays = three_pairs()
    arrays[f"{other}_images"][4:7] = arrays[f"{split}_images"][1:4]
    np.savez(npz, **arrays)
    assert refused(npz).startswith(f"{split}_images: 3 are also in {other}_images")


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
    monkeypatch.setattr("apq_jax.data.npz.MAX_BYTES", 1 << 20)
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
