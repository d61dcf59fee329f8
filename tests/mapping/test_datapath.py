"""Mappings and the data path that executes them: exact, counted, checked, and able to fail."""

import dataclasses
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.mappings import CONV, PROPERTY, SMALL, built, executed, integers, product

from apq_jax import crossbar, mapping
from apq_jax.compression import converters
from apq_jax.compression.compressed import apply
from apq_jax.hardware import PRESETS, Accelerator
from apq_jax.mapping import LayerMap, datapath, schemes
from apq_jax.mapping.datapath import Converter
from apq_jax.types import Layer


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
    layer_map = mapping.map_layer(*arguments)
    inputs = rng.integers(0, 2**input_bits, (5, layer.groups * layer.rows))
    inputs[0], inputs[1] = 0, 2**input_bits - 1
    np.testing.assert_array_equal(
        executed(layer_map, accelerator, inputs), product(layer, inputs, levels)
    )
    counts = schemes.count_packing((layer,), [mask], np.asarray([bits]), scheme, accelerator)
    for name, value in mapping.count_layer_map(layer_map, scheme, accelerator).items():
        assert value == getattr(counts, name).item(), name
    # A unit's largest sum goes through its converters unharmed.
    high = layer_map.read_cells().astype(int).sum(axis=1) * (2**accelerator.dac_bits - 1)
    assert high.max(initial=0) <= 2**accelerator.lossless_adc_bits - 1


def mapped(scheme: str = "column_vector", bits: int = 4) -> tuple[LayerMap, np.ndarray]:
    rng = np.random.default_rng(3)
    mask = schemes.prune_blocks(CONV, rng.normal(size=(1, 27, 6)), scheme, 0.6, SMALL)
    levels = integers(CONV, mask, bits, 4)
    return mapping.map_layer(CONV, levels, mask, bits, 5, scheme, SMALL), levels


@pytest.mark.parametrize("scheme", ["column_vector", "dense", "sre", "pim_prune"])
@pytest.mark.parametrize("what", ["cell", "input", "output", "slice"])
def test_one_wrong_entry_is_seen(scheme: str, what: str) -> None:
    layer_map, levels = mapped(scheme)
    inputs = np.random.default_rng(0).integers(1, 32, (50, 27))
    expected = product(CONV, inputs, levels)
    np.testing.assert_array_equal(executed(layer_map, SMALL, inputs), expected)
    units, cells, banks = layer_map.units, layer_map.cells.copy(), layer_map.banks.copy()
    outputs, slices = units.outputs.copy(), units.slices.copy()
    if what == "cell":
        cells[units.crossbar[0], units.wordline[0], units.bitline[0]] ^= 1
    elif what == "input":
        banks[0, 0] = (banks[0, 0] + 9) % 27
    elif what == "output":
        outputs[0, 0] = (outputs[0, 0] + 1) % 6
    else:
        slices[0, 0] ^= 1
    wrong = layer_map._replace(
        cells=cells, banks=banks, units=units._replace(outputs=outputs, slices=slices)
    )
    assert (executed(wrong, SMALL, inputs) != expected).any()


@pytest.mark.parametrize("dac_bits", [1, 3])
@pytest.mark.parametrize("signed", ["offset", "differential"])
@pytest.mark.parametrize("scheme", ["column_vector", "dense", "sre", "pim_prune"])
def test_actions_of_executing_are_those_that_cost(scheme: str, signed: str, dac_bits: int) -> None:
    flipped = signed == "offset" and scheme == "dense"
    accelerator = dataclasses.replace(
        SMALL, signed=signed, dac_bits=dac_bits, flipped_columns=flipped, unit_columns=5
    )
    rng = np.random.default_rng(3)
    mask = schemes.prune_blocks(CONV, rng.normal(size=(1, 27, 6)), scheme, 0.6, accelerator)
    layer_map = mapping.map_layer(CONV, integers(CONV, mask, 5, 4), mask, 5, 7, scheme, accelerator)
    counts = schemes.count_packing((CONV,), [mask], np.asarray([5]), scheme, accelerator)
    expected = crossbar.count_actions((CONV,), counts, accelerator.chip(), np.asarray([7]))
    done = datapath.count_performed_actions(layer_map, accelerator)
    assert set(expected) - set(done) == {
        *("output_scale", "index_memory", "edram", "bus", "router")
    }  # fmt: skip
    assert done == {name: expected[name].item() for name in done}


def test_converters_round_and_clip() -> None:
    """Lossless 5 bits; at 3 a step is 4 and the largest code 7."""
    accelerator = PRESETS["isaac_ou"]
    sums = jnp.asarray([0.0, 1.0, 2.0, 3.0, 6.0, 10.0, 27.0])
    lossless = converters.build_converter(accelerator)
    np.testing.assert_array_equal(converters.convert(lossless, sums), sums)
    three = converters.build_converter(accelerator, 3)
    assert (float(three.step), float(three.top)) == (4.0, 7.0)
    np.testing.assert_array_equal(converters.convert(three, sums), [0, 0, 0, 4, 8, 8, 28])
    assert float(converters.convert(three, jnp.asarray(40.0))) == 28.0
    assert converters.build_converter(dataclasses.replace(accelerator, adc_bits=3)) == three
    assert isinstance(three, Converter)


def test_fewer_bits_lose_something() -> None:
    layer_map, levels = mapped()
    inputs = np.random.default_rng(0).integers(0, 32, (50, 27))
    expected = product(CONV, inputs, levels)
    errors = [
        np.abs(executed(layer_map, SMALL, inputs, bits) - expected).mean() for bits in (5, 4, 3, 2)
    ]
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert errors[-1] > 0


@pytest.mark.parametrize("name", ["lenet", "vgg", "resnet"])
def test_every_layer_of_a_network_bit_for_bit(name: str) -> None:
    network, params, compressed, network_mapping, images = built(name)
    parts = datapath.build_parts(network_mapping.maps, network_mapping.accelerator)
    checks = datapath.check_layers(
        network, params, compressed, parts, network_mapping.accelerator, images
    )
    assert len(checks) == len(network.layers)
    for layer, check in zip(network.layers, checks, strict=True):
        assert check.mismatches == 0, layer
        windows = 4 * layer.positions + 64
        assert check.compared == windows * layer.groups * layer.columns
    logits = datapath.apply(
        network,
        params,
        compressed,
        parts,
        converters.build_converter(network_mapping.accelerator),
        images,
    )
    expected = jax.jit(apply, static_argnums=0)(network, params, compressed, images)
    np.testing.assert_array_equal(logits.argmax(axis=-1), expected.argmax(axis=-1))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    whole = datapath.compare_end_to_end(
        network, params, compressed, parts, network_mapping.accelerator, images
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
    network, params, compressed, whole, images = built("grouped", LOSSY[held], searched=True)
    parts = datapath.build_parts(whole.maps, whole.accelerator)
    for check in datapath.check_layers(
        network, params, compressed, parts, whole.accelerator, images
    ):
        assert check.mismatches == 0
    lossless = tuple(layer._replace(reading=None) for layer in compressed)
    parts = datapath.build_parts(
        tuple(layer_map._replace(adc_bits=0) for layer_map in whole.maps), LOSSY[held]
    )
    checks = datapath.check_layers(network, params, lossless, parts, whole.accelerator, images)
    assert sum(check.mismatches for check in checks) == 0
    kept = apply(network, params, lossless, images)
    assert not np.allclose(apply(network, params, compressed, images), kept, atol=1e-3)


def test_an_accelerator_of_few_bits_is_evaluated_as_it_executes() -> None:
    three = dataclasses.replace(PRESETS["isaac_ou"], adc_bits=3)
    network, params, compressed, whole, images = built("grouped", three)
    parts = datapath.build_parts(whole.maps, three)
    executed = datapath.apply(
        network, params, compressed, parts, converters.build_converter(three), images
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
    lost = converters.compute_conversion_errors(reading, levels, inputs, jnp.asarray(1))
    np.testing.assert_array_equal(lost, [[[0], [0], [-1], [0]]])
    gone = reading._replace(survivors=jnp.zeros((1, 1, 1), bool))
    assert not converters.compute_conversion_errors(gone, levels, inputs, jnp.asarray(1)).any()


def test_a_check_that_fails_says_where() -> None:
    network, params, compressed, whole, images = built("vgg")
    maps = list(whole.maps)
    cells = maps[2].cells.copy()
    place = np.argwhere(cells > 0)[0]
    cells[tuple(place)] -= 1
    maps[2] = maps[2]._replace(cells=cells)
    parts = datapath.build_parts(tuple(maps), whole.accelerator)
    checks = datapath.check_layers(network, params, compressed, parts, whole.accelerator, images)
    assert [check.mismatches > 0 for check in checks] == [False, False, True, False, False, False]
