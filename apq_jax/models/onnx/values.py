"""Defines what ONNX's operators share: nodes, calls, and values that tracing may know."""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Value: TypeAlias = Any  # np.ndarray if known while tracing, else jax.Array
MAX_KNOWN = 1 << 20  # elements of a value that is computed while tracing
DTYPES: dict[int, Any] = {  # by TensorProto.DataType: allowed for tensors and for Cast
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}


class Node(NamedTuple):
    """A node of a graph."""

    op: str  # the operator's name
    name: str
    inputs: tuple[str, ...]  # names of values; "" for an omitted input
    outputs: tuple[str, ...]  # names of values
    attributes: dict[str, Any]  # numbers, texts, lists of numbers, arrays
    module: str = ""  # path of the PyTorch module that it was exported from, "blocks.0.attn.qkv"


class Call(NamedTuple):
    """What an operator's function gets beside the node's inputs."""

    attributes: dict[str, Any]
    opset: int  # version of the operator set
    outputs: int  # number of the node's outputs

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, or `default` if the node lacks it."""
        return self.attributes.get(name, default)


def is_known(*values: Value) -> bool:
    """Returns whether all values are known while tracing, that is NumPy arrays.

    None, which stands for an omitted input, counts as known.
    """
    return all(isinstance(value, np.ndarray) for value in values if value is not None)


def read_integers(value: Value, what: str) -> list[int]:
    """Returns the elements of a known array of integers, such as axes, as a flat list.

    Args:
      value: the array.
      what: the array's name in an error.

    Raises:
      ValueError: the value depends on data, is None, has more than MAX_KNOWN elements, or is not
        of integers.
    """
    if not is_known(value) or value is None:
        raise ValueError(f"{what}: computed from data; allowed: known without data")
    if value.dtype.kind not in "iu" or value.size > MAX_KNOWN:
        raise ValueError(f"{what}: {value.size} numbers of {value.dtype}; allowed: whole numbers")
    return list(map(int, value.reshape(-1)))


def check_known_size(shape: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    """Returns `shape` as a tuple if a value of it may be computed while tracing.

    Raises:
      ValueError: an axis is negative, or the value would have more than MAX_KNOWN elements.
    """
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_KNOWN:
        raise ValueError(f"a known value of shape {tuple(shape)}; allowed: {MAX_KNOWN} numbers")
    return tuple(shape)


def normalise_axis(axis: int, rank: int) -> int:
    """Returns an axis from -rank to rank - 1, negative from the end, as one from 0 to rank - 1.

    Raises:
      ValueError: the axis is out of this range.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def quote(name: str) -> str:
    """Returns a name as it stands in a message: quoted, escaped, at most 80 characters."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")
