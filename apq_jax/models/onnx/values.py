"""What ONNX's operators are given: nodes, and values known while tracing or not."""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Value: TypeAlias = Any  # np.ndarray where known while tracing, else jax.Array
MAX_KNOWN = 1 << 20  # numbers of a value that is computed while tracing
DTYPES: dict[int, Any] = {  # TensorProto.DataType: of tensors that are read, and of Cast
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
    """An operation of a graph."""

    op: str
    name: str
    inputs: tuple[str, ...]  # "" where one is left out
    outputs: tuple[str, ...]
    attributes: dict[str, Any]  # numbers, texts, lists of numbers, arrays


class Call(NamedTuple):
    """What an operator knows beside its inputs."""

    attributes: dict[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


def is_known(*values: Value) -> bool:
    """Whether all are known while tracing."""
    return all(isinstance(value, np.ndarray) for value in values if value is not None)


def read_integers(value: Value, what: str) -> list[int]:
    """A known list of whole numbers, such as axes.

    Raises:
      ValueError: it depends on data or is something else.
    """
    if not is_known(value) or value is None:
        raise ValueError(f"{what}: computed from data; allowed: known without data")
    if value.dtype.kind not in "iu" or value.size > MAX_KNOWN:
        raise ValueError(f"{what}: {value.size} numbers of {value.dtype}; allowed: whole numbers")
    return [int(one) for one in value.reshape(-1)]


def check_known_size(shape: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    """The shape of a value that is computed while tracing.

    Raises:
      ValueError: it would hold more than MOST_KNOWN numbers.
    """
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_KNOWN:
        raise ValueError(f"a known value of shape {tuple(shape)}; allowed: {MAX_KNOWN} numbers")
    return tuple(shape)


def normalise_axis(axis: int, rank: int) -> int:
    """An axis of an array of so many, counted from its first.

    Raises:
      ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def quote(name: str) -> str:
    """A name in a message, which is one line that no terminal acts upon."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")
