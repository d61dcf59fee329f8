"""The call of a JAX primitive that is translated into ONNX, and helpers of the translations."""

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
    """An equation of a jaxpr: a primitive with its parameters, operands and kinds of results."""

    params: dict[str, Any]
    values: list[Value]  # the operands
    shapes: list[Shape]  # one for each result
    dtypes: list[Any]  # one for each result


Primitive: TypeAlias = Callable[[Graph, Call], Value | list[Value]]  # one result, or all in order


def add_operator(graph: Graph, op: str, call: Call, *values: Value, **attributes: Any) -> Data:
    """Adds an elementwise ONNX operator; returns its result, shaped as the call's first result.

    Args:
      graph: the graph to add to.
      op: the operator's name.
      call: gives the result's shape and dtype.
      *values: the operands, at least one of them data.
      **attributes: the operator's; `dtype` is no attribute, but replaces the result's dtype.
    """
    dtype = attributes.pop("dtype", call.dtypes[0])
    return graph.add_elementwise(op, list(values), call.shapes[0], dtype, **attributes)


def make_scalar(value: float, dtype: Any = np.float32) -> Known:
    """Returns one number as a constant without axes, which operators broadcast."""
    array = np.asarray(value, dtype)
    return Known(array, array)


def get_operand(call: Call) -> Data:
    """Returns the first operand, which must be data (an assertion)."""
    value = call.values[0]
    assert isinstance(value, Data)
    return value
