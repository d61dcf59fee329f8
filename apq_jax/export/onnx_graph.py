"""Builds a graph of ONNX operators: nodes, constants, and values for any batch.

A network is traced with two batch sizes. The axes whose sizes differ grow with the batch, and stay
open in the model; anything else that depends on the batch size is refused.
"""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from apq_jax.models.onnx.values import Node

BATCHES = (2, 3)  # batch sizes with which a network is traced
INPUT, OUTPUT = "images", "logits"


class UnsupportedError(ValueError):
    """The model needs an operation that cannot be written as ONNX; the message names it."""


class Shape(NamedTuple):
    """A value's shape, as traced with the smaller and the larger of `BATCHES`."""

    small: tuple[int, ...]
    large: tuple[int, ...]

    @property
    def batch_axes(self) -> tuple[int, ...]:
        """The axes whose size grows with the batch, in rising order."""
        return tuple(k for k, (a, b) in enumerate(zip(*self, strict=True)) if a != b)

    def get_dims(self) -> tuple[int, ...]:
        """Returns the sizes for a Reshape to any batch: -1 along the axis that grows, if any.

        Raises:
          UnsupportedError: several axes grow with the batch.
        """
        if len(self.batch_axes) > 1:
            raise UnsupportedError("a shape with the batch in several axes")
        return tuple(-1 if k in self.batch_axes else size for k, size in enumerate(self.small))

    def take(self, axes: tuple[int, ...]) -> "Shape":
        """Returns the shape of the given axes alone, in the given order."""
        return Shape(*(tuple(shape[k] for k in axes) for shape in self))

    def merge(self, *groups: tuple[int, ...]) -> "Shape":
        """Returns a shape with one axis a group, as long as the product of the group's axes."""
        return Shape(*(tuple(math.prod(shape[k] for k in g) for g in groups) for shape in self))


class Known(NamedTuple):
    """A value that does not depend on the data, as traced with each of `BATCHES`."""

    small: Any  # array
    large: Any  # array

    @property
    def shape(self) -> Shape:
        return Shape(np.shape(self.small), np.shape(self.large))

    def collapse(self, uniform: tuple[int, ...] = ()) -> np.ndarray:
        """Returns the array that broadcasts to this value for any batch: size 1 along the batch.

        Args:
          uniform: more axes that shrink to size 1 if all numbers along them are equal.

        Raises:
          UnsupportedError: the numbers differ along the batch, or depend on its size.
        """
        arrays = []
        for array in map(np.asarray, self):
            for axis in range(array.ndim):
                first = array.take([0], axis) if array.shape[axis] else array
                in_batch = axis in self.shape.batch_axes
                same = (in_batch or axis in uniform) and _are_equal(first, array)
                if in_batch and not same:
                    raise UnsupportedError("a constant that differs along the batch")
                array = first if same else array
            arrays.append(array)
        if arrays[0].shape != arrays[1].shape or not _are_equal(*arrays):
            raise UnsupportedError("a constant that depends on the size of the batch")
        return arrays[0]


class Data(NamedTuple):
    """A value that depends on the data: a tensor of the graph, transposed by `order`.

    The transposition becomes a node only when `Graph.materialise` is called, because most
    transpositions of images meet their inverse before that.
    """

    tensor: str  # its name
    order: tuple[int, ...]  # axis k of the value is axis order[k] of the tensor
    shape: Shape  # of the value, not of the tensor
    dtype: Any

    def transpose(self, axes: tuple[int, ...]) -> "Data":
        """Returns the value with permuted axes; adds no node."""
        order = tuple(self.order[k] for k in axes)
        return self._replace(order=order, shape=self.shape.take(axes))


Value: TypeAlias = Known | Data


class Graph:
    """Nodes and constants in the order in which they are added, without duplicates.

    A node is shared if operator, inputs and attributes are those of an earlier node; a constant is
    shared if its array and wanted name are those of an earlier constant.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, np.ndarray] = {}
        self._results: dict[Any, tuple[str, ...]] = {}  # from a node's content to its results
        self._constants: dict[Any, str] = {}  # from a constant's content to its name
        self._names = {INPUT, OUTPUT}

    def add_constant(self, value: Any, name: str = "constant") -> str:
        """Adds a constant; returns its name: `name`, with a number appended if that is taken."""
        value = np.asarray(value, order="C")
        key = name, value.dtype.str, value.shape, value.tobytes()
        if key not in self._constants:
            self._constants[key] = self._reserve_name(name)
            self.tensors[self._constants[key]] = value
        return self._constants[key]

    def add_node(self, op: str, *inputs: str, prefix: str = "", **attributes: Any) -> str:
        """Adds a node of one result; returns the name of the result, and of the node.

        The name is `prefix` and operator, with a number appended if that is taken.
        """
        return self.add_node_with_results(op, inputs, 1, prefix, **attributes)[0]

    def add_node_with_results(
        self, op: str, inputs: tuple[str, ...], count: int, prefix: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Adds a node of `count` results, like `add_node`; returns the results' names."""
        key = op, inputs, count, repr(sorted(attributes.items()))
        if key not in self._results:
            name = self._reserve_name(f"{prefix}{op}")
            results = (name, *(self._reserve_name(f"{name}:{k}") for k in range(1, count)))
            self.nodes.append(Node(op, name, inputs, results, attributes))
            self._results[key] = results
        return self._results[key]

    def _reserve_name(self, name: str) -> str:
        unused, count = name, 0
        while unused in self._names:
            count += 1
            unused = f"{name}_{count}"
        self._names.add(unused)
        return unused

    def add_ints(self, values: Any) -> str:
        """Adds the constant int64 list of `values`, such as axes; returns its name."""
        return self.add_constant(np.array(list(values), np.int64))

    def materialise(self, value: Value) -> str:
        """Returns the name of a tensor that holds a value in full; adds the nodes for it.

        Data is transposed by a node, unless its order is the tensor's own; a constant whose shape
        grows with the batch is repeated for the images of the input.

        Raises:
          UnsupportedError: a constant differs along the batch, or depends on its size.
        """
        if isinstance(value, Known):
            return self._expand_along_batch(value.collapse(), value.shape)
        if value.order == tuple(range(len(value.order))):
            return value.tensor
        return self.add_node("Transpose", value.tensor, perm=list(value.order))

    def _expand_along_batch(self, array: np.ndarray, shape: Shape) -> str:
        """Returns the tensor of a constant that is repeated once per image of the input."""
        if not shape.batch_axes:
            return self.add_constant(array)
        batch = self.add_node("Shape", INPUT, start=0, end=1)
        lengths = []
        for axis, size in enumerate(shape.small):
            if axis not in shape.batch_axes:
                lengths.append(self.add_ints([size]))
            else:
                lengths.append(self.add_node("Mul", batch, self.add_ints([size // BATCHES[0]])))
        dims = self.add_node("Concat", *lengths, axis=0)
        return self.add_node("Expand", self.add_constant(array), dims)

    def lay_out(self, value: Value, order: tuple[int, ...]) -> str:
        """Returns the name of a tensor that, transposed by `order`, is the value."""
        if isinstance(value, Known):
            value = make_data(self.materialise(value), value.shape, np.asarray(value.small).dtype)
        return self.materialise(value.transpose(invert(order)))

    def reshape(self, value: Data, shape: Shape) -> Data:
        """Returns the value in another shape, by a Reshape unless it has the shape already."""
        if value.shape == shape:
            return value
        inputs = self.materialise(value), self.add_ints(shape.get_dims())
        return make_data(self.add_node("Reshape", *inputs), shape, value.dtype)

    def add_elementwise(
        self, op: str, values: list[Value], shape: Shape, dtype: Any, **attributes: Any
    ) -> Data:
        """Adds an elementwise operator, which broadcasts its operands; returns its result.

        The result keeps the order of the first operand that is transposed data, so that no node
        transposes that operand; the others are laid out to match.

        Args:
          op: the operator's name.
          values: the operands, at least one of them data.
          shape, dtype: of the result.
          **attributes: the operator's.
        """
        data = [value for value in values if isinstance(value, Data)]
        identity = tuple(range(len(shape.small)))
        order = next((value.order for value in data if value.order != identity), identity)
        # A constant may keep size 1 along an axis that a data operand has in full, because ONNX
        # broadcasts it there.
        full = tuple(
            k for k in identity if any(x.shape.take((k,)) == shape.take((k,)) for x in data)
        )
        names = []
        for value in values:
            if isinstance(value, Data) or not {*value.shape.batch_axes} <= {*full}:
                names.append(self.lay_out(value, order))
                continue
            array = value.collapse(full)
            if array.ndim:
                array = array.transpose(invert(order))
            names.append(self.add_constant(array if array.size > 1 else array.reshape(())))
        return Data(self.add_node(op, *names, **attributes), order, shape, dtype)


def invert(order: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the order of axes that undoes a transposition by `order`."""
    return tuple(int(k) for k in np.argsort(order))


def make_data(tensor: str, shape: Shape, dtype: Any = np.float32) -> Data:
    """Returns the value that is the tensor itself, not transposed."""
    return Data(tensor, tuple(range(len(shape.small))), shape, np.dtype(dtype))


def _are_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Returns whether two arrays hold the same numbers; NaN equals NaN."""
    same = a == b
    return bool((same | ((a != a) & (b != b))).all())
