"""The evaluation of a policy against plain NumPy loops, and loop, map, vmap and jit against each
other.

The reference below is written from the formulas in docs/design, with explicit loops in int64;
of the package it uses only the arrays of the Plan and the Statistics.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.case import (
    CELL,
    CELLS,
    CHIP,
    CHUNK,
    HEIGHT,
    KERNEL,
    PADDING,
    RECOVERY,
    STRIDE,
    WIDTH,
    Case,
    build,
    model,
    tables_of,
)
from jax import lax

from apq_jax import crossbar
from apq_jax.compression.compressed import accumulate, apply, compress
from apq_jax.compression.evaluator import Evaluator, Subject
from apq_jax.compression.options import Recovery
from apq_jax.network.capture import Network, extract_matrices, forward
from apq_jax.types import Policy


@pytest.fixture(params=[1, 2], ids=["plain", "grouped"])
def case(request: Any) -> Case:
    return build(request.param)


# (level, weight bits, input bits) of the convolution and of the dense layer.
POLICIES = [
    ((0, 8, 8), (0, 8, 8)),
    ((2, 4, 5), (3, 6, 4)),
    ((3, 3, 8), (1, 1, 8)),
    ((1, 1, 3), (4, 2, 6)),
    ((5, 5, 7), (5, 8, 2)),
]


def policy_of(choices: Any) -> Policy:
    return Policy(*(jnp.asarray(column, jnp.int32) for column in zip(*choices, strict=True)))


BATCH = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(policy_of, POLICIES))


# --- the reference -----------------------------------------------------------------------------


class Reference(NamedTuple):
    levels: list[np.ndarray]  # [γ, R, C] int64
    sums: list[np.ndarray]  # accumulators on the scored images, [γ, M, C] int64
    logits: np.ndarray
    survivors: list[list[int]]  # of every row group
    units: list[int]
    crossbars: list[int]
    from_ties: float  # least distance of an input of the dense layer from a tie, in levels


def fixed16(values: np.ndarray) -> np.ndarray:
    """Signed 16-bit fixed point: the least power-of-two step with which all values fit."""
    largest = np.abs(values).max()
    if largest == 0:
        return values
    step = 2.0 ** (math.floor(math.log2(largest)) - 14)
    while np.rint(largest / step) >= 2**15:
        step *= 2
    return np.rint(values / step) * step


def to_levels(x: np.ndarray, scale: Any, zero: Any, bits: int) -> tuple[np.ndarray, float]:
    exact = np.asarray(x, np.float32) / np.float32(scale)
    levels = np.clip(np.rint(exact) + int(zero), 0, 2**bits - 1).astype(np.int64)
    inside = exact[(exact + zero > -1) & (exact + zero < 2**bits)]
    return levels, float(np.abs(inside - np.floor(inside) - 0.5).min())


def conv_sums(u: np.ndarray, levels: np.ndarray, zero: int, groups: int) -> np.ndarray:
    """Σ u w with u [B, H, W, C_in]; outside the image u is the zero point. [γ, B OH OW, C]."""
    batch, height, width, channels = u.shape
    (top, bottom), (left, right) = PADDING
    out_h = (height + top + bottom - KERNEL[0]) // STRIDE + 1
    out_w = (width + left + right - KERNEL[1]) // STRIDE + 1
    each = channels // groups
    sums = np.zeros((groups, batch * out_h * out_w, levels.shape[2]), np.int64)
    for group, b, i, j in np.ndindex(groups, batch, out_h, out_w):
        window = np.full((each, *KERNEL), zero, np.int64)  # input channel outermost
        for c, di, dj in np.ndindex(window.shape):
            y, x = i * STRIDE + di - top, j * STRIDE + dj - left
            if 0 <= y < height and 0 <= x < width:
                window[c, di, dj] = u[b, y, x, group * each + c]
        for column in range(levels.shape[2]):
            total = int((window.ravel() * levels[group, :, column]).sum())
            sums[group, (b * out_h + i) * out_w + j, column] = total
    return sums


@functools.cache
def reference_of(groups: int, choices: Any, recover: bool) -> Reference:
    case = build(groups)
    subject = case.subject
    training, scored = np.asarray(subject.moment_images), np.asarray(subject.images)
    params = {name: np.asarray(leaf) for name, leaf in case.params.items()}
    x = np.concatenate([training, scored])
    all_levels, all_sums, all_survivors, units, crossbars = [], [], [], [], []
    ties = 0.5
    for index, (level, weight_bits, input_bits) in enumerate(choices):
        plan, seen = subject.plan[index], subject.statistics[index]
        w, alive = np.asarray(plan.weights)[level], np.asarray(plan.mask)[level]
        scale = np.asarray(plan.scale)[level, weight_bits - 1]
        gamma, _, columns = w.shape
        levels = np.zeros(w.shape, np.int64)
        limit = 2 ** (weight_bits - 1) - 1
        for g, r, c in np.ndindex(w.shape):
            if not alive[g, r // HEIGHT, c]:
                continue
            if weight_bits <= 4:  # the Plan's own, of which test_rounding.py has a reference
                levels[g, r, c] = np.asarray(plan.levels)[level, weight_bits - 1, g, r, c]
            else:
                levels[g, r, c] = np.clip(np.rint(w[g, r, c] / scale[g, c]), -limit, limit)

        input_scale = np.asarray(seen.input_scale)[input_bits - 1]
        zero = int(np.asarray(seen.input_zero)[input_bits - 1])
        u, margin = to_levels(x, input_scale, zero, input_bits)
        ties = min(ties, margin if index else ties)
        if index == 0:
            sums = conv_sums(u, levels, zero, groups)
        else:
            sums = np.zeros((1, len(u), columns), np.int64)
            for m, c in np.ndindex(len(u), columns):
                sums[0, m, c] = sum(
                    int(a) * int(b) for a, b in zip(u[m], levels[0, :, c], strict=True)
                )

        plain = np.float64(input_scale) * scale  # [γ, C]
        windows = sums.shape[1] // len(x) * len(training)  # those of the training images come first
        if recover:
            values = sums[:, :windows].astype(np.float64)
            mean, deviation = values.mean(axis=1), values.std(axis=1)
            multiplier = np.zeros((gamma, columns))
            for g, c in np.ndindex(gamma, columns):
                if deviation[g, c] > 0:
                    ratio = np.asarray(seen.output_deviation)[g, c] / (deviation * plain)[g, c]
                    multiplier[g, c] = plain[g, c] * min(max(ratio, 0.5), 2.0)
            multiplier = fixed16(multiplier)
            offset = fixed16(np.asarray(seen.output_mean) - multiplier * mean)
        else:
            multiplier = fixed16(plain)
            offset = fixed16(-multiplier * zero * levels.sum(axis=1))
        y = multiplier.astype(np.float32)[:, None] * sums.astype(np.float32)
        y += offset.astype(np.float32)[:, None]
        y = y.swapaxes(0, 1).reshape(len(x), -1, gamma * columns)
        if index == 0:
            x = np.maximum(y + params["bias"], 0).reshape(len(x), -1)
        else:
            x = y[:, 0] + params["shift"]

        survivors = [int(alive[g, group].sum()) for g, group in np.ndindex(alive.shape[:2])]
        slices = math.ceil(weight_bits / CELL)
        count = sum(math.ceil(s * slices / WIDTH) for s in survivors)
        slots = (17 // HEIGHT) * (13 // WIDTH)
        all_levels.append(levels)
        all_sums.append(sums[:, windows:])
        all_survivors.append(survivors)
        units.append(count)
        crossbars.append(max(1, math.ceil(count / slots)))
    logits = x[len(training) :]
    return Reference(all_levels, all_sums, logits, all_survivors, units, crossbars, ties)


# --- against the reference ---------------------------------------------------------------------


@functools.cache
def compiled(network: Network, recovery: Recovery) -> Any:
    """(subject, policy) -> the compressed layers, their accumulators, logits."""

    def run(subject: Subject, policy: Policy) -> Any:
        compressed = compress(
            network,
            subject.params,
            subject.plan,
            subject.statistics,
            subject.moment_images,
            CELLS,
            recovery,
            policy,
        )
        sums = {}

        def record(index: int, product: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
            layer = compressed[index]
            sums[index] = accumulate(layer, product, x)
            y = layer.multiplier[:, None] * sums[index].astype(jnp.float32) + layer.offset[:, None]
            return product.fold(y)

        forward(network, subject.params, subject.images, record)
        logits = apply(network, subject.params, compressed, subject.images)
        return compressed, [sums[0], sums[1]], logits

    return jax.jit(run)


@pytest.mark.parametrize("recover", [True, False], ids=["moments", "plain"])
@pytest.mark.parametrize("choices", POLICIES, ids=str)
def test_integers_are_those_of_the_reference(case: Case, choices: Any, recover: bool) -> None:
    expected = reference_of(case.groups, choices, recover)
    assert expected.from_ties > 2e-5  # else the last bit of a float decides
    compressed, sums, logits = compiled(case.network, Recovery(match_moments=recover))(
        case.subject, policy_of(choices)
    )
    for index in range(2):
        np.testing.assert_array_equal(compressed[index].levels, expected.levels[index])
        np.testing.assert_array_equal(sums[index], expected.sums[index])
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4)


@pytest.mark.parametrize("choices", POLICIES, ids=str)
def test_counts_are_those_of_the_reference(case: Case, choices: Any) -> None:
    expected = reference_of(case.groups, choices, False)
    tables = tables_of(case.network, case.subject.plan)
    policy = jax.tree.map(np.asarray, policy_of(choices))
    counts = crossbar.look_up_counts(tables, CHIP, policy.level, policy.weight_bits)
    assert counts.outputs.tolist() == [sum(layer) for layer in expected.survivors]
    assert counts.units.tolist() == expected.units
    assert counts.crossbars.tolist() == expected.crossbars


def test_the_zero_point_of_the_images_matters(case: Case) -> None:
    assert (case.subject.statistics[0].input_zero[1:] > 0).all()  # from two bits on
    np.testing.assert_array_equal(case.subject.statistics[1].input_zero, np.zeros(8))


def test_statistics_are_those_of_the_float_network(case: Case) -> None:
    """Outputs of the convolution before its bias, by NumPy, over all 20 training images."""
    weights = extract_matrices(case.network, case.params)
    outputs: dict[int, Any] = {}

    def record(index: int, product: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
        del weight
        outputs[index] = np.asarray(product.unfold(x) @ weights[index], np.float64)
        return product.fold(jnp.asarray(outputs[index], jnp.float32))

    forward(case.network, case.params, case.images, record)
    for index, seen in enumerate(case.subject.statistics):
        np.testing.assert_allclose(seen.output_mean, outputs[index].mean(axis=1), atol=1e-5)
        np.testing.assert_allclose(seen.output_deviation, outputs[index].std(axis=1), rtol=1e-3)


def test_matched_channels_have_the_float_moments(case: Case) -> None:
    """On the images that they were matched on, where no scale is clipped."""
    subject = case.subject._replace(images=case.subject.moment_images)
    compressed, sums, _ = compiled(case.network, Recovery(max_scale=1e6))(
        subject, policy_of(POLICIES[1])
    )
    for layer, values, seen in zip(compressed, sums, subject.statistics, strict=True):
        output = np.asarray(layer.multiplier)[:, None] * values + np.asarray(layer.offset)[:, None]
        alive = np.asarray(layer.multiplier) > 0
        assert alive.any()
        np.testing.assert_allclose(output.mean(axis=1), seen.output_mean, atol=2e-3)
        deviation = output.std(axis=1)
        np.testing.assert_allclose(deviation[alive], seen.output_deviation[alive], rtol=2e-3)
        np.testing.assert_array_equal(deviation[~alive], 0)


def test_a_pruned_channel_takes_its_float_mean() -> None:
    """At the last level only a few column-vectors are left."""
    case = build(1)
    compressed, _, _ = compiled(case.network, RECOVERY)(case.subject, policy_of(POLICIES[4]))
    empty = (np.asarray(compressed[0].levels) == 0).all(axis=1)
    assert empty.any()
    np.testing.assert_array_equal(compressed[0].multiplier[empty], 0)
    mean = case.subject.statistics[0].output_mean
    np.testing.assert_allclose(compressed[0].offset[empty], mean[empty], atol=2e-4)


# --- loop, map, vmap, jit ----------------------------------------------------------------------


def evaluate(subject: Subject, policy: Policy) -> Any:
    TRACES.append(policy)
    return Evaluator(build(1).network, CELLS, RECOVERY, CHUNK)(subject, policy)


TRACES: list[Policy] = []
RUN = jax.jit(evaluate)


def test_accuracy_and_divergence_by_hand() -> None:
    """12 images in chunks of 5, 5 and 2."""
    case = build(1)
    choices = POLICIES[1]
    scored = RUN(case.subject, policy_of(choices))
    expected = reference_of(case.groups, choices, True)
    right = (expected.logits.argmax(axis=-1) == np.asarray(case.subject.labels)).mean()
    assert scored.accuracy == pytest.approx(right)
    p, q = (np.exp(np.float64(logits)) for logits in (case.subject.reference, expected.logits))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    divergence = (p * np.log(p / q)).sum(axis=1).mean()
    assert scored.divergence == pytest.approx(divergence, rel=1e-3)
    assert (scored.slots, scored.crossbars) == (
        sum(expected.units),
        sum(expected.crossbars),
    )


def test_eight_bits_are_near_the_float_network(case: Case) -> None:
    """On calibration images: others may lie outside the calibrated range."""
    images = case.subject.moment_images
    run = compiled(case.network, Recovery(match_moments=False))
    _, _, logits = run(case.subject._replace(images=images), policy_of([(0, 8, 8)] * 2))
    expected = np.asarray(model(case.groups, case.params, images))
    assert 0 < np.abs(logits - expected).max() < 0.03 * np.abs(expected).max()


def test_loop_map_vmap_agree_with_one_trace() -> None:
    subject = build(1).subject
    RUN(subject, policy_of(POLICIES[0]))
    TRACES.clear()
    each = [RUN(subject, policy_of(choices)) for choices in POLICIES]
    assert not TRACES  # the policy is traced: whatever its levels and bits, one program
    looped = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    assert len(set(looped.slots.tolist())) > 2  # the policies differ
    mapped = jax.jit(lambda s, p: lax.map(lambda in_loop: evaluate(s, in_loop), p))(subject, BATCH)
    batched = jax.jit(jax.vmap(evaluate, (None, 0)))(subject, BATCH)
    for name in looped._fields:
        in_loop, in_map = getattr(looped, name), getattr(mapped, name)
        assert in_loop.dtype == in_map.dtype
        np.testing.assert_array_equal(in_map, in_loop, err_msg=name)
        if name in ("accuracy", "crossbars", "slots"):
            np.testing.assert_array_equal(getattr(batched, name), in_loop, err_msg=name)
        else:
            np.testing.assert_allclose(getattr(batched, name), in_loop, rtol=1e-3, err_msg=name)
