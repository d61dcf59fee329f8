"""Every scheme from images to the proof; what a scheme cannot be searched with."""

import dataclasses

import numpy as np
import pytest
from helpers.small import SMALL, network

import apq_jax
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.plan import expand_weight_masks
from apq_jax.config import Config, SearchOptions
from apq_jax.hardware import PRESETS, Accelerator
from apq_jax.mapping import datapath, schemes
from apq_jax.pipeline import measure, prepare, prove
from apq_jax.system.errors import InputError
from apq_jax.types import Policy

SEARCH = SearchOptions(probes=2, moment_images=20, chunk=20)


# Without compensation, which knows only the mask of a scheme; `pim_prune` is compensated.
FAST = PlanOptions(4, 0.2, score="l2", compensate=False)


@pytest.mark.parametrize("scheme", [name for name in schemes.SCHEMES if name != "column_vector"])
def test_every_scheme_is_compressed_and_proved(scheme: str) -> None:
    captured, params, dataset = network()
    plan = dataclasses.replace(FAST, levels=1) if scheme == "dense" else FAST
    if scheme == "pim_prune":
        plan = PlanOptions(4, 0.2)
    config = Config(scheme=scheme, plan=plan, search=SEARCH)
    prepared = apq_jax.prepare(captured, params, dataset, SMALL, config)
    space, rng = prepared.space, np.random.default_rng(0)
    level = np.minimum([1, 3], space.levels - 1)
    policy = Policy(level, *(rng.choice(bits, 2) for bits in (space.weight_bits, space.input_bits)))
    masks = [np.asarray(mask) for mask in expand_weight_masks(prepared.subject.plan, policy)]
    assert all(mask.all() == (scheme == "dense") for mask in masks)
    compressed = measure.compressed(prepared, policy)
    for mask, layer in zip(masks, compressed, strict=True):
        assert not np.asarray(layer.levels)[~mask].any()
    mapping = prove.map_to_crossbars(prepared, policy, compressed)
    parts = datapath.build_parts(mapping.maps, mapping.accelerator)
    proof = prove.prove(prepared, policy, compressed, mapping, parts, dataset.select_images[:4])
    assert proof.mismatches == 0 < proof.compared
    assert proof.scales_agree
    assert proof.counts_agree


def refused(config: Config, accelerator: Accelerator = SMALL) -> str:
    with pytest.raises(InputError) as caught:
        prepare.build_space(config, accelerator)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_scheme_cannot_be_searched_with() -> None:
    pruned = Config(scheme="filter")
    few = dataclasses.replace(SMALL, adc_bits=SMALL.lossless_adc_bits - 1)
    assert "config.scheme: 'filter' with converters of fewer than" in refused(pruned, few)
    searched = dataclasses.replace(pruned, search=SearchOptions(min_adc_bits=2))
    assert "search.min_adc_bits); allowed: column_vector" in refused(searched)
    planes = dataclasses.replace(SMALL, mapping="mnsim")
    assert "accelerator.mapping: 'mnsim' with scheme filter" in refused(pruned, planes)
    assert "config.plan.levels: 32 with scheme dense" in refused(Config(scheme="dense"))
    one_bit = Config(scheme="sre", search=SearchOptions(min_weight_bits=1, max_weight_bits=1))
    cells = dataclasses.replace(SMALL, cell_bits=1)
    assert "min_weight_bits: 1 with scheme sre" in refused(one_bit, cells)
    for scheme, accelerator in (
        ("column_vector", dataclasses.replace(cells, adc_bits=2)),
        ("column_vector", dataclasses.replace(cells, mapping="mnsim")),
        ("pim_prune", dataclasses.replace(cells, mapping="mnsim")),
        ("sre", dataclasses.replace(cells, signed="differential")),
    ):
        prepare.build_space(dataclasses.replace(one_bit, scheme=scheme), accelerator)


def test_a_plan_serves_accelerators_of_the_same_blocks() -> None:
    captured, params, dataset = network(1)
    config = Config(scheme="pim_prune", plan=PlanOptions(4, 0.2), search=SEARCH)
    prepared = apq_jax.prepare(captured, params, dataset, SMALL, config)
    other = dataclasses.replace(SMALL, unit_rows=5)  # strips are the crossbars' alone
    assert prepare.aim(prepared, other, config).accelerator == other
    with pytest.raises(InputError, match=r"accelerator: kernel .* 1 x 32; allowed: 1 x 6"):
        prepare.aim(prepared, PRESETS["isaac_ou"], config)
    with pytest.raises(InputError, match=r"config\.scheme: 'sre'; allowed: 'pim_prune'"):
        prepare.aim(prepared, SMALL, dataclasses.replace(config, scheme="sre"))
