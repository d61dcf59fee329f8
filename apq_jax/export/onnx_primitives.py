"""The JAX primitives of an inference, each with its translation into ONNX operators of opset 17.

A translation is a function of the graph and a `Call` with at least one operand that is data. It
adds nodes to the graph and returns the call's result, or a list of its results. It raises
`UnsupportedError` if no operator expresses the call.
"""

import numpy as np

from apq_jax.export import onnx_elementwise as elementwise
from apq_jax.export import onnx_products as products
from apq_jax.export import onnx_shapes as shapes
from apq_jax.export.onnx_call import Primitive

PRIMITIVES: dict[str, Primitive] = {
    **{
        name: elementwise.make_elementwise(op)
        for name, op in {
            "abs": "Abs",
            "add": "Add",
            "add_any": "Add",
            "ceil": "Ceil",
            "cos": "Cos",
            "div": "Div",
            "eq": "Equal",
            "erf": "Erf",
            "exp": "Exp",
            "floor": "Floor",
            "ge": "GreaterOrEqual",
            "gt": "Greater",
            "le": "LessOrEqual",
            "log": "Log",
            "logistic": "Sigmoid",
            "lt": "Less",
            "min": "Min",
            "mul": "Mul",
            "neg": "Neg",
            "pow": "Pow",
            "sign": "Sign",
            "sin": "Sin",
            "sqrt": "Sqrt",
            "sub": "Sub",
            "tanh": "Tanh",
        }.items()
    },
    **dict.fromkeys(
        ("copy", "copy_p", "optimization_barrier", "sharding_constraint"), elementwise.pass_through
    ),
    "and": elementwise.make_logical("And", "and"),
    "broadcast_in_dim": shapes.add_broadcast,
    "clamp": elementwise.add_clamp,
    "concatenate": shapes.add_concatenate,
    "conv_general_dilated": products.add_convolution,
    "convert_element_type": elementwise.add_convert,
    "dot_general": products.add_dot,
    "dynamic_slice": shapes.add_dynamic_slice,
    "erfc": elementwise.add_erfc,
    "exp2": elementwise.add_exp2,
    "expand_dims": shapes.add_squeeze,
    "expm1": elementwise.add_expm1,
    "gather": shapes.add_gather,
    "integer_pow": elementwise.add_integer_pow,
    "is_finite": elementwise.add_is_finite,
    "log1p": elementwise.add_log1p,
    "max": elementwise.add_max,
    "ne": elementwise.add_not_equal,
    "not": elementwise.make_logical("Not", "not"),
    "or": elementwise.make_logical("Or", "or"),
    "pad": shapes.add_pad,
    "reduce_max": products.make_reduction("ReduceMax"),
    "reduce_min": products.make_reduction("ReduceMin"),
    "reduce_prod": products.make_reduction("ReduceProd"),
    "reduce_sum": products.make_reduction("ReduceSum"),
    "reduce_window_max": products.make_pooling("MaxPool", -np.inf),
    "reduce_window_sum": products.make_pooling("AveragePool", 0.0),
    "rem": elementwise.add_remainder,
    "reshape": shapes.add_reshape,
    "rev": shapes.add_reverse,
    "round": elementwise.add_round,
    "rsqrt": elementwise.add_rsqrt,
    "select_n": elementwise.add_select,
    "slice": shapes.add_slice,
    "split": shapes.add_split,
    "square": elementwise.add_square,
    "squeeze": shapes.add_squeeze,
    "stack": shapes.add_stack,
    "stop_gradient": elementwise.pass_through,
    "tile": shapes.add_tile,
    "transpose": shapes.add_transpose,
    "unstack": shapes.add_unstack,
    "xor": elementwise.make_logical("Xor", "xor"),
}
