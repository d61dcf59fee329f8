"""Pieces of a network against the whole, and evaluations that remember against those that don't."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from apq_jax.compression import converters, evaluator
from apq_jax.compression.calibration import calibrate
from apq_jax.compression.evaluator import (
    ENTRIES,
    Evaluator,
    Memory,
    Subject,
    compute_chunk_size,
    place_cuts,
    score_policies,
)
from apq_jax.compression.options import PlanOptions, Recovery
from apq_jax.compression.plan import build_plan
from apq_jax.compression.prices import build_prices, move_to_device
from apq_jax.hardware import preset
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.mapping import schemes
from apq_jax.network import segments
from apq_jax.network.capture import Network, capture, compute_float_logits, extract_matrices
from apq_jax.types import Evaluation, Policy

LEVELS, CHUNK, LAYERS = 3, 4, 4


class Skips(nn.Module):
    """Four layers; the first two are passed by, so that two values live across a cut."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(3, (3, 3), name="conv1")(x))
        y = nn.relu(nn.Conv(3, (3, 3), name="conv2")(x))
        x = nn.max_pool(x + y, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        return nn.Dense(3, name="fc2")(nn.relu(nn.Dense(3, name="fc1")(x)))


@functools.cache
def build() -> tuple[Network, Subject, Evaluator]:
    """Two chunks of images, and two images more."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8 + 2 * CHUNK + 2, 6, 6, 1)).astype(np.float32)
    params = jax.jit(Skips().init)(jax.random.key(0), images[:1])
    network = capture(Skips().apply, params, images[:2])
    weights = extract_matrices(network, params)
    accelerator = preset("isaac_ou")
    statistics = calibrate(network, params, weights, images[:8], 4)
    blocks = schemes.build_blocks(network.layers, "column_vector", accelerator)
    plan = build_plan(weights, statistics, blocks, PlanOptions(levels=LEVELS, min_keep=0.3))
    masks = [np.asarray(layer.mask) for layer in plan]
    tables = schemes.tabulate_counts(network.layers, masks, "column_vector", accelerator, 8)
    prices = build_prices(network.layers, tables, accelerator.chip(), 8, 8)
    scored = images[8:]
    reference = np.asarray(compute_float_logits(network, params, scored))
    labels = reference.argmax(axis=-1).astype(np.int32)
    subject = Subject(
        params, plan, statistics, move_to_device(prices), images[:8], scored, labels, reference
    )
    return (
        network,
        subject,
        Evaluator(network, converters.get_cells(accelerator), Recovery(), CHUNK),
    )


def drawn(seed: int, count: int, removed: int = 3) -> Policy:
    """Policies [count, L] of so few choices that many begin alike."""
    rng = np.random.default_rng(seed)
    draw = functools.partial(rng.integers, size=(count, LAYERS))
    fields = draw(0, LEVELS), draw(9 - removed, 9), draw(9 - removed, 9)
    return Policy(*(x.astype(np.int32) for x in fields))


def with_moments(moments: bool) -> Evaluator:
    return dataclasses.replace(build()[2], recovery=Recovery(match_moments=moments))


@functools.cache
def plainly(moments: bool) -> Evaluation:
    """Each policy from the images on."""
    policies, compiled = drawn(0, 3 * ENTRIES), jax.jit(with_moments(moments))
    evaluations = [
        compiled(build()[1], Policy(*(x[index] for x in policies[:3])))
        for index in range(len(policies[0]))
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *evaluations)


def test_pieces_make_the_whole() -> None:
    network, subject, _ = build()
    x = subject.images
    expected = jax.jit(Skips().apply)(subject.params, x)
    # Of an image: 36 pixels of 3 channels, which go in and pass by at once; 27 pooled; 3.
    each = {
        cut: size // (4 * len(x))
        for cut, size in segments.measure_cuts(network, subject.params, x).items()
    }
    assert each == {1: 108, 2: 27, 3: 3}
    split = segments.split(network, subject.params, x, (1, 3))
    weights = extract_matrices(network, subject.params)
    ran: list[list[int]] = []

    def multiply(index: int, product: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
        ran[-1].append(index)
        return product.fold(product.multiply(x, weights[index]))

    @jax.jit
    def run(params: Any, x: jax.Array) -> jax.Array:
        data = [x]
        for piece in range(3):
            ran.append([])
            data = split.run(piece, network, params, data, multiply)
        return data[0]

    logits = run(subject.params, x)
    assert ran == [[0], [1, 2], [3]]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_weight_that_is_used_twice_is_not_parted() -> None:
    params = {"a": np.eye(3), "b": np.ones((3, 3)), "c": np.ones((3, 2))}
    params = {name: value.astype(np.float32) for name, value in params.items()}

    def model(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["a"] @ params["b"] @ params["a"] @ params["c"]

    network = capture(model, params, np.ones((2, 3), np.float32))
    x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    assert list(segments.measure_cuts(network, params, x)) == [2]
    with pytest.raises(ValueError, match=r"cuts \(1,\): allowed are some of \[2\]"):
        segments.split(network, params, x, (1,))


@pytest.mark.parametrize(
    ("cuts", "moments"), [((), False), ((1,), False), ((3,), True), ((1, 2, 3), True)]
)
def test_what_is_remembered_changes_nothing(cuts: tuple[int, ...], moments: bool) -> None:
    """Bit for bit, whatever came before, in another program to a part in a thousand.

    A cut is kept with and without moments, and each number of cuts is met. Moments are only more
    data of the same memory.
    """
    subject = build()[1]
    evaluate = dataclasses.replace(with_moments(moments), cuts=cuts)
    policies = drawn(0, 3 * ENTRIES)
    remembered = score_policies(evaluate, subject, policies)
    backwards = score_policies(evaluate, subject, jax.tree.map(lambda x: x[::-1], policies))
    for name, values, other in zip(remembered._fields, remembered, backwards, strict=True):
        np.testing.assert_array_equal(values, other[::-1], err_msg=name)
    alone = plainly(moments)
    np.testing.assert_array_equal(remembered.accuracy, alone.accuracy)
    np.testing.assert_array_equal(remembered.slots, alone.slots)
    np.testing.assert_allclose(remembered.divergence, alone.divergence, rtol=1e-3)


@pytest.mark.parametrize(("remainder", "chunk"), [(0, 1), (2, 1000)])
def test_chunks_and_a_remainder(remainder: int, chunk: int) -> None:
    """Two chunks, with and without images that are left over, are one chunk or many."""
    _, subject, evaluate = build()
    count = 2 * CHUNK + remainder
    images, labels, reference = (
        x[:count] for x in (subject.images, subject.labels, subject.reference)
    )
    subject = subject._replace(images=images, labels=labels, reference=reference)
    evaluate = dataclasses.replace(evaluate, cuts=(2,))
    policies = drawn(1, 4)
    evaluations = score_policies(evaluate, subject, policies)
    other = score_policies(dataclasses.replace(evaluate, chunk=chunk), subject, policies)
    np.testing.assert_array_equal(evaluations.accuracy, other.accuracy)
    np.testing.assert_allclose(evaluations.divergence, other.divergence, rtol=1e-4)


@functools.cache
def count_pieces(cuts: tuple[int, ...], entries: int) -> tuple[list[int], Any, Memory]:
    """The pieces that ran so far, the compiled `recall` that adds to them, and an empty memory."""
    _, subject, evaluate = build()
    evaluate, advance = dataclasses.replace(evaluate, cuts=cuts), Evaluator._advance
    ran: list[int] = []

    def counted(of: Evaluator, parts: Any, piece: int, *rest: Any) -> Any:
        jax.debug.callback(lambda: ran.append(piece))
        return advance(of, parts, piece, *rest)

    zeros = jax.ShapeDtypeStruct((LAYERS,), jnp.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "ENTRIES", entries)
        memory = jax.jit(evaluate.create_memory)(subject)
        patch.setattr(Evaluator, "_advance", counted)
        lowered = jax.jit(evaluate.recall).lower(
            memory, subject, Policy(zeros, zeros, zeros), jax.ShapeDtypeStruct((), bool)
        )
    return ran, lowered.compile(), memory


class Counted:
    """Runs one evaluation at a time and says how many pieces it took."""

    def __init__(self, cuts: tuple[int, ...], entries: int = ENTRIES) -> None:
        self.subject = build()[1]
        self.ran, self.run, self.memory = count_pieces(cuts, entries)

    def __call__(self, choices: list[int], wanted: bool = True) -> tuple[list[int], Evaluation]:
        """One keep level a layer."""
        bits = np.full(LAYERS, 8, np.int32)
        policy = Policy(np.asarray(choices, np.int32), bits, bits)
        self.ran.clear()
        self.memory, evaluation = self.run(self.memory, self.subject, policy, np.asarray(wanted))
        jax.effects_barrier()
        return sorted(self.ran), evaluation


def test_a_policy_starts_from_the_deepest_layer_that_is_there() -> None:
    run = Counted((1, 3))
    assert run([0, 0, 0, 0])[0] == [0, 1, 2]
    assert run([0, 0, 0, 1])[0] == [2]  # other than the last layer all is there
    assert run([0, 1, 0, 1])[0] == [1, 2]  # the first layer
    assert run([1, 1, 0, 1])[0] == [0, 1, 2]  # nothing
    assert run([0, 1, 0, 2])[0] == [2]
    ran, evaluation = run([2, 2, 2, 2], wanted=False)
    assert ran == []
    assert all(x == 0 for x in evaluation)
    assert run([2, 2, 2, 2])[0] == [0, 1, 2]  # it left nothing


def test_what_was_of_use_last_stays() -> None:
    run = Counted((1,), entries=2)
    for first in (0, 1, 0, 2):  # 2 takes the place of 1
        run([first, 0, 0, 0])
    assert run([0, 1, 0, 0])[0] == [1]
    assert run([2, 1, 0, 0])[0] == [1]
    assert run([1, 1, 0, 0])[0] == [0, 1]


def test_cuts_spare_what_they_can() -> None:
    """The plain rule, in Python: a piece is run where no policy before began alike up to it."""
    run, seen = Counted((1, 3)), set()
    for choices in np.random.default_rng(0).integers(0, 2, (30, LAYERS)).tolist():
        deepest = max((cut for cut in (1, 3) if tuple(choices[:cut]) in seen), default=0)
        assert run(choices)[0] == [piece for piece, cut in enumerate((0, 1, 3)) if cut >= deepest]
        seen |= {tuple(choices[:cut]) for cut in (1, 3) if cut > deepest}


def test_where_activations_are_kept() -> None:
    """By hand: multiplications of a layer, and bytes at each cut of one image."""
    network, subject, _ = build()
    work = [layer.weights * layer.positions for layer in network.layers]
    assert work == [9 * 3 * 36, 27 * 3 * 36, 27 * 3, 3 * 3]
    # Found with 0.95, 0.95 * 0.72, ...: a cut at 2 spares 0.684 of 3888 multiplications of 3978;
    # one at 1, too, 0.266 more of the first 972.
    saved = evaluator._estimate_saving(work, (1, 2))
    assert saved == pytest.approx((0.95 * 972 + 0.684 * 2916) / 3978)
    every = 100 * ENTRIES * 4  # bytes of a float of 100 images
    assert place_cuts(network, subject.params, 100, every * (108 + 27)) == (1, 2)
    assert place_cuts(network, subject.params, 100, every * (108 + 27) - 1) == (2,)
    assert place_cuts(network, subject.params, 100, every * 27 - 1) == (3,)
    assert place_cuts(network, subject.params, 100, every * 3 - 1) == ()
    assert place_cuts(network, subject.params, 100, 0) == ()


def test_images_at_a_time_fit() -> None:
    """VGG-16's first layers: 1024 positions of 576 windows and 64 sums, 1344 bytes each."""
    layers = WORKLOADS["vgg16"]
    network = build()[0]
    assert (
        compute_chunk_size(dataclasses.replace(network, layers=layers))
        == 2**27 // (1024 * 1344)
        == 97
    )
    assert compute_chunk_size(network) == 500
    assert compute_chunk_size(
        dataclasses.replace(network, layers=WORKLOADS["alexnet"])
    ) == 2**27 // (55**2 * (363 + 12 * 64))
