"""Compressed networks as ONNX: the same numbers in ONNX Runtime, the same integers in the file."""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from flax import nnx
from jax import lax
from onnx import TensorProto, helper, numpy_helper

from apq_jax import mapping
from apq_jax.compression.compressed import (
    Compressed,
    CompressedLayer,
    accumulate,
    apply,
    forward,
    rescale,
)
from apq_jax.compression.converters import Reading, get_cells
from apq_jax.export import __main__ as command
from apq_jax.export.finished_run import read_finished_run
from apq_jax.export.onnx_model import OPSET, export
from apq_jax.hardware import PRESETS
from apq_jax.models import lenet, resnet, vgg
from apq_jax.models.onnx import model as importer
from apq_jax.network.capture import Network, capture
from apq_jax.run import write
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError

IMAGES = 300


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def compressed_of(network: Network, seed: int = 0, bits: tuple[int, int] | None = None) -> Any:
    """Random integers, scales and zeros; the first two layers have one bit, if bits are random."""
    rng, layers = np.random.default_rng(seed), []
    for index, layer in enumerate(network.layers):
        weight_bits, input_bits = rng.integers(1, 9, 2)
        weight_bits, input_bits = bits or (
            1 if index == 0 else weight_bits,
            1 if index == 1 else input_bits,
        )
        max_level = max(2 ** (weight_bits - 1) - 1, 1)
        shape = layer.groups, layer.rows, layer.columns
        levels = rng.integers(-max_level, max_level + 1, shape)
        scale = rng.uniform(1, 2, shape[::2]) / max_level / np.sqrt(layer.rows)
        input_scale = 4 / (2**input_bits - 1)
        zero = rng.integers(0, 2**input_bits) * (index % 3 != 2)
        # As moments are matched: the multiplier is more than the product of the scales.
        multiplier = np.float32(scale * input_scale * rng.uniform(0.7, 1.4, shape[::2]))
        multiplier.reshape(-1)[0] *= index % 2  # a channel that is constant
        offset = rng.normal(size=shape[::2]) / 10 - multiplier * zero * levels.sum(axis=1)
        layers.append(
            CompressedLayer(
                jnp.asarray(levels, jnp.int8),
                jnp.asarray(scale, jnp.float32),
                jnp.asarray(input_scale, jnp.float32),
                jnp.asarray(zero, jnp.float32),
                jnp.asarray(input_bits, jnp.int32),
                jnp.asarray(multiplier),
                jnp.asarray(offset, jnp.float32),
            )
        )
    return tuple(layers)


def theirs(model: Any, x: np.ndarray, optimised: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimised:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(["logits"], {"images": x})
    return y


def agree(
    apply_fn: Any,
    params: Any,
    x: np.ndarray,
    seed: int = 0,
    bits: Any = None,
    same_class: bool = True,
) -> Any:
    """The exported model, once ONNX Runtime's logits are ours to 2e-6 of the largest."""
    network = capture(apply_fn, params, jnp.asarray(x[:2]))
    compressed = compressed_of(network, seed, bits)
    model = export(network, params, compressed)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import] == [OPSET]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", *x.shape[1:]]
    ours = jax.jit(functools.partial(apply, network))(params, compressed, x)
    for optimised in (True, False):
        y = theirs(model, x, optimised)
        assert y.shape == ours.shape
        difference = np.abs(y - ours).max(axis=1) / np.abs(ours).max()
        # A value on the edge between two levels may fall on either side of it.
        assert np.sum(difference > 2e-6) <= len(x) // 100
        assert not same_class or np.mean(y.argmax(1) != ours.argmax(1)) <= 0.001
        np.testing.assert_allclose(theirs(model, x[:1], optimised), y[:1], atol=1e-5)
    need_integers(model, network, compressed)
    return model


def need_integers(model: Any, network: Network, compressed: Compressed) -> None:
    """The file's integers are the levels, and their scales those of the multipliers."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    axes = {
        node.input[0]: {field.name: helper.get_attribute_value(field) for field in node.attribute}
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    for layer, integers in zip(network.layers, compressed, strict=True):
        levels, name = held[f"{layer.name}/levels"], f"{layer.name}/levels"
        assert levels.dtype == np.int8
        wanted = np.asarray(integers.levels)
        if axes[name]["axis"] == 0:
            outputs = wanted.swapaxes(1, 2).reshape(-1, layer.rows)
            np.testing.assert_array_equal(levels.reshape(outputs.shape), outputs)
        else:
            np.testing.assert_array_equal(levels, wanted[0])
        product = held[f"{layer.name}/weight_scale"] * held[f"{layer.name}/input_scale"]
        np.testing.assert_allclose(product, np.ravel(integers.multiplier), rtol=3e-7)
        zero = held[f"{layer.name}/input_zero"]
        assert (zero.dtype, zero) == (np.uint8, integers.input_zero)


class Windows(nn.Module):
    """Convolutions of every kind, and poolings."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 2), (2, 1), padding=((0, 2), (1, 0)))(x))
        x = nn.Conv(8, (3, 3), kernel_dilation=(2, 1), feature_group_count=4, use_bias=False)(x)
        x = nn.avg_pool(x, (2, 3), (1, 2), padding="SAME", count_include_pad=False)
        x = nn.relu(nn.Conv(12, (3, 3), feature_group_count=8 // 2, strides=2)(x))
        x = nn.avg_pool(x, (2, 2), padding="SAME")
        x = nn.max_pool(x, (3, 2), (1, 2), padding=((1, 1), (0, 1)))
        return nn.Dense(7)(x.reshape(x.shape[0], -1))


class Activations(nn.Module):
    """What Flax offers between the layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.silu(nn.GroupNorm(2)(nn.LayerNorm()(nn.gelu(nn.Conv(4, (3, 3))(x)))))
        x = nn.softplus(nn.elu(nn.leaky_relu(x))) + nn.hard_swish(x) + nn.relu6(x)
        x = nn.swish(nn.Conv(4, (1, 1))(x)) * nn.sigmoid(x) + nn.soft_sign(x) + jnp.tanh(x)
        x = nn.softmax(nn.Dense(12)(x.mean((1, 2)))) + nn.normalize(x.max((1, 2)).sum(-1)[:, None])
        return nn.log_softmax(nn.gelu(nn.selu(nn.Dense(6)(x)), approximate=False))


class Attention(nn.Module):
    """Products of data with data."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (3, 3), strides=3)(x)
        x = x.reshape(x.shape[0], -1, 8)
        x = x + nn.MultiHeadDotProductAttention(2)(x, x)
        return nn.Dense(5)(nn.LayerNorm()(x)[:, 0])


SMALL = ((4, 1), (8, 1))
MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "lenet": (lenet.LeNet5(), (12, 12, 1)),
    "vgg": (vgg.Vgg(SMALL, 16), (9, 9, 3)),
    "resnet": (resnet.ResNet(SMALL), (9, 9, 3)),
    "resnet with projections": (resnet.ResNet(SMALL, True), (9, 8, 3)),
    "windows": (Windows(), (11, 10, 3)),
    "activations": (Activations(), (6, 6, 3)),
    "attention": (Attention(), (9, 9, 2)),
    "dense": (nn.Sequential([nn.Dense(20, use_bias=False), nn.Dense(10)]), (16,)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_are_those_of_the_compressed_network(name: str, seed: int) -> None:
    model, shape = MODELS[name]
    x = random(IMAGES, *shape, seed=seed)
    params = model.init(jax.random.key(seed), x[:1])
    agree(model.apply, params, x, seed)


def test_one_bit_everywhere() -> None:
    model, shape = MODELS["lenet"]
    x = random(IMAGES, *shape)
    agree(model.apply, model.init(jax.random.key(0), x[:1]), x, bits=(1, 1))


def test_images_stay_in_onnx_layout_between_convolutions() -> None:
    model, shape = MODELS["resnet with projections"]
    x = random(2, *shape)
    exported = agree(model.apply, model.init(jax.random.key(0), x[:1]), x)
    assert [node.op_type for node in exported.graph.node].count("Transpose") == 1


def test_an_nnx_model() -> None:
    layers = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), nnx.Linear(4 * 36, 5, rngs=nnx.Rngs(1))
    graph, params = nnx.split(layers)

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        conv, linear = nnx.merge(graph, params)
        return linear(jax.nn.relu(conv(x)).reshape(x.shape[0], -1))

    agree(apply_fn, params, random(IMAGES, 6, 6, 3))


@pytest.mark.parametrize(
    "equation", ["bi,io->bo", "oi,bi->ob", "bgi,gio->bgo", "bpi,io->bpo", "goi,bgi->gob"]
)
def test_matrix_products(equation: str) -> None:
    operands, result = equation.split("->")
    sizes = {"b": 40, "i": 6, "o": 5, "g": 3, "p": 4}
    w, x = sorted(operands.split(","), key=lambda axes: "b" in axes)
    weight = random(*(sizes[axis] for axis in w), seed=1)
    order = [result.index(axis) for axis in sorted(result, key=lambda axis: axis != "b")]

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        pair = (params["w"], x) if operands.startswith(w) else (x, params["w"])
        return jnp.einsum(equation, *pair).transpose(order).reshape(x.shape[0], -1)

    agree(apply_fn, {"w": jnp.asarray(weight)}, random(*(sizes[axis] for axis in x)))


def test_a_weight_that_is_used_twice_is_held_once() -> None:
    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["w"]) @ params["w"]

    model = agree(apply_fn, {"w": jnp.asarray(random(6, 6))}, random(IMAGES, 6))
    names = [tensor.name for tensor in model.graph.initializer]
    assert [name for name in names if "levels" in name] == ["w/levels"]


X = (40, 2, 4, 6)  # of the operations below
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda x: (x - 1) * x / (2 + jnp.abs(x)) + (-x) ** 3 + jnp.sign(x) - x**0,
    "powers": lambda x: (
        jnp.abs(x) ** 1.5 + lax.rsqrt(x * x + 1) + (x * x + 1) ** -2 + jnp.exp2(x / 4)
    ),
    "functions": lambda x: jnp.sin(x) + jnp.cos(x) + jnp.expm1(x / 4) + jnp.log1p(jnp.square(x)),
    "errors": lambda x: lax.erf(x) - lax.erfc(2 * x) + jax.nn.logsumexp(x, axis=2, keepdims=True),
    "rounding": lambda x: jnp.floor(x) + jnp.ceil(2 * x) + jnp.round(3 * x),
    "clips": lambda x: jnp.clip(x, -1, 1) + lax.clamp(-0.5, x, 0.3) + jnp.minimum(x, 0.2),
    "comparisons": lambda x: jnp.where((x > 0) & (x <= 1) | ~(x >= -1), x, 2) + (x != 3) + (x < 2),
    "choices": lambda x: jnp.where((x == x) ^ (x > 0), jnp.arange(6.0), x) + jnp.isfinite(x),
    "whole numbers": lambda x: ((10 * x).astype(jnp.int32) // 3 + 1).astype(jnp.float32),
    "reductions": lambda x: x.max(1) + x.min(1) + x.sum((1,)) + x.mean((2, 3))[:, :1, None],
    "product": lambda x: x.prod(3).transpose(0, 2, 1),
    "slices": lambda x: x[:, :, 1::2, ::-1] + x[:, -1:, :2, 2:3] + x[:, 0, 1][:, None, None],
    "halves": lambda x: sum(jnp.split(x, 3, axis=3)[1:]),
    "joined": lambda x: jnp.concatenate([x, 2 * x, jnp.ones_like(x)], 1).reshape(-1, 4, 36),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=3),
    "cropped": lambda x: lax.pad(x, 1.0, [(0, 0, 0), (0, 1, 0), (-1, 0, 0), (2, -2, 0)]),
    "repeated": lambda x: jnp.broadcast_to(x[:, :, None], (x.shape[0], 2, 3, 4, 6)) * 2,
    "transposed": lambda x: x.transpose(0, 3, 1, 2) + x.transpose(0, 3, 1, 2)[:, :, :, ::-1],
    "mixed layouts": lambda x: x.transpose(0, 1, 3, 2).reshape(-1, 2, 4, 6) + x,
    "constants": lambda x: x.transpose(0, 3, 2, 1) * jnp.arange(8.0).reshape(1, 1, 4, 2),
    "data with data": lambda x: jnp.einsum("bijk,bilk->bjil", x, jnp.tanh(x)),
    "data with constants": lambda x: jnp.tensordot(x, jnp.arange(12.0).reshape(6, 2), 1),
    "remainders": lambda x: x % 2 - lax.rem(x, 1.5) + jnp.roll(x, 1, 2) + jnp.tile(x, (1, 1, 1, 1)),
    "taken": lambda x: (
        x[:, :, jnp.array([3, 0, 2])] + jnp.take(x, np.array([[0], [1]]), 1)[:, :, 0, :3]
    ),
    "unstacked": lambda x: sum(jnp.unstack(x, axis=1)) + jnp.tile(x, (1, 2, 1, 1))[:, 3],
    "stacked": lambda x: jnp.stack([x, -x], axis=1).swapaxes(1, 4),
    "window over channels": lambda x: lax.reduce_window(
        x, 0.0, lax.add, (1, 2, 1, 1), (1, 1, 1, 1), "SAME"
    ),
    "window with a wide edge": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 1, 2), ((0, 0), (0, 0), (0, 1), (0, 1))
    ),
    "window with holes": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 1, 1), "VALID", window_dilation=(1, 1, 2, 3)
    ),
    "a float convolution": lambda x: lax.conv_general_dilated(
        x, jnp.asarray(random(3, 2, 2, 2)), (1, 2), ((1, 0), (-1, 1))
    ),
    "barrier": lambda x: sum(lax.optimization_barrier((x, 2 * x))) + lax.stop_gradient(x),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_that_stay_digital(name: str) -> None:
    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        hidden = (x @ params["w"]).reshape(x.shape[0], *X[1:])
        return OPERATIONS[name](hidden).reshape(x.shape[0], -1)

    params = {"w": jnp.asarray(random(5, 48))}
    agree(apply_fn, params, random(X[0], 5), bits=(8, 8), same_class=False)


def test_an_imported_network_goes_out_again(tmp_path: pathlib.Path) -> None:
    def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs.split(), [output], **attributes)

    tensors = {"w": random(6, 3, 3, 3), "v": random(4, 6, seed=1), "c": random(4, seed=2)}
    tensors |= {name: random(6, seed=seed) for seed, name in enumerate("sbm", 3)}
    tensors["n"] = np.abs(random(6)) + 1
    nodes = [
        node("Conv", "x w", "1", strides=[2, 1], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "1 s b m n", "2"),
        node("Relu", "2", "3"),
        node("AveragePool", "3", "4", kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
        node("GlobalAveragePool", "4", "5"),
        node("Flatten", "5", "6"),
        node("Gemm", "6 v c", "y", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 8, 9))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    path = tmp_path / "net.onnx"
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    model = importer.load(path)
    apply_fn = importer.build_classifier(model, (8, 9, 3), 4)
    exported = agree(apply_fn, model.params, random(IMAGES, 8, 9, 3))
    ops = [node.op_type for node in exported.graph.node]
    assert (ops.count("Transpose"), ops.count("Conv"), ops.count("Gemm")) == (1, 1, 1)


def dense(function: Callable[[Any], Any]) -> tuple[Network, Any, Compressed]:
    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        return function(x @ params["w"])

    params = {"w": jnp.asarray(random(4, 6))}
    network = capture(apply_fn, params, jnp.zeros((2, 4)))
    return network, params, compressed_of(network)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: jnp.cumsum(jnp.sort(x), 1), "ONNX: cumsum, sort$"),
        (lambda x: x - x.mean(0), "a reduction of the batch"),
        (lambda x: x[::-1], "the batch reversed"),
        (lambda x: x * jnp.arange(x.shape[0])[:, None], "a constant that differs along the batch"),
        (lambda x: x / x.shape[0], "a constant that depends on the size of the batch"),
        (lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), "numbers of bfloat16"),
        (lambda x: lax.fori_loop(0, 2, lambda _, y: 2 * y, x), "scan|while"),
    ],
)
def test_what_cannot_be_written_is_named(function: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        export(*dense(function))
    assert "\n" not in str(error.value)


def test_what_is_not_used_is_not_written() -> None:
    def function(x: jax.Array) -> jax.Array:
        jnp.sort(x)
        return x + jnp.zeros_like(x)

    export(*dense(function))


def test_lossy_converters_are_refused() -> None:
    network, params, (layer,) = dense(lambda x: x)
    survivors = jnp.ones((1, 1, 6), bool)
    cells = get_cells(PRESETS["isaac_ou"])
    reading = Reading(cells, survivors, jnp.asarray(8), jnp.asarray(3))
    with pytest.raises(InputError, match="lossy converters"):
        export(network, params, (layer._replace(reading=reading),))


# The command line.


def test_a_run_is_exported(
    finished_run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.onnx"
    assert command.main([str(finished_run), "--onnx", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{path}: {path.stat().st_size:,} bytes; ")
    assert printed.count("\n") == 1
    assert command.main([str(finished_run), "--onnx", str(path)]) == 0  # the same again
    content = path.read_bytes()
    path.write_bytes(b"a network of the user's")
    refused(finished_run, capsys, "is there already; allowed: a new", "--onnx", str(path))
    assert path.read_bytes() == b"a network of the user's"
    assert command.main([str(finished_run), "--onnx", str(path), "--overwrite"]) == 0
    assert path.read_bytes() == content
    result = json.loads((finished_run / "result.json").read_text())
    count, right = result["data"]["test"], 100 * result["best"]["test_accuracy"]
    assert "2 Conv" in printed
    assert f"{count} of {count} test images" in printed
    assert f"the run's {right:.2f} %" in printed
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    said = {entry.key: entry.value for entry in model.metadata_props}
    tensors = safetensors.numpy.load_file(finished_run / "weights.safetensors")
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for layer in result["layers"]:
        assert said[f"{layer['name']}/weight_bits"] == str(layer["weight_bits"])
        levels = tensors[f"{layer['name']}/levels"]
        mine = held[f"{layer['name']}/levels"]
        if mine.ndim == 4:
            mine = mine.reshape(levels.shape[2], -1).T
        np.testing.assert_array_equal(mine, levels[0])


def test_weights_give_a_layers_outputs_by_the_formula(finished_run: pathlib.Path) -> None:
    """docs/result.md in NumPy: the first convolution, 5 x 5 with an edge of two."""
    run, name = read_finished_run(finished_run), "params/conv1/kernel"
    with safetensors.safe_open(finished_run / "weights.safetensors", framework="np") as file:
        layer = {key: file.get_tensor(f"{name}/{key}") for key in ("levels", "mask")}
        for key in ("weight_scale", "multiplier", "offset", "input_scale", "input_zero"):
            layer[key] = file.get_tensor(f"{name}/{key}")
        said = file.metadata()
    images = run.dataset.test_images[:5]
    max_level = 2 ** int(said[f"{name}/input_bits"]) - 1
    u = np.clip(np.round(images / layer["input_scale"]) + layer["input_zero"], 0, max_level)
    u = np.pad(u[..., 0], ((0, 0), (2, 2), (2, 2)), constant_values=layer["input_zero"])
    windows = np.lib.stride_tricks.sliding_window_view(u, (5, 5), (1, 2)).reshape(5, 12, 12, 25)
    y = layer["multiplier"][0] * (windows @ layer["levels"][0]) + layer["offset"][0]
    # The mask: a column of a block of rows is there or not.
    high, wide = map(int, said[f"{name}/block"].split(" x "))
    mask = layer["mask"][0].repeat(high, axis=0)[:25].repeat(wide, axis=1)[:, : y.shape[-1]]
    assert not layer["levels"][0][mask == 0].any()
    seen: list[np.ndarray] = []

    def replace(index: int, product: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
        integers = run.compressed[index]
        out = product.fold(rescale(integers, accumulate(integers, product, x)))
        seen.append(np.asarray(out))
        return out

    forward(run.network, run.params, jnp.asarray(images), replace)
    np.testing.assert_allclose(y, seen[0], rtol=1e-5, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("result.json", None, "result.json: cannot be read"),
        ("result.json", b"{", "result.json: is not JSON"),
        ("weights.safetensors", None, "weights.safetensors: cannot be read"),
        ("weights.safetensors", b"none", "weights.safetensors: not the file that the run"),
        ("mapping.safetensors", None, "mapping.safetensors: cannot be read"),
        ("mapping.safetensors", b"none", "mapping.safetensors: not the file that the run"),
    ],
)
def test_files_that_cannot_be_used(
    finished_run: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    words: str,
) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "run")
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    refused(copy, capsys, words)


def refused(
    finished_run: pathlib.Path, capsys: pytest.CaptureFixture[str], words: str, *flags: str
) -> None:
    file = finished_run.parent / "net.onnx"
    assert command.main([str(finished_run), *(flags or ("--onnx", str(file)))]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not file.exists()


def test_runs_that_do_not_hold_together(
    finished_run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = pathlib.Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = copy / "weights.safetensors"
    tensors, name = safetensors.numpy.load_file(path), "params/fc1/kernel"
    result = json.loads((finished_run / "result.json").read_text())
    for field, value, words in (
        ("levels", tensors[f"{name}/levels"] * 0 + 127, "a level of 127"),
        ("levels", tensors[f"{name}/levels"][:, 1:], "int8 of shape"),
        ("multiplier", tensors[f"{name}/multiplier"] * 2, "not that of mapping.safetensors"),
    ):
        pytrees.save(path, tensors | {f"{name}/{field}": value})
        refused(copy, capsys, "weights.safetensors: not the file that the run")
        write.write_result(copy, result)  # as if it belonged together
        refused(copy, capsys, words)
    shutil.copy(finished_run / "weights.safetensors", path)
    for section, field, value, words in (
        ("model", "name", "vgg8", "digital/batch_stats"),
        ("model", "name", 3, "config.model.name: 3"),
        ("data", "path", "nowhere.npz", "nowhere.npz"),
        ("model", "path", "nowhere.onnx", "nowhere.onnx"),
    ):
        section_of = result["config"][section]
        changed = result["config"] | {section: section_of | {field: value}}
        write.write_result(copy, result | {"config": changed})
        refused(copy, capsys, words)
    write.write_result(copy, result | {"config": [1]})
    refused(copy, capsys, "config: cannot be used")


def test_a_run_with_lossy_converters(
    finished_run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = pathlib.Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = copy / "mapping.safetensors"
    lossless = mapping.load(path)
    lossy = dataclasses.replace(lossless.accelerator, adc_bits=2)
    result = json.loads((copy / "result.json").read_text())
    mapping.save(path, lossless._replace(accelerator=lossy))
    write.write_result(copy, result)
    refused(copy, capsys, "params/conv1/kernel: lossy converters of 2 bits")
    maps = tuple(layer_map._replace(adc_bits=3) for layer_map in lossless.maps)
    mapping.save(path, lossless._replace(maps=maps))
    write.write_result(copy, result)
    refused(copy, capsys, "lossy converters of 3 bits")


def test_flags_that_cannot_be_used(
    finished_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(
        finished_run,
        capsys,
        "allowed: a file named *.onnx",
        "--onnx",
        str(finished_run / "result.json"),
    )
    refused(finished_run, capsys, "unrecognized arguments: --nothing", "--nothing")
    refused(finished_run / "none", capsys, "cannot be read", "--onnx", "net.onnx")


def test_without_onnxruntime_nothing_is_checked(
    finished_run: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert command.main([str(finished_run), "--onnx", str(tmp_path / "net.onnx")]) == 0
    assert "not checked, for onnxruntime is not installed" in capsys.readouterr().out
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert command.main([str(finished_run), "--onnx", str(tmp_path / "net.onnx")]) == 2
    assert "the package onnx" in capsys.readouterr().err
