"""Layers, networks and mappings that the tests of the mapping share."""

import functools
import pathlib
from typing import Any

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from apq_jax import mapping
from apq_jax.compression import calibration, converters, plan
from apq_jax.compression.compressed import Compressed, compress
from apq_jax.compression.options import PlanOptions, Recovery
from apq_jax.hardware import PRESETS, Accelerator
from apq_jax.mapping import LayerMap, Mapping, Scales, datapath, schemes
from apq_jax.models.lenet import LeNet5
from apq_jax.network.capture import Network, capture, extract_matrices
from apq_jax.system import pytrees
from apq_jax.types import Layer, Policy

PROPERTY = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


def integers(layer: Layer, mask: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """Levels over the whole range of the bits; never 0 at one bit."""
    shape = layer.groups, layer.rows, layer.columns
    most = max(2 ** (bits - 1) - 1, 1)
    levels = np.random.default_rng(seed).integers(-most, most + 1, shape)
    return np.where(levels == 0, 1, levels) * mask if bits == 1 else levels * mask


def executed(found: LayerMap, accelerator: Accelerator, levels: np.ndarray, bits: int = 0) -> Any:
    path, banks = datapath.build_parts((found,), accelerator)[0]
    adc = converters.build_converter(accelerator, bits or accelerator.lossless_adc_bits)
    return np.asarray(datapath.execute(path, banks, adc, jnp.asarray(levels, jnp.int32)))


def product(layer: Layer, inputs: np.ndarray, levels: np.ndarray) -> np.ndarray:
    grouped = inputs.reshape(len(inputs), layer.groups, layer.rows)
    return np.einsum("mgr,grc->mgc", grouped, levels).reshape(len(inputs), -1)


CONV = Layer("conv", 1, 27, 6, 10, (3, 3), (1, 1))


SMALL = Accelerator(crossbar_rows=20, crossbar_columns=12, unit_rows=9, unit_columns=4)


class Vgg(nn.Module):
    """A VGG in small."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (4, 6):
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(5)(nn.relu(nn.Dense(8)(x.reshape(x.shape[0], -1))))


class ResNet(nn.Module):
    """A ResNet in small: grouped and depthwise layers, strides, a projected shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(4, (3, 3))(x)
        for width, stride, groups in ((4, 1, 2), (8, 2, 4)):
            y = nn.relu(nn.Conv(width, (3, 3), stride, feature_group_count=groups)(x))
            y = nn.Conv(width, (3, 3), feature_group_count=width)(y)
            if stride == 2:
                x = nn.Conv(width, (1, 1), 2)(x)
            x = nn.relu(x + nn.LayerNorm()(y))
        return nn.Dense(5)(x.mean(axis=(1, 2)))


class Grouped(nn.Module):
    """A grouped layer with a ragged last row group, and a dense one."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(6, (3, 3), 2, feature_group_count=2)(x))
        return nn.Dense(5)(x.reshape(x.shape[0], -1))


@functools.cache
def built(
    name: str, accelerator: Accelerator = PRESETS["isaac_ou"], searched: bool = False
) -> tuple[Network, Any, Compressed, Mapping, jax.Array]:
    """Compressed at random, the converters' bits too where they are searched; and its mapping."""
    model, shape = {
        "lenet": (LeNet5(10), (28, 28, 1)),
        "vgg": (Vgg(), (8, 8, 3)),
        "resnet": (ResNet(), (8, 8, 3)),
        "grouped": (Grouped(), (7, 7, 4)),
    }[name]
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(12, *shape)), jnp.float32)  # signed: a zero point
    params = jax.jit(model.init)(jax.random.key(0), images[:1])
    network = capture(model.apply, params, images[:2])
    weights = extract_matrices(network, params)
    statistics = calibration.calibrate(network, params, weights, images)
    options = PlanOptions(levels=4, min_keep=0.2)
    blocks = schemes.build_blocks(network.layers, "column_vector", accelerator)
    planned = plan.build_plan(weights, statistics, blocks, options)
    count = len(network.layers)
    choices = [(0, 4), (1, 9), (1, 9)]  # all of 1 to 8 bits
    if searched:
        most = accelerator.adc_resolution
        choices.append((most - 2, most + 1))
    policy = Policy(*(jnp.asarray(rng.integers(*ends, count), jnp.int32) for ends in choices))
    compressed = jax.jit(
        lambda policy: compress(
            network,
            params,
            planned,
            statistics,
            images,
            converters.get_cells(accelerator),
            Recovery(),
            policy,
        )
    )(policy)
    maps, scales = [], []
    masks = plan.expand_weight_masks(planned, policy)
    for at, (layer, one, mask) in enumerate(zip(network.layers, compressed, masks, strict=True)):
        bits = int(policy.weight_bits[at]), int(policy.input_bits[at])
        levels = np.asarray(one.levels, np.int32)
        placed = mapping.map_layer(
            layer, levels, np.asarray(mask), *bits, "column_vector", accelerator
        )
        stops = int(policy.adc_bits[at]) if searched else 0
        maps.append(placed._replace(adc_bits=stops))
        scales.append(Scales(*(np.asarray(getattr(one, n)) for n in Scales._fields)))
    found = Mapping(accelerator, "column_vector", tuple(maps), tuple(scales), {})
    return network, params, compressed, found, images


def rewritten(path: pathlib.Path, change: Any, seal: bool = True) -> None:
    """Changes tensors and metadata of a file; its hash is made to fit where `seal`."""
    with safetensors.safe_open(path, framework="np") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    if seal:
        metadata["sha256"] = pytrees.compute_digest(tensors, metadata.get("description", ""))
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
