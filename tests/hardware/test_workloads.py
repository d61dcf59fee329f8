"""Layer tables against published sizes, and counts made elsewhere."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax import crossbar
from apq_jax.hardware import Accelerator
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.models.lenet import LeNet5
from apq_jax.network.capture import capture


@pytest.mark.parametrize(
    ("name", "weights", "macs"),  # without biases and normalisation
    [
        ("lenet5", 61_470, 416_520),
        ("vgg16", 14_715_584, 313_201_664),
        ("vgg8", 12_973_440, 615_917_568),
        ("resnet20", 268_336, 40_551_040),
        ("resnet18", 11_678_912, 1_814_073_344),
        ("alexnet", 61_090_496, 714_188_480),
    ],
)
def test_sizes(name: str, weights: int, macs: int) -> None:
    layers = WORKLOADS[name]
    assert sum(layer.weights for layer in layers) == weights
    assert sum(layer.positions * layer.weights for layer in layers) == macs
    assert len({layer.name for layer in layers}) == len(layers)


def test_lenet_is_the_model() -> None:
    model: Any = LeNet5(10)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)
    captured = capture(model.apply, params, jnp.zeros((2, 28, 28, 1))).layers
    for layer, expected in zip(captured, WORKLOADS["lenet5"], strict=True):
        shape = layer.groups, layer.rows, layer.columns, layer.positions
        assert shape == (1, expected.rows, expected.columns, expected.positions)
        assert (layer.kernel, layer.stride) == (expected.kernel, expected.stride)


class Blocks(nn.Module):
    """ResNet-18 of ImageNet, without normalisation."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(64, (7, 7), 2, padding=3, use_bias=False)(x)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, width in enumerate((64, 128, 256, 512)):
            for block in range(2):
                stride = 2 if stage and not block else 1
                y = nn.Conv(width, (3, 3), stride, padding=1, use_bias=False)(x)
                y = nn.Conv(width, (3, 3), padding=1, use_bias=False)(nn.relu(y))
                if stride == 2:
                    x = nn.Conv(width, (1, 1), 2, use_bias=False)(x)
                x = nn.relu(x + y)
        return nn.Dense(1000, use_bias=False)(x.mean(axis=(1, 2)))


def test_resnet18_windows_are_those_of_a_model() -> None:
    """Shapes alone: nothing is computed."""
    windows = []

    model = Blocks()
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    jaxpr = jax.make_jaxpr(model.apply)(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like), jnp.zeros((1, 224, 224, 3))
    )
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            high, wide, inputs, outputs = eqn.invars[1].aval.shape
            size = int(np.prod(eqn.outvars[0].aval.shape[1:3]))
            windows.append((high * wide * inputs, outputs, size))
    expected = [
        (layer.rows, layer.columns, layer.positions)
        for layer in WORKLOADS["resnet18"]
        if layer.kernel
    ]
    assert sorted(windows) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "cell_bits", "crossbars"),
    [
        ("vgg16", 2, 3600),  # Σ ⌈9 C_in / 128⌉ ⌈C_out S / 128⌉ at 8 bits
        ("vgg16", 1, 7196),
        ("vgg16", 4, 1802),
        ("resnet18", 2, 2864),
        ("resnet18", 1, 5724),
        ("resnet18", 4, 1432),
        ("lenet5", 2, 23),
    ],
)
def test_dense_crossbars(name: str, cell_bits: int, crossbars: int) -> None:
    layers = WORKLOADS[name]
    eight, chip = np.full(len(layers), 8), Accelerator(cell_bits=cell_bits).chip()
    assert crossbar.count_dense(layers, eight, chip).crossbars.sum() == crossbars


def test_activations_of_resnet18_pass_thirty_bits() -> None:
    """1.71e9 at one bit a cell and 8-bit inputs, summed window by window here."""
    layers, chip = WORKLOADS["resnet18"], Accelerator(cell_bits=1).chip()
    eight = np.full(len(layers), 8)
    total = 0
    for layer in layers:
        strips = [min(128, layer.rows - start) for start in range(0, layer.rows, 128)]
        bands = [min(128, 8 * layer.columns - start) for start in range(0, 8 * layer.columns, 128)]
        units = sum(-(-strip // 9) for strip in strips) * sum(-(-band // 8) for band in bands)
        total += layer.positions * 8 * units
    activations = crossbar.count_activations(
        layers, crossbar.count_dense(layers, eight, chip), chip, eight
    )
    assert activations.sum() == total == 1_709_675_264
