"""A graph of ONNX operators as it is written: nodes, constants, and values for any batch.

A network is traced with two batches side by side. Axes whose sizes differ grow with the batch and
are left free; whatever else would depend on it is refused.
"""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from apq_jax.models.onnx.values import Node

BATCHES = (2, 3)  # that a network is traced with
INPUT, OUTPUT = "images", "logits"


class UnsupportedError(ValueError):
    """What cannot be written as ONNX, in a few words."""


class Sizes(NamedTuple):
    """A value's shape, as traced with either of `BATCHES`."""

    small: tuple[int, ...]
    large: tuple[int, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """Axes that grow with the batch."""
        return tuple(k for k, (a, b) in enumerate(zip(*self, strict=True)) if a != b)

    def dims(self) -> tuple[int, ...]:
        """The shape for any batch, -1 at the axis that grows.

        Raises:
          UnsupportedError: several axes grow with the batch.
        """
        if len(self.free) > 1:
            raise UnsupportedError("a shape with the batch in several axes")
        return tuple(-1 if k in self.free else size for k, size in enumerate(self.small))

    def take(self, axes: tuple[int, ...]) -> "Sizes":
        """The shape of these axes."""
        return Sizes(*(tuple(shape[k] for k in axes) for shape in self))

    def merged(self, *groups: tuple[int, ...]) -> "Sizes":
        """The shape whose axes are the products of these groups of axes."""
        return Sizes(*(tuple(math.prod(shape[k] for k in g) for g in groups) for shape in self))


class Known(NamedTuple):
    """A value that does not depend on the data, as traced with either of `BATCHES`."""

    small: Any  # array
    large: Any  # array

    @property
    def sizes(self) -> Sizes:
        return Sizes(np.shape(self.small), np.shape(self.large))


class Data(NamedTuple):
    """A value that depends on the data: the named tensor, its axes transposed by `order`.

    Transposing is put off, as most transpositions of images meet their inverse.
    """

    tensor: str
    order: tuple[int, ...]
    sizes: Sizes
    dtype: Any

    def transposed(self, axes: tuple[int, ...]) -> "Data":
        order = tuple(self.order[k] for k in axes)
        return self._replace(order=order, sizes=self.sizes.take(axes))


Value: TypeAlias = Known | Data


class Graph:
    """Nodes and constants, in the order in which they are added; no node stands twice."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, np.ndarray] = {}
        self._made: dict[Any, tuple[str, ...]] = {}  # a node's content: its results
        self._constants: dict[Any, str] = {}  # a constant's content: its name
        self._names = {INPUT, OUTPUT}

    def constant(self, value: Any, name: str = "constant") -> str:
        """The name of a constant: `name`, with a number where another has it."""
        value = np.asarray(value, order="C")
        key = name, value.dtype.str, value.shape, value.tobytes()
        if key not in self._constants:
            self._constants[key] = self._unused(name)
            self.tensors[self._constants[key]] = value
        return self._constants[key]

    def node(self, op: str, *inputs: str, prefix: str = "", **attributes: Any) -> str:
        """Adds an operation of one result, and names that."""
        return self.parts(op, inputs, 1, prefix, **attributes)[0]

    def parts(
        self, op: str, inputs: tuple[str, ...], count: int, prefix: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Adds an operation, and names its results."""
        key = op, inputs, count, repr(sorted(attributes.items()))
        if key not in self._made:
            name = self._unused(f"{prefix}{op}")
            results = (name, *(self._unused(f"{name}:{k}") for k in range(1, count)))
            self.nodes.append(Node(op, name, inputs, results, attributes))
            self._made[key] = results
        return self._made[key]

    def _unused(self, name: str) -> str:
        found, count = name, 0
        while found in self._names:
            count += 1
            found = f"{name}_{count}"
        self._names.add(found)
        return found

    def ints(self, values: Any) -> str:
        """A constant list of whole numbers, such as axes."""
        return self.constant(np.array(list(values), np.int64))

    def plain(self, value: Value) -> str:
        """The tensor of a value as it is: no transposition is put off, no axis left out."""
        if isinstance(value, Known):
            return self._expanded(collapse_batch(value, ()), value.sizes)
        if value.order == tuple(range(len(value.order))):
            return value.tensor
        return self.node("Transpose", value.tensor, perm=list(value.order))

    def _expanded(self, array: np.ndarray, sizes: Sizes) -> str:
        """A constant along the batch, repeated for as many as the input has."""
        if not sizes.free:
            return self.constant(array)
        batch = self.node("Shape", INPUT, start=0, end=1)
        parts = []
        for axis, size in enumerate(sizes.small):
            if axis not in sizes.free:
                parts.append(self.ints([size]))
            else:
                parts.append(self.node("Mul", batch, self.ints([size // BATCHES[0]])))
        shape = self.node("Concat", *parts, axis=0)
        return self.node("Expand", self.constant(array), shape)

    def laid_out(self, value: Value, order: tuple[int, ...]) -> str:
        """The tensor that is the value once it is transposed by `order`."""
        inverse = tuple(int(k) for k in np.argsort(order))
        if isinstance(value, Known):
            value = wrap_tensor(self.plain(value), value.sizes, np.asarray(value.small).dtype)
        return self.plain(value.transposed(inverse))

    def reshaped(self, value: Data, sizes: Sizes) -> Data:
        """The value with another shape."""
        if value.sizes == sizes:
            return value
        shape = self.ints(sizes.dims())
        return wrap_tensor(self.node("Reshape", self.plain(value), shape), sizes, value.dtype)

    def elementwise(
        self, op: str, values: list[Value], sizes: Sizes, dtype: Any, **attributes: Any
    ) -> Data:
        """An operation whose operands are broadcast, in the layout that they have."""
        data = [value for value in values if isinstance(value, Data)]
        identity = tuple(range(len(sizes.small)))
        order = next((one.order for one in data if one.order != identity), identity)
        # Along axes that a data operand has in full, a constant may be left to be broadcast.
        full = tuple(
            k for k in identity if any(x.sizes.take((k,)) == sizes.take((k,)) for x in data)
        )
        names = []
        for value in values:
            if isinstance(value, Data) or not {*value.sizes.free} <= {*full}:
                names.append(self.laid_out(value, order))
                continue
            array = collapse_batch(value, full)
            if array.ndim:
                array = array.transpose(np.argsort(order))
            names.append(self.constant(array if array.size > 1 else array.reshape(())))
        return Data(self.node(op, *names, **attributes), order, sizes, dtype)


def wrap_tensor(tensor: str, sizes: Sizes, dtype: Any = np.float32) -> Data:
    """A value that is a tensor as it is."""
    return Data(tensor, tuple(range(len(sizes.small))), sizes, np.dtype(dtype))


def collapse_batch(value: Known, uniform: tuple[int, ...]) -> np.ndarray:
    """A known value for any batch; one number along the batch.

    Args:
      value: the value.
      uniform: further axes along which one number is enough where all are the same.

    Raises:
      UnsupportedError: it depends on the batch.
    """
    found = []
    for array in value:
        array = np.asarray(array)
        for axis in range(array.ndim):
            first = array.take([0], axis) if array.shape[axis] else array
            same = (axis in uniform or axis in value.sizes.free) and _are_equal(first, array)
            if axis in value.sizes.free and not same:
                raise UnsupportedError("a constant that differs along the batch")
            array = first if same else array
        found.append(array)
    if found[0].shape != found[1].shape or not _are_equal(*found):
        raise UnsupportedError("a constant that depends on the size of the batch")
    return found[0]


def _are_equal(a: np.ndarray, b: np.ndarray) -> bool:
    same = a == b
    return bool((same | ((a != a) & (b != b))).all())
