"""Translates JAX primitives that work on one element at a time into ONNX operators.

Each add_... function is a translation, as `onnx_primitives` describes them; `PRIMITIVES` there says
which primitive it translates.
"""

import numpy as np

from apq_jax.export.onnx_call import DTYPES, Call, Primitive, add_operator, make_scalar
from apq_jax.export.onnx_graph import Data, Graph, Known, UnsupportedError, Value


def make_elementwise(op: str) -> Primitive:
    """Returns the translation of a primitive that is the ONNX operator `op`."""
    return lambda graph, call: add_operator(graph, op, call, *call.values)


def pass_through(graph: Graph, call: Call) -> list[Value]:
    """Returns the operands as results; translates primitives that do nothing in an inference."""
    return call.values


def add_max(graph: Graph, call: Call) -> Data:
    if call.dtypes[0] == np.float32:
        for x, other in (call.values, call.values[::-1]):
            is_zero = isinstance(other, Known) and not np.any(other.small)
            if is_zero and isinstance(x, Data) and x.shape == call.shapes[0]:
                return add_operator(graph, "Relu", call, x)
    return add_operator(graph, "Max", call, *call.values)


def add_rsqrt(graph: Graph, call: Call) -> Data:
    root = add_operator(graph, "Sqrt", call, *call.values)
    return add_operator(graph, "Reciprocal", call, root)


def add_square(graph: Graph, call: Call) -> Data:
    return add_operator(graph, "Mul", call, *2 * call.values)


def add_integer_pow(graph: Graph, call: Call) -> Data:
    (x,), exponent = call.values, call.params["y"]
    if exponent == 2:
        return add_operator(graph, "Mul", call, x, x)
    return add_operator(graph, "Pow", call, x, make_scalar(exponent, call.dtypes[0]))


def add_exp2(graph: Graph, call: Call) -> Data:
    return add_operator(graph, "Pow", call, make_scalar(2), *call.values)


def add_expm1(graph: Graph, call: Call) -> Data:
    power = add_operator(graph, "Exp", call, *call.values)
    return add_operator(graph, "Sub", call, power, make_scalar(1))


def add_log1p(graph: Graph, call: Call) -> Data:
    total = add_operator(graph, "Add", call, *call.values, make_scalar(1))
    return add_operator(graph, "Log", call, total)


def add_erfc(graph: Graph, call: Call) -> Data:
    error = add_operator(graph, "Erf", call, *call.values)
    return add_operator(graph, "Sub", call, make_scalar(1), error)


def add_remainder(graph: Graph, call: Call) -> Data:
    # fmod=1 takes the sign of the first operand, as JAX does.
    return add_operator(graph, "Mod", call, *call.values, fmod=1)


def add_round(graph: Graph, call: Call) -> Data:
    if int(call.params["rounding_method"]) != 1:
        raise UnsupportedError("round away from zero")
    return add_operator(graph, "Round", call, *call.values)


def add_not_equal(graph: Graph, call: Call) -> Data:
    return add_operator(graph, "Not", call, add_operator(graph, "Equal", call, *call.values))


def add_is_finite(graph: Graph, call: Call) -> Data:
    size = add_operator(graph, "Abs", call, *call.values, dtype=np.dtype(np.float32))
    return add_operator(graph, "Less", call, size, make_scalar(np.inf))


def make_logical(op: str, name: str) -> Primitive:
    """Returns the translation of the primitive `name` of truth values into the operator `op`.

    The translation raises UnsupportedError for whole numbers, whose bits JAX would combine.
    """

    def add_logical(graph: Graph, call: Call) -> Data:
        if call.dtypes[0] != np.bool_:
            raise UnsupportedError(f"{name} of {call.dtypes[0]}")
        return add_operator(graph, op, call, *call.values)

    return add_logical


def add_select(graph: Graph, call: Call) -> Data:
    which, *cases = call.values
    dtype = np.asarray(which.small).dtype if isinstance(which, Known) else which.dtype
    if len(cases) != 2 or dtype != np.bool_:
        raise UnsupportedError("select_n of more than two cases")
    return add_operator(graph, "Where", call, which, cases[1], cases[0])


def add_clamp(graph: Graph, call: Call) -> Data:
    low, x, high = call.values
    return add_operator(graph, "Min", call, add_operator(graph, "Max", call, x, low), high)


def add_convert(graph: Graph, call: Call) -> Data:
    (x,) = call.values
    if isinstance(x, Data) and x.dtype == call.dtypes[0]:
        return x
    return add_operator(graph, "Cast", call, x, to=DTYPES[str(call.dtypes[0])])
