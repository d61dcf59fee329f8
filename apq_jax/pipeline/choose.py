"""Chooses which of the evaluated policies is the result, by its accuracy on the selection images.

Without fine-tuning, the finalists are measured, and the best that meets the limits wins. With goal
cost and fine-tuning (`search.tuned`), the search may lose `search.headroom` points more than the
limit allows, and policies beyond the limit are fine-tuned to find the cheapest that then meets it.
Bisection finds it, because a cheaper policy on the front of cost and expected accuracy loses more.
"""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.compression import finetune, plan_cache
from apq_jax.compression.compressed import Compressed
from apq_jax.compression.finetune import Images
from apq_jax.compression.plan import expand_weight_masks
from apq_jax.data import Dataset
from apq_jax.data.scoring import compute_accuracy
from apq_jax.models import training
from apq_jax.models.options import Training
from apq_jax.pipeline import measure
from apq_jax.pipeline.judge import (
    Judged,
    collect_limited,
    find_knee,
    judge,
    measure_worth,
    take,
)
from apq_jax.pipeline.prepared import Prepared, evaluate_many, remove_headroom, restore_fractions
from apq_jax.problem import pareto
from apq_jax.strategies.loop import Record
from apq_jax.system import pytrees
from apq_jax.types import Policy

SCHEMA = 1  # of the file of a fine-tuning, and of the code that resumes it

# (how many policies are done, steps of this one, its least loss) -> whether to stop
Progress = Callable[[int, int, float], bool]


class Tuned(NamedTuple):
    """The result of fine-tuning one policy."""

    place: int  # the policy's place in the record
    steps: int
    seconds: float
    loss_before: float  # `finetune`'s loss on the search images
    loss: float
    accuracy: float  # on the selection images
    meets_limit: bool
    finished: bool  # False: stopped before its last step


class Choice(NamedTuple):
    """A policy, its compressed network, and their accuracies, fractions of 1."""

    place: int  # the policy's place in the record
    policy: Policy  # [L] fields, on the host
    compressed: Compressed
    fine_tuned: bool  # whether `compressed` is fine-tuned
    finalists: int  # how many policies were compared before fine-tuning
    search_accuracy: float  # on the search images
    accuracy: float  # on the selection images
    float_accuracy: float  # of the float network, on the selection images
    misses: tuple[pareto.Miss, ...]  # limits that it does not meet on the selection images
    tuned: tuple[Tuned, ...] = ()  # every policy that was fine-tuned, in order

    @property
    def meets_limit(self) -> bool:
        """Returns whether the policy meets all limits."""
        return not self.misses


def choose(
    prepared: Prepared,
    record: Record,
    dataset: Dataset,
    on_progress: Progress | None = None,
    cache: pathlib.Path | None = None,
) -> Choice:
    """Chooses among the best finalist and at most `search.tuned` fine-tuned policies.

    Of the policies that meet the limits on the selection images, it returns the one of most gain
    (goal cost) or of most accuracy (goals accuracy and front). If none meets the limits, it returns
    the nearest. With goal front, only the knee is measured and fine-tuned.

    Args:
      prepared: from `prepare`.
      record: every evaluation of the search.
      dataset: training images fine-tune, search images say when to stop, selection images choose.
      on_progress: called after every look of `finetune`; if it returns True, fine-tuning ends, and
        the choice is among the policies so far.
      cache: folder of fine-tuned networks. A policy that is there is not fine-tuned again, and an
        unfinished one resumes; None keeps none.

    Returns:
      The choice, whose `tuned` has every policy that was fine-tuned.

    Raises:
      InputError: the cache cannot be written.
    """
    judged, options = judge(prepared, record), prepared.config.search
    untuned = choose_untuned(prepared, record, dataset)
    if not options.tuned:
        return untuned
    choices, by_cost, tuned = [untuned], options.goal == "cost", list[Tuned]()
    candidates = _list_candidates(prepared, record, judged, untuned)
    low, high = 0, len(candidates)  # below `low` the limits are met, from `high` on they are not
    while low < high and len(tuned) < options.tuned and all(row.finished for row in tuned):
        middle = (low + high) // 2 if by_cost else low
        progress = None if on_progress is None else functools.partial(on_progress, len(tuned))
        place = int(candidates[middle])
        choice = _fine_tune(prepared, record, dataset, untuned, place, progress, cache)
        choices.append(choice)
        tuned += choice.tuned
        low, high = (low, middle) if by_cost and not choice.meets_limit else (middle + 1, high)
    accuracy = np.asarray([choice.accuracy for choice in choices])
    places = np.asarray([choice.place for choice in choices])
    limited = collect_limited(prepared, record, untuned.float_accuracy, places, accuracy)
    keys = (-accuracy, -judged.gain[places]) if by_cost else (-accuracy,)
    best = int(np.lexsort((*keys, pareto.shortfall(*limited)))[0])
    return choices[best]._replace(tuned=tuple(tuned))


def choose_untuned(prepared: Prepared, record: Record, dataset: Dataset) -> Choice:
    """Returns the best finalist as a `Choice`; fine-tunes no policy. Arguments as in `choose`."""
    place, count, accuracy, float_accuracy, misses = find_best_finalist(prepared, record, dataset)
    policy, score = jax.tree.map(lambda x: x[place], (record.policy, record.evaluation.accuracy))
    search_accuracy = float(restore_fractions(score, len(dataset.search_labels)))
    compressed = measure.compressed(prepared, policy)
    return Choice(
        place, policy, compressed, False, count, search_accuracy, accuracy, float_accuracy, misses
    )


class Finalist(NamedTuple):
    """A policy before fine-tuning, measured on the selection images; accuracies are fractions."""

    place: int  # the policy's place in the record
    finalists: int  # how many policies were compared
    accuracy: float  # on the selection images
    float_accuracy: float  # of the float network, on the selection images
    misses: tuple[pareto.Miss, ...]  # limits that it does not meet on the selection images


def find_best_finalist(prepared: Prepared, record: Record, dataset: Dataset) -> Finalist:
    """Measures at most `search.finalists` policies on the selection images; returns the best.

    The best policy meets the limits, or is the nearest, with the most accuracy (goal accuracy) or
    the most gain. With goal front, the knee is the only finalist.
    """
    config, judged = prepared.config.search, judge(prepared, record)
    if config.goal == "front":
        places = np.asarray([find_knee(judged)])
    else:
        distinct = pareto.find_distinct(record.policy)
        gain, expected, *_ = take(judged, distinct)
        benefit = expected if config.goal == "accuracy" else gain
        evaluated = jax.tree.map(lambda x: x[distinct], record.evaluation)
        _, _, short = measure_worth(remove_headroom(prepared), evaluated)
        places = distinct[pareto.choose_finalists(benefit, expected, short, config.finalists)]
    policies = jax.tree.map(lambda x: x[places], record.policy)
    images, labels = dataset.select_images, dataset.select_labels
    evaluated, float_accuracy = evaluate_many(prepared, policies, images, labels)
    accuracy = restore_fractions(evaluated.accuracy, len(labels))
    limited = collect_limited(prepared, record, float_accuracy, places, accuracy)
    benefit = accuracy if config.goal == "accuracy" else judged.gain[places]
    order = np.argsort(-benefit, kind="stable")
    best = int(order[np.argmin(pareto.shortfall(*limited)[order])])
    misses = pareto.find_misses(*limited, best)
    return Finalist(int(places[best]), len(places), float(accuracy[best]), float_accuracy, misses)


def _list_candidates(
    prepared: Prepared, record: Record, judged: Judged, untuned: Choice
) -> np.ndarray:
    """Returns the places in the record of the policies worth fine-tuning, most accurate first.

    Goal cost: the untuned choice and the front's cheaper policies, spread evenly over the
    objective, as many as bisection can tell apart. Goal accuracy: the untuned choice and the most
    accurate policies within the limits. Goal front: the untuned choice.
    """
    options, first = prepared.config.search, untuned.place
    if options.goal == "front":
        return np.asarray([first])
    distinct = pareto.find_distinct(record.policy)
    gain, accuracy, _, feasible = take(judged, distinct)
    if options.goal == "accuracy":
        places = distinct[feasible][np.argsort(-accuracy[feasible], kind="stable")]
        return np.asarray([first, *places[places != first][: options.tuned - 1]])
    if untuned.meets_limit:
        feasible = feasible & (gain > judged.gain[first])
    front = pareto.find_pareto_front(gain[feasible], accuracy[feasible])
    places = distinct[feasible][front][::-1]
    max_count = 2**options.tuned - 2  # with the untuned choice, all that bisection tells apart
    if len(places) > max_count:
        gains = judged.gain[places]  # rising
        wanted = np.linspace(gains[0], gains[-1], max_count)
        places = places[np.unique(np.abs(gains[:, None] - wanted).argmin(axis=0))]
    return np.asarray([first, *places])


def _fine_tune(
    prepared: Prepared,
    record: Record,
    dataset: Dataset,
    untuned: Choice,
    place: int,
    on_progress: Callable[[int, float], bool] | None,
    cache: pathlib.Path | None,
) -> Choice:
    """Fine-tunes and measures the policy at a place in the record."""
    start, config = time.perf_counter(), prepared.config
    policy = jax.tree.map(lambda x: x[place], record.policy)
    masks = expand_weight_masks(prepared.subject.plan, policy)
    before = measure.compressed(prepared, policy)
    bits, params = jnp.asarray(policy.weight_bits), prepared.subject.params
    path = None
    if cache is not None:
        values = pytrees.compute_digest((params, before, masks, bits))
        options = config.finetune, config.recovery, config.training, config.seed
        data = dataset.fingerprint("train"), dataset.fingerprint("search")
        model = plan_cache.identify_model(prepared.network, params)
        identity = (SCHEMA, *model, values, *options, *data)
        path = plan_cache.locate_file(cache / "finetuned", identity)
    compressed, tuning = finetune.finetune(
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
        augment=build_augment(config.training) if dataset.train_images.ndim == 4 else None,
        on_progress=on_progress,
        path=path,
    )
    run = functools.partial(measure.compute_logits, prepared, compressed)
    search_accuracy = compute_accuracy(run(dataset.search_images), dataset.search_labels)
    accuracy = compute_accuracy(run(dataset.select_images), dataset.select_labels)
    limited = collect_limited(prepared, record, untuned.float_accuracy, [place], [accuracy])
    misses = pareto.find_misses(*limited, 0)
    seconds = time.perf_counter() - start
    losses = float(tuning.before), float(tuning.loss)
    finished = finetune.is_finished(tuning, config.finetune)
    tuned = Tuned(place, int(tuning.step), seconds, *losses, accuracy, not misses, finished)
    return untuned._replace(
        place=place,
        policy=policy,
        compressed=compressed,
        fine_tuned=True,
        search_accuracy=search_accuracy,
        accuracy=accuracy,
        misses=misses,
        tuned=(tuned,),
    )


@functools.lru_cache(maxsize=16)  # because `finetune` compiles once for each augment object
def build_augment(options: Training) -> finetune.Augment | None:
    """Returns the augmentation that the network was trained with, one object for equal options.

    None if it changes nothing: then fine-tuning runs the float network once an image.
    """
    if not options.max_shift and not options.flip:
        return None
    return functools.partial(training.augment, max_shift=options.max_shift, flip=options.flip)
