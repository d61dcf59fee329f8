"""An equation of a jaxpr on its way into an ONNX graph, and what every translation shares."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from apq_jax.export.onnx_graph import Data, Graph, Known, Sizes, Value

DTYPES: dict[str, int] = {  # of data: TensorProto.DataType
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "bool": 9,
}


class Call(NamedTuple):
    """An equation of a jaxpr."""

    params: dict[str, Any]
    values: list[Value]
    sizes: list[Sizes]  # of the results
    dtypes: list[Any]  # of the results


Primitive: TypeAlias = Callable[[Graph, Call], list[Value]]


def list_result(function: Callable[[Graph, Call], Data]) -> Primitive:
    """Of a function of one result."""

    @functools.wraps(function)
    def listed(graph: Graph, call: Call) -> list[Value]:
        return [function(graph, call)]

    return listed


def add_operator(graph: Graph, op: str, call: Call, *values: Value, **attributes: Any) -> Data:
    """An operator whose result is shaped as the call's first."""
    dtype = attributes.pop("dtype", call.dtypes[0])
    return graph.elementwise(op, list(values), call.sizes[0], dtype, **attributes)


def make_scalar(value: float, dtype: Any = np.float32) -> Known:
    """A constant that is broadcast."""
    array = np.asarray(value, dtype)
    return Known(array, array)


def is_filled_with(value: Value, wanted: float) -> bool:
    return isinstance(value, Known) and bool((np.asarray(value.small) == wanted).all())


def get_operand(call: Call) -> Data:
    """The operand of an operation that has one."""
    value = call.values[0]
    assert isinstance(value, Data)
    return value
