"""Packing by hand, and what has no place in a crossbar."""

import dataclasses
import pathlib

import numpy as np
import pytest
from helpers.mappings import CONV, SMALL, executed, integers, product, rewritten

from apq_jax import mapping
from apq_jax.hardware import Accelerator
from apq_jax.mapping import Mapping, Scales, schemes
from apq_jax.mapping.units import NONE
from apq_jax.system.errors import InputError
from apq_jax.types import Layer


def test_a_packing_by_hand() -> None:
    """Two row groups of two rows; 2-bit cells, 4-bit weights, units of 2 x 3: slices straddle."""
    accelerator = Accelerator(crossbar_rows=4, crossbar_columns=6, unit_rows=2, unit_columns=3)
    layer = Layer("tiny", 1, 3, 4, 1, (), ())
    levels = np.asarray([[[1, 0, -7, 0], [2, 0, 3, 0], [0, -5, 0, 0]]])
    mask = np.asarray([[[1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 0]]], bool)
    layer_map = mapping.map_layer(layer, levels, mask, 4, 8, "column_vector", accelerator)
    assert layer_map.banks.tolist() == [[0, 1], [2, NONE]]
    units = layer_map.units
    assert units.bank.tolist() == [0, 0, 1]
    assert units.outputs.tolist() == [[0, 0, 2], [2, NONE, NONE], [1, 1, NONE]]
    assert units.slices.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    # Stored are w + 8: 9 = 2 x 4 + 1, 10 = 2 x 4 + 2; 1, 11 = 2 x 4 + 3; 3.
    assert layer_map.read_cells().tolist() == [
        [[1, 2, 1], [2, 2, 3]],
        [[0, 0, 0], [2, 0, 0]],
        [[3, 0, 0], [0, 0, 0]],
    ]
    # Two slots down, two across, in one crossbar: all three units in turn.
    places = zip(units.crossbar, units.wordline, units.bitline, strict=True)
    assert [tuple(map(int, place)) for place in places] == [(0, 0, 0), (0, 0, 3), (0, 2, 0)]
    inputs = np.asarray([[1, 2, 3], [255, 0, 255]])
    np.testing.assert_array_equal(executed(layer_map, accelerator, inputs), inputs @ levels[0])


def test_groups_that_a_unit_covers_are_one_read(tmp_path: pathlib.Path) -> None:
    """Four groups of 4 x 2, 2 slices: units of 9 x 8 hold two; the file keeps that."""
    wide = dataclasses.replace(SMALL, unit_columns=8)
    layer = Layer("grouped", 4, 4, 2, 10, (2, 2), (1, 1))
    mask = np.ones((4, 4, 2), bool)
    levels = integers(layer, mask, 4, 0)
    layer_map = mapping.map_layer(layer, levels, mask, 4, 5, "dense", wide)
    assert layer_map.units.read.tolist() == [0, 0, 1, 2]  # 12 bitlines hold three groups
    assert layer_map.units.crossbar.tolist() == [0, 0, 0, 1]
    assert mapping.count_layer_map(layer_map, "dense", wide)["units"] == 3
    inputs = np.random.default_rng(0).integers(0, 32, (20, 16))
    np.testing.assert_array_equal(executed(layer_map, wide, inputs), product(layer, inputs, levels))
    scale = np.ones((4, 2), np.float32)
    scales = Scales(scale, np.float32(1), np.float32(0), scale, scale)
    mapping.save(tmp_path / "m.safetensors", Mapping(wide, "dense", (layer_map,), (scales,), {}))
    again = mapping.load(tmp_path / "m.safetensors").maps[0]
    np.testing.assert_array_equal(again.units.read, layer_map.units.read)
    # Three at once are larger than a unit.
    rewritten(
        tmp_path / "m.safetensors",
        lambda tensors, metadata: tensors.update({"0/read": np.asarray([0, 0, 0, 1], np.int32)}),
    )
    with pytest.raises(InputError, match="layer 0: read: 12 wordlines; allowed: up to 9"):
        mapping.load(tmp_path / "m.safetensors")


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
    layer_map = mapping.map_layer(CONV, none.astype(int), none, 4, 5, scheme, SMALL)
    assert not executed(layer_map, SMALL, np.ones((3, 27))).any()
    counts = schemes.count_packing((CONV,), [none], np.asarray([4]), scheme, SMALL)
    for name, value in mapping.count_layer_map(layer_map, scheme, SMALL).items():
        assert value == getattr(counts, name).item(), name


def test_one_bit_offset_weights_have_no_zero() -> None:
    mask = np.ones((1, 27, 6), bool)
    levels = integers(CONV, mask, 1, 0)
    levels[0, 3, 2] = 0
    with pytest.raises(ValueError, match="a weight of 0 has no cell"):
        mapping.map_layer(CONV, levels, mask, 1, 4, "dense", SMALL)
    pairs = dataclasses.replace(SMALL, signed="differential")
    layer_map = mapping.map_layer(CONV, levels, mask, 1, 4, "dense", pairs)
    inputs = np.random.default_rng(0).integers(0, 16, (5, 27))
    np.testing.assert_array_equal(executed(layer_map, pairs, inputs), product(CONV, inputs, levels))


def test_what_has_no_image_is_refused() -> None:
    mask = np.ones((1, 27, 6), bool)
    for scheme, accelerator in (
        ("sre_weights", SMALL),
        ("dense", dataclasses.replace(SMALL, mapping="mnsim")),
    ):
        with pytest.raises(ValueError, match="has no image; allowed: dense"):
            mapping.map_layer(CONV, integers(CONV, mask, 4, 0), mask, 4, 4, scheme, accelerator)
