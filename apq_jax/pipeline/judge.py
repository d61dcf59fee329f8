"""Judges the policies of a search: objective, expected accuracy, limits."""

from typing import NamedTuple

import jax
import numpy as np

from apq_jax import metrics
from apq_jax.pipeline.prepared import Prepared
from apq_jax.problem import environment, pareto
from apq_jax.strategies.loop import Record

_expected_accuracy = jax.jit(environment.expected_accuracy)
_log_ratios, _shortfall = jax.jit(environment.log_ratios), jax.jit(environment.shortfall)


class Judged(NamedTuple):
    """The worth of N evaluated policies, on the host."""

    gain: np.ndarray  # [N] Σ_m weight_m ln(dense_m / cost_m), with the objective's weights
    expected_accuracy: np.ndarray  # [N] on the search images
    points_lost: np.ndarray  # [N] percentage points of expected accuracy below the float network
    feasible: np.ndarray  # [N] bool: expected accuracy and costs meet the search's limits


def judge(prepared: Prepared, record: Record) -> Judged:
    """Judges every policy of a record; `take` selects some of them afterwards."""
    problem, objective = prepared.problem, prepared.config.objective
    weights = np.asarray([getattr(objective, name) for name in metrics.METRICS])
    ratios = np.asarray(_log_ratios(problem, record.evaluation), np.float64)
    expected = np.asarray(_expected_accuracy(problem, record.evaluation))
    return Judged(
        gain=ratios @ (weights / weights.sum()),
        expected_accuracy=expected,
        points_lost=100.0 * (float(problem.float_accuracy) - expected),
        feasible=np.asarray(_shortfall(problem, record.evaluation)) == 0,
    )


def take(judged: Judged, indices: np.ndarray) -> Judged:
    """Selects the policies at `indices`."""
    return Judged(*(values[indices] for values in judged))


def find_knee(judged: Judged) -> int:
    """Returns the index of the knee of the front of gain and expected accuracy."""
    return pareto.find_knee(judged.gain, -judged.points_lost, pareto.MIN_GAIN, -pareto.MAX_LOST)
