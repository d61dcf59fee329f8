"""How long a run will take on two cores, foretold from what its network multiplies."""

from collections.abc import Sequence

from apq_jax.config import Config
from apq_jax.types import Layer

# Fitted to runs of LeNet-5, VGG-8 and ResNet-20, of which the longest took twice what is foretold.
_A_RUN, _A_LAYER = 10.0, 8.0  # seconds, most of them compiling
_A_POLICY, _A_PRODUCT = 0.04, 5e-11  # seconds of an evaluation; of each multiplication in it
_A_STEP, _A_TUNED_PRODUCT = 0.02, 2e-10  # seconds of a step of fine-tuning, likewise
_ROUNDED = 10.0  # times as long, where converters round


def foretold(
    layers: Sequence[Layer], config: Config, images: int, rounds: bool, done: int = 0
) -> float:
    """Seconds from planning to report.

    Args:
      layers: the network's.
      config: the run's.
      images: that a policy is evaluated on.
      rounds: whether converters give fewer bits than an analogue sum has.
      done: evaluations of a run that goes on.
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


def words(seconds: float) -> str:
    """In seconds, or in minutes from two of them on."""
    return f"{seconds:.0f} s" if round(seconds) < 120 else f"{seconds / 60:.0f} min"
