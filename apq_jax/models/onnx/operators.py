"""ONNX's operators as JAX functions for inference; `OPERATORS` has them by ONNX's names.

A value that is known while the function is traced, such as a shape, is an np.ndarray and is
computed with NumPy; data and parameters are jax.Arrays. Weights are at most reshaped and transposed
before they meet data, so that `apq_jax.capture` finds them. Images are [N, C, H, W] or [N, C, L].

Every function takes the node's `Call` and its inputs (None for an omitted one), and returns one
result or a tuple. It may raise any error that NumPy and JAX raise for shapes that do not fit,
because its caller catches all errors and names the node.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.models.onnx import shapes, values, windows
from apq_jax.models.onnx.values import Call, Value, is_known

# Values that are supported, of attributes that have other values in ONNX's definition.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
    "mode": ("constant", "reflect", "edge"),  # of Pad
    "stash_type": (1,),  # of LayerNormalization: computed in float32
    "storage_order": (0,),
    "training_mode": (0,),
    "to": tuple(values.DTYPES),
    "approximate": ("none", "tanh"),
}


class Operator(NamedTuple):
    """An operator's function, and the part of ONNX's definition that it supports."""

    function: Callable[..., Value]
    attributes: frozenset[str] = frozenset()  # names of the supported attributes
    outputs: int = 1  # number of computed outputs; a node may name more, but not use them
    static: tuple[int, ...] = ()  # indices of inputs that are settings, not data


def find_refusals(attributes: dict[str, Any]) -> Iterator[str]:
    """Yields a message for each of a node's attributes that has an unsupported value."""
    for name, allowed in _SUPPORTED.items():
        if name in attributes and attributes[name] not in allowed:
            value = str(attributes[name])[:40]
            yield f"attribute {name} = {value!r}; allowed: {', '.join(map(str, allowed))}"


def _gemm(call: Call, a: Value, b: Value, c: Value = None) -> Value:
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"{a.shape} times {b.shape}; allowed: two matrices")
    y = jnp.matmul(a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b)
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    y = y if alpha == 1 else alpha * y
    if c is None or beta == 0:
        return y
    c = c if beta == 1 else beta * c
    if np.broadcast_shapes(c.shape, y.shape) != y.shape:
        raise ValueError(f"{c.shape} added to {y.shape}")
    return y + c


def _apply(function: Callable[..., Value], call: Call, *inputs: Value) -> Value:
    """Applies a function to the inputs, because the operator has no settings."""
    return function(*inputs)


def _leaky_relu(call: Call, x: Value) -> Value:
    return jnp.where(x >= 0, x, call.get("alpha", 0.01) * x)


def _elu(call: Call, x: Value) -> Value:
    return jax.nn.elu(x, call.get("alpha", 1.0))


def _hard_sigmoid(call: Call, x: Value) -> Value:
    return jnp.clip(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)


def _gelu(call: Call, x: Value) -> Value:
    return jax.nn.gelu(x, approximate=call.get("approximate", "none") == "tanh")


def _clip(call: Call, x: Value, low: Value = None, high: Value = None) -> Value:
    if call.opset < 11:
        low, high = call.get("min"), call.get("max")
    x = x if low is None else jnp.maximum(x, np.reshape(low, ()))
    return x if high is None else jnp.minimum(x, np.reshape(high, ()))


def _apply_known(
    known: Callable[..., Any], traced: Callable[..., Any], call: Call, x: Value
) -> Value:
    """Applies `known` to a known value, and `traced` to another."""
    return np.asarray(known(x)) if is_known(x) else traced(x)


def _apply_binary(
    known: Callable[..., Any], traced: Callable[..., Any], call: Call, *inputs: Value
) -> Value:
    """Combines the inputs from left to right: known values by `known`, others by `traced`."""
    result, *rest = inputs
    for value in rest:
        if is_known(result, value):
            values.check_known_size(np.broadcast_shapes(result.shape, value.shape))
            result = np.asarray(known(result, value))
        else:
            result = traced(result, value)
    return result


def _divide_known(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divides known values; integers round towards 0, as ONNX does."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)


def _power(a: Value, b: Value) -> Value:
    """Raises `a` to the power `b`, known or not; the result has the type of `a`, as in ONNX."""
    library = np if is_known(a, b) else jnp
    return library.power(a, b).astype(a.dtype)


def _choose(call: Call, condition: Value, x: Value, y: Value) -> Value:
    if not is_known(condition, x, y):
        return jnp.where(condition, x, y)
    values.check_known_size(np.broadcast_shapes(condition.shape, x.shape, y.shape))
    return np.where(condition, x, y)


def _layer_norm(call: Call, x: Value, scale: Value, bias: Value = None) -> Value:
    axes = tuple(range(values.normalise_axis(call.get("axis", -1), x.ndim), x.ndim))
    if x.shape[axes[0] :] != np.broadcast_shapes(scale.shape, x.shape[axes[0] :]):
        raise ValueError(f"scale {scale.shape} for axes of {x.shape[axes[0] :]}")
    centred = x - jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(centred * centred, axes, keepdims=True)
    y = centred / jnp.sqrt(variance + call.get("epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


def _softmax(function: Callable[..., Value], call: Call, x: Value) -> Value:
    if call.opset >= 13:
        return function(x, axis=call.get("axis", -1))
    axis = values.normalise_axis(call.get("axis", 1), x.ndim)
    # Operator sets before 13 take the softmax over all axes from `axis` on.
    rows = x.reshape(math.prod(x.shape[:axis]), -1)
    return function(rows, axis=-1).reshape(x.shape)


def _dropout(call: Call, x: Value, ratio: Value = None, training: Value = None) -> Value:
    if training is not None and (not is_known(training) or training.any()):
        raise ValueError("training_mode; allowed: false")
    return x


def _cast(call: Call, x: Value) -> Value:
    dtype = np.dtype(values.DTYPES[call.attributes["to"]])
    if is_known(x):
        return x.astype(dtype)
    if dtype != np.float32:
        raise ValueError(f"data cast to {dtype}; allowed: float32")
    return x.astype(jnp.float32)


def _define(function: Callable[..., Value], *bound: Any, attributes: str = "") -> Operator:
    """Returns an operator: `bound` are the function's first arguments, `attributes` are words."""
    return Operator(functools.partial(function, *bound), frozenset(attributes.split()))


_POOL = "auto_pad ceil_mode dilations kernel_shape pads strides"
OPERATORS: dict[str, Operator] = {
    "Abs": _define(_apply_known, np.abs, jnp.abs),
    "Add": _define(_apply_binary, np.add, jnp.add),
    "And": _define(_apply_binary, np.logical_and, jnp.logical_and),
    "AveragePool": _define(windows.average_pool, attributes=f"{_POOL} count_include_pad"),
    "BatchNormalization": _define(windows.batch_norm, attributes="epsilon momentum training_mode"),
    "Cast": _define(_cast, attributes="to saturate round_mode"),
    "Clip": _define(_clip, attributes="min max")._replace(static=(1, 2)),
    "Concat": _define(shapes.concat, attributes="axis"),
    "ConstantOfShape": _define(shapes.constant_of_shape, attributes="value"),
    "Conv": _define(windows.conv, attributes="auto_pad dilations group kernel_shape pads strides"),
    "Div": _define(_apply_binary, _divide_known, jnp.divide),
    "Dropout": _define(_dropout, attributes="ratio seed")._replace(static=(1, 2)),
    "Elu": _define(_elu, attributes="alpha"),
    "Equal": _define(_apply_binary, np.equal, jnp.equal),
    "Erf": _define(_apply, jax.scipy.special.erf),
    "Exp": _define(_apply, jnp.exp),
    "Expand": _define(shapes.expand),
    "Flatten": _define(shapes.flatten, attributes="axis"),
    "Gather": _define(shapes.gather, attributes="axis"),
    "Gelu": _define(_gelu, attributes="approximate"),
    "Gemm": _define(_gemm, attributes="alpha beta transA transB"),
    "GlobalAveragePool": _define(windows.global_pool, jnp.mean),
    "GlobalMaxPool": _define(windows.global_pool, jnp.max),
    "Greater": _define(_apply_binary, np.greater, jnp.greater),
    "GreaterOrEqual": _define(_apply_binary, np.greater_equal, jnp.greater_equal),
    "HardSigmoid": _define(_hard_sigmoid, attributes="alpha beta"),
    "HardSwish": _define(_apply, lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)),
    "Identity": _define(_apply, lambda x: x),
    "LRN": _define(windows.lrn, attributes="alpha beta bias size"),
    "LayerNormalization": _define(_layer_norm, attributes="axis epsilon stash_type"),
    "LeakyRelu": _define(_leaky_relu, attributes="alpha"),
    "Less": _define(_apply_binary, np.less, jnp.less),
    "LessOrEqual": _define(_apply_binary, np.less_equal, jnp.less_equal),
    "LogSoftmax": _define(_softmax, jax.nn.log_softmax, attributes="axis"),
    "MatMul": _define(_apply, jnp.matmul),
    "Max": _define(_apply_binary, np.maximum, jnp.maximum),
    "MaxPool": _define(windows.max_pool, attributes=f"{_POOL} storage_order"),
    "Min": _define(_apply_binary, np.minimum, jnp.minimum),
    "Mul": _define(_apply_binary, np.multiply, jnp.multiply),
    "Neg": _define(_apply_known, np.negative, jnp.negative),
    "Not": _define(_apply_known, np.logical_not, jnp.logical_not),
    "Or": _define(_apply_binary, np.logical_or, jnp.logical_or),
    "PRelu": _define(_apply, lambda x, slope: jnp.where(x >= 0, x, slope * x)),
    "Pad": _define(shapes.pad, attributes="mode pads value")._replace(static=(2,)),
    "Pow": _define(_apply_binary, _power, _power),
    "ReduceMean": _define(shapes.reduce_mean, attributes="axes keepdims noop_with_empty_axes"),
    "Relu": _define(_apply, jax.nn.relu),
    "Reshape": _define(shapes.reshape, attributes="allowzero"),
    "Shape": _define(shapes.shape, attributes="start end"),
    "Sigmoid": _define(_apply, jax.nn.sigmoid),
    "Slice": _define(shapes.slice_axes, attributes="axes ends starts"),
    "Softmax": _define(_softmax, jax.nn.softmax, attributes="axis"),
    "Split": _define(shapes.split, attributes="axis num_outputs split")._replace(outputs=1 << 16),
    "Sqrt": _define(_apply_known, np.sqrt, jnp.sqrt),
    "Squeeze": _define(shapes.squeeze, attributes="axes"),
    "Sub": _define(_apply_binary, np.subtract, jnp.subtract),
    "Sum": _define(_apply_binary, np.add, jnp.add),
    "Tanh": _define(_apply, jnp.tanh),
    "Transpose": _define(shapes.transpose, attributes="perm"),
    "Unsqueeze": _define(shapes.unsqueeze, attributes="axes"),
    "Where": _define(_choose),
}
