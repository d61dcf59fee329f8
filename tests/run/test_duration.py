"""What is said of a run's length before it begins."""

import dataclasses

import pytest

from apq_jax.compression.options import FinetuneOptions
from apq_jax.config import Config, SearchOptions
from apq_jax.run import duration
from apq_jax.types import Layer

LENET = (
    Layer("conv1", 1, 25, 6, 28 * 28, (5, 5), (1, 1)),
    Layer("conv2", 1, 150, 16, 10 * 10, (5, 5), (1, 1)),
    Layer("fc", 1, 400, 120, 1, (), ()),
)
CONFIG = Config(
    search=SearchOptions(episodes=100, seeds=2, moment_images=100, tuned=3),
    finetune=FinetuneOptions(steps=1000, batch=64),
)


def test_multiplications_are_those_of_all_positions() -> None:
    assert [layer.multiplications for layer in LENET] == [117_600, 240_000, 48_000]


def test_a_run_is_its_layers_its_policies_and_its_steps() -> None:
    # 10 + 3 x 8, 200 policies of 500 images each, 3,000 steps of 64 images.
    policies = 200 * (0.04 + 5e-11 * 500 * 405_600)
    steps = 3000 * (0.02 + 2e-10 * 64 * 405_600)
    seconds = duration.predict_seconds(LENET, CONFIG, images=400, rounds=False)
    assert seconds == pytest.approx(34 + policies + steps)
    later = duration.predict_seconds(LENET, CONFIG, images=400, rounds=False, done=150)
    assert later == pytest.approx(34 + policies / 4 + steps)
    untuned = dataclasses.replace(CONFIG, search=dataclasses.replace(CONFIG.search, tuned=0))
    assert duration.predict_seconds(LENET, untuned, images=400, rounds=True) == pytest.approx(
        34 + 10 * policies
    )


def test_minutes_from_two_on() -> None:
    assert [duration.format_seconds(seconds) for seconds in (48.4, 119.4, 119.6, 1234.0)] == [
        "48 s",
        "119 s",
        "2 min",
        "21 min",
    ]
