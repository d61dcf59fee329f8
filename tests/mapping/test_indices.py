"""Indices: read back, and by hand."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers.mappings import PROPERTY, integers

from apq_jax import mapping
from apq_jax.hardware import Accelerator
from apq_jax.mapping import schemes
from apq_jax.types import Layer


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
    layer_map = mapping.map_layer(layer, levels, mask, bits, 8, "column_vector", accelerator)
    index = mapping.encode(layer_map, accelerator)
    counts = schemes.count_packing(
        (layer,), [mask], np.asarray([bits]), "column_vector", accelerator
    )
    assert len(index) == counts.index_bits.item()
    again = mapping.decode(index, layer, bits, accelerator)
    units = layer_map.units
    for field, expected in zip(
        again, (units.bank, units.outputs, units.slices, units.flipped), strict=True
    ):
        np.testing.assert_array_equal(field, expected)
    for wrong in (index[:-1], np.append(index, True)):
        with pytest.raises(ValueError, match=r"index of|input indices"):
            mapping.decode(wrong, layer, bits, accelerator)


def test_an_index_by_hand() -> None:
    """Two row groups of two rows and 7 columns: lists are shorter than a bitmap of 14 bits."""
    accelerator = Accelerator(crossbar_rows=4, crossbar_columns=6, unit_rows=2, unit_columns=3)
    layer = Layer("tiny", 1, 4, 7, 1, (), ())
    mask = np.zeros((1, 4, 7), bool)
    mask[0, :2, 5] = True
    layer_map = mapping.map_layer(layer, mask.astype(int), mask, 4, 8, "column_vector", accelerator)
    index = mapping.encode(layer_map, accelerator)
    # A list; one survivor, the sixth column; none in the second group; the unit reads the first.
    assert "".join("01"[int(bit)] for bit in index) == "0" + "001" + "101" + "000" + "0"
