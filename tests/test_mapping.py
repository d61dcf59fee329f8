"""Mappings and the data path that executes them: exact, counted, checked, and able to fail."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from apq_jax import crossbar, mapping
from apq_jax.compression import calibration, converters, plan
from apq_jax.compression.compressed import Compressed, apply, compress
from apq_jax.compression.options import PlanOptions, Recovery
from apq_jax.hardware import PRESETS, Accelerator
from apq_jax.mapping import LayerMap, Mapping, Scales, datapath, files, schemes
from apq_jax.mapping.__main__ import main
from apq_jax.mapping.datapath import Converter
from apq_jax.mapping.units import NONE, read_cells
from apq_jax.models.lenet import LeNet5
from apq_jax.network.capture import Network, capture, extract_matrices
from apq_jax.system.errors import InputError
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
    adc = converters.converter(accelerator, bits or accelerator.lossless_adc_bits)
    return np.asarray(datapath.execute(path, banks, adc, jnp.asarray(levels, jnp.int32)))


def product(layer: Layer, inputs: np.ndarray, levels: np.ndarray) -> np.ndarray:
    grouped = inputs.reshape(len(inputs), layer.groups, layer.rows)
    return np.einsum("mgr,grc->mgc", grouped, levels).reshape(len(inputs), -1)


@PROPERTY
@hypothesis.given(st.data())
def test_the_data_path_is_the_product_bit_for_bit(data: Any) -> None:
    """Random shapes, masks, bits, cells, units that slices do not divide, encodings, schemes."""
    draw = data.draw
    window: tuple[int, ...] = draw(st.sampled_from([(), (2, 2)]))
    rows = draw(st.integers(1, 8)) * 4 if window else draw(st.integers(1, 40))
    layer = Layer("any", draw(st.integers(1, 3)), rows, draw(st.integers(1, 13)), 3, window, window)
    signed = draw(st.sampled_from(["offset", "differential"]))
    accelerator = Accelerator(
        crossbar_rows=draw(st.integers(8, 40)),
        crossbar_columns=draw(st.integers(8, 40)),
        unit_rows=draw(st.integers(1, 8)),
        unit_columns=draw(st.integers(1, 8)),
        cell_bits=draw(st.integers(1, 4)),
        dac_bits=draw(st.integers(1, 3)),
        signed=signed,
        flipped_columns=draw(st.booleans()) if signed == "offset" else False,
    )
    scheme = draw(st.sampled_from(mapping.MAPPED_SCHEMES))
    bits, input_bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(layer.groups, layer.rows, layer.columns))
    keep = draw(st.sampled_from([1.0, 0.5, 0.1]))
    mask = schemes.prune_blocks(layer, weights, scheme, keep, accelerator)
    levels = integers(layer, mask, bits, seed)
    arguments = (layer, levels, mask, bits, input_bits, scheme, accelerator)
    # Units of `sre` are wider at one bit than the blocks of its mask, and hold pruned weights.
    hypothesis.assume(not (bits == 1 and signed == "offset" and scheme == "sre"))
    found = mapping.map_layer(*arguments)
    inputs = rng.integers(0, 2**input_bits, (5, layer.groups * layer.rows))
    inputs[0], inputs[1] = 0, 2**input_bits - 1
    np.testing.assert_array_equal(
        executed(found, accelerator, inputs), product(layer, inputs, levels)
    )
    counts = schemes.count_packing((layer,), [mask], np.asarray([bits]), scheme, accelerator)
    for name, value in mapping.count_layer_map(found, scheme, accelerator).items():
        assert value == getattr(counts, name).item(), name
    # A unit's largest sum goes through its converters unharmed.
    high = read_cells(found).astype(int).sum(axis=1) * (2**accelerator.dac_bits - 1)
    assert high.max(initial=0) <= 2**accelerator.lossless_adc_bits - 1


CONV = Layer("conv", 1, 27, 6, 10, (3, 3), (1, 1))
SMALL = Accelerator(crossbar_rows=20, crossbar_columns=12, unit_rows=9, unit_columns=4)


def mapped(scheme: str = "column_vector", bits: int = 4) -> tuple[LayerMap, np.ndarray]:
    rng = np.random.default_rng(3)
    mask = schemes.prune_blocks(CONV, rng.normal(size=(1, 27, 6)), scheme, 0.6, SMALL)
    levels = integers(CONV, mask, bits, 4)
    return mapping.map_layer(CONV, levels, mask, bits, 5, scheme, SMALL), levels


def test_a_packing_by_hand() -> None:
    """Two row groups of two rows; 2-bit cells, 4-bit weights, units of 2 x 3: slices straddle."""
    one = Accelerator(crossbar_rows=4, crossbar_columns=6, unit_rows=2, unit_columns=3)
    layer = Layer("tiny", 1, 3, 4, 1, (), ())
    levels = np.asarray([[[1, 0, -7, 0], [2, 0, 3, 0], [0, -5, 0, 0]]])
    mask = np.asarray([[[1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 0]]], bool)
    found = mapping.map_layer(layer, levels, mask, 4, 8, "column_vector", one)
    assert found.banks.tolist() == [[0, 1], [2, NONE]]
    units = found.units
    assert units.bank.tolist() == [0, 0, 1]
    assert units.outputs.tolist() == [[0, 0, 2], [2, NONE, NONE], [1, 1, NONE]]
    assert units.slices.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    # Stored are w + 8: 9 = 2 x 4 + 1, 10 = 2 x 4 + 2; 1, 11 = 2 x 4 + 3; 3.
    assert read_cells(found).tolist() == [
        [[1, 2, 1], [2, 2, 3]],
        [[0, 0, 0], [2, 0, 0]],
        [[3, 0, 0], [0, 0, 0]],
    ]
    # Two slots down, two across, in one crossbar: all three units in turn.
    places = zip(units.crossbar, units.wordline, units.bitline, strict=True)
    assert [tuple(map(int, place)) for place in places] == [(0, 0, 0), (0, 0, 3), (0, 2, 0)]
    inputs = np.asarray([[1, 2, 3], [255, 0, 255]])
    np.testing.assert_array_equal(executed(found, one, inputs), inputs @ levels[0])


def test_groups_that_a_unit_covers_are_one_read(tmp_path: pathlib.Path) -> None:
    """Four groups of 4 x 2, 2 slices: units of 9 x 8 hold two; the file keeps that."""
    one = dataclasses.replace(SMALL, unit_columns=8)
    layer = Layer("grouped", 4, 4, 2, 10, (2, 2), (1, 1))
    mask = np.ones((4, 4, 2), bool)
    levels = integers(layer, mask, 4, 0)
    found = mapping.map_layer(layer, levels, mask, 4, 5, "dense", one)
    assert found.units.read.tolist() == [0, 0, 1, 2]  # 12 bitlines hold three groups
    assert found.units.crossbar.tolist() == [0, 0, 0, 1]
    assert mapping.count_layer_map(found, "dense", one)["units"] == 3
    inputs = np.random.default_rng(0).integers(0, 32, (20, 16))
    np.testing.assert_array_equal(executed(found, one, inputs), product(layer, inputs, levels))
    scale = np.ones((4, 2), np.float32)
    scales = Scales(scale, np.float32(1), np.float32(0), scale, scale)
    mapping.save(tmp_path / "m.safetensors", Mapping(one, "dense", (found,), (scales,), {}))
    again = mapping.load(tmp_path / "m.safetensors").maps[0]
    np.testing.assert_array_equal(again.units.read, found.units.read)
    # Three at once are larger than a unit.
    rewritten(
        tmp_path / "m.safetensors",
        lambda tensors, metadata: tensors.update({"0/read": np.asarray([0, 0, 0, 1], np.int32)}),
    )
    with pytest.raises(InputError, match="layer 0: read: 12 wordlines; allowed: up to 9"):
        mapping.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("scheme", ["column_vector", "dense", "sre", "pim_prune"])
@pytest.mark.parametrize("what", ["cell", "input", "output", "slice"])
def test_one_wrong_entry_is_seen(scheme: str, what: str) -> None:
    found, levels = mapped(scheme)
    inputs = np.random.default_rng(0).integers(1, 32, (50, 27))
    expected = product(CONV, inputs, levels)
    np.testing.assert_array_equal(executed(found, SMALL, inputs), expected)
    units, cells, banks = found.units, found.cells.copy(), found.banks.copy()
    outputs, slices = units.outputs.copy(), units.slices.copy()
    if what == "cell":
        cells[units.crossbar[0], units.wordline[0], units.bitline[0]] ^= 1
    elif what == "input":
        banks[0, 0] = (banks[0, 0] + 9) % 27
    elif what == "output":
        outputs[0, 0] = (outputs[0, 0] + 1) % 6
    else:
        slices[0, 0] ^= 1
    wrong = found._replace(
        cells=cells, banks=banks, units=units._replace(outputs=outputs, slices=slices)
    )
    assert (executed(wrong, SMALL, inputs) != expected).any()


@PROPERTY
@hypothesis.given(st.data())
def test_the_index_can_be_read_back(data: Any) -> None:
    """Its length is the index bits that are charged; what it gives back are the units."""
    draw = data.draw
    layer = Layer(
        "any",
        draw(st.integers(1, 3)),
        draw(st.integers(1, 30)),
        draw(st.integers(1, 20)),
        3,
        (),
        (),
    )
    accelerator = Accelerator(
        crossbar_rows=32,
        crossbar_columns=32,
        unit_rows=draw(st.integers(1, 9)),
        unit_columns=draw(st.integers(1, 9)),
        flipped_columns=draw(st.booleans()),
    )
    bits, seed = draw(st.integers(1, 8)), draw(st.integers(0, 2**32 - 1))
    weights = np.random.default_rng(seed).normal(size=(layer.groups, layer.rows, layer.columns))
    keep = draw(st.sampled_from([1.0, 0.5, 0.05]))
    mask = schemes.prune_blocks(layer, weights, "column_vector", keep, accelerator)
    levels = integers(layer, mask, bits, seed)
    found = mapping.map_layer(layer, levels, mask, bits, 8, "column_vector", accelerator)
    index = mapping.encode(found, accelerator)
    counts = schemes.count_packing(
        (layer,), [mask], np.asarray([bits]), "column_vector", accelerator
    )
    assert len(index) == counts.index_bits.item()
    again = mapping.decode(index, layer, bits, accelerator)
    units = found.units
    for one, expected in zip(
        again, (units.bank, units.outputs, units.slices, units.flipped), strict=True
    ):
        np.testing.assert_array_equal(one, expected)
    for wrong in (index[:-1], np.append(index, True)):
        with pytest.raises(ValueError, match=r"index of|input indices"):
            mapping.decode(wrong, layer, bits, accelerator)


def test_an_index_by_hand() -> None:
    """Two row groups of two rows and 7 columns: lists are shorter than a bitmap of 14 bits."""
    one = Accelerator(crossbar_rows=4, crossbar_columns=6, unit_rows=2, unit_columns=3)
    layer = Layer("tiny", 1, 4, 7, 1, (), ())
    mask = np.zeros((1, 4, 7), bool)
    mask[0, :2, 5] = True
    found = mapping.map_layer(layer, mask.astype(int), mask, 4, 8, "column_vector", one)
    index = mapping.encode(found, one)
    # A list; one survivor, the sixth column; none in the second group; the unit reads the first.
    assert "".join("01"[int(bit)] for bit in index) == "0" + "001" + "101" + "000" + "0"


@pytest.mark.parametrize("dac_bits", [1, 3])
@pytest.mark.parametrize("signed", ["offset", "differential"])
@pytest.mark.parametrize("scheme", ["column_vector", "dense", "sre", "pim_prune"])
def test_actions_of_executing_are_those_that_cost(scheme: str, signed: str, dac_bits: int) -> None:
    flipped = signed == "offset" and scheme == "dense"
    one = dataclasses.replace(
        SMALL, signed=signed, dac_bits=dac_bits, flipped_columns=flipped, unit_columns=5
    )
    rng = np.random.default_rng(3)
    mask = schemes.prune_blocks(CONV, rng.normal(size=(1, 27, 6)), scheme, 0.6, one)
    found = mapping.map_layer(CONV, integers(CONV, mask, 5, 4), mask, 5, 7, scheme, one)
    counts = schemes.count_packing((CONV,), [mask], np.asarray([5]), scheme, one)
    expected = crossbar.count_actions((CONV,), counts, one.chip(), np.asarray([7]))
    done = datapath.count_performed_actions(found, one)
    assert set(expected) - set(done) == {
        *("output_scale", "index_memory", "edram", "bus", "router")
    }  # fmt: skip
    assert done == {name: expected[name].item() for name in done}


def test_levels_that_no_cell_can_hold_are_refused() -> None:
    mask = np.ones((1, 27, 6), bool)
    for wrong in (np.full((1, 27, 6), 8), np.full((1, 27, 6), -8), np.full((1, 27, 6), 0.6)):
        with pytest.raises(ValueError, match=r"levels: .*; allowed: whole numbers, -7 to 7"):
            mapping.map_layer(CONV, wrong, mask, 4, 4, "dense", SMALL)
    mask[0, 3] = False
    with pytest.raises(ValueError, match="not 0 outside the mask"):
        mapping.map_layer(CONV, np.ones((1, 27, 6), int), mask, 4, 4, "pim_prune", SMALL)
    tall = Layer("tall", 1, 70_000, 1, 1, (), ())
    many = np.ones((1, 70_000, 1), int)
    with pytest.raises(ValueError, match=r"sums could pass 2\^31"):
        mapping.map_layer(tall, many, many.astype(bool), 8, 8, "dense", SMALL)


@pytest.mark.parametrize("scheme", sorted(set(mapping.MAPPED_SCHEMES) - {"dense"}))
def test_nothing_left(scheme: str) -> None:
    none = np.zeros((1, 27, 6), bool)
    found = mapping.map_layer(CONV, none.astype(int), none, 4, 5, scheme, SMALL)
    assert not executed(found, SMALL, np.ones((3, 27))).any()
    counts = schemes.count_packing((CONV,), [none], np.asarray([4]), scheme, SMALL)
    for name, value in mapping.count_layer_map(found, scheme, SMALL).items():
        assert value == getattr(counts, name).item(), name


def test_one_bit_offset_weights_have_no_zero() -> None:
    mask = np.ones((1, 27, 6), bool)
    levels = integers(CONV, mask, 1, 0)
    levels[0, 3, 2] = 0
    with pytest.raises(ValueError, match="a weight of 0 has no cell"):
        mapping.map_layer(CONV, levels, mask, 1, 4, "dense", SMALL)
    pairs = dataclasses.replace(SMALL, signed="differential")
    found = mapping.map_layer(CONV, levels, mask, 1, 4, "dense", pairs)
    inputs = np.random.default_rng(0).integers(0, 16, (5, 27))
    np.testing.assert_array_equal(executed(found, pairs, inputs), product(CONV, inputs, levels))


def test_what_has_no_image_is_refused() -> None:
    mask = np.ones((1, 27, 6), bool)
    for scheme, one in (
        ("sre_weights", SMALL),
        ("dense", dataclasses.replace(SMALL, mapping="mnsim")),
    ):
        with pytest.raises(ValueError, match="has no image; allowed: dense"):
            mapping.map_layer(CONV, integers(CONV, mask, 4, 0), mask, 4, 4, scheme, one)


# --- converters ----------------------------------------------------------------------------------


def test_converters_round_and_clip() -> None:
    """Lossless 5 bits; at 3 a step is 4 and the largest code 7."""
    one = PRESETS["isaac_ou"]
    sums = jnp.asarray([0.0, 1.0, 2.0, 3.0, 6.0, 10.0, 27.0])
    lossless = converters.converter(one)
    np.testing.assert_array_equal(converters.convert(lossless, sums), sums)
    three = converters.converter(one, 3)
    assert (float(three.step), float(three.top)) == (4.0, 7.0)
    np.testing.assert_array_equal(converters.convert(three, sums), [0, 0, 0, 4, 8, 8, 28])
    assert float(converters.convert(three, jnp.asarray(40.0))) == 28.0
    assert converters.converter(dataclasses.replace(one, adc_bits=3)) == three
    assert isinstance(three, Converter)


def test_fewer_bits_lose_something() -> None:
    found, levels = mapped()
    inputs = np.random.default_rng(0).integers(0, 32, (50, 27))
    expected = product(CONV, inputs, levels)
    errors = [
        np.abs(executed(found, SMALL, inputs, bits) - expected).mean() for bits in (5, 4, 3, 2)
    ]
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert errors[-1] > 0


# --- whole networks ------------------------------------------------------------------------------


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
            converters.cells_of(accelerator),
            Recovery(),
            policy,
        )
    )(policy)
    maps, scales = [], []
    masks = plan.weight_masks(planned, policy)
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


@pytest.mark.parametrize("name", ["lenet", "vgg", "resnet"])
def test_every_layer_of_a_network_bit_for_bit(name: str) -> None:
    network, params, compressed, found, images = built(name)
    parts = datapath.build_parts(found.maps, found.accelerator)
    checks = datapath.check_layers(
        network, params, compressed, parts, found.accelerator, images[:4]
    )
    assert len(checks) == len(network.layers)
    for layer, one in zip(network.layers, checks, strict=True):
        assert one.mismatches == 0, layer
        windows = 4 * layer.positions + 64
        assert one.compared == windows * layer.groups * layer.columns
    logits = datapath.apply(
        network, params, compressed, parts, converters.converter(found.accelerator), images
    )
    expected = apply(network, params, compressed, images)
    np.testing.assert_array_equal(logits.argmax(axis=-1), expected.argmax(axis=-1))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    whole = datapath.compare_end_to_end(
        network, params, compressed, parts, found.accelerator, images[:4]
    )
    assert (whole.same_class, whole.images) == (4, 4)
    assert whole.levels == sum(
        4 * layer.positions * layer.groups * layer.rows for layer in network.layers
    )
    assert whole.levels_differ <= 1e-3 * whole.levels


LOSSY = {
    "offset": dataclasses.replace(PRESETS["isaac_ou"], dac_bits=2),
    "flipped": dataclasses.replace(PRESETS["isaac_ou"], flipped_columns=True),
    "pairs": dataclasses.replace(PRESETS["isaac_ou"], signed="differential", cell_bits=1),
    "bytes": dataclasses.replace(PRESETS["isaac_ou"], dac_bits=8),
}


@pytest.mark.parametrize("held", LOSSY)
def test_what_converters_lose_is_what_the_data_path_loses(held: str) -> None:
    """Evaluated without packing, executed unit by unit: the same, bit for bit."""
    network, params, compressed, found, images = built("grouped", LOSSY[held], searched=True)
    parts = datapath.build_parts(found.maps, found.accelerator)
    for one in datapath.check_layers(
        network, params, compressed, parts, found.accelerator, images[:2]
    ):
        assert one.mismatches == 0
    lossless = tuple(layer._replace(reading=None) for layer in compressed)
    parts = datapath.build_parts(tuple(one._replace(adc_bits=0) for one in found.maps), LOSSY[held])
    checks = datapath.check_layers(network, params, lossless, parts, found.accelerator, images[:2])
    assert sum(one.mismatches for one in checks) == 0
    kept = apply(network, params, lossless, images)
    assert not np.allclose(apply(network, params, compressed, images), kept, atol=1e-3)


def test_an_accelerator_of_few_bits_is_evaluated_as_it_executes() -> None:
    three = dataclasses.replace(PRESETS["isaac_ou"], adc_bits=3)
    network, params, compressed, found, images = built("grouped", three)
    parts = datapath.build_parts(found.maps, three)
    executed = datapath.apply(
        network, params, compressed, parts, converters.converter(three), images
    )
    expected = apply(network, params, compressed, images)
    np.testing.assert_allclose(executed, expected, rtol=1e-4, atol=1e-4)


def test_what_a_converter_loses_by_hand() -> None:
    """One unit of 3 wordlines, 2-bit weights in offset cells, 1-bit inputs, a step of 2.

    Cells are w + 2: 3, 1, 2. Inputs 1, 1, 0 read 4, a code; 1, 1, 1 read 6, a code; 0, 1, 0 read
    1, half way between two, to the even code 0: the sum is one short.
    """
    cells = converters.Cells(3, 2, 1, False, False, lossless_bits=4, resolution=3)
    reading = converters.Reading(cells, jnp.ones((1, 1, 1), bool), jnp.asarray(2), jnp.asarray(3))
    levels = jnp.asarray([[[1], [-1], [0]]], jnp.int8)
    inputs = jnp.asarray([[[1, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 0]]])
    lost = converters.lost(reading, levels, inputs, jnp.asarray(1))
    np.testing.assert_array_equal(lost, [[[0], [0], [-1], [0]]])
    gone = reading._replace(survivors=jnp.zeros((1, 1, 1), bool))
    assert not converters.lost(gone, levels, inputs, jnp.asarray(1)).any()


def test_a_check_that_fails_says_where() -> None:
    network, params, compressed, found, images = built("vgg")
    maps = list(found.maps)
    cells = maps[2].cells.copy()
    place = np.argwhere(cells > 0)[0]
    cells[tuple(place)] -= 1
    maps[2] = maps[2]._replace(cells=cells)
    parts = datapath.build_parts(tuple(maps), found.accelerator)
    checks = datapath.check_layers(network, params, compressed, parts, found.accelerator, images)
    assert [one.mismatches > 0 for one in checks] == [False, False, True, False, False, False]


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    _, _, _, found, _ = built("resnet")
    columns = np.arange(6, dtype=np.dtype(">i4")).reshape(2, 3).T  # neither order is the file's
    digital = {"params/Dense_0/bias": np.arange(5.0, dtype=np.float32), "columns": columns}
    mapping.save(tmp_path / "one.safetensors", found._replace(digital=digital))
    return tmp_path / "one.safetensors"


def test_a_round_trip_is_the_identity(path: pathlib.Path) -> None:
    found, expected = mapping.load(path), built("resnet")[3]
    assert found.accelerator == expected.accelerator
    assert found.scheme == "column_vector"
    for one, other in zip(found.maps, expected.maps, strict=True):
        assert one[:3] == other[:3]
        jax.tree.map(np.testing.assert_array_equal, one[3:], other[3:])
    jax.tree.map(np.testing.assert_array_equal, found.scales, expected.scales)
    assert sorted(found.digital) == ["columns", "params/Dense_0/bias"]
    np.testing.assert_array_equal(found.digital["columns"], [[0, 3], [1, 4], [2, 5]])


def test_a_file_that_was_read_is_executed(path: pathlib.Path) -> None:
    """Its cells, indices and scales alone, on the levels of random windows."""
    found = mapping.load(path)
    compressed = built("resnet")[2]
    for one, scales, layer in zip(found.maps, found.scales, compressed, strict=True):
        inputs = np.random.default_rng(0).integers(
            0, 2**one.input_bits, (3, one.layer.groups * one.layer.rows)
        )
        sums = executed(one, found.accelerator, inputs).reshape(3, one.layer.groups, -1)
        levels = np.asarray(layer.levels, np.int64)
        expected = product(one.layer, inputs, levels).reshape(sums.shape)
        np.testing.assert_array_equal(
            scales.multiplier * sums + scales.offset,
            np.asarray(layer.multiplier) * expected + np.asarray(layer.offset),
        )


def test_the_hash_by_hand(path: pathlib.Path) -> None:
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = metadata["description"].encode()
    for name in sorted(tensors):
        value = tensors[name]
        text += f";{name}{value.shape}{value.dtype}".encode() + value.tobytes()
    assert metadata["sha256"] == hashlib.sha256(text).hexdigest()


def test_files_are_written_whole(path: pathlib.Path, monkeypatch: Any) -> None:
    before, found = path.read_bytes(), mapping.load(path)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="cannot be written"):
        mapping.save(path, found._replace(digital={}))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_could_not_be_read_is_not_written(tmp_path: pathlib.Path) -> None:
    found = built("resnet")[3]
    wrong = found.scales[0]._replace(offset=np.full_like(found.scales[0].offset, np.nan))
    with pytest.raises(InputError, match="layer 0: offset: NaN"):
        mapping.save(tmp_path / "x", found._replace(scales=(wrong, *found.scales[1:])))
    assert not (tmp_path / "x").exists()


def rewritten(path: pathlib.Path, change: Any, seal: bool = True) -> None:
    """Changes tensors and metadata of a file; its hash is made to fit where `seal`."""
    with safetensors.safe_open(path, framework="np") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    if seal:
        metadata["sha256"] = files._digest(metadata.get("description", ""), tensors)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


def described(**changes: Any) -> Any:
    def change(tensors: Any, metadata: dict[str, str]) -> None:
        tree = json.loads(metadata["description"])
        for name, value in changes.items():
            if name in tree:
                tree[name] = value
            else:
                tree["layers"][0][name] = value
        metadata["description"] = json.dumps(tree)

    return change


def put(name: str, place: Any, value: Any) -> Any:
    def change(tensors: dict[str, np.ndarray], metadata: Any) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][place] = value

    return change


def drop(name: str) -> Any:
    return lambda tensors, metadata: tensors.pop(name)


def other_group(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    found = tensors["1/outputs"]
    tensors["1/outputs"] = np.where(found == NONE, NONE, (found + 2) % 4).astype(np.int32)


def lost_slice(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    unit = int((tensors["0/outputs"] != NONE).any(axis=1).argmax())
    last = int((tensors["0/outputs"][unit] != NONE).sum()) - 1
    tensors["0/outputs"] = tensors["0/outputs"].copy()
    tensors["0/outputs"][unit, last] = NONE


def same_rows(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    tensors["0/banks"] = np.repeat(tensors["0/banks"][:1], len(tensors["0/banks"]), axis=0)


def several_groups(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    tensors["1/banks"] = tensors["1/banks"].copy()
    tensors["1/banks"][0, 0] = tensors["1/banks"].max()


def idle_crossbar(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    cells = tensors["0/cells"]
    tensors["0/cells"] = np.concatenate([cells, np.zeros_like(cells[:1])])


def together(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    tensors["0/read"] = np.zeros_like(tensors["0/read"])


def overlap(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    for name in ("crossbar", "wordline", "bitline"):
        tensors[f"0/{name}"] = tensors[f"0/{name}"].copy()
        tensors[f"0/{name}"][1] = tensors[f"0/{name}"][0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, m: m.update(format="gif"), "format: 'gif'; allowed: 'apq_jax mapping'"),
        (lambda t, m: m.update(version="2"), "version: '2'; allowed: 1"),
        (lambda t, m: m.update(note="hello"), "metadata: other keys; allowed: description"),
        (lambda t, m: m.update(description='{"a": 1, "a": 2}'), "description: is not JSON"),
        (lambda t, m: m.update(description="{"), "description: is not JSON"),
        (lambda t, m: m.update(description="[" * 10**5), "description: is not JSON"),
        (lambda t, m: m.update(description="[]"), "description: other fields; allowed: acc"),
        (described(accelerator=3), "accelerator: not text"),
        (described(accelerator="unit_rows = 0"), "accelerator: unit_rows: 0; allowed"),
        (described(accelerator="a." * 5000 + "a = 1"), "accelerator: is "),
        (described(accelerator='"a\\nb" = 1'), "accelerator: 'a\\nb': unknown"),
        (described(accelerator="mapping = 'mnsim'"), "accelerator.mapping: mnsim; allowed: isaac"),
        (described(scheme="sre_weights"), "scheme: 'sre_weights'; allowed: dense"),
        (described(scheme=["dense"]), "scheme: ['dense']; allowed: dense"),
        (described(layers=[]), "layers: none; allowed"),
        (described(layers=[3] * 7), "layer 0: fields"),
        (described(layers=[0] * 10**5), "layers: 100000; allowed: up to 7, for so many arrays"),
        (described(rows=0), "layer 0: rows: 0; allowed: a whole number"),
        (described(rows=True), "layer 0: rows: True; allowed: a whole number"),
        (described(columns=10**30), "layer 0: columns: 1000000"),
        (described(columns=5), "layer 0: weight_scale: shape (1, 4); allowed: shape (1, 5)"),
        (described(weight_bits=9), "layer 0: weight_bits: 9; allowed: a whole number, 1 to 8"),
        (described(kernel="3x3"), "layer 0: kernel: '3x3'; allowed: a list"),
        (described(kernel=[2**24] * 8), "layer 0: kernel: [16777216, "),
        (described(kernel=[7, 7]), "layer 0: kernel: [7, 7]; allowed: a window that divides 27"),
        (described(stride=[1]), "layer 0: stride: [1]; allowed: as many numbers"),
        (
            described(rows=27 * 2**13, weight_bits=8, input_bits=8),
            "layer 0: rows: 221184; allowed: so few that sums stay",
        ),
        (described(name="a\n\x1b[31m"), "layer 0: name: 'a\\n\\x1b[31m'; allowed: printable"),
        (described(name="\ud800"), "layer 0: name: "),
        (lambda t, m: t.update({"a\nb\x1b[2J": np.zeros(3)}), "a b\\x1b[2J: unknown"),
        (
            lambda t, m: t.update({"digital/b": np.zeros(1, ml_dtypes.float8_e5m2)}),
            "not a safetensors",
        ),
        (drop("1/cells"), "1/cells: missing"),
        (lambda t, m: t.update(extra=np.zeros(3)), "extra: unknown"),
        (lambda t, m: t.update({"digital/b": np.asarray([np.nan])}), "digital/b: NaN"),
        (lambda t, m: t.update({"0/bank": t["0/bank"].astype(np.int64)}), "layer 0: bank: int64"),
        (lambda t, m: t.update({"0/bank": t["0/bank"][:-1]}), "layer 0: read: shape"),
        (lambda t, m: t.update({"0/bank": np.asarray(3, np.int32)}), "layer 0: "),
        (put("0/cells", (0, 0, 0), 4), "layer 0: cells: 4; allowed: 0 to 3"),
        (put("0/cells", (0, 127, 127), 1), "layer 0: cells: not 0 outside the units"),
        (put("0/banks", (0, 0), 10**6), "layer 0: banks: 1000000; allowed: -1 to 26"),
        (put("0/banks", (0, 0), NONE), "layer 0: banks: a gap"),
        (put("0/bank", 0, -1), "layer 0: bank: -1; allowed: 0 to"),
        (put("0/crossbar", 0, 7), "layer 0: crossbar: 7; allowed: 0 to 0"),
        (put("0/read", 0, 1), "layer 0: read: out of order; allowed: 0, 1, .."),
        (put("0/read", 1, 0), "layer 0: read: of units that are not on a diagonal"),
        (together, "layer 0: read: of units that are not on a diagonal; allowed: one"),
        (put("0/wordline", 0, 127), "layer 0: wordline: 136; allowed: inside its crossbar"),
        (put("0/bitline", 0, 127), "layer 0: bitline: "),
        (put("0/outputs", (0, 0), 4), "layer 0: outputs: 4; allowed: -1 to 3"),
        (other_group, "layer 1: outputs: of another group"),
        (put("0/slices", (0, 0), 200), "layer 0: slices: 200; allowed: 0 to"),
        (put("0/flipped", (0, 0), 1), "layer 0: flipped: 1; allowed: 0 to 0"),
        (put("0/slices", (0, 1), 0), "layer 0: slices: held twice; allowed: once each"),
        (lost_slice, "layer 0: slices: missing of a weight; allowed: all"),
        (same_rows, "layer 0: banks: a row held twice for an output; allowed: once"),
        (several_groups, "layer 1: banks: inputs of several groups; allowed: of one"),
        (idle_crossbar, "layer 0: cells: a crossbar without units; allowed: none"),
        (put("0/input_scale", (), -1), "layer 0: input_scale: -1.0; allowed: above 0"),
        (put("0/weight_scale", (0, 0), 0), "layer 0: weight_scale: not positive"),
        (put("0/multiplier", (0, 0), np.inf), "layer 0: multiplier: NaN or infinity"),
        (put("0/input_zero", (), 0.5), "layer 0: input_zero: 0.5; allowed: a whole number"),
        (overlap, "layer 0: units: two on one cell"),
    ],
)
def test_hostile_files_are_one_line(
    change: Any, says: str, path: pathlib.Path, capsys: Any
) -> None:
    rewritten(path, change)
    assert main(["inspect", str(path)]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert printed.startswith(f"apq_jax.mapping: {path}: {says}"), printed


def test_changed_contents_are_seen_by_the_hash(path: pathlib.Path) -> None:
    """A cell of a unit, within its range: nothing else could tell."""
    found = mapping.load(path).maps[0]
    unit = found.units
    place = unit.crossbar[0], unit.wordline[0], unit.bitline[0]
    rewritten(path, put("0/cells", place, found.cells[place] ^ 1), seal=False)
    with pytest.raises(InputError, match="sha256: not that of the contents"):
        mapping.load(path)


@pytest.mark.parametrize("content", [b"", b"no", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"{" * 16])
def test_files_that_are_something_else(content: bytes, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.safetensors: not a safetensors file"):
        mapping.load(path)
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read"):
        mapping.load(tmp_path / "none.safetensors")


def test_truncated_files(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="not a safetensors file"):
        mapping.load(path)


def test_inspect_prints_and_draws(path: pathlib.Path, capsys: Any) -> None:
    assert main(["inspect", str(path), "--layer", "1"]) == 0
    printed = capsys.readouterr().out
    found = mapping.load(path)
    lines = printed.splitlines()[2:]
    for line, one in zip(lines, found.maps, strict=False):
        counts = mapping.count_layer_map(one, "column_vector", found.accelerator)
        assert line.startswith(one.layer.name)
        assert line.split()[-1] == f"{counts['index_bits']:,}"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rewritten(path, described(name="$\\frac{$"))
    assert main(["inspect", str(path)]) == 0
    assert main(["inspect", str(path), "--layer", "99"]) == 2
    assert "--layer: 99; allowed: 0 to 6" in capsys.readouterr().err
    assert main(["inspect", str(path), "--crossbar", "-1"]) == 2
    assert "--crossbar: -1; allowed: 0 to 0" in capsys.readouterr().err
    before = path.read_bytes()
    assert main(["inspect", str(path), f"--picture={path}"]) == 2
    assert "is the mapping; allowed: another file" in capsys.readouterr().err
    assert path.read_bytes() == before
