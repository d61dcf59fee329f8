"""JAX primitives that work on one element at a time, as ONNX operators."""

import numpy as np

from apq_jax.export.onnx_call import (
    DTYPES,
    Call,
    Primitive,
    add_operator,
    is_filled_with,
    list_result,
    make_scalar,
)
from apq_jax.export.onnx_graph import Data, Graph, Known, UnsupportedError, Value


def make_elementwise(op: str) -> Primitive:
    """Returns the translation of a primitive that one operator expresses."""
    return list_result(lambda graph, call: add_operator(graph, op, call, *call.values))


def pass_through(graph: Graph, call: Call) -> list[Value]:
    """Translates primitives that change nothing in an inference: adds no node."""
    return call.values


@list_result
def add_max(graph: Graph, call: Call) -> Data:
    if call.dtypes[0] == np.float32:
        for x, other in (call.values, call.values[::-1]):
            if is_filled_with(other, 0.0) and isinstance(x, Data) and x.shape == call.shapes[0]:
                return add_operator(graph, "Relu", call, x)
    return add_operator(graph, "Max", call, *call.values)


@list_result
def add_rsqrt(graph: Graph, call: Call) -> Data:
    root = add_operator(graph, "Sqrt", call, *call.values)
    return add_operator(graph, "Reciprocal", call, root)


@list_result
def add_square(graph: Graph, call: Call) -> Data:
    return add_operator(graph, "Mul", call, *2 * call.values)


@list_result
def add_integer_pow(graph: Graph, call: Call) -> Data:
    (x,), exponent = call.values, call.params["y"]
    if exponent == 2:
        return add_operator(graph, "Mul", call, x, x)
    return add_operator(graph, "Pow", call, x, make_scalar(exponent, call.dtypes[0]))


@list_result
def add_exp2(graph: Graph, call: Call) -> Data:
    return add_operator(graph, "Pow", call, make_scalar(2), *call.values)


@list_result
def add_expm1(graph: Graph, call: Call) -> Data:
    power = add_operator(graph, "Exp", call, *call.values)
    return add_operator(graph, "Sub", call, power, make_scalar(1))


@list_result
def add_log1p(graph: Graph, call: Call) -> Data:
    total = add_operator(graph, "Add", call, *call.values, make_scalar(1))
    return add_operator(graph, "Log", call, total)


@list_result
def add_erfc(graph: Graph, call: Call) -> Data:
    error = add_operator(graph, "Erf", call, *call.values)
    return add_operator(graph, "Sub", call, make_scalar(1), error)


@list_result
def add_remainder(graph: Graph, call: Call) -> Data:
    # fmod=1 takes the sign of the first operand, as JAX does.
    return add_operator(graph, "Mod", call, *call.values, fmod=1)


@list_result
def add_round(graph: Graph, call: Call) -> Data:
    if int(call.params["rounding_method"]) != 1:
        raise UnsupportedError("round away from zero")
    return add_operator(graph, "Round", call, *call.values)


@list_result
def add_not_equal(graph: Graph, call: Call) -> Data:
    return add_operator(graph, "Not", call, add_operator(graph, "Equal", call, *call.values))


@list_result
def add_is_finite(graph: Graph, call: Call) -> Data:
    size = add_operator(graph, "Abs", call, *call.values, dtype=np.dtype(np.float32))
    return add_operator(graph, "Less", call, size, make_scalar(np.inf))


def make_logical(op: str, name: str) -> Primitive:
    """Returns the translation of the primitive `name`, which must be of truth values."""

    def add_logical(graph: Graph, call: Call) -> Data:
        if call.dtypes[0] != np.bool_:
            raise UnsupportedError(f"{name} of {call.dtypes[0]}")
        return add_operator(graph, op, call, *call.values)

    return list_result(add_logical)


@list_result
def add_select(graph: Graph, call: Call) -> Data:
    which, *cases = call.values
    dtype = np.asarray(which.small).dtype if isinstance(which, Known) else which.dtype
    if len(cases) != 2 or dtype != np.bool_:
        raise UnsupportedError("select_n of more than two cases")
    return add_operator(graph, "Where", call, which, cases[1], cases[0])


@list_result
def add_clamp(graph: Graph, call: Call) -> Data:
    low, x, high = call.values
    return add_operator(graph, "Min", call, add_operator(graph, "Max", call, x, low), high)


@list_result
def add_convert(graph: Graph, call: Call) -> Data:
    (x,) = call.values
    if isinstance(x, Data) and x.dtype == call.dtypes[0]:
        return x
    return add_operator(graph, "Cast", call, x, to=DTYPES[str(call.dtypes[0])])
