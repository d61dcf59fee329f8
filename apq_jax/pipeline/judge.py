"""Judges the policies of a search by objective, expected accuracy and limits."""

from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from apq_jax import metrics
from apq_jax.pipeline.prepared import Prepared, collect_limits
from apq_jax.problem import environment, pareto
from apq_jax.problem.environment import Problem
from apq_jax.strategies.loop import Record
from apq_jax.types import Evaluation

_STEP = 1024  # policies are filled up to a multiple, so that a growing record compiles once


class Judged(NamedTuple):
    """The worth of N evaluated policies, on the host."""

    gain: np.ndarray  # [N] Σ_m weight_m ln(dense_m / cost_m), with the objective's weights
    expected_accuracy: np.ndarray  # [N] on the search images
    points_lost: np.ndarray  # [N] percentage points of expected accuracy below the float network
    feasible: np.ndarray  # [N] bool: expected accuracy and costs meet the search's limits


def judge(prepared: Prepared, record: Record) -> Judged:
    """Computes the objective, the expected accuracy and the feasibility of every policy: [N] each.

    A weight of the objective counts as a share of the sum of all weights.
    """
    problem, objective = prepared.problem, prepared.config.objective
    weights = np.asarray([getattr(objective, name) for name in metrics.METRICS])
    ratios, expected, shortfall = measure_worth(problem, record.evaluation)
    return Judged(
        gain=ratios.astype(np.float64) @ (weights / weights.sum()),
        expected_accuracy=expected,
        points_lost=100.0 * (float(problem.float_accuracy) - expected),
        feasible=shortfall == 0,
    )


def measure_worth(
    problem: Problem, evaluation: Evaluation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns N evaluations' log ratios [N, M], expected accuracies and shortfalls, [N] each."""
    count = len(evaluation.accuracy)
    size = -(-count // _STEP) * _STEP
    padded = jax.tree.map(lambda x: np.resize(x, size), evaluation)
    return jax.tree.map(lambda x: np.asarray(x)[:count], _measure(problem, padded))


@jax.jit
def _measure(problem: Problem, evaluation: Evaluation) -> tuple[jax.Array, jax.Array, jax.Array]:
    return (
        environment.log_ratios(problem, evaluation),
        environment.expected_accuracy(problem, evaluation),
        environment.shortfall(problem, evaluation),
    )


def take(judged: Judged, indices: np.ndarray) -> Judged:
    """Returns the judgements of the policies at `indices` only, in the order of `indices`."""
    return Judged(*(values[indices] for values in judged))


def find_knee(judged: Judged) -> int:
    """Returns the index of the knee of the front of gain and expected accuracy.

    `pareto.find_knee` says which policy it is if none is above the reference.
    """
    return pareto.find_knee(judged.gain, -judged.points_lost, pareto.MIN_GAIN, -pareto.MAX_LOST)


def collect_limited(
    prepared: Prepared,
    record: Record,
    float_accuracy: float,
    places: ArrayLike,
    accuracy: ArrayLike,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Returns the values that limits bound, and the limits of the result, both by name.

    They are the arguments of `pareto.shortfall` and `pareto.find_misses`.

    Args:
      prepared: from `prepare`.
      record: every evaluation of the search.
      float_accuracy: the float network's, a fraction of 1.
      places: [N] ints, the policies' places in the record, which has their costs.
      accuracy: [N], the policies' accuracies on the images of `float_accuracy`.
    """
    costs = {name: getattr(record.evaluation, name)[places] for name in metrics.METRICS}
    drop = 100.0 * (float_accuracy - np.asarray(accuracy))
    return {"accuracy_drop": drop, **costs}, collect_limits(prepared.config)
