"""Every scheme's mask and packing by hand; a mask of ones is the dense network."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax import crossbar
from apq_jax.compression import pruning
from apq_jax.compression.prices import build_prices, look_up_costs
from apq_jax.hardware import PRESETS, Accelerator
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.mapping import schemes
from apq_jax.types import Layer, Policy

ISAAC_OU = Accelerator()  # 128 x 128, 9 x 8 units, 2-bit cells
CONV = Layer("conv", 1, 288, 64, 100, (3, 3), (1, 1))  # 32 input channels
LAYERS = (CONV,)


def ones(layer: Layer) -> np.ndarray:
    return np.ones((layer.groups, layer.rows, layer.columns), bool)


def packed(mask: np.ndarray, scheme: str, bits: int = 8, layer: Layer = CONV) -> dict[str, int]:
    counts = schemes.count_packing((layer,), [mask], np.asarray([bits]), scheme, ISAAC_OU)
    return {name: value.item() for name, value in counts._asdict().items()}


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("name", ["lenet5", "resnet20", "vgg16"])
@pytest.mark.parametrize("scheme", ["dense", "filter", "channel"])
def test_a_mask_of_ones_is_the_dense_network(scheme: str, name: str, bits: int) -> None:
    layers = WORKLOADS[name]
    all_bits = np.full(len(layers), bits)
    counts = schemes.count_packing(
        layers, [ones(layer) for layer in layers], all_bits, scheme, ISAAC_OU
    )
    expected = crossbar.count_dense(layers, all_bits, ISAAC_OU.chip())
    for field in set(counts._fields) - {"index_bits"}:
        np.testing.assert_array_equal(
            getattr(counts, field), getattr(expected, field), err_msg=field
        )


def test_a_mask_of_ones_tiles_alike_where_strips_are_crossbars() -> None:
    """At 8 bits a strip of pim_prune is a crossbar wide; slots are the same in sre, too."""
    layers = WORKLOADS["vgg16"]
    eight, full = np.full(len(layers), 8), [ones(layer) for layer in layers]
    expected = crossbar.count_dense(layers, eight, ISAAC_OU.chip())
    # Strips of columns have inputs of their own to count; strips of rows, units of their own.
    for scheme, apart in (("pim_prune", "row_groups"), ("pim_prune_columns", "slots")):
        counts = schemes.count_packing(layers, full, eight, scheme, ISAAC_OU)
        for field in set(counts._fields) - {"index_bits", apart}:
            np.testing.assert_array_equal(
                getattr(counts, field), getattr(expected, field), err_msg=f"{scheme} {field}"
            )
    for scheme in ("sre", "column_vector"):
        counts = schemes.count_packing(layers, full, eight, scheme, ISAAC_OU)
        np.testing.assert_array_equal(counts.slots, expected.slots, err_msg=scheme)
        np.testing.assert_array_equal(counts.cells, expected.cells, err_msg=scheme)
    # 14 whole slots of 9 rows fill 126 of 128: unpruned column-vectors need a little more.
    assert counts.crossbars.sum() == 3660
    assert expected.crossbars.sum() == 3600


def test_depthwise_groups_stay_block_diagonal() -> None:
    layer = Layer("depthwise", 32, 9, 1, 10, (3, 3), (1, 1))
    assert packed(ones(layer), "filter", layer=layer)["crossbars"] == 3
    mask = ones(layer)
    mask[5:] = False
    # 14 and 14 and 4 on diagonals; of 5 that are left, 5.
    for scheme in ("filter", "channel", "pim_prune_columns", "pim_prune"):
        assert packed(ones(layer), scheme, layer=layer)["crossbars"] in (1, 3), scheme
        counts = packed(mask, scheme, layer=layer)
        assert (counts["crossbars"], counts["units"], counts["fullest"]) == (1, 5, 5), scheme
    # 32 strips of 4 bitlines are a crossbar: more than on a diagonal, and in turn all the same.
    assert packed(ones(layer), "pim_prune", layer=layer)["crossbars"] == 1


def test_a_whole_crossbar_reads_its_groups_at_once() -> None:
    """14 groups of 9 x 1 a crossbar: ISAAC reads them in one go; 20 left take two."""
    layer, isaac = Layer("depthwise", 32, 9, 1, 10, (3, 3), (1, 1)), PRESETS["isaac"]
    dense = crossbar.count_dense((layer,), np.asarray([8]), isaac.chip())
    assert (dense.crossbars[0], dense.units[0], dense.fullest[0]) == (3, 3, 1)
    assert (dense.drives[0], dense.columns[0], dense.cells[0]) == (32 * 9, 32 * 4, 32 * 36)
    mask = ones(layer)
    mask[::3] = False  # 21 of 32 stay
    for scheme in ("filter", "channel", "pim_prune_columns"):
        counts = schemes.count_packing((layer,), [mask], np.asarray([8]), scheme, isaac)
        assert (counts.crossbars[0], counts.units[0], counts.fullest[0]) == (2, 2, 1), scheme
        assert (counts.drives[0], counts.outputs[0]) == (21 * 9, 21), scheme
    # A unit of 20 x 8 covers two: 14 in 7 reads, twice, and 4 in 2.
    two = dataclasses.replace(ISAAC_OU, unit_rows=20)
    dense = crossbar.count_dense((layer,), np.asarray([8]), two.chip())
    assert (dense.crossbars[0], dense.units[0], dense.fullest[0]) == (3, 16, 7)


def test_matrices_of_unlike_sizes_lie_as_the_largest() -> None:
    """40 and 10 rows of 3 x 4 bitlines: 3 in a crossbar by rows; 9 units and 4 and so on."""
    layer = Layer("grouped", 4, 40, 3, 10, (1, 1), (1, 1))
    mask = ones(layer)
    mask[1:3, 10:] = False
    mask[3] = False
    counts = packed(mask, "channel", layer=layer)
    # Units: 5 x 2 of 40 rows, 2 x 2 of 10; the fourth group is gone.
    assert (counts["crossbars"], counts["units"], counts["fullest"]) == (1, 10 + 4 + 4, 18)
    assert counts["cells"] == 60 * 12
    whole = packed(ones(layer), "channel", layer=layer)
    assert (whole["crossbars"], whole["units"], whole["fullest"]) == (2, 40, 30)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5, float("nan")])
def test_keep_ratios_are_checked(keep: float) -> None:
    with pytest.raises(ValueError, match=r"keep: .*; allowed: more than 0, at most 1"):
        schemes.prune_blocks(CONV, np.ones((1, 288, 64)), "filter", keep, ISAAC_OU)


def test_dense_masks_prune_nothing() -> None:
    layer = Layer("depthwise", 32, 9, 1, 10, (3, 3), (1, 1))
    assert schemes.prune_blocks(layer, np.ones((32, 9, 1)), "dense", 0.1, ISAAC_OU).all()


def test_filters() -> None:
    """10 of 64 columns: 40 bitlines, 5 units across, three strips of 15, 15 and 4 units."""
    mask = ones(CONV)
    mask[:, :, 10:] = False
    counts = packed(mask, "filter")
    assert counts["crossbars"] == 3
    assert counts["units"] == (15 + 15 + 4) * 5
    assert counts["slots"] == 32 * 5
    assert counts["cells"] == 288 * 10 * 4
    assert counts["index_bits"] == min(7 + 10 * 6, 64) + 1


def test_channels() -> None:
    """5 of 32 channels are 45 rows: one strip, 5 units down, 32 across two crossbars."""
    mask = ones(CONV)
    mask[:, 45:] = False
    counts = packed(mask, "channel")
    assert (counts["crossbars"], counts["units"]) == (2, 5 * 32)
    assert counts["index_bits"] == min(6 + 5 * 5, 32) + 1


def test_nothing_left_takes_a_crossbar() -> None:
    none = np.zeros_like(ones(CONV))
    for scheme in set(schemes.SCHEMES) - {"dense"}:
        counts = packed(none, scheme)
        assert counts["crossbars"] == 1, scheme
        assert counts["units"] == counts["cells"] == counts["drives"] == 0, scheme


def test_pim_prune_packs_upward() -> None:
    """Strips of 32 columns: 130 rows kept in the first, 20 in the second."""
    mask = np.zeros_like(ones(CONV))
    mask[0, :130, :32] = True
    mask[0, 100:120, 32:] = True
    counts = packed(mask, "pim_prune")
    assert counts["crossbars"] == 2 + 1
    # 128 rows are 15 units, 2 rows one, 20 rows three; 128 bitlines are 16.
    assert counts["units"] == (16 + 3) * 16
    assert counts["slots"] == (15 + 3) * 16
    assert counts["fullest"] == 15 * 16
    assert counts["drives"] == 150 * 16
    assert counts["columns"] == (16 + 3) * 128
    assert counts["cells"] == 150 * 32 * 4
    assert counts["outputs"] == (16 + 3) * 32
    assert counts["row_groups"] == 16 + 3
    assert counts["index_bits"] == 150 * 9 + 2 * 9  # of 288 rows, and how many
    # With 4 bits two strips lie beside each other: the taller decides.
    four = packed(mask, "pim_prune", bits=4)
    assert four["crossbars"] == 2
    assert four["units"] == (16 + 3) * 8
    assert four["fullest"] == (15 + 3) * 8


def test_pim_prune_packs_left() -> None:
    """Strips of 128 rows: 40, 1 and 0 columns kept."""
    mask = np.zeros_like(ones(CONV))
    mask[0, :128, :40] = True
    mask[0, 128:256, 7] = True
    counts = packed(mask, "pim_prune_columns")
    assert counts["crossbars"] == 2 + 1
    assert counts["units"] == 15 * (16 + 4) + 15 * 1
    assert counts["cells"] == 128 * 41 * 4
    assert counts["index_bits"] == 41 * 6 + 3 * 7


def test_sre_leaves_out_rows_of_a_unit() -> None:
    """Units of 2 weights at 8 bits: 10 rows kept in one column pair, 1 in another."""
    mask = np.zeros_like(ones(CONV))
    mask[0, 3:13, 4] = True
    mask[0, 200, 10:12] = True
    counts = packed(mask, "sre")
    assert counts["units"] == 2 + 1
    assert counts["crossbars"] == 1
    assert counts["drives"] == 11
    assert counts["cells"] == 11 * 2 * 4  # a lone weight keeps its neighbour's place
    assert counts["outputs"] == 3 * 2
    assert counts["index_bits"] == 11 * 9 + 32 * 9
    assert counts == packed(mask, "sre_weights")


@pytest.mark.parametrize("keep", [1.0, 0.4, 0.05])
def test_column_vectors_are_those_of_the_tables(keep: float) -> None:
    rng = np.random.default_rng(0)
    layer = Layer("ragged", 2, 25, 6, 10, (5, 5), (1, 1))
    mask = schemes.prune_blocks(layer, rng.normal(size=(2, 25, 6)), "column_vector", keep, ISAAC_OU)
    assert mask.sum() >= 1
    groups = np.stack([mask[:, start : start + 9].any(axis=1) for start in (0, 9, 18)], axis=1)
    tables = crossbar.tabulate_column_vectors(
        (layer,), crossbar.count_survivors([groups[None]]), 9, ISAAC_OU.chip(), 4
    )
    expected = crossbar.look_up_counts(tables, ISAAC_OU.chip(), np.asarray([0]), np.asarray([6]))
    counts = schemes.count_packing((layer,), [mask], np.asarray([6]), "column_vector", ISAAC_OU)
    for field in counts._fields:
        assert getattr(counts, field) == getattr(expected, field), field


@pytest.mark.parametrize(
    ("scheme", "block"),
    [
        ("filter", (288, 1)),
        ("channel", (9, 64)),
        ("pim_prune", (1, 32)),
        ("pim_prune_columns", (128, 1)),
        ("sre", (1, 2)),
        ("sre_weights", (1, 1)),
        ("column_vector", (9, 1)),
    ],
)
def test_masks_live_and_die_in_blocks(scheme: str, block: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(1, 288, 64))
    mask = schemes.prune_blocks(CONV, weights, scheme, 0.3, ISAAC_OU)
    high, wide = block
    blocks = []
    for top in range(0, 288, high):
        for left in range(0, 64, wide):
            part = slice(top, top + high), slice(left, left + wide)
            inside = mask[0][part]
            assert inside.all() == inside.any()
            blocks.append((np.square(weights[0][part]).mean(), bool(inside.any())))
    kept = sorted(score for score, alive in blocks if alive)
    gone = sorted(score for score, alive in blocks if not alive)
    assert len(kept) == max(round(0.3 * len(blocks)), 1)
    assert kept[0] >= gone[-1]


def test_the_better_of_two_a_layer() -> None:
    rows, columns = np.zeros_like(ones(CONV)), np.zeros_like(ones(CONV))
    rows[0, :40] = True  # 40 of 288 rows: 2 crossbars
    columns[0, :, :20] = True  # 20 of 64 columns: 3 crossbars
    first = schemes.count_packing(LAYERS, [rows], np.asarray([8]), "pim_prune", ISAAC_OU)
    second = schemes.count_packing(
        LAYERS, [columns], np.asarray([8]), "pim_prune_columns", ISAAC_OU
    )
    assert (first.crossbars.item(), second.crossbars.item()) == (2, 3)
    for a, b in ((first, second), (second, first)):
        assert schemes.choose_better(a, b).crossbars.item() == 2


def test_utilisation_by_hand() -> None:
    """70 survivors of 9 rows in 36 units of one crossbar, 1085 index bits, 6 of 8 bits stored."""
    mask = np.zeros((1, 576, 64), bool)
    mask[0, :9] = True
    mask[0, 9:18, 10:15] = True
    mask[0, 567:, 7] = True
    layer = Layer("conv", 1, 576, 64, 100, (3, 3), (1, 1))
    bits = np.asarray([7])
    counts = schemes.count_packing((layer,), [mask], bits, "column_vector", ISAAC_OU)
    shares = schemes.compute_utilisation((layer,), counts, bits, ISAAC_OU)
    assert shares["cells_unused"] == 128 * 128 - 70 * 9 * 4
    assert shares["slots_unused"] == 224 - 36
    assert shares["padding_cells"] == 36 * 72 - 70 * 9 * 4
    assert shares["cells_used"] == pytest.approx(2520 / 16384)
    assert shares["index_overhead"] == pytest.approx(1085 / (70 * 9 * 7))


@pytest.mark.parametrize("scheme", sorted(schemes.SCHEMES))
@pytest.mark.parametrize("preset", ["isaac_ou", "sre", "isaac"])
def test_every_scheme_is_costed_by_the_same_model(scheme: str, preset: str) -> None:
    rng = np.random.default_rng(2)
    layers, base = WORKLOADS["lenet5"], PRESETS[preset]
    for accelerator in (
        base,
        dataclasses.replace(base, signed="differential", flipped_columns=False),
    ):
        masks = [
            schemes.prune_blocks(
                layer,
                rng.normal(size=(layer.groups, layer.rows, layer.columns)),
                scheme,
                0.5,
                accelerator,
            )
            for layer in layers
        ]
        bits = np.asarray([8, 6, 4, 4, 8])
        counts = schemes.count_packing(layers, masks, bits, scheme, accelerator)
        chip: Any = accelerator.chip()
        cost = crossbar.compute_cost(layers, counts, chip, bits)
        dense = crossbar.compute_cost(layers, crossbar.count_dense(layers, bits, chip), chip, bits)
        assert cost.energy_nj > 0
        assert cost.crossbars >= 5
        assert (counts.fullest * counts.crossbars >= counts.units).all()
        assert (counts.cells <= counts.crossbars * 128 * 128).all()
        if scheme != "dense":
            assert cost.energy_nj < 1.2 * dense.energy_nj


# --- searched ------------------------------------------------------------------------------------

# Two input channels of two rows; strips of 3 columns, units of 2 weights at 8 bits.
TINY = Layer("tiny", 1, 4, 4, 1, (1, 2), (1, 1))
TINY_CHIP = Accelerator(crossbar_rows=3, crossbar_columns=12, unit_rows=2, unit_columns=8)
W = [[1, 2, 3, 4], [0, 1, 0, 2], [2, 0, 1, 0], [1, 1, 1, 3]]


@pytest.mark.parametrize(
    ("scheme", "scores", "kept"),
    [
        ("dense", [[52]], ["1111", "1111", "1111", "1111"]),
        ("filter", [[6, 6, 11, 29]], ["0011", "0011", "0011", "0011"]),
        ("channel", [[35], [17]], ["1111", "1111", "0000", "0000"]),
        ("pim_prune", [[14, 16], [1, 4], [5, 0], [3, 9]], ["1111", "0000", "1110", "0001"]),
        ("pim_prune_columns", [[5, 5, 10, 20], [1, 1, 1, 9]], ["1011", "1011", "1011", "0001"]),
        ("sre", [[5, 25], [1, 4], [4, 1], [2, 10]], ["1111", "0011", "0000", "0011"]),
        ("column_vector", [[1, 5, 9, 20], [5, 1, 2, 9]], ["0111", "0111", "0001", "0001"]),
    ],
)
def test_blocks_by_hand(scheme: str, scores: list[list[int]], kept: list[str]) -> None:
    """Squares summed over blocks; half of them stay, the first of equals."""
    (block,) = schemes.build_blocks((TINY,), scheme, TINY_CHIP)
    weights = jnp.asarray([W], jnp.float32)
    metric = pruning.compute_score_matrices(jnp.eye(4)[None], "l2", block.high)
    block_scores = pruning.score_blocks(weights, metric, "l2", block)
    np.testing.assert_allclose(block_scores, [scores])
    count = jnp.asarray(max(block_scores.size // 2, 1))
    mask = pruning.keep_largest(block_scores, jnp.ones(block_scores.shape, bool), count)
    rows = np.asarray(pruning.expand_mask(mask, block, 4, 4)[0]).astype(int)
    assert ["".join(map(str, row)) for row in rows] == kept


CHIPS = {
    "isaac_ou": ISAAC_OU,
    "isaac": PRESETS["isaac"],
    "pairs": dataclasses.replace(ISAAC_OU, signed="differential"),
    "odd": Accelerator(crossbar_rows=50, crossbar_columns=30, unit_rows=7, unit_columns=5),
    "mnsim": dataclasses.replace(ISAAC_OU, mapping="mnsim"),
}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_a_searched_price_is_that_of_the_packing(scheme: str, chip: str) -> None:
    """Random nested masks of LeNet-5 and a grouped layer, random policies; every figure."""
    rng, accelerator = np.random.default_rng(0), CHIPS[chip]
    layers = (*WORKLOADS["lenet5"][:3], Layer("grouped", 3, 18, 5, 20, (3, 3), (1, 1)))
    blocks = schemes.build_blocks(layers, scheme, accelerator)
    keep = np.asarray([1.0, 0.4, 0.05])[:, None, None, None]
    masks = []
    for layer, block in zip(layers, blocks, strict=True):
        drawn = rng.random((layer.groups, *block.count(layer.rows, layer.columns)))
        masks.append(drawn <= np.maximum(keep, drawn.min()))
    arguments = layers, masks, scheme, accelerator, 8
    if chip == "mnsim" and scheme in schemes.BY_MAPPING:
        with pytest.raises(ValueError, match="mapping 'mnsim' of scheme"):
            schemes.tabulate_counts(*arguments)
        return
    prices = build_prices(layers, schemes.tabulate_counts(*arguments), accelerator.chip(), 8, 8)
    for _ in range(12):
        level, *bits = (rng.integers(low, high, 4) for low, high in ((0, 3), (1, 9), (1, 9)))
        kept = [
            pruning.expand_mask(mask[layer_level], block, layer.rows, layer.columns)
            for mask, layer_level, block, layer in zip(masks, level, blocks, layers, strict=True)
        ]
        counts = schemes.count_packing(layers, kept, bits[0], scheme, accelerator)
        expected = crossbar.compute_cost(layers, counts, accelerator.chip(), bits[1])
        cost = look_up_costs(prices, Policy(level, *bits))
        for name in cost._fields:
            assert getattr(cost, name) == getattr(expected, name), name
