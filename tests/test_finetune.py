"""Fine-tuning: what runs is the integer network, what comes out stays in its masks and bits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_evaluation import CELLS, RECOVERY, Case, build

from apq_jax import evaluation, finetune
from apq_jax.capture import forward_float
from apq_jax.evaluation import Compressed
from apq_jax.finetune import FinetuneOptions
from apq_jax.plan import weight_masks
from apq_jax.types import Policy

POLICY = Policy(*map(jnp.asarray, ([2, 3], [4, 1], [5, 4])))


def masks_of(case: Case) -> tuple[jax.Array, ...]:
    return weight_masks(case.subject.plan, POLICY)


def compressed_of(case: Case, policy: Policy = POLICY) -> Compressed:
    part = case.subject
    arrays = part.params, part.plan, part.statistics, part.moment_images
    return evaluation.compress(case.network, *arrays, CELLS, RECOVERY, policy)


def tuned(case: Case, **options: Any) -> tuple[Compressed, Compressed]:
    """Before and after."""
    before = compressed_of(case)
    reference = forward_float(case.network, case.params, case.images)
    run = jax.jit(finetune.finetune, static_argnums=(0, 8))
    arguments = case.params, before, masks_of(case), POLICY.weight_bits, case.images, reference
    key = jax.random.key(0)
    return before, run(
        case.network, *arguments, key, FinetuneOptions(batch=20, **{"steps": 150, **options})
    )


@pytest.fixture(scope="module", params=[1, 2], ids=["plain", "grouped"])
def networks(request: Any) -> tuple[Case, Compressed, Compressed]:
    case = build(request.param)
    return case, *tuned(case)


def divergence(case: Case, compressed: Compressed) -> float:
    logits = evaluation.apply(case.network, case.params, compressed, case.images)
    target = jax.nn.log_softmax(forward_float(case.network, case.params, case.images))
    gap = jnp.exp(target) * (target - jax.nn.log_softmax(logits))
    return float(gap.sum(axis=-1).mean())


def test_it_comes_nearer_to_the_float_network(networks: Any) -> None:
    case, before, after = networks
    assert divergence(case, after) < 0.7 * divergence(case, before)


def test_masks_bits_and_quantizers_stay(networks: Any) -> None:
    case, before, after = networks
    for old, new, mask, bits in zip(
        before, after, masks_of(case), POLICY.weight_bits.tolist(), strict=True
    ):
        levels = np.asarray(new.levels, int)
        assert not levels[~np.asarray(mask)].any()
        assert np.abs(levels).max() <= max(2 ** (bits - 1) - 1, 1)
        if bits == 1:
            assert levels[np.asarray(mask)].all()
        for name in ("input_scale", "input_zero", "input_bits"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
        assert new.levels.dtype == jnp.int8
        for name in ("multiplier", "offset"):  # whole 16-bit numbers of one power of two
            values = np.asarray(getattr(new, name), np.float64)
            step = 2.0 ** (np.floor(np.log2(np.abs(values).max())) - 14)
            np.testing.assert_array_equal(values / step, np.round(values / step))


def test_no_step_changes_nothing_but_the_last_bit() -> None:
    """So what is learnt from is the integer network itself."""
    case = build(1)
    before, after = tuned(case, steps=1, rate=0.0, affine_rate=0.0)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.levels, new.levels)
        np.testing.assert_allclose(old.multiplier, new.multiplier, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(old.offset, new.offset, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("adc_bits", [None, [3, 2]], ids=["lossless", "rounding"])
def test_what_is_learnt_from_is_what_is_measured(adc_bits: list[int] | None) -> None:
    case = build(2)
    converters = None if adc_bits is None else jnp.asarray(adc_bits)
    compressed = compressed_of(case, POLICY._replace(adc_bits=converters))
    fixed, learnt = finetune.begin(compressed, masks_of(case), POLICY.weight_bits)
    smooth = finetune.apply(case.network, case.params, fixed, learnt, case.images)
    exact = evaluation.apply(case.network, case.params, compressed, case.images)
    np.testing.assert_allclose(smooth, exact, atol=1e-4)

    def total(learnt: Any) -> jax.Array:
        return finetune.apply(case.network, case.params, fixed, learnt, case.images).sum()

    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(jax.grad(total)(learnt)))
