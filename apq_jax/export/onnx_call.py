"""What a translation into ONNX gets of a jaxpr's equation, and helpers that translations share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from apq_jax.export.onnx_graph import Data, Graph, Known, Shape, Value

DTYPES: dict[str, int] = {  # of values that depend on the data, as TensorProto.DataType
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "bool": 9,
}


class Call(NamedTuple):
    """An equation of a jaxpr."""

    params: dict[str, Any]
    values: list[Value]  # the operands
    shapes: list[Shape]  # of the results
    dtypes: list[Any]  # of the results


Primitive: TypeAlias = Callable[[Graph, Call], list[Value]]


def list_result(function: Callable[[Graph, Call], Data]) -> Primitive:
    """Makes a Primitive of a function that returns its one result without a list."""

    @functools.wraps(function)
    def primitive(graph: Graph, call: Call) -> list[Value]:
        return [function(graph, call)]

    return primitive


def add_operator(graph: Graph, op: str, call: Call, *values: Value, **attributes: Any) -> Data:
    """Adds an elementwise operator with the shape and dtype of the call's first result.

    Args:
      graph, call: the graph, and the equation.
      op: the operator's name.
      *values: the operands.
      **attributes: the operator's; `dtype` replaces that dtype.
    """
    dtype = attributes.pop("dtype", call.dtypes[0])
    return graph.add_elementwise(op, list(values), call.shapes[0], dtype, **attributes)


def make_scalar(value: float, dtype: Any = np.float32) -> Known:
    """Returns one number as a value, which operators broadcast."""
    array = np.asarray(value, dtype)
    return Known(array, array)


def is_filled_with(value: Value, scalar: float) -> bool:
    """Returns whether a value is known and equals one number everywhere."""
    return isinstance(value, Known) and bool((np.asarray(value.small) == scalar).all())


def get_operand(call: Call) -> Data:
    """Returns the first operand, which must depend on the data."""
    value = call.values[0]
    assert isinstance(value, Data)
    return value
