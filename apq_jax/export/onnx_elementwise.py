"""JAX primitives that work on one element at a time, as ONNX operators."""

import numpy as np

from apq_jax.export.onnx_call import DTYPES, Call, Primitive, _apply, _is_number, number, one
from apq_jax.export.onnx_graph import Data, Graph, Known, UnsupportedError, Value


def _elementwise(op: str) -> Primitive:
    return one(lambda graph, call: _apply(graph, op, call, *call.values))


def _same(graph: Graph, call: Call) -> list[Value]:
    """Operations that change nothing in an inference."""
    return call.values


@one
def _max(graph: Graph, call: Call) -> Data:
    if call.dtypes[0] == np.float32:
        for x, other in (call.values, call.values[::-1]):
            if _is_number(other, 0.0) and isinstance(x, Data) and x.sizes == call.sizes[0]:
                return _apply(graph, "Relu", call, x)
    return _apply(graph, "Max", call, *call.values)


@one
def _rsqrt(graph: Graph, call: Call) -> Data:
    root = _apply(graph, "Sqrt", call, *call.values)
    return _apply(graph, "Reciprocal", call, root)


@one
def _square(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Mul", call, *2 * call.values)


@one
def _integer_pow(graph: Graph, call: Call) -> Data:
    (x,), exponent = call.values, call.params["y"]
    if exponent == 2:
        return _apply(graph, "Mul", call, x, x)
    return _apply(graph, "Pow", call, x, number(exponent, call.dtypes[0]))


@one
def _exp2(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Pow", call, number(2), *call.values)


@one
def _expm1(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Sub", call, _apply(graph, "Exp", call, *call.values), number(1))


@one
def _log1p(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Log", call, _apply(graph, "Add", call, *call.values, number(1)))


@one
def _erfc(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Sub", call, number(1), _apply(graph, "Erf", call, *call.values))


@one
def _remainder(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Mod", call, *call.values, fmod=1)  # with the sign of the first, as JAX


@one
def _round(graph: Graph, call: Call) -> Data:
    if int(call.params["rounding_method"]) != 1:
        raise UnsupportedError("round away from zero")
    return _apply(graph, "Round", call, *call.values)


@one
def _not_equal(graph: Graph, call: Call) -> Data:
    return _apply(graph, "Not", call, _apply(graph, "Equal", call, *call.values))


@one
def _is_finite(graph: Graph, call: Call) -> Data:
    size = _apply(graph, "Abs", call, *call.values, dtype=np.dtype(np.float32))
    return _apply(graph, "Less", call, size, number(np.inf))


def _logical(op: str, name: str) -> Primitive:
    def function(graph: Graph, call: Call) -> Data:
        if call.dtypes[0] != np.bool_:
            raise UnsupportedError(f"{name} of {call.dtypes[0]}")
        return _apply(graph, op, call, *call.values)

    return one(function)


@one
def _select(graph: Graph, call: Call) -> Data:
    which, *cases = call.values
    dtype = np.asarray(which.small).dtype if isinstance(which, Known) else which.dtype
    if len(cases) != 2 or dtype != np.bool_:
        raise UnsupportedError("select_n of more than two cases")
    return _apply(graph, "Where", call, which, cases[1], cases[0])


@one
def _clamp(graph: Graph, call: Call) -> Data:
    low, x, high = call.values
    return _apply(graph, "Min", call, _apply(graph, "Max", call, x, low), high)


@one
def _convert(graph: Graph, call: Call) -> Data:
    (x,) = call.values
    if isinstance(x, Data) and x.dtype == call.dtypes[0]:
        return x
    return _apply(graph, "Cast", call, x, to=DTYPES[str(call.dtypes[0])])
