"""ONNX files: the same numbers as ONNX Runtime, one line for what cannot be used."""

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import ROOT
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from apq_jax import search
from apq_jax.compression import plan_cache
from apq_jax.data import Dataset
from apq_jax.models.create import load_onnx
from apq_jax.models.onnx.model import Model, build_classifier, load
from apq_jax.models.onnx.operators import OPERATORS
from apq_jax.models.options import ModelOptions
from apq_jax.network.capture import capture, forward_float
from apq_jax.run import checkpoint
from apq_jax.system.errors import InputError

LIGHT = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"
NEWEST = 23  # that this ONNX Runtime computes all of


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """A node whose inputs and outputs are words; a dash leaves an input out."""
    ins = ["" if name == "-" else name for name in inputs.split()]
    outs = outputs.split()
    return helper.make_node(op, ins, outs, name=f"{op} of {outs[0]}", **attributes)


def proto(
    nodes: list[Any],
    shape: tuple[int | str | None, ...],
    tensors: dict[str, Any] | None = None,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> Any:
    """A model of x [N, ...] to y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in (tensors or {}).items()
        ],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def saved(path: pathlib.Path, model: Any) -> pathlib.Path:
    path.write_bytes(model.SerializeToString())
    return path


def theirs(path: pathlib.Path, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime's result as [N, classes]."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (info.name for info in session.get_inputs())
    (y,) = session.run(None, {name: x})
    return y.reshape(len(x), -1)


def agree(path: pathlib.Path, x: np.ndarray) -> Model:
    model = load(path, probabilities=True)
    y = jax.jit(model.apply_fn)(model.params, x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, theirs(path, x), rtol=1e-4, atol=1e-4)
    return model


IMAGE = (2, 4, 9, 7)
W = {"w": random(6, 4, 3, 3, seed=1), "b": random(6, seed=2)}
BN = {name: random(4, seed=seed) for seed, name in enumerate(("scale", "bias", "mean"))}
BN["var"] = np.abs(random(4, seed=5)) + 0.1
POOL: dict[str, Any] = {"kernel_shape": [3, 2]}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def case(*of: Any, **attributes: Any) -> tuple[Any, ...]:
    """(operator, its inputs, tensors, operator sets, input shape, attributes) with defaults."""
    op, inputs, tensors, opsets, shape, *_ = (*of, *("x", {}, (9, NEWEST), IMAGE)[len(of) - 1 :])
    return op, inputs, tensors, opsets, shape, attributes


CASES = [
    case("Conv", "x w", W),
    case("Conv", "x w b", W, pads=[1, 0, 2, 1], strides=[2, 1], kernel_shape=[3, 3]),
    case("Conv", "x w b", W, dilations=[2, 3], pads=[2, 2, 2, 2]),
    case("Conv", "x w", {"w": random(6, 2, 3, 3)}, group=2),
    case("Conv", "x w b", {"w": random(4, 1, 2, 2), "b": random(4)}, group=4, strides=[2, 3]),
    *[case("Conv", "x w b", W, auto_pad=auto, strides=[2, 2])
      for auto in ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")],
    case("Conv", "x w", {"w": random(6, 2, 3)}, (9, 17), (2, 4, 9), group=2, pads=[1, 0],
        dilations=[2]),
    case("Gemm", "x w c", {"w": random(5, 3), "c": random(3)}, (9, 11, NEWEST), (2, 5)),
    case("Gemm", "x w", {"w": random(3, 5)}, (11, NEWEST), (2, 5), transB=1, alpha=0.5),
    case("Gemm", "x w c", {"w": random(3, 5), "c": random(1, 1)}, (9, 17), (2, 5), transB=1,
        alpha=2.0, beta=0.3),
    case("MatMul", "x w", {"w": random(5, 3)}, (9, NEWEST), (2, 5)),
    case("MatMul", "x w", {"w": random(7, 3)}),
    case("BatchNormalization", "x scale bias mean var", BN, (9, 14, 15, NEWEST)),
    case("BatchNormalization", "x scale bias mean var", BN, (9, 15), (3, 4), epsilon=0.1),
    case("Relu"),
    case("LeakyRelu", alpha=0.2),
    case("LeakyRelu", "x", {}, (9, 16)),
    case("PRelu", "x s", {"s": np.abs(random(4, 1, 1))}, (9, NEWEST)),
    case("Clip", "x", {}, (9,), min=-0.3, max=0.4),
    case("Clip", "x low high", {"low": np.float32(-0.3), "high": np.float32(0.4)}, (11, NEWEST)),
    case("Clip", "x - high", {"high": np.float32(0.4)}, (11, 13)),
    *[case(op) for op in ("Sigmoid", "Abs", "Exp", "Neg", "Tanh", "Erf", "GlobalAveragePool",
                         "GlobalMaxPool", "Identity", "Flatten", "Dropout")],
    case("HardSigmoid"),
    case("HardSigmoid", alpha=0.3, beta=0.4),
    case("HardSwish", "x", {}, (14, NEWEST)),
    case("Elu", alpha=0.7),
    case("Gelu", "x", {}, (20,)),
    case("Gelu", "x", {}, (20, NEWEST), approximate="tanh"),
    *[case(op, "x", {}, (9, 11, 13, NEWEST)) for op in ("Softmax", "LogSoftmax")],
    *[case("Softmax", "x", {}, (9, 12, 13), axis=axis) for axis in (1, 2, 3)],
    *[case("MaxPool", "x", {}, opsets, ceil_mode=ceil, strides=[2, 2], **POOL, **more)
      for opsets, ceil, more in [
          ((10, NEWEST), 0, {}), ((10, 12, NEWEST), 1, {}),
          ((10, 17), 1, {"pads": [1, 1, 2, 1]}), ((10, 17), 0, {"dilations": [2, 3]}),
          ((10, 17), 1, {"dilations": [2, 2], "pads": [1, 0, 1, 1]})]],
    *[case("MaxPool", "x", {}, (9, 17), auto_pad=auto, strides=[2, 3], **POOL)
      for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")],
    case("MaxPool", "x", {}, (9, 17), (2, 4, 9), kernel_shape=[3], pads=[1, 1]),
    *[case("AveragePool", "x", {}, opsets, count_include_pad=count, strides=[2, 2], **POOL, **more)
      for count in (0, 1) for opsets, more in [
          ((9, NEWEST), {"pads": [1, 0, 2, 1]}), ((19, NEWEST), {"ceil_mode": 1}),
          ((19, NEWEST), {"ceil_mode": 1, "pads": [1, 1, 1, 1]}),
          ((19,), {"dilations": [2, 2], "pads": [1, 1, 1, 0]})]],
    *[case("AveragePool", "x", {}, (9, 17), auto_pad=auto, strides=[2, 3], **POOL)
      for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")],
    case("LRN", size=3, alpha=0.1, beta=0.6, bias=1.5),
    case("LRN", size=5),
    *[case(op, "x c", {"c": np.abs(random(4, 1, 1)) + 0.1}) for op in ("Add", "Sub", "Mul", "Div")],
    case("Add", "c x", {"c": random(1, 1, 1, 7)}),
    *[case(op, "x c x", {"c": random(4, 1, 1)}) for op in ("Sum", "Max", "Min")],
    case("Concat", "x x x", {}, axis=1),
    case("Concat", "x x", {}, (11, NEWEST), axis=-1),
    case("Slice", "x", {}, (9,), starts=[1, -5], ends=[100, -1], axes=[1, 2]),
    case("Slice", "x s e a", {"s": ints(1, -5), "e": ints(2**63 - 1, -1), "a": ints(1, 2)},
        (10, 13)),
    case("Slice", "x s e a t", {"s": ints(-1, 1), "e": ints(-(2**63), 9), "a": ints(3, -2),
                               "t": ints(-2, 3)}, (11, NEWEST)),
    case("Reshape", "x s", {"s": ints(0, -1)}),
    case("Reshape", "x s", {"s": ints(-1, 4, 63)}, (9, 14)),
    case("Transpose", perm=[0, 2, 3, 1]),
    case("Squeeze", "x", {}, (9, 11), (2, 1, 5, 1), axes=[1, 3]),
    case("Squeeze", "x a", {"a": ints(-1, 1)}, (13, NEWEST), (2, 1, 5, 1)),
    case("Unsqueeze", "x", {}, (9, 11), axes=[1, 4]),
    case("Unsqueeze", "x a", {"a": ints(-1, 1)}, (13, NEWEST)),
    case("Pad", "x", {}, (9,), pads=[0, 0, 1, 2, 0, 1, 0, -1], value=0.7),
    *[case("Pad", "x p", {"p": ints(0, 0, 1, 2, 0, 1, 2, 1)}, (11, 13, NEWEST), mode=mode)
      for mode in ("constant", "reflect", "edge")],
    case("Pad", "x p v a", {"p": ints(1, 2, 0, 1), "v": np.float32(3), "a": ints(-1, 2)},
        (18, NEWEST)),
    case("ReduceMean", "x", {}, (9, 11, 13), axes=[2, 3]),
    case("ReduceMean", "x", {}, (11, 17), axes=[-1], keepdims=0),
    case("ReduceMean", "x a", {"a": ints(1, -1)}, (18, NEWEST), keepdims=0),
    case("Gather", "x i", {"i": ints(2, 0)}, axis=1),
    case("Gather", "x i", {"i": np.array(-1, np.int64)}, (11, NEWEST), axis=2),
    case("Cast", to=TensorProto.FLOAT),
    case("LayerNormalization", "x s", {"s": random(7)}, (17, NEWEST)),
    case("LayerNormalization", "x s b", {"s": random(4, 9, 7), "b": random(9, 7)}, (17,), axis=1,
         epsilon=0.1, stash_type=1),
    case("Pow", "x two", {"two": np.float32(2)}, (9, NEWEST)),
    case("Pow", "x n", {"n": ints(3)}, (13, 17)),
    case("Expand", "x s", {"s": ints(9, 1)}, (9, NEWEST), (2, 4, 1, 7)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "tensors", "opset", "shape", "attributes"),
    [(*case[:3], opset, *case[4:]) for case in CASES for opset in case[3]],
    ids=[
        f"{values[0]}-{opset}-{index}" for index, values in enumerate(CASES) for opset in values[3]
    ],
)
def test_an_operator_agrees_with_onnx_runtime(
    tmp_path: pathlib.Path,
    op: str,
    inputs: str,
    tensors: dict[str, np.ndarray],
    opset: int,
    shape: tuple[int, ...],
    attributes: dict[str, Any],
) -> None:
    nodes = [node(op, inputs, "z", **attributes), node("Flatten", "z", "y")]
    path = saved(tmp_path / "one.onnx", proto(nodes, ("N", *shape[1:]), tensors, opset))
    agree(path, random(*shape, seed=9))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_has_a_gradient(tmp_path: pathlib.Path, op: str) -> None:
    """Which fine-tuning goes through, with dilation, too."""
    window = {"kernel_shape": [3, 2], "dilations": [2, 1], "strides": [2, 1], "ceil_mode": 1}
    nodes = [node("Mul", "x s", "m"), node(op, "m", "z", **window), node("Flatten", "z", "y")]
    path = tmp_path / "net.onnx"
    model = load(saved(path, proto(nodes, ("N", *IMAGE[1:]), {"s": random(4, 1, 1)}, 19)))
    x, direction = random(*IMAGE), random(4, 1, 1, seed=1)

    def total(step: float) -> jax.Array:
        return model.apply_fn({"s": model.params["s"] + step * direction}, x).sum()

    slope = (total(1e-3) - total(-1e-3)) / 2e-3
    np.testing.assert_allclose(jax.grad(total)(0.0), slope, rtol=2e-2)


def test_every_operator_is_compared() -> None:
    elsewhere = {"Constant", "ConstantOfShape", "Shape", "Split", "Sqrt"}
    compared = {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"}
    assert {case[0] for case in CASES} == set(OPERATORS) - elsewhere - compared - {"Where"}


@pytest.mark.parametrize("opset", [12, NEWEST])
def test_values_are_compared_and_chosen(tmp_path: pathlib.Path, opset: int) -> None:
    nodes = [
        node("Greater", "x low", "above"),
        node("LessOrEqual", "x high", "below"),
        node("And", "above below", "within"),
        node("Not", "within", "outside"),
        node("Where", "outside low x", "clipped"),
        node("Less", "clipped x", "smaller"),
        node("GreaterOrEqual", "clipped high", "larger"),
        node("Or", "smaller larger", "either"),
        node("Equal", "clipped low", "lowest"),
        node("Where", "either high clipped", "p"),
        node("Where", "lowest low p", "y"),
    ]
    tensors = {"low": np.float32(-0.5), "high": random(7)}
    path = saved(tmp_path / "m.onnx", proto(nodes, ("N", 7), tensors, opset))
    agree(path, random(50, 7, seed=1))


def transformer(batch: int | str) -> Any:
    """A class token before two patches, as PyTorch's exporters write it, and an attention."""
    expanded = [
        node("Shape", "x", "sizes"),
        node("Slice", "sizes zero one", "count"),
        node("Concat", "count minus minus", "wanted", axis=0),
        node("Shape", "wanted", "rank"),
        node("ConstantOfShape", "rank", "ones", value=helper.make_tensor("v", 7, [1], [1])),
        node("Mul", "ones minus", "unknown"),
        node("Equal", "wanted unknown", "is_unknown"),
        node("Where", "is_unknown ones wanted", "shape"),
        node("Expand", "token shape", "tokens"),
    ]
    nodes = [
        *(expanded if batch == "N" else [node("Identity", "token", "tokens")]),
        node("Concat", "tokens x", "h", axis=1),
        node("LayerNormalization", "h scale", "n"),
        node("MatMul", "n val_3", "q"),
        node("MatMul", "n onnx::MatMul_9", "k"),
        node("Transpose", "k", "t", perm=[0, 2, 1]),
        node("MatMul", "q t", "s"),
        node("Pow", "eight half", "root"),
        node("Div", "s root", "d"),
        node("Softmax", "d", "a"),
        node("MatMul", "a h", "m"),
        node("Gather", "m first", "y", axis=1),
    ]
    scopes = "['', 'blocks', 'blocks.0', 'blocks.0.query', 'linear']"
    for part in nodes:
        if "val_3" in part.input:
            part.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
        if "onnx::MatMul_9" in part.input:
            part.name = "/blocks/blocks.0/key/MatMul"
    tensors = {"zero": ints(0), "one": ints(1), "minus": ints(-1), "first": np.array(0, np.int64)}
    tensors |= {"token": random(1, 1, 8), "scale": random(8), "val_3": random(8, 8, seed=1)}
    tensors |= {"eight": np.float32(8), "half": np.float32(0.5)}
    tensors["onnx::MatMul_9"] = random(8, 8, seed=2)
    return proto(nodes, (batch, 2, 8), tensors)


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_transformer(tmp_path: pathlib.Path, batch: int | str) -> None:
    """For any number of images, also of a file that was written for one; layers have names."""
    path, x = saved(tmp_path / "net.onnx", transformer(batch)), random(3, 2, 8)
    model = load(path)
    network = capture(model.apply_fn, model.params, x)
    names = [layer.name for layer in network.layers]
    assert names == ["blocks.0.query.weight", "blocks.0.key.weight"]
    products = [operation.name for operation in network.operations if operation.reason]
    assert products == ["MatMul_of_s: dot_general", "MatMul_of_m: dot_general"]
    expected = np.concatenate([theirs(path, image[None]) for image in x])
    np.testing.assert_allclose(forward_float(network, model.params, x), expected, atol=1e-5)


def test_a_fixed_batch_is_said(tmp_path: pathlib.Path) -> None:
    """Where it cannot be replaced: a constant that is added image by image."""
    model = linear(
        nodes=[node("Relu", "x", "r"), node("Concat", "r c", "y", axis=1)],
        shape=(4, 5),
        tensors={"c": random(4, 1)},
    )
    said = refused(saved(tmp_path / "net.onnx", model))
    assert said.endswith("(the file was written for a batch of 4)")


@pytest.mark.parametrize("opset", [9, 13, 18, NEWEST])
def test_parts_of_a_split(tmp_path: pathlib.Path, opset: int) -> None:
    how: dict[str, Any] = {"split": [1, 3]} if opset < 13 else {}
    nodes = [
        node("Split", "x" if opset < 13 else "x sizes", "p q", axis=1, **how),
        node("Split", "q", "r s t", axis=1, **({"num_outputs": 3} if opset >= 18 else {})),
        node("Sub", "p s", "u"),
        node("Mul", "u t", "v"),
        node("Sqrt", "half", "root"),
        node("Add", "v root", "w"),
        node("Flatten", "w", "y"),
    ]
    tensors = {"sizes": ints(1, 3), "half": np.float32(0.5)}
    agree(
        saved(tmp_path / "m.onnx", proto(nodes, ("N", 4, 3, 2), tensors, opset)), random(5, 4, 3, 2)
    )


@pytest.mark.parametrize("opset", [9, 11, 13, 15, NEWEST])
def test_shapes_are_computed_while_tracing(tmp_path: pathlib.Path, opset: int) -> None:
    """x.view(x.size(0), -1) and the like, as exporters write them; any batch, under jit."""
    axes: dict[str, Any] = {"axes": [0]} if opset < 13 else {}
    more = "" if opset < 13 else " first"
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape at", "batch"),
        node("Unsqueeze", f"batch{more}", "b", **axes),
        node("Constant", "", "rest", value=numpy_helper.from_array(ints(-1))),
        node("Mul", "rest one", "r"),
        node("Concat", "b r", "size", axis=0),
        node("Cast", "size", "as_float", to=TensorProto.FLOAT),
        node("Div", "as_float half", "twice"),
        node("Cast", "twice", "too_large", to=TensorProto.INT64),
        node("Div", "too_large two", "again"),
        node("Reshape", "x again", "flat"),
        node("ConstantOfShape", "size_of_ones", "ones", value=helper.make_tensor("v", 1, [1], [1])),
        node("Add", "flat ones", "y"),
    ]
    tensors = {
        "at": np.array(0, np.int64),
        "first": ints(0),
        "one": ints(1),
        "two": ints(2),
        "half": np.float32(0.5),
        "size_of_ones": ints(1, 24),
    }
    path = saved(tmp_path / "m.onnx", proto(nodes, ("N", 4, 3, 2), tensors, opset))
    for batch in (1, 5):
        model = agree(path, random(batch, 4, 3, 2))
    assert list(model.params) == ["ones"]


def convolutional(batch: int | str = "N", opset: int = 17) -> Any:
    """A small network with a name that has a slash, a weight that is transposed, a Softmax."""
    nodes = [
        node("Conv", "x conv/w conv/b", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", "a scale bias mean var", "n"),
        node("Clip", "n low high", "c"),
        node("Conv", "c depthwise", "d", group=4),
        node("GlobalAveragePool", "d", "g"),
        node("Reshape", "g flat", "f"),
        node("Transpose", "turned", "t", perm=[1, 0]),
        node("MatMul", "f t", "m"),
        node("Relu", "m", "h"),
        node("Gemm", "h fc", "logits", transB=1),
        node("Softmax", "logits", "y", axis=-1),
    ]
    tensors = BN | {
        "conv/w": random(4, 1, 3, 3),
        "conv/b": random(4, seed=3),
        "depthwise": random(4, 1, 3, 3, seed=4),
        "turned": random(5, 4, seed=5),
        "fc": random(3, 5, seed=6),
        "flat": ints(1, -1) if batch == 1 else ints(-1, 4),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    return proto(nodes, (batch, 1, 12, 12), tensors, opset)


@pytest.mark.parametrize("batch", ["N", 1])
def test_capture_finds_the_layers(tmp_path: pathlib.Path, batch: int | str) -> None:
    """Of a file whose batch is free, and of one that was written for a batch of one."""
    path = saved(tmp_path / "net.onnx", convolutional(batch))
    model = load(path)
    x = random(6, 1, 12, 12)
    network = capture(model.apply_fn, model.params, x[:2])
    assert [(layer.name, layer.groups, layer.rows, layer.columns) for layer in network.layers] == [
        ("conv.w", 1, 9, 4),
        ("depthwise", 4, 9, 1),
        ("turned", 1, 4, 5),
        ("fc", 1, 5, 3),
    ]
    digital = (operation for operation in network.operations if operation.status == "digital")
    assert {operation.name for operation in digital} == {*BN, "conv.b"}
    logits = forward_float(network, model.params, x)
    expected = np.concatenate([theirs(path, image[None]) for image in x])
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-4)
    kept_softmax = load(path, probabilities=True)
    np.testing.assert_allclose(
        kept_softmax.apply_fn(model.params, x), jax.nn.softmax(logits), atol=1e-6
    )


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(data=st.data())
def test_random_networks_agree(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Stacks of convolutions, pooling and activations, of any windows that fit."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 99), label="seed"))
    channels, size, nodes, tensors, last = 2, np.array([40, 41]), [], {}, "x"
    for index in range(draw(st.integers(1, 4), label="depth")):
        op = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool", "Relu", "HardSigmoid"]))
        kernel, stride, dilation = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
        pads = [draw(st.integers(0, (kernel[axis % 2] - 1) // 2)) for axis in range(4)]
        window = {"strides": stride, "pads": pads}
        inputs = last
        if op == "Conv":
            outs = 2 * draw(st.integers(1, 2))
            group = draw(st.sampled_from([1, 2]))
            tensors[f"w{index}"] = rng.normal(size=(outs, channels // group, *kernel)).astype("f4")
            inputs, channels = f"{last} w{index}", outs
            window |= {"group": group, "dilations": dilation}
        elif "Pool" in op:
            window |= {"kernel_shape": kernel, "ceil_mode": draw(st.integers(0, 1))}
        else:
            window = {}
        if window:
            reach = np.array(window.get("dilations", [1, 1])) * (np.array(kernel) - 1) + 1
            hypothesis.assume((size + pads[:2] + pads[2:] >= reach).all())
            size = (size + pads[:2] + pads[2:] - reach) // stride + 1
        nodes.append(node(op, inputs, f"v{index}", **window))
        last = f"v{index}"
    nodes += [node("GlobalAveragePool", last, "mean"), node("Flatten", "mean", "y")]
    path = tmp_path_factory.mktemp("random") / "net.onnx"
    opset = draw(st.sampled_from([11, 13, 17, NEWEST]))
    saved(path, proto(nodes, ("N", 2, 40, 41), tensors, opset))
    agree(path, rng.normal(size=(3, 2, 40, 41)).astype(np.float32))


@pytest.mark.parametrize("name", ["bvlc_alexnet", "shufflenet"])
def test_networks_that_onnx_ships(name: str) -> None:
    """Every weight in them is one number; benchmarks/onnx_models.py gives them others."""
    path = LIGHT / f"light_{name}.onnx"
    model = agree(path, random(1, 3, 224, 224))
    if name == "shufflenet":
        network = capture(load(path).apply_fn, model.params, jnp.zeros((2, 3, 224, 224)))
        assert len(network.layers) == 50
        assert not [operation for operation in network.operations if operation.status == "refused"]


EXPORT = """
    import sys, torch
    from torch import nn
    torch.manual_seed(0)
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(4)
            self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Hardswish(), nn.ReLU6())
            self.fc = nn.Linear(4 * 5 * 5, 3)
        def forward(self, x):
            x = torch.max_pool2d(torch.relu(self.norm(self.conv(x))), 2, ceil_mode=True)
            x = nn.functional.pad(self.blocks(x), (0, 1, 1, 0))
            return self.fc(x.view(x.size(0), -1))
    net = Net().eval()
    path, dynamo = sys.argv[1], sys.argv[2] == "dynamo"
    x = torch.randn(2, 1, 12, 12)
    free = {"dynamic_shapes": [{0: torch.export.Dim("batch")}]} if dynamo else {
        "dynamic_axes": {"images": {0: "batch"}}}
    torch.onnx.export(net, (x,), path, input_names=["images"], dynamo=dynamo, **free)
"""


@pytest.mark.parametrize("exporter", ["script", "dynamo"])
def test_what_pytorch_exports(tmp_path: pathlib.Path, exporter: str) -> None:
    pytest.importorskip("torch")
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    path = tmp_path / "net.onnx"
    code = textwrap.dedent(EXPORT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path), exporter],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = agree(path, random(5, 1, 12, 12))
    network = capture(model.apply_fn, model.params, jnp.zeros((2, 1, 12, 12)))
    assert [layer.rows for layer in network.layers] == [9, 18, 100]
    assert "fc.weight" in model.params


def weights_beside(location: str, **entries: Any) -> Any:
    """A linear model whose weight lies in another file."""
    model = proto([node("MatMul", "x w", "y")], ("N", 5), {"w": random(5, 3)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": location} | entries).items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def test_weights_beside_the_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "parts").mkdir()
    weight = random(5, 3)
    (tmp_path / "parts/w.bin").write_bytes(b"\0" * 8 + weight.tobytes() + b"\0")
    path = saved(tmp_path / "net.onnx", weights_beside("parts/w.bin", offset=8, length=60))
    np.testing.assert_array_equal(agree(path, random(4, 5)).params["w"], weight)


@pytest.mark.parametrize(
    ("location", "entries", "said"),
    [
        ("/etc/hostname", {}, "'/etc/hostname'; allowed: a path below the model's folder"),
        ("../secret.bin", {}, "allowed: a path below"),
        ("parts/../../secret.bin", {}, "allowed: a path below"),
        ("C:\\secret.bin", {}, "allowed: a path below"),
        ("", {}, "allowed: a path below"),
        ("link.bin", {}, "a link out"),
        ("folder/secret.bin", {}, "a link out"),
        ("loop.bin", {}, "cannot be read"),
        ("folder", {}, "a link out"),
        ("a" * 5000, {}, "cannot be read"),
        ("none.bin", {}, "cannot be read (No such file or directory)"),
        (".", {}, "is not a file"),
        ("short.bin", {}, "60 bytes from 0; allowed: 60 bytes, within the file's 8"),
        ("whole.bin", {"offset": 1}, "60 bytes from 1; allowed: 60 bytes, within the file's 60"),
        ("whole.bin", {"offset": -4}, "60 bytes from -4; allowed"),
        ("whole.bin", {"length": 56}, "56 bytes from 0; allowed"),
        ("whole.bin", {"offset": "many"}, "not a number"),
    ],
)
def test_weights_elsewhere_are_refused(
    tmp_path: pathlib.Path, location: str, entries: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(60))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "loop.bin").symlink_to(folder / "loop.bin")
    (folder / "short.bin").write_bytes(bytes(8))
    (folder / "whole.bin").write_bytes(bytes(60))
    path = saved(folder / "net.onnx", weights_beside(location, **entries))
    assert said in refused(path)


def refused(path: pathlib.Path) -> str:
    """What is said of a file that cannot be used, which is one line that names it."""
    with pytest.raises(InputError) as error:
        load(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    assert len(said) < 1500
    return said


def linear(**changes: Any) -> Any:
    """A model of one MatMul, with some of `proto`'s arguments changed."""
    whole: dict[str, Any] = {"nodes": [node("MatMul", "x w", "y")], "shape": ("N", 5)}
    return proto(**(whole | {"tensors": {"w": random(5, 3)}} | changes))


def edited(change: Callable[[Any], Any], **changes: Any) -> Any:
    model = linear(**changes)
    change(model)
    return model


def of_dims(*dims: int) -> Any:
    model = linear()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    return model


def weights(value: float, dtype: Any = np.float32) -> Any:
    weight = np.ones((5, 3), dtype)
    weight[2, 1] = value
    return linear(tensors={"w": weight})


RELU = [node("Relu", "x", "y")]
BAD: dict[str, tuple[Any, str]] = {
    "opset": (linear(opset=8), "operator set 8; allowed: one of 9 to"),
    "opset to come": (linear(opset=999), "operator set 999; allowed"),
    "no opset": (edited(lambda m: m.opset_import.pop(0)), "operator set none; allowed"),
    "no node": (linear(nodes=[]), "it has no node"),
    "whole numbers in": (linear(kind=TensorProto.INT64), "input 'x': of type int64; allowed"),
    "one axis": (linear(nodes=RELU, shape=("N",)), "input 'x': 1 axes; allowed: [N, features]"),
    "an axis of none": (linear(nodes=RELU, shape=("N", 0)), "input 'x': an axis of 0"),
    "two inputs": (linear(tensors={}), "reads 'w', which no node, input or initializer gives"),
    "more inputs": (
        edited(lambda m: m.graph.input.append(helper.make_tensor_value_info("z", 1, [1]))),
        "2 inputs ('x', 'z'); allowed: one, the images",
    ),
    "two outputs": (
        edited(lambda m: m.graph.output.append(helper.make_tensor_value_info("x", 1, [1]))),
        "2 outputs ('y', 'x'); allowed: one",
    ),
    "no such output": (linear(nodes=[node("MatMul", "x w", "z")]), "output 'y': no node gives it"),
    "cycle": (
        linear(nodes=[node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]),
        "'Add of a' ('Add'): reads 'b' before it is computed",
    ),
    "duplicate": (linear(nodes=[*RELU, *RELU]), "'y': 2 values of that name; allowed: one"),
    "duplicate input": (
        linear(nodes=[node("Relu", "w", "x"), *RELU]), "'x': 2 values of that name"),
    "no input": (linear(nodes=[node("Relu", "w", "y")]), "does not depend on the input"),
    "not a number": (weights(np.nan), "tensor 'w': nan at (2, 1); allowed: finite numbers"),
    "infinite": (weights(-np.inf), "tensor 'w': -inf at (2, 1); allowed: finite numbers"),
    "doubles": (weights(1, np.float64), "tensor 'w': float64; allowed: float32"),
    "halves": (weights(1, np.float16), "tensor 'w': float16; allowed: float32"),
    "huge": (of_dims(1 << 40, 1 << 40), "allowed: 2,147,483,647 bytes for all tensors"),
    "larger": (of_dims(5, 4), "shape (5, 4) of float32 needs 80 bytes; the file holds 60"),
    "negative": (of_dims(-5, -3), "shape (-5, -3); allowed: axes of 0 or more"),
    "channels": (
        linear(nodes=[node("Conv", "x w", "y")], shape=("N", 5, 8, 8),
               tensors={"w": random(2, 4, 3, 3)}),
        "node 'Conv of y' (Conv): conv_general_dilated"),
    "too small": (
        linear(nodes=[node("MaxPool", "x", "z", kernel_shape=[3, 3]), node("Flatten", "z", "y")],
               shape=("N", 5, 2, 2)),
        "(MaxPool): a result of [2, 5, 0, 0]; allowed: "),
    "rank": (linear(nodes=RELU, shape=("N", 5, 2, 2)), "output 'y': [2, 5, 2, 2] for a batch of 2"),
    "batch mixed": (
        linear(nodes=[node("Transpose", "x", "t"), node("MatMul", "t x", "y")]),
        "output 'y': [5, 5] for a batch of 2"),
    "stride": (
        linear(nodes=[node("MaxPool", "x", "y", kernel_shape=[3], strides=[0])],
               shape=("N", 5, 8)), "(MaxPool): strides, dilations and kernel_shape are 1 or more"),
    "padding": (
        linear(nodes=[node("MaxPool", "x", "y", kernel_shape=[3], pads=[2**60, 2**60],
                           strides=[2**60])], shape=("N", 5, 8)), "(MaxPool): pads make (8,)"),
    "large value": (
        linear(nodes=[node("Pad", "x p", "y")], tensors={"p": ints(0, 0, 0, 2**40)}),
        "(Pad): pads"),
    "large shape": (
        linear(nodes=[node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")],
               tensors={"s": ints(2**40, 2**40)}), "(ConstantOfShape): [1099511627776 1099"),
    "large result": (
        linear(nodes=[node("Add", "x c", "z"), node("Add", "z d", "y")], shape=("N", 1),
               tensors={"c": np.zeros((70000, 1, 1), np.float32),
                        "d": np.zeros((1, 70000), np.float32)}),
        "(Add): a result of [70000, 2, 70000]; allowed"),
    "bomb": (
        linear(nodes=[node("Concat", " ".join(["s"] * 9), "s0", axis=0),
                      *[node("Concat", " ".join([f"s{index}"] * 9), f"s{index + 1}", axis=0)
                        for index in range(12)], node("Reshape", "x s12", "y")],
               tensors={"s": ints(1)}), "(Concat): a known value of shape (4782969,)"),
    "shape of data": (
        linear(nodes=[node("Reshape", "x x", "y")]), "(Reshape): shape: computed from data"),
    "missing attribute": (linear(nodes=[node("Concat", "x x", "y")]), "is not sound (Required"),
    "missing operand": (linear(nodes=[node("MatMul", "x", "y")]), "is not sound"),
    "division": (
        linear(nodes=[node("Div", "a b", "c"), node("Reshape", "x c", "y")],
               tensors={"a": ints(1, -1), "b": ints(0)}), "(Div): divide by zero"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: pathlib.Path, name: str) -> None:
    model, said = BAD[name]
    assert said in refused(saved(tmp_path / "net.onnx", model))


def test_all_that_is_not_supported_is_said_at_once(tmp_path: pathlib.Path) -> None:
    nodes = [
        node("LSTM", "x w w", "a"),
        node("Magic", "a", "b", domain="com.example"),
        node("MaxPool", "b", "c indices", kernel_shape=[2, 2], storage_order=1),
        node("Conv", "c v", "d", auto_pad="SOME", magic=1),
        node("BatchNormalization", "d w w w w", "e", training_mode=1),
        node("Cast", "e", "f", to=TensorProto.BFLOAT16),
        node("Add", "f indices", "y"),
        node("NonZero", "x", "unused"),
    ]
    model = linear(nodes=nodes)
    model.graph.initializer.append(helper.make_tensor("v", TensorProto.BFLOAT16, [1], [1.0]))
    said = refused(saved(tmp_path / "net.onnx", model))
    for part in (
        "LSTM 'LSTM of a';",
        "com.example.Magic 'Magic of b'",
        "MaxPool 'MaxPool of c' (its output 'indices')",
        "MaxPool 'MaxPool of c' (attribute storage_order = '1'",
        "Conv 'Conv of d' (attribute 'magic')",
        "Conv 'Conv of d' (attribute auto_pad = 'SOME'",
        "(attribute training_mode = '1'",
        "Cast 'Cast of f' (attribute to = '16'",
        "initializer 'v' (of type bfloat16)",
        "allowed: Abs, Add, And, AveragePool",
    ):
        assert part in said
    assert "NonZero" not in said  # the output does not need it


def test_files_that_are_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    assert "cannot be read (No such file or directory)" in refused(path)
    for content in (b"", b"\x89PNG\r\n", os.urandom(1000), b"{}", bytes(100)):
        path.write_bytes(content)
        assert "is not an ONNX file" in refused(path)
    whole = convolutional().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is not an ONNX file (" in refused(path)
    os.mkfifo(tmp_path / "pipe.onnx")
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    assert "cannot be read (Is a directory)" in refused(folder)


def test_names_that_are_not_text(tmp_path: pathlib.Path) -> None:
    """protobuf reads them, and fails where they are used."""
    path, content = tmp_path / "net.onnx", linear().SerializeToString()
    path.write_bytes(content.replace(b"MatMul", b"Mat\xb0ul"))
    assert "is not UTF-8" in refused(path)
    path.write_bytes(content.replace(b"graph", b"gr\xb0ph"))
    assert load(path).params.keys() == {"w"}


def test_a_larger_file_is_not_read(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "net.onnx", linear())
    monkeypatch.setattr("apq_jax.models.onnx.tensors.MAX_BYTES", 100)
    assert "allowed: up to 100" in refused(path)


def test_the_package_onnx_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "net.onnx", linear())
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "needs the package onnx: python -m pip install 'onnx>=1.17'" in refused(path)


def test_names_become_keys(tmp_path: pathlib.Path) -> None:
    """Without slashes, and each another."""
    names = ["a/b", "a.b", "a b", "a\tb", "/", "é" * 200]
    nodes = [node("Add", f"x {names[0]}", "v0")]
    nodes = [
        helper.make_node("Add", [f"v{index}" if index else "x", name], [f"v{index + 1}"])
        for index, name in enumerate(names)
    ] + [node("Relu", f"v{len(names)}", "y")]
    tensors = {name: random(3, seed=seed) for seed, name in enumerate(names)}
    model = agree(saved(tmp_path / "net.onnx", proto(nodes, ("N", 3), tensors)), random(2, 3))
    assert list(model.params)[:5] == ["a.b", "a.b_2", "a_b", "a_b_2", "tensor"]
    assert len(model.params) == 6
    assert not any("/" in key or len(key) > 80 for key in model.params)


def pictures(size: tuple[int, ...], classes: int = 3) -> Dataset:
    images = np.random.default_rng(0).random((30, *size), np.float32)
    labels = np.arange(30, dtype=np.int32) % classes
    return Dataset("noise", classes, *([images, labels] * 4))


def test_images_fit_the_models_layout(tmp_path: pathlib.Path) -> None:
    """[H, W, C] becomes what the model takes: [C, H, W], [H, W, C], [H, W] or features."""
    images = random(2, 4, 5, 3)
    weight = random(60, 3)
    flat = [node("Flatten", "x", "f"), node("MatMul", "f w", "y")]
    for layout, shape in (("NCHW", (3, 4, 5)), ("NHWC", (4, 5, 3)), ("NCHW", (60,))):
        model = load(saved(tmp_path / "a.onnx", proto(flat, ("N", *shape), {"w": weight})))
        y = build_classifier(model, (4, 5, 3), 3, layout)(model.params, images)
        ordered = images.transpose(0, 3, 1, 2) if layout == "NCHW" else images
        np.testing.assert_allclose(y, ordered.reshape(2, -1) @ weight, rtol=1e-4, atol=1e-5)
    model = load(saved(tmp_path / "b.onnx", proto(flat, ("N", 6, 10), {"w": weight})))
    y = build_classifier(model, (6, 10, 1), 3)(model.params, images.reshape(2, 6, 10, 1))
    np.testing.assert_allclose(y, images.reshape(2, -1) @ weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "classes", "changes", "said"),
    [
        ((28, 28, 1), 3, {}, r"input 'x': given \[2, 1, 28, 28\]; allowed: \[N, 1, 12, 12\] "
         r"\(images of 28 x 28 x 1 in layout NCHW\)"),
        ((12, 12, 1), 3, {"layout": "NHWC"}, r"given \[2, 12, 12, 1\]; .* in layout NHWC"),
        ((1, 12, 12), 3, {}, r"NCHW, which is the file's shape: store images.transpose\(0, 2, 3"),
        ((12, 12, 1), 4, {}, r"output 'y': 3 classes; allowed: the 4 of the data, or m"),
        ((12, 12, 1), 3, {"path": "net.pb"}, r"config.model.path: 'net.pb'; allowed: an .onnx f"),
        ((12, 12, 1), 3, {"path": "no.onnx"}, r"config.model.path: 'no.onnx'; allowed: an .onnx f"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_the_data(
    tmp_path: pathlib.Path, size: tuple[int, ...], classes: int, changes: dict[str, str], said: str
) -> None:
    path = saved(tmp_path / "net.onnx", convolutional())
    options = ModelOptions(**({"path": str(path)} | changes))
    with pytest.raises(InputError, match=said):
        load_onnx(options, pictures(size, classes))


def test_some_classes_of_a_model_will_do(tmp_path: pathlib.Path) -> None:
    """By their own numbers; and a file's name may end in capitals."""
    path = saved(tmp_path / "NET.ONNX", convolutional())
    some = pictures((12, 12, 1), 2)
    apply_fn, params = load_onnx(ModelOptions(path=str(path)), some)
    assert jax.eval_shape(apply_fn, params, some.train_images).shape == (30, 3)


def test_graphs_with_the_same_weights_are_told_apart(tmp_path: pathlib.Path) -> None:
    """By the keys of kept Plans and by checkpoints."""
    identities = []
    for op in ("Relu", "Sigmoid"):
        nodes = [node("MatMul", "x w", "h"), node(op, "h", "y")]
        path = saved(tmp_path / "net.onnx", proto(nodes, ("N", 5), {"w": random(5, 3)}))
        model = load(path)
        network = capture(model.apply_fn, model.params, jnp.zeros((2, 5)))
        identities.append(checkpoint.identify_network(network, model.params))
        again = load(path)
        network = capture(again.apply_fn, again.params, jnp.zeros((2, 5)))
        assert checkpoint.identify_network(network, again.params) == identities[-1]
        assert "network.onnx" not in repr(plan_cache.identify_model(network, again.params))
    first, second = identities
    assert first["weights"] == second["weights"]
    assert first["program"] != second["program"]


@hypothesis.settings(
    deadline=None, max_examples=300,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
@hypothesis.given(data=st.data())
def test_damaged_files_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    content = bytearray(FUZZED)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["set", "insert", "cut", "copy"]))
        if how == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif how == "insert":
            content[place:place] = data.draw(st.binary(max_size=8))
        elif how == "cut":
            del content[place : place + data.draw(st.integers(1, 40))]
        else:
            start = data.draw(st.integers(0, len(content) - 1))
            content[place:place] = content[start : start + data.draw(st.integers(1, 60))]
        content = content or bytearray(1)
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    try:
        model = load(path)
    except InputError as error:
        said = str(error)
    else:
        said = "read"
        assert all(np.isfinite(value).all() for value in model.params.values())
    assert said.isprintable()


FUZZED = convolutional().SerializeToString()

TWO_LAYERS = [
    node("Conv", "x conv/w", "c", strides=[4, 4]),
    node("Relu", "c", "r"),
    node("Flatten", "r", "f"),
    node("Gemm", "f fc", "logits", transB=1),
    node("Softmax", "logits", "y"),
]
NO_LAYERS = [
    node("Relu", "x", "r"),
    node("Flatten", "r", "f"),
    node("Slice", "f start end axis", "y"),
]
THREE = {"start": ints(0), "end": ints(3), "axis": ints(1)}
SMALL = [
    "--config.plan.levels=4",
    "--config.search.strategy=random",
    "--config.search.episodes=8",
    "--config.search.probes=2",
    "--config.search.moment_images=32",
    "--config.search.max_accuracy_drop=100",
    "--config.search.tuned=0",
]


def test_the_main_job(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an ONNX file and an npz file to a proved mapping."""
    path = saved(tmp_path / "net.onnx", convolutional())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (300, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(300) % 3)
    monkeypatch.chdir(ROOT)
    compiled = pathlib.Path(jax.config.jax_compilation_cache_dir)
    compiled.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/xla").symlink_to(compiled, target_is_directory=True)
    flags = [
        "--config=configs/onnx.py",
        f"--config.data.path={tmp_path / 'data.npz'}",
        f"--config.cache_dir={tmp_path / 'cache'}",
        f"--workdir={tmp_path / 'run'}",
        *SMALL,
    ]
    assert search.main([*flags]) == 2
    assert search.main([*flags, f"--config.model.path={tmp_path / 'data.npz'}"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"(apq_jax\.search: config\.model\.path: '.*; allowed: .*\n){2}", said)
    layers = "no weight-bearing operation can be mapped:"
    path.write_bytes(proto(NO_LAYERS, ("N", 1, 12, 12), THREE).SerializeToString())
    assert search.main([*flags, f"--config.model.path={path}"]) == 2
    assert re.fullmatch(rf"apq_jax\.search: net\.onnx: {layers}.*\n", capsys.readouterr().err)
    tensors = {"conv/w": random(2, 1, 4, 4), "fc": random(3, 18)}
    saved(path, proto(TWO_LAYERS, (1, 1, 12, 12), tensors))
    assert search.main([*flags, f"--config.model.path={path}"]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert [layer["name"] for layer in result["layers"]] == ["conv.w", "fc"]
    assert result["mapping"]["bit_exact"]
    assert "net.onnx on data" in capsys.readouterr().out
