"""What the policies of a search are worth: objective, expected accuracy, limits."""

import jax
import numpy as np

from apq_jax import metrics
from apq_jax.pipeline.prepared import Prepared
from apq_jax.problem import environment, pareto
from apq_jax.strategies.loop import Record

_expected_accuracy = jax.jit(environment.expected_accuracy)
_log_ratios, _shortfall = jax.jit(environment.log_ratios), jax.jit(environment.shortfall)


def expected_accuracy(prepared: Prepared, record: Record) -> np.ndarray:
    """Of every policy of a record on the search images, [N]."""
    return np.asarray(_expected_accuracy(prepared.problem, record.evaluation))


def feasible(prepared: Prepared, record: Record) -> np.ndarray:
    """Which policies of a record meet the limits, by expected accuracy: [N] bool."""
    return np.asarray(_shortfall(prepared.problem, record.evaluation)) == 0


def gain(prepared: Prepared, record: Record) -> np.ndarray:
    """Σ_m weight_m ln(dense_m / cost_m) with the weights of `config.objective`, [N]."""
    objective = prepared.config.objective
    weights = np.asarray([getattr(objective, name) for name in metrics.METRICS])
    ratios = np.asarray(_log_ratios(prepared.problem, record.evaluation), np.float64)
    return ratios @ (weights / weights.sum())


def lost(prepared: Prepared, record: Record) -> np.ndarray:
    """Points of expected accuracy below the float network, [N]."""
    return 100.0 * (float(prepared.problem.float_accuracy) - expected_accuracy(prepared, record))


def knee(prepared: Prepared, record: Record) -> int:
    """The knee of the front of `gain` and expected accuracy: its place in the record."""
    points = gain(prepared, record), -lost(prepared, record)
    return pareto.knee(*points, pareto.LEAST_GAIN, -pareto.MOST_LOST)
