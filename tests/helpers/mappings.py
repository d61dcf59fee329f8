"""Layers, networks and mappings that the tests of the mapping share."""

import functools
import math
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from apq_jax import mapping
from apq_jax.compression import converters
from apq_jax.compression.calibration import LayerStatistics, Statistics
from apq_jax.compression.compressed import Compressed, quantize
from apq_jax.compression.plan import LayerPlan, Plan
from apq_jax.compression.pruning import Block, expand_mask
from apq_jax.compression.quantization import quantize_weight
from apq_jax.compression.rounding import MAX_BITS
from apq_jax.hardware import PRESETS, Accelerator
from apq_jax.mapping import LayerMap, Mapping, Scales, datapath
from apq_jax.models.lenet import LeNet5
from apq_jax.network.capture import Network, capture, extract_matrices, forward
from apq_jax.system import pytrees
from apq_jax.types import Layer, Policy

PROPERTY = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


def integers(layer: Layer, mask: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """Levels over the whole range of the bits; never 0 at one bit."""
    shape = layer.groups, layer.rows, layer.columns
    max_level = max(2 ** (bits - 1) - 1, 1)
    levels = np.random.default_rng(seed).integers(-max_level, max_level + 1, shape)
    return np.where(levels == 0, 1, levels) * mask if bits == 1 else levels * mask


def executed(
    layer_map: LayerMap, accelerator: Accelerator, levels: np.ndarray, bits: int = 0
) -> Any:
    path, banks = datapath.build_parts((layer_map,), accelerator)[0]
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


class Planned(NamedTuple):
    """A network with its Plan and statistics."""

    network: Network
    params: Any
    images: np.ndarray
    plan: Plan
    statistics: Statistics


@functools.cache
def make_planned(name: str, height: int) -> Planned:
    """The Plan's weights are the network's, its masks are drawn, and inputs have their ranges.

    To fit a Plan to data would compile a program for each layer, and no test here needs a fit.
    """
    model, shape = {
        "lenet": (LeNet5(10), (28, 28, 1)),
        "vgg": (Vgg(), (8, 8, 3)),
        "resnet": (ResNet(), (8, 8, 3)),
        "grouped": (Grouped(), (7, 7, 4)),
    }[name]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, *shape)).astype(np.float32)  # signed: a zero point
    params = jax.jit(model.init)(jax.random.key(0), images[:1])
    network = capture(model.apply, params, images[:2])
    weights = extract_matrices(network, params)

    @jax.jit
    def measure_ranges(params: Any, images: jax.Array) -> dict[int, tuple[jax.Array, jax.Array]]:
        ranges = {}

        def observe(index: int, product: Any, x: jax.Array, _: jax.Array) -> jax.Array:
            ranges[index] = x.min(), x.max()
            return product.fold(product.convolve(x, weights[index]))

        forward(network, params, images, observe)
        return ranges

    ranges = jax.device_get(measure_ranges(params, images))
    keep, bits = np.geomspace(1.0, 0.2, 4), np.arange(1, 9)
    layers, statistics = [], []
    for index, w in enumerate(np.asarray(w) for w in weights):
        groups, rows, columns = w.shape
        block = Block(height)
        shape = groups, *block.count(rows, columns)
        rank = rng.permutation(math.prod(shape)).reshape(shape)
        mask = rank < np.maximum(np.round(keep * rank.size), 1)[:, None, None, None]
        masked = w * expand_mask(mask, block, rows, columns)
        limits = np.maximum(2 ** (bits - 1) - 1, 1)[:, None, None]
        scale = np.tile(np.abs(w).max(axis=1) / limits, (len(keep), 1, 1, 1))
        kept, few = expand_mask(mask, block, rows, columns), bits[:MAX_BITS]
        round_all = jax.vmap(jax.vmap(quantize_weight, (None, None, 0, 0)), (0, 0, 0, None))
        levels = round_all(masked, kept, scale[:, :MAX_BITS], few).astype(np.int8)
        layers.append(LayerPlan(masked, levels, mask, scale, keep, None, block))
        low, high = np.minimum(ranges[index][0], 0), np.maximum(ranges[index][1], 0)
        steps = (high - low) / (2**bits - 1)
        zeros = np.round(-low / steps)
        statistics.append(LayerStatistics(None, None, None, None, steps, zeros, None))
    arrays = jax.tree.map(
        lambda x: x.astype(np.float32) if x.dtype == float else x,
        (tuple(layers), tuple(statistics)),
    )
    return Planned(network, params, images, *arrays)


@functools.cache
def built(
    name: str, accelerator: Accelerator = PRESETS["isaac_ou"], searched: bool = False
) -> tuple[Network, Any, Compressed, Mapping, np.ndarray]:
    """Compressed at random, the converters' bits too where they are searched; and its mapping."""
    network, params, images, layers, statistics = make_planned(name, accelerator.unit_rows)
    rng, count = np.random.default_rng(85), len(network.layers)
    levels = rng.integers(0, 4, count, np.int32)
    bits = [rng.permutation(8).astype(np.int32)[:count] + 1 for _ in range(2)]
    stops = accelerator.adc_resolution - rng.integers(0, 3, count, np.int32)
    policy = Policy(levels, *bits, stops if searched else None)
    cells = converters.get_cells(accelerator)
    compressed = jax.jit(quantize, static_argnums=2)(layers, statistics, cells, policy)
    maps, scales = [], []
    for index, (layer, part) in enumerate(zip(network.layers, compressed, strict=True)):
        mask = layers[index].mask[levels[index]]
        mask = expand_mask(mask, layers[index].block, layer.rows, layer.columns)
        integer = np.asarray(part.levels, np.int32)
        both = (int(chosen[index]) for chosen in bits)
        placed = mapping.map_layer(layer, integer, mask, *both, "column_vector", accelerator)
        maps.append(placed._replace(adc_bits=int(stops[index]) if searched else 0))
        scales.append(Scales(*(np.asarray(getattr(part, n)) for n in Scales._fields)))
    whole = Mapping(accelerator, "column_vector", tuple(maps), tuple(scales), {})
    return network, params, compressed, whole, images


def rewritten(path: pathlib.Path, change: Any, seal: bool = True) -> None:
    """Changes tensors and metadata of a file; its hash is made to fit where `seal`."""
    with safetensors.safe_open(path, framework="np") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    if seal:
        metadata["sha256"] = pytrees.compute_digest(tensors, metadata.get("description", ""))
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
