"""Reads a folder of IDX files, the format of MNIST and Fashion-MNIST.

A file is gzip-compressed. It holds two zero bytes, the type (8: unsigned byte), the number of axes,
each axis as a big-endian 32-bit number, and the bytes.
"""

import gzip
import math
import os
import pathlib
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from apq_jax.data.dataset import MAX_BYTES, Dataset, explain, split_training
from apq_jax.system.errors import InputError, quote_name
from apq_jax.system.files import require_file

FILES = tuple(
    f"{split}-{part}.gz"
    for split in ("train", "t10k")
    for part in ("images-idx3-ubyte", "labels-idx1-ubyte")
)
_PIECE = 1 << 20


def is_idx(folder: str | os.PathLike[str]) -> bool:
    """Tells whether a folder holds one of the `FILES`."""
    return any(os.path.exists(pathlib.Path(folder, file)) for file in FILES)


def load_idx(folder: str | os.PathLike[str], name: str = "") -> Dataset:
    """Reads the four `FILES` of a folder; images are [N, H, W, 1].

    The training images are split 54 : 1 : 5 into training, search and selection within each class
    with a fixed seed; see `split_training`. The test images are the test split.

    Args:
      folder: holds the files.
      name: of the data set; if empty, the folder's name.

    Raises:
      InputError: a file is missing, is not an IDX file of unsigned bytes with the number of axes in
        its name, states more than 8 GiB as float32, holds fewer or more bytes than its header says,
        or does not fit the other files; or see `split_training`.
    """
    folder = pathlib.Path(folder)
    arrays = [_read(folder / file, 3 if "images" in file else 1) for file in FILES]
    for index in (0, 2):
        images, labels = arrays[index : index + 2]
        if len(images) != len(labels):
            raise InputError(
                f"{folder / FILES[index + 1]}: {len(labels)} labels; {FILES[index]} has "
                f"{len(images)} images (have the files been swapped?)"
            )
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise InputError(
            f"{folder / FILES[2]}: images of {_format(arrays[2].shape[1:])} pixels; "
            f"{FILES[0]} has {_format(arrays[0].shape[1:])}"
        )
    arrays = [array[..., None] if array.ndim == 3 else array for array in arrays]
    name = name or quote_name(folder.resolve().name)
    return split_training(name, str(folder), arrays)


def _read(path: pathlib.Path, axes: int) -> npt.NDArray[Any]:
    """Reads the array of an IDX file, uint8."""
    require_file(path, MAX_BYTES)
    try:
        with gzip.open(path) as file:
            shape = _read_header(path, file, axes)
            return np.frombuffer(_read_bytes(path, file, math.prod(shape)), np.uint8).reshape(shape)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as a gzip file ({explain(error)})") from error


def _read_header(path: pathlib.Path, file: Any, axes: int) -> tuple[int, ...]:
    """Reads and checks the header, and returns the shape."""
    header = file.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes:
        raise InputError(f"{path}: ends within its header")
    if header[:4] != bytes([0, 0, 8, axes]):
        raise InputError(
            f"{path}: magic number {int.from_bytes(header[:4])}; allowed: {2048 + axes}, "
            f"{'images' if axes == 3 else 'labels'} of unsigned bytes"
        )
    shape = tuple(map(int, np.frombuffer(header, ">u4")[1:]))
    if 0 in shape:
        raise InputError(f"{path}: {_format(shape)} values; allowed: at least one on every axis")
    if 4 * math.prod(shape) > MAX_BYTES:
        raise InputError(
            f"{path}: {_format(shape)} values, {4 * math.prod(shape) / 2**30:,.1f} GiB as "
            f"float32; allowed: at most {MAX_BYTES >> 30} GiB"
        )
    return shape


def _read_bytes(path: pathlib.Path, file: Any, size: int) -> bytearray:
    """Reads exactly `size` bytes and then the end; memory grows with the bytes read."""
    content = bytearray()
    while len(content) < size and (piece := file.read(min(_PIECE, size - len(content)))):
        content += piece
    # The last read compares the checksum.
    if len(content) < size or file.read(1):
        count = f"{len(content)}" if len(content) < size else f"more than {size}"
        raise InputError(f"{path}: {count} bytes after the header; its header says {size}")
    return content


def _format(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
