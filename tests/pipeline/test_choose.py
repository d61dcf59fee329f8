"""Which policy is the result: bisection by hand, limits, what is kept between runs."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from helpers.small import SMALL, network

import apq_jax
from apq_jax.compression.options import FinetuneOptions, PlanOptions
from apq_jax.config import Config, Limits, SearchOptions
from apq_jax.data import Dataset
from apq_jax.data.scoring import compute_accuracy
from apq_jax.pipeline import choose, judge, measure, stages
from apq_jax.pipeline.choose import Choice
from apq_jax.pipeline.prepared import Prepared, remove_headroom, run_float
from apq_jax.problem import pareto
from apq_jax.strategies.loop import Record

CONFIG = Config(
    plan=PlanOptions(6, 0.1),
    search=SearchOptions(
        strategy="random",
        episodes=48,
        parallel=8,
        probes=2,
        moment_images=20,
        chunk=20,
        max_accuracy_drop=10.0,
        headroom=70.0,
        tuned=4,
        finalists=4,
    ),
    finetune=FinetuneOptions(steps=4, batch=8, look=2),
)


@functools.cache
def run_search(**changes: Any) -> tuple[Prepared, Record, Dataset]:
    captured, params, noise = network(1)
    # The float network's own answers are the labels: all that is lost is lost by compression.
    labels = {
        f"{part}_labels": np.asarray(
            run_float(captured, params, getattr(noise, f"{part}_images"), noise.train_labels)[
                2
            ].argmax(axis=-1),
            np.int32,
        )
        for part in ("train", "search", "select", "test")
    }
    dataset = dataclasses.replace(noise, **labels)
    config = dataclasses.replace(CONFIG, search=dataclasses.replace(CONFIG.search, **changes))
    if config.search.goal == "accuracy":
        config = dataclasses.replace(config, limits=Limits(slots=20.0))
    prepared = apq_jax.prepare(captured, params, dataset, SMALL, config)
    return prepared, stages.joined(stages.search_policies(prepared)), dataset


def test_the_search_may_lose_more_than_the_result() -> None:
    prepared, record, _ = run_search()
    assert prepared.problem.min_accuracy == pytest.approx(1.0 - 0.8)
    assert remove_headroom(prepared).min_accuracy == pytest.approx(1.0 - 0.1)
    prepared, _, _ = run_search(tuned=0)
    assert prepared.problem.min_accuracy == pytest.approx(1.0 - 0.1)
    assert remove_headroom(prepared).min_accuracy == pytest.approx(1.0 - 0.1)
    assert len(record.reward) == 48


def test_the_search_goes_to_the_limit_with_less_and_less_headroom() -> None:
    prepared, _, _ = run_search()

    def drops(**changes: Any) -> tuple[list[float], list[int]]:
        search = dataclasses.replace(CONFIG.search, **{"strategy": "genetic"} | changes)
        config = dataclasses.replace(CONFIG, search=search)
        parts = stages.build_stages(prepared._replace(config=config))
        lost = [float(x.problem.float_accuracy - x.problem.min_accuracy) for x in parts]
        return lost, [stage.budget for stage in parts]

    assert drops(episodes=50) == (pytest.approx([0.8, 0.45, 0.1]), [16, 17, 17])
    assert drops(strategy="random") == (pytest.approx([0.8]), [48])  # limits are nothing to it
    assert len(drops(tuned=0)[0]) == len(drops(headroom=0.0)[0]) == 1


def test_candidates_are_the_front_from_the_plain_choice_on() -> None:
    prepared, record, dataset = run_search()
    untuned = choose.choose_untuned(prepared, record, dataset)
    judged = judge.judge(prepared, record)
    places = choose._list_candidates(prepared, record, judged, untuned)
    assert places[0] == untuned.place
    gain, accuracy = judged.gain, judged.expected_accuracy
    assert (np.diff(gain[places[1:]]) > 0).all()
    assert (np.diff(accuracy[places[1:]]) < 0).all()
    assert (accuracy[places[1:]] >= 0.2 - 1e-6).all()
    if untuned.meets_limit:
        assert (gain[places[1:]] > gain[untuned.place]).all()
    allowed = np.flatnonzero(accuracy >= 0.2)
    front = set(allowed[pareto.find_pareto_front(gain[allowed], accuracy[allowed])])
    assert set(places[1:]) <= front


@pytest.mark.parametrize("meets", range(8))
def test_bisection_finds_the_last_that_meets_the_limit(
    meets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven, rising in gain and loss, the first `meets` lose less than the limit."""
    prepared, record, dataset = run_search(tuned=3)
    gain = judge.judge(prepared, record).gain
    _, order = np.unique(gain, return_index=True)  # rising
    places = order[np.linspace(0, len(order) - 1, 7).astype(int)]
    monkeypatch.setattr(choose, "_list_candidates", lambda *_: places)
    asked: list[int] = []

    def fine_tune(
        prepared: Any, record: Any, dataset: Any, untuned: Choice, place: int, *_: Any
    ) -> Choice:
        index = places.tolist().index(place)
        asked.append(index)
        accuracy = 0.99 - 0.001 * index - (0.5 if index >= meets else 0.0)
        row = choose.Tuned(place, 4, 0.0, 1.0, 0.5, accuracy, index < meets, True)
        missed = () if index < meets else (pareto.Miss("accuracy_drop", 50.0, 10.0),)
        return untuned._replace(place=place, accuracy=accuracy, misses=missed, tuned=(row,))

    monkeypatch.setattr(choose, "_fine_tune", fine_tune)
    choice = choose.choose(prepared, record, dataset)
    assert len(asked) == len(set(asked)) <= 3
    assert asked[0] == 3
    assert [row.place for row in choice.tuned] == places[asked].tolist()
    untuned = choose.choose_untuned(prepared, record, dataset)
    if meets:
        best = places[meets - 1]
        better = untuned.meets_limit and gain[untuned.place] > gain[best]
        assert choice.place == (untuned.place if better else best)


def test_nothing_is_fine_tuned_where_none_is_asked_for() -> None:
    prepared, record, dataset = run_search(tuned=0)
    choice = choose.choose(prepared, record, dataset)
    untuned = choose.choose_untuned(prepared, record, dataset)
    assert choice.place == untuned.place
    assert not choice.fine_tuned
    assert choice.tuned == ()
    jax.tree.map(
        np.testing.assert_array_equal,
        choice.compressed,
        measure.compressed(prepared, choice.policy),
    )


def test_what_is_kept_is_not_done_again(tmp_path: pathlib.Path) -> None:
    prepared, record, dataset = run_search()
    calls: list[tuple[int, int]] = []

    def progress(policies: int, steps: int, loss: float) -> bool:
        calls.append((policies, steps))
        return False

    first = choose.choose(prepared, record, dataset, progress, tmp_path)
    assert calls == [(index, steps) for index in range(len(first.tuned)) for steps in (2, 4)]
    assert 1 <= len(first.tuned) <= 4
    files = sorted((tmp_path / "finetuned").iterdir())
    assert len(files) == len(first.tuned)
    calls.clear()
    again = choose.choose(prepared, record, dataset, progress, tmp_path)
    assert not calls
    assert again.place == first.place
    jax.tree.map(np.testing.assert_array_equal, again.compressed, first.compressed)
    # Other options, other files.
    config = dataclasses.replace(CONFIG.finetune, rate=1e-2)
    other = prepared._replace(config=dataclasses.replace(prepared.config, finetune=config))
    choose.choose(other, record, dataset, progress, tmp_path)
    assert calls
    assert set(files) < set((tmp_path / "finetuned").iterdir())


def test_where_it_is_told_to_stop_what_there_is_is_chosen_from() -> None:
    prepared, record, dataset = run_search()
    choice = choose.choose(prepared, record, dataset, lambda *_: True)
    (tuned,) = choice.tuned
    assert (tuned.steps, tuned.finished) == (2, False)
    accuracy = compute_accuracy(
        measure.compute_logits(prepared, choice.compressed, dataset.select_images),
        dataset.select_labels,
    )
    assert choice.accuracy == accuracy


def test_for_accuracy_the_most_accurate_within_the_limits_are_tuned() -> None:
    prepared, record, dataset = run_search(goal="accuracy", tuned=3)
    choice = choose.choose(prepared, record, dataset)
    assert len(choice.tuned) == 3
    places = [row.place for row in choice.tuned]
    accuracy = judge.judge(prepared, record).expected_accuracy
    assert accuracy[places[1]] >= accuracy[places[2]]
    assert (record.evaluation.slots[places] <= 20).all()
    untuned = choose.choose_untuned(prepared, record, dataset)
    assert choice.accuracy == max(untuned.accuracy, *(row.accuracy for row in choice.tuned))


def test_of_a_front_the_knee() -> None:
    prepared, record, dataset = run_search(goal="front")
    choice = choose.choose(prepared, record, dataset)
    assert choice.place == judge.find_knee(judge.judge(prepared, record))
    assert len(choice.tuned) == 1
