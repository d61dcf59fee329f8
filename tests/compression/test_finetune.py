"""Fine-tuning: what runs is the integer network, what comes out stays in its masks and bits."""

import contextlib
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from helpers import ROOT
from helpers.case import CELLS, RECOVERY, Case, build

from apq_jax.compression import finetune
from apq_jax.compression.compressed import Compressed, apply, compress
from apq_jax.compression.finetune import Images, Tuning
from apq_jax.compression.options import FinetuneOptions
from apq_jax.compression.plan import expand_weight_masks
from apq_jax.network.capture import compute_float_logits
from apq_jax.system import pytrees
from apq_jax.system.signals import Terminated
from apq_jax.types import Policy

POLICY = Policy(*map(jnp.asarray, ([2, 3], [4, 1], [5, 4])))
OPTIONS = FinetuneOptions(steps=150, batch=20, rate=2e-2, look=25)
SHORT = FinetuneOptions(steps=12, batch=8, look=3, patience=99)
KILLED = FinetuneOptions(steps=300, batch=8, look=2, patience=10**6)


compute_logits = jax.jit(apply, static_argnums=0)
compress_case = jax.jit(compress, static_argnums=(0, 5, 6))


def masks_of(case: Case) -> tuple[jax.Array, ...]:
    return expand_weight_masks(case.subject.plan, POLICY)


def compressed_of(case: Case, policy: Policy = POLICY) -> Compressed:
    part = case.subject
    arrays = part.params, part.plan, part.statistics, part.moment_images
    return compress_case(case.network, *arrays, CELLS, RECOVERY, policy)


def images_of(case: Case) -> Images:
    logits = np.asarray(compute_float_logits(case.network, case.params, case.images))
    return Images(case.images, logits.argmax(axis=-1).astype(np.int32))


def tune(case: Case, options: FinetuneOptions = SHORT, **more: Any) -> tuple[Compressed, Tuning]:
    images = images_of(case)
    before = compressed_of(case), masks_of(case), POLICY.weight_bits
    arguments = case.params, *before, images, images, jax.random.key(0), options
    return finetune.finetune(case.network, *arguments, **more)


def same(tree: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.fixture(scope="module", params=[1, 2], ids=["plain", "grouped"])
def networks(request: Any) -> tuple[Case, Compressed, Compressed, Tuning]:
    """A case; its network before and after; where tuning ended."""
    case = build(request.param)
    return case, compressed_of(case), *tune(case, OPTIONS)


def divergence(case: Case, compressed: Compressed) -> float:
    logits = compute_logits(case.network, case.params, compressed, case.images)
    reference = compute_float_logits(case.network, case.params, case.images)
    log_p, log_q = (scipy.special.log_softmax(x, axis=1) for x in (logits, reference))
    return float((np.exp(log_q) * (log_q - log_p)).sum(axis=-1).mean())


def loss_of(case: Case, compressed: Compressed, options: FinetuneOptions) -> float:
    """The formula in NumPy."""
    heat, weight = options.temperature, options.label_weight
    images, labels = images_of(case)
    score = np.asarray(compute_logits(case.network, case.params, compressed, images), float)
    reference = np.asarray(compute_float_logits(case.network, case.params, images), float)
    log_p, log_q = (scipy.special.log_softmax(x / heat, axis=1) for x in (score, reference))
    gap = heat**2 * (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
    wrong = -scipy.special.log_softmax(score, axis=1)[np.arange(len(labels)), np.asarray(labels)]
    return float(np.mean((1 - weight) * gap + weight * wrong))


def test_it_comes_nearer_to_the_float_network(networks: Any) -> None:
    case, before, after, tuning = networks
    assert divergence(case, after) < 0.7 * divergence(case, before)
    assert loss_of(case, before, OPTIONS) == pytest.approx(float(tuning.before), rel=1e-4)
    assert loss_of(case, after, OPTIONS) == pytest.approx(float(tuning.loss), rel=1e-4)


def test_masks_bits_and_quantizers_stay(networks: Any) -> None:
    case, before, after, _ = networks
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


def test_where_nothing_is_gained_the_network_stays() -> None:
    """So what is learnt from is the integer network itself; and it ends early."""
    case, before = build(1), compressed_of(build(1))
    options = FinetuneOptions(100, 4, rate=0.0, affine_rate=0.0, look=2, patience=3)
    after, tuning = tune(case, options)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.levels, new.levels)
        np.testing.assert_allclose(old.multiplier, new.multiplier, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(old.offset, new.offset, rtol=1e-3, atol=1e-4)
    assert (tuning.step, tuning.stale, tuning.loss) == (6, 3, tuning.before)


def test_the_best_state_is_kept() -> None:
    """Steps far too long lose; what is returned has not lost."""
    case = build(1)
    options = FinetuneOptions(12, 4, rate=30.0, affine_rate=30.0, look=3, patience=2)
    after, tuning = tune(case, options)
    assert tuning.step == 6
    assert loss_of(case, after, options) == pytest.approx(float(tuning.before), rel=1e-3)


@pytest.mark.parametrize("adc_bits", [None, [3, 2]], ids=["lossless", "rounding"])
def test_what_is_learnt_from_is_what_is_measured(adc_bits: list[int] | None) -> None:
    case = build(2)
    converters = None if adc_bits is None else jnp.asarray(adc_bits)
    compressed = compressed_of(case, POLICY._replace(adc_bits=converters))
    fixed, learnt = finetune.split_learnt(compressed, masks_of(case), POLICY.weight_bits)

    @jax.jit
    def differentiate(learnt: Any) -> Any:
        def total(learnt: Any) -> tuple[jax.Array, jax.Array]:
            y = finetune.apply_learnt(case.network, case.params, fixed, learnt, case.images)
            return y.sum(), y

        return jax.grad(total, has_aux=True)(learnt)

    slopes, smooth = differentiate(learnt)
    exact = compute_logits(case.network, case.params, compressed, case.images)
    np.testing.assert_allclose(smooth, exact, atol=1e-4)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))


def test_any_optimiser_and_any_augmentation() -> None:
    case, seen = build(1), []
    optimiser = optax.sgd(0.03)

    def shift(key: jax.Array, images: jax.Array) -> jax.Array:
        seen.append(images.shape)  # at tracing
        return images + 0.01 * jax.random.normal(key, images.shape)

    _, usual = tune(case)
    _, tuning = tune(case, optimiser=optimiser, augment=shift)
    assert tuning.loss < tuning.before
    assert tuning.loss != usual.loss
    assert seen == [(8, 6, 6, 2)]


def test_what_was_cut_off_goes_on_to_the_same_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, path, calls = build(1), tmp_path / "a.safetensors", []
    whole = tune(case, path=path)
    again = tune(case, path=path, on_progress=lambda *_: calls.append(0) or False)
    assert not calls  # was read
    same(again, whole)

    def stop(steps: int, loss: float) -> bool:
        calls.append((steps, loss))
        return steps == 6

    monkeypatch.setattr(pytrees, "SAVE_SECONDS", 0.0)
    other = tmp_path / "b.safetensors"
    _, cut = tune(case, path=other, on_progress=stop)
    assert [steps for steps, _ in calls] == [3, 6]
    assert (cut.step, finetune.is_finished(cut, SHORT)) == (6, False)
    same(tune(case, path=other), whole)


@pytest.mark.parametrize("end", [KeyboardInterrupt, Terminated, None])
def test_what_is_stopped_loses_no_look(tmp_path: pathlib.Path, end: Any) -> None:
    """Although the file is due in 30 s only."""
    case, path = build(1), tmp_path / "a.safetensors"

    def stop(steps: int, loss: float) -> bool:
        if end is not None and steps == 6:
            raise end
        return steps == 6

    with contextlib.suppress(KeyboardInterrupt, Terminated):
        tune(case, path=path, on_progress=stop)
    seen: list[int] = []
    again = tune(case, path=path, on_progress=lambda steps, _: seen.append(steps))
    assert seen == [9, 12]
    same(again, tune(case))


def test_a_damaged_file_is_not_trusted(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    case, path = build(1), tmp_path / "a.safetensors"
    whole = tune(case, path=path)
    content = path.read_bytes()
    for damage in (content[: len(content) // 2], b"", content.replace(b'"step"', b'"stop"', 1)):
        path.write_bytes(damage)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="absl"):
            same(tune(case, path=path), whole)
        assert "made again" in caplog.text
        assert path.read_bytes() == content


def test_a_time_limit() -> None:
    options = FinetuneOptions(steps=10**6, batch=4, look=1, patience=10**6, seconds=0.2)
    _, tuning = tune(build(1), options)
    assert 1 <= tuning.step < 10**5
    assert finetune.is_finished(tuning, options)


def test_killed_in_the_middle(tmp_path: pathlib.Path) -> None:
    """SIGKILL while it writes its state at every look; then it goes on to the same end."""
    path = tmp_path / "a.safetensors"
    program = (
        "import sys, pathlib, test_finetune as t\nfrom apq_jax.system import cache, pytrees\n"
        "cache.open_cache(str(t.ROOT / '.cache'))\n"  # that of the compiled programs
        "pytrees.SAVE_SECONDS = 0.0\n"
        "t.tune(t.build(1), t.KILLED, path=pathlib.Path(sys.argv[1]))\n"
    )
    expected = tune(build(1), KILLED)
    folders = pathlib.Path(__file__).parent, ROOT / "tests", ROOT
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    process = subprocess.Popen([sys.executable, "-c", program, path], env=where)
    try:
        while process.poll() is None and not path.exists():
            time.sleep(0.01)
        time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    same(tune(build(1), KILLED, path=path), expected)


def test_logits_that_are_known_teach_as_those_of_each_batch() -> None:
    case = build(1)
    _, known = tune(case)
    _, computed = tune(case, augment=lambda key, images: images)
    np.testing.assert_allclose(known.loss, computed.loss, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), known.learnt, computed.learnt
    )
