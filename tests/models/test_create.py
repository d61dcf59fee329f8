"""Models: layers, parameters counted by hand, the captured network against the model."""

import dataclasses
import functools
import itertools
import json
import pathlib
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax.config import from_config_dict
from apq_jax.data import Dataset, load
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.models import resnet
from apq_jax.models.create import build, build_trained
from apq_jax.models.options import ModelOptions, Training
from apq_jax.models.weights import load_shipped
from apq_jax.network.capture import Network, capture, forward_float
from apq_jax.system.errors import InputError

# Fingerprint of the 54,000 training images. It changes only if the split does, and then the shipped
# weights must be trained again.
FASHION_MNIST = "2fb24ea46a764bf7b8636129e4fc52ef1fe01d4168a1f0912902871db0f8db7a"


def pictures(size: tuple[int, ...], count: int = 40) -> Dataset:
    """Two classes, told by their brightness, in every split."""
    labels = np.arange(count, dtype=np.int32) % 2
    noise = np.random.default_rng(0).uniform(0, 0.5, (count, *size)).astype(np.float32)
    images = noise + labels[:, None, None, None] / np.float32(2)
    return Dataset("pictures", 2, *([images, labels] * 4))


def shapes(name: str, width: float, size: tuple[int, ...]) -> Any:
    model: Any = build(ModelOptions(name, width), pictures(size))
    model = model.clone(classes=10)
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size)))


def drawn(model: Any, size: tuple[int, ...]) -> Any:
    """Parameters and running moments, all away from what they start with."""
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size)))
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        if len(leaf.shape) > 1:
            return jnp.asarray(rng.normal(0, 2 / leaf[..., 0].size ** 0.5, leaf.shape), jnp.float32)
        low = 0.5 if path[-1].key in ("var", "scale") else -0.2
        return jnp.asarray(rng.uniform(low, low + 0.4, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(
        draw, jax.tree.map(lambda leaf: np.zeros(leaf.shape), like)
    )


def captured(model: Any, like: Any, size: tuple[int, ...]) -> Network:
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)
    return capture(model.apply, params, jnp.zeros((2, *size)))


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "weights"), [("vgg8", 12_973_440), ("vgg16", 14_715_584), ("resnet20", 268_336)]
)
def test_layers_are_those_of_the_table(name: str, weights: int) -> None:
    size = (32, 32, 3)
    model, like = shapes(name, 1.0, size)
    layers = captured(model, like, size).layers
    assert sum(layer.weights for layer in layers) == weights
    for layer, expected in zip(layers, WORKLOADS[name], strict=True):
        expected = dataclasses.replace(expected, name=layer.name)
        assert layer == expected


def test_parameters_by_hand() -> None:
    """An eighth of VGG-8 on 28 x 28 grey pixels, which three poolings turn into 4 x 4."""
    _, like = shapes("vgg8", 0.125, (28, 28, 1))
    convolutions = 9 * (1 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    dense = 4 * 4 * 64 * 128 + 128 * 10 + 10
    channels = 2 * 16 + 2 * 32 + 2 * 64 + 128
    assert count(like["params"]) == convolutions + dense + 2 * channels == 204_634
    assert count(like["batch_stats"]) == 2 * channels


def test_resnet20_parameters_by_hand() -> None:
    """0.27 M, as the paper's table 6 says."""
    _, like = shapes("resnet20", 1.0, (32, 32, 3))
    first, second, third = 6 * 16 * 16, 16 * 32 + 5 * 32 * 32, 32 * 64 + 5 * 64 * 64
    convolutions = 9 * (3 * 16 + first + second + third)
    channels = 7 * 16 + 6 * 32 + 6 * 64
    assert count(like["params"]) == convolutions + 2 * channels + 64 * 10 + 10 == 269_722
    assert count(like["batch_stats"]) == 2 * channels


def test_resnet18_parameters_by_hand() -> None:
    """11.2 M; torchvision's with its stem of 7 x 7 and 1000 classes has 11,689,512."""
    _, like = shapes("resnet18", 1.0, (32, 32, 3))
    widths = (64, 128, 256, 512)
    convolutions = 9 * (3 * 64 + 4 * 64 * 64) + sum(
        9 * (narrow * wide + 3 * wide * wide) + narrow * wide
        for narrow, wide in itertools.pairwise(widths)
    )
    channels = 5 * 64 + 5 * (128 + 256 + 512)
    assert count(like["params"]) == convolutions + 2 * channels + 512 * 10 + 10 == 11_173_962
    assert 11_173_962 + 3 * 64 * (49 - 9) + 513 * 990 == 11_689_512


def test_resnet18_is_the_table_but_for_its_ends() -> None:
    """The table is for 224 pixels: 56 where 32 pixels have 32."""
    size = (32, 32, 3)
    model, like = shapes("resnet18", 1.0, size)
    layers = captured(model, like, size).layers
    for layer, expected in zip(layers[1:-1], WORKLOADS["resnet18"][1:-1], strict=True):
        positions = expected.positions * 32**2 // 56**2
        assert layer == dataclasses.replace(expected, name=layer.name, positions=positions)
        stage, block, part = expected.name.split("/")
        assert layer.name == f"params/{stage}_{block}/{part.replace('short', 'conv_short')}/kernel"


def test_resnet_shortcut_takes_every_second_pixel() -> None:
    """Without weights; and the windows of its convolutions are centred on the same pixels."""
    block = resnet.Block(channels=3, stride=2, projected=False)
    x = jnp.zeros((1, 5, 6, 2)).at[0, 2, 4].set((3.0, 4.0))
    params = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(0), x, False))
    expected = np.zeros((1, 3, 3, 3))
    expected[0, 1, 2, :2] = 3, 4
    np.testing.assert_array_equal(block.apply(params, x, False), expected)
    kernel = params["params"]["conv1"]["kernel"].at[1, 1].set(1.0)
    params["params"]["conv1"]["kernel"] = kernel
    _, state = block.apply(params, x, False, capture_intermediates=True)
    (conv1,) = state["intermediates"]["conv1"]["__call__"]
    np.testing.assert_array_equal(conv1[0, 1, 2], 7.0)
    assert np.count_nonzero(conv1) == 3


def test_vgg16_takes_28_pixels() -> None:
    """Its fifth pooling meets 2 x 2; the classifier is the table's."""
    _, like = shapes("vgg16", 0.125, (28, 28, 1))
    assert like["params"]["logits"]["kernel"].shape == (64, 10)


@pytest.mark.parametrize("size", [(28, 28, 1), (32, 32, 3)])
def test_captured_network_is_the_model(size: tuple[int, ...]) -> None:
    model, _ = shapes("vgg8", 0.03, size)
    params = drawn(model, size)
    network = capture(model.apply, params, jnp.zeros((2, *size)))
    status = {operation.name: operation.status for operation in network.operations}
    assert {name for name, value in status.items() if value == "mapped"} == {
        *(f"params/conv{index}/kernel" for index in range(1, 7)),
        "params/hidden/kernel",
        "params/logits/kernel",
    }
    assert status["batch_stats/norm1/mean"] == status["params/norm_hidden/scale"] == "digital"
    assert set(status.values()) == {"mapped", "digital"}
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(3, *size)), jnp.float32)
    expected = jax.jit(model.apply)(params, x)
    assert np.abs(expected).max() > 0.01
    logits = jax.jit(lambda params, x: forward_float(network, params, x))(params, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "mapped"), [("resnet20", 20), ("resnet18", 21)])
def test_captured_resnet_is_the_model(name: str, mapped: int) -> None:
    """Every convolution and the classifier are mapped; odd sizes and widths are, too."""
    size = (13, 10, 3)
    model, _ = shapes(name, 0.07, size)
    params = drawn(model, size)
    network = capture(model.apply, params, jnp.zeros((2, *size)))
    for operation in network.operations:
        kernel = operation.name.endswith("/kernel")
        assert operation.status == ("mapped" if kernel else "digital"), operation
    assert len(network.layers) == mapped
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(3, *size)), jnp.float32)
    expected = jax.jit(model.apply)(params, x)
    assert np.abs(expected).max() > 0.01
    logits = jax.jit(lambda params, x: forward_float(network, params, x))(params, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_running_moments_are_used_and_moved() -> None:
    model: Any = build(ModelOptions("vgg8", 0.01), pictures((8, 8, 1)))
    params = drawn(model, (8, 8, 1))
    x = jnp.asarray(pictures((8, 8, 1)).train_images)
    apply_fn = jax.jit(model.apply)
    alone, together = apply_fn(params, x[:1]), apply_fn(params, x)
    np.testing.assert_allclose(alone, together[:1], rtol=1e-4, atol=1e-6)
    train_fn = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    _, moved = train_fn(params, x)
    before = params["batch_stats"]["norm1"]["mean"]
    kernel = params["params"]["conv1"]["kernel"]
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = 0.9 * before + 0.1 * y.mean((0, 1, 2))
    np.testing.assert_allclose(moved["batch_stats"]["norm1"]["mean"], expected, rtol=1e-4)


def test_trained_with_running_moments(tmp_path: pathlib.Path) -> None:
    dataset, options = pictures((8, 8, 1)), ModelOptions("vgg8", 0.02)
    recipe = Training(epochs=6, batch_size=20, learning_rate=0.01, max_shift=0)
    apply_fn, params, whence = build_trained(options, recipe, dataset, tmp_path)
    assert whence == ""
    variance = params["batch_stats"]["norm1"]["var"]
    assert (np.abs(variance - 1) > 0.01).any()  # one is what it starts with
    logits = apply_fn(params, jnp.asarray(dataset.test_images))
    assert logits.shape == (40, 2)
    again, params_again, whence = build_trained(options, recipe, dataset, tmp_path)
    assert whence == "cached"
    np.testing.assert_array_equal(again(params_again, jnp.asarray(dataset.test_images)), logits)
    names = [str(choice) for choice in (ModelOptions(), options, ModelOptions("vgg8", 0.025))]
    assert names == ["lenet5", "vgg8 x 0.02", "vgg8 x 0.025"]


def test_refused() -> None:
    with pytest.raises(InputError, match=r"config.model.width: 0.5; allowed: 1 for lenet5"):
        build(ModelOptions("lenet5", 0.5), pictures((28, 28, 1)))
    gap = dataclasses.replace(pictures((28, 28, 1)), classes=3, train_labels=np.array([0, 2]))
    with pytest.raises(InputError, match=r"pictures: class 1 of 0..2 has no training image"):
        build_trained(ModelOptions(), Training(), gap, pathlib.Path("none"))
    with pytest.raises(InputError, match=r"pictures: images of 11 x 28 pixels; allowed: at least"):
        build(ModelOptions("lenet5"), pictures((11, 28, 1)))
    assert build(ModelOptions("lenet5"), pictures((12, 12, 1))).classes == 2


def test_resnet20_recipe() -> None:
    config = from_config_dict(runpy.run_path("configs/resnet20_cifar.py")["get_config"]())
    model = build(config.model, pictures((32, 32, 3)))
    assert isinstance(model, resnet.ResNet)
    assert (model.stages, model.width) == (resnet.RESNET20, 1)
    with pytest.raises(InputError, match=r"set config.data.path to the folder"):
        load(config.data.path, config.data.name)


def test_shipped_vgg8_is_the_configured_one() -> None:
    """Otherwise the example would train for half an hour."""
    config = from_config_dict(runpy.run_path("configs/vgg8_fashion.py")["get_config"]())
    identity = {
        "model": str(config.model),
        "training_images": FASHION_MNIST,
        "options": json.dumps(dataclasses.asdict(config.training), sort_keys=True),
    }
    model = build(config.model, pictures((28, 28, 1))).clone(classes=10)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    params = load_shipped(identity, like)
    assert params is not None
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert (params["batch_stats"]["norm1"]["var"] > 0).all()
