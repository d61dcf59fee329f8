"""Reads an ONNX file's tensors and attributes; sizes are checked before memory is taken."""

import math
import pathlib
import re
from typing import Any

import numpy as np

from apq_jax.models.onnx.values import DTYPES, quote
from apq_jax.system.errors import InputError, make_one_line

MAX_BYTES = (2 << 30) - 1  # of a file (protobuf's limit), and of all tensors together
FLOAT = 1  # TensorProto.FLOAT
_EXTERNAL = 1  # TensorProto.EXTERNAL
OTHER, TENSOR = object(), object()  # stand for attributes of unsupported types, and for tensors
_FIELDS = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}  # by AttributeProto.AttributeType
_LISTS = {  # field of a TensorProto and its dtype, by the tensor's dtype; int32_data for others
    "float32": ("float_data", np.float32),
    "float64": ("double_data", np.float64),
    "int64": ("int64_data", np.int64),
    "uint32": ("uint64_data", np.uint64),
    "uint64": ("uint64_data", np.uint64),
}


def format_type(data_type: int) -> str:
    """Returns ONNX's name of a TensorProto.DataType in lower case, such as "float".

    A type that ONNX does not define is returned as its number.
    """
    import onnx

    names = {value: name for name, value in onnx.TensorProto.DataType.items()}
    return str(names.get(data_type, data_type)).lower()


def format_title(node: Any) -> str:
    """Returns a node's name; if it is empty, the name of the node's first output that has one."""
    return node.name or next((name for name in node.output if name), "")


def read_module(node: Any) -> str:
    """Returns the path of the PyTorch module that a node was exported from, or "".

    The newer exporter writes the scopes into the node's metadata, "['', 'layer1', 'layer1.0']", the
    operation last. The older one makes them the node's name: "/layer1/layer1.0/Conv".
    """
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = re.findall("'([^']*)'", entry.value)
            return scopes[-2] if len(scopes) > 1 else ""
    parts: list[str] = []
    for scope in node.name.split("/")[1:-1]:
        if parts and scope.startswith(f"{parts[-1]}."):
            parts.pop()  # a child of a Sequential repeats its parent's name
        parts.append(scope)
    return ".".join(parts)


def read_attribute(attribute: Any) -> Any:
    """Returns an attribute's number, text or list of numbers.

    For a tensor it returns TENSOR, and `Reader.read` reads the tensor. For every other type it
    returns OTHER.
    """
    if attribute.type == 4:
        return TENSOR
    if attribute.type not in _FIELDS:
        return OTHER
    value = getattr(attribute, _FIELDS[attribute.type])
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, int | float) else list(value)


class Reader:
    """Reads the tensors of one file, which together have at most MAX_BYTES."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.bytes = 0  # of all tensors so far

    def read(self, name: str, tensor: Any) -> np.ndarray:
        """Reads a TensorProto's values; `name` is for messages.

        Raises:
          InputError: the tensor's type, shape or storage is not supported; its bytes cannot be read
            or do not fit its shape; or the tensors read so far exceed MAX_BYTES.
        """
        where = f"{self.path}: tensor {quote(name)}"
        if tensor.data_type not in DTYPES:
            raise InputError(
                f"{where}: of type {format_type(tensor.data_type)}; allowed: "
                f"{', '.join(format_type(data_type) for data_type in DTYPES)}"
            )
        dtype, shape = np.dtype(DTYPES[tensor.data_type]), tuple(tensor.dims)
        if min(shape, default=0) < 0 or len(shape) > 32:
            raise InputError(f"{where}: shape {make_one_line(shape)}; allowed: axes of 0 or more")
        size = math.prod(shape) * dtype.itemsize
        self.bytes += size
        if self.bytes > MAX_BYTES:
            raise InputError(
                f"{where}: shape {make_one_line(shape)} of {dtype}; allowed: {MAX_BYTES:,} bytes "
                "for all tensors"
            )
        if tensor.HasField("segment"):
            raise InputError(f"{where}: in segments; allowed: whole tensors")
        if tensor.data_location == _EXTERNAL:
            raw = self._read_external(where, tensor, size)
        elif tensor.HasField("raw_data"):
            raw = tensor.raw_data
        else:
            return _read_list(where, tensor, dtype, shape)
        if len(raw) != size:
            raise InputError(
                f"{where}: shape {make_one_line(shape)} of {dtype} needs {size:,} bytes; the file "
                f"holds {len(raw):,}"
            )
        if dtype == np.bool_:
            return np.frombuffer(raw, np.uint8).reshape(shape) != 0
        return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape).astype(dtype)

    def _read_external(self, where: str, tensor: Any, size: int) -> bytes:
        """Reads a tensor's bytes from a file in the model's folder or below."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        where = f"{where}: external data {quote(location)}"
        parts = pathlib.PurePosixPath(location)
        odd = "\\" in location or ":" in location or not location.isprintable()
        if not location or odd or parts.is_absolute() or ".." in parts.parts:
            raise InputError(f"{where}; allowed: a path below the model's folder")
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        except ValueError as error:
            raise InputError(f"{where}: offset or length is not a number") from error
        try:
            folder = self.path.parent.resolve(strict=True)
            file = (folder / location).resolve(strict=True)
            if not file.is_relative_to(folder):
                raise InputError(f"{where}: a link out; allowed: a file below the model's folder")
            if not file.is_file():
                raise InputError(f"{where}: is not a file")
            available = file.stat().st_size
            if length != size or offset < 0 or offset + length > available:
                raise InputError(
                    f"{where}: {length:,} bytes from {offset:,}; allowed: {size:,} bytes, within "
                    f"the file's {available:,}"
                )
            with file.open("rb") as opened:
                opened.seek(offset)
                return opened.read(length)
        except OSError as error:
            raise InputError(f"{where}: cannot be read ({error.strerror})") from error
        except (ValueError, RuntimeError) as error:  # an impossible path; a loop of links
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: cannot be read ({make_one_line(error)})") from error


def _read_list(where: str, tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Reads a tensor that is stored as a list of numbers, not as raw bytes."""
    field, stored = _LISTS.get(dtype.name, ("int32_data", np.int32))
    values = np.array(getattr(tensor, field), stored)
    if values.size != math.prod(shape):
        raise InputError(
            f"{where}: shape {make_one_line(shape)} needs {math.prod(shape):,} numbers; the file "
            f"holds {values.size:,}"
        )
    if dtype == np.float16:  # stored as bit patterns, one an int32
        return (values & 0xFFFF).astype(np.uint16).view(np.float16).reshape(shape)
    return values.astype(dtype).reshape(shape)
