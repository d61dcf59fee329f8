"""Predicts how long a run takes on two cores, from the multiplications of its network."""

from collections.abc import Sequence

from apq_jax.config import Config
from apq_jax.types import Layer

# Seconds, fitted to runs of LeNet-5, VGG-8 and ResNet-20; the longest took twice the prediction.
_A_RUN, _A_LAYER = 10.0, 8.0  # most of them compile
_A_POLICY, _A_PRODUCT = 0.04, 5e-11  # an evaluation, and each multiplication in it
_A_STEP, _A_TUNED_PRODUCT = 0.02, 2e-10  # a step of fine-tuning, and each multiplication in it
_ROUNDED = 10.0  # factor of an evaluation's seconds if converters round


def predict_seconds(
    layers: Sequence[Layer], config: Config, images: int, rounds: bool, done: int = 0
) -> float:
    """Predicts the seconds from planning to report, on two CPU cores.

    Args:
      layers: the network's.
      config: the run's options.
      images: how many images a policy is evaluated on.
      rounds: whether converters give fewer bits than an analogue sum has.
      done: evaluations, of all seeds together, that the checkpoint holds.
    """
    search, tuning = config.search, config.finetune
    work = sum(layer.multiplications for layer in layers)
    policy = _A_POLICY + _A_PRODUCT * work * (images + search.moment_images)
    step = _A_STEP + _A_TUNED_PRODUCT * work * tuning.batch
    return (
        _A_RUN
        + _A_LAYER * len(layers)
        + (search.episodes * search.seeds - done) * policy * (_ROUNDED if rounds else 1.0)
        + search.tuned * tuning.steps * step
    )


def format_seconds(seconds: float) -> str:
    """Formats a duration in whole seconds, "48 s", or from two minutes on in minutes, "21 min"."""
    return f"{seconds:.0f} s" if round(seconds) < 120 else f"{seconds / 60:.0f} min"
