"""Options of planning, moment matching and fine-tuning."""

import dataclasses

from apq_jax.compression import pruning
from apq_jax.system.fields import choice, ranged


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """How a Plan is made. Static."""

    levels: int = ranged(
        32, 1, 256
    )  # K keep levels, geometric from 1 to min_keep; 1 prunes nothing
    min_keep: float = ranged(0.02, 0.001, 1.0)  # least keep ratio
    # obs scores with H⁻¹ of all rows at every level, not of the survivors alone.
    score: pruning.Score = choice("obs", pruning.SCORES)
    compensate: bool = True
    centre: bool = True  # fit the output up to a constant, which moment matching restores
    iterations: int = ranged(10, 1, 1000)  # of conjugate gradients at each level
    # Added to the Gram matrix, relative to its mean diagonal.
    damping: float = ranged(0.01, 1e-6, 10.0)


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How a compressed layer's output moments are matched to the float layer's. Static."""

    match_moments: bool = True
    # The matching scale is clipped to [1 / max_scale, max_scale].
    max_scale: float = ranged(2.0, 1.0, 100.0)
    scale_bits: int = ranged(16, 8, 24)  # of an output's fixed-point scale and shift


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
    """How a policy's network is trained on under its masks and bits. Static."""

    steps: int = ranged(1000, 1, 10_000_000)  # most steps
    batch: int = ranged(64, 1, 100_000)
    rate: float = ranged(3e-2, 0.0, 10.0)  # Adam's, in levels; falls to 0 by a cosine
    # Rate of multipliers and offsets, in parts of each layer's largest.
    affine_rate: float = ranged(2e-3, 0.0, 10.0)
    temperature: float = ranged(4.0, 0.1, 100.0)  # of the float network's and the learner's logits
    # Weight of the labels' cross entropy; the float logits have the rest.
    label_weight: float = ranged(0.25, 0.0, 1.0)
    look: int = ranged(50, 1, 1_000_000)  # steps between two looks at the validation loss
    patience: int = ranged(10, 1, 1_000_000)  # ends after so many looks without gain
    seconds: float = ranged(0.0, 0.0, 1e7)  # ends after so many seconds; 0: never
