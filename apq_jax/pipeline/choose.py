"""Which of the evaluated policies is the result; the selection images decide.

Without fine-tuning, finalists are measured, and the best that meets the limits wins. With it
(`search.tuned`) the search was let lose `search.headroom` more than is allowed, and policies beyond
the limit are fine-tuned to find the cheapest that then meets it. Along the front of cost and
expected accuracy a cheaper policy loses more, hence by bisection.
"""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax import metrics
from apq_jax.compression import finetune, plan_cache
from apq_jax.compression.compressed import Compressed
from apq_jax.compression.finetune import Images
from apq_jax.compression.plan import weight_masks
from apq_jax.data import Dataset
from apq_jax.data.scoring import accuracy as accuracy_of
from apq_jax.models import training
from apq_jax.models.options import Training
from apq_jax.pipeline.judge import Judged, find_knee, judge, take
from apq_jax.pipeline.measure import compressed, logits_of
from apq_jax.pipeline.prepared import (
    Prepared,
    asked,
    evaluate_many,
    limits_of,
    quotient,
    scored,
)
from apq_jax.problem import environment, pareto
from apq_jax.strategies.loop import Record
from apq_jax.system import pytrees
from apq_jax.types import Policy

SCHEMA = 1  # of a kept fine-tuning, and of the code that goes on from it


# (which policy, steps done, loss of the best) -> whether to stop
Progress = Callable[[int, int, float], bool]


class Tuned(NamedTuple):
    """What fine-tuning a policy gave."""

    number: int  # its place in the record
    steps: int
    seconds: float
    loss_before: float  # finetune's, on the search images
    loss: float
    accuracy: float  # on the selection images
    meets_limit: bool
    finished: bool  # or was stopped


class Choice(NamedTuple):
    """The policy that was chosen, and what the selection images said of it."""

    number: int  # its place in the record
    policy: Policy  # [L] fields, on the host
    network: Compressed
    fine_tuned: bool  # whether the network is
    finalists: int  # how many there were
    search_accuracy: float  # on the search images
    accuracy: float  # on the selection images
    float_accuracy: float
    misses: tuple[pareto.Miss, ...]  # limits that it does not meet there
    tuned: tuple[Tuned, ...] = ()  # every policy that was, in that order

    @property
    def meets_limit(self) -> bool:
        """Whether it meets all."""
        return not self.misses


def choose(
    prepared: Prepared,
    record: Record,
    dataset: Dataset,
    on_progress: Progress | None = None,
    cache: pathlib.Path | None = None,
) -> Choice:
    """The best policy that meets the limits on the selection images.

    The best is the cheapest, or the most accurate where that is the goal; of a front, the knee.
    Where none meets the limits, the nearest. At most `search.tuned` policies are fine-tuned.

    Args:
      prepared: as it was searched.
      record: all that was evaluated.
      dataset: training images fine-tune, the search half says when to stop, the selection half
        chooses.
      on_progress: called now and then; where it returns True fine-tuning ends, and what there is
        is chosen from.
      cache: a folder that keeps fine-tuned networks: none is fine-tuned twice, and what was cut
        off goes on.
    """
    judged = judge(prepared, record)
    plain = _choose_untuned(prepared, record, judged, dataset)
    options, found = prepared.config.search, [plain]
    tuned: list[Tuned] = []
    numbers = _worth_tuning(prepared, record, judged, plain) if options.tuned else np.zeros(0, int)
    low, high = 0, len(numbers)  # below `low` the limits are met, from `high` on they are not
    while low < high and len(tuned) < options.tuned and all(one.finished for one in tuned):
        at = (low + high) // 2 if options.goal == "cost" else low
        progress = None if on_progress is None else functools.partial(on_progress, len(tuned))
        one = _fine_tuned(prepared, record, dataset, plain, int(numbers[at]), progress, cache)
        found.append(one)
        tuned += one.tuned
        low, high = (at + 1, high) if one.meets_limit or options.goal != "cost" else (low, at)
    accuracy = np.asarray([one.accuracy for one in found])
    of_found = np.asarray([one.number for one in found])
    benefit = judged.gain[of_found]
    measured = _measured(prepared, record, plain.float_accuracy, of_found, accuracy)
    short = pareto.shortfall(*measured)
    keys = (-accuracy,) if options.goal != "cost" else (-accuracy, -benefit)
    return found[int(np.lexsort((*keys, short))[0])]._replace(tuned=tuple(tuned))


def _measured(
    prepared: Prepared,
    record: Record,
    float_accuracy: float,
    numbers: np.ndarray,
    accuracy: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What limits may hold for, by name, of policies by number in the record; and the limits."""
    costs = {name: getattr(record.evaluation, name)[numbers] for name in metrics.METRICS}
    drop = 100.0 * (float_accuracy - accuracy)
    return {"accuracy_drop": drop, **costs}, limits_of(prepared.config)


def untuned(prepared: Prepared, record: Record, dataset: Dataset) -> Choice:
    """The best of the finalists as they are, as `choose` has it."""
    return _choose_untuned(prepared, record, judge(prepared, record), dataset)


def _choose_untuned(prepared: Prepared, record: Record, judged: Judged, dataset: Dataset) -> Choice:
    best = _best_finalist(prepared, record, judged, dataset)
    policy = jax.tree.map(lambda x: x[best.number], record.policy)
    return Choice(
        best.number,
        policy,
        compressed(prepared, policy),
        False,
        best.finalists,
        float(quotient(record.evaluation.accuracy[best.number], len(dataset.search_labels))),
        best.accuracy,
        best.float_accuracy,
        best.misses,
    )


class Finalist(NamedTuple):
    """A policy as the selection images see it before any fine-tuning."""

    number: int  # its place in the record
    finalists: int  # how many there were
    accuracy: float  # on the selection images
    float_accuracy: float
    misses: tuple[pareto.Miss, ...]  # limits that it does not meet there


def best_finalist(prepared: Prepared, record: Record, dataset: Dataset) -> Finalist:
    """The best of `search.finalists` policies that the selection images are shown."""
    return _best_finalist(prepared, record, judge(prepared, record), dataset)


def _best_finalist(
    prepared: Prepared, record: Record, judged: Judged, dataset: Dataset
) -> Finalist:
    config = prepared.config.search
    if config.goal == "front":
        numbers = np.asarray([find_knee(judged)])
    else:
        new = pareto.find_distinct(record.policy)
        of_new = take(judged, new)
        accuracy = of_new.expected_accuracy
        benefit = accuracy if config.goal == "accuracy" else of_new.gain
        evaluated = jax.tree.map(lambda x: x[new], record.evaluation)
        short = np.asarray(environment.shortfall(asked(prepared), evaluated))
        numbers = new[pareto.choose_finalists(benefit, accuracy, short, config.finalists)]
    policies = jax.tree.map(lambda x: x[numbers], record.policy)
    seen = scored(
        prepared.network, prepared.subject.params, dataset.select_images, dataset.select_labels
    )
    accuracies = evaluate_many(prepared, policies, *seen).accuracy
    found = quotient(accuracies, len(dataset.select_labels))
    float_accuracy = accuracy_of(seen[2], dataset.select_labels)
    measured, limits = _measured(prepared, record, float_accuracy, numbers, found)
    benefit = found if config.goal == "accuracy" else judged.gain[numbers]
    order = np.argsort(-benefit, kind="stable")
    place = int(order[np.argmin(pareto.shortfall(measured, limits)[order])])
    misses = pareto.find_misses(measured, limits, place)
    return Finalist(int(numbers[place]), len(numbers), float(found[place]), float_accuracy, misses)


def _worth_tuning(prepared: Prepared, record: Record, judged: Judged, plain: Choice) -> np.ndarray:
    """Places in the record of what may be fine-tuned, the most accurate first.

    To find the cheapest, what is on the front from the plain choice on: as many as bisection tells
    apart, evenly over the objective. For accuracy, the most accurate within the limits.
    """
    options = prepared.config.search
    if options.goal == "front":
        return np.asarray([plain.number])
    new = pareto.find_distinct(record.policy)
    worth, accuracy, _, meets = take(judged, new)
    if options.goal == "accuracy":
        numbers = new[meets][np.argsort(-accuracy[meets], kind="stable")]
        return np.asarray([plain.number, *numbers[numbers != plain.number][: options.tuned - 1]])
    if plain.meets_limit:
        meets = meets & (worth > judged.gain[plain.number])
    numbers = new[meets][pareto.find_pareto_front(worth[meets], accuracy[meets])][::-1]
    most = 2**options.tuned - 2
    if len(numbers) > most:
        rising = judged.gain[numbers]
        wanted = np.linspace(rising[0], rising[-1], most)
        numbers = numbers[np.unique(np.abs(rising[:, None] - wanted).argmin(axis=0))]
    return np.asarray([plain.number, *numbers])


def _fine_tuned(
    prepared: Prepared,
    record: Record,
    dataset: Dataset,
    plain: Choice,
    number: int,
    on_progress: Callable[[int, float], bool] | None,
    cache: pathlib.Path | None,
) -> Choice:
    """The policy of this number in the record, fine-tuned and measured."""
    start, config = time.perf_counter(), prepared.config
    policy = jax.tree.map(lambda x: x[number], record.policy)
    masks = weight_masks(prepared.subject.plan, policy)
    before = compressed(prepared, policy)
    bits, params = jnp.asarray(policy.weight_bits), prepared.subject.params
    path = None
    if cache is not None:
        values = pytrees.digest((params, before, masks, bits))
        options = config.finetune, config.recovery, config.training, config.seed
        data = dataset.fingerprint("train"), dataset.fingerprint("search")
        model = plan_cache.model_identity(prepared.network, params)
        path = plan_cache.file(cache / "finetuned", (SCHEMA, *model, values, *options, *data))
    network, tuning = finetune.finetune(
        prepared.network,
        params,
        before,
        masks,
        bits,
        Images(jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)),
        Images(jnp.asarray(dataset.search_images), jnp.asarray(dataset.search_labels)),
        jax.random.key(config.seed),
        config.finetune,
        scale_bits=config.recovery.scale_bits,
        augment=augment_of(config.training) if dataset.train_images.ndim == 4 else None,
        on_progress=on_progress,
        path=path,
    )
    searched, accuracy = (
        accuracy_of(logits_of(prepared, network, images), labels)
        for images, labels in (
            (dataset.search_images, dataset.search_labels),
            (dataset.select_images, dataset.select_labels),
        )
    )
    one = plain._replace(
        number=number,
        policy=policy,
        network=network,
        fine_tuned=True,
        search_accuracy=searched,
        accuracy=accuracy,
    )
    place, alone = np.asarray([number]), np.asarray([accuracy])
    measured = _measured(prepared, record, plain.float_accuracy, place, alone)
    misses = pareto.find_misses(*measured, 0)
    took = time.perf_counter() - start
    losses = float(tuning.before), float(tuning.loss)
    done = finetune.finished(tuning, config.finetune)
    tuned = Tuned(number, int(tuning.step), took, *losses, accuracy, not misses, done)
    return one._replace(misses=misses, tuned=(tuned,))


@functools.lru_cache(maxsize=16)  # the same object for the same options: compiled once
def augment_of(options: Training) -> finetune.Augment:
    """What training did to its images."""
    return functools.partial(training.augment, max_shift=options.max_shift, flip=options.flip)
