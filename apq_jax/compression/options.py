"""Options of planning, moment matching and fine-tuning."""

import dataclasses

from apq_jax.compression import pruning
from apq_jax.system.fields import define_choice, define_range


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """How a Plan is made. Static."""

    # K keep levels, geometric from 1 to min_keep; one level prunes nothing.
    levels: int = define_range(32, 1, 256)
    min_keep: float = define_range(0.02, 0.001, 1.0)  # least keep ratio
    # obs uses H⁻¹ of all rows at every level, instead of the survivors' alone.
    score: pruning.Score = define_choice("obs", pruning.SCORES)
    compensate: bool = True
    centre: bool = True  # fits the output except for its mean, which moment matching restores
    iterations: int = define_range(10, 1, 1000)  # of conjugate gradients at each level
    # Sweeps over the levels of up to four bits, before and after their scale is set: `rounding`.
    sweeps: int = define_range(2, 0, 100)
    # Added to the Gram matrix, relative to its mean diagonal.
    damping: float = define_range(0.01, 1e-6, 10.0)


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How a compressed layer's output moments are matched to the float layer's. Static."""

    match_moments: bool = True
    # The matching scale is clipped to [1 / max_scale, max_scale].
    max_scale: float = define_range(2.0, 1.0, 100.0)
    scale_bits: int = define_range(16, 8, 24)  # of an output's fixed-point scale and shift


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
    """How a compressed network is fine-tuned under its masks and bits. Static."""

    steps: int = define_range(1000, 1, 10_000_000)  # at most
    batch: int = define_range(64, 1, 100_000)
    rate: float = define_range(3e-2, 0.0, 10.0)  # Adam's, in levels; decays to 0 by a cosine
    # Rate of multipliers and offsets, in units of each layer's largest.
    affine_rate: float = define_range(2e-3, 0.0, 10.0)
    # Of the softmax of the float network's and the compressed network's logits.
    temperature: float = define_range(4.0, 0.1, 100.0)
    # Weight of the labels' cross entropy; the float network's logits have the rest.
    label_weight: float = define_range(0.25, 0.0, 1.0)
    look: int = define_range(50, 1, 1_000_000)  # steps between two looks at the validation loss
    patience: int = define_range(10, 1, 1_000_000)  # looks without gain before training ends
    seconds: float = define_range(0.0, 0.0, 1e7)  # seconds before training ends; 0: no limit
